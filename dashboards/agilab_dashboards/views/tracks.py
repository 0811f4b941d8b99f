"""The view of tracks: lines through positions in order, as a raster, however many there are."""

from __future__ import annotations

from typing import Any

import param

from agilab_dashboards import aggregates
from agilab_dashboards.aggregates import Frame
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.views.base import COLOUR_MAPS, HEIGHT_PX, View, column
from agilab_dashboards.views.raster import image, placed


class Tracks(View):
    """Tracks in a plane: how many pass where, or a number along them."""

    track = column("Column that tells tracks apart; positions of one track stand together, in order.")
    x = column("Column along the horizontal axis.")
    y = column("Column along the vertical axis.")
    colour = column("What the colour shows: none for how many tracks pass, or a number along them.")
    how = param.Selector(default="mean", objects=["mean", "min", "max"], doc="How numbers in one pixel become one.")
    scale = param.Selector(
        default="eq_hist", objects=["eq_hist", "log", "linear"], doc="How numbers become colours; eq_hist shows most."
    )
    colours = param.Selector(default="viridis", objects=list(COLOUR_MAPS), doc="Colours from least to greatest.")

    kinds = ("tracks",)
    needs = {  # noqa: RUF012, as View declares it
        "track": ("number", "text"), "x": ("number",), "y": ("number",), "colour": ("number",),
    }  # fmt: skip
    chosen = ("colour",)
    zooming = "xy"

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        if not source.is_table:
            return False
        return source.kind in cls.kinds or (source.kind == "points" and bool(_ids(source)))

    @classmethod
    def suggested(cls, source: Dataset) -> dict[str, Any]:
        ids = _ids(source)
        return {**super().suggested(source), **({"track": ids[0]} if ids else {})}

    def frame(self, source: Dataset, width_px: int = 1000, height_px: int = HEIGHT_PX) -> Frame:
        return placed(source, self.column_of(source, "x"), self.column_of(source, "y"), width_px, height_px)

    def draw(self, source: Dataset, frame: Frame) -> Any:
        places = self.column_of(source, "x"), self.column_of(source, "y")
        colour = self.column_of(source, "colour")
        how = self.how if colour else "count"
        numbers = aggregates.raster(source, frame, places, how=how, value=colour, track=self.column_of(source, "track"))
        label = f"{how} of {source.column(colour).label}" if colour else "tracks"
        labels = [*(source.column(name).label for name in places), label]
        return image(numbers, frame, labels, scale=self.scale, colours=self.colours)


def _ids(source: Dataset) -> list[str]:
    """Return the columns that look like the name of a track."""
    return [name for name in source.named("number", "text") if name in ("id", "track") or name.endswith("_id")]
