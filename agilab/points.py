"""Large point data on disk: row groups with bounds, an order that zooms fast, a pyramid of counts; it draws nothing.

A points file is a parquet file, readable by anything that reads parquet. What
is added stands in its key-value metadata under ``agilab.points``, as JSON::

    {"schema": "agilab.points/1", "x": "x", "y": "y", "order": "morton" | null,
     "count": rows, "row_groups": [[left, bottom, right, top] | null, ...]}

A row group without any point that has a place (a null, NaN or infinite
coordinate has none) has null for bounds. The pyramid is an ``.npz`` file::

    columns    names of the coordinate columns, x and y
    bounds     float64, (left, bottom, right, top) of all points that have a place
    grid       int64, (x exponent, y exponent, x origin, y origin, columns, rows) of level 0
    count_0    unsigned, shape (y, x), row 0 at the bottom; or, where that is smaller,
               the counts of the cells that are not empty, which are named by
    cells_0    unsigned, ``row * columns + column``, ascending
    count_1 ...    the same, with cells of twice the size

Cell ``i`` of level ``n`` begins at ``(origin >> n) + i`` times ``2 ** (exponent + n)``.
All pyramids share these lines, so that their counts add up, whatever their
bounds. Cells are those of Datashader on that grid: ``int(x * scale + offset)``.
The same data gives the same bytes, whatever the clock and the number of
threads. Standard library only at module level; numpy and pyarrow are the
business of the worker environment.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab.errors import WorkerError

METADATA_KEY = b"agilab.points"
SCHEMA = "agilab.points/1"
ROW_GROUP_ROWS = 1 << 20
"""Most rows of a row group when the order is kept."""
MORTON_ROW_GROUP_ROWS = 1 << 17
"""Most rows of a row group along the Morton curve: small, so that a zoom reads little besides what it shows."""
SORTED_ROWS = 1 << 24
"""Most rows sorted at a time; what is longer becomes several curves, one after the other."""
PYRAMID_SIZE = 4096
"""Most columns and rows of the finest level."""
COARSEST_SIZE = 32
KEPT_BYTES = 1 << 28
"""Coordinates kept in memory for the pyramid while writing [bytes]; beyond that they are read back."""

_ROW_BITS = 31  # key and row number share 64 bits: 32 of the Morton curve, one for points without a place, the row
_MOST_EXPONENT = 1000  # a scale of 2 ** 1000 and what it multiplies are numbers still
_BLOCK_ROWS = 1 << 16  # temporary arrays of this length stay in the processor's cache
_Bounds = tuple[float, float, float, float]


def write(
    target: Path,
    table: Any,
    *,
    x: str,
    y: str,
    order: str | None = "morton",
    pyramid: Path | None = None,
) -> None:
    """Write points as parquet with zstd, with the bounds of every row group.

    Parameters
    ----------
    target
        Parquet file to write.
    table
        A pyarrow Table, or an iterable of record batches of one schema, which is consumed once.
    x, y
        Names of the coordinate columns.
    order
        ``"morton"`` sorts the rows along the Morton curve over their bounds,
        `SORTED_ROWS` at a time. None keeps the order: what is held is one row group
        and `KEPT_BYTES`. A row group ends between two batches wherever a batch fits
        into one.
    pyramid
        ``.npz`` file to write counts at several resolutions to; None for none.

    Raises
    ------
    WorkerError
        A column is missing or not numeric, the order is unknown, or there is no batch.

    Notes
    -----
    Floating point columns are stored as byte streams, integers and times as
    deltas, the rest by dictionary: half the size and a third of the time of
    dictionaries throughout, for data such as tracks.
    """
    from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    schema, batches = _open(table)
    _check_columns(schema, (x, y))
    if order not in (None, "morton"):
        raise WorkerError(f"points have no order {order!r}; choose 'morton', or None to keep the order they have")
    groups = _groups(batches, ROW_GROUP_ROWS) if order is None else _in_morton_order(batches, x, y)
    counter = _Counter(target, x, y) if pyramid is not None else None
    bounds: list[_Bounds | None] = []
    rows = 0
    with parquet.ParquetWriter(target, schema, compression="zstd", **_encodings(schema)) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=group.num_rows)
            rows += group.num_rows
            xs, ys = _coordinates(group, x, y)
            bounds.append(_bounds(xs, ys))
            if counter is not None:
                counter.keep(xs, ys)
        writer.add_key_value_metadata({METADATA_KEY.decode(): _metadata(x, y, order=order, rows=rows, bounds=bounds)})
    if counter is not None and pyramid is not None:
        counter.write(pyramid, bounds)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what `write` recorded in a points file.

    Raises
    ------
    WorkerError
        The file is parquet, but not one that `write` made.
    """
    from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    found = parquet.read_metadata(path).metadata or {}
    if METADATA_KEY not in found:
        raise WorkerError(f"{path} is not a points file: no {METADATA_KEY.decode()!r} in its metadata; write it anew")
    value: dict[str, Any] = json.loads(found[METADATA_KEY])
    return value


