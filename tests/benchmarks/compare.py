"""Measures `agilab compare` against its figure: half a second for two runs of flight_telemetry, whatever differs.

Run by hand on an idle machine::

    python tests/benchmarks/compare.py [--rounds 9]

Wall clock [s] of the whole command, median and best over rounds that take turns; beside it `agilab show`, which reads
one run and compares nothing, and a bare import of pyarrow. The last rows are not typical: 10,000 partitions, and
tables of a million rows of which a part or all is read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AGILAB = Path(sys.executable).with_name("agilab")
ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 0.5

LARGE_RUNS = """
import sys
from pathlib import Path
import pyarrow as pa
from pyarrow import parquet
from tests.run_folder import MOMENT, RunFolder

home = Path(sys.argv[1])
for number in (0, 1):
    many = RunFolder(home, app="many", partitions=10_000, moment=MOMENT + number)
    for name in many.tracks:
        many.commit("tracks", name, files={"note": f"{name} {number}".encode()})
    many.plan()
    many.seal()
    large = RunFolder(home, app="large", partitions=2, moment=MOMENT + number)
    table = pa.table({f"c{i}": pa.array(float(row * i + (row == 999_999) * number) for row in range(1_000_000))
                      for i in range(8)})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    for name in large.tracks:
        large.commit("tracks", name, files={"table": sink.getvalue().to_pybytes()}, kinds={"table": "table"})
    large.plan()
    large.seal()
"""


def call(*words: str | Path, env: dict[str, str]) -> float:
    """Run a command; return how long it took [s]."""
    begun = time.perf_counter()
    subprocess.run(words, env=env, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def prepare(env: dict[str, str]) -> dict[str, list[str | Path]]:
    """Make the runs; return what is measured, by name."""
    day = ("run", "flight_telemetry", "--dates", "2013-07-04,2013-07-05")
    variants = {"first": ("--seed", "0"), "seed": ("--seed", "1"), "samples": ("--sample-s", "61")}
    variants |= {"cells": ("--cell-km", "51")}
    ids: dict[str, str] = {}
    runs = Path(env["AGILAB_HOME"]) / "runs" / "flight_telemetry"
    for name, flags in variants.items():
        call(AGILAB, *day, *flags, env=env)
        ids[name] = max(runs.iterdir()).name
    subprocess.run([sys.executable, "-c", LARGE_RUNS, env["AGILAB_HOME"]], env=env, check=True, cwd=ROOT)
    compare: list[str | Path] = [AGILAB, "compare", ids["first"]]
    pairs = {app: sorted((runs.parent / app).iterdir()) for app in ("many", "large")}
    return {
        "agilab show": [AGILAB, "show", ids["first"]],
        "import of pyarrow and numpy": [sys.executable, "-c", "import pyarrow.parquet, pyarrow.compute"],
        "compare: the same artifacts": [*compare, ids["seed"]],
        "compare: every table longer or shorter": [*compare, ids["samples"]],
        "compare: some columns of some tables": [*compare, ids["cells"]],
        "compare: all of these": [*compare, *ids.values()],
        "compare: 10,000 partitions, all differ": [AGILAB, "compare", *pairs["many"]],
        "compare: 2 x 8,000,000 numbers": [AGILAB, "compare", *pairs["large"]],
        "compare --full: 2 x 8,000,000 numbers": [AGILAB, "compare", "--full", *pairs["large"]],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"AGILAB_HOME": f"{folder}/home", "AGILAB_WENV": f"{folder}/wenv", "PYTHONPATH": str(ROOT)}
        commands = prepare(env)
        seen: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, words in commands.items():
                seen[name].append(call(*words, env=env))
    shown = statistics.median(seen["agilab show"])
    print(f"{'':42}{'best':>8}{'median':>8}{'/ show':>8}")
    for name, times in seen.items():
        median = statistics.median(times)
        print(f"{name:42}{min(times):8.3f}{median:8.3f}{median / shown:8.1f}")
    print(f"limit for two runs of flight_telemetry: {LIMIT_S} s")


if __name__ == "__main__":
    main()
