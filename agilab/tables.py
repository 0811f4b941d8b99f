"""What differs between two tables in parquet, column by column and in bounded memory; whose tables they are it ignores.

Rows are compared by their position, in batches. pyarrow is imported when two
tables are compared, and is not a requirement of AGILAB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from agilab.differences import EXACT, Tolerance
from agilab.errors import EvidenceError

BATCH_ROWS = 1 << 16
FIRST_ROWS = 1 << 12
"""Rows compared at a time where only the first difference is looked for."""
SORTED_BYTES = 128 << 20
"""Largest two tables that are sorted to see whether only the order of rows has changed [bytes, decoded]."""
WITHOUT_PYARROW = "without pyarrow tables are compared by size and digest; python -m pip install pyarrow"


@dataclass(slots=True)
class Budget:
    """How much may still be read [bytes, decoded]; spent by every comparison that shares it."""

    left: float

    def spend(self, size_bytes: int) -> bool:
        """Take away from it; say whether something is left."""
        self.left -= size_bytes
        return self.left > 0


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """What differs in one column.

    Parameters
    ----------
    name
        Of the column.
    old, new
        Its type in each table; empty where the table has no such column.
    differing
        Rows whose values are not the same; None where that was not counted.
    beyond
        Rows of these whose numbers are further apart than the tolerance, or are no numbers.
    max_abs, max_rel
        Largest difference of numbers, and relative to the first table's; None where there is none.
    first_row
        Position of the first row beyond, from 0; None where there is none.
    first
        Both values there, as text.
    """

    name: str
    old: str
    new: str
    differing: int | None = 0
    beyond: int = 0
    max_abs: float | None = None
    max_rel: float | None = None
    first_row: int | None = None
    first: tuple[str, str] | None = None

    @property
    def differs(self) -> bool:
        """Whether it is more than numbers within the tolerance."""
        return self.old != self.new or self.differing is None or self.beyond > 0


@dataclass(frozen=True, slots=True)
class TableChange:
    """What differs between two tables.

    Parameters
    ----------
    rows
        How many each has.
    compared_rows
        How many were compared: all, or fewer where the budget ended.
    same_rows
        How many of the first rows are the same, where the tables have different numbers of rows; else None.
    columns
        Those that differ.
    columns_reordered, rows_reordered
        Whether only the order differs.
    """

    rows: tuple[int, int]
    compared_rows: int
    same_rows: int | None = None
    columns: tuple[ColumnChange, ...] = ()
    columns_reordered: bool = False
    rows_reordered: bool = False

    @property
    def complete(self) -> bool:
        """Whether every row was compared that has a counterpart; in tables of different length, up to a change."""
        if self.same_rows is not None and self.same_rows < self.compared_rows:
            return True
        return self.compared_rows == min(self.rows)

    @property
    def same(self) -> bool:
        """Whether all values are the same within the tolerance, as far as they were compared, order included."""
        ordered = not self.columns_reordered and not self.rows_reordered
        return ordered and self.rows[0] == self.rows[1] and not any(column.differs for column in self.columns)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "complete": self.complete, "same": self.same}


def table_changes(
    old: BinaryIO, new: BinaryIO, *, tolerance: Tolerance = EXACT, budget: Budget | None = None
) -> TableChange:
    """Compare two parquet files.

    Parameters
    ----------
    old, new
        The files, open for reading.
    tolerance
        For numbers.
    budget
        How much may be read; None for everything.

    Raises
    ------
    EvidenceError
        One of them is no parquet file that can be read.
    ImportError
        There is no pyarrow.
    """
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from pyarrow import parquet

    budget = budget or Budget(float("inf"))
    try:
        files = parquet.ParquetFile(old), parquet.ParquetFile(new)
        return _compare(*files, tolerance=tolerance, budget=budget)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError) as err:
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise EvidenceError(f"not a table that can be read: {said:.200}") from err


def _compare(old: Any, new: Any, *, tolerance: Tolerance, budget: Budget) -> TableChange:
    fields = [{field.name: str(_plain(field.type)) for field in file.schema_arrow} for file in (old, new)]
    for file, names in zip((old, new), fields, strict=True):
        if len(names) != len(file.schema_arrow):
            raise ValueError("two of its columns have one name")
    common = [name for name in fields[0] if name in fields[1]]
    rows = old.metadata.num_rows, new.metadata.num_rows
    columns = [_Column(name, old.schema_arrow, new.schema_arrow, tolerance) for name in common]
    compared = read_bytes = 0
    batch_rows = BATCH_ROWS if rows[0] == rows[1] else FIRST_ROWS
    for left, right in _aligned(*(_batches(file, common, batch_rows) for file in (old, new))):
        for index, column in enumerate(columns):
            column.take(compared, left.column(index), right.column(index))
        compared += left.num_rows
        size_bytes = left.nbytes + right.nbytes
        read_bytes += size_bytes
        if rows[0] != rows[1] and any(column.first_row is not None for column in columns):
            break
        if not budget.spend(size_bytes + left.num_rows):
            break
    compared = compared if common else min(rows)
    same_rows = None
    if rows[0] != rows[1]:
        same_rows = min((column.first_row for column in columns if column.first_row is not None), default=compared)
        columns = [_Column(name, old.schema_arrow, new.schema_arrow, tolerance) for name in common]
    whole = same_rows is None and compared == rows[0]
    reordered = whole and read_bytes <= SORTED_BYTES and _only_reordered(old, new, columns)
    if reordered:
        columns = []
    missing = [
        ColumnChange(name, fields[0].get(name, ""), fields[1].get(name, ""))
        for name in [*fields[0], *fields[1]]
        if name not in common
    ]
    changed = [found for column in columns if (found := column.result()) is not None]
    in_order = common == [name for name in fields[1] if name in fields[0]]
    return TableChange(rows, compared, same_rows, (*missing, *changed), not in_order, reordered)


def _batches(file: Any, names: Sequence[str], batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
    """Yield the columns of a file that are asked for, in that order and decoded, a batch of rows at a time."""
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

    for batch in file.iter_batches(batch_size=batch_rows, columns=list(names)):
        columns = [batch.column(name) for name in names]
        plain = [item.dictionary_decode() if hasattr(item, "dictionary_decode") else item for item in columns]
        yield pa.RecordBatch.from_arrays(plain, names=list(names))


def _aligned(left: Iterator[Any], right: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of batches of equal length, until one side ends."""
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        count = min(a.num_rows, b.num_rows)
        if count:
            yield a.slice(0, count), b.slice(0, count)
        a = a.slice(count) if a.num_rows > count else next(left, None)
        b = b.slice(count) if b.num_rows > count else next(right, None)


