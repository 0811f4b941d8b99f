"""The event log: what is written, what a reader sees of it while it is written, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agilab import events
from agilab.errors import NoSpaceError
from agilab.events import EventLog, follow, plain, read, visible

WaitFor = Callable[[Callable[[], object], float], object]


class Clock:
    """A clock that a test turns by hand."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def written(path: Path) -> list[dict[str, Any]]:
    """Return what a reader finds in a log now."""
    return read(path)[0]


def test_an_event_has_time_clock_name_and_fields_in_this_order(path: Path) -> None:
    with EventLog(path, now=Clock(1_700_000_000.25), monotonic=Clock(12.5)) as log:
        log.append("committed", {"partition": "p1", "attempt": 1, "retry": True, "rest": [1.5, None, {"a": "é"}]})
        log.append("empty")
    assert path.read_text().splitlines() == [
        '{"t":"2023-11-14T22:13:20.250000Z","mono":12.500000,"event":"committed","partition":"p1","attempt":1,'
        '"retry":true,"rest":[1.5,null,{"a":"é"}]}',
        '{"t":"2023-11-14T22:13:20.250000Z","mono":12.500000,"event":"empty"}',
    ]


def test_the_second_in_the_time_changes_with_the_clock(path: Path) -> None:
    clock = Clock(59.9999999)
    with EventLog(path, now=clock) as log:
        log.append("a")
        clock.seconds = 60.0
        log.append("b")
    assert [event["t"] for event in written(path)] == ["1970-01-01T00:00:59.999999Z", "1970-01-01T00:01:00.000000Z"]


def test_a_state_is_on_the_disk_at_once_and_takes_earlier_events_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(events, "_sync_data", synced.append)
    with EventLog(path) as log:
        log.append("note", {"text": "before"})
        assert path.read_bytes() == b""
        log.append("state", {"state": "running"})
        assert [event["event"] for event in written(path)] == ["note", "state"]
        assert len(synced) == 1


