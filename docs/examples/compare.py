"""Run twice with one setting changed, and ask what that changed in the results."""

from agilab import AGI, AgiEnv
from agilab.compare import compare
from agilab.differences import Tolerance, step

env = AgiEnv("flight_telemetry")
AGI.install(env)

day = {"dates": ["2013-07-04", "2013-07-04"], "origins": ["JFK"]}
runs = [AGI.run(env, env.request({**day, "sample_s": sample_s})).check() for sample_s in (60, 120)]

found = compare(env, runs, tolerance=Tolerance(rtol=1e-9))
for row in found.differences:
    old, new = (cell.value if cell else None for cell in row.cells)
    way = step(old, new)
    print(row.section, row.name, f"{old} -> {new} ({way[0]:+g})" if way else "differs")

for change in found.artifacts.values():
    if change.table and not change.same:
        rows = " -> ".join(f"{count:,}" for count in change.table.rows)
        print(f"{change.name}: {rows} rows, {[column.name for column in change.table.columns]} differ")
