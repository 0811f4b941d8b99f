"""The flights of 2013 without AGILAB: what flight_telemetry does, as one would write it by hand with numpy and pyarrow.

    python handwritten_flights.py DATA OUT SAMPLE_S WORKERS

It leaves the same tracks (schema, encodings, compression), the same traffic and the same counts, and nothing
else: no record, no hash, no pyramid. `agilab` is measured against it at 10^8 rows (SAMPLE_S 28).
"""

import json
import sys
import zipfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pyarrow import parquet as pq

DATA, OUT, SAMPLE_S, WORKERS = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
PARTS, BATCH_ROWS, GROUP_ROWS, CELL_M = 8, 1 << 16, 1 << 20, 50_000.0
CARRIERS = pa.array(["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"])
FLOATS = ["longitude", "latitude", "x", "y", "altitude_modelled_m", "ground_speed_modelled_m_s"]
SCHEMA = pa.schema(
    [("flight_id", pa.int32()), ("carrier", pa.dictionary(pa.int8(), pa.string())), ("time", pa.timestamp("ms", "UTC"))]
    + [(name, pa.float32()) for name in FLOATS]
)
ENCODING = dict.fromkeys(FLOATS, "BYTE_STREAM_SPLIT") | dict.fromkeys(["flight_id", "time"], "DELTA_BINARY_PACKED")
CELL = ["hour", "cy", "cx"]


def load():
    global airports, flights
    options = csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    a = csv.read_csv(DATA / "airports.csv", convert_options=options)
    data = zipfile.ZipFile(DATA / "flights.csv.zip").read("flights.csv")
    f = csv.read_csv(pa.BufferReader(data), convert_options=options)
    airports = np.radians(a["lon"].to_numpy()), np.radians(a["lat"].to_numpy()), a["alt"].to_numpy() * 0.3048
    number = {name: f[name].fill_null(0).to_numpy() for name in ("month", "day", "minute", "dep_delay", "air_time")}
    day = (number["month"] + 515).astype("M8[M]").astype("M8[D]") + (number["day"] - 1)
    origin, dest = (
        pc.index_in(f[c], value_set=a["faa"]).fill_null(-1).to_numpy().astype(int) for c in ("origin", "dest")
    )
    reason = np.select([f["dep_time"].is_null().to_numpy(), number["air_time"] == 0, dest < 0], [1, 2, 3], 0)
    leaves = f["time_hour"].cast(pa.int64()).to_numpy() + 60 * (number["minute"] + number["dep_delay"])
    carrier = pc.index_in(f["carrier"], value_set=CARRIERS).to_numpy().astype(np.int8)
    flights = (
        (day - np.datetime64("2013-01-01")).astype(int),
        reason,
        leaves,
        60 * number["air_time"],
        origin,
        dest,
        carrier,
    )


def make(part):
    day, reason, leaves, duration = flights[:4]
    mine = (day >= part * 365 // PARTS) & (day < (part + 1) * 365 // PARTS)
    ids = np.flatnonzero(mine & (reason == 0))
    ids = ids[np.argsort(leaves[ids], kind="stable")]
    ends, start, group, rows, visits = np.cumsum(-(-duration[ids] // SAMPLE_S) + 1), 0, [], 0, []
    options = {"compression": "zstd", "use_dictionary": ["carrier"], "column_encoding": ENCODING}
    with pq.ParquetWriter(OUT / f"tracks-{part}.parquet", SCHEMA, **options) as writer:
        while start < len(ids):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + BATCH_ROWS, "right")))
            batch, seen = sample(ids[start:stop])
            group, rows, start = [*group, batch], rows + batch.num_rows, stop
            visits.append(seen)
            if rows > GROUP_ROWS - BATCH_ROWS or start == len(ids):
                writer.write_table(pa.Table.from_batches(group), row_group_size=rows)
                group, rows = [], 0
    sums = [("samples", "sum"), ("flight", "count_distinct"), ("altitude", "sum"), ("speed", "sum")]
    cells = pa.concat_tables(visits).group_by(CELL, use_threads=False).aggregate(sums)
    cells = cells.rename_columns([*CELL, "samples", "flights", "altitude", "speed"])
    pq.write_table(cells, OUT / f"sums-{part}.parquet", compression="zstd")
    return np.bincount(reason[mine], minlength=4).tolist(), int(ends[-1])


