"""What runs in the worker environment: one method per stage of flight_telemetry; it plans nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from agilab.worker import PartitionContext, Worker
from flight_telemetry_worker import cells, geometry, summary
from flight_telemetry_worker.sources import OUTCOMES, WRITTEN, Flights

BATCH_ROWS = 1 << 16
"""Samples made at a time: their arrays stay in the processor's cache."""
ROWS_PER_REPORT = 1 << 20

MODELLED = "great circle and trapezoid profile between real departure and arrival"
TRACKS = pa.schema(
    [
        pa.field("flight_id", pa.int32(), metadata={"doc": "row of flights.csv, from 0"}),
        pa.field("carrier", pa.dictionary(pa.int8(), pa.string())),
        pa.field("time", pa.timestamp("ms", "UTC")),
        pa.field("longitude", pa.float32(), metadata={"unit": "degree", "crs": "EPSG:4326", "modelled": MODELLED}),
        pa.field("latitude", pa.float32(), metadata={"unit": "degree", "crs": "EPSG:4326", "modelled": MODELLED}),
        pa.field("x", pa.float32(), metadata={"unit": "m", "crs": "EPSG:3857", "modelled": MODELLED}),
        pa.field("y", pa.float32(), metadata={"unit": "m", "crs": "EPSG:3857", "modelled": MODELLED}),
        pa.field("altitude_modelled_m", pa.float32(), metadata={"unit": "m", "modelled": MODELLED}),
        pa.field("ground_speed_modelled_m_s", pa.float32(), metadata={"unit": "m/s", "modelled": MODELLED}),
    ]
)
"""Flight by flight in order of departure, each in order of time."""


