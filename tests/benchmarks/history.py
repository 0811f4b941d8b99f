"""Measures the run history over many run folders, as whole commands and as ratios from one run.

Run by hand on an idle machine::

    python tests/benchmarks/history.py [--runs 10000] [--rounds 5] [--keep FOLDER]

The folders are complete and sealed; they differ in settings, metrics, state
and time. Every figure is the median over rounds that take turns; beside the
wall clock stands the CPU time [s], which other programs disturb less.
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
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from agilab import sums  # noqa: E402
from agilab.digest import of_bytes  # noqa: E402
from agilab.env import AgiEnv  # noqa: E402
from agilab.manifest import build  # noqa: E402
from agilab.paths import HomePaths  # noqa: E402
from agilab.sidecar import change_tags  # noqa: E402
from tests.run_folder import RunFolder  # noqa: E402

AGILAB = Path(sys.executable).with_name("agilab")
APPS = ("flights", "ocean_currents")
EVERY = 97
"""One run of so many has failed, and one of so many is tagged."""


def make_runs(home: Path, count: int) -> None:
    """Make run folders from one that is made in full: its files, with a manifest and a seal of its own for each."""
    AgiEnv(home=home, wenv=home / "wenv").prepare()
    model = RunFolder(home / "model").commit_all()
    source = model.seal()
    files, _ = sums.walk(str(source.root))
    contents = {name: (source.root / name).read_bytes() for name in files}
    facts = model.facts()
    for number in range(count):
        home_paths = HomePaths(home)
        app = APPS[number % 2]
        moment = 1_700_000_000 + number * 61
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(moment))}-{number % 65536:04x}"
        root = home_paths.run(app, run_id).root
        failed = number % EVERY == 1
        request = {**facts["request"], "settings": {**facts["request"]["settings"], "sample_s": number % 300}}
        manifest = build(
            {
                **facts,
                "run_id": run_id,
                "state": "failed" if failed else "succeeded",
                "error": "partition 'p1' failed" if failed else None,
                "request": request,
                "duration_s": 1 + number % 50 / 7,
                "metrics": {"rows": float(number), "rmse": (number * 7919 % 1000) / 1000, **_others(number)},
            },
            model.records,
        )
        mine = {**contents, "run_manifest.json": json.dumps(manifest, sort_keys=True, indent=1).encode()}
        mine["manifest-sha256.txt"] = sums.to_text({name: of_bytes(data) for name, data in mine.items()})
        for folder in {name.rpartition("/")[0] for name in mine}:
            (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in mine.items():
            with open(root / name, "wb") as file:
                file.write(data)
        (root / ".owner").write_text('{"host": "here"}\n')
        if number % EVERY == 2:
            change_tags(home_paths.run(app, run_id), add=["best"])
    shutil.rmtree(home / "model")


def _others(number: int) -> dict[str, float]:
    return {f"metric_{name}": number * 0.5 for name in "abcdef"}


COMMANDS: Mapping[str, Sequence[str]] = {
    "newest 30": (),
    "one app": ("flights",),
    "a week": ("--since", "2023-11-20", "--until", "2023-11-27"),
    "failed": ("--state", "failed"),
    "tagged": ("--tag", "best"),
    "setting and metric": ("--setting", "sample_s>250", "--metric", "rmse<0.1"),
    "sorted by a metric": ("--sort", "metric:rmse"),
    "longest": ("--sort", "-took"),
}


def timed(command: Sequence[str | Path], env: Mapping[str, str]) -> tuple[float, float]:
    """Return how long a command takes, by the clock and of the CPU [s]; it must succeed."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    took, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command} failed: {done.stderr}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(home: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Time every command, all of them once per round; the index is warm but where it says otherwise."""
    env = {**os.environ, "AGILAB_HOME": str(home), "AGILAB_WENV": str(home / "wenv")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    index = HomePaths(home).index
    seen: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, command: Sequence[str | Path]) -> None:
        seen.setdefault(name, []).append(timed(command, env))

    for number in range(rounds + 1):
        print(f"round {number} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        note("python -c pass", [sys.executable, "-c", "pass"])
        note("agilab --version", [AGILAB, "--version"])
        index.unlink(missing_ok=True)
        note("cold index, failed", [AGILAB, "runs", "--state", "failed"])
        for name, words in COMMANDS.items():
            note(name, [AGILAB, "runs", *words])
        index.unlink(missing_ok=True)
        index.mkdir()
        note("without index, failed", [AGILAB, "runs", "--state", "failed"])
        index.rmdir()
        if number == 0:
            seen.clear()  # byte code and the disk's cache are warm now
    return seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the runs, made once and left there")
    arguments = parser.parse_args()
    home = arguments.keep or Path(tempfile.mkdtemp(prefix="agilab-history-"))
    try:
        if not HomePaths(home).runs.is_dir():
            begin = time.perf_counter()
            make_runs(home, arguments.runs)
            print(f"{arguments.runs:,} runs made in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        seen = measure(home, arguments.rounds)
    finally:
        if arguments.keep is None:
            shutil.rmtree(home, ignore_errors=True)
    middles = {name: [statistics.median(kind) for kind in zip(*times, strict=True)] for name, times in seen.items()}
    bare, version = middles["python -c pass"][1], middles["agilab --version"][1]
    print(f"{'command':28} {'wall':>8} {'fastest':>8} {'CPU':>8} {'x python':>9} {'x --version':>12}")
    for name, (wall, cpu) in middles.items():
        fastest = min(took for took, _ in seen[name])
        print(f"{name:28} {wall:6.3f} s {fastest:6.3f} s {cpu:6.3f} s {cpu / bare:9.1f} {cpu / version:12.1f}")
    print(f"load now {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
