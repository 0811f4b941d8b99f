"""Measures the control path against its figures and against peers, as ratios from one run.

Run by hand on an idle machine::

    python tests/benchmarks/control_path.py [--rounds 5] [--json FILE]

Every figure is the median over rounds that take turns, so that a noisy
neighbour disturbs all of them alike. CPU is that of a process and all its
children [s]; wall clock is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from peers import BLOB_BYTES, BLOBS, QUIET, SETTINGS, Peer, prepare

AGILAB = Path(sys.executable).with_name("agilab")
CACHE = Path.home() / ".cache" / "agilab-benchmarks"

_MANAGER = '''"""Measures what a run costs beside its work."""
import agilab
import param
from agilab import Partition, Stage, WorkPlan


class {title}(agilab.App):
    """Does next to nothing."""

    class Settings(agilab.Settings):
        """What it does."""

        count = param.Integer(1, bounds=(1, 100000), doc="Partitions of stage one.")
        blobs = param.Integer(0, bounds=(0, 100), doc="Artifacts of 1 MiB.")
{settings}

    def plan(self):
        """Plan equal partitions."""
        parts = [Partition(f"p{{i}}", params={{"i": i}}) for i in range(self.settings.count)]
        return WorkPlan((Stage("one", tuple(parts)),))
'''

_WORKER = '''"""Measures what a run costs beside its work."""
import os

from agilab import Worker


class {title}Worker(Worker):
    """Does next to nothing."""

    def one(self, part):
        """Write a number, and what else is asked for."""
        part.write("value", "json", part.params["i"])
        for number in range(self.settings.blobs):
            part.write(f"blob{{number}}", "file", os.urandom(1 << 20))
            for step in range(10):
                part.metric(f"m{{number}}", step * 0.5, step)
'''


class Clock:
    """Times commands and remembers every measurement by name: (wall, cpu) [s]."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[float, float]]] = {}

    def command(self, name: str, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Time a command; it must succeed."""
        before, wall = _children(), time.perf_counter()
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        self.seen.setdefault(name, []).append((time.perf_counter() - wall, _children() - before))
        if done.returncode:
            sys.exit(f"{name} failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")

    def printed(self, name: str, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Take the time that a command measured itself and printed [s]."""
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=True)
        self.seen.setdefault(name, []).append((float(done.stdout), 0.0))

    def wall(self, name: str) -> float:
        return statistics.median(wall for wall, _ in self.seen[name])

    def cpu(self, name: str) -> float:
        return statistics.median(cpu for _, cpu in self.seen[name])


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_app(root: Path, env: Mapping[str, str], *, name: str, settings: int) -> Path:
    """Make an app that is timed, from the project that `agilab new` writes."""
    subprocess.run([AGILAB, "new", name, "--folder", root], check=True, env=env, capture_output=True)
    project = root / f"{name}_project"
    more = "".join(
        f'        s{i} = param.Number({i}.0, bounds=(0, 1000), doc="One of many.")\n' for i in range(settings)
    )
    title = name.title()
    (project / f"src/{name}/__init__.py").write_text(_MANAGER.format(title=title, settings=more))
    (project / f"src/{name}_worker/__init__.py").write_text(_WORKER.format(title=title))
    (project / f"src/{name}/app_settings.toml").write_text('schema = "agilab.settings/1"\n')
    return project


def measure(clock: Clock, rounds: int, work: Path) -> None:
    """Take every measurement, all of them once per round."""
    env = {
        **os.environ,
        **QUIET,
        "AGILAB_HOME": str(work / "home"),
        "AGILAB_WENV": str(work / "wenv"),
        "HOME": str(work),
    }
    env["AGILAB_APPS"] = str(work)
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    worker = make_app(work, env, name="tiny", settings=0) / "src/tiny_worker/__init__.py"
    make_app(work, env, name="wide", settings=SETTINGS)
    peers = {name: prepare(name, CACHE, python=sys.executable) for name in ("metaflow", "kedro", "dask")}
    many = {**{f"--s{i}": str(i + 1) for i in range(SETTINGS)}, "--blobs": str(BLOBS)}
    steps: list[Callable[[], None]] = [
        lambda: clock.command("python -c pass", [sys.executable, "-c", "pass"], cwd=work, env=env),
        lambda: clock.command("agilab --help", [AGILAB, "--help"], cwd=work, env=env),
        lambda: clock.command("import agilab", [sys.executable, "-c", "import agilab"], cwd=work, env=env),
        lambda: clock.printed("install, nothing changed", [sys.executable, "-c", _INSTALL], cwd=work, env=env),
        lambda: worker.write_text(f"{_WORKER.format(title='Tiny')}# {time.time_ns()}\n") and None,
        lambda: clock.printed("install, worker edited", [sys.executable, "-c", _INSTALL], cwd=work, env=env),
        lambda: clock.command("trivial run", [AGILAB, "run", "tiny"], cwd=work, env=env),
        lambda: _kedro(clock, peers["kedro"], env),
        lambda: _metaflow(clock, peers["metaflow"], env),
        lambda: clock.command("1,000 partitions", [AGILAB, "run", "tiny", "--count", "1000"], cwd=work, env=env),
        lambda: clock.command(
            "settings and blobs", [AGILAB, "run", "wide", *chain.from_iterable(many.items())], cwd=work, env=env
        ),
        lambda: clock.command("dask, 1 task", peers["dask"].command("many.py", "1"), cwd=peers["dask"].folder, env=env),
        lambda: clock.command(
            "dask, 1,000 tasks", peers["dask"].command("many.py", "1000"), cwd=peers["dask"].folder, env=env
        ),
        lambda: clock.command("10,000 partitions", [AGILAB, "run", "tiny", "--count", "10000"], cwd=work, env=env),
    ]
    for _ in range(2):  # warm: environments, byte code, caches of the disk
        for step in steps[:8]:
            step()
    clock.seen.clear()
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        for step in steps:
            step()


