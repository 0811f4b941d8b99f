"""Traffic as sums over squares of the map and hours: gathered while tracks are made, added up afterwards.

A cell is a square of the web-Mercator plane with sides of `cell_km`; its ground
is smaller, by the cosine of the latitude. Cell (0, 0) has the point 0 N 0 E as its lower
left corner. Sums are exact, since single precision values are added in double precision:
they do not depend on how flights are divided among partitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

HOUR_S = 3600
DAY_H = 24

SUMS = pa.schema(
    [
        pa.field("hour", pa.timestamp("ms", "UTC")),
        pa.field("cell_x", pa.int16()),
        pa.field("cell_y", pa.int16()),
        pa.field("samples", pa.int32()),
        pa.field("flights", pa.int32()),
        pa.field("altitude_sum_m", pa.float64()),
        pa.field("ground_speed_sum_m_s", pa.float64()),
    ]
)
"""Sums of one tracks partition: a row per hour and cell, a row group per UTC day, in order of hour, cell_y, cell_x."""

TRAFFIC = pa.schema(
    [
        pa.field("hour", pa.timestamp("ms", "UTC")),
        pa.field("cell_x", pa.int16()),
        pa.field("cell_y", pa.int16()),
        pa.field("x", pa.float32(), metadata={"unit": "m", "doc": "centre of the cell", "crs": "EPSG:3857"}),
        pa.field("y", pa.float32(), metadata={"unit": "m", "doc": "centre of the cell", "crs": "EPSG:3857"}),
        pa.field("samples", pa.int32()),
        pa.field("flights", pa.int32()),
        pa.field("altitude_modelled_m", pa.float32(), metadata={"unit": "m", "doc": "mean over the samples"}),
        pa.field("ground_speed_modelled_m_s", pa.float32(), metadata={"unit": "m/s", "doc": "mean over the samples"}),
    ]
)
"""Per-cell, per-hour aggregates: one row per hour and cell, in order of hour, cell_y, cell_x."""

# A cell and an hour in one integer, in the order of the tables: hour, cell_y, cell_x.
_CELL_BITS = 13
_CELL_HALF = 1 << (_CELL_BITS - 1)
_ROW_BITS = 22


_REPEATED = ("hour", "cell_x", "cell_y", "x", "y", "samples", "flights")


@dataclass(frozen=True)
class Sums:
    """Sums by cell and hour, as arrays of one length."""

    key: NDArray[np.int64]
    samples: NDArray[np.int64]
    flights: NDArray[np.int64]
    altitude_m: NDArray[np.float64]
    speed_m_s: NDArray[np.float64]

    def part(self, start: int, stop: int) -> Sums:
        """Return some of the sums, as views."""
        return Sums(*(values[start:stop] for values in vars(self).values()))

    def added(self) -> Sums:
        """Return the same with one row per cell and hour, in order."""
        order = _order(self.key)
        key = self.key[order]
        heads = _heads(key)
        rest = (np.add.reduceat(values[order], heads) for name, values in vars(self).items() if name != "key")
        return Sums(key[heads], *rest)


def joined(parts: list[Sums]) -> Sums:
    """Return sums one after the other; at least one."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Sums(*(np.concatenate(column) for column in columns))


class CellTotals:
    """Adds samples up while they are made, and gives away the days that are over.

    Parameters
    ----------
    cell_m
        Side of a cell [m].
    """

    def __init__(self, cell_m: float) -> None:
        self._cell_m = cell_m
        self._pending: list[Sums] = []

    def add(self, samples: Mapping[str, NDArray[Any]], counts: NDArray[np.int64]) -> None:
        """Add the samples of some flights, `counts` of each, one flight after the other."""
        key = samples["time_s"] // HOUR_S
        for name in ("y", "x"):
            cell = np.floor(samples[name].astype(np.float64) / self._cell_m).astype(np.int64)
            key = (key << _CELL_BITS) | (cell + _CELL_HALF).clip(0, 2 * _CELL_HALF - 1)
        # Samples in a row in one cell and hour count as one visit: far fewer to sort.
        starts = np.ones(len(key), bool)
        np.not_equal(key[1:], key[:-1], out=starts[1:])
        starts[np.cumsum(counts)[:-1]] = True
        visits = np.flatnonzero(starts)
        self._pending.append(
            _visits_added(
                Sums(
                    key[visits],
                    samples=np.diff(visits, append=len(key)),
                    flights=samples["flight_id"][visits].astype(np.int64),
                    altitude_m=np.add.reduceat(samples["altitude_modelled_m"], visits, dtype=np.float64),
                    speed_m_s=np.add.reduceat(samples["ground_speed_modelled_m_s"], visits, dtype=np.float64),
                )
            )
        )

    def days_before(self, time_s: float) -> Iterator[pa.Table]:
        """Yield and forget the sums of every UTC day that ended before a time, a table each (`SUMS`)."""
        if not self._pending or min(part.key[0] for part in self._pending) >= _day_start(time_s):
            return
        sums = joined(self._pending).added()
        while len(sums.key):
            end = _day_start((int(sums.key[0]) >> 2 * _CELL_BITS) * HOUR_S) + (DAY_H << 2 * _CELL_BITS)
            if end > _day_start(time_s):
                break
            stop = int(np.searchsorted(sums.key, end))
            yield sums_table(sums.part(0, stop))
            sums = sums.part(stop, len(sums.key))
        self._pending = [sums] if len(sums.key) else []

    def days(self) -> Iterator[pa.Table]:
        """Yield and forget the sums of every UTC day."""
        return self.days_before(float(1 << 40))