def test_other_events_wait_for_the_loop_and_are_synced_at_most_every_fifty_ms(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[float] = []
    clock = Clock(100.0)
    monkeypatch.setattr(events, "_sync_data", lambda fd: synced.append(clock.seconds))
    log = EventLog(path, monotonic=clock)
    assert log.flush_due(clock.seconds) is None
    for _ in range(1000):
        log.append("progress", {"done": 1})
        clock.seconds += 0.001
        wait = log.flush_due(clock.seconds)
        assert wait is None or 0 < wait <= events.SYNC_INTERVAL_S
    log.close()
    assert len(written(path)) == 1000
    assert 19 <= len(synced) <= 21
    assert all(later - earlier > 0.0499 for earlier, later in pairwise(synced[:-1]))


def test_a_log_is_closed_twice_without_harm(path: Path) -> None:
    log = EventLog(path)
    log.append("note", {"text": "last"})
    log.close()
    log.close()
    assert written(path)[0]["text"] == "last"


def test_a_reader_sees_no_half_of_a_line(path: Path) -> None:
    path.write_bytes(b'{"event":"a"}\n{"event":"b"')
    found, offset = read(path)
    assert [event["event"] for event in found] == ["a"]
    with open(path, "ab") as file:
        file.write(b"}\n")
    assert read(path, offset) == ([{"event": "b"}], path.stat().st_size)


@pytest.mark.parametrize("torn", [b'{"event":"torn', b"\0" * 10_000, b"x" * 4096])
def test_a_torn_last_line_is_cut_off_when_the_log_is_opened_again(path: Path, torn: bytes) -> None:
    path.write_bytes(b'{"event":"a"}\n' + torn)
    with EventLog(path) as log:
        log.append("b")
    assert [event["event"] for event in written(path)] == ["a", "b"]


def test_a_log_that_is_torn_from_its_first_line_on_begins_anew(path: Path) -> None:
    path.write_bytes(b'{"event"')
    EventLog(path).close()
    assert path.read_bytes() == b""


def test_lines_that_are_no_objects_are_skipped(path: Path) -> None:
    path.write_bytes(b'\0\0\n[1]\n{"a":1}{"b":2}\n' + b"[" * 100_000 + b'\n{"event":"good"}\n')
    found, offset = read(path)
    assert found == [{"event": "good"}]
    assert offset == path.stat().st_size


def test_a_log_that_does_not_exist_yet_is_empty(path: Path) -> None:
    assert read(path, 7) == ([], 7)
    assert list(follow(path, lambda: True)) == []


def test_a_long_log_is_read_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_READ_CHUNK", 200)
    with EventLog(path) as log:
        for number in range(100):
            log.append("note", {"number": number})
    assert len(written(path)) < 100
    assert [event["number"] for event in follow(path, lambda: True)] == list(range(100))


def test_following_yields_what_comes_and_ends_with_the_writer_without_losing_a_line(path: Path) -> None:
    done = threading.Event()
    seen: list[int] = []
    first = threading.Event()

    def reader() -> None:
        for event in follow(path, done.is_set, poll_s=0.001):
            seen.append(event["number"])
            first.set()

    thread = threading.Thread(target=reader)
    thread.start()
    with EventLog(path) as log:
        log.append("note", {"number": 0})
        log.sync()
        assert first.wait(10)
        for number in range(1, 500):
            log.append("note", {"number": number})
            if not number % 7:
                log.sync()
    done.set()
    thread.join(10)
    assert seen == list(range(500))


@pytest.mark.parametrize(
    "text",
    [
        'quotes " and \\ and \x00 and \x1b[31m',
        "line\nend\r\n\u2028\u2029",
        "lone \udc80 surrogate",
        "emoji 🛩 and ünïcode",
        '","event":"state","x":"',
    ],
)
def test_any_text_of_a_worker_stays_one_line_and_comes_back(path: Path, text: str) -> None:
    with EventLog(path) as log:
        log.append("log", {"partition": "p1", "level": text, "text": text})
    assert path.read_bytes().count(b"\n") == 1
    event = written(path)[0]
    assert event["event"] == "log"
    assert event["text"] == text.replace("\udc80", "?")


def test_numbers_that_json_lacks_become_texts(path: Path) -> None:
    with EventLog(path) as log:
        log.append("metric", {"value": float("nan"), "done": float("-inf"), "all": [float("inf"), {"x": float("nan")}]})
    event = written(path)[0]
    assert (event["value"], event["done"], event["all"]) == ("NaN", "-Infinity", ["Infinity", {"x": "NaN"}])


def test_plain_leaves_everything_else_as_it_is() -> None:
    value = {"a": [1, 1.5, None, True, "é", {"b": ()}]}
    assert plain(value) == {"a": [1, 1.5, None, True, "é", {"b": []}]}
    assert plain("\ud800") == "?"


@pytest.mark.parametrize("text", ["x" * 10_000_000, "é" * 40_000, "🛩" * 20_000])
def test_a_text_over_64_kib_is_cut_with_a_note(path: Path, text: str) -> None:
    with EventLog(path) as log:
        log.append("failed", {"message": text, "traceback": "y" * events.TEXT_LIMIT, "short": "z"})
    event = written(path)[0]
    head, _, note = event["message"].partition("... (cut; ")
    assert text.startswith(head)
    assert events.TEXT_LIMIT - 4 < len(head.encode()) <= events.TEXT_LIMIT
    assert note == f"it has {len(text.encode())} bytes)"
    assert event["traceback"] == "y" * events.TEXT_LIMIT
    assert path.stat().st_size < 3 * events.TEXT_LIMIT


def test_a_full_disk_says_so_and_what_was_not_written_is_written_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(path)
    real = os.write
    room = [10]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        count = real(fd, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(NoSpaceError, match=r"no space on disk while writing .*events\.jsonl"):
        log.append("state", {"state": "running"})
    assert path.stat().st_size == 10
    monkeypatch.undo()
    log.append("note", {"text": "later"})
    log.close()
    assert [event["event"] for event in written(path)] == ["state", "note"]


def test_a_log_is_not_written_through_a_link(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        EventLog(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_writer_that_is_killed_leaves_whole_lines_and_a_log_that_goes_on(path: Path, wait_for: WaitFor) -> None:
    code = (
        "import sys; from pathlib import Path; from agilab.events import EventLog\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "while True:\n log.append('note', {'text': 'x' * 5000})\n log.sync()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, path]) as process:
        wait_for(lambda: path.exists() and path.stat().st_size > 100_000, 10.0)
        process.send_signal(signal.SIGKILL)
    before = len(written(path))
    with EventLog(path) as log:
        log.append("note", {"text": "after"})
    found = list(follow(path, lambda: True))
    assert len(found) == before + 1
    assert found[-1]["text"] == "after"


def test_twenty_thousand_events_cost_little(path: Path) -> None:
    costs = []
    for number in range(3):
        log = EventLog(path.with_name(str(number)))
        before = time.process_time()
        for item in range(20_000):
            log.append("committed", {"partition": f"p{item}", "stage": "tracks", "worker": "local-0", "attempt": 1})
        log.close()
        costs.append(time.process_time() - before)
    assert min(costs) < 0.2, f"{costs} s; about 0.09 s where nothing else runs"


def test_control_characters_are_shown_and_not_obeyed() -> None:
    text = "a\x1b[31mred\x07\x00\x7f\x9b\rb\tc\nd\r\ne\u202egnp\u2066\u200f ünï"
    assert visible(text) == (r"a\x1b[31mred\x07\x00\x7f\x9b\x0db" + "\tc\nd\ne" + r"\u202egnp\u2066\u200f" + " ünï")


def test_every_line_is_json_for_other_programs(path: Path) -> None:
    with EventLog(path) as log:
        log.append("a", {"text": "\x7f\x80"})
    assert json.loads(path.read_text())["text"] == "\x7f\x80"