def _plain(kind: Any) -> Any:
    """Return the type of the values where they are stored by dictionary."""
    from pyarrow import types  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return kind.value_type if types.is_dictionary(kind) else kind


def _only_reordered(old: Any, new: Any, columns: Sequence[_Column]) -> bool:
    """Whether two tables that differ hold the same rows in another order; sorts one column before it sorts all."""
    changed = [column for column in columns if column.first_row is not None]
    if not changed or any(column.mode not in ("number", "exact") for column in columns):
        return False
    if [field.name for field in old.schema_arrow if field.name not in new.schema_arrow.names]:
        return False
    names = [changed[0].name, *(column.name for column in columns if column is not changed[0])]
    return all(_same_when_sorted(old, new, keys) for keys in (names[:1], names))


def _same_when_sorted(old: Any, new: Any, names: Sequence[str]) -> bool:
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

    keys = [(name, "ascending") for name in names]
    tables = [pa.Table.from_batches(_batches(file, names)).sort_by(keys).combine_chunks() for file in (old, new)]
    for name in names:
        column = _Column(name, tables[0].schema, tables[1].schema, EXACT)
        for pair in zip(*(table.column(name).chunks for table in tables), strict=True):
            column.take(0, *pair)
        if column.first_row is not None:
            return False
    return True


