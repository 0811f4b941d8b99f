"""Rows as they stand, and how often each value occurs, of tables wherever they lie; it draws none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
from pyarrow import types

from agilab.errors import HostError
from agilab.raster.blocks import open_table
from agilab.raster.far import Facts, asked, by_host
from agilab.raster.picture import Source
from agilab.raster.scan import Cancelled, each, never


def facts(sources: Sequence[Source]) -> Facts:
    """Return what the first of some tables is like whose host answers.

    Raises
    ------
    HostError
        None does.
    """
    lost: dict[str, HostError] = {}
    for source in sources:
        if source.far is None:
            table = open_table(source.path)
            return Facts(table.schema, table.sorted_by_place)
        if source.far.name not in lost:
            try:
                return source.far.facts(source)
            except HostError as err:
                lost[source.far.name] = err
    raise next(iter(lost.values()))


def values(sources: Sequence[Source], column: str, *, cancelled: Cancelled = never) -> Counter[str]:
    """Return the values of a column as texts, and how many rows have each; those of hosts that are lost do not count.

    Parameters
    ----------
    sources
        The tables.
    column
        Its name.
    cancelled
        As for `agilab.raster.aggregate`.
    """
    found: Counter[str] = Counter()
    hosts = by_host(sources)
    for source in hosts.get(None, ()):
        table = open_table(source.path)
        table.check([column])
        for some in each(table, [column], None, work=lambda columns: _counts(columns[column]), cancelled=cancelled):
            found.update(some)
    answers, _ = asked(hosts, lambda far, some: far.values(some, column, cancelled))
    for some in answers.values():
        found.update(some)
    return found


def rows_of(source: Source, names: Sequence[str], first: int, count: int) -> tuple[Any, int]:
    """Return some rows of a table, reading no further than these.

    Parameters
    ----------
    source
        The table.
    names
        Which columns.
    first
        How many rows are passed over.
    count
        How many are wanted.

    Returns
    -------
    tuple
        A pyarrow Table, and how many rows the table has, as far as it was looked at.
    """
    if source.far is not None:
        return source.far.rows(source, names, first, count)
    table = open_table(source.path)
    table.check(names)
    place = 0
    blocks: list[int] | None = None
    if table.rows is not None:
        starts = np.concatenate(([0], np.cumsum(table.rows)))
        blocks = np.flatnonzero(starts[1:] > first).tolist()
        place = int(starts[blocks[0] if blocks else -1])
    none = {name: plain(pa.array([], table.schema.field(name).type)) for name in names}
    found: list[Any] = [pa.table(none)]
    for load in table.loads(names, blocks):
        piece = pa.table({name: plain(array) for name, array in load().items()})
        found.append(piece.slice(max(0, first - place), max(0, first + count - max(first, place))))
        place += piece.num_rows
        if place >= first + count:
            break
    return pa.concat_tables(found, promote_options="permissive").select(list(names)), place


def plain(array: Any) -> Any:
    """Return values that stand beside those of other files, which may keep theirs by dictionary or not."""
    return array.dictionary_decode() if types.is_dictionary(array.type) else array


def _counts(array: Any) -> Mapping[str, int]:
    found = array.value_counts()
    texts = plain(found.field("values")).cast(pa.string()).to_pylist()
    return {value: count for value, count in zip(texts, found.field("counts").to_pylist(), strict=True) if value}
