"""Entry processes that are kept from run to run: warm with the worker's imports, and nothing else of an earlier run.

Between two runs a worker rests: its instance is torn down, what it began is
ended, and what it prints goes to the folder of whoever keeps it. One that
does not come to rest, or leaves processes or threads behind, is replaced.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from agilab.backends.base import Broken, Event, Job, KeptPool, Started, WorkerState
from agilab.backends.entries import EntryPool, Launch, Slot, encode, signal_group
from agilab.reaper import NAME, end_carriers, start_time

END_S = 1.0
"""How long workers may take to tear down when the pool ends [s]."""
_STOPPED = "stopped"


class KeptEntryPool(EntryPool, KeptPool):
    """Entry processes on this machine, one per worker, for one run after the other.

    Parameters
    ----------
    launch
        How they are started, what they load, and where they log between runs.
    workers
        Their names, in the order in which runs take them.
    """

    def __init__(self, launch: Launch, workers: Sequence[str]) -> None:
        self.idle_launch = launch
        self._first = workers[:1]
        self._names: tuple[str, ...] = ()
        self._resting: dict[str, Slot] = {}
        self._leaving: set[str] = set()
        self._problems: dict[str, str] = {}
        self._markers: dict[str, str] = {}
        self._numbers = count()
        self.restarts: list[float] = []
        super().__init__(launch, ())
        self._closing = True
        for name in workers:
            self._resting[name] = Slot(name)
            self._start(self._resting[name])

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._slots) or self._names

    @property
    def resting(self) -> bool:
        """Whether no run has its workers."""
        return self._closing

    def begin(self, job: Job) -> None:
        self.take_up(Launch.of(job))

    def take_up(self, launch: Launch) -> None:
        """Give the first worker to a run that starts its processes in some way."""
        self._launch = launch
        self._closing = self._broken = False
        self._names = ()
        self.add(self._first)

    def add(self, workers: Sequence[str]) -> None:
        for name in workers:
            slot = self._resting.pop(name, None)
            self._problems.pop(name, None)
            if slot is not None and slot.process is not None:
                slot.ready = slot.ahead = False
                slot.starts_without_ready = 0
                self._slots[name] = slot
                self._write(slot, self._init_of(slot))
            else:
                self._slots[name] = Slot(name)
                self._start(self._slots[name])

    def wait(self, timeout_s: float) -> Sequence[Event]:
        events = super().wait(timeout_s)
        return [event for event in events if isinstance(event, Started | Broken) or event.worker in self._slots]  # type: ignore[union-attr]

    def kill(self) -> None:
        for slot in (*self._slots.values(), *(self._resting[name] for name in self._leaving)):
            self._stop(slot, signal.SIGKILL)

    def close(self, *, grace_s: float) -> None:
        if self._closing:
            return
        self._closing = True
        begun = time.monotonic()
        self._names, self._leaving = tuple(self._slots), set(self._slots)
        self._resting |= self._slots
        self._slots, self._launch = {}, self.idle_launch
        for name in self._names:
            slot = self._resting[name]
            slot.sent.clear()
            if slot.process is not None:
                self._write(slot, encode({"op": "rest", "log": str(self._log(slot))}).encode() + b"\n")
            else:  # it could not begin with the settings of that run
                self._leaving.discard(name)
                self._start(slot)
        for share, number in ((0.5, signal.SIGTERM), (1.0, signal.SIGKILL)):
            self._come_to_rest(begun + share * grace_s)
            for name in self._leaving:
                self._stop(self._resting[name], number)
        self._come_to_rest(begun + grace_s + END_S)
        self._leaving.clear()

    def look(self) -> Sequence[Event]:
        for key, mask in self._selector.select(0):
            self._attend(key, mask)
        self._sample()
        events, self._pending = self._pending, []
        return [event for event in events if isinstance(event, Started)]

    def processes(self) -> Sequence[Started]:
        """Name every process that there is."""
        slots = [*self._slots.values(), *self._resting.values()]
        return [Started(one.name, one.process.pid, start_time(one.process.pid)) for one in slots if one.process]

    def states(self) -> Sequence[WorkerState]:
        found = []
        for slot in (*self._slots.copy().values(), *self._resting.copy().values()):
            problem = self._problems.get(slot.name, "")
            state = (
                "broken" if problem else "busy" if slot.name in self._slots else "idle" if slot.ready else "starting"
            )
            process = slot.process
            found.append(WorkerState(slot.name, process.pid if process is not None else 0, state, problem))
        return sorted(found, key=lambda one: (len(one.worker), one.worker))

    def end(self) -> None:
        self._slots |= self._resting
        self._resting, self._closing, self._broken = {}, False, True
        super().close(grace_s=END_S)

    def _stop(self, slot: Slot, number: int) -> None:
        if slot.process is not None:
            slot.killed_for = slot.killed_for or ("", _STOPPED, "it was stopped")
            signal_group(slot.process.pid, number)

    def _come_to_rest(self, deadline: float) -> None:
        while self._leaving and (left_s := deadline - time.monotonic()) > 0:
            for key, mask in self._selector.select(left_s):
                self._attend(key, mask)

    def _init_of(self, slot: Slot) -> bytes:
        return encode({**self._launch.init, "log": str(self._log(slot))}).encode() + b"\n"

    def _environment(self, slot: Slot) -> Mapping[str, str]:
        """Give every process a marker of its own, so that what it leaves behind is found when it ends."""
        variables = self._launch.environment
        marker = f"{variables.get(NAME, '')}.{slot.name}.{next(self._numbers)}"
        self._markers[slot.name] = marker
        return {**variables, NAME: marker}

    def _greet(self, slot: Slot) -> None:
        init = self._launch.init
        self._write(slot, encode({"op": "load", "worker": init["worker"], "code": init["code"]}).encode() + b"\n")
        if slot.name in self._slots:
            self._write(slot, self._init_of(slot))

    def _log(self, slot: Slot) -> Path:
        launch = self._launch if slot.name in self._slots else self.idle_launch
        return Path(os.path.join(launch.logs, f"{slot.name}.log"))

    def _hear(self, slot: Slot, line: bytes | bytearray) -> None:
        if slot.name in self._slots:
            super()._hear(slot, line)
            return
        try:
            message = json.loads(line)
            op = message["op"]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._kill(slot, "protocol", "the worker wrote something that is not a message of the protocol")
            return
        if op == "failed" and not slot.ready and slot.name not in self._leaving:
            self._break(slot, message["message"], message["traceback"])
        elif op in ("loaded", "rested"):
            slot.ready, slot.starts_without_ready = True, 0
            self._leaving.discard(slot.name)
            if not message.get("clean", True):
                self._stop(slot, signal.SIGKILL)

    def _end(self, slot: Slot) -> None:
        self._leaving.discard(slot.name)
        assert slot.process is not None
        signal_group(slot.process.pid, signal.SIGKILL)
        end_carriers(self._markers[slot.name])  # before another one begins
        super()._end(slot)

    def _restarts(self, slot: Slot) -> bool:
        again = not self._broken if slot.name in self._slots else slot.name not in self._problems
        if again and (slot.killed_for is None or slot.killed_for[1] not in (_STOPPED, "timeout")):
            self.restarts.append(time.monotonic())
        return again

    def _break(self, slot: Slot, message: str, traceback: str = "") -> None:
        if slot.name in self._slots:
            super()._break(slot, message, traceback)
        else:
            self._problems[slot.name] = message
