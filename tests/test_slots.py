"""The machine's queue: nobody holds more than there is, the dead hold nothing, and nobody waits in a circle."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import pytest

from agilab.errors import RequestError
from agilab.slots import Slots, acquire, machine

AVAILABLE = {"cpu": 2, "gpu": 1}
WaitFor = Callable[..., object]


class Asking:
    """A thread that asks for slots."""

    def __init__(self, folder: Path, wanted: Mapping[str, int], run_id: str = "run-2") -> None:
        self.said: list[str] = []
        self.got: list[Slots | None] = []
        self.stopped = False
        self._thread = threading.Thread(target=self._ask, args=(folder, wanted, run_id), daemon=True)
        self._thread.start()

    def _ask(self, folder: Path, wanted: Mapping[str, int], run_id: str) -> None:
        self.got.append(take(folder, wanted, run_id=run_id, said=self.said, stopped=lambda: self.stopped))

    def result(self) -> Slots | None:
        self._thread.join(20)
        return self.got[0]


def take(
    folder: Path,
    wanted: Mapping[str, int],
    *,
    run_id: str = "run-1",
    said: list[str] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Slots | None:
    return acquire(
        folder,
        run_id=run_id,
        wanted=wanted,
        available=AVAILABLE,
        waiting=(said if said is not None else []).append,
        stopped=stopped,
    )


def held(slots: Slots | None) -> dict[str, tuple[int, ...]]:
    return cast("Slots", slots).numbers


def test_what_is_free_is_given_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    one = take(tmp_path, {"cpu": 1}, said=said)
    two = take(tmp_path, {"cpu": 1, "gpu": 1}, said=said)
    assert (held(one), held(two)) == ({"cpu": (0,)}, {"cpu": (1,), "gpu": (0,)})
    assert said == []
    for slots in (one, two):
        cast("Slots", slots).release()


def test_more_than_there_is_counts_as_all_of_it(tmp_path: Path) -> None:
    slots = cast("Slots", take(tmp_path, {"cpu": 99, "licence": 1}))
    assert slots.numbers == {"cpu": (0, 1), "licence": ()}
    slots.release()
    slots.release()


def test_whoever_waits_says_once_for_what_and_for_whom(tmp_path: Path, wait_for: WaitFor) -> None:
    first = cast("Slots", take(tmp_path, {"cpu": 2}))
    second = Asking(tmp_path, {"cpu": 1})
    wait_for(lambda: second.said)
    assert second.said == ["waiting for 1 cpu slot(s) of this machine; held by run-1"]
    first.shrink("cpu", 1)
    assert first.numbers == {"cpu": (0,)}
    slots = cast("Slots", second.result())
    assert slots.numbers == {"cpu": (1,)}
    assert len(second.said) == 1
    for one in (first, slots):
        one.release()


def test_one_that_wants_all_is_not_overtaken_for_ever(tmp_path: Path, wait_for: WaitFor) -> None:
    first = cast("Slots", take(tmp_path, {"cpu": 1}))
    large = Asking(tmp_path, {"cpu": 2})
    wait_for(lambda: large.said)
    small = Asking(tmp_path, {"cpu": 1}, "run-3")
    wait_for(lambda: small.said)
    first.release()
    slots = cast("Slots", large.result())
    assert slots.numbers == {"cpu": (0, 1)}
    assert small.got == []
    slots.release()
    cast("Slots", small.result()).release()


def test_who_waits_can_stop_and_leaves_nothing_held(tmp_path: Path, wait_for: WaitFor) -> None:
    first = cast("Slots", take(tmp_path, {"cpu": 1}))
    second = Asking(tmp_path, {"cpu": 2})
    wait_for(lambda: second.said)
    second.stopped = True
    assert second.result() is None
    rest = cast("Slots", take(tmp_path, {"cpu": 1}))
    assert rest.numbers == {"cpu": (1,)}
    for one in (first, rest):
        one.release()


def test_a_run_that_takes_devices_does_not_stand_behind_one_that_waits_for_its_cores(
    tmp_path: Path, wait_for: WaitFor
) -> None:
    first = cast("Slots", take(tmp_path, {"cpu": 2}))
    second = Asking(tmp_path, {"cpu": 1})
    wait_for(lambda: second.said)
    devices = Asking(tmp_path, {"gpu": 1}, "run-1")
    first.add(cast("Slots", devices.result()))
    assert first.numbers == {"cpu": (0, 1), "gpu": (0,)}
    first.release()
    cast("Slots", second.result()).release()


def test_the_dead_hold_nothing(tmp_path: Path, wait_for: WaitFor) -> None:
    script = (
        "import pathlib, sys, time; from agilab.slots import acquire; "
        f"s = acquire(pathlib.Path({str(tmp_path)!r}), run_id='dead', wanted={{'cpu': 2}}, available={{'cpu': 2}}, "
        "waiting=print, stopped=lambda: False); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        waiting = Asking(tmp_path, {"cpu": 2})
        wait_for(lambda: waiting.said)
        assert "held by dead" in waiting.said[0]
        process.kill()
    cast("Slots", waiting.result()).release()


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"AGILAB_SLOTS": "3", "AGILAB_RESOURCES": ""}, {"cpu": 3}),
        ({"AGILAB_SLOTS": "3", "AGILAB_RESOURCES": "gpu=2, licence=1"}, {"cpu": 3, "gpu": 2, "licence": 1}),
        ({"AGILAB_SLOTS": "1", "AGILAB_RESOURCES": "gpu=0"}, {"cpu": 1, "gpu": 0}),
    ],
)
def test_the_machine_has_what_the_variables_say(environ: dict[str, str], found: dict[str, int]) -> None:
    assert machine(environ) == found


def test_without_variables_the_machine_has_the_cores_this_process_may_use() -> None:
    import os

    assert machine({})["cpu"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AGILAB_SLOTS", "0"),
        ("AGILAB_SLOTS", "-1"),
        ("AGILAB_SLOTS", "many"),
        ("AGILAB_SLOTS", "²"),
        ("AGILAB_RESOURCES", "gpu"),
        ("AGILAB_RESOURCES", "gpu=-1"),
        ("AGILAB_RESOURCES", "cpu=3"),
        ("AGILAB_RESOURCES", "a b=1"),
        ("AGILAB_RESOURCES", "gpu=²"),
    ],
)
def test_a_variable_that_cannot_be_read_is_refused_in_one_line(name: str, value: str) -> None:
    with pytest.raises(RequestError, match=f"{name} (is|holds) '") as refused:
        machine({name: value})
    assert "\n" not in str(refused.value)
    assert "allowed: " in str(refused.value)
