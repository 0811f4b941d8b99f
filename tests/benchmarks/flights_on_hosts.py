"""flight_telemetry on two hosts against the same on this machine: equal hashes, and what it takes. By hand, as root::

    PYTHONPATH=. python tests/benchmarks/flights_on_hosts.py [--rounds 2] [--sample-s 280]

The hosts are network namespaces of this machine, each with an sshd, a user and
a home of its own: they share its cores with the local run, so what is left of
the difference is what hosts cost. Artifacts are collected and hashed here.
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

from agilab import AGI, AgiEnv, Run, manifest
from agilab.testing.probe import hashes
from tests.hosts import introduce, namespace_hosts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sample-s", type=int, default=280, help="time between samples [s]; 280 makes 10^7 rows")
    given = parser.parse_args()
    os.environ.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    with tempfile.TemporaryDirectory(prefix="agilab-flights-") as name, namespace_hosts("alpha", "beta") as servers:
        folder = Path(name)
        os.environ["HOME"] = name
        introduce(*servers)
        env = AgiEnv("flight_telemetry", home=folder / "home", wenv=folder / "wenv")
        AGI.install(env)
        clusters: Mapping[str, Mapping[str, Any]] = {
            "local": {"backend": "local", "workers": 2},
            "first on hosts": {"backend": "ssh", "workers": {"alpha": 1, "beta": 1}},
            "on hosts": {"backend": "ssh", "workers": {"alpha": 1, "beta": 1}},
        }
        seen: dict[str, list[float]] = {name: [] for name in clusters}
        left: list[Run] = []
        for number in range(given.rounds):
            for what, cluster in clusters.items():
                if number and what.startswith("first"):
                    continue
                settings = {"dates": ["2013-01-01", "2013-12-31"], "partitions": 8, "sample_s": given.sample_s}
                begun = time.perf_counter()
                run = AGI.run(env, env.request(settings, cluster=cluster)).check()
                seen[what].append(time.perf_counter() - begun)
                assert manifest.verify(run.paths).ok
                left.append(run)
        assert all(hashes(run) == hashes(left[0]) for run in left), "artifacts differ"
        size = sum(item.size_bytes for item in left[0].artifacts())
        where = {record["host"] for record in left[-1].records()}
        print(
            f"{left[0].metrics['rows']:,.0f} rows, {len(hashes(left[0]))} artifacts of {size / 2**20:.0f} MiB, "
            f"equal in {len(left)} runs; on hosts {', '.join(sorted(where))}"
        )
        for what, times in seen.items():
            print(f"{what:15} {statistics.median(times):6.1f} s")
        print(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()
