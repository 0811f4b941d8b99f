"""Measures flight_telemetry at 10^8 rows against the same work in a script written by hand, in turns.

Run by hand on an idle machine with 3 GB of free disk::

    python tests/benchmarks/flights.py [--rounds 2] [--sample-s 28]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
AGILAB = Path(sys.executable).with_name("agilab")
WORKERS = 2


def timed(command: list[str | Path], env: dict[str, str]) -> tuple[float, float]:
    """Run a command that must succeed; return wall clock and CPU with all children [s]."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sample-s", type=int, default=28, help="time between samples [s]; 28 makes 10^8 rows")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="agilab-flights-"))
    env = {**os.environ, "AGILAB_HOME": str(work / "home"), "AGILAB_WENV": str(work / "wenv")}
    seen: dict[str, list[tuple[float, float]]] = {"flight_telemetry": [], "by hand": []}
    try:
        subprocess.run([AGILAB, "install", "flight_telemetry"], env=env, check=True)
        data = next(path for path in (work / "home" / "data").iterdir() if path.is_dir())
        python = next((work / "wenv" / ".env").glob("*/bin/python"))
        run = [AGILAB, "run", "flight_telemetry", "--dates", "2013-01-01,2013-12-31", "--partitions", "8"]
        run += ["--sample-s", str(arguments.sample_s), "--workers", str(WORKERS)]
        script = [python, HERE / "handwritten_flights.py", data, work / "out", str(arguments.sample_s), str(WORKERS)]
        for number in range(arguments.rounds):
            print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            seen["flight_telemetry"].append(timed(run, env))
            shutil.rmtree(work / "home" / "runs")
            seen["by hand"].append(timed(script, env))
            shutil.rmtree(work / "out")
    finally:
        subprocess.run(["chmod", "-R", "u+w", work], check=False)
        shutil.rmtree(work, ignore_errors=True)
    wall = {name: statistics.median(wall for wall, _ in times) for name, times in seen.items()}
    cpu = {name: statistics.median(cpu for _, cpu in times) for name, times in seen.items()}
    for name in seen:
        print(f"{name:20} wall {wall[name]:.1f} s   CPU {cpu[name]:.1f} s")
    print(
        f"flight_telemetry over the script: wall {wall['flight_telemetry'] / wall['by hand']:.2f}, "
        f"CPU {cpu['flight_telemetry'] / cpu['by hand']:.2f}   (wanted: 2, then 1.3)"
    )


if __name__ == "__main__":
    main()