def _metadata(x: str, y: str, *, order: str | None, rows: int, bounds: Sequence[_Bounds | None]) -> str:
    value = {"schema": SCHEMA, "x": x, "y": y, "order": order, "count": rows, "row_groups": list(bounds)}
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _open(table: Any) -> tuple[Any, Iterator[Any]]:
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

    if isinstance(table, pa.Table):
        return table.schema, iter(table.to_batches(max_chunksize=ROW_GROUP_ROWS))
    if isinstance(table, pa.RecordBatch):
        return table.schema, iter((table,))
    if not isinstance(table, Iterable):
        raise WorkerError(f"points come as a pyarrow Table or as record batches, not as {type(table).__name__}")
    batches = iter(table)
    first = next(batches, None)
    if first is None:
        raise WorkerError("no batch of points, so their columns are unknown; hand over at least one, it may be empty")
    if not isinstance(first, pa.RecordBatch):
        raise WorkerError(f"points come as a pyarrow Table or as record batches, not as {type(first).__name__} items")
    return first.schema, itertools.chain((first,), batches)


def _check_columns(schema: Any, names: Iterable[str]) -> None:
    from pyarrow import types  # type: ignore[import-not-found,import-untyped,unused-ignore]

    for name in names:
        places = schema.get_all_field_indices(name)
        if len(places) != 1:
            fault = "no column" if not places else f"{len(places)} columns"
            raise WorkerError(f"points have {fault} {name!r}; there are {', '.join(schema.names)}")
        kind = schema.field(places[0]).type
        if not (types.is_integer(kind) or types.is_floating(kind)):
            raise WorkerError(f"column {name!r} is {kind}; coordinates are integers or floating point numbers")


def _encodings(schema: Any) -> dict[str, Any]:
    from pyarrow import types  # type: ignore[import-not-found,import-untyped,unused-ignore]

    encodings: dict[str, str] = {}
    for field in schema:
        if types.is_floating(field.type):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
        elif types.is_integer(field.type) or (types.is_temporal(field.type) and not types.is_interval(field.type)):
            encodings[field.name] = "DELTA_BINARY_PACKED"
    return {
        "column_encoding": encodings,
        "use_dictionary": [field.name for field in schema if field.name not in encodings],
    }


def _groups(batches: Iterator[Any], most: int) -> Iterator[Any]:
    """Gather batches into tables of at most `most` rows."""
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

    pending: list[Any] = []
    rows = 0
    for batch in batches:
        if pending and rows + batch.num_rows > most:
            yield _table(pending)
            pending, rows = [], 0
        if batch.num_rows > most:
            whole = pa.Table.from_batches([batch])
            yield from (whole.slice(start, most) for start in range(0, batch.num_rows, most))
        elif batch.num_rows:
            pending.append(batch)
            rows += batch.num_rows
    if pending:
        yield _table(pending)


def _table(batches: Sequence[Any], schema: Any = None) -> Any:
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

    try:
        # One dictionary for the row group: a second one would make the writer fall back to plain strings.
        return pa.Table.from_batches(batches, schema=schema).unify_dictionaries()
    except pa.ArrowInvalid as err:
        raise WorkerError(f"batches of points differ in their columns ({str(err).splitlines()[0]})") from err


def _in_morton_order(batches: Iterator[Any], x: str, y: str) -> Iterator[Any]:
    import numpy as np
    import pyarrow as pa

    for gathered in _groups(batches, SORTED_ROWS):
        table = gathered.combine_chunks()
        xs, ys = _coordinates(table, x, y)
        box = _bounds(xs, ys)
        rank = np.arange(table.num_rows, dtype=np.uint64)
        if box is not None:
            # Key and row number in one integer: sorted fast, and ties keep their order.
            for start in range(0, table.num_rows, _BLOCK_ROWS):
                part = slice(start, start + _BLOCK_ROWS)
                rank[part] |= _morton(xs[part], ys[part], box) << np.uint64(_ROW_BITS)
            rank.sort()
        rows = (rank & np.uint64((1 << _ROW_BITS) - 1)).astype(np.uint32)  # half as much to read as 64 bits
        for start in range(0, table.num_rows, MORTON_ROW_GROUP_ROWS):
            yield table.take(pa.array(rows[start : start + MORTON_ROW_GROUP_ROWS]))


