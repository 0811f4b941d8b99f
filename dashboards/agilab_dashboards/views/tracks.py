"""The view of tracks: lines through positions in order, as a raster, however many there are."""

from __future__ import annotations

from typing import Any

import param

from agilab.raster import Picture, Query
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.views.base import column
from agilab_dashboards.views.raster import Plane


class Tracks(Plane):
    """Tracks in a plane: how many pass where, or a number along them."""

    track = column("Column that tells tracks apart; positions of one track stand together, in order.")
    colour = column("What the colour shows: none for how many tracks pass, or a number along them.")
    how = param.Selector(default="mean", objects=["mean", "min", "max"], doc="How numbers in one pixel become one.")

    kinds = ("tracks",)
    needs = {  # noqa: RUF012, as View declares it
        "track": ("number", "text"), "x": ("number",), "y": ("number",), "colour": ("number",),
    }  # fmt: skip
    chosen = ("colour",)

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        if not source.is_table:
            return False
        return source.kind in cls.kinds or (source.kind == "points" and bool(_ids(source)) and source.in_order)

    @classmethod
    def suggested(cls, source: Dataset) -> dict[str, Any]:
        ids = _ids(source)
        return {**super().suggested(source), **({"track": ids[0]} if ids else {})}

    def query(self, source: Dataset, frame: Frame) -> Query:
        x, y, track, colour = (self.column_of(source, name) for name in ("x", "y", "track", "colour"))
        asked: dict[str, Any] = {"mark": "lines", "track": track, "filters": self.conditions(source)}
        if colour:
            asked |= {"value": colour, "reduction": self.how}
        return Query(x, y, frame.width_px, frame.height_px, frame.x, frame.y, **asked)

    def shade(self, source: Dataset, picture: Picture) -> Any:
        colour = self.column_of(source, "colour")
        return self.image(source, picture, f"{self.how} of {source.column(colour).label}" if colour else "tracks")


def _ids(source: Dataset) -> list[str]:
    """Return the columns that look like the name of a track."""
    return [name for name in source.named("number", "text") if name in ("id", "track") or name.endswith("_id")]
