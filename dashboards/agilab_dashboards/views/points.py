"""The view of points: how many lie where, a number of theirs, or their categories, however many there are."""

from __future__ import annotations

from typing import Any

import param

from agilab_dashboards import aggregates
from agilab_dashboards.aggregates import Frame
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.views.base import COLOUR_MAPS, HEIGHT_PX, View, column
from agilab_dashboards.views.raster import category_picture, image, placed


class Points(View):
    """Points in a plane, as a raster."""

    x = column("Column along the horizontal axis.")
    y = column("Column along the vertical axis.")
    colour = column("What the colour shows: none for how many points, a number, or a text for categories.")
    how = param.Selector(
        default="mean", objects=["mean", "min", "max", "sum"], doc="How numbers of points in one pixel become one."
    )
    scale = param.Selector(
        default="eq_hist", objects=["eq_hist", "log", "linear"], doc="How numbers become colours; eq_hist shows most."
    )
    colours = param.Selector(default="viridis", objects=list(COLOUR_MAPS), doc="Colours from least to greatest.")

    kinds = ("points",)
    needs = {"x": ("number",), "y": ("number",), "colour": ("number", "text")}  # noqa: RUF012, as View declares it
    chosen = ("colour",)
    zooming = "xy"

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        return source.is_table and (source.kind in cls.kinds or {"x", "y"} <= set(source.named("number")))

    def frame(self, source: Dataset, width_px: int = 1000, height_px: int = HEIGHT_PX) -> Frame:
        return placed(source, self.column_of(source, "x"), self.column_of(source, "y"), width_px, height_px)

    def draw(self, source: Dataset, frame: Frame) -> Any:
        places = self.column_of(source, "x"), self.column_of(source, "y")
        colour = self.column_of(source, "colour")
        axes = [source.column(name).label for name in places]
        if colour and source.column(colour).type == "text":
            return category_picture(aggregates.categories(source, frame, places, colour), frame, axes)
        how = self.how if colour else "count"
        numbers = aggregates.raster(source, frame, places, how=how, value=colour)
        label = f"{how} of {source.column(colour).label}" if colour else "points"
        return image(numbers, frame, [*axes, label], scale=self.scale, colours=self.colours)
