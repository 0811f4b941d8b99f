"""A Dask pool that serves one run after the other: cluster, connection and entry processes stay.

Between runs the connection serves an idle job, which hands out no work: Dask
workers that are lost are noticed, and those that take their place load the
worker at once.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path

from agilab.backends.base import Broken, Event, Job, KeptPool, Started, WorkerState
from agilab.backends.dask.cluster import HostProcess
from agilab.backends.dask.link import Link, Slot, kill_groups
from agilab.backends.dask.pool import DaskPool

SLACK_S = 2.0
"""How much longer than they may workers are waited for to come to rest [s]."""


class KeptDaskPool(DaskPool, KeptPool):
    """Entry processes on the workers of a cluster of a service.

    Parameters
    ----------
    job
        What they load.
    host
        The process that holds the cluster.
    workers
        Their names.
    """

    def __init__(self, job: Job, host: HostProcess, workers: Sequence[str]) -> None:
        self.restarts: list[float] = []
        self._idle_job, self._all = job, tuple(workers)
        self._names: tuple[str, ...] = ()
        self._processes: dict[str, tuple[int, int]] = {}
        self._problem = ""
        self._resting = True
        super().__init__(job, host)
        super().add(workers)

    @property
    def workers(self) -> tuple[str, ...]:
        return self._names

    @property
    def most(self) -> int:
        return len(self._all)

    @property
    def lost(self) -> bool:
        return self._done.done()

    def reload(self, job: Job) -> bool:
        self._idle_job = job
        self._processes.clear()
        return True

    def begin(self, job: Job) -> None:
        self._names, self._problem = (), ""
        self._go_on_with(job, {}, resting=False)

    def add(self, workers: Sequence[str]) -> None:
        self._names = (*self._names, *workers)
        self._slots.update((name, Slot(name)) for name in workers)
        self._tell_loop(self._match)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        events = super().wait(timeout_s)
        self._learn(events)
        return events

    def kill(self) -> None:
        for slot in tuple(self._slots.values()):
            kill_groups(slot.groups)

    def close(self, *, grace_s: float) -> None:
        if self._resting:
            return
        rested: Future[None] = Future()
        self._tell_loop(self._come_to_rest, grace_s, rested)
        wait([rested, self._done], grace_s + SLACK_S, return_when="FIRST_COMPLETED")
        if not rested.done():
            self.kill()
        self._go_on_with(self._idle_job, {name: Slot(name) for name in self._all}, resting=True)

    def look(self) -> Sequence[Event]:
        events: list[Event] = []
        while not self._inbox.empty():
            events.append(self._inbox.get())
        self._learn(events)
        self._problem = next((event.message for event in events if isinstance(event, Broken)), self._problem)
        for slot in tuple(self._slots.values()):
            known = self._processes.get(slot.name)
            if self._own and slot.address and known is not None and not _runs(*known):
                self._tell_loop(self._renew, slot)
        return [event for event in events if isinstance(event, Started)]

    def states(self) -> Sequence[WorkerState]:
        slots = self._slots.copy()
        found = []
        for name in self._all:
            pid, started = self._processes.get(name, (0, 0))
            alive = bool(pid) and (not self._own or _runs(pid, started))
            state = "broken" if self._problem else "starting"
            if not self._problem and alive and (not self._resting or slots[name].address):
                state = "busy" if not self._resting and name in slots else "idle"
            found.append(WorkerState(name, pid if alive else 0, state, self._problem))
        return found

    def end(self) -> None:
        self._resting = False
        super().close(grace_s=0.0)
        kill_groups(dict(self._processes.values()) if self._own else {})

    def _go_on_with(self, job: Job, slots: dict[str, Slot], *, resting: bool) -> None:
        self._resting = resting
        self._restarted = False
        self._job, self._slots, self._inbox = job, slots, queue.SimpleQueue()
        self._outgoing = []
        self._tell_loop(self._switch)

    def _learn(self, events: Sequence[Event]) -> None:
        """Remember which process each worker has."""
        for event in events:
            if isinstance(event, Started) and event.worker:
                process = (event.pgid, event.start_time)
                if self._processes.get(event.worker, process) != process:
                    self.restarts.append(time.monotonic())
                self._processes[event.worker] = process

    # --- in the thread of the event loop ------------------------------------------

    def has_another(self) -> bool:
        return not self._closing

    def new_host(self) -> HostProcess:
        self.restarts.append(time.monotonic())
        return HostProcess(self._idle_job)

    def _switch(self) -> None:
        if self._link is not None:
            self._link.leave()

    def _renew(self, slot: Slot) -> None:
        """Let a slot whose entry process has died begin again."""
        slot.address = ""
        self._match()

    def _come_to_rest(self, grace_s: float, rested: Future[None]) -> None:
        if self._link is None:
            rested.set_result(None)
        else:
            self._resting_task = self._loop.create_task(self._rest(self._link, grace_s, rested))

    async def _rest(self, link: Link, grace_s: float, rested: Future[None]) -> None:
        try:
            await link.end_runners(grace_s)
        finally:
            rested.set_result(None)


def _runs(pid: int, started: int) -> bool:
    """Whether a process is still the one that began then; its Dask worker may not have seen yet that it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and int(fields[19]) == started
