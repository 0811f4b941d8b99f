"""What one column is like over another one or by itself: exact envelopes and histograms; it draws none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agilab.raster.aggregation import aggregate
from agilab.raster.blocks import Cache
from agilab.raster.grid import Array
from agilab.raster.picture import Picture, Query, Source
from agilab.raster.scan import Cancelled, never


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a time series looks like from afar.

    Parameters
    ----------
    minimum, maximum, mean
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
    mean: Array
    count: Array
    x_range: tuple[float, float]
    way: str = ""
    rows_read: int = 0

    @classmethod
    def of(cls, picture: Picture) -> Envelope:
        """Return what the picture of an `enveloping` query says."""
        minimum, maximum, total, count = np.moveaxis(picture.values[0], -1, 0)
        mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        left, _, right, _ = picture.bounds
        return cls(minimum, maximum, mean, count, (left, right), picture.way, picture.rows_read)


def enveloping(query: Query) -> Query:
    """Return the query whose picture is the envelope of a time series, for an `Aggregation` that grows."""
    shape: dict[str, Any] = {"height": 1, "y_range": (0.0, 1.0), "mark": "points", "track": None, "by": None}
    return replace(query, reduction="envelope", value=query.y, **shape)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many rows have which value.

    Parameters
    ----------
    count
        Rows in each bin, from left to right; a value on an edge lies in the upper bin, the greatest in the last.
    x_range
        Left edge of the first bin, right edge of the last.
    """

    count: Array
    x_range: tuple[float, float]

    @classmethod
    def of(cls, picture: Picture) -> Histogram:
        """Return what the picture of a `counting` query says."""
        left, _, right, _ = picture.bounds
        return cls(picture.values[0], (left, right))


def counting(query: Query) -> Query:
    """Return the query whose picture is the histogram of a column: one row of cells, in which `x` is `y` too."""
    plain: dict[str, Any] = {
        "reduction": "count",
        "value": None,
        "mark": "points",
        "track": None,
        "by": None,
        "period": None,
    }
    return replace(query, y=query.x, height=1, y_range=query.x_range, **plain)


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
    return Envelope.of(aggregate(sources, enveloping(query), cache=cache, cancelled=cancelled))


def histogram(
    sources: Iterable[Source], query: Query, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> Histogram:
    """Return how the values of one column are distributed.

    Parameters
    ----------
    sources
        The tables.
    query
        `x` is the column; `width`, `x_range` and `filters` say what is counted in how many bins, the rest does not
        matter.
    cache, cancelled
        As for `agilab.raster.aggregate`.
    """
    return Histogram.of(aggregate(sources, counting(query), cache=cache, cancelled=cancelled))
