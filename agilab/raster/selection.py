"""What lies in a box that somebody has drawn: how many rows, their statistics, and the first of them; it draws none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
from pyarrow import types

from agilab.errors import HostError, QueryError
from agilab.raster.blocks import Table, is_number, numbers, open_table
from agilab.raster.far import Far, in_order
from agilab.raster.filters import Filter, all_meant, wanted_blocks
from agilab.raster.picture import Query, Source
from agilab.raster.scan import Cancelled, Columns, each, never

MOST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the values of one column are like; times are nanoseconds since 1970.

    Parameters
    ----------
    count
        How many there are; missing ones and infinite ones do not count, here or below.
    minimum, maximum, mean
        NaN when there is none.
    deviation
        Standard deviation of the values themselves (divided by their number).
    """

    count: int = 0
    minimum: float = math.nan
    maximum: float = math.nan
    mean: float = math.nan
    deviation: float = math.nan

    @classmethod
    def of(cls, values: Any) -> Statistics:
        """Return the statistics of an array of numbers."""
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return cls()
        ends = float(values.min()), float(values.max())
        return cls(len(values), *ends, float(values.mean()), float(values.std()))

    def plus(self, other: Statistics) -> Statistics:
        """Return the statistics of the values of both (Chan, Golub and LeVeque 1979)."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        squares = self.count * self.deviation**2 + other.count * other.deviation**2
        squares += step**2 * self.count * other.count / count
        return Statistics(
            count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.mean + step * other.count / count,
            math.sqrt(squares / count),
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows in a box.

    Parameters
    ----------
    count
        How many there are.
    statistics
        By name of the column, of all of them; only columns of numbers and times.
    rows
        The first of them, in the order of the tables, as a pyarrow Table.
    missing
        As that of a `Picture`.
    """

    count: int
    statistics: Mapping[str, Statistics]
    rows: Any
    missing: tuple[str, ...] = ()


def select(
    sources: Iterable[Source], query: Query, *, most: int = MOST_ROWS, cancelled: Cancelled = never
) -> Selection:
    """Return the rows that a box holds, its edges included.

    Parameters
    ----------
    sources
        The tables.
    query
        `x`, `y`, `x_range` and `y_range` are the box; `filters` hold too. The rest does not matter.
    most
        How many rows are returned.
    cancelled
        As for `agilab.raster.aggregate`.

    Raises
    ------
    QueryError
        The box has no range, or a column is missing.
    """
    if query.x_range is None or query.y_range is None:
        raise QueryError("a selection needs a box: give x_range and y_range")
    limits = (Filter(query.x, *query.x_range), Filter(query.y, *query.y_range), *query.filters)
    count = 0
    statistics: dict[str, Statistics] = {}
    rows: list[Any] = []
    lost: dict[str, str] = {}
    for far, some in in_order(sources):
        try:
            if far is None:
                found = _of_this_machine(some, query, limits, most=most, cancelled=cancelled)
            else:
                found = _of_host(far, some, query, most=most, cancelled=cancelled)
        except HostError as err:
            lost[err.host] = str(err)
            continue
        count += found.count
        for name, value in found.statistics.items():
            statistics[name] = statistics.get(name, Statistics()).plus(value)
        rows.append(found.rows)
        most -= found.rows.num_rows
    joined = pa.concat_tables(rows, promote_options="permissive") if rows else pa.table({})
    return Selection(count, statistics, joined, tuple(lost.values()))


def _of_host(far: Far, sources: Sequence[Source], query: Query, *, most: int, cancelled: Cancelled) -> Selection:
    count, known, rows = far.select(sources, query, most, cancelled)
    return Selection(count, {name: Statistics(int(one[0]), *one[1:]) for name, one in known.items()}, rows)


def _of_this_machine(
    sources: Sequence[Source], query: Query, limits: Sequence[Filter], *, most: int, cancelled: Cancelled
) -> Selection:
    """Return the rows of tables that lie here."""
    count = 0
    statistics: dict[str, Statistics] = {}
    rows: list[Any] = []
    for source in sources:
        table = open_table(source.path)
        table.check(query.columns)
        table.check((query.x, query.y), numeric=True)
        kept = 0
        for some, found in _selected(table, limits, cancelled):
            count += some.num_rows
            for name, value in found.items():
                statistics[name] = statistics.get(name, Statistics()).plus(value)
            if kept < most:
                rows.append(some.slice(0, most - kept))
                kept += some.num_rows
        most -= min(kept, most)
    tables = [pa.Table.from_batches([batch]) for batch in rows]
    joined = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
    return Selection(count, statistics, joined)


def _selected(
    table: Table, limits: Sequence[Filter], cancelled: Cancelled
) -> Iterator[tuple[Any, Mapping[str, Statistics]]]:
    """Yield the selected rows of every piece of a table, with their statistics."""
    names = list(table.schema.names)

    def work(columns: Columns) -> tuple[Any, Mapping[str, Statistics]]:
        meant = pa.array(all_meant(limits, columns))
        batch = pa.RecordBatch.from_arrays([columns[name] for name in names], names=names).filter(meant)
        numeric = [name for name in names if is_number(batch.schema.field(name).type)]
        # Tables may keep the same column by dictionary or not; what is shown are the values.
        plain = [item.dictionary_decode() if types.is_dictionary(item.type) else item for item in batch.columns]
        batch = pa.RecordBatch.from_arrays(plain, names=names)
        return batch, {name: Statistics.of(numbers(batch.column(name))) for name in numeric}

    return each(table, names, wanted_blocks(table, {}, limits), work=work, cancelled=cancelled)
