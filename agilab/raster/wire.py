"""What crosses between whoever looks and the host where tables lie: queries as JSON, arrays packed; it answers none.

A request and the head of an answer are one line of JSON each; the arrays of an
answer follow its head as they were packed, one after the other::

    {"id": 7, "task": "parts", "sources": [...], ...}
    {"id": 7, "done": {...}, "arrays": [{"name", "kind", "shape", "size_bytes"}]}

An array is packed as all first bytes of its numbers, then all second ones, by
zstd: cells without a row, and the bytes that neighbours share, take no room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

from agilab.raster.filters import Filter, number
from agilab.raster.grid import Array, Box, Grid, Lattice
from agilab.raster.picture import MOST_CELLS, Query, Source

KINDS = ("u1", "u2", "u4", "f8")
"""Numbers that cross: counts as narrow as they can be, and floating point numbers."""
MOST_PLAIN_BYTES = 1 << 26
"""Most that is taken in of anything else, such as the rows of a box [bytes]."""
MOST_BYTES = 1 << 28
"""Largest answer that is taken in [bytes]."""

Said = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host says to a request.

    Parameters
    ----------
    said
        The part in words.
    arrays
        Name -> packed array.
    """

    said: Said
    arrays: Mapping[str, Packed]


@dataclass(frozen=True, slots=True)
class Packed:
    """An array on its way.

    Parameters
    ----------
    kind
        One of `KINDS`; ``"bytes"`` for what is no array of numbers.
    shape
        Its shape.
    data
        Its bytes.
    """

    kind: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: Array) -> Packed:
        """Pack an array of counts or of floating point numbers."""
        least = np.min_scalar_type(int(array.max(initial=0))) if array.dtype.kind == "u" else np.dtype(np.float64)
        array = np.ascontiguousarray(array, least.newbyteorder("<"))
        planes = np.ascontiguousarray(array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T)
        data = pa.compress(planes.tobytes(), codec="zstd", asbytes=True)
        return cls(f"{least.kind}{least.itemsize}", array.shape, data)

    @classmethod
    def of_bytes(cls, data: bytes) -> Packed:
        """Pack what is no array of numbers."""
        return cls("bytes", (len(data),), pa.compress(data, codec="zstd", asbytes=True))

    def plain(self) -> bytes:
        """Return what was packed so; ValueError where it is none, or too large."""
        (size,) = self.shape
        if self.kind != "bytes" or not 0 <= size <= MOST_PLAIN_BYTES:
            raise ValueError(f"{self.kind:.10} of {size} bytes, where at most {MOST_PLAIN_BYTES} are taken")
        data: bytes = pa.decompress(self.data, decompressed_size=size, codec="zstd", asbytes=True) if size else b""
        return data

    def array(self, shape: tuple[int, ...]) -> Array:
        """Return the array; counts as uint32. ValueError where it is none of that shape."""
        if self.kind not in KINDS or self.shape != shape or math.prod(shape) > MOST_CELLS * 64:
            raise ValueError(f"an array {self.kind:.10} of {self.shape}, where one of {shape} was asked for")
        size = int(self.kind[1])
        count = math.prod(shape)
        data = pa.decompress(self.data, decompressed_size=count * size, codec="zstd", asbytes=True) if count else b""
        planes = np.frombuffer(data, np.uint8).reshape(size, count)
        array = np.ascontiguousarray(planes.T).view(np.dtype(f"<{self.kind}")).reshape(shape)
        return array.astype(np.uint32 if self.kind[0] == "u" else np.float64, copy=False)


def sources_to_json(sources: Sequence[Source]) -> list[dict[str, str]]:
    """Return the tables of one host as JSON."""
    return [
        {
            "path": str(source.path),
            "key": source.key,
            "pyramid": str(source.pyramid or ""),
            "index": str(source.index or ""),
            "sha256": source.sha256,
        }
        for source in sources
    ]


def sources_from_json(said: Sequence[Mapping[str, str]]) -> list[Source]:
    """Return the tables that JSON speaks of, as they lie here."""
    return [
        Source(
            Path(one["path"]),
            one["key"],
            Path(one["pyramid"]) if one["pyramid"] else None,
            Path(one["index"]) if one["index"] else None,
            one["sha256"],
        )
        for one in said
    ]


def query_to_json(query: Query) -> dict[str, Any]:
    """Return a query as JSON; times in its filters become nanoseconds since 1970."""
    filters = [
        {
            "column": one.column,
            "low": None if one.low is None else number(one.low),
            "high": None if one.high is None else number(one.high),
            "values": None if one.values is None else [_plain(value) for value in one.values],
        }
        for one in query.filters
    ]
    return {**asdict(query), "filters": filters}


def query_from_json(said: Said) -> Query:
    """Return the query that JSON speaks of."""
    filters = tuple(
        Filter(one["column"], one["low"], one["high"], None if one["values"] is None else tuple(one["values"]))
        for one in said["filters"]
    )
    ranges = {name: tuple(said[name]) if said[name] is not None else None for name in ("x_range", "y_range")}
    return Query(**{**said, **ranges, "filters": filters, "categories": tuple(said["categories"])})


def grid_to_json(grid: Grid) -> dict[str, Any]:
    """Return the cells of a picture as JSON."""
    lattice = None if grid.lattice is None else asdict(grid.lattice)
    return {"bounds": grid.bounds, "columns": grid.columns, "rows": grid.rows, "lattice": lattice}


def grid_from_json(said: Said) -> Grid:
    """Return the cells that JSON speaks of."""
    one = said["lattice"]
    lattice = None
    if one is not None:
        lattice = Lattice(tuple(one["exponents"]), tuple(one["origin"]), one["columns"], one["rows"])
    return Grid(tuple(said["bounds"]), said["columns"], said["rows"], lattice)


def box_from_json(said: Any) -> Box | None:
    """Return left, bottom, right, top; ValueError where it is no box."""
    if said is None:
        return None
    box = tuple(said) if isinstance(said, list) else ()
    if len(box) != 4 or not all(type(end) in (int, float) and math.isfinite(end) for end in box):
        raise ValueError(f"{said!r:.100} is no box")
    left, bottom, right, top = map(float, box)
    if left > right or bottom > top:
        raise ValueError(f"{said!r:.100} is no box")
    return left, bottom, right, top


def whole_number(said: Any) -> int:
    """Return a count; ValueError where it is none."""
    if type(said) is not int or said < 0:
        raise ValueError(f"{said!r:.100} is no count")
    return said


def table_to_bytes(table: Any) -> bytes:
    """Return a pyarrow table as an arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def table_from_bytes(data: bytes) -> Any:
    """Return the table of an arrow stream, looked at from end to end; ValueError where it is none."""
    try:
        table = pa.ipc.open_stream(data).read_all()
        table.validate(full=True)
    except pa.ArrowException as err:
        raise ValueError(f"no table: {err}") from err
    return table


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | int | float) else number(value)
