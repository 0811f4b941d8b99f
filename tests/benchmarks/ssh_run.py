"""What a run on a host over SSH costs beside its work: ``PYTHONPATH=. python tests/benchmarks/ssh_run.py``.

An sshd of its own on loopback, a small app, nothing changed since the run
before. Backends take turns; the median of each is compared with `local`, which
does the same work; `kept` is a request to a service on the host. CPU is that of
this process and all its children, sshd's sessions included, but not of the
service: it says something on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

from agilab import AGI, AgiEnv, Run, Stage, WorkPlan
from agilab.testing import do
from agilab.testing.probe import hashes, make_probe
from tests.hosts import introduce, loopback_host


def main() -> None:
    """Print medians, and what lies over `local`."""
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
        ways: dict[str, Callable[[], Run]] = {name: partial(AGI.run, env, it) for name, it in requests.items()}
        ways["kept"] = lambda: AGI.service(env, "submit", requests["ssh"]).wait()
        AGI.service(env, "start", cluster=clusters["ssh"])
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        try:
            for _ in range(given.rounds):
                for backend, run in ways.items():
                    begun, cpu = time.perf_counter(), cpu_s(server.pid)
                    run().check()
                    taken[backend].append((time.perf_counter() - begun, cpu_s(server.pid) - cpu))
        finally:
            AGI.service(env, "stop")
        local_s = statistics.median(wall for wall, _ in taken["local"])
        for backend, times in taken.items():
            wall = statistics.median(wall for wall, _ in times)
            best, cpu = min(wall for wall, _ in times), statistics.median(cpu for _, cpu in times)
            print(f"{backend:6} {wall:6.2f} s ({wall - local_s:+.2f} s), best {best:.2f} s, {cpu:.2f} s of CPU")
        print(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


def cpu_s(sshd: int) -> float:
    """Return the CPU time of this process, of its children that have ended, and of those of an sshd [s]."""
    mine = sum(usage.ru_utime + usage.ru_stime for usage in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))
    fields = Path(f"/proc/{sshd}/stat").read_text().rpartition(")")[2].split()
    return mine + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
