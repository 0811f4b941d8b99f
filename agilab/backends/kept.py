"""Entry processes that are kept from run to run: warm with the worker's imports, and nothing else of an earlier run.

Between two runs a worker rests: its instance is torn down, what it began is
ended, and what it prints goes to the folder of whoever keeps it. One that
does not come to rest, or leaves processes or threads behind, is replaced. One
that rests is asked now and then whether it is there.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from agilab.backends.base import Broken, Event, Job, KeptPool, Started, Told, WorkerState
from agilab.backends.entries import EntryPool, Launch, Slot, encode, is_stopped, signal_group
from agilab.reaper import NAME, end_carriers, start_time

END_S = 1.0
"""How long workers may take to tear down when the pool ends [s]."""
PING_EVERY_S = 1.0
"""How often a worker that rests is asked whether it is there [s]."""
SILENT_S = 5.0
"""How long its answer may take before it counts as one that cannot work [s]."""
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
        self._asked: dict[str, float] = {}
        self._silent: dict[str, float] = {}
        self._next_ping = 0.0
        self._turn = threading.Lock()
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

    @property
    def failure(self) -> str:
        """Why a worker does not load; empty when all do, also while one is stopped or does not answer."""
        return next(iter(self._problems.values()), "")

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
        return [one for one in events if isinstance(one, Started | Broken | Told) or one.worker in self._slots]

    def kill(self) -> None:
        for slot in (*self._slots.values(), *(self._resting[name] for name in self._leaving)):
            self._stop(slot, signal.SIGKILL)

    def close(self, *, grace_s: float) -> None:
        if self._closing:
            return
        with self._turn:
            self._rest(grace_s)

    def _rest(self, grace_s: float) -> None:
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
        if not self._turn.acquire(blocking=False):  # its workers are just coming to rest
            return ()
        try:
            for key, mask in self._selector.select(0):
                self._attend(key, mask)
            self._ping()
            self._sample()
            events, self._pending = self._pending, []
        finally:
            self._turn.release()
        return [event for event in events if isinstance(event, Started)]

    def _ping(self) -> None:
        """Ask every worker that rests whether it is there, and note which have not answered: what came is read."""
        now = time.monotonic()
        self._silent = {name: since for name, since in self._asked.items() if now - since > SILENT_S}
        if now > self._next_ping:
            self._next_ping = now + PING_EVERY_S
            for slot in self._resting.values():
                if slot.ready and slot.process is not None and slot.name not in self._asked:
                    self._asked[slot.name] = now
                    self._write(slot, encode({"op": "ping"}).encode() + b"\n")

    def processes(self) -> Sequence[Started]:
        """Name every process that there is."""
        processes = [(one.name, one.process) for one in (*self._slots.copy().values(), *self._resting.copy().values())]
        return [Started(name, process.pid, start_time(process.pid)) for name, process in processes if process]

    def states(self) -> Sequence[WorkerState]:
        found = []
        for slot in (*self._slots.copy().values(), *self._resting.copy().values()):
            process = slot.process
            problem = self._problems.get(slot.name, "") or self._ailment(slot.name, process.pid if process else 0)
            state = (
                "broken" if problem else "busy" if slot.name in self._slots else "idle" if slot.ready else "starting"
            )
            found.append(WorkerState(slot.name, process.pid if process is not None else 0, state, problem))
        return sorted(found, key=lambda one: (len(one.worker), one.worker))

    def _ailment(self, name: str, pid: int) -> str:
        """Say why a worker whose process lives cannot work for now; empty when it can."""
        if pid and is_stopped(pid):
            return f"its process {pid} is stopped; let it go on with: kill -CONT {pid}"
        since = self._silent.get(name)
        return f"it has not answered for {time.monotonic() - since:.0f} s" if since is not None else ""

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
        self._asked.pop(slot.name, None)  # whatever it says, it is there
        self._silent.pop(slot.name, None)
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
        self._asked.pop(slot.name, None)
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
