"""Measures what a trivial request to a running service costs, against `agilab run`, in one run.

Run by hand on an idle machine::

    python tests/benchmarks/service.py [--rounds 15] [--backend local] [--folder FOLDER] [--json FILE]

Every time ends when the manifest is sealed. Rounds take turns, so that a noisy
neighbour disturbs all of them alike; printed are medians. What the disk takes
to make one small file durable (two syncs) is measured in the same rounds: a run
waits for about 15 syncs, and some 15 more go on beside its work. With
``--folder /dev/shm`` there is no disk to wait for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from control_path import AGILAB, make_app

from agilab import AGI, AgiEnv, Run
from agilab.paths import write_file

FIRST_S, THEN_S = 0.15, 0.05
"""What a trivial request may take [s]: at first, and in the end."""


def timed(seen: dict[str, list[float]], name: str, action: Callable[[], object]) -> None:
    """Remember how long something takes [s]."""
    begun = time.perf_counter()
    action()
    seen.setdefault(name, []).append(time.perf_counter() - begun)


def measure(rounds: int, backend: str, work: Path) -> dict[str, float]:
    """Return what was measured, by name, as medians [s]."""
    os.environ |= {"AGILAB_HOME": str(work / "home"), "AGILAB_WENV": str(work / "wenv"), "AGILAB_APPS": str(work)}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    make_app(work, dict(os.environ), name="tiny", settings=0)
    env, cluster = AgiEnv("tiny"), {"backend": backend, "workers": 2}
    flags = ["--backend", backend, "--workers", "2"]
    AGI.run(env, env.request(cluster=cluster)).check()
    AGI.service(env, "start", cluster=cluster)

    def shell(*words: str) -> None:
        subprocess.run([AGILAB, *words], check=True, capture_output=True)

    def check(run: Run) -> None:
        run.wait().check()

    seen: dict[str, list[float]] = {}
    try:
        check(AGI.service(env, "submit"))
        for _ in range(rounds):
            timed(seen, "request, warm Python client", lambda: check(AGI.service(env, "submit")))
            timed(seen, "AGI.run, same client", lambda: check(AGI.run(env, env.request(cluster=cluster))))
            timed(seen, "agilab service submit", lambda: shell("service", "submit", "tiny"))
            timed(seen, "agilab run", lambda: shell("run", "tiny", *flags))
            timed(seen, "agilab apps", lambda: shell("apps"))
            timed(seen, "one durable file", lambda: write_file(work / "file", b"x" * 500))
    finally:
        AGI.service(env, "stop")
    return {name: statistics.median(times) for name, times in seen.items()}


def main() -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--backend", default="local")
    parser.add_argument("--folder", type=Path, help="where everything is written")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(options.rounds, options.backend, Path(folder))
    for name, seconds in found.items():
        print(f"{name:30} {1000 * seconds:8.1f} ms")
    request, command = found["request, warm Python client"], found["agilab service submit"]
    print(f"request / AGI.run              {request / found['AGI.run, same client']:8.2f}")
    print(f"service submit / run           {command / found['agilab run']:8.2f}")
    print(f"request / 0.15 s, / 0.05 s     {request / FIRST_S:8.2f} {request / THEN_S:8.2f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