class _Column:
    """Compares one column, batch by batch.

    Attributes
    ----------
    mode
        ``"number"``, ``"exact"``, ``"whole"`` (lists and the like: same or not) or ``"types"`` (nothing to compare).
    """

    def __init__(self, name: str, old: Any, new: Any, tolerance: Tolerance) -> None:
        self.name, self.tolerance = name, tolerance
        self.types = tuple(_plain(schema.field(name).type) for schema in (old, new))
        self.mode = _mode(*self.types)
        self.differing: int | None = 0
        self.beyond = 0
        self.max_abs: float | None = None
        self.max_rel: float | None = None
        self.first_row: int | None = None
        self.first: tuple[str, str] | None = None

    def take(self, offset: int, old: Any, new: Any) -> None:
        """Compare one batch of rows, the first of which has the position `offset`."""
        if self.mode == "types":
            return
        if old.equals(new):
            return
        if self.mode == "whole":
            self.differing = None
            if self.first_row is None:
                self.first_row = offset
            return
        from pyarrow import compute as pc  # type: ignore[import-not-found,import-untyped,unused-ignore]

        floats = [pc.cast(array, "float64", safe=False) for array in (old, new)] if self.mode == "number" else []
        exact = not floats or (old.type == new.type and not str(old.type).startswith("half"))
        same = pc.fill_null(pc.equal(*((old, new) if exact else floats)), fill_value=False)
        same = pc.or_(same, pc.and_(old.is_null(), new.is_null()))
        if floats:
            nans = [pc.fill_null(pc.is_nan(array), fill_value=False) for array in floats]
            same = pc.or_(same, pc.and_(*nans))
        places = pc.indices_nonzero(pc.invert(same))
        if not len(places):
            return
        assert self.differing is not None
        self.differing += len(places)
        if floats:
            places = places.filter(self._far(*(array.take(places) for array in floats)))
        self.beyond += len(places)
        if self.first_row is None and len(places):
            place = places[0].as_py()
            self.first_row = offset + place
            self.first = (_text(old[place]), _text(new[place]))

    def _far(self, old: Any, new: Any) -> Any:
        """Say which numbers are further apart than the tolerance, and remember the largest difference."""
        from pyarrow import compute as pc  # type: ignore[import-not-found,import-untyped,unused-ignore]

        way = pc.abs(pc.subtract(new, old))
        finite = pc.fill_null(pc.is_finite(way), fill_value=False)
        relative = pc.divide(way, pc.abs(old))  # infinite where the old one is 0
        usable = pc.fill_null(pc.is_finite(relative), fill_value=False)
        self.max_abs = _larger(self.max_abs, pc.max(way.filter(finite)).as_py())
        self.max_rel = _larger(self.max_rel, pc.max(relative.filter(usable)).as_py())
        if not self.tolerance.rtol and not self.tolerance.atol:
            return pc.is_valid(pc.coalesce(way, 0.0))  # all of them, also whole numbers that are one as floats
        size = pc.max_element_wise(pc.abs(old), pc.abs(new))
        allowed = pc.max_element_wise(pc.multiply(size, self.tolerance.rtol), self.tolerance.atol)
        near = pc.fill_null(pc.less_equal(way, allowed), fill_value=False)
        return pc.invert(pc.and_(near, finite))

    def result(self) -> ColumnChange | None:
        """Return what differs; None when nothing does."""
        old, new = map(str, self.types)
        if old == new and self.differing == 0:
            return None
        return ColumnChange(
            name=self.name,
            old=old,
            new=new,
            differing=self.differing,
            beyond=self.beyond,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            first_row=self.first_row,
            first=self.first,
        )


def _mode(old: Any, new: Any) -> str:
    from pyarrow import types  # type: ignore[import-not-found,import-untyped,unused-ignore]

    if types.is_nested(old) or types.is_nested(new):
        return "whole" if old == new else "types"
    numeric = [types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) for kind in (old, new)]
    if all(numeric):
        return "number"
    text = [types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) for kind in (old, new)]
    return "exact" if old == new or all(text) else "types"


def _larger(known: float | None, found: float | None) -> float | None:
    return known if found is None else max(found, known or 0.0)


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
