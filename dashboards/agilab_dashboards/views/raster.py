"""Rasters as HoloViews elements: numbers with a colour bar, categories with a legend; it reads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np

from agilab_dashboards.aggregates import Frame, frame_of
from agilab_dashboards.charts import PALETTE
from agilab_dashboards.datasets import Dataset


def placed(source: Dataset, x: str, y: str, width_px: int, height_px: int) -> Frame:
    """Return the frame that shows everything, with equal scales where both columns have one unit."""
    found = frame_of(source, x, y, width_px, height_px)
    units = {source.column(name).unit for name in (x, y)}
    return found.filled() if len(units) == 1 and units != {""} else found


def image(numbers: Any, frame: Frame, labels: Sequence[str], *, scale: str, colours: str) -> Any:
    """Return numbers per pixel as an image with a colour bar.

    Parameters
    ----------
    numbers
        Shape (y, x), row 0 at the bottom.
    frame
        Where they lie.
    labels
        Of the horizontal axis, the vertical one and the numbers.
    scale
        ``"eq_hist"``, ``"log"`` or ``"linear"``.
    colours
        Name of a colour map.
    """
    x, y, value = labels
    bounds = (frame.x[0], frame.y[0], frame.x[1], frame.y[1])
    made = hv.Image(
        np.asarray(numbers)[::-1], bounds=bounds, kdims=[hv.Dimension("x", label=x), hv.Dimension("y", label=y)],
        vdims=[hv.Dimension("z", label=value)],
    )  # fmt: skip
    known = np.isfinite(numbers)
    usable = known.any() and np.nanmax(numbers) > np.nanmin(numbers)
    scale = scale if usable and (scale != "log" or np.nanmin(numbers) > 0) else "linear"
    plain = {"cmap": colours, "cnorm": scale, "colorbar": True, "clabel": value}
    if not known.any():
        plain["clim"] = (0, 1)
    return both(made.opts(**plain, backend="bokeh").opts(**plain, backend="matplotlib"), hover=True)


def category_picture(counts: Mapping[str, Any], frame: Frame, labels: Sequence[str]) -> Any:
    """Return counts per category as one picture whose colours mix, with a legend of names and counts.

    Parameters
    ----------
    counts
        Category -> counts per pixel, shape (y, x), row 0 at the bottom.
    frame
        Where they lie.
    labels
        Of both axes.
    """
    total = sum(counts.values())
    mixed = np.zeros((*np.shape(total), 3))
    for colour, numbers in zip(_colours(len(counts)), counts.values(), strict=True):
        mixed += np.asarray(colour) * numbers[..., None]
    filled = total > 0
    mixed[filled] /= total[filled][:, None]
    depth = np.zeros(np.shape(total))
    if filled.any():
        depth[filled] = 0.35 + 0.65 * np.log1p(total[filled]) / np.log1p(total.max())
    x, y = (hv.Dimension(name, label=label) for name, label in zip("xy", labels, strict=True))
    bounds = (frame.x[0], frame.y[0], frame.x[1], frame.y[1])
    made: Any = hv.RGB(np.dstack([mixed, depth])[::-1], bounds=bounds, kdims=[x, y], vdims=[*"RGB", "A"])
    for colour, (name, numbers) in zip(_colours(len(counts)), counts.items(), strict=True):
        text = f"{name or '(none)'}  {int(numbers.sum()):,}"
        key = hv.Points([(np.nan, np.nan)], kdims=[x, y], label=text)
        paint = "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in colour))
        made *= key.opts(color=paint, size=9, backend="bokeh").opts(color=paint, s=60, backend="matplotlib")
    beside = {"legend_position": "right"}
    return both(made).opts(**beside, backend="bokeh").opts(**beside, backend="matplotlib")


def both(element: Any, *, hover: bool = False) -> Any:
    """Return an element with the size and tools of every view, in a browser and as a picture."""
    kinds = {type(one).__name__ for one in element.traverse(lambda one: one, [hv.Element])}
    tools = ["hover"] if hover else []
    more = {"responsive": True, "height": 480, "tools": tools, "default_tools": _TOOLS, "hooks": [_without_logo]}
    for kind in kinds:
        options = getattr(hv.opts, kind)(**more, active_tools=["pan", "wheel_zoom"], backend="bokeh")
        element = element.opts(options)
    return element


def _without_logo(plot: Any, element: Any) -> None:
    plot.state.toolbar.logo = None


_TOOLS = ["pan", "wheel_zoom", "box_zoom", "reset", "save"]


def _colours(count: int) -> list[tuple[float, float, float]]:
    found = [PALETTE[number % len(PALETTE)] for number in range(count)]
    return [(int(text[1:3], 16) / 255, int(text[3:5], 16) / 255, int(text[5:7], 16) / 255) for text in found]
