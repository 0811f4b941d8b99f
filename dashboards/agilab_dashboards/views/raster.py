"""`Counted` and `Plane`, the bases of views that `agilab.raster` counts for, and their pictures in HoloViews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import holoviews as hv
import numpy as np
import param
from bokeh.models import NumeralTickFormatter

from agilab import raster
from agilab.paths import HomePaths
from agilab.raster.grid import Box
from agilab.raster.shelf import Shelf
from agilab_dashboards.conditions import parsed
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.markup import PALETTE
from agilab_dashboards.outlines import LINES, outlines
from agilab_dashboards.views.base import COLOUR_MAPS, PAGE, View, column, load

DECODED_BYTES = 512 << 20
"""How much of the tables that were looked at a process keeps decoded [bytes]."""
AXES = ("along", "up")
"""Dimensions of lines that have labels of their own: HoloViews takes a label that is a dimension's for its values."""
_EXACT_FLOAT32 = 1 << 24


class Counted(View):
    """A view of what `agilab.raster` counts: any number of rows, read where they touch what is looked at."""

    where = param.String(
        "", doc="Only rows where, such as carrier = UA, DL; height >= 100; time = 2013-01-01..2013-02-01."
    )

    def query(self, source: Dataset, frame: Frame) -> raster.Query:
        """Return what is asked for a frame."""
        raise NotImplementedError

    def shade(self, source: Dataset, picture: raster.Picture) -> Any:
        """Return the answer as a HoloViews element."""
        raise NotImplementedError

    def rows(self, picture: raster.Picture) -> int | None:
        """Return how many rows a picture shows; None where it does not tell."""
        return int(picture.values.sum()) if picture.values.dtype.kind == "u" else None

    def draw(self, source: Dataset, frame: Frame) -> Any:
        query = self.query(source, frame)
        found = raster.aggregate(source.sources, query, cache=decoded(), cancelled=frame.cancelled)
        made = framed(self.shaded(source, found), frame, self.zooming)
        # What is drawn without a page around it has to say itself what is not in it.
        return made.relabel(found.missing[0].partition("; ")[0]) if found.missing else made

    def begun(self, source: Dataset, frame: Frame, *, growing: bool = False) -> raster.Aggregation:
        """Return a picture of a frame that tables can be added to; a growing one becomes larger with them."""
        query = self.query(source, frame)
        if growing:
            query = replace(query, x_range=None, y_range=None if self.zooming == "xy" else query.y_range)
        return raster.Aggregation(query, cache=decoded())

    def shaded(self, source: Dataset, picture: raster.Picture) -> Any:
        """Return what `shade` makes of an answer; may be called from any thread."""
        load()
        return self.shade(source, picture)

    def around(self, source: Dataset, picture: raster.Picture, frame: Frame) -> Frame:
        """Return the frame that shows all of a picture."""
        left, _, right, _ = picture.bounds
        return replace(frame, x=(left, right))

    def conditions(self, source: Dataset) -> tuple[raster.Filter, ...]:
        """Return which rows are meant."""
        return parsed(self.where, source)


class Plane(Counted):
    """A view of rows by two columns of numbers, in colours."""

    x = column("Column along the horizontal axis.")
    y = column("Column along the vertical axis.")
    scale = param.Selector(
        default="eq_hist", objects=["eq_hist", "log", "linear"], doc="How numbers become colours; eq_hist shows most."
    )
    limits = param.Range(
        default=None, allow_None=True, doc="Numbers of the first and the last colour, so that pictures compare."
    )
    colours = param.Selector(default="viridis", objects=list(COLOUR_MAPS), doc="Colours from least to greatest.")
    coasts = param.Boolean(
        True, doc="Coasts and borders behind places on the earth, where the file says how to lay them."
    )

    zooming = "xy"

    def whole(self, source: Dataset, frame: Frame = PAGE) -> Frame:
        x, y = (self.column_of(source, name) for name in ("x", "y"))
        found = frame.over(raster.extent(source.sources, x, y, cache=decoded(), cancelled=frame.cancelled))
        return found.filled() if self.square(source) else found

    def around(self, source: Dataset, picture: raster.Picture, frame: Frame) -> Frame:
        found = frame.over(picture.bounds)
        return found.filled() if self.square(source) else found

    def shaded(self, source: Dataset, picture: raster.Picture) -> Any:
        over = super().shaded(source, picture)
        systems = {source.column(self.column_of(source, name)).crs for name in ("x", "y")}
        lines = outlines(*systems, within=picture.bounds) if self.coasts and len(systems) == 1 else None
        return over if lines is None else ground(lines, over)

    def square(self, source: Dataset) -> bool:
        """Say whether both axes have one unit, so that it is as long on both."""
        units = {source.column(self.column_of(source, name)).unit for name in ("x", "y")}
        return len(units) == 1 and units != {""}

    def image(self, source: Dataset, picture: raster.Picture, label: str) -> Any:
        """Return a picture of numbers, with what these are called."""
        axes = [source.column(self.column_of(source, name)).label for name in ("x", "y")]
        made = image(picture.values, picture.bounds, [*axes, label], scale=self.scale, colours=self.colours)
        return made if self.limits is None else limited(made, self.limits)


