"""The view of forecasts: what was told for which time with its interval, what came, and how wrong it was by horizon."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import holoviews as hv
import numpy as np
import param

from agilab import codec
from agilab.errors import ArtifactNotFoundError
from agilab.run import Run
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.markup import PALETTE
from agilab_dashboards.views.base import View, png
from agilab_dashboards.views.raster import AXES, both, layered

MOST_ROWS = 1_000_000
"""How many rows of a partition are read."""
MOST_CHOICES = 500
"""How many series and moments can be chosen from."""
HEIGHT_PX = 300
_TOLD = ("issued", "time", "horizon_h", "forecast", "low", "high")
_TIMES = {"issued", "time"}
_OBSERVED = PALETTE[7]


def _choice(doc: str) -> Any:
    return param.Selector(default=None, objects=[], check_on_set=False, allow_None=True, doc=doc)


class Forecast(View):
    """One forecast beside what came, and how wrong all of them were by horizon."""

    series = _choice("Of which series; none for the first.")
    issued = _choice("From which moment on; none for the last of which something is known.")
    error = param.Selector(default="mae", objects=["mae", "rmse", "bias"], doc="How errors are put together.")

    kinds = ("forecast",)

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        numbers, times = set(_TOLD) - _TIMES, _TIMES
        able = source.is_table and numbers <= set(source.named("number")) and times <= set(source.named("time"))
        return source.kind in cls.kinds and able

    @classmethod
    def controls(cls, source: Dataset) -> tuple[codec.Field, ...]:
        rows = Rows.of(source)
        names, moments = rows.every_series[:MOST_CHOICES], [str(moment) for moment in rows.moments[-MOST_CHOICES:]]
        choices = {"series": (names, names[0]), "issued": (moments, str(rows.last_known))}
        found = []
        for field in cls.fields():
            options, default = choices.get(field.name, ([], None))
            known = default if default in options else next(iter(options), None)
            found.append(replace(field, default=known, constraints={"options": options}) if options else field)
        return tuple(field for field in found if field.name != "artifact")

    def draw(self, source: Dataset, frame: Frame) -> Any:
        rows = Rows.of(source)
        if not len(rows.time):
            raise ArtifactNotFoundError(f"{source.key} has no rows")
        name = self.series if self.series in rows.every_series else rows.every_series[0]
        mine = rows.where(rows.series == name)
        moments = {str(moment): moment for moment in mine.moments}
        moment = moments.get(self.issued or "", mine.last_known)
        label = source.column("forecast").label
        shown = [self._forecast(mine.where(mine.issued == moment), label, title=f"{name} from {moment}".strip())]
        if np.isfinite(rows.wrong).any():
            shown.append(self._errors(rows, source.column("horizon_h").label))
        return hv.Layout(shown).cols(1).opts(shared_axes=False, toolbar="right", backend="bokeh")

    def picture(self, run: Run, width_px: int = 800) -> bytes:
        """Return a PNG with the drawings one below the other, each as wide as asked for."""
        from PIL import Image

        source = self.source(run)
        panels = list(self.element(source, self.whole(source)))
        parts = [Image.open(io.BytesIO(png(panel, width_px, width_px * 2 // 5))) for panel in panels]
        whole = Image.new("RGB", (width_px, sum(part.height for part in parts)), "white")
        for place, part in enumerate(parts):
            whole.paste(part, (0, sum(one.height for one in parts[:place])))
        out = io.BytesIO()
        whole.save(out, "PNG")
        return out.getvalue()

    def _forecast(self, rows: Rows, label: str, *, title: str) -> Any:
        """Return interval, forecasts by method, and what came."""
        parts: list[Any] = []
        for place, (method, some) in enumerate(rows.by_method()):
            colour, sure = PALETTE[place % 6], np.isfinite(some.low) & np.isfinite(some.high)
            if sure.any():
                ends = (some.time[sure], some.low[sure], some.high[sure])
                area = hv.Area(ends, AXES[0], [AXES[1], "upper"], label=f"{method}: interval")
                area = area.opts(color=colour, alpha=0.2, line_alpha=0, backend="bokeh")
                parts.insert(0, area.opts(color=colour, alpha=0.2, linewidth=0, backend="matplotlib"))
            parts.append(_line((some.time, some.forecast), method, colour, bold=sure.any()))
        known = np.isfinite(rows.observed)
        if known.any():
            at, first = np.unique(rows.time[known], return_index=True)
            dots = hv.Scatter((at, rows.observed[known][first]), *AXES, label="observed")
            dots = dots.opts(color=_OBSERVED, size=5, backend="bokeh").opts(color=_OBSERVED, s=14, backend="matplotlib")
            parts.append(dots)
        return _panel(parts, title, xlabel="time [UTC]", ylabel=label)

    def _errors(self, rows: Rows, label: str) -> Any:
        """Return the error of each method by horizon, over all series and moments."""
        lines = []
        for place, (method, some) in enumerate(rows.by_method()):
            horizon, value = some.errors(self.error)
            if len(horizon):
                bold = bool(np.isfinite(some.low).any())
                lines.append(_line((horizon, value), method, PALETTE[place % 6], bold=bold))
        title = f"{self.error} by horizon, {int(np.isfinite(rows.wrong).sum()):,} forecasts"
        return _panel(lines, title, xlabel=label, ylabel=self.error)


@dataclass(frozen=True)
class Rows:
    """The rows of forecasts; arrays of one length."""

    issued: Any
    time: Any
    horizon: Any
    forecast: Any
    low: Any
    high: Any
    observed: Any
    method: Any
    series: Any

    @classmethod
    def of(cls, source: Dataset) -> Rows:
        """Read them; without methods, series or what came they are one method, one series, or unknown."""
        texts = [name for name in source.named("text") if name != "method"][:1]
        names = [one.name for one in source.columns if one.name in (*_TOLD, "observed", "method", *texts)]
        parts = list(source.parts(names, MOST_ROWS))
        columns = {name: np.concatenate([_array(part[name]) for part in parts]) for name in names}
        count = len(columns["time"])
        absent = np.full(count, np.nan)
        plain = {name: columns[name].astype(np.float64) for name in ("forecast", "low", "high")}
        return cls(
            **plain,
            issued=columns["issued"],
            time=columns["time"],
            horizon=columns["horizon_h"],
            observed=columns.get("observed", absent).astype(np.float64),
            method=columns.get("method", np.full(count, "forecast")).astype(str),
            series=(columns[texts[0]] if texts else np.full(count, "")).astype(str),
        )

    @property
    def wrong(self) -> Any:
        """Forecast less what came."""
        return self.forecast - self.observed

    @property
    def every_series(self) -> list[str]:
        return sorted(set(self.series.tolist())) or [""]

    @property
    def moments(self) -> Any:
        """When forecasts were made, sorted."""
        return np.unique(self.issued)

    @property
    def last_known(self) -> Any:
        """The last of them with something to hold it against, else the last."""
        known = self.issued[np.isfinite(self.wrong)]
        moments = known if len(known) else self.issued
        return moments.max() if len(moments) else None

    def where(self, kept: Any) -> Rows:
        return Rows(**{name: values[kept] for name, values in vars(self).items()})

    def by_method(self) -> Iterator[tuple[str, Rows]]:
        """Yield each method with its rows, in order of time; what has intervals comes first."""
        methods = sorted(set(self.method.tolist()))
        pairs = [(method, self.where(self.method == method)) for method in methods]
        for method, some in sorted(pairs, key=lambda pair: not np.isfinite(pair[1].low).any()):
            yield method, some.where(np.argsort(some.time, kind="stable"))

    def errors(self, how: str) -> tuple[Any, Any]:
        """Return horizons, and the error at each: ``"mae"``, ``"rmse"`` or ``"bias"``."""
        known = np.isfinite(self.wrong)
        horizon, place = np.unique(self.horizon[known], return_inverse=True)
        wrong = self.wrong[known]
        weights = {"mae": np.abs(wrong), "rmse": wrong**2, "bias": wrong}[how]
        mean = np.bincount(place, weights, len(horizon)) / np.bincount(place, minlength=len(horizon))
        return horizon, np.sqrt(mean) if how == "rmse" else mean


def _array(column: Any) -> Any:
    from pyarrow import types

    if types.is_timestamp(column.type):
        return column.cast("timestamp[ms]").to_numpy().astype("datetime64[s]")
    return column.to_numpy()


def _line(data: Any, label: str, colour: str, *, bold: bool) -> Any:
    curve = hv.Curve(data, *AXES, label=label)
    made = curve.opts(color=colour, line_width=2.5 if bold else 1.5, tools=["hover"], backend="bokeh")
    return made.opts(color=colour, linewidth=2.0 if bold else 1.2, backend="matplotlib")


def _panel(parts: list[Any], title: str, *, xlabel: str, ylabel: str) -> Any:
    made = both(layered(*parts), hover=True)
    kinds = {type(part).__name__ for part in parts}
    for kind in kinds:
        made = made.opts(getattr(hv.opts, kind)(height=HEIGHT_PX, backend="bokeh"))
    said = {"title": title, "xlabel": xlabel, "ylabel": ylabel}
    return made.opts(**said, height=HEIGHT_PX, backend="bokeh").opts(**said, backend="matplotlib")
