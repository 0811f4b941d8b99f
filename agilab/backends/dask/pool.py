"""The supervisor's side of a Dask pool: hands partitions to the thread of an event loop, and takes events back."""

from __future__ import annotations

import asyncio
import json
import queue
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

from distributed import Client, Security
from distributed.versions import VersionMismatchWarning

from agilab import digest
from agilab.backends.base import Broken, Event, Job, Pool, Returned, Started, Told
from agilab.backends.dask import backplane, lease
from agilab.backends.dask.cluster import Host, HostProcess, certificates
from agilab.backends.dask.guard import guarded
from agilab.backends.dask.host import dashboard_of
from agilab.backends.dask.link import Link, Slot, kill_groups
from agilab.backends.dask.logs import NAME, logged
from agilab.errors import AgilabError, BackendRefusedError, first_line
from agilab.paths import make_folder

CONNECT_S = 10.0
"""How long a scheduler that runs already may take to answer [s]."""

FIRST_WORKER_S = 120.0
"""How long a cluster that is not ours may take to have its first worker [s]."""


CLIENT_CLOSE_S = 0.3
"""How long it may take to tell the scheduler that we go; one that is dead does not answer [s]."""


class DaskPool(Pool):
    """Entry processes on the workers of a Dask cluster.

    Parameters
    ----------
    job
        The run.
    host
        The process that holds its cluster; None for a scheduler that runs already.
    """

    commits = True
    leaving_s: ClassVar[float] = 2.0
    """How long it may take to leave a cluster, once its runners have ended [s]."""

    def __init__(self, job: Job, host: Host | None) -> None:
        self._job, self._host = job, host
        self._place: Mapping[str, Any] = {}
        self._own = host is not None and host.is_own
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._outgoing: list[tuple[str, Mapping[str, Any], float | None]] = []
        self._slots: dict[str, Slot] = {}
        self._named: Future[int] = Future()
        self._found: Future[int] = Future()
        self._link: Link | None = None
        self._closing = self._closed = self._restarted = False
        self._loop = asyncio.new_event_loop()
        self._executor = ThreadPoolExecutor(1, "agilab-dask")
        self._context = guarded()
        self._done = self._executor.submit(self._context.copy().run, self._run)

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._slots)

    @property
    def most(self) -> int:
        asked: int | None = self._job.cluster["workers"]
        if self._host is not None and asked:  # its jobs may wait long for their turn
            return asked
        found = self.found()
        return min(found, asked or found)

    def found(self) -> int:
        """Wait until it is known how many workers there could be; return that number."""
        ends: tuple[Future[Any], ...] = (self._found, self._done)
        wait(ends, return_when=FIRST_COMPLETED)
        if not self._found.done():
            self._done.result()
            raise BackendRefusedError("the connection to the scheduler ended before the run began; run again")
        return self._found.result()

    def add(self, workers: Sequence[str]) -> None:
        self._slots.update((name, Slot(name)) for name in workers)
        self._named.set_result(len(workers))
        self._tell_loop(self._match)

    def submit(self, worker: str, task: Mapping[str, Any], *, timeout_s: float | None) -> None:
        self._outgoing.append((worker, task, timeout_s))

    def wait(self, timeout_s: float) -> Sequence[Event]:
        if self._outgoing:
            batch, self._outgoing = self._outgoing, []
            self._tell_loop(self._send, batch)
        events: list[Event] = []
        with suppress(queue.Empty):
            events.append(self._inbox.get(timeout=timeout_s))
        while not self._inbox.empty():  # this thread is the only reader
            events.append(self._inbox.get())
        if not events and self._done.done():
            self._done.result()
        return events

    def kill(self) -> None:
        self._closing = True
        for slot in tuple(self._slots.values()):
            kill_groups(slot.groups)
        if self._own and self._host is not None:
            self._host.kill()
        else:
            self._tell_loop(self._leave, 0.0)

    def close(self, *, grace_s: float) -> None:
        if self._closed:
            return
        self._closing = self._closed = True
        if not self._named.done():
            self._named.set_result(0)
        self._tell_loop(self._leave, grace_s)
        wait([self._done], grace_s + self.leaving_s)
        for slot in self._slots.values():
            kill_groups(slot.groups)
        if self._host is not None:
            self._host.close()
        self._executor.shutdown()

    # --- in the thread of the event loop ------------------------------------------

    def _tell_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(function, *arguments, context=self._context.copy())

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._serve())
        with logged(make_folder(self._job.paths.logs) / NAME):
            try:
                with suppress(asyncio.CancelledError):
                    self._loop.run_until_complete(self._main)
            finally:
                left = asyncio.all_tasks(self._loop)
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
                self._loop.close()

    async def _serve(self) -> None:
        """Serve one connection; where the cluster is ours and is lost, one more."""
        try:
            while not await self._serve_once():
                if not self._own or self._restarted:
                    self._inbox.put(Broken("what had been committed is kept", "", "scheduler lost"))
                    return
                self._restarted = True
                assert self._host is not None
                self._host.close()
                self._inbox.put(Told("note", {"text": "scheduler lost; it is started once more"}))
                self._host = self.new_host()
        except BackendRefusedError as err:
            self.refuse(err, "Dask")

    async def _serve_once(self) -> bool:
        """Connect and serve until the pool closes; False when the scheduler was lost before."""
        client = await self._connect(*await self._find())
        try:
            if not self._own and not self._found.done():
                await self._check(client)
            if self._host is None:
                address = self._job.cluster["scheduler"]
                self.tell({"scheduler": address, "dashboard": dashboard_of(address, client.scheduler_info())})
            there = goes_on = True
            async with self.staffed(client):
                while there and goes_on:
                    link = self._link = self.new_link(client)
                    there = await link.serve() or self._closing
                    self._link = None
                    goes_on = self.has_another()
        finally:
            self._link = None
            with suppress(TimeoutError):
                await client.close(timeout=CLIENT_CLOSE_S)
        if not there:
            await link.lose_all()
        return there

    @asynccontextmanager
    async def staffed(self, client: Client) -> AsyncIterator[None]:
        """Have what a connection to the scheduler needs besides, as long as it lasts."""
        yield

    def has_another(self) -> bool:
        """Whether there is more to serve over a connection when a run has ended."""
        return False

    async def _connect(self, address: str, certificates: Mapping[str, Any] | None) -> Client:
        security = Security(**(certificates or {}))  # without any, what Dask's own configuration says
        if address.startswith("tls://") and security.get_connection_args("client")["ssl_context"] is None:
            raise BackendRefusedError(
                f"scheduler {address} wants certificates; name their folder with certificates=FOLDER, or set "
                "distributed.comm.tls in Dask's configuration"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VersionMismatchWarning)  # `backplane` says it better
                client: Client = await Client(
                    address,
                    security=security,
                    asynchronous=True,
                    set_as_default=False,
                    direct_to_workers=self.direct,  # what leases answer need not pass through the scheduler
                    timeout=CONNECT_S,
                    name="agilab",
                )
        except (OSError, ValueError) as err:  # ValueError: an address inside another process
            raise BackendRefusedError(
                f"no scheduler answers at {address}: {first_line(err)}; start it, or check address and certificates"
            ) from err
        return client

    async def _find(self) -> tuple[str, Mapping[str, Any] | None]:
        """Return address and certificates of the scheduler, once it is there."""
        options = self._job.cluster
        if self._host is None:
            return options["scheduler"], certificates(options)
        if self._host.pgid:
            self._inbox.put(Started("", self._host.pgid, self._host.start_time))
        answer = await self.ask(self._host)
        if "error" in answer:
            raise BackendRefusedError(f"the cluster does not start: {answer['error']}")
        self.tell({"scheduler": answer["scheduler"], "dashboard": answer["dashboard"]})
        return answer["scheduler"], self._host.security

    def refuse(self, error: AgilabError, what: str) -> None:
        """Tell whoever waits that there will be no workers."""
        if self._own or self._named.done():
            self._inbox.put(Broken(str(error), "", what))
        if not self._found.done():
            self._found.set_exception(error)

    # --- what depends on where the workers are -------------------------------------

    @property
    def owner(self) -> Job:
        """Whose the cluster is: the run's."""
        return self._job

    @property
    def direct(self) -> bool:
        """Whether this process reaches workers by the addresses that they have for the scheduler."""
        return self._own

    def new_host(self) -> Host:
        """Start the process that holds the cluster once more."""
        return HostProcess(self.owner)

    def new_link(self, client: Client) -> Link:
        """Return what serves one connection to the scheduler."""
        return Link(self._job, client, self._slots, put=self._inbox.put, own=self._own)

    async def ask(self, host: Any) -> Mapping[str, Any]:
        """Let the cluster start; return what it says of itself."""
        asked: int | None = self._job.cluster["workers"]
        if self._own:
            asked = await asyncio.wrap_future(self._named)
        return await asyncio.to_thread(host.ask, asked)

    def tell(self, cluster: Mapping[str, Any]) -> None:
        """Say where the cluster is."""
        self._place = cluster
        self._inbox.put(Told("cluster", cluster))

    async def _check(self, client: Client) -> None:
        """Make sure that a cluster which is not ours can do the work, before any of it is sent."""
        try:
            await client.wait_for_workers(1, timeout=FIRST_WORKER_S)  # type: ignore[func-returns-value, misc]
        except TimeoutError as err:
            raise BackendRefusedError(f"the cluster has no worker after {FIRST_WORKER_S:g} s; start some") from err
        await backplane.check(client, make_folder(self._job.paths.staging))
        paths = (self._job.paths.request, self._job.installed.runtime / "__main__.py", self._job.installed.lock)
        seen = [[str(path), digest.of_file(path)] for path in paths]
        for at, missing in (await client.run(lease.sees, json.dumps(seen))).items():
            if missing:
                raise BackendRefusedError(
                    f"worker {at} does not see {missing}; it must share the folders AGILAB_HOME and AGILAB_WENV with "
                    "this machine"
                )
        self._found.set_result(sum((await client.nthreads()).values()))

    def _match(self) -> None:
        if self._link is not None:
            self._link.match()

    def _send(self, batch: Sequence[tuple[str, Mapping[str, Any], float | None]]) -> None:
        if self._link is not None:
            self._link.send(batch)
            return
        for worker, task, _ in batch:  # wanted before the scheduler was lost
            self._inbox.put(Returned(worker, task["id"]))

    def _leave(self, grace_s: float) -> None:
        if self._link is None:
            if self._host is not None:
                self._host.kill()
            self._main.cancel()
        else:
            self._leaving = self._loop.create_task(self._go(self._link, grace_s))

    async def _go(self, link: Link, grace_s: float) -> None:
        await link.end_runners(grace_s)
        link.leave()
