"""Entry processes that are kept: whether they are there between two runs is asked, and seen."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agilab.backends import kept
from agilab.backends.entries import Launch
from agilab.backends.kept import KeptEntryPool
from agilab.testing.probe import wait_until

_ENTRY = """\
import json, os, sys, time
for line in sys.stdin:
    op = json.loads(line)["op"]
    if op == "load":
        print('{"op":"loaded"}', flush=True)
    elif op == "ping":
        while not os.path.exists(sys.argv[0] + ".answers"):
            time.sleep(0.01)
        print('{"op":"pong"}', flush=True)
"""


@contextmanager
def pool_of_one(folder: Path) -> Iterator[tuple[KeptEntryPool, Path]]:
    """Keep one process that says it has loaded, and answers only once there is a file."""
    script = folder / "entry.py"
    script.write_text(_ENTRY)
    launch = Launch(sys.executable, str(script), {"worker": "a:B", "code": ""}, dict(os.environ), str(folder / "logs"))
    pool = KeptEntryPool(launch, ["local-0"])
    try:
        yield pool, Path(f"{script}.answers")
    finally:
        pool.end()


def seen(pool: KeptEntryPool) -> Callable[[], tuple[str, str]]:
    def look() -> tuple[str, str]:
        pool.look()
        [one] = pool.states()
        return one.state, one.problem

    return look


def test_one_that_does_not_answer_cannot_work_until_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SILENT_S", 0.2)
    with pool_of_one(tmp_path) as (pool, answers):
        state = seen(pool)
        wait_until(lambda: state()[0] == "idle")
        wait_until(lambda: state()[0] == "broken")
        assert state()[1].startswith("it has not answered for ")
        answers.touch()
        wait_until(lambda: state() == ("idle", ""))


def test_one_that_was_looked_after_late_is_not_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SILENT_S", 0.0)
    with pool_of_one(tmp_path) as (pool, answers):
        answers.touch()
        state = seen(pool)
        wait_until(lambda: state() and pool._asked)
        process = pool._resting["local-0"].process
        assert process is not None
        assert select.select([process.stdout], [], [], 30)[0], "it has answered, and nobody has heard"
        assert state() == ("idle", "")


def test_one_that_is_stopped_cannot_work_until_it_goes_on(tmp_path: Path) -> None:
    with pool_of_one(tmp_path) as (pool, answers):
        answers.touch()
        state = seen(pool)
        wait_until(lambda: state()[0] == "idle")
        [pid] = [one.pid for one in pool.states()]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: state() == ("broken", f"its process {pid} is stopped; let it go on with: kill -CONT {pid}"))
        assert pool.failure == "", "it has loaded"
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: state() == ("idle", ""))
