"""The view of training: numbers step by step, a line for each partition and one for their mean."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import param

from agilab.errors import ArtifactNotFoundError
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.markup import PALETTE
from agilab_dashboards.views.base import View, column
from agilab_dashboards.views.raster import AXES, both, layered

MOST_STEPS = 100_000
"""How many rows of a partition are read."""
MOST_LINES = 50
"""How many partitions have a line of their own beside the mean."""


class Training(View):
    """Curves of what was learned."""

    step = column("Column of steps.")
    values = param.ListSelector(
        default=[], objects=[], check_on_set=False, doc="Columns of numbers; none selected means all."
    )
    scale = param.Selector(default="linear", objects=["linear", "log"], doc="Axis of the numbers.")
    each = param.Boolean(True, doc="Whether partitions have a thin line each, beside their mean.")

    kinds = ("training",)
    needs = {"step": ("number",), "values": ("number",)}  # noqa: RUF012, as View declares it
    chosen = ("values",)

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        return source.kind in cls.kinds and source.is_table and len(source.named("number")) > 1

    def draw(self, source: Dataset, frame: Frame) -> Any:
        step = self.column_of(source, "step")
        names = [name for name in self.values if name in source.named("number")]
        names = names or [name for name in source.named("number") if name != step]
        parts = [part for part in _parts(source, [step, *names]) if len(part[step])]
        if not parts:
            raise ArtifactNotFoundError(f"{source.key} has no rows")
        lines = []
        for place, name in enumerate(names):
            colour = PALETTE[place % len(PALETTE)]
            if self.each and len(parts) > 1:
                thin = [(part[step], part[name]) for part in parts[:MOST_LINES]]
                lines += [_line(hv.Curve(one, *AXES), colour, thin=True) for one in thin]
            lines.append(_line(hv.Curve(_mean(parts, step, name), *AXES, label=name), colour))
        said = {"xlabel": source.column(step).label, "logy": self.scale == "log"}
        said["ylabel"] = source.column(names[0]).label if len(names) == 1 else "value"
        return both(layered(*lines)).opts(**said, backend="bokeh").opts(**said, backend="matplotlib")


def _parts(source: Dataset, names: list[str]) -> list[dict[str, Any]]:
    """Return column -> numbers of each partition, in order of steps."""
    found = []
    for table in source.parts(names, MOST_STEPS):
        order = np.argsort(table[names[0]].to_numpy(), kind="stable")
        found.append({name: table[name].to_numpy().astype(float)[order] for name in names})
    return found


def _mean(parts: list[dict[str, Any]], step: str, name: str) -> tuple[Any, Any]:
    """Return steps, and the mean over the partitions that have come so far."""
    steps, places = np.unique(np.concatenate([part[step] for part in parts]), return_inverse=True)
    values = np.concatenate([part[name] for part in parts])
    known = np.isfinite(values)
    counts = np.bincount(places[known], minlength=len(steps))
    sums = np.bincount(places[known], values[known], minlength=len(steps))
    return steps, np.divide(sums, counts, out=np.full(len(steps), np.nan), where=counts > 0)


def _line(curve: Any, colour: str, *, thin: bool = False) -> Any:
    look = {"color": colour, "alpha": 0.35 if thin else 1.0}
    width = 1 if thin else 2.5
    made = curve.opts(**look, line_width=width, tools=[] if thin else ["hover"], backend="bokeh")
    return made.opts(**look, linewidth=width, backend="matplotlib")
