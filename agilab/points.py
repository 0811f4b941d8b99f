"""Large point data on disk: row groups with bounds, an order that zooms fast, a pyramid of counts; it draws nothing.

A points file is a parquet file, readable by anything that reads parquet. What
is added stands in its key-value metadata under ``agilab.points``, as JSON::

    {"schema": "agilab.points/1", "x": "x", "y": "y", "order": "morton" | null,
     "count": rows, "row_groups": [[left, bottom, right, top] | null, ...]}

A row group without any point that has a place (a null, NaN or infinite
coordinate has none) has null for bounds. The pyramid is an ``.npz`` file::

    bounds            float64, (left, bottom, right, top) of all points that have a place
    count_1024        unsigned, shape (y, x) = (1024, 1024), row 0 at the bottom
    count_512 ... count_32    the same, each made from the one before by adding 2 x 2

Cells are those of Datashader: ``int(x * scale + offset)``, a point on the upper
edge in the last cell. The same data gives the same bytes, whatever the clock
and the number of threads. Standard library only at module level; numpy and
pyarrow are the business of the worker environment.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agilab.errors import WorkerError

METADATA_KEY = b"agilab.points"
SCHEMA = "agilab.points/1"
ROW_GROUP_ROWS = 1 << 20
"""Most rows of a row group when the order is kept."""
MORTON_ROW_GROUP_ROWS = 1 << 17
"""Most rows of a row group along the Morton curve: small, so that a zoom reads little besides what it shows."""
PYRAMID_SIZES = (1024, 512, 256, 128, 64, 32)
KEPT_BYTES = 1 << 28
"""Coordinates kept in memory for the pyramid while writing [bytes]; beyond that they are read back."""

_ROW_BITS = 31  # key and row number share 64 bits: 32 of the Morton curve, one for points without a place, the row
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
        ``"morton"`` sorts the rows along the Morton curve over their bounds; the
        data has to fit in memory, twice. None keeps the order and streams: what is
        held is one row group and `KEPT_BYTES`. A row group ends between two
        batches wherever a batch fits into one.
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
    groups = _groups(batches) if order is None else _in_morton_order(schema, batches, x, y)
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


def _groups(batches: Iterator[Any]) -> Iterator[Any]:
    """Gather batches into tables of at most `ROW_GROUP_ROWS` rows."""
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

    pending: list[Any] = []
    rows = 0
    for batch in batches:
        if pending and rows + batch.num_rows > ROW_GROUP_ROWS:
            yield _table(pending)
            pending, rows = [], 0
        if batch.num_rows > ROW_GROUP_ROWS:
            whole = pa.Table.from_batches([batch])
            yield from (whole.slice(start, ROW_GROUP_ROWS) for start in range(0, batch.num_rows, ROW_GROUP_ROWS))
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


def _in_morton_order(schema: Any, batches: Iterator[Any], x: str, y: str) -> Iterator[Any]:
    import numpy as np
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

    table = _table(list(batches), schema).combine_chunks()
    if table.num_rows >= 1 << _ROW_BITS:
        raise WorkerError(
            f"{table.num_rows} points are too many to sort at once; write several artifacts, or order=None"
        )
    xs, ys = _coordinates(table, x, y)
    box = _bounds(xs, ys)
    rank = np.arange(table.num_rows, dtype=np.uint64)
    if box is not None:
        # Key and row number in one integer: sorted fast, and ties keep their order.
        for start in range(0, table.num_rows, _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            rank[part] |= _morton(xs[part], ys[part], box) << np.uint64(_ROW_BITS)
        rank.sort()
    rows = (rank & np.uint64((1 << _ROW_BITS) - 1)).astype(np.int64)
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

    def keep(self, xs: Any, ys: Any) -> None:
        self._room -= xs.nbytes + ys.nbytes
        if self._room >= 0:
            self._kept.append((xs, ys))

    def write(self, target: Path, bounds: Sequence[_Bounds | None]) -> None:
        import numpy as np

        boxes = np.array([box for box in bounds if box is not None]).reshape(-1, 4)
        size = PYRAMID_SIZES[0]
        counts = np.zeros(size * size, np.int64)
        total = np.full(4, np.nan)
        if len(boxes):
            total = np.concatenate((boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)))
            for xs, ys in self._groups(len(bounds)):
                counts += np.bincount(_cells(xs, ys, total.tolist(), size), minlength=size * size + 1)[:-1]
        _write_npz(target, {"bounds": total, **_levels(counts.reshape(size, size))})

    def _groups(self, count: int) -> Iterator[tuple[Any, Any]]:
        yield from self._kept
        if len(self._kept) < count:
            from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

            with parquet.ParquetFile(self._path) as file:
                for index in range(len(self._kept), count):
                    yield _coordinates(file.read_row_group(index, columns=[*self._columns]), *self._columns)


def _cells(xs: Any, ys: Any, box: Sequence[float], size: int) -> Any:
    """Return the cell of every point as ``row * size + column``, ``size * size`` for points without a place."""
    import numpy as np

    cells = np.empty(len(xs), np.int64)
    for start in range(0, len(xs), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        east, east_placed = _steps(xs[part], box[0], box[2], size)
        north, north_placed = _steps(ys[part], box[1], box[3], size)
        north *= size
        north += east
        placed = east_placed & north_placed
        if not placed.all():
            north[~placed] = size * size
        cells[part] = north
    return cells


def _steps(values: Any, low: float, high: float, size: int) -> tuple[Any, Any]:
    import numpy as np

    scale = _scale(size, low, high)
    places = values.astype(np.float64)
    placed = np.isfinite(places)
    if not placed.all():
        places[~placed] = low
    places *= scale
    places += -low * scale
    return places.astype(np.int64).clip(0, size - 1), placed


def _scale(steps: int, low: float, high: float) -> float:
    """Return steps per unit; 0 where all lies on one line, or so close to it that a number cannot say."""
    extent = high - low
    return steps / extent if math.ulp(0.0) * steps * steps < extent < math.inf else 0.0


def _levels(finest: Any) -> dict[str, Any]:
    import numpy as np

    levels = {}
    for size in PYRAMID_SIZES:
        if size != len(finest):
            finest = finest.reshape(size, 2, size, 2).sum(axis=(1, 3))
        levels[f"count_{size}"] = finest.astype(np.min_scalar_type(int(finest.max())))
    return levels


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