def sample(ids):
    lon, lat, alt = airports
    leaves, duration, o, d, carrier = (column[ids] for column in flights[2:])
    east, lat_1, lat_2 = lon[d] - lon[o], lat[o], lat[d]
    across, along = (
        np.cos(lat_2) * np.sin(east),
        np.cos(lat_1) * np.sin(lat_2) - np.sin(lat_1) * np.cos(lat_2) * np.cos(east),
    )
    course = np.arctan2(across, along)
    arc = np.arctan2(
        np.hypot(across, along), np.sin(lat_1) * np.sin(lat_2) + np.cos(lat_1) * np.cos(lat_2) * np.cos(east)
    )
    node_sin, node_cos = np.sin(course) * np.cos(lat_1), np.hypot(np.cos(course), np.sin(course) * np.sin(lat_1))
    begin = np.arctan2(np.sin(lat_1), np.cos(course) * np.cos(lat_1))
    node = lon[o] - np.arctan2(node_sin * np.sin(begin), np.cos(begin))
    ramp = np.minimum(1200.0, duration / 3)
    omega, cruise = arc / (duration - 0.65 * ramp), np.minimum(10668.0, np.maximum(alt[o], alt[d]) + 9 * ramp)
    n = -(-duration // SAMPLE_S) + 1
    total = np.repeat(duration, n)
    t = np.minimum((np.arange(len(total)) - np.repeat(np.cumsum(n) - n, n)) * SAMPLE_S, total)
    late = 2 * t > total
    near = np.where(late, total - t, t).astype(float)
    level = np.minimum(near / np.repeat(ramp, n), 1.0)
    flown = np.repeat(omega, n) * (near - np.repeat(0.65 * ramp, n) * (level - 0.5 * level * level))
    angle = np.where(late, np.repeat(begin + arc, n) - flown, np.repeat(begin, n) + flown)
    sine = np.sin(angle)
    z = np.repeat(node_cos, n) * sine
    lam = np.repeat(node, n) + np.arctan2(np.repeat(node_sin, n) * sine, np.cos(angle))
    lam -= 2 * np.pi * np.floor((lam + np.pi) / (2 * np.pi))
    x, y = (6378137.0 * lam).astype("f4"), (6378137.0 * np.arctanh(z)).astype("f4")
    ground = np.where(late, np.repeat(alt[d], n), np.repeat(alt[o], n))
    altitude = (ground + (np.repeat(cruise, n) - ground) * level).astype("f4")
    speed = (np.repeat(6371008.8 * omega, n) * (0.35 + 0.65 * level)).astype("f4")
    time, flight = np.repeat(leaves, n) + t, np.repeat(ids.astype("i4"), n)
    columns = [flight, pa.DictionaryArray.from_arrays(np.repeat(carrier, n), CARRIERS)]
    columns += [pa.array(time * 1000).cast(SCHEMA.field("time").type), np.degrees(lam).astype("f4")]
    columns += [np.degrees(np.arcsin(z)).astype("f4"), x, y, altitude, speed]
    batch = pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)
    hour, cx, cy = time // 3600, np.floor(x / CELL_M).astype("i2"), np.floor(y / CELL_M).astype("i2")
    new = np.ones(len(x), bool)
    new[1:] = (hour[1:] != hour[:-1]) | (cx[1:] != cx[:-1]) | (cy[1:] != cy[:-1]) | (flight[1:] != flight[:-1])
    at = np.flatnonzero(new)
    seen = {"hour": hour[at], "cy": cy[at], "cx": cx[at], "flight": flight[at], "samples": np.diff(at, append=len(x))}
    sums = {"altitude": np.add.reduceat(altitude, at, dtype=float), "speed": np.add.reduceat(speed, at, dtype=float)}
    return batch, pa.table(seen | sums)


if __name__ == "__main__":
    OUT.mkdir(parents=True)
    with get_context("spawn").Pool(WORKERS, load) as pool:
        results = pool.map(make, range(PARTS), chunksize=1)
    sums = [(name, "sum") for name in ("samples", "flights", "altitude", "speed")]
    parts = pa.concat_tables(pq.read_table(OUT / f"sums-{part}.parquet") for part in range(PARTS))
    cells = parts.group_by(CELL).aggregate(sums).sort_by([(name, "ascending") for name in CELL])
    means = [pc.divide(cells[f"{name}_sum"], cells["samples_sum"]).cast(pa.float32()) for name in ("altitude", "speed")]
    columns = [cells[name] for name in (*CELL, "samples_sum", "flights_sum")] + means
    traffic = pa.table(columns, [*CELL, "samples", "flights", *FLOATS[4:]])
    pq.write_table(traffic, OUT / "traffic.parquet", compression="zstd")
    counts = np.sum([outcomes for outcomes, _ in results], axis=0).tolist()
    totals = {"outcomes": counts, "rows": sum(rows for _, rows in results), "cell_hours": cells.num_rows}
    (OUT / "summary.json").write_text(json.dumps(totals))
