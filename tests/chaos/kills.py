"""Kills the supervisor of a run with SIGKILL at random moments, again and again, and checks what is left each time.

By hand::

    python -m tests.chaos.kills --kills 200 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agilab import AGI, AgiEnv, Run, Stage, WorkPlan
from agilab.testing import do, make_probe
from agilab.testing.probe import hashes, wait_until
from tests.chaos.damage import check_honest, check_resumed

COMMAND = (sys.executable, "-m", "agilab")


@dataclass(slots=True)
class Kills:
    """A run to be killed, how it ends when nobody does, and what came of each kill.

    Parameters
    ----------
    folder
        Where everything lies.
    command
        What ``agilab`` is started with; a variant with a known fault shows that the checks see it.
    """

    folder: Path
    command: Sequence[str] = COMMAND
    states: Counter[str] = field(default_factory=Counter)
    expected: dict[str, str] = field(default_factory=dict)
    takes_s: float = 0.0
    env: AgiEnv = field(init=False)

    def prepare(self) -> None:
        """Install the probe, and learn what the run leaves and how long it takes."""
        self.env = AgiEnv(make_probe(self.folder), home=self.folder / "home", wenv=self.folder / "wenv")
        AGI.install(self.env)
        request = self.env.request({"plan": plan(self.folder).to_json()}, cluster={"workers": 2})
        (self.folder / "request.json").write_text(json.dumps(request.to_json()))
        begun = time.monotonic()
        run = AGI.run(self.env, request).check()
        self.takes_s = time.monotonic() - begun
        self.expected = hashes(run)

    def kill_once(self, chance: random.Random) -> Run:
        """Start the run, kill it, and resume it; kill some of the resumptions as well."""
        known = {run.run_id for run in self.env.runs.list()}
        (self.folder / "pids").unlink(missing_ok=True)  # so that its partition leaves processes behind again
        process = self.start("run", str(self.env.project.root), "--request", str(self.folder / "request.json"))
        wait_until(lambda: {run.run_id for run in self.env.runs.list()} - known)
        run = self.env.runs.get("last")
        self._kill(process, chance)
        state = check_honest(run)
        self.states[state] += 1
        if not run.paths.request.exists():  # it was killed before it was told what to do
            return run
        if state != "succeeded" and chance.random() < 0.3:
            process = self.start("resume", run.run_id)
            wait_until(lambda: process.poll() is not None or run.state != state)
            self._kill(process, chance)
            state = check_honest(run)
            self.states[f"resumed, then {state}"] += 1
        if state != "succeeded":
            AGI.resume(self.env, run.run_id)
        check_resumed(run, self.expected)
        return run

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start an `agilab` command."""
        environment = {**os.environ, "AGILAB_HOME": str(self.env.home.root), "AGILAB_WENV": str(self.env.wenv.root)}
        return subprocess.Popen(
            [*self.command, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _kill(self, process: subprocess.Popen[bytes], chance: random.Random) -> None:
        end = time.monotonic() + chance.random() * 1.2 * self.takes_s
        wait_until(lambda: process.poll() is not None or time.monotonic() > end, 60)
        process.kill()
        process.wait()


def plan(folder: Path) -> WorkPlan:
    """Return a plan of many short partitions, some of which fork, and a stage that reads them all."""
    parts = [
        do(f"p{number}", ["random", "numbers"], ["metric", "rows", number], *([["fork"]] if number % 7 == 0 else []))
        for number in range(60)
    ]
    parts.append(do("children", ["orphans", str(folder / "pids")], ["write", "done", 1]))
    more = [do(f"q{number}", ["write", "value", number]) for number in range(20)]
    return WorkPlan([Stage("first", parts), Stage("second", more, after="first")])


def main() -> int:
    """Kill as often as asked, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="agilab-kills-") as folder:
        kills = Kills(Path(folder))
        kills.prepare()
        for number in range(given.kills):
            kills.kill_once(chance)
            print(f"\r{number + 1} of {given.kills}", end="", file=sys.stderr, flush=True)
    print(f"\n{given.kills} kills, seed {given.seed}, all honest, same hashes after resume: {dict(kills.states)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
