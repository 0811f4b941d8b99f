"""Time series of any length as their exact envelope: least and greatest value in every pixel column; it draws none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from agilab.raster.aggregation import aggregate
from agilab.raster.blocks import Cache
from agilab.raster.grid import Array
from agilab.raster.picture import Query, Source
from agilab.raster.scan import Cancelled, never


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a time series looks like from afar.

    Parameters
    ----------
    minimum, maximum
        Of every pixel column, from left to right; NaN where there is no sample.
    count
        Samples in each.
    x_range
        Left edge of the first column, right edge of the last.
    way
        As that of a `Picture`.
    rows_read
        How many rows were looked at.
    """

    minimum: Array
    maximum: Array
    count: Array
    x_range: tuple[float, float]
    way: str = ""
    rows_read: int = 0


def envelope(
    sources: Iterable[Source], query: Query, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> Envelope:
    """Return the envelope of a time series; the order of its samples does not matter.

    Parameters
    ----------
    sources
        The tables.
    query
        `x` is the time, `y` the value; `width`, `x_range` and `filters` say what is shown, the rest does not matter.
    cache, cancelled
        As for `agilab.raster.aggregate`.
    """
    flat = replace(query, reduction="envelope", value=query.y, height=1, y_range=(0.0, 1.0), mark="points", by=None)
    picture = aggregate(sources, flat, cache=cache, cancelled=cancelled)
    minimum, maximum, count = np.moveaxis(picture.values[0], -1, 0)
    left, _, right, _ = picture.bounds
    return Envelope(minimum, maximum, count, (left, right), picture.way, picture.rows_read)
