"""What a run adds up to: totals that have to agree, and flights by what flew them and how far one could see."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from agilab.errors import WorkerError
from agilab.worker import Inputs
from flight_telemetry_worker.sources import OUTCOMES, Flights, read_table

Tables = dict[str, pa.Table]


def flights_table(flights: Flights, ids: NDArray[np.int64], rows: NDArray[np.int32]) -> pa.Table:
    """Return one row per flight: what the source says of it, its outcome, and how many rows its track has."""
    table = flights.table.take(pa.array(ids))
    outcome = pa.DictionaryArray.from_arrays(pa.array(flights.outcome[ids]), pa.array(OUTCOMES))
    return (
        table.add_column(0, "flight_id", pa.array(ids.astype(np.int32)))
        .append_column("outcome", outcome)
        .append_column("rows", pa.array(rows))
    )


def summarize(inputs: Inputs) -> tuple[dict[str, Any], Tables]:
    """Return the totals of a run and its tables by carrier, maker and visibility.

    Raises
    ------
    WorkerError
        What one stage counted is not what another one found in its artifacts.
    """
    counts = [json.loads(path.read_text()) for path in inputs.named("counts")]
    traffic = [json.loads(path.read_text()) for path in inputs.named("totals")]
    flights = pa.concat_tables(parquet.read_table(path) for path in inputs.named("flights")).combine_chunks()
    skipped = {reason: sum(count["skipped"][reason] for count in counts) for reason in OUTCOMES[1:]}
    totals: dict[str, Any] = {name: _sum(counts, name) for name in ("flights", "written", "rows")}
    totals |= {"skipped": skipped, "cell_hours": _sum(traffic, "cell_hours")}
    _agree("rows of tracks", totals["rows"], "samples in traffic", _sum(traffic, "samples"))
    _agree("rows of tracks", totals["rows"], "rows in the tables of flights", int(_total(flights["rows"])))
    _agree("flights", totals["flights"], "flights in their tables", flights.num_rows)
    _agree("flights", totals["flights"], "written and skipped", totals["written"] + sum(skipped.values()))
    written = flights.filter(pc.equal(flights["outcome"].cast(pa.string()), OUTCOMES[0]))
    totals["air_time_min"] = _total(written["air_time_min"])
    totals["distance_mi"] = _total(written["distance_mi"])
    totals["origins"] = {
        row["origin"]: {"written": row["flights"], "rows": row["rows"]}
        for row in _counted(written, "origin").to_pylist()
    }
    return totals, {
        "carriers": _by_carrier(written, read_table(inputs["airlines"])),
        "makers": _by_maker(written, read_table(inputs["planes"], ("tailnum", "manufacturer"))),
        "visibility": _by_visibility(written, read_table(inputs["weather"], ("origin", "time_hour", "visib"))),
    }


def _by_carrier(flights: pa.Table, airlines: pa.Table) -> pa.Table:
    table = _counted(flights, "carrier")
    names = airlines["name"].take(pc.index_in(table["carrier"], value_set=airlines["carrier"]))
    return table.add_column(1, "airline", names)


def _by_maker(flights: pa.Table, planes: pa.Table) -> pa.Table:
    # Some carriers report fleet numbers instead of registrations: those are in no table of planes.
    makers = planes["manufacturer"].take(pc.index_in(flights["tailnum"], value_set=planes["tailnum"]))
    return _counted(flights.append_column("maker", makers.fill_null("unknown")), "maker")


def _by_visibility(flights: pa.Table, weather: pa.Table) -> pa.Table:
    hour = pc.floor_temporal(flights["scheduled"], unit="hour").cast(pa.timestamp("s", "UTC"))
    seen = pc.index_in(_at(flights["origin"], hour), value_set=_at(weather["origin"], weather["time_hour"]))
    miles = pc.floor(weather["visib"].take(seen)).cast(pa.int32())
    return _counted(flights.append_column("visibility_mi", miles), "visibility_mi")


def _at(origin: pa.ChunkedArray, hour: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(origin, hour.cast(pa.int64()).cast(pa.string()), " ")


def _counted(flights: pa.Table, name: str) -> pa.Table:
    """Count flights and their rows by a column, with the mean delay; in the order of the column."""
    sums = [("flight_id", "count"), ("rows", "sum"), ("departure_delay_min", "mean")]
    table = flights.group_by(name, use_threads=False).aggregate(sums).sort_by(name)
    return table.select([name, *(f"{column}_{function}" for column, function in sums)]).rename_columns(
        [name, "flights", "rows", "mean_departure_delay_min"]
    )


def _sum(counts: Iterable[dict[str, Any]], name: str) -> int:
    return sum(count[name] for count in counts)


def _total(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)


def _agree(what: str, count: int, other: str, found: int) -> None:
    if count != found:
        raise WorkerError(f"{what}: {count}, but {other}: {found}; an artifact of this run is not what it says it is")
