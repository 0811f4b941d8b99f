"""`View`, what every view of artifacts derives from, shipped or an app's own: its params are its controls."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

# Neither of them later, in a thread: Panel would take it from sys.modules half made.
import holoviews as hv
import pandas  # noqa: F401
import param

from agilab.codec import Field
from agilab.errors import ArtifactNotFoundError
from agilab.run import Run
from agilab.settings import Settings
from agilab_dashboards.datasets import Dataset, datasets
from agilab_dashboards.frame import Frame

COLOUR_MAPS = ("viridis", "cividis", "inferno", "plasma", "gray")
"""Told apart with every common colour blindness, and in print."""
PAGE = Frame()
"""What a page has room for."""
DPI = 100
MARGIN_INCHES = 0.1


def column(doc: str, *, label: str | None = None) -> Any:
    """Declare a control that names a column; None stands for what suits the data."""
    return param.Selector(default=None, objects=[], check_on_set=False, allow_None=True, doc=doc, label=label)


class View(Settings):
    """One way to look at artifacts.

    A subclass says which kinds it is for and which columns it needs, and draws
    a HoloViews element of what lies in a frame. Everything else has a default.

    Attributes
    ----------
    kinds
        Kinds of artifacts it is made for.
    needs
        Control -> types of columns that it may name; the first column of a type is taken where none is named.
    chosen
        Controls of `needs` that may stay empty.
    zooming
        ``"xy"``, ``"x"`` or empty: along which axes it is drawn anew when somebody zooms.
    """

    artifact = param.String("", doc="Stage and name of the artifacts, such as tracks/points; empty for what fits best.")

    kinds: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    chosen: ClassVar[tuple[str, ...]] = ()
    zooming: ClassVar[str] = ""

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        """Say whether it can show a dataset: by default one of its kinds, or any with the columns that it needs."""
        able = all(name in cls.chosen or source.named(*types) for name, types in cls.needs.items())
        return able and (source.kind in cls.kinds or (source.is_table and bool(cls.needs)))

    @classmethod
    def suggested(cls, source: Dataset) -> dict[str, Any]:
        """Return the columns to begin with."""
        taken: list[str] = []
        found: dict[str, Any] = {}
        for name, types in cls.needs.items():
            if name in cls.chosen:
                continue
            able = [one for one in source.named(*types) if one not in taken] or source.named(*types)
            found[name] = name if name in able else able[0] if able else None
            taken.append(found[name])
        return found

    @classmethod
    def controls(cls, source: Dataset) -> tuple[Field, ...]:
        """Return its declarations, with the columns that a dataset has as what can be chosen."""
        known = cls.suggested(source)
        return tuple(_with_columns(field, cls, source, known) for field in cls.fields() if field.name != "artifact")

    def source(self, run: Run) -> Dataset:
        """Return what it shows of a run.

        Raises
        ------
        ArtifactNotFoundError
            The run has left nothing that it can show.
        """
        able = [one for one in datasets(run) if self.artifact in ("", one.key) and self.fits(one)]
        able.sort(key=lambda one: one.kind not in self.kinds)
        if not able:
            what = f"no artifacts {self.artifact!r:.200}" if self.artifact else "nothing"
            raise ArtifactNotFoundError(
                f"run {run.run_id} has {what} that view {type(self).__name__.lower()} can show; "
                f"see what it left with: agilab show {run.run_id} --artifacts"
            )
        return able[0]

    def whole(self, source: Dataset, frame: Frame = PAGE) -> Frame:
        """Return the frame that shows everything, on as many pixels as another; a view that zooms says which."""
        return frame

    def draw(self, source: Dataset, frame: Frame) -> Any:
        """Return a HoloViews element of what lies in a frame; to be called by `element` only.

        Parameters
        ----------
        source
            What to show: `columns`, `files`, and `sources` for `agilab.raster`.
        frame
            Ranges and pixels; a view that works for long asks `cancelled` from time to time.
        """
        raise NotImplementedError

    def element(self, source: Dataset, frame: Frame) -> Any:
        """Return what lies in a frame as a HoloViews element; may be called from any thread."""
        load()
        return self.draw(source, frame)

    def plot(self, run: Run) -> Any:
        """Return a HoloViews object: of a view that zooms one that is drawn anew for each range."""
        source = self.source(run)
        whole = self.whole(source)
        if not self.zooming:
            return self.element(source, whole)

        def drawn(x_range: Any = None, y_range: Any = None) -> Any:
            return self.element(source, whole.zoomed(x_range, y_range))

        ranges = hv.streams.RangeXY() if self.zooming == "xy" else hv.streams.RangeX()
        return hv.DynamicMap(drawn, streams=[ranges])

    def picture(self, run: Run, width_px: int = 800) -> bytes:
        """Return a PNG, made without a browser."""
        source = self.source(run)
        frame = Frame(width_px=width_px, height_px=width_px * PAGE.height_px // PAGE.width_px)
        return png(self.element(source, self.whole(source, frame)), width_px, frame.height_px)

    def column_of(self, source: Dataset, control: str) -> str:
        """Return the column that a control names, else the one that suits; empty where it may stay empty."""
        found = getattr(self, control)
        if found is None:
            found = self.suggested(source).get(control) or ""
        return source.column(found).name if found else ""


def png(element: Any, width_px: int, height_px: int) -> bytes:
    """Return a HoloViews element as a PNG of that size."""
    load()
    inches = width_px / DPI, height_px / DPI
    for kind in {type(one).__name__ for one in element.traverse(lambda one: one, [hv.Element, hv.Overlay])}:
        options = getattr(hv.opts, kind)(fig_inches=inches, aspect=inches[0] / inches[1], backend="matplotlib")
        element = element.opts(options)
    with _DRAWING:  # pyplot keeps its figures in one place
        plot = hv.renderer("matplotlib").instance(fig="png", dpi=DPI).get_plot(element)
        figure = plot.state
        figure.set_size_inches(inches)
        figure.axes[0].xaxis.set_major_locator(_locator(figure.axes[0]))
        _fill(figure)
        return saved(figure)


def _fill(figure: Any) -> None:
    """Let the axes of a figure take the place that labels, colour bar and legend leave."""
    wide, high = figure.get_size_inches()
    for _ in range(2):  # labels keep their size, so that the first time is not exact
        taken = figure.get_tightbbox()
        scale_x, scale_y = (wide - 2 * MARGIN_INCHES) / taken.width, (high - 2 * MARGIN_INCHES) / taken.height
        for axes in figure.axes:
            old = axes.get_position()
            left, bottom = (
                MARGIN_INCHES + scale * (start * size - begin)
                for scale, start, size, begin in ((scale_x, old.x0, wide, taken.x0), (scale_y, old.y0, high, taken.y0))
            )
            axes.set_position((left / wide, bottom / high, old.width * scale_x, old.height * scale_y))


def saved(figure: Any) -> bytes:
    """Return a figure of matplotlib as a PNG, and close it."""
    import matplotlib.pyplot as plt

    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()


def _locator(axes: Any) -> Any:
    """Return what places few enough ticks that their labels do not meet."""
    from matplotlib.dates import AutoDateLocator, DateConverter
    from matplotlib.ticker import MaxNLocator

    is_time = isinstance(axes.xaxis.get_converter(), DateConverter)
    return AutoDateLocator(minticks=3, maxticks=5) if is_time else MaxNLocator(6)


def load() -> None:
    """Make HoloViews know both of its backends; takes seconds, once per process."""
    with _LOADING:
        if {"bokeh", "matplotlib"} <= hv.Store.renderers.keys():
            return
        import matplotlib

        matplotlib.use("agg")
        hv.renderer("matplotlib")
        hv.renderer("bokeh")
        hv.Store.set_current_backend("bokeh")


_LOADING, _DRAWING = threading.Lock(), threading.Lock()


def _with_columns(field: Field, view: type[View], source: Dataset, known: Mapping[str, Any]) -> Field:
    types = view.needs.get(field.name)
    if types is None:
        return field
    names = source.named(*types)
    kept: dict[str, Any] = {"options": names, "labels": [source.column(name).label for name in names]}
    if field.name in view.chosen:
        kept["optional"] = True
    if field.type == "list_selector":
        default = [name for name in known.get(field.name) or () if name in names]
    else:
        default = known.get(field.name)
    return replace(field, default=default, constraints=kept)
