"""The view of points: how many lie where, a number of theirs, or their categories, however many there are."""

from __future__ import annotations

from typing import Any

import param

from agilab.raster import Picture, Query
from agilab.raster.categories import OTHER
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.markup import PALETTE
from agilab_dashboards.views.base import column
from agilab_dashboards.views.raster import Plane, category_picture


class Points(Plane):
    """Points in a plane, as a raster."""

    colour = column("What the colour shows: none for how many points, a number, or a text for categories.")
    how = param.Selector(
        default="mean", objects=["mean", "min", "max", "sum"], doc="How numbers of points in one pixel become one."
    )

    kinds = ("points",)
    needs = {"x": ("number",), "y": ("number",), "colour": ("number", "text")}  # noqa: RUF012, as View declares it
    chosen = ("colour",)

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        return source.is_table and (source.kind in cls.kinds or {"x", "y"} <= set(source.named("number")))

    def query(self, source: Dataset, frame: Frame) -> Query:
        x, y, colour = (self.column_of(source, name) for name in ("x", "y", "colour"))
        asked: dict[str, Any] = {}
        if colour and source.column(colour).type == "text":
            # Several share one colour where there are more than colours.
            asked = {"by": colour, "categories": source.frequent(colour, len(PALETTE), frame.cancelled)}
        elif colour:
            asked = {"value": colour, "reduction": self.how}
        filters = self.conditions(source)
        return Query(x, y, frame.width_px, frame.height_px, frame.x, frame.y, filters=filters, **asked)

    def shade(self, source: Dataset, picture: Picture) -> Any:
        colour = self.column_of(source, "colour")
        if not colour:
            return self.image(source, picture, "points")
        if source.column(colour).type != "text":
            return self.image(source, picture, f"{self.how} of {source.column(colour).label}")
        layers = {name: picture.values[:, :, place] for place, name in enumerate(picture.categories)}
        # In the order of the names, whose colours stay; the rest comes last, if there is one.
        rest = layers.pop(OTHER, None)
        counts = layers if rest is None or not rest.any() else {**layers, OTHER: rest}
        axes = [source.column(self.column_of(source, name)).label for name in ("x", "y")]
        return category_picture(counts, picture.bounds, axes)
