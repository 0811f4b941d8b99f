"""One signal or one file asks a run to stop; a second signal does not wait."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from agilab.interrupt import CancelSwitch

NUMBERS = [signal.SIGINT, signal.SIGTERM]


def test_it_is_off_until_the_cancel_file_is_there(tmp_path: Path) -> None:
    with CancelSwitch(tmp_path / "cancel.json") as switch:
        assert not switch()
        (tmp_path / "cancel.json").touch()
        assert switch()
        (tmp_path / "cancel.json").unlink()
        assert switch()
        assert switch.signal == 0


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_turns_it_on_and_tells_worker_code_through_the_file(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / ".staging" / "cancel.json"
    with CancelSwitch(path) as switch:
        os.kill(os.getpid(), number)
        assert switch()
        assert switch.signal == number
        assert path.is_file()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_second_signal_interrupts_at_once_and_the_first_is_remembered(tmp_path: Path, number: signal.Signals) -> None:
    with CancelSwitch(tmp_path / "cancel.json") as switch:
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert switch.signal == number


def test_while_a_run_is_sealed_a_second_signal_ends_its_workers_only(tmp_path: Path) -> None:
    called: list[int] = []
    path = tmp_path / ".staging" / "cancel.json"
    with CancelSwitch(path) as switch:
        switch.at_once = lambda: called.append(1)
        switch.announces = False
        os.kill(os.getpid(), signal.SIGINT)
        assert called == []
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert called == [1, 1]
    assert not path.parent.exists()  # nothing runs any more that could look


def test_the_handlers_of_the_caller_come_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with CancelSwitch(tmp_path / "cancel.json"):
        assert [signal.getsignal(number) for number in NUMBERS] != before
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_in_another_thread_only_the_file_counts(tmp_path: Path) -> None:
    found: list[object] = []
    before = [signal.getsignal(number) for number in NUMBERS]

    def work() -> None:
        with CancelSwitch(tmp_path / "cancel.json") as switch:
            found.append([signal.getsignal(number) for number in NUMBERS] == before)
            (tmp_path / "cancel.json").touch()
            found.append(switch())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True, True]


def test_a_folder_that_cannot_be_written_stops_no_signal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with CancelSwitch(tmp_path / "file" / "cancel.json") as switch:
        os.kill(os.getpid(), signal.SIGINT)
        assert switch()