def _morton(xs: Any, ys: Any, box: _Bounds) -> Any:
    """Interleave the leading 16 bits of both coordinates; points without a place come last."""
    import numpy as np

    steps = 1 << 16
    nowhere = ~(np.isfinite(xs) & np.isfinite(ys))
    keys = np.zeros(len(xs), np.uint64)
    for values, low, high, shift in ((xs, box[0], box[2], 0), (ys, box[1], box[3], 1)):
        scale = _scale(steps, low, high)
        if not scale:
            continue
        bits = ((np.where(nowhere, low, values) - low) * scale).astype(np.int64).clip(0, steps - 1).astype(np.uint64)
        for distance, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
            bits = (bits | (bits << np.uint64(distance))) & np.uint64(mask)
        keys |= bits << np.uint64(shift)
    keys[nowhere] = 1 << 32
    return keys


def _coordinates(table: Any, x: str, y: str) -> tuple[Any, Any]:
    import numpy as np

    def one(name: str) -> Any:
        values = table.column(name).to_numpy()
        return values if values.dtype == np.float32 else values.astype(np.float64, copy=False)

    return one(x), one(y)


def _bounds(xs: Any, ys: Any) -> _Bounds | None:
    import numpy as np

    if not len(xs):
        return None
    box = (float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
    if not np.isfinite(box).all():
        placed = np.isfinite(xs) & np.isfinite(ys)
        return _bounds(xs[placed], ys[placed])
    return box


class _Counter:
    """Counts points for the pyramid once their bounds are known, from memory as far as they were kept."""

    def __init__(self, path: Path, x: str, y: str) -> None:
        self._path = path
        self._columns = (x, y)
        self._kept: list[tuple[Any, Any]] = []
        self._room = KEPT_BYTES
        self._rows = 0

    def keep(self, xs: Any, ys: Any) -> None:
        self._rows += len(xs)
        self._room -= xs.nbytes + ys.nbytes
        if self._room >= 0:
            self._kept.append((xs, ys))

    def write(self, target: Path, bounds: Sequence[_Bounds | None]) -> None:
        import numpy as np

        names = {"columns": np.array(self._columns)}
        boxes = np.array([box for box in bounds if box is not None]).reshape(-1, 4)
        if not len(boxes):
            _write_npz(target, {**names, "bounds": np.full(4, np.nan), "grid": np.zeros(6, np.int64)})
            return
        total: list[float] = np.concatenate((boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0))).tolist()
        grid = _Grid.around(total)
        dense = self._rows * 8 > grid.columns * grid.rows
        counts: Any = np.zeros(grid.columns * grid.rows, np.uint32) if dense else None
        found = []
        for xs, ys in self._groups(len(bounds)):
            cells = grid.cells(xs, ys)
            if counts is None:
                found.append(cells)
            else:
                np.add.at(counts, cells, np.uint32(1))
        filled = None
        if counts is None:
            filled, counts = np.unique(np.concatenate(found).astype(np.uint32), return_counts=True)
            filled = filled.astype(np.int64)
        _write_npz(target, {**names, "bounds": np.array(total), "grid": grid.array(), **_levels(grid, filled, counts)})

    def _groups(self, count: int) -> Iterator[tuple[Any, Any]]:
        yield from self._kept
        if len(self._kept) < count:
            from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

            with parquet.ParquetFile(self._path) as file:
                for index in range(len(self._kept), count):
                    yield _coordinates(file.read_row_group(index, columns=[*self._columns]), *self._columns)


def exponent(low: float, high: float, most: int) -> int:
    """Return the exponent of the smallest power of two whose multiples cut a range into at most `most` pieces."""
    width = high / most - low / most
    found = math.frexp(width)[1] - 1 if width > 0 else -_MOST_EXPONENT
    finest = math.frexp(math.ulp(max(abs(low), abs(high))))[1] - 1  # numbers there are no closer to each other
    found = min(max(found, finest, -_MOST_EXPONENT), _MOST_EXPONENT)
    while cell(high, found) - cell(low, found) >= most:
        found += 1
    return found


def cell(value: float, exponent: int) -> int:
    """Return which multiple of a power of two is the last one up to a value."""
    return math.floor(value * math.ldexp(1.0, -exponent))