class FlightTelemetryWorker(Worker):
    """Makes tracks from flights, traffic from tracks, and a summary of both."""

    def setup(self) -> None:
        """Remember nothing yet: the source is read with the first partition that brings it."""
        self._flights: Flights | None = None
        self._cell_m = 1000.0 * self.settings.cell_km

    def tracks(self, part: PartitionContext) -> None:
        """Sample the track of every flight that was scheduled on some days, and count those without one."""
        flights = self._source(part)
        ids = flights.select(
            date.fromisoformat(part.params["first_day"]),
            date.fromisoformat(part.params["last_day"]),
            origins=self.settings.origins,
            carriers=self.settings.carriers,
        )
        outcome = flights.outcome[ids]
        legs = flights.legs(ids[outcome == WRITTEN])
        counts = geometry.sample_counts(legs.duration_s, self.settings.sample_s)
        totals = cells.CellTotals(self._cell_m)
        with cells.writer(part.folder / "sums.parquet", cells.SUMS) as sums:
            batches = self._batches(part, legs, counts, carriers=flights.carriers, totals=totals, sums=sums)
            part.write_points("tracks", batches, x="x", y="y", order=None)
            _write_all(sums, totals.days())
        part.write("sums", "table", part.folder / "sums.parquet")
        rows = np.zeros(len(ids), np.int32)
        rows[outcome == WRITTEN] = counts
        part.write("flights", "table", summary.flights_table(flights, ids, rows))
        self._count(part, outcome, rows=int(counts.sum()))

    def traffic(self, part: PartitionContext) -> None:
        """Aggregate tracks by cell and hour, for the UTC days of this partition and no others."""
        files = [parquet.ParquetFile(path) for path in part.inputs.named("sums")]
        days = _row_groups_by_day(files)
        wanted = [day for day in sorted(days) if _within(day, part.params)]
        rows = samples = 0
        with cells.writer(part.folder / "traffic.parquet", cells.TRAFFIC) as writer:
            for done, day in enumerate(wanted):
                parts = [cells.table_sums(file.read_row_group(group)) for file, group in days[day]]
                table = cells.traffic_table(cells.joined(parts).added(), self._cell_m)
                writer.write_table(table)
                rows += table.num_rows
                samples += int(table["samples"].to_numpy().sum())
                part.progress(done + 1, len(wanted))
        part.write("traffic", "flight_telemetry.traffic", part.folder / "traffic.parquet")
        part.write("totals", "json", {"cell_hours": rows, "samples": samples})
        part.metric("cell_hours", rows)

    def summary(self, part: PartitionContext) -> None:
        """Count what there is by outcome, origin, carrier, aircraft maker and visibility, and check that it adds up."""
        totals, tables = summary.summarize(part.inputs)
        part.write("summary", "json", totals)
        for name, table in tables.items():
            part.write(name, "table", table)

    def _source(self, part: PartitionContext) -> Flights:
        if self._flights is None:  # every partition of a run has the same source
            self._flights = Flights(part.inputs["flights"], part.inputs["airports"])
        return self._flights

    def _batches(
        self,
        part: PartitionContext,
        legs: geometry.Legs,
        counts: geometry.Integers,
        *,
        carriers: pa.Array,
        totals: cells.CellTotals,
        sums: parquet.ParquetWriter,
    ) -> Iterator[pa.RecordBatch]:
        """Yield whole flights as record batches; on the way their samples are added to the cells."""
        ends = np.cumsum(counts)
        rows = int(ends[-1]) if len(ends) else 0
        start = reported = done = 0
        while start < len(legs):
            stop = max(start + 1, int(np.searchsorted(ends, done + BATCH_ROWS, side="right")))
            some, some_counts = legs.part(start, stop), counts[start:stop]
            samples = geometry.sample(some, some_counts, self.settings.sample_s)
            _write_all(sums, totals.days_before(float(some.departure_s[0])))
            totals.add(samples, some_counts)
            yield _record_batch(samples, carriers)
            start, done = stop, int(ends[stop - 1])
            if done - reported >= ROWS_PER_REPORT:
                part.progress(done, rows)
                reported = done
        if not rows:
            yield pa.RecordBatch.from_pylist([], schema=TRACKS)

    def _count(self, part: PartitionContext, outcome: Any, *, rows: int) -> None:
        by_outcome = np.bincount(outcome, minlength=len(OUTCOMES)).tolist()
        skipped = dict(zip(OUTCOMES[1:], by_outcome[1:], strict=True))
        counts = {"flights": len(outcome), "written": by_outcome[WRITTEN], "skipped": skipped, "rows": rows}
        part.write("counts", "json", {**part.params, **counts})
        part.metric("flights", len(outcome))
        part.metric("flights_written", by_outcome[WRITTEN])
        for reason, count in skipped.items():
            part.metric(f"flights_skipped_{reason.replace(' ', '_')}", count)
        part.metric("rows", rows)


def _record_batch(samples: dict[str, Any], carriers: pa.Array) -> pa.RecordBatch:
    made = {
        **samples,
        "time": pa.array(samples["time_s"] * 1000).cast(TRACKS.field("time").type),
        "carrier": pa.DictionaryArray.from_arrays(pa.array(samples["carrier"]), carriers),
    }
    return pa.RecordBatch.from_arrays([pa.array(made[name]) for name in TRACKS.names], schema=TRACKS)


def _write_all(writer: parquet.ParquetWriter, tables: Iterable[pa.Table]) -> None:
    for table in tables:
        writer.write_table(table)


def _row_groups_by_day(files: list[parquet.ParquetFile]) -> dict[date, list[tuple[parquet.ParquetFile, int]]]:
    """Return file and row group of every UTC day; each row group holds the hours of one."""
    found: dict[date, list[tuple[parquet.ParquetFile, int]]] = {}
    for file in files:
        for group in range(file.num_row_groups):
            hour: datetime = file.metadata.row_group(group).column(0).statistics.min
            found.setdefault(hour.date(), []).append((file, group))
    return found


def _within(day: date, params: Any) -> bool:
    first, last = params["first_utc_day"], params["last_utc_day"]
    return (first is None or day >= date.fromisoformat(first)) and (last is None or day <= date.fromisoformat(last))