_INSTALL = """
import time
from agilab.agi import AGI
from agilab.env import AgiEnv
env = AgiEnv("tiny")
begin = time.perf_counter()
AGI.install(env)
print(time.perf_counter() - begin)
"""


def _kedro(clock: Clock, peer: Peer, env: Mapping[str, str]) -> None:
    clock.command("kedro, trivial run", peer.command("-m", "kedro", "run"), cwd=peer.folder, env=env)


def _metaflow(clock: Clock, peer: Peer, env: Mapping[str, str]) -> None:
    clock.command("metaflow, trivial run", peer.command("one.py", "run"), cwd=peer.folder, env=env)


def figures(clock: Clock) -> list[tuple[str, str, str]]:
    """Return (figure, measured, wanted)."""
    bare, trivial = clock.cpu("python -c pass"), clock.wall("trivial run")
    per_task = (clock.cpu("dask, 1,000 tasks") - clock.cpu("dask, 1 task")) / 999 * 1e3
    per_part = (clock.cpu("1,000 partitions") - clock.cpu("trivial run")) / 999 * 1e3
    kedro = clock.wall("kedro, trivial run")
    return [
        ("agilab --help over python -c pass [CPU]", f"{clock.cpu('agilab --help') / bare:.1f} x", "6 x, then 4 x"),
        ("import agilab over python -c pass [CPU]", f"{clock.cpu('import agilab') / bare:.1f} x", "6 x, then 4 x"),
        ("trivial run", f"{trivial:.2f} s (CPU {clock.cpu('trivial run'):.2f})", "faster than both peers"),
        ("  over kedro's", f"{trivial / kedro:.2f} ({kedro:.2f} s)", "below 1, then 0.39"),
        (
            "  over metaflow's",
            f"{trivial / clock.wall('metaflow, trivial run'):.2f} ({clock.wall('metaflow, trivial run'):.2f} s)",
            "below 1",
        ),
        (
            "1,000 partitions over the trivial run",
            f"{clock.wall('1,000 partitions') - trivial:.2f} s",
            "1.5 s, then 0.8 s",
        ),
        ("  CPU per partition", f"{per_part:.2f} ms", f"below dask's {per_task:.2f} ms, then 0.5 ms"),
        ("10,000 partitions", f"{clock.wall('10,000 partitions'):.1f} s", "8 s"),
        ("  time per partition over that of 1,000", f"{_flatness(clock, trivial):.2f}", "flat: 1"),
        (
            f"{SETTINGS} settings, 100 metrics, {BLOBS} x {BLOB_BYTES >> 20} MiB over the trivial run",
            f"{clock.wall('settings and blobs') - trivial:.2f} s",
            "0.2 s, then 0.1 s",
        ),
        ("install, nothing changed", f"{clock.wall('install, nothing changed'):.3f} s", "0.1 s"),
        ("install, worker edited", f"{clock.wall('install, worker edited'):.3f} s", "0.3 s"),
    ]


def _flatness(clock: Clock, trivial: float) -> float:
    return (clock.wall("10,000 partitions") - trivial) / 9999 / ((clock.wall("1,000 partitions") - trivial) / 999)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="agilab-bench-"))
    clock = Clock()
    try:
        measure(clock, arguments.rounds, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows = figures(clock)
    for name, found, wanted in rows:
        print(f"{name:70} {found:28} {wanted}")
    print(f"load now {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"figures": rows, "measurements": clock.seen}, indent=1))


if __name__ == "__main__":
    main()