@cache
def decoded() -> raster.Cache:
    """Return the columns that this process keeps decoded, for all who look."""
    return raster.Cache(DECODED_BYTES, shelf=Shelf(HomePaths.chosen().shelf))


def image(values: Any, bounds: Box, labels: Sequence[str], *, scale: str, colours: str) -> Any:
    """Return numbers per pixel as an image with a colour bar.

    Parameters
    ----------
    values
        Shape (y, x), row 0 at the bottom; unsigned where they count.
    bounds
        Left, bottom, right, top.
    labels
        Of the horizontal axis, the vertical one and the numbers.
    scale
        ``"eq_hist"``, ``"log"`` or ``"linear"``.
    colours
        Name of a colour map.
    """
    x, y, value = labels
    counts = np.asarray(values).dtype.kind == "u"
    numbers = _shown(values)
    made = hv.Image(
        numbers[::-1], bounds=bounds, kdims=[hv.Dimension("x", label=x), hv.Dimension("y", label=y)],
        vdims=[hv.Dimension("z", label=value)],
    )  # fmt: skip
    known = numbers[np.isfinite(numbers)]
    usable = known.size and known.max() > known.min()
    scale = scale if usable and (scale != "log" or known.min() > 0) else "linear"
    plain: dict[str, Any] = {"cmap": colours, "cnorm": scale, "colorbar": True, "clabel": value}
    if not known.size:
        plain["clim"] = (0, 1)
    whole = counts and known.size and known.max() >= 10
    bar = {"formatter": NumeralTickFormatter(format="0,0" if whole else _NUMBER)}
    made = made.opts(**plain, **_read(x, y, value), colorbar_opts=bar, backend="bokeh")
    if scale == "eq_hist":
        norm, ticks = equalised(known)
        plain |= {"cnorm": "linear", "norm": norm, "cbar_ticks": [(tick, f"{tick:,.6g}") for tick in ticks]}
    return both(made.opts(**plain, backend="matplotlib"), hover=True)


def equalised(numbers: Any) -> tuple[Any, Any]:
    """Return a norm of matplotlib that gives each colour as many pixels, and values evenly spaced along it.

    HoloViews' own counts again whenever it is asked, for its colour bar too, whose ticks are then out of order.
    """
    from matplotlib.colors import FuncNorm

    values = np.unique(np.quantile(numbers, np.linspace(0, 1, 257)))
    places = np.linspace(0, 1, len(values))
    ways = (lambda given: np.interp(given, values, places)), (lambda given: np.interp(given, places, values))
    ticks = np.unique(values[np.linspace(0, len(values) - 1, 6).round().astype(int)])
    return FuncNorm(ways, vmin=values[0], vmax=values[-1]), ticks


def framed(element: Any, frame: Frame, zooming: str) -> Any:
    """Return an element whose axes show a frame, also where its picture reaches a little further."""
    return element.redim.range(**({"x": frame.x, "y": frame.y} if zooming == "xy" else {"time": frame.time}))


def limited(element: Any, limits: tuple[float, float]) -> Any:
    """Return an image, with what lies over it, whose colours go from one number to another, whatever it shows."""
    backends = ("bokeh", "matplotlib")
    return element.opts(*(hv.opts.Image(clim=tuple(limits), backend=backend) for backend in backends))


