"""Measures backend `dask` against plain Dask that writes, hashes and syncs the same bytes, as ratios from one run.

Run by hand on an idle machine::

    python tests/benchmarks/dask_backplane.py [--rounds 3] [--counts 1000 10000]

Every command is a process of its own, start included, and they take turns.
Beside them stands the bare map, which only computes, the floor, which only
writes, hashes, syncs and records what a run commits, and what TLS costs: round
trips of a task with the bytes of a lease, over tcp and over the run's TLS.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from control_path import AGILAB, make_app

WORKERS = 2
LEASE_BYTES = 60_000
ROUND_TRIPS = 200

_PLAIN = """
import hashlib, json, os, sys, tempfile
from distributed import Client, LocalCluster

def durable(i, folder):
    path = os.path.join(folder, str(i))
    os.mkdir(path)
    data = (json.dumps(i) + chr(10)).encode()
    fd = os.open(os.path.join(path, "value.json"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    return hashlib.sha256(data).hexdigest()

def bare(i, folder):
    return i

if __name__ == "__main__":
    function, count, workers = {"durable": durable, "bare": bare}[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with tempfile.TemporaryDirectory(dir=".") as folder, cluster, Client(cluster) as client:
        folder = os.path.abspath(folder)
        found = client.gather(client.map(function, range(count), folder=folder, pure=False))
        assert len(set(found)) == count
"""

_FLOOR = """
import json, os, sys, tempfile
from pathlib import Path
from agilab.committer import Committer, Finished
from agilab.paths import RunPaths, make_folder

with tempfile.TemporaryDirectory(dir=".") as folder:
    paths = RunPaths(Path(folder).resolve())
    committer = Committer(paths)
    make_folder(paths.staging)
    for i in range(int(sys.argv[1])):
        attempt = f"{paths.staging}/{i}.1"
        os.mkdir(attempt)
        Path(attempt, "value.json").write_text(json.dumps(i) + chr(10))
        item = {"location": "", "path": f"artifacts/one/{i}/value.json"}
        committer.put(Finished(attempt, {"partition": str(i), "stage": "one", "worker": "w", "artifacts": [item]}))
    assert all(commit.error is None for commit in committer.close())
"""

_TRIPS = """
import sys, time
from pathlib import Path
from distributed import Client, LocalCluster, Security
from agilab.backends.dask import tls

if __name__ == "__main__":
    kind, size, trips = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = {"protocol": "tcp"}
    if kind == "tls":
        security = Security(**tls.issue(Path("tls", str(time.time_ns())), "bench").security())
        options = {"protocol": "tls", "security": security}
    options |= {"n_workers": 1, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    cluster = LocalCluster(**options)
    with cluster, Client(cluster, security=options.get("security")) as client:
        data = "x" * size
        for number in range(20):
            client.submit(str.upper, data, key=f"warm-{number}").result()
        begun = time.perf_counter()
        for number in range(trips):
            client.submit(str.upper, data, key=f"trip-{number}").result()
        print((time.perf_counter() - begun) / trips)
"""


def timed(command: list[str], *, cwd: Path, env: Mapping[str, str]) -> tuple[float, str]:
    """Return the wall time of a command that must succeed [s], and what it printed."""
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return time.perf_counter() - begun, done.stdout


def measure(work: Path, rounds: int, counts: list[int]) -> dict[str, list[float]]:
    """Take every measurement once per round; return seconds by name."""
    env = {**os.environ, "HOME": str(work), "AGILAB_HOME": str(work / "home"), "AGILAB_WENV": str(work / "wenv")}
    env |= {"AGILAB_APPS": str(work), "AGILAB_SLOTS": str(WORKERS)}
    make_app(work, env, name="tiny", settings=0)
    for name, text in (("plain.py", _PLAIN), ("trips.py", _TRIPS), ("floor.py", _FLOOR)):
        (work / name).write_text(text)
    timed([str(AGILAB), "run", "tiny", "--backend", "dask"], cwd=work, env=env)  # environment and byte code
    seen: dict[str, list[float]] = {}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        for count in counts:
            commands = {
                "dask": [str(AGILAB), "run", "tiny", "--count", str(count), "--backend", "dask"],
                "plain": [sys.executable, "plain.py", "durable", str(count), str(WORKERS)],
                "bare": [sys.executable, "plain.py", "bare", str(count), str(WORKERS)],
                "floor": [sys.executable, "floor.py", str(count)],
                "local": [str(AGILAB), "run", "tiny", "--count", str(count)],
            }
            for name, command in commands.items():
                seen.setdefault(f"{name} {count}", []).append(timed(command, cwd=work, env=env)[0])
        for kind in ("tcp", "tls"):
            command = [sys.executable, "trips.py", kind, str(LEASE_BYTES), str(ROUND_TRIPS)]
            seen.setdefault(kind, []).append(float(timed(command, cwd=work, env=env)[1]))
    return seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000])
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="agilab-bench-"))
    try:
        seen = measure(work, arguments.rounds, arguments.counts)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    median = {name: statistics.median(values) for name, values in seen.items()}
    for count in arguments.counts:
        ratios = [one / other for one, other in zip(seen[f"dask {count}"], seen[f"plain {count}"], strict=True)]
        print(
            f"{count} partitions: {median[f'dask {count}']:.2f} s, plain Dask {median[f'plain {count}']:.2f} s, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
            f"bare map {median[f'bare {count}']:.2f} s, backend local {median[f'local {count}']:.2f} s, "
            f"nothing but the commits {median[f'floor {count}']:.2f} s"
        )
    cost = median["tls"] - median["tcp"]
    print(f"a lease of {LEASE_BYTES} bytes there and back: tcp {median['tcp'] * 1e3:.2f} ms, tls {cost * 1e3:+.2f} ms")


if __name__ == "__main__":
    main()
