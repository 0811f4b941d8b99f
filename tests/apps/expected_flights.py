"""What flight_telemetry has to find, from the source tables alone: expected_flights.py DATA FIRST LAST SAMPLE_S."""

import json
import sys
import zipfile

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

data, first, last, sample_s = sys.argv[1], *(int(text.replace("-", "")) for text in sys.argv[2:])
source = pa.BufferReader(zipfile.ZipFile(f"{data}/flights.csv.zip").read("flights.csv"))
table = csv.read_csv(source, convert_options=csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True))
day = pc.add(pc.add(pc.multiply(table["year"], 10_000), pc.multiply(table["month"], 100)), table["day"])
table = table.append_column("date", day).filter((pc.field("date") >= first) & (pc.field("date") <= last))
left = table.filter(pc.field("dep_time").is_valid())
flown = left.filter(pc.field("air_time").is_valid())
known = flown.filter(pc.field("dest").isin(csv.read_csv(f"{data}/airports.csv")["faa"].to_pylist()))
rows = pc.add(pc.divide(pc.add(pc.multiply(known["air_time"], 60), sample_s - 1), sample_s), 1)
digits = pc.add(pc.multiply(known["date"], 10_000), known["sched_dep_time"]).cast(pa.string())
planned_min = pc.divide(pc.strptime(digits, "%Y%m%d%H%M", "s").cast(pa.int64()), 60)
is_summer = pc.and_(pc.greater_equal(known["date"], 20130310), pc.less(known["date"], 20131103))
left_min = pc.add(pc.add(planned_min, pc.if_else(is_summer, 4 * 60, 5 * 60)), known["dep_delay"])
by_origin = pa.table([known["origin"], rows], ["origin", "rows"]).group_by("origin").aggregate([("rows", "sum")])
totals = {"flights": len(table), "cancelled": len(table) - len(left), "diverted": len(left) - len(flown)}
totals |= {"unknown": len(flown) - len(known), "written": len(known), "rows": pc.sum(rows).as_py()}
totals |= {"air_time_min": pc.sum(known["air_time"]).as_py(), "distance_mi": pc.sum(known["distance"]).as_py()}
totals |= {"first_min": pc.min(left_min).as_py(), "last_min": pc.max(pc.add(left_min, known["air_time"])).as_py()}
totals["origins"] = {row["origin"]: row["rows_sum"] for row in by_origin.to_pylist()}
print(json.dumps(totals))
