"""A Dask pool that serves one run after the other: cluster, connection and entry processes stay.

Between runs the connection serves an idle job, which hands out no work: Dask
workers that are lost are noticed, and those that take their place load the
worker at once. During runs too, every Dask worker is asked now and then how
its entry processes are; one that does not answer cannot work.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager
from typing import Any

from distributed import Client

from agilab.backends.base import Broken, Event, Job, KeptPool, Started, Told, WorkerState
from agilab.backends.dask import lease
from agilab.backends.dask.cluster import Host
from agilab.backends.dask.link import Link, Slot, kill_groups
from agilab.backends.dask.pool import DaskPool

SLACK_S = 2.0
"""How much longer than they may workers are waited for to come to rest [s]."""
ASK_EVERY_S = 1.0
"""How often a Dask worker is asked how its entry processes are [s]."""
SILENT_S = 5.0
"""How long its answer may take before its workers count as such that cannot work [s]."""
_TICK_S = 0.1


class KeptDaskPool(DaskPool, KeptPool):
    """Entry processes on the workers of a cluster of a service.

    Parameters
    ----------
    job
        What they load.
    host
        The process that holds the cluster.
    """

    def __init__(self, job: Job, host: Host) -> None:
        self.restarts: list[float] = []
        self._idle_job = job
        self._all: tuple[str, ...] = ()
        self._names: tuple[str, ...] = ()
        self._places: dict[str, str] = {}
        self._seen: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._processes: dict[str, tuple[int, int]] = {}
        self._heard: dict[str, float] = {}
        self._problem = ""
        self._resting = True
        super().__init__(job, host)

    def load(self, workers: Sequence[str]) -> None:
        """Let there be workers of these names, and let them load what the pool is for."""
        self._all = tuple(workers)
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
        self.tell(self._place)

    def add(self, workers: Sequence[str]) -> None:
        self._names = (*self._names, *workers)
        self._slots.update((name, Slot(name)) for name in workers)
        self._tell_loop(self._match)

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
        self._problem = next((event.message for event in events if isinstance(event, Broken)), self._problem)
        return [event for event in events if isinstance(event, Started | Told)]

    def states(self) -> Sequence[WorkerState]:
        return [self._state(name) for name in self._all]

    def end(self) -> None:
        self._resting = False
        super().close(grace_s=0.0)

    def trouble(self, worker: str) -> str:
        """Say why a worker cannot work, whatever its own process says; empty when nothing is known."""
        now = time.monotonic()
        silent_s = now - self._heard.get(self._places.get(worker, ""), now)
        return f"its Dask worker has not answered for {silent_s:.0f} s" if silent_s > SILENT_S else ""

    def _state(self, name: str) -> WorkerState:
        slot, place = self._slots.get(name), self._places.get(name, "")
        address, seen = self._seen.get(name, ("", {}))
        known = bool(place) and address == place and (slot is None or slot.address in ("", place))
        pid = seen["pid"] if known else 0
        if problem := self._problem or self.trouble(name) or (seen["problem"] if known else ""):
            return WorkerState(name, pid, "broken", problem)
        if not known or (slot is not None and not slot.address) or seen["state"] == "starting":
            return WorkerState(name, pid, "starting")
        return WorkerState(name, pid, "busy" if slot is not None and not self._resting else "idle")

    def _go_on_with(self, job: Job, slots: dict[str, Slot], *, resting: bool) -> None:
        self._resting = resting
        self._restarted = False
        self._job, self._slots, self._inbox = job, slots, queue.SimpleQueue()
        self._outgoing = []
        self._tell_loop(self._switch)

    # --- in the thread of the event loop ------------------------------------------

    @property
    def owner(self) -> Job:
        return self._idle_job

    def has_another(self) -> bool:
        return not self._closing

    def new_host(self) -> Host:
        self.restarts.append(time.monotonic())
        return super().new_host()

    @asynccontextmanager
    async def staffed(self, client: Client) -> AsyncIterator[None]:
        async with super().staffed(client):
            rounds = self._loop.create_task(self._ask_all(client))
            try:
                yield
            finally:
                rounds.cancel()

    async def _ask_all(self, client: Client) -> None:
        """Ask every Dask worker how its entry processes are; however long it takes, it gets one question at a time."""
        questions: dict[str, asyncio.Task[None]] = {}
        asked: dict[str, float] = {}
        while True:
            self._places |= {slot.name: slot.address for slot in tuple(self._slots.values()) if slot.address}
            now = time.monotonic()
            for place in {*self._places.values()}:
                self._heard.setdefault(place, now)
                if (place not in questions or questions[place].done()) and now - asked.get(place, 0.0) > ASK_EVERY_S:
                    asked[place] = now
                    questions[place] = self._loop.create_task(self._ask_one(client, place))
            await asyncio.sleep(_TICK_S)

    async def _ask_one(self, client: Client, place: str) -> None:
        try:
            answers = await client.run(lease.look, workers=[place], on_error="ignore")
        except OSError:  # the scheduler has gone, which is noticed elsewhere
            return
        if place not in answers:  # it has gone, likewise
            self._seen = {name: (at, state) for name, (at, state) in self._seen.items() if at != place}
            return
        self._heard[place] = time.monotonic()
        answer = json.loads(answers[place])
        for name, state in answer["states"].items():
            if name not in self._all:
                continue
            self._seen[name] = (place, state)
            if state["pid"]:
                here = answer["host"] == os.uname().nodename
                self._learn(name, (state["pid"], answer["started"].get(name, 0)), here=here)

    def _learn(self, worker: str, process: tuple[int, int], *, here: bool) -> None:
        """Remember which process a worker has; who watches those of this machine is told."""
        known = self._processes.get(worker)
        if known == process:
            return
        if known is not None:
            self.restarts.append(time.monotonic())
        self._processes[worker] = process
        if here:
            self._inbox.put(Started(worker, *process))
            if (slot := self._slots.get(worker)) is not None:
                slot.groups[process[0]] = process[1]

    def _switch(self) -> None:
        if self._link is not None:
            self._link.leave()

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