def writer(path: Path, schema: pa.Schema) -> parquet.ParquetWriter:
    """Open a file for tables of `SUMS` or `TRAFFIC`; sums and means hardly repeat, so they get no dictionary."""
    dictionaries = [name for name in schema.names if name in _REPEATED]
    return parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=dictionaries)


def sums_table(sums: Sums) -> pa.Table:
    """Return sums as a table (`SUMS`)."""
    hour, cell_x, cell_y = _taken_apart(sums.key)
    columns = [hour, cell_x, cell_y, sums.samples, sums.flights, sums.altitude_m, sums.speed_m_s]
    return _table(columns, SUMS)


def table_sums(table: pa.Table) -> Sums:
    """Return the sums of a table (`SUMS`)."""
    key = table["hour"].cast(pa.int64()).to_numpy() // (1000 * HOUR_S)
    for name in ("cell_y", "cell_x"):
        key = (key << _CELL_BITS) | (table[name].to_numpy().astype(np.int64) + _CELL_HALF)
    return Sums(key, *(table[name].to_numpy() for name in SUMS.names[3:]))


def traffic_table(sums: Sums, cell_m: float) -> pa.Table:
    """Return means per cell and hour (`TRAFFIC`) of sums with one row each."""
    hour, cell_x, cell_y = _taken_apart(sums.key)
    columns = [
        hour, cell_x, cell_y, (cell_x + 0.5) * cell_m, (cell_y + 0.5) * cell_m, sums.samples, sums.flights,
        sums.altitude_m / sums.samples, sums.speed_m_s / sums.samples,
    ]  # fmt: skip
    return _table(columns, TRAFFIC)


def _visits_added(visits: Sums) -> Sums:
    """Add visits, whose flights are ids; a flight that comes back within the hour counts once."""
    order = _order(visits.key)
    key, flight = visits.key[order], visits.flights[order]
    heads = _heads(key)
    new = np.ones(len(key), np.int64)
    new[1:] = (key[1:] != key[:-1]) | (flight[1:] != flight[:-1])
    return Sums(
        key[heads],
        samples=np.add.reduceat(visits.samples[order], heads),
        flights=np.add.reduceat(new, heads),
        altitude_m=np.add.reduceat(visits.altitude_m[order], heads),
        speed_m_s=np.add.reduceat(visits.speed_m_s[order], heads),
    )


def _order(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stable order of keys; fast, with key and position in one integer where both fit into it."""
    spread = keys - keys.min()
    if len(keys) >= 1 << _ROW_BITS or int(spread.max()) >= 1 << (63 - _ROW_BITS):
        return np.argsort(keys, kind="stable")
    packed = (spread << _ROW_BITS) | np.arange(len(keys))
    packed.sort()
    rows: NDArray[np.int64] = packed & ((1 << _ROW_BITS) - 1)
    return rows


def _heads(key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where a new key begins, in sorted ones."""
    new = np.ones(len(key), bool)
    np.not_equal(key[1:], key[:-1], out=new[1:])
    return np.flatnonzero(new)


def _day_start(time_s: float) -> int:
    return (int(time_s) // (DAY_H * HOUR_S) * DAY_H) << 2 * _CELL_BITS


def _taken_apart(key: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    mask = (1 << _CELL_BITS) - 1
    cell_y = ((key >> _CELL_BITS) & mask) - _CELL_HALF
    return (key >> 2 * _CELL_BITS) * HOUR_S, (key & mask) - _CELL_HALF, cell_y


def _table(columns: list[NDArray[Any]], schema: pa.Schema) -> pa.Table:
    def column(values: NDArray[Any], field: pa.Field) -> pa.Array:
        if pa.types.is_timestamp(field.type):
            return pa.array(values * 1000).cast(field.type)
        return pa.array(values).cast(field.type)

    return pa.table([column(*pair) for pair in zip(columns, schema, strict=True)], schema=schema)