@dataclass(frozen=True, slots=True)
class _Grid:
    """The lines of a level: as those of every other level, multiples of powers of two."""

    exponents: tuple[int, int]
    origin: tuple[int, int]
    columns: int
    rows: int

    @classmethod
    def around(cls, box: Sequence[float]) -> _Grid:
        exponents = exponent(box[0], box[2], PYRAMID_SIZE), exponent(box[1], box[3], PYRAMID_SIZE)
        first = cell(box[0], exponents[0]), cell(box[1], exponents[1])
        last = cell(box[2], exponents[0]), cell(box[3], exponents[1])
        return cls(exponents, first, last[0] - first[0] + 1, last[1] - first[1] + 1)

    def array(self) -> Any:
        import numpy as np

        return np.array((*self.exponents, *self.origin, self.columns, self.rows), np.int64)

    def coarser(self) -> _Grid:
        (kx, ky), (left, bottom) = self.exponents, self.origin
        columns = (left + self.columns - 1 >> 1) - (left >> 1) + 1
        rows = (bottom + self.rows - 1 >> 1) - (bottom >> 1) + 1
        return _Grid((kx + 1, ky + 1), (left >> 1, bottom >> 1), columns, rows)

    def cells(self, xs: Any, ys: Any) -> Any:
        """Return the cell of every point that has a place as ``row * columns + column``."""
        import numpy as np

        cells = np.empty(len(xs), np.int64)
        count = 0
        for start in range(0, len(xs), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            east, east_placed = _steps(xs[part], self.exponents[0], self.origin[0], self.columns)
            north, north_placed = _steps(ys[part], self.exponents[1], self.origin[1], self.rows)
            north *= self.columns
            north += east
            placed = east_placed & north_placed
            if not placed.all():
                north = north[placed]
            cells[count : count + len(north)] = north
            count += len(north)
        return cells[:count]


def _steps(values: Any, exponent: int, origin: int, steps: int) -> tuple[Any, Any]:
    import numpy as np

    places = values.astype(np.float64)
    placed = np.isfinite(places)
    if not placed.all():
        places[~placed] = 0.0
    with np.errstate(over="ignore"):  # a place beyond every number is in the last cell
        places *= math.ldexp(1.0, -exponent)
    places -= origin
    return places.clip(0, steps - 1).astype(np.int64), placed


def _scale(steps: int, low: float, high: float) -> float:
    """Return steps per unit; 0 where all lies on one line, or so close to it that a number cannot say."""
    extent = high - low
    return steps / extent if math.ulp(0.0) * steps * steps < extent < math.inf else 0.0


def _levels(grid: _Grid, filled: Any, counts: Any) -> dict[str, Any]:
    """Return the arrays of all levels from those of the finest: all cells, or those that are filled and which."""
    import numpy as np

    levels = {}
    for level in itertools.count():
        size = grid.columns * grid.rows
        if filled is not None and len(filled) * 8 > size:
            dense = np.zeros(size, counts.dtype)
            dense[filled] = counts
            filled, counts = None, dense
        kind = np.min_scalar_type(int(counts.max()))
        known = np.count_nonzero(counts) if filled is None else len(filled)
        if known * (4 + kind.itemsize) < size * kind.itemsize:
            some = np.flatnonzero(counts) if filled is None else filled
            levels[f"cells_{level}"] = some.astype(np.uint32)
            levels[f"count_{level}"] = (counts[some] if filled is None else counts).astype(kind)
        else:
            levels[f"count_{level}"] = counts.reshape(grid.rows, grid.columns).astype(kind)
        if max(grid.columns, grid.rows) <= COARSEST_SIZE:
            break
        filled, counts = _coarser(grid, filled, counts)
        grid = grid.coarser()
    return levels


def _coarser(grid: _Grid, filled: Any, counts: Any) -> tuple[Any, Any]:
    import numpy as np

    left, bottom = grid.origin[0] & 1, grid.origin[1] & 1
    above = grid.coarser()
    if filled is None:
        padded = np.zeros((2 * above.rows, 2 * above.columns), counts.dtype)
        padded[bottom : bottom + grid.rows, left : left + grid.columns] = counts.reshape(grid.rows, grid.columns)
        halves = padded[::2] + padded[1::2]
        return None, (halves[:, ::2] + halves[:, 1::2]).ravel()
    rows, columns = np.divmod(filled, grid.columns)
    cells = (rows + bottom >> 1) * above.columns + (columns + left >> 1)
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    starts = np.flatnonzero(np.concatenate(([True], cells[1:] != cells[:-1])))
    return cells[starts], np.add.reduceat(counts[order], starts)


def _write_npz(target: Path, arrays: dict[str, Any]) -> None:
    """Write an ``.npz`` file with fixed times and without compression, whose bytes depend on the zlib at hand."""
    import io
    import zipfile

    import numpy as np

    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, on every platform
            info.external_attr = 0o644 << 16
            archive.writestr(info, content.getbuffer())