def category_picture(counts: Mapping[str, Any], bounds: Box, labels: Sequence[str]) -> Any:
    """Return counts per category as one picture whose colours mix, with a legend of names and counts.

    Parameters
    ----------
    counts
        Category -> counts per pixel, shape (y, x), row 0 at the bottom.
    bounds
        Left, bottom, right, top.
    labels
        Of both axes.
    """
    layers = list(counts.values())
    total = np.sum(layers, axis=0, dtype=np.uint32)
    mixed = np.zeros((*total.shape, 3))
    for colour, numbers in zip(_colours(len(layers)), layers, strict=True):
        mixed += np.asarray(colour) * numbers[..., None]
    filled = total > 0
    mixed[filled] /= total[filled][:, None]
    depth = np.zeros(total.shape)
    if filled.any():
        depth[filled] = 0.35 + 0.65 * np.log1p(total[filled]) / np.log1p(total.max())
    x, y = (hv.Dimension(name, label=label) for name, label in zip("xy", labels, strict=True))
    painted = (np.dstack([mixed, depth])[::-1] * 255).round().astype(np.uint8)
    made = both(hv.RGB(painted, bounds=bounds, kdims=[x, y], vdims=[*"RGB", "A"]))
    # What is hovered over is the number of rows, in an image that nobody sees.
    rows = hv.Image(_shown(total)[::-1], bounds=bounds, kdims=[x, y], vdims=[hv.Dimension("rows")])
    seen = rows.opts(alpha=0, **_read(*labels, "rows"), backend="bokeh").opts(alpha=0, backend="matplotlib")
    shown = [made, both(seen, hover=True)]
    for colour, (name, numbers) in zip(_colours(len(layers)), counts.items(), strict=True):
        key = hv.Points([(np.nan, np.nan)], kdims=[x, y], label=f"{name}  {int(numbers.sum()):,}")
        paint = "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in colour))
        key = key.opts(color=paint, size=9, backend="bokeh").opts(color=paint, s=60, backend="matplotlib")
        shown.append(both(key))
    return layered(*shown)


def ground(lines: Any, element: Any) -> Any:
    """Return an element with lines behind it.

    Parameters
    ----------
    lines
        Shape (point, 2), with a row of NaN after each line.
    element
        Whose axes they share.
    """
    over = element.traverse(lambda one: one, [hv.Element])
    below = both(hv.Path([lines], kdims=over[0].kdims)).opts(color=LINES, line_width=0.8, backend="bokeh")
    return layered(below.opts(color=LINES, linewidth=0.6, backend="matplotlib"), *over)


def layered(*elements: Any) -> Any:
    """Return elements over each other, the first one undermost, with their legend beside them."""
    made, beside = hv.Overlay(list(elements)), {"legend_position": "right"}
    return made.opts(**beside, backend="bokeh").opts(**beside, backend="matplotlib")


def both(element: Any, *, hover: bool = False) -> Any:
    """Return an element with the size and tools of every view, in a browser and as a picture."""
    kinds = {type(one).__name__ for one in element.traverse(lambda one: one, [hv.Element])}
    more: dict[str, Any] = {"responsive": True, "height": 480, "default_tools": _TOOLS, "hooks": [_without_logo]}
    more["tools"] = [
        *(["hover"] if hover else []),
        "xbox_select" if kinds & {"Curve", "Area", "Histogram"} else "box_select",
    ]
    for kind in kinds:
        options = getattr(hv.opts, kind)(**more, active_tools=["pan", "wheel_zoom"], backend="bokeh")
        element = element.opts(options)
    return element


def _shown(values: Any) -> Any:
    """Return numbers as a browser is sent them: fewer bytes where none is lost, NaN where nothing was counted."""
    array = np.asarray(values)
    if array.dtype.kind != "u":
        return array
    kind = np.float32 if not array.size or array.max() <= _EXACT_FLOAT32 else np.float64
    return np.where(array > 0, array.astype(kind), kind(np.nan))


def _read(x: str, y: str, value: str) -> dict[str, Any]:
    """Return how numbers are written on axes and where a pointer rests: in full."""
    return {
        "hover_tooltips": [(x, f"$x{{{_NUMBER}}}"), (y, f"$y{{{_NUMBER}}}"), (value, "@image{0,0.[000000]}")],
        "xformatter": NumeralTickFormatter(format=_NUMBER),
        "yformatter": NumeralTickFormatter(format=_NUMBER),
    }


def _without_logo(plot: Any, element: Any) -> None:
    plot.state.toolbar.logo = None


_NUMBER = "0,0.[0000]"
_TOOLS = ["pan", "wheel_zoom", "box_zoom", "reset", "save"]


def _colours(count: int) -> list[tuple[float, float, float]]:
    found = [PALETTE[number % len(PALETTE)] for number in range(count)]
    return [(int(text[1:3], 16) / 255, int(text[3:5], 16) / 255, int(text[5:7], 16) / 255) for text in found]
