"""Lets the n-th write, fsync or rename of a run fail, for n = 1, 2, ... until a run gets through.

Each time the run is made in a forked child of this process, by the backend
`inline`, and what is left is checked. By hand::

    python -m tests.chaos.steps exit
    python -m tests.chaos.steps full
    python -m tests.chaos.steps stays-full
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agilab import AGI, AgiEnv, Run, RunRequest, Stage, WorkPlan
from agilab.errors import AgilabError
from agilab.run import FINAL_STATES
from agilab.testing import do, make_probe
from agilab.testing.probe import hashes
from tests.chaos.damage import check_honest, check_resumed

CALLS = ("write", "pwrite", "fsync", "fdatasync", "rename", "replace")
HOW = ("exit", "full", "stays-full")
KILLED, NO_SPACE = 9, 4
THROUGH = 100
"""Added to the exit code of a child that never came to the step that was to fail."""


@dataclass(slots=True)
class Steps:
    """A small run that is broken at one of its steps.

    Parameters
    ----------
    folder
        Where everything lies.
    how
        ``exit``: the process ends there. ``full``: that call finds the disk full. ``stays-full``: all later ones too.
    spoil
        Called in each child first: a fault that the checks have to see.
    """

    folder: Path
    how: str
    spoil: Callable[[], None] | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    expected: dict[str, str] = field(default_factory=dict)
    env: AgiEnv = field(init=False)
    request: RunRequest = field(init=False)

    def prepare(self) -> None:
        """Install the probe, and learn what the run leaves."""
        self.env = AgiEnv(make_probe(self.folder), home=self.folder / "home", wenv=self.folder / "wenv")
        AGI.install(self.env)
        parts = [do(f"p{number}", ["random", "numbers"], ["metric", "rows", number]) for number in range(3)]
        plan = WorkPlan([Stage("first", parts), Stage("second", [do("q", ["write", "value", 1])], after="first")])
        self.request = self.env.request({"plan": plan.to_json()}, cluster={"backend": "inline"})
        self.expected = hashes(AGI.run(self.env, self.request).check())

    def break_at(self, step: int) -> bool:
        """Break a run at one step, check what is left, and resume it; False when it got through."""
        known = {run.run_id for run in self.env.runs.list()}
        code = self._in_child(lambda: AGI.run(self.env, self.request), step)
        new = [run for run in self.env.runs.list() if run.run_id not in known]
        if code >= THROUGH:
            check_resumed(new[0], self.expected)
            return False
        if not new:
            assert code == NO_SPACE or self.how == "exit", code
            return True
        run = new[0]
        self._check(run, code)
        if run.paths.request.exists():
            state = run.state
            code = self._in_child(lambda: AGI.resume(self.env, run.run_id), step) % THROUGH  # its steps break as well
            if run.state != "succeeded":
                self._check(run, code)
                self.outcomes[f"{state}, resumed, then {run.state}"] += 1
            if run.state != "succeeded":
                assert self._in_child(lambda: AGI.resume(self.env, run.run_id), 0) == 0
            check_resumed(run, self.expected)
        return True

    def _check(self, run: Run, code: int) -> None:
        state = check_honest(run)
        self.outcomes[f"{state}, exit code {code}"] += 1
        if self.how == "exit":
            assert code == KILLED or state in FINAL_STATES, (state, code)
        elif state == "failed":
            assert "no space" in str(run.error).lower(), run.error
        else:
            assert (state, code) in (("lost", NO_SPACE), ("succeeded", 0), ("succeeded", NO_SPACE)), (state, code)

    def _in_child(self, work: Callable[[], Run], step: int) -> int:
        """Do something in a forked child in which one call fails; return its exit code."""
        child = os.fork()
        if not child:
            code = 1
            try:
                if self.spoil is not None:
                    self.spoil()
                broken = _break(step, self.how) if step else None
                code = {"succeeded": 0, "failed": 1}.get(work().state, 3)
                if broken is not None and not broken():
                    code += THROUGH
            except AgilabError as err:
                code = err.exit_code
            except BaseException:  # noqa: BLE001 - the parent fails on the exit code, and this says why
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _break(step: int, how: str) -> Callable[[], bool]:
    """Let the n-th of `CALLS` in this process fail; return what says whether it came to that."""
    import agilab.events

    lock, seen = threading.Lock(), 0

    def breaking(call: Callable[..., Any]) -> Callable[..., Any]:
        def broken(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            with lock:
                seen += 1
                now = seen
            if now == step and how == "exit":
                os._exit(KILLED)
            if now == step or (now > step and how == "stays-full"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **named)

        return broken

    for name in CALLS:
        setattr(os, name, breaking(getattr(os, name)))
    agilab.events._sync_data = os.fdatasync
    return lambda: seen >= step


def _write_in_place() -> None:
    """Let the seal be written where it is read, in two pieces."""
    import agilab.manifest

    def write_file(path: Path, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(fd, data[:100])
        os.write(fd, data[100:])
        os.close(fd)

    agilab.manifest.write_file = write_file  # type: ignore[assignment]


def main() -> int:
    """Break a run at every step, or at every so many, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=HOW)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--spoiled", action="store_true", help="write files in place, which the checks have to see")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agilab-steps-") as folder:
        steps = Steps(Path(folder), given.how, _write_in_place if given.spoiled else None)
        steps.prepare()
        step = given.first
        while steps.break_at(step):
            step += given.every
    print(f"{given.how} at every step up to {step}: {dict(steps.outcomes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
