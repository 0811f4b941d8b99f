"""Reads the rows of one table that a picture may show, in parallel and block by block, onto a grid; it chooses none.

What is held is a few pieces of `PIECE_ROWS` rows. Between two pieces it looks
whether the answer is still wanted.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
from pyarrow import types

from agilab.errors import QueryError, SupersededError
from agilab.raster import shading
from agilab.raster.blocks import Load, Table, is_number, numbers
from agilab.raster.categories import Categories
from agilab.raster.filters import Filter, all_meant, wanted_blocks
from agilab.raster.grid import Array, Box, Grid
from agilab.raster.picture import Query
from agilab.raster.shading import Parts, Rows
from agilab.raster.tracks import Track

PIECE_ROWS = 1 << 20
MOST_PERIODS = 16
"""How often the same data may appear side by side."""

Columns = dict[str, Any]
Cancelled = Callable[[], bool]
T = TypeVar("T")


def never() -> bool:
    """Say that the answer is still wanted."""
    return False


def threads() -> int:
    """Return how many pieces are worked on at a time: one for each core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(cancelled: Cancelled) -> None:
    """Raise SupersededError when the answer is not wanted any more."""
    if cancelled():
        raise SupersededError("the picture is not wanted any more; another request has taken its place")


def each(
    table: Table,
    columns: Sequence[str],
    blocks: Sequence[int] | None,
    *,
    work: Callable[[Columns], T],
    cancelled: Cancelled,
) -> Iterator[T]:
    """Yield what a function makes of every piece of a table, in order; several are worked on at a time.

    Parameters
    ----------
    table
        The table.
    columns
        Which of its columns the function needs.
    blocks
        Which blocks; None for all.
    work
        Takes pyarrow arrays by column; runs in other threads.
    cancelled
        Asked in the caller's thread.
    """
    pieces = _pieces(table, columns, blocks)
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads(), "agilab-scan") as pool:
        try:
            while True:
                check(cancelled)
                for loads in islice(pieces, threads() + 1 - len(waiting)):
                    waiting.append(pool.submit(_made, loads, work))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def extent(table: Table, x: str, y: str, *, cancelled: Cancelled = never) -> Box | None:
    """Return left, bottom, right, top of the points of a table that have a place, by reading them all."""

    def work(columns: Columns) -> Box | None:
        xs, ys = numbers(columns[x]), numbers(columns[y])
        placed = np.isfinite(xs) & np.isfinite(ys)
        xs, ys = xs[placed], ys[placed]
        return (float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())) if len(xs) else None

    return around([box for box in each(table, (x, y), None, work=work, cancelled=cancelled) if box is not None])


def around(boxes: Sequence[Box]) -> Box | None:
    """Return the box around boxes; None around none."""
    if not boxes:
        return None
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return min(lefts), min(bottoms), max(rights), max(tops)


