"""The view of fields: a number for each cell of a regular grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import param

from agilab_dashboards import aggregates
from agilab_dashboards.aggregates import Frame
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.views.base import COLOUR_MAPS, View, column
from agilab_dashboards.views.raster import image


class Field(View):
    """A field on a grid, cells of several rows put together."""

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
    needs = {"x": ("number",), "y": ("number",), "value": ("number",)}  # noqa: RUF012, as View declares it

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        numbers = set(source.named("number"))
        return source.kind in cls.kinds or (source.kind == "table" and {"x", "y"} <= numbers and len(numbers) > 2)

    @classmethod
    def suggested(cls, source: Dataset) -> dict[str, Any]:
        return {**super().suggested(source), "value": next(iter(source.measures()), None)}

    def draw(self, source: Dataset, frame: Frame) -> Any:
        places = self.column_of(source, "x"), self.column_of(source, "y")
        value = self.column_of(source, "value")
        xs, ys, numbers = aggregates.grid(source, places, value, self.how)
        if len(xs) < 2 or len(ys) < 2:
            around = Frame((0.0, 1.0), (0.0, 1.0))
            numbers = numbers if numbers.size else np.full((1, 1), np.nan)
        else:
            half = (xs[1] - xs[0]) / 2, (ys[1] - ys[0]) / 2
            around = Frame((xs[0] - half[0], xs[-1] + half[0]), (ys[0] - half[1], ys[-1] + half[1]))
        labels = [*(source.column(name).label for name in places), f"{self.how} of {source.column(value).label}"]
        return image(numbers, around, labels, scale=self.scale, colours=self.colours)
