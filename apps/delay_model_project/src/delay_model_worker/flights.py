"""One table of what is known before departure, from flights, weather and planes; it learns nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

NUMBERS = ("distance", "temp", "humid", "wind_speed", "precip", "pressure", "visib", "age", "seats")
"""Columns that are measured; gaps are null."""
NAMES = ("carrier", "origin", "dest", "month", "hour")
"""Columns whose values are only told apart."""
UNITS = {
    "distance": "km", "temp": "degC", "humid": "%", "wind_speed": "m/s", "precip": "mm", "pressure": "hPa",
    "visib": "km", "age": "a",
}  # fmt: skip
WEATHER = ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
YEAR = 2013
WEEK_S = 7 * 24 * 3600
# Factor and offset: from degrees Fahrenheit, inches, miles an hour and miles.
_METRIC = {
    "distance": (1.609344, 0.0),
    "temp": (5 / 9, -160 / 9),
    "wind_speed": (0.44704, 0.0),
    "precip": (25.4, 0.0),
    "visib": (1.609344, 0.0),
}


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a table of the data set, with NA as null; from its zip archive where it is in one."""
    options = csv.ConvertOptions(include_columns=list(columns), null_values=["NA", ""], strings_can_be_null=True)
    if not zipfile.is_zipfile(path):
        return csv.read_csv(path, convert_options=options)
    with zipfile.ZipFile(path) as archive:
        content = archive.read(archive.namelist()[0])
    return csv.read_csv(pa.BufferReader(content), convert_options=options)


def arrived(flights: pa.Table, count: int) -> tuple[pa.Table, dict[str, int]]:
    """Return some of the flights that arrived, evenly spread over the year, and how many there are of what."""
    cancelled = pc.is_null(flights["dep_time"])
    unknown = pc.and_(pc.invert(cancelled), pc.is_null(flights["arr_delay"]))
    known = flights.filter(pc.is_valid(flights["arr_delay"]))
    counts = {
        "flights": flights.num_rows,
        "cancelled": pc.sum(cancelled).as_py(),
        "diverted or unknown": pc.sum(unknown).as_py(),
        "arrived": known.num_rows,
    }
    count = min(count, known.num_rows)
    rows = np.arange(count) * known.num_rows // count
    return known.take(pa.array(rows)), counts | {"taken": count}


def features(flights: pa.Table, weather: pa.Table, planes: pa.Table, *, late_min: int) -> pa.Table:
    """Return a row per flight: when and which it was, what was known before it left, and whether it came late.

    Parameters
    ----------
    flights
        As `arrived` gives them.
    weather
        By ``origin`` and ``time_hour``: of the hour of the scheduled departure.
    planes
        By ``tailnum``.
    late_min
        From which delay at arrival on a flight is late [min].
    """
    seen = pc.index_in(_hour_of(flights), value_set=_hour_of(weather))
    flown = pc.index_in(flights["tailnum"], value_set=planes["tailnum"])
    found = {name: flights[name] for name in NAMES if name in flights.column_names}
    found |= {name: weather[name].take(seen) for name in WEATHER}
    found |= {"distance": flights["distance"], "seats": planes["seats"].take(flown)}
    found |= {"age": pc.subtract(YEAR, planes["year"].take(flown))}
    fields, columns = [pa.field("time", pa.timestamp("s", "UTC"))], [flights["time_hour"]]
    for name in NAMES:
        fields.append(pa.field(name, pa.string()))
        columns.append(found[name])
    for name in NUMBERS:
        factor, offset = _METRIC.get(name, (1.0, 0.0))
        unit = {"unit": UNITS[name]} if name in UNITS else None
        fields.append(pa.field(name, pa.float64(), metadata=unit))
        columns.append(pc.add(pc.multiply(found[name].cast(pa.float64()), factor), offset))
    fields.append(pa.field("late", pa.bool_()))
    columns.append(pc.greater_equal(flights["arr_delay"], late_min))
    arrays = [column.cast(field.type) for column, field in zip(columns, fields, strict=True)]
    return pa.table(arrays, schema=pa.schema(fields)).combine_chunks()


def fold_of(table: pa.Table, folds: int) -> np.ndarray:
    """Return the fold of every flight, from 1: its week tells, so that no day of bad weather is in two of them."""
    seconds = table["time"].cast(pa.int64()).to_numpy()
    weeks = (seconds - np.datetime64(f"{YEAR}-01-01", "s").astype(np.int64)) // WEEK_S
    return weeks % folds + 1


def _hour_of(table: pa.Table) -> pa.ChunkedArray:
    hour = table["time_hour"].cast(pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(table["origin"], hour, " ")
