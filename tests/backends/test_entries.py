"""Whatever an entry process does is an ordinary event; here with scripts in place of workers."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agilab.backends.base import Broken, Done, Event, Failed, Gone, Report, Returned, Started, Wanted
from agilab.backends.entries import EntryPool, Launch, worker_environment
from agilab.paths import make_folder

HEAD = """
import json, os, sys, time
def say(**message): print(json.dumps(message), flush=True)
def hear(): return json.loads(sys.stdin.readline() or "null")
def done(task): say(op="done", id=task["id"], wall_s=0.0)
hear()
"""
READY = HEAD + "say(op='ready')\n"


class Driven:
    """A pool whose workers run a script, and the events it has told."""

    def __init__(self, folder: Path, script: str) -> None:
        runtime = make_folder(folder / "runtime")
        (runtime / "__main__.py").write_text(script)
        self.logs = make_folder(folder / "logs")
        environment = worker_environment(1, {})
        self.pool = EntryPool(
            Launch(sys.executable, str(runtime), {"op": "init"}, environment, str(self.logs)), ["local-0"]
        )
        self.seen: list[Event] = []

    def until(self, *kinds: type[Event], count: int = 1) -> Any:
        """Return the `count`-th event of some kinds."""
        end = time.monotonic() + 20
        while len(found := [event for event in self.seen if isinstance(event, kinds)]) < count:
            assert time.monotonic() < end, self.seen
            self.seen += self.pool.wait(0.05)
        return found[count - 1]

    def submit(self, *names: str, timeout_s: float | None = None, **more: Any) -> None:
        for name in names:
            self.pool.submit("local-0", {"op": "run", "id": name, **more}, timeout_s=timeout_s)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.seen]


Drive = Callable[[str], Driven]


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    made: list[Driven] = []

    def start(script: str) -> Driven:
        made.append(Driven(tmp_path, script))
        return made[-1]

    yield start
    for driven in made:
        driven.pool.close(grace_s=0.0)


@pytest.mark.parametrize("line", ["not JSON", "[1]", '"text"', "{}", "[" * 5000, '{"op": "done"}', '{"op": "what"}'])
def test_a_worker_that_breaks_the_protocol_is_ended(drive: Drive, line: str) -> None:
    driven = drive(READY + f"hear(); print({line!r}, flush=True); time.sleep(60)")
    driven.until(Wanted)
    driven.submit("a")
    failed = driven.until(Failed)
    assert (failed.partition, failed.reason) == ("a", "protocol")
    assert driven.until(Wanted, count=2).worker == "local-0"


def test_a_worker_that_speaks_of_another_partition_is_ended(drive: Drive) -> None:
    driven = drive(READY + "hear(); say(op='done', id='b', wall_s=0.0); time.sleep(60)")
    driven.until(Wanted)
    driven.submit("a")
    assert "answered 'done' for partition 'b', which it does not run" in driven.until(Failed).message
    assert "Done" not in driven.kinds()


def test_reports_about_what_has_ended_are_dropped(drive: Drive) -> None:
    driven = drive(READY + "task = hear(); done(task); say(op='log', id='a', level='INFO', text='late'); done(hear())")
    driven.until(Wanted)
    driven.submit("a", "b")
    driven.until(Done, count=2)
    assert "Report" not in driven.kinds()


def test_a_short_partition_gets_the_next_one_sent_ahead_and_a_long_one_does_not(drive: Drive) -> None:
    script = "for wall_s in (0.0, 0.0, 9.0, 9.0):\n    say(op='done', id=hear()['id'], wall_s=wall_s)\n"
    driven = drive(READY + script)
    driven.until(Wanted)
    driven.submit("a", "b", "c", "d")
    driven.until(Done, count=4)
    wanted = [event.count for event in driven.seen if isinstance(event, Wanted)]
    assert wanted == [1, 2, 1, 1]  # after the first long one, one less


def test_of_what_a_dead_worker_held_the_first_has_failed_and_the_rest_comes_back(drive: Drive) -> None:
    driven = drive(READY + "hear(); say(op='metric', id='a'); os.abort()")
    driven.until(Wanted)
    driven.submit("a", "b", "c")
    driven.until(Returned, count=2)
    order = driven.kinds()[driven.kinds().index("Gone") :]
    assert order[:4] == ["Gone", "Failed", "Returned", "Returned"]
    failed = driven.until(Failed)
    assert (failed.partition, failed.reason) == ("a", "died")
    assert "killed by signal 6 (SIGABRT)" in failed.message
    assert isinstance(driven.until(Report), Report)
    assert driven.until(Started, count=2).pgid != driven.until(Started).pgid


def test_a_death_by_a_signal_without_a_name_is_named_by_its_number(drive: Drive) -> None:
    driven = drive(READY + f"hear(); os.kill(os.getpid(), {signal.SIGRTMIN + 3})")
    driven.until(Wanted)
    driven.submit("a")
    assert f"killed by signal {signal.SIGRTMIN + 3}" in driven.until(Failed).message


def test_a_worker_that_says_done_and_dies_has_done_it(drive: Drive) -> None:
    driven = drive(READY + "done(hear()); os.kill(os.getpid(), 9)")
    driven.until(Wanted)
    driven.submit("a")
    driven.until(Gone)
    assert "Failed" not in driven.kinds()
    assert driven.until(Done).partition == "a"


def test_a_timeout_counts_from_when_the_worker_is_ready_and_the_partition_its_first(drive: Drive) -> None:
    driven = drive(READY + "hear(); hear(); done({'id': 'a'}); time.sleep(60)")
    driven.until(Wanted)
    driven.submit("a")
    driven.submit("b", timeout_s=0.2)
    failed = driven.until(Failed)
    assert (failed.partition, failed.reason, failed.message) == ("b", "timeout", "timeout after 0.2 s")


def test_a_partition_that_ends_just_as_its_time_does_costs_the_next_one_an_attempt_only(drive: Drive) -> None:
    driven = drive(READY + "done(hear()); hear(); open(hear()['file'], 'w').close(); time.sleep(60)")
    driven.until(Wanted)
    file = driven.logs / "said"
    driven.submit("a", timeout_s=1000.0)
    driven.submit("b")
    driven.submit("c", file=str(file))
    end = time.monotonic() + 20
    while not file.exists():  # "done" lies in the pipe, nobody has read it
        assert time.monotonic() < end
    driven.pool._kill(driven.pool._slots["local-0"], "timeout", "timeout after 1000 s")
    driven.until(Returned)
    assert driven.until(Done).partition == "a"
    failed = driven.until(Failed)
    assert (failed.partition, failed.reason) == ("b", "died")


@pytest.mark.parametrize("script", ["sys.exit(3)", "os.kill(os.getpid(), 11)"])
def test_a_worker_that_never_gets_ready_breaks_the_run_with_its_last_words(drive: Drive, script: str) -> None:
    driven = drive(HEAD + f"print('last words', file=sys.stderr, flush=True); {script}")
    broken = driven.until(Broken)
    assert broken.message.startswith("worker local-0 does not start: ")
    assert broken.traceback.count("last words") == 3
    driven.submit("a")  # wanted by nobody any more
    assert driven.until(Returned).partition == "a"


def test_a_worker_that_says_why_it_cannot_start_is_not_started_again(drive: Drive) -> None:
    driven = drive(HEAD + "say(op='failed', id='', message='no such class', traceback='...')")
    assert driven.until(Broken).message == "no such class"
    driven.until(Gone)
    assert driven.kinds().count("Started") == 1


def test_a_worker_that_dies_while_it_waits_is_replaced(drive: Drive) -> None:
    driven = drive(READY + "hear()")
    first = driven.until(Started)
    driven.until(Wanted)
    os.kill(first.pgid, signal.SIGKILL)
    driven.until(Wanted, count=2)
    assert "Failed" not in driven.kinds()


def test_a_worker_that_does_not_read_blocks_nobody(drive: Drive, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"end = time.monotonic() + 10\nwhile not os.path.exists({str(gate)!r}) and time.monotonic() < end: pass\n"
    driven = drive(READY + wait + "for _ in range(40): done(hear())\n")
    driven.until(Wanted)
    begun = time.monotonic()
    driven.submit(*(f"p{number}" for number in range(40)), params="x" * 100_000)
    assert time.monotonic() - begun < 10
    gate.touch()
    driven.until(Done, count=40)


def test_a_long_message_arrives_whole(drive: Drive) -> None:
    driven = drive(READY + "hear(); say(op='log', id='a', text='x' * 5_000_000); done({'id': 'a'})")
    driven.until(Wanted)
    driven.submit("a")
    driven.until(Done)
    assert len(driven.until(Report).message["text"]) == 5_000_000


@pytest.mark.parametrize("script", ["hear()", "import signal; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
def test_closing_ends_a_worker_politely_or_by_force(drive: Drive, script: str) -> None:
    driven = drive(READY + script)
    driven.until(Wanted)
    begun = time.monotonic()
    driven.pool.close(grace_s=0.2)
    driven.pool.close(grace_s=0.2)
    assert time.monotonic() - begun < 5
    with pytest.raises(ProcessLookupError):
        os.killpg(driven.until(Started).pgid, 0)


def test_the_environment_of_a_worker_shares_the_cores_and_keeps_what_the_user_has_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("SECRET", "x")
    found = worker_environment(5, {"AGILAB_RUN": "marker"})
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"], found["OPENBLAS_NUM_THREADS"]) == ("2", "2", "7")
    assert (found["LC_TIME"], found["AGILAB_RUN"]) == ("C", "marker")
    assert "SECRET" not in found
    assert worker_environment(50, {})["OMP_NUM_THREADS"] == "1"
