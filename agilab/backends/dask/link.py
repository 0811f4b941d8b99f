"""The event loop's side of a pool: slots on Dask workers, the leases they hold, and what follows when one is lost.

It decides nothing about the run. A slot takes leases one after the other; a
partition that a lost one held has been committed if its record is durable,
has failed if it had begun, and comes back untouched otherwise.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

from distributed import Client, KilledWorker

from agilab import digest
from agilab.backends.base import (
    Broken,
    Committed,
    Done,
    Event,
    Failed,
    Gone,
    Job,
    Report,
    Returned,
    Started,
    Told,
    Wanted,
)
from agilab.backends.dask import lease
from agilab.backends.entries import Launch
from agilab.errors import EvidenceError
from agilab.reaper import start_time
from agilab.records import read_records
from agilab.worker import RECORD_NAME

Task = tuple[Mapping[str, Any], float | None]
"""What a partition's attempt is told, and its timeout [s]."""

LARGEST = 512
"""Most partitions in a lease."""
GROWTH = 8
"""How much larger than the one before a lease may be: a first short partition says little about the others."""
GAPS = 10
"""How many times longer than the gap before it a lease should take, at least."""
LONGEST_S = 1.0
"""How long leases become for that reason, at most [s]."""
SPARE = 2.0
"""How many times longer than it was meant to a lease may take before it gives back what has not begun."""
LOOK_EVERY_S = 0.1
LATE_S = 0.5
"""How long an answer waits for reports that were told before it [s]."""
LONGEST_NOTE = 500
"""Most of what a runner says for people [characters]."""
NO_WORKER_S = 60.0
"""How long a run waits when it has no worker at all [s]."""


@dataclass(slots=True)
class Slot:
    """One worker of the run: a thread of a Dask worker, and what it holds.

    Attributes
    ----------
    address
        Of its Dask worker; empty while it has none.
    process
        Host, pid and start time of that Dask worker.
    groups
        Process group -> start time of every entry process it has started.
    each_s
        What a partition takes by what was measured, of late more than before [s].
    gap_s
        How long it waits between leases by what was measured, likewise [s].
    lease_s
        How long a lease is meant to take [s].
    size
        How many partitions make a lease by that.
    held_up
        A partition there takes longer than those before it: until it has ended, nothing more is sent.
    demand
        How many partitions it has asked for and not been given.
    tasks
        What it holds, by partition.
    leases
        Keys of those that have not come back.
    heard
        Number of the last report that came outside of an answer.
    pledge
        What its Dask worker holds as long as we are there, where that worker outlives us: see `lease`.
    """

    name: str
    address: str = ""
    process: tuple[str, int, int] = ("", 0, 0)
    groups: dict[int, int] = field(default_factory=dict)
    each_s: float = 0.0
    gap_s: float = 0.0
    lease_s: float = 0.0
    size: int = 1
    demand: int = 0
    held_up: bool = False
    tasks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    leases: set[str] = field(default_factory=set)
    heard: int = 0
    pledge: Any = None

    def measure(self, answer: Mapping[str, Any], lease_s: float) -> None:
        """Learn from the answer to a lease how large the next one should be; `lease_s` [s] is the least it should take.

        Where leases come slowly, over a long way or because the machine is busy, they are longer.
        """
        self.gap_s = (self.gap_s + min(answer["gap_s"], LONGEST_S / GAPS)) / 2
        self.lease_s = max(lease_s, GAPS * self.gap_s)
        if answer["finished"]:
            each = answer["busy_s"] / answer["finished"]
            self.each_s = (self.each_s + each) / 2 if self.each_s else each
            self.size = max(1, min(int(self.lease_s / self.each_s), self.size * GROWTH, LARGEST))


