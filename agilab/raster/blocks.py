"""Tables on disk as blocks of rows that are read one at a time: parquet, arrow, CSV; what they show it does not know.

A block is a row group, a record batch or a piece of text. Columns come as
arrays of numbers: times as nanoseconds since 1970, days and durations as
nanoseconds too, truth values as 0 and 1, missing ones as NaN.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
from pyarrow import compute, csv, ipc, parquet, types

from agilab.errors import EvidenceError, QueryError
from agilab.points import METADATA_KEY

if TYPE_CHECKING:
    from agilab.raster.shelf import Shelf

Numbers = npt.NDArray[Any]
Bounds = npt.NDArray[np.float64]
"""Shape (blocks, 2): least and greatest number of every block; NaN where nobody has recorded it."""

CACHE_BYTES = 1 << 30
"""What `Cache` holds unless it is told otherwise [bytes]."""
_CSV_BLOCK_BYTES = 16 << 20
_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class Cache:
    """Columns that have been decoded, as many as a bound allows; those used last stay. Safe in threads.

    Parameters
    ----------
    limit_bytes
        The bound [bytes].
    shelf
        Where what is missing of tables is made in the background; None to make nothing.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES, *, shelf: Shelf | None = None) -> None:
        self.limit_bytes, self.shelf = limit_bytes, shelf
        self.size_bytes = 0
        self._held: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> Any:
        """Return what is held under a key, or None."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: Any, value: Any, size_bytes: int) -> None:
        """Hold a value; what was not used for longest goes. A value that is too large is not held."""
        with self._lock:
            if key in self._held or size_bytes > self.limit_bytes:
                return
            self._held[key] = (value, size_bytes)
            self.size_bytes += size_bytes
            while self.size_bytes > self.limit_bytes:
                self.size_bytes -= self._held.popitem(last=False)[1][1]


Load = Callable[[], "dict[str, Any]"]
"""Reads the columns of one block: name -> pyarrow array."""


class Table:
    """A table on disk.

    Parameters
    ----------
    path
        The file.
    cache
        Where decoded columns are kept; None to keep none.

    Attributes
    ----------
    schema
        Names and types of its columns.
    count
        How many blocks it has; None for one that has to be read to know.
    rows
        How many rows each block has; None where only reading tells.
    coordinates
        Its x and y column, where it says so itself, as points files do; else None.
    sorted_by_place
        Whether its rows have lost the order they were made in.
    """

    schema: Any
    count: int | None = None
    rows: npt.NDArray[np.int64] | None = None

    def __init__(self, path: Path, cache: Cache | None) -> None:
        stat = path.stat()
        self.path, self.cache = path, cache
        self.coordinates: tuple[str, str] | None = None
        self.sorted_by_place = False
        self.identity = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def check(self, names: Sequence[str], *, numeric: bool = False) -> None:
        """Refuse columns that are not there, or that are no numbers where these are wanted."""
        for name in names:
            places = self.schema.get_all_field_indices(name)
            if len(places) != 1:
                fault = "no column" if not places else f"{len(places)} columns"
                raise QueryError(f"{self.path.name} has {fault} {name!r}; there are {', '.join(self.schema.names)}")
            kind = self.schema.field(places[0]).type
            if numeric and not is_number(kind):
                raise QueryError(f"column {name!r} of {self.path.name} is {kind}; choose one of numbers or times")

    def bounds(self, name: str) -> Bounds | None:
        """Return what is recorded of every block of a column; None when nothing is."""
        return None

    def loads(self, columns: Sequence[str], blocks: Sequence[int] | None = None) -> Iterator[Load]:
        """Yield what reads each block, in order; where blocks are not known before, they are all read on the way."""
        assert self.count is not None
        for number in range(self.count) if blocks is None else blocks:
            yield partial(self._cached, number, columns)

    def _cached(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.cache is not None:
            found = {name: self.cache.get((self.identity, number, name)) for name in columns}
        missing = [name for name in columns if found.get(name) is None]
        if missing:
            read = self._read(number, missing)
            found |= read
            if self.cache is not None:
                for name, array in read.items():
                    self.cache.put((self.identity, number, name), array, array.nbytes)
        return found

    def _read(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        raise NotImplementedError


class _Parquet(Table):
    def __init__(self, path: Path, cache: Cache | None) -> None:
        super().__init__(path, cache)
        with parquet.ParquetFile(path) as file:
            self.schema = file.schema_arrow
            self._metadata = file.metadata
        self.count = self._metadata.num_row_groups
        self.rows = np.array([self._metadata.row_group(number).num_rows for number in range(self.count)], np.int64)
        self._leaves = {self._metadata.schema.column(n).path: n for n in range(self._metadata.num_columns)}
        self._known: dict[str, Bounds | None] = {}
        own = (self._metadata.metadata or {}).get(METADATA_KEY)
        if own is not None:
            self._take(json.loads(own))

    def _take(self, own: Mapping[str, Any]) -> None:
        boxes = np.array([box or [np.inf, np.inf, -np.inf, -np.inf] for box in own["row_groups"]]).reshape(-1, 4)
        if self.rows is not None and len(boxes) == len(self.rows):
            self._known = {own["x"]: boxes[:, ::2], own["y"]: boxes[:, 1::2]}
            self.coordinates = own["x"], own["y"]
            self.sorted_by_place = own["order"] is not None

    def bounds(self, name: str) -> Bounds | None:
        if name not in self._known:
            self._known[name] = self._statistics(name)
        return self._known[name]

    def _statistics(self, name: str) -> Bounds | None:
        leaf = self._leaves.get(name)
        kind = self.schema.field(name).type
        if leaf is None or not is_number(kind) or types.is_decimal(kind):
            return None
        whole = types.is_temporal(kind)
        scale = _nanoseconds(kind) if whole else 1
        found = np.full((self._metadata.num_row_groups, 2), np.nan)
        for number in range(len(found)):
            statistics = self._metadata.row_group(number).column(leaf).statistics
            if statistics is None or not statistics.has_min_max:
                continue
            pair = (statistics.min_raw, statistics.max_raw) if whole else (statistics.min, statistics.max)
            # Writers disagree on whether NaN counts; a bound that is one says nothing.
            with contextlib.suppress(TypeError, ValueError):
                found[number] = [float(value) * scale for value in pair]
        return None if np.isnan(found).all() else found

    def _read(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        # A file object is not for several threads at once; opening one with metadata at hand costs next to nothing.
        with _readable(self.path), parquet.ParquetFile(self.path, metadata=self._metadata, memory_map=True) as file:
            table = file.read_row_group(number, columns=list(columns), use_threads=False)
        return {name: _whole(table.column(name)) for name in columns}


class _Arrow(Table):
    def __init__(self, path: Path, cache: Cache | None) -> None:
        super().__init__(path, cache)
        self._file = ipc.open_file(pa.memory_map(str(path)))
        self.schema = self._file.schema
        self.count = self._file.num_record_batches
        self._turn = threading.Lock()  # the first batch reads the dictionaries, and must be alone

    def _read(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        with _readable(self.path), self._turn:
            batch = self._file.get_batch(number)
        return {name: batch.column(self.schema.get_field_index(name)) for name in columns}


class _Streamed(Table):
    """A table that can only be read from its beginning; once all of it is in the cache, it is read from there."""

    def loads(self, columns: Sequence[str], blocks: Sequence[int] | None = None) -> Iterator[Load]:
        count = self.cache.get((self.identity, "blocks")) if self.cache is not None else None
        if count is not None and all(self._has(number, columns) for number in range(count)):
            for number in range(count):
                yield partial(self._cached, number, columns)
            return
        number = -1
        with _readable(self.path):
            for number, batch in enumerate(self._batches(columns)):
                read = {name: batch.column(name) for name in columns}
                if self.cache is not None:
                    for name, array in read.items():
                        self.cache.put((self.identity, number, name), array, array.nbytes)
                yield partial(dict, read)
        if self.cache is not None:
            self.cache.put((self.identity, "blocks"), number + 1, 0)

    def _has(self, number: int, columns: Sequence[str]) -> bool:
        assert self.cache is not None
        return all(self.cache.get((self.identity, number, name)) is not None for name in columns)

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        raise NotImplementedError

    def _read(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        # It has left the cache since it was looked for.
        for at, batch in enumerate(self._batches(columns)):
            if at == number:
                return {name: batch.column(name) for name in columns}
        raise EvidenceError(f"{self.path} has changed while it was read; read it again")


class _Csv(_Streamed):
    def __init__(self, path: Path, cache: Cache | None) -> None:
        super().__init__(path, cache)
        with _readable(path), self._open(csv.ConvertOptions()) as reader:
            self.schema = reader.schema

    def _open(self, convert: Any) -> Any:
        return csv.open_csv(self.path, csv.ReadOptions(block_size=_CSV_BLOCK_BYTES), convert_options=convert)

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        # Types are guessed from the first block: what is whole numbers there, or nothing, may have fractions later on.
        guessed = {name: self.schema.field(name).type for name in columns}
        wider = {name: pa.float64() for name, kind in guessed.items() if types.is_integer(kind) or types.is_null(kind)}
        with self._open(csv.ConvertOptions(include_columns=list(columns), column_types={**guessed, **wider})) as reader:
            yield from reader


class _ArrowStream(_Streamed):
    def __init__(self, path: Path, cache: Cache | None) -> None:
        super().__init__(path, cache)
        with _readable(path), pa.memory_map(str(path)) as source, ipc.open_stream(source) as reader:
            self.schema = reader.schema

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        with pa.memory_map(str(self.path)) as source, ipc.open_stream(source) as reader:
            for batch in reader:
                yield batch.select(list(columns))


def open_table(path: Path, cache: Cache | None = None) -> Table:
    """Open a table, by what its first bytes say it is.

    Parameters
    ----------
    path
        A parquet, arrow (feather) or CSV file.
    cache
        Where decoded columns are kept; None to keep none.

    Raises
    ------
    EvidenceError
        It cannot be read.
    """
    with _readable(path):
        with open(path, "rb") as file:
            head = file.read(8)
        if head.startswith(b"PAR1"):
            return _Parquet(path, cache)
        if head.startswith(b"ARROW1"):
            return _Arrow(path, cache)
        return _ArrowStream(path, cache) if head.startswith(b"\xff\xff\xff\xff") else _Csv(path, cache)


def is_number(kind: Any) -> bool:
    """Say whether values of an arrow type have a place on an axis: numbers, times, truth values; or are all missing."""
    numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    return numeric or types.is_null(kind) or (types.is_temporal(kind) and not types.is_interval(kind))


def numbers(array: Any) -> Numbers:
    """Return an arrow array as float32, where it is that, or float64 (int64 for times without a gap)."""
    kind = array.type
    if types.is_temporal(kind):
        whole = array.cast(pa.int32()) if types.is_date32(kind) or types.is_time32(kind) else array
        values: Numbers = whole.cast(pa.int64()).to_numpy(zero_copy_only=False)
        scale = _nanoseconds(kind)
        return values if scale == 1 else values * scale
    if types.is_boolean(kind) or types.is_decimal(kind):
        array = compute.cast(array, pa.float64()) if types.is_decimal(kind) else array.cast(pa.int8())
    values = array.to_numpy(zero_copy_only=False)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def _nanoseconds(kind: Any) -> int:
    if types.is_date32(kind):
        return 86_400 * 10**9
    return 10**6 if types.is_date64(kind) else _NS[kind.unit]


def _whole(column: Any) -> Any:
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.unify_dictionaries().combine_chunks() if types.is_dictionary(column.type) else column.combine_chunks()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as err:
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise EvidenceError(f"{path} is not a table that can be read: {said:.200}") from err
