"""What a run on a host over SSH costs beside its work: ``PYTHONPATH=. python tests/benchmarks/ssh_run.py``.

An sshd of its own on loopback, a small app, nothing changed since the run
before. Backends take turns; the median of each is compared with `local`, which
does the same work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agilab import AGI, AgiEnv, RunRequest, Stage, WorkPlan
from agilab.testing import do
from agilab.testing.probe import hashes, make_probe
from tests.hosts import introduce, loopback_host


def main() -> None:
    """Print medians [s] and what lies over `local`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=8)
    given = parser.parse_args()
    cache = os.environ.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    with tempfile.TemporaryDirectory() as name, loopback_host(UV_CACHE_DIR=cache) as server:
        folder = Path(name)
        os.environ["HOME"] = str(folder)
        introduce(server)
        env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
        AGI.install(env)
        parts = [do(f"p{number}", ["random", "numbers"]) for number in range(given.partitions)]
        plan = WorkPlan((Stage("first", parts),)).to_json()
        clusters: Mapping[str, Mapping[str, Any]] = {
            "local": {"backend": "local", "workers": 2},
            "dask": {"backend": "dask", "workers": 2},
            "ssh": {"backend": "ssh", "workers": {server.name: 2}},
        }
        requests = {name: env.request({"plan": plan}, cluster=cluster) for name, cluster in clusters.items()}
        found = [hashes(AGI.run(env, request).check()) for request in requests.values()]  # deploys, too
        assert found[0] == found[1] == found[2]
        taken: dict[str, list[float]] = {name: [] for name in requests}
        for _ in range(given.rounds):
            for backend, request in requests.items():
                taken[backend].append(seconds(env, request))
        medians = {name: statistics.median(times) for name, times in taken.items()}
        for backend, median in medians.items():
            best = min(taken[backend])
            print(f"{backend:6} {median:6.2f} s, best {best:.2f} s, {median - medians['local']:+.2f} s over local")
        print(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


def seconds(env: AgiEnv, request: RunRequest) -> float:
    """Return how long a run takes [s]."""
    begun = time.perf_counter()
    AGI.run(env, request).check()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