class Link:
    """What a pool does on its event loop, as long as one connection to a scheduler lasts.

    Parameters
    ----------
    job
        The run.
    client
        Connected to the scheduler.
    slots
        By name; their state does not outlast this link.
    put
        Takes events.
    own
        Whether the cluster was started for this run on this machine.

    Attributes
    ----------
    idle
        Whether there is no run: workers are kept for the next.
    """

    def __init__(
        self, job: Job, client: Client, slots: Mapping[str, Slot], *, put: Callable[[Event], None], own: bool
    ) -> None:
        self._job, self._client, self._slots, self._put, self._own = job, client, slots, put, own
        self._topic = f"agilab-{job.paths.run_id}"
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._losses: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._defect: BaseException | None = None
        self._matching = asyncio.Lock()
        self._host = os.uname().nodename
        self.idle = "op" not in job.init

    async def serve(self) -> bool:
        """Go on until `leave` is called; False when the scheduler was lost before."""
        self._client.subscribe_topic(self._topic, self._hear)
        self._client.subscribe_topic("all", self._hear_scheduler)
        self._spawn(self._watch())
        await self._ended.wait()
        await asyncio.gather(*self._losses)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client.status == "running":  # it may serve other runs
            self._client.unsubscribe_topic(self._topic)
        self._client._event_handlers.pop(self._topic, None)  # which a client keeps of topics that it has left
        if self._defect is not None:
            raise self._defect
        return self._client.status == "running"

    def leave(self) -> None:
        """Let `serve` return."""
        self._ended.set()

    async def end_runners(self, grace_s: float) -> None:
        """End every entry process of the run, politely at first."""
        addresses = [slot.address for slot in self._slots.values() if slot.address]
        if addresses and self._client.status == "running":
            order = json.dumps({"run": str(self._job.paths.root), "grace_s": grace_s})
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(
                    self._client.run(lease.end, order, workers=addresses, on_error="ignore"), grace_s + 1.0
                )

    def send(self, batch: Sequence[tuple[str, Mapping[str, Any], float | None]]) -> None:
        """Hand partitions to the slots that wanted them, in as few leases as their sizes allow."""
        by_slot: dict[str, list[Task]] = {}
        for name, task, timeout_s in batch:
            by_slot.setdefault(name, []).append((task, timeout_s))
        for name, tasks in by_slot.items():
            slot = self._slots[name]
            slot.demand = max(0, slot.demand - len(tasks))
            if not slot.address or slot.held_up:  # it wanted work before that
                for task, _ in tasks:
                    self._put(Returned(name, task["id"]))
            elif slot.size == 1:
                for one in tasks:
                    self._lease(slot, [one], time_s=None)
            else:  # by now it may be smaller than what it asked for
                for first in range(0, len(tasks), slot.size):
                    self._lease(slot, tasks[first : first + slot.size], time_s=SPARE * slot.lease_s)

    def match(self) -> None:
        """Look for Dask workers for the slots that have none."""
        self._spawn(self._match())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self.finished)

    def finished(self, task: asyncio.Task[None]) -> None:
        """Take note that something this link depends on has ended; a defect in it ends the link."""
        self._tasks.discard(task)
        if not task.cancelled() and (err := task.exception()) is not None:
            self._defect = self._defect or err
            self._ended.set()

    # --- leases ---------------------------------------------------------------

    def _lease(self, slot: Slot, tasks: Sequence[Task], *, time_s: float | None) -> None:
        key = f"{self._topic}-{slot.name}-{next(self._numbers)}"
        slot.tasks.update((task["id"], task) for task, _ in tasks)
        slot.leases.add(key)
        self._spawn(self._follow(slot, slot.address, key, tasks=tasks, time_s=time_s))

    async def _follow(self, slot: Slot, address: str, key: str, *, tasks: Sequence[Task], time_s: float | None) -> None:
        tasks = await self.provide(slot, tasks)
        if slot.address != address:  # what it held has been reported
            return
        order = {"run": str(self._job.paths.root), "slot": slot.name, "topic": self._topic, "time_s": time_s}
        text = json.dumps({**order, "tasks": tasks}, separators=(",", ":"))
        try:
            answer = json.loads(
                await self._client.submit(
                    lease.lease, text, key=key, workers=[address], allow_other_workers=False, retries=0, pure=False
                )
            )
        except KilledWorker:
            self._lose(slot, address)
            return
        except CancelledError:  # the scheduler has gone, which is noticed elsewhere
            return
        if not self._own:
            if answer.get("gone"):
                self._lose(slot, address)
                return
            await asyncio.to_thread(self._hash_again, answer["said"])
        await self._catch_up(slot, answer["told"])
        if slot.address != address:
            return
        slot.leases.discard(key)
        slot.held_up = bool(answer["running"])
        if slot.held_up:  # before anything comes back that would go there again
            slot.demand = 0
            self._put(Gone(slot.name, f"a partition on {slot.name} takes longer than those before it"))
        self._take(slot, answer["said"])
        slot.measure(answer, self._job.cluster["lease_s"])
        if slot.held_up:
            slot.each_s, slot.size = 0.0, 1
        else:
            self._want(slot)
        if (slot.held_up or answer["committing"]) and not slot.leases:
            self._lease(slot, [], time_s=None)

    def _want(self, slot: Slot) -> None:
        """Ask for what keeps a slot busy: a lease, and one more where leases are short."""
        missing = (1 if slot.size == 1 else 2) - len(slot.leases) - bool(slot.demand)
        if missing > 0:
            slot.demand += missing * slot.size
            self._put(Wanted(slot.name, missing * slot.size))

    async def _catch_up(self, slot: Slot, told: int) -> None:
        """Wait for reports that were told before an answer and travel more slowly; they may also be lost."""
        end = asyncio.get_running_loop().time() + LATE_S
        while slot.heard < told and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.002)
        slot.heard = max(slot.heard, told)

    # --- what is said ----------------------------------------------------------

    def _hear(self, event: tuple[float, str]) -> None:
        message = json.loads(event[1])
        slot = self._slots.get(message["slot"])
        if slot is not None and slot.address and message["number"] > slot.heard:  # else it comes too late
            slot.heard = message["number"]
            self._take(slot, message["said"])

    def _take(self, slot: Slot, said: Sequence[lease.Said]) -> None:
        name = slot.name
        for kind, *what in said:
            match kind:
                case "report":
                    self._put(Report(name, what[0]))
                case "committed":
                    self.committed(slot, *what)
                case "failed":
                    slot.tasks.pop(what[0], None)
                    self._put(Failed(name, *what))
                case "returned":
                    slot.tasks.pop(what[0], None)
                    self._put(Returned(name, what[0]))
                case "done":
                    slot.tasks.pop(what[0], None)
                    self._put(Done(name, *what))
                case "started":
                    if slot.process[0] == self._host:
                        slot.groups[what[0]] = what[1]
                        self._put(Started(name, *what))
                case "gone":
                    slot.demand = 0
                    self._put(Gone(name, what[0]))
                case "note":
                    self._put(Told("note", {"text": what[0][:LONGEST_NOTE]}))
                case "broken":
                    self._put(Broken(*what))

    def committed(self, slot: Slot, record: Mapping[str, Any], sha256: str) -> None:
        """Take a record and the digest of its line: a partition has been committed where it ran."""
        slot.tasks.pop(record["partition"], None)
        hashes = {item["path"]: item["sha256"] for item in record["artifacts"]}
        hashes[f"artifacts/{record['stage']}/{record['partition']}/{RECORD_NAME}"] = sha256
        self._put(Committed(slot.name, record["partition"], record, hashes))

    def _hash_again(self, said: Sequence[lease.Said]) -> None:
        """Take no hash on the word of a worker that is not ours."""
        for record in [what[0] for kind, *what in said if kind == "committed"]:
            for item in record["artifacts"]:
                found = digest.of_file(self._job.paths.root / item["path"])
                if found != item["sha256"]:
                    why = f"{item['path']} has sha256 {found}, but worker {record['worker']} recorded {item['sha256']}"
                    self._put(Broken(why, "", "a wrong record"))

    # --- Dask workers that come and go ---------------------------------------------

    def _hear_scheduler(self, event: tuple[float, Mapping[str, Any]]) -> None:
        action = event[1].get("action")
        if action == "add-worker":
            self.match()
        elif action == "remove-worker":
            for slot in self._slots.values():
                if slot.address and slot.address == event[1].get("worker"):
                    self._lose(slot, slot.address)

    async def _watch(self) -> None:
        """Notice the loss of the scheduler, and what nobody told us about workers."""
        self.match()
        loop = asyncio.get_running_loop()
        look_again, alone_since, served = loop.time() + 1.0, loop.time(), False
        while self._client.status == "running":
            await asyncio.sleep(LOOK_EVERY_S)
            now = loop.time()
            served = served or any(slot.address for slot in self._slots.values())
            if (
                not (self._own or served)
                or not self._slots
                or self.idle
                or any(slot.address for slot in self._slots.values())
            ):
                alone_since = now
            if now - alone_since > NO_WORKER_S:
                self._put(Broken(f"there has been none for {NO_WORKER_S:g} s", "", "no Dask worker"))
                return
            if now > look_again:
                look_again = now + 1.0
                with suppress(OSError):
                    there = await self._client.nthreads()
                    for slot in self._slots.values():
                        if slot.address and slot.address not in there:
                            self._lose(slot, slot.address)
                    self.match()
        self._ended.set()

    async def _match(self) -> None:
        async with self._matching:
            vacant = [slot for slot in self._slots.values() if not slot.address]
            if not vacant:
                return
            used = [slot.address for slot in self._slots.values()]
            with suppress(OSError):
                threads = await self._client.nthreads()
                free = [at for at, number in sorted(threads.items()) for _ in range(number - used.count(at))]
                begun = []
                for slot in vacant:
                    address = next((at for at in free if self.admits(slot, at)), None)
                    if address is not None:
                        free.remove(address)
                        begun.append(self.begin(slot, address))
                await asyncio.gather(*begun)

    async def begin(self, slot: Slot, address: str) -> None:
        """Let a slot live in the Dask worker at an address."""
        pledge = "" if self._own else await self._pledge(slot, address)
        order = json.dumps({**self.order(slot), "pledge": pledge})
        answers = await self._client.run(lease.begin, order, workers=[address])
        if address not in answers:  # it has gone in the meantime
            return
        answer = json.loads(answers[address])
        slot.address, slot.each_s, slot.size, slot.demand, slot.held_up = address, 0.0, 1, 0, False
        slot.process = (answer["host"], answer["pid"], answer["start_time"])
        slot.groups.clear()
        slot.heard = 0
        self._take(slot, answer["said"])
        self._want(slot)

    async def _pledge(self, slot: Slot, address: str) -> str:
        """Leave something with a Dask worker that its scheduler drops when we are gone; return its key."""
        key = f"{self._topic}-{slot.name}-pledge-{next(self._numbers)}"
        slot.pledge = await self._client.scatter({key: 0}, workers=[address])
        return key

    def _lose(self, slot: Slot, address: str) -> None:
        """A Dask worker has gone: make sure of that, and find out what became of what it held."""
        if slot.address != address:
            return
        slot.address, slot.pledge = "", None
        slot.leases.clear()
        task = asyncio.ensure_future(self._find_out(slot, f"the Dask worker of {slot.name} was lost ({address})"))
        self._losses.add(task)
        task.add_done_callback(self._losses.discard)

    async def _find_out(self, slot: Slot, message: str) -> None:
        for event in await self.bury(slot, message):
            self._put(event)
        slot.tasks.clear()
        if not self._ended.is_set():
            self.match()

    # --- what depends on where the slots are ---------------------------------------

    def order(self, slot: Slot) -> dict[str, Any]:
        """Return what a Dask worker is told to begin a slot with."""
        job = self._job
        launch = asdict(Launch.of(job))
        return {
            "run": str(job.paths.root),
            "folder": str(job.paths.root),
            "slot": slot.name,
            "launch": launch if self._own else {**launch, "environment": None},
            "slots": len(self._slots),
            "marker": dict(job.environment),
            "idle_logs": job.idle_logs,
        }

    def admits(self, slot: Slot, address: str) -> bool:
        """Say whether a slot may live in the Dask worker at an address."""
        return True

    async def provide(self, slot: Slot, tasks: Sequence[Task]) -> Sequence[Task]:
        """Make sure that a slot has what partitions read; return their tasks as that slot understands them."""
        return tasks

    async def bury(self, slot: Slot, message: str) -> list[Event]:
        """Make sure that nothing of a lost Dask worker goes on; say what became of everything it held."""
        kill_groups(slot.groups)
        _, pid, started = slot.process
        while self._own and start_time(pid) == started:  # nothing it held may be committed from here on
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.005)
        return lost(self._job, slot, message)

    async def lose_all(self) -> None:
        """The scheduler has gone, and every Dask worker with it."""
        for slot in self._slots.values():
            if slot.address:
                self._lose(slot, slot.address)
        await asyncio.gather(*self._losses)


def lost(job: Job, slot: Slot, message: str) -> list[Event]:
    """Say what became of everything that a slot held, once nothing of it runs any more."""
    events: list[Event] = [Gone(slot.name, message)]
    records: dict[str, Mapping[str, Any]] = {}
    if slot.tasks:
        with suppress(EvidenceError):  # the seal will name the line
            records = {one["partition"]: one for one in read_records(job.paths) if one["partition"] in slot.tasks}
    for ident, task in slot.tasks.items():
        if ident in records:
            events.append(Committed(slot.name, ident, records[ident], {}))
            continue
        attempt = job.paths.attempt(ident, task["attempt"])
        published = job.paths.partition(task["stage"], ident)
        if published.exists():  # between its name and its record: as if it had never been published
            published.rename(attempt)
        begun = attempt.exists()
        events.append(Failed(slot.name, ident, "died", message) if begun else Returned(slot.name, ident))
    return events


def kill_groups(groups: Mapping[int, int]) -> None:
    """Kill the process groups that are still those that were recorded."""
    for pgid, started in tuple(groups.items()):
        if start_time(pgid) in (started, 0):  # 0: the leader has gone, its group may live on
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pgid, signal.SIGKILL)
