"""A field, a number for each cell of a regular grid in rows: where its cells lie, and its picture at screen resolution.

Screens that have more pixels than a field has cells show these; else as many
cells as it takes become one, always the same ones however somebody pans. That
is what Datashader's ``Canvas.raster`` gives where cells fit into pixels whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agilab.errors import QueryError
from agilab.raster.aggregation import Aggregation
from agilab.raster.blocks import Cache, numbers, open_table
from agilab.raster.far import answered, by_host
from agilab.raster.grid import Array, Grid
from agilab.raster.picture import Picture, Query, Source
from agilab.raster.scan import Cancelled, Columns, each, never

MOST_PLACES = 1 << 16
"""Most columns or rows of cells; what has more is no field but points."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where the cells of a field lie along one of its axes.

    Parameters
    ----------
    first
        Middle of the first one.
    step
        Size of each.
    count
        How many there are.
    """

    first: float
    step: float
    count: int

    @property
    def ends(self) -> tuple[float, float]:
        """Outer edges of the first and the last cell."""
        return self.edge(0), self.edge(self.count)

    def edge(self, cell: int) -> float:
        """Return where a cell begins."""
        return self.first + (cell - 0.5) * self.step

    def cut(self, ends: tuple[float, float], pixels: int) -> tuple[float, float, int]:
        """Return ends and number of the cells of a picture that cover a range on so many pixels."""
        low, high = ((end - self.first) / self.step + 0.5 for end in ends)
        start = max(0, min(self.count - 1, math.floor(low)))
        stop = max(start + 1, min(self.count, math.ceil(high)))
        together = -(-(stop - start) // pixels)
        start -= start % together
        columns = -(-(stop - start) // together)
        return self.edge(start), self.edge(start + columns * together), columns


def axes(
    sources: Sequence[Source], x: str, y: str, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> tuple[Axis, Axis]:
    """Return where the cells of a field lie, along x and along y.

    Parameters
    ----------
    sources
        Tables with a row for each cell, or several that are put together.
    x, y
        Columns of the middles of cells.
    cache, cancelled
        As for `agilab.raster.aggregate`.

    Raises
    ------
    QueryError
        There are more than `MOST_PLACES` along an axis.
    """
    across, up = places(sources, x, y, cache=cache, cancelled=cancelled)
    return _axis(across), _axis(up)


def places(
    sources: Iterable[Source], x: str, y: str, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> tuple[Array, Array]:
    """Return every value of both columns once, ascending, of rows that have a place; see `axes`."""
    hosts = by_host(sources)
    answers = answered(hosts, lambda far, some: far.places(some, x, y, cancelled))
    found = [np.empty(0), np.empty(0)]

    def take(more: Sequence[Array]) -> None:
        for axis, name in enumerate((x, y)):
            found[axis] = np.union1d(found[axis], more[axis])
            if len(found[axis]) > MOST_PLACES:
                raise QueryError(
                    f"column {name!r} has more than {MOST_PLACES:,} different values, so it is no axis of a field; "
                    "choose another column, or the view points"
                )

    for answer in answers:
        take(answer)
    for source in hosts.get(None, ()):
        for some in _of_table(source, x, y, cache, cancelled):
            take(some)
    return found[0], found[1]


def field(
    sources: Sequence[Source], query: Query, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> Picture:
    """Return the picture of a field; its bounds are the edges of cells, so that it may reach further than was asked.

    Parameters
    ----------
    sources
        As for `axes`.
    query
        `reduction` says how several cells, or rows of one, become one.
    cache, cancelled
        As for `agilab.raster.aggregate`.
    """
    across, up = axes(sources, query.x, query.y, cache=cache, cancelled=cancelled)
    left, right, columns = across.cut(query.x_range or across.ends, query.width)
    bottom, top, rows = up.cut(query.y_range or up.ends, query.height)
    query = replace(query, width=columns, height=rows, x_range=(left, right), y_range=(bottom, top))
    made = Aggregation(query, cache=cache, grid=Grid((left, bottom, right, top), columns, rows))
    made.add(sources, cancelled=cancelled)
    return made.picture()


def _of_table(source: Source, x: str, y: str, cache: Cache | None, cancelled: Cancelled) -> list[tuple[Array, Array]]:
    table = open_table(source.path, cache)
    table.check((x, y), numeric=True)
    key = ("places", table.identity, x, y)
    known: list[tuple[Array, Array]] | None = cache.get(key) if cache is not None else None
    if known is None:

        def work(columns: Columns) -> tuple[Array, Array]:
            across, up = (numbers(columns[name]).astype(np.float64, copy=False) for name in (x, y))
            placed = np.isfinite(across) & np.isfinite(up)
            return _distinct(across[placed]), _distinct(up[placed])

        known = list(each(table, (x, y), None, work=work, cancelled=cancelled))
        if cache is not None:
            cache.put(key, known, sum(one.nbytes for pair in known for one in pair))
    return known


def _distinct(values: Array) -> Array:
    """Return every value once; values that follow themselves, as along the rows of a grid, cost next to nothing."""
    starts = np.flatnonzero(np.concatenate((values[:1] == values[:1], values[1:] != values[:-1])))
    return np.unique(values[starts])


def _axis(values: Array) -> Axis:
    if len(values) < 2:
        return Axis(float(values[0]) if len(values) else 0.0, 1.0, 1)
    steps = np.diff(values)
    extent = float(values[-1] - values[0])
    step = float(steps[steps > 1e-6 * extent].min())  # what differs less was meant to be the same
    count = round(extent / step) + 1
    return Axis(float(values[0]), extent / (count - 1), count)