class Scan:
    """One query on one grid, for one table after the other.

    Parameters
    ----------
    query
        What to show.
    grid
        The cells.
    categories
        The names found so far; grows. None for a query without categories.
    cancelled
        Whether the answer has become useless.

    Attributes
    ----------
    rows_read
        How many rows have been looked at.
    way
        ``"index"`` when the last table was not read whole, ``"scan"`` when it was.
    """

    def __init__(self, query: Query, grid: Grid, *, categories: Categories | None, cancelled: Cancelled) -> None:
        self.query, self.grid = query, grid
        self.rows_read = 0
        self.way = ""
        self._categories, self._cancelled = categories, cancelled
        self._tracks = Categories(query.track, most=None) if query.track is not None else None

    def run(self, table: Table, box: Box | None) -> Parts:
        """Return the partial aggregate of a table.

        Parameters
        ----------
        table
            The table.
        box
            Its extent, for a query with a period; else None.
        """
        parts = shading.empty(self.query.reduction, self.grid, 0 if self._categories is not None else None)
        for shift in self._shifts(box):
            found = self._lines(table, shift) if self.query.mark == "lines" else self._points(table, shift)
            for count, made in found:
                self.rows_read += count
                shading.merge(parts, made)
        return parts

    def _points(self, table: Table, shift: float) -> Iterator[tuple[int, Parts]]:
        blocks = wanted_blocks(table, self._ranges(shift), self.query.filters)
        self._say(table, blocks)

        def work(columns: Columns) -> tuple[int, Parts]:
            rows = self._rows(columns, shift)
            names = list(self._categories.names) if self._categories is not None else None
            if names == []:
                return len(rows.x), shading.empty(self.query.reduction, self.grid, 0)
            made = shading.points(rows, self.grid, self.query.reduction, categories=names)
            return len(columns[self.query.x]), made

        return each(table, self.query.columns, blocks, work=work, cancelled=self._cancelled)

    def _lines(self, table: Table, shift: float) -> Iterator[tuple[int, Parts]]:
        blocks = self._wanted_for_lines(table, shift)
        self._say(table, blocks)
        track = Track(self.query.period)

        def work(columns: Columns) -> tuple[Rows, Array | None]:
            return self._rows(columns, shift), self._track_numbers(columns)

        # A line goes on where its last block ended, so blocks are drawn in turn; they are read several at a time.
        for rows, tracks in each(table, self.query.columns, blocks, work=work, cancelled=self._cancelled):
            yield len(rows.x), shading.lines(track.join(rows, tracks), self.grid, self.query.reduction)

    def _wanted_for_lines(self, table: Table, shift: float) -> list[int] | None:
        """Return the first block that matters to the last one: a line may cross the view between two blocks outside."""
        if table.count is None:
            return None
        wanted = np.ones(table.count, bool)
        for name, (low, high) in self._ranges(shift).items():
            bounds = table.bounds(name)
            if bounds is not None:
                after = np.concatenate((bounds[1:], bounds[-1:]))
                ends = np.minimum(bounds[:, 0], after[:, 0]), np.maximum(bounds[:, 1], after[:, 1])
                wanted &= Filter(name, low, high).may_meet(np.column_stack(ends))
        places = np.flatnonzero(wanted)
        return list(range(places[0], min(places[-1] + 2, table.count))) if len(places) else []

    def _track_numbers(self, columns: Columns) -> Array | None:
        if self._tracks is None:
            return None
        array = columns[self._tracks.column]
        return numbers(array) if is_number(array.type) else self._tracks.codes(array)

    def _rows(self, columns: Columns, shift: float) -> Rows:
        query = self.query
        meant = all_meant(query.filters, columns)
        x, y = (numbers(columns[name]) for name in (query.x, query.y))
        value: Array | None = (
            None if query.value is None else numbers(columns[query.value]).astype(np.float64, copy=False)
        )
        codes: Array | None = (
            None if self._categories is None else self._categories.codes(columns[self._categories.column])
        )
        if query.reduction == "envelope":
            y = np.full(len(x), 0.5, x.dtype)  # whatever the value, it counts in the one row there is
        if shift or x.dtype != y.dtype or x.dtype != np.float32:
            x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
        x = x + shift if shift else x
        if meant is None:
            return Rows(x, y, value, codes)
        if query.mark == "lines":
            return Rows(np.where(meant, x, np.nan), y, value, codes)
        value, codes = (None if array is None else array[meant] for array in (value, codes))
        return Rows(x[meant], y[meant], value, codes)

    def _shifts(self, box: Box | None) -> list[float]:
        """Return by how much the data is moved: as often as it appears side by side in the view."""
        period = self.query.period
        if period is None:
            return [0.0]
        if box is None:
            return []
        left, _, right, _ = self.grid.bounds
        first, last = math.ceil((left - box[2]) / period), math.floor((right - box[0]) / period)
        if last - first >= MOST_PERIODS:
            raise QueryError(f"the view shows the same data {last - first + 1} times; allowed: {MOST_PERIODS}")
        return [number * period for number in range(first, last + 1)]

    def _ranges(self, shift: float) -> dict[str, tuple[float, float]]:
        left, bottom, right, top = self.grid.bounds
        slack = abs(shift) * 1e-12  # moved coordinates are rounded
        ranges = {self.query.x: (left - shift - slack, right - shift + slack)}
        return ranges if self.query.reduction == "envelope" else {**ranges, self.query.y: (bottom, top)}

    def _say(self, table: Table, blocks: Sequence[int] | None) -> None:
        self.way = "scan" if blocks is None or len(blocks) == table.count else "index"


def _pieces(table: Table, columns: Sequence[str], blocks: Sequence[int] | None) -> Iterator[list[Load]]:
    """Gather blocks to pieces that are worth a thread's while."""
    numbers_of_blocks = iter(range(table.count or 0) if blocks is None else blocks)
    pending: list[Load] = []
    rows = 0
    for load in table.loads(columns, blocks):
        size = PIECE_ROWS if table.rows is None else int(table.rows[next(numbers_of_blocks)])
        if pending and rows + size > PIECE_ROWS:
            yield pending
            pending, rows = [], 0
        pending.append(load)
        rows += size
    if pending:
        yield pending


def _made(loads: Sequence[Load], work: Callable[[Columns], T]) -> T:
    return work(_gathered(loads))


def _gathered(loads: Sequence[Load]) -> Columns:
    found = [load() for load in loads]
    if len(found) == 1:
        return found[0]
    return {name: _concatenated([columns[name] for columns in found]) for name in found[0]}


def _concatenated(arrays: list[Any]) -> Any:
    if types.is_dictionary(arrays[0].type):
        return pa.chunked_array(arrays).unify_dictionaries().combine_chunks()
    return pa.concat_arrays(arrays)
