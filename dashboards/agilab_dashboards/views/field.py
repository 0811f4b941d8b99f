"""The view of fields: a number for each cell of a regular grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import param

from agilab.raster import Picture, Query
from agilab.raster.fields import axes, field
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.views.base import COLOUR_MAPS, PAGE, View, column
from agilab_dashboards.views.raster import decoded, framed, image


class Field(View):
    """A field on a grid: its cells, or as many together as become a pixel."""

    x = column("Column along the horizontal axis.")
    y = column("Column along the vertical axis.")
    value = column("Column of the numbers.")
    how = param.Selector(
        default="mean", objects=["mean", "sum", "min", "max", "count"], doc="How several rows of a cell become one."
    )
    scale = param.Selector(
        default="linear", objects=["linear", "log", "eq_hist"], doc="How numbers become colours; eq_hist shows most."
    )
    colours = param.Selector(default="viridis", objects=list(COLOUR_MAPS), doc="Colours from least to greatest.")

    kinds = ("field",)
    zooming = "xy"
    needs = {"x": ("number",), "y": ("number",), "value": ("number",)}  # noqa: RUF012, as View declares it

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        numbers = set(source.named("number"))
        return source.kind in cls.kinds or (source.kind == "table" and {"x", "y"} <= numbers and len(numbers) > 2)

    @classmethod
    def suggested(cls, source: Dataset) -> dict[str, Any]:
        return {**super().suggested(source), "value": next(iter(source.measures()), None)}

    def whole(self, source: Dataset, frame: Frame = PAGE) -> Frame:
        across, up = axes(source.sources, *self._places(source), cache=decoded(), cancelled=frame.cancelled)
        return replace(frame, x=across.ends, y=up.ends)

    def draw(self, source: Dataset, frame: Frame) -> Any:
        found = self.seen(source, frame)
        value = source.column(self.column_of(source, "value"))
        labels = [*(source.column(name).label for name in self._places(source)), f"{self.how} of {value.label}"]
        made = image(found.values, found.bounds, labels, scale=self.scale, colours=self.colours)
        return framed(made, frame, self.zooming)

    def seen(self, source: Dataset, frame: Frame) -> Picture:
        """Return the numbers of what lies in a frame."""
        x, y = self._places(source)
        value = None if self.how == "count" else self.column_of(source, "value")
        query = Query(x, y, frame.width_px, frame.height_px, frame.x, frame.y, reduction=self.how, value=value)
        return field(source.sources, query, cache=decoded(), cancelled=frame.cancelled)

    def _places(self, source: Dataset) -> tuple[str, str]:
        return self.column_of(source, "x"), self.column_of(source, "y")
