"""The lease runner: drives the entry process of one slot from inside a Dask worker, and commits what it finishes.

A *lease* is a Dask task that carries a few partitions. What a runner is told
and what it answers is JSON text; worker code never runs in this process. A
lease is short: when its time is over, it gives back the partitions that have
not begun, and says which one still runs, so that nothing waits behind a
partition that takes longer than those before it. Needs the standard library,
distributed, and `MODULES`.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from distributed import Worker, get_worker

from agilab import digest
from agilab.backends.base import Broken, Done, Event, Failed, Gone, Report, Returned, Started, Told, Wanted
from agilab.backends.entries import EntryPool, Launch, worker_environment
from agilab.backends.kept import KeptEntryPool
from agilab.committer import Commit, Committer, Finished
from agilab.errors import EvidenceError
from agilab.inputs import Input
from agilab.paths import RunPaths
from agilab.reaper import start_time
from agilab.records import partition_record
from agilab.worker import RECORD_NAME

TICK_S = 0.05
"""How soon a runner notices that the run ends, and how long a report may wait to be told [s]."""

LOADED_S = 60.0
"""How long an entry process that is kept may take to load its worker [s]."""

MODULES = tuple(
    f"agilab/{name}.py"
    for name in (
        *("__init__", "artifact", "committer", "digest", "errors", "events", "inputs", "paths"),
        *("plan", "reaper", "records", "sums", "worker"),
        *("backends/__init__", "backends/base", "backends/entries", "backends/kept"),
        *("backends/dask/__init__", "backends/dask/lease"),
    )
)
"""The files of AGILAB that a lease runner consists of."""

Said = list[Any]
"""What a runner tells the pool: its kind and what belongs to it, see `Runner`."""

LOOK_EVERY_S = 1.0
"""How often a runner on a cluster that is not ours looks whether its manager is still there [s]."""

_ENTRY_KEYS = ("op", "id", "stage", "attempt", "params", "inputs", "resources", "folder")
_MOST_COMMITTING = 512
"""When more than this wait for the disk, nothing more begins."""

_NOTHING = {"gap_s": 0.0, "told": 0, "running": [], "committing": 0, "finished": 0, "busy_s": 0.0}
"""The answer of a Dask worker that has no runner for a lease, but for what was said."""

_MAY_BE_LOST = ("started", "report", "note")
_RUNNERS = "agilab_runners"
_KEPT = "agilab_kept"
_BEGINNING = "agilab_beginning"


class Runner:
    """The entry process of one slot, and the committer of what it finishes.

    What it says, in the order in which it happened::

        ["started", pgid, start_time]
        ["report", message]
        ["committed", record, sha256 of its line]
        ["done", partition, message]        only when worker code was told that the run is cancelled
        ["failed", partition, reason, message, traceback]
        ["returned", partition]
        ["gone", message]
        ["note", message]                           of its entry process, which was stopped
        ["broken", message, traceback]

    Parameters
    ----------
    order
        What `begin` was told.
    kept
        By slot, the entry processes that are kept from run to run.
    """

    def __init__(self, order: Mapping[str, Any], kept: dict[str, KeptEntryPool]) -> None:
        launch = dict(order["launch"])
        if launch["environment"] is None:  # this host's own
            launch["environment"] = worker_environment(order["slots"], order["marker"])
        self._name: str = order["slot"]
        self._committer = Committer(RunPaths(Path(order["folder"])))
        self._entries: EntryPool
        self._lock = threading.Lock()
        self.watch: asyncio.Task[None] | None = None
        self._ending = self._restarting = False
        self._room = 0
        self._held: dict[str, Mapping[str, Any]] = {}
        self._metrics: dict[str, list[Mapping[str, Any]]] = {}
        self._committing: set[str] = set()
        self._said: list[Said] = []
        self._finished = self._told = 0
        self._busy_since: float | None = None
        self._idle_since: float | None = None
        if order["idle_logs"] is None:
            self._entries = EntryPool(Launch(**launch), (self._name,))
        else:
            self._entries = self._kept(Launch(**launch), order["idle_logs"], kept)
        self._hear(self._entries.wait(0.0))

    def _kept(self, launch: Launch, logs: str, kept: dict[str, KeptEntryPool]) -> KeptEntryPool:
        """Return the entry process of this slot that was kept, or one that is going to be."""
        idle = replace(launch, init={name: launch.init[name] for name in ("worker", "code")}, logs=logs)
        pool = kept.get(self._name)
        if pool is None or pool.idle_launch != idle:
            if pool is not None:
                pool.end()
            pool = kept[self._name] = KeptEntryPool(idle, (self._name,))
        if pool.resting:
            pool.look()
        self._hear(pool.processes())
        if "op" in launch.init:
            pool.take_up(launch)
        if not pool.resting:
            return pool
        end = time.monotonic() + LOADED_S  # there is no run yet: it is to load, and rest
        while pool.states()[0].state == "starting" and time.monotonic() < end:
            pool.look()
            time.sleep(TICK_S / 5)
        if pool.failure:
            self._said.append(["broken", pool.failure, ""])
        return pool

    def take_said(self) -> list[Said]:
        """Return what has happened and was not told yet."""
        said, self._said = self._said, []
        return said

    def lease(self, order: Mapping[str, Any], tell: Callable[[int, list[Said]], None]) -> dict[str, Any]:
        """Run some partitions.

        Parameters
        ----------
        order
            ``tasks``: pairs of task and timeout [s]; ``time_s``: when to give back what has not begun [s], None to wait
            for everything that this slot has.
        tell
            Told reports while the lease goes on, numbered; everything else is in the answer, since this may get lost.

        Returns
        -------
        dict
            ``said``; ``told``, the number of the last report before it; ``running``, the partitions that still run;
            ``committing``, how many others the next lease will speak of; ``finished``, how many came to an end;
            ``busy_s``, how long that took [s]; ``gap_s``, how long it had waited since the lease before [s].
        """
        with self._lock:
            begun, self._finished = time.monotonic(), 0
            gap_s = begun - (self._idle_since or begun)
            self._busy_since = begun if self._room else None
            todo = deque(order["tasks"])
            over = None if order["time_s"] is None else begun + order["time_s"]
            next_tell = begun + TICK_S
            while (todo or self._held or self._restarting) and not self._ending:
                if self._has_news() if over is None else time.monotonic() > over:
                    break
                while todo and self._room and len(self._committing) < _MOST_COMMITTING:
                    self._submit(*todo.popleft())
                self._hear(self._entries.wait(TICK_S))
                self._take(self._committer.take())
                if self._said and time.monotonic() > next_tell:
                    self._tell(tell)
                    next_tell = time.monotonic() + TICK_S
            while self._committing and (over is None or self._ending):
                self._take(self._committer.take(TICK_S))
            self._said += [["returned", task["id"]] for task, _ in todo]
            self._idle_since = time.monotonic()
            return {
                "gap_s": gap_s,
                "said": self.take_said(),
                "told": self._told,
                "running": list(self._held),
                "committing": len(self._committing),
                "finished": self._finished,
                "busy_s": time.monotonic() - (self._busy_since or begun),
            }

    def end(self, grace_s: float) -> None:
        """End the entry process, politely at first; a lease that goes on ends before."""
        self._ending = True
        with self._lock:
            self._entries.close(grace_s=grace_s)
            self._committer.close()

    def _has_news(self) -> bool:
        """Whether something has come to its end while a partition still runs, which the pool should not hear late."""
        return bool(self._held) and not self._committing and any(said[0] not in _MAY_BE_LOST for said in self._said)

    def _tell(self, tell: Callable[[int, list[Said]], None]) -> None:
        told = [said for said in self._said if said[0] in _MAY_BE_LOST]
        if told:
            self._said = [said for said in self._said if said[0] not in _MAY_BE_LOST]
            self._told += 1
            tell(self._told, told)

    def _submit(self, task: Mapping[str, Any], timeout_s: float | None) -> None:
        self._busy_since = self._busy_since or time.monotonic()  # not while the entry process starts
        self._room -= 1
        self._held[task["id"]] = task
        self._entries.submit(self._name, {key: task[key] for key in _ENTRY_KEYS}, timeout_s=timeout_s)

    def _hear(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Wanted(count=count):
                    self._room += count
                    self._restarting = False
                case Started(pgid=pgid, start_time=started):
                    self._said.append(["started", pgid, started])
                case Report(message=message):
                    self._said.append(["report", message])
                    if message["op"] == "metric":
                        metric = {name: message[name] for name in ("name", "value", "step")}
                        self._metrics.setdefault(message["id"], []).append(metric)
                case Done(partition=partition, message=message):
                    self._done(partition, message)
                case Failed(partition=partition):
                    self._finished += 1
                    self._failed(partition, event.reason, event.message, event.traceback)
                case Returned(partition=partition):
                    del self._held[partition]
                    self._said.append(["returned", partition])
                case Gone(message=text):
                    self._room, self._restarting = 0, True
                    self._said.append(["gone", text])
                case Told(fields=fields):
                    self._said.append(["note", fields["text"]])
                case Broken():
                    self._ending = True
                    self._said.append(["broken", event.message, event.traceback])

    def _done(self, partition: str, message: Mapping[str, Any]) -> None:
        self._finished += 1
        task = self._held[partition]
        if message["cancelled"]:
            del self._held[partition]
            self._said.append(["done", partition, dict(message)])
            return
        try:
            for file in task["files"]:
                Input(**{**file, "state": tuple(file["state"])}).check()
        except EvidenceError as err:
            self._failed(partition, "exception", str(err), "")
            return
        del self._held[partition]
        record = partition_record(task, message, worker=self._name, metrics=self._metrics.pop(partition, []))
        self._committing.add(partition)
        self._committer.put(Finished(task["folder"], record))

    def _failed(self, partition: str, reason: str, message: str, traceback: str) -> None:
        del self._held[partition]
        self._metrics.pop(partition, None)
        self._said.append(["failed", partition, reason, message, traceback])

    def _take(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            record = dict(commit.record)
            self._committing.discard(record["partition"])
            if commit.error is None:
                path = f"artifacts/{record['stage']}/{record['partition']}/{RECORD_NAME}"
                self._said.append(["committed", record, self._committer.hashes.pop(path)])
                for item in record["artifacts"]:
                    del self._committer.hashes[item["path"]]
            else:
                why = str(commit.error) or type(commit.error).__name__
                self._said.append(["failed", record["partition"], "protocol", f"it could not be committed: {why}", ""])


def lease(text: str) -> str:
    """Run a lease in the Dask worker that has its slot: the one function that is a Dask task."""
    order = json.loads(text)
    worker = get_worker()
    runner = _runners(worker).get((order["run"], order["slot"]))
    if runner is None:  # this worker has taken the place of the one that was meant
        returned: list[Said] = [["returned", task["id"]] for task, _ in order["tasks"]]
        return json.dumps({**_NOTHING, "said": returned, "gone": True})

    def tell(number: int, said: list[Said]) -> None:
        message = {"slot": order["slot"], "number": number, "said": said}
        worker.log_event(order["topic"], json.dumps(message))

    return json.dumps(runner.lease(order, tell), separators=(",", ":"))


async def begin(text: str, dask_worker: Worker) -> str:
    """Start the runner of a slot in this Dask worker; say which process that is."""
    order = json.loads(text)
    runners, key = _runners(dask_worker), (order["run"], order["slot"])
    if key in runners:  # this worker was out of reach for a while, and is back
        await asyncio.to_thread(runners.pop(key).end, 0.0)
    kept: dict[str, KeptEntryPool] = dask_worker.__dict__.setdefault(_KEPT, {})
    async with dask_worker.__dict__.setdefault(_BEGINNING, asyncio.Lock()):
        runner = await asyncio.to_thread(Runner, order, kept)
    if "op" in order["launch"]["init"]:
        runners[key] = runner
        if order["pledge"]:
            runner.watch = asyncio.ensure_future(_watch(dask_worker, key, order["pledge"]))
    pid = os.getpid()
    me = {"host": os.uname().nodename, "pid": pid, "start_time": start_time(pid)}
    return json.dumps({**me, "said": runner.take_said()})


async def _watch(worker: Worker, key: tuple[str, str], pledge: str) -> None:
    """End a runner once the manager has gone: then the scheduler drops what that had pledged here, or is gone too."""
    runner = _runners(worker)[key]
    try:
        while pledge in worker.data and _runners(worker).get(key) is runner:
            await asyncio.sleep(LOOK_EVERY_S)
    finally:  # also when this worker closes
        if _runners(worker).get(key) is runner:
            del _runners(worker)[key]
            runner.end(0.0)


async def end(text: str, dask_worker: Worker) -> None:
    """End every runner that a run has in this Dask worker; all there are when no run is named."""
    order = json.loads(text)
    runners = _runners(dask_worker)
    mine = [runners.pop(key) for key in [key for key in runners if order["run"] in (key[0], None)]]
    await asyncio.gather(*(asyncio.to_thread(runner.end, order["grace_s"]) for runner in mine))


async def look(dask_worker: Worker) -> str:
    """Say how every entry process that is kept in this Dask worker is, once those that rest and have died go again."""
    kept: dict[str, KeptEntryPool] = dask_worker.__dict__.setdefault(_KEPT, {})
    turn = dask_worker.__dict__.setdefault(_BEGINNING, asyncio.Lock())
    if not turn.locked():
        async with turn:
            for pool in [pool for pool in kept.values() if pool.resting]:
                await asyncio.to_thread(pool.look)
    states = {one.worker: one.to_json() for pool in tuple(kept.values()) for one in pool.states()}
    started = {one.worker: one.start_time for pool in tuple(kept.values()) for one in pool.processes()}
    return json.dumps({"host": os.uname().nodename, "states": states, "started": started})


def sees(text: str) -> str:
    """Return the first of some files that this host does not have, or has with another content; empty for none."""
    for path, sha256 in json.loads(text):
        try:
            same = digest.of_file(path) == sha256
        except OSError:
            same = False
        if not same:
            return str(path)
    return ""


def code() -> str:
    """Return the sha256 over the modules of the lease runner as this process has loaded them."""
    found = {}
    for name in MODULES:
        spec = import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")).__spec__
        found[name] = digest.of_bytes(spec.loader.get_data(spec.origin))  # type: ignore[union-attr]
    return digest.of_json(found)


def _runners(worker: Worker) -> dict[tuple[str, str], Runner]:
    """Return the runners that live in a Dask worker: they last from lease to lease, and it is what lasts there."""
    found: dict[tuple[str, str], Runner] = worker.__dict__.setdefault(_RUNNERS, {})
    return found
