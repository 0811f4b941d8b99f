"""Pools on hosts: check them, deploy, start the scheduler, then serve as any Dask pool does."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from distributed import Client

from agilab import digest
from agilab.backends.base import Job, Told
from agilab.backends.dask.cluster import Host, HostProcess
from agilab.backends.dask.link import Link as Leases
from agilab.backends.dask.pool import DaskPool
from agilab.backends.dask.tls import pem_of
from agilab.backends.ssh.backend import scheduler_of
from agilab.backends.ssh.connection import Connections
from agilab.backends.ssh.deploy import Backplane, Deployment, Offer, backplane_lock
from agilab.backends.ssh.fleet import Fleet
from agilab.backends.ssh.link import Link
from agilab.backends.ssh.member import Access, Member
from agilab.backends.ssh.preflight import HostCheck, check_all
from agilab.backends.ssh.scheduler import HostScheduler
from agilab.backends.ssh.share import Share, prove
from agilab.backends.ssh.slots import HostLeases
from agilab.errors import AgilabError, BackendRefusedError
from agilab.paths import make_folder, write_file

_TOLD = ("python", "platform", "cores", "memory_bytes", "resources", "skew_s")
NOTE_S = 0.1
"""How soon it is noticed that hosts are ready, or that the run is cancelled [s]."""


class SshPool(DaskPool):
    """Entry processes on hosts.

    The scheduler runs on this machine or on a host and listens on loopback;
    what hosts and scheduler say to each other goes through the SSH connections.

    Parameters
    ----------
    job
        The run.
    host
        What holds its scheduler.
    """

    commits = False
    leaving_s = 10.0
    patient = False
    """Whether it goes on when no host is left."""

    def __init__(self, job: Job, host: HostProcess | HostScheduler) -> None:
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._links: dict[str, Link] = {}
        self._members: dict[str, Member] = {}
        self._checks: Sequence[HostCheck] = ()
        self._share = Share()
        self.fleet: Fleet | None = None
        self._backplane: Backplane | None = None
        self._asked: dict[HostProcess, asyncio.Future[Mapping[str, Any]]] = {}
        super().__init__(job, host)

    def prepare(self) -> Iterator[str | None]:
        while not (self._found.done() or self._done.done()) or not self._notes.empty():
            try:
                yield self._notes.get(timeout=NOTE_S)
            except queue.Empty:
                yield None

    @property
    def most(self) -> int:
        return self.found()

    @property
    def hosts(self) -> Mapping[str, int]:
        """Those that are ready."""
        return {name: member.slots for name, member in self._members.items()}

    @property
    def devices(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        ready = {one.host: one.resources for one in self._checks if one.host in self._members}
        return {host: {name: range(count) for name, count in kinds.items()} for host, kinds in ready.items()}

    def kill(self) -> None:
        super().kill()
        self._tell_loop(self._leave, 0.0)

    # --- in the thread of the event loop ------------------------------------------

    async def _serve(self) -> None:
        connections = Connections()
        self._ask(self._host)
        try:
            await self._prepare(connections)
            self._found.set_result(sum(self.hosts.values()))
            await super()._serve()
        except AgilabError as err:
            self.refuse(err, "hosts")
        finally:
            await connections.close()

    async def _prepare(self, connections: Connections) -> None:
        """Check all hosts before anything is done on any, then give them what they lack."""
        wanted: Mapping[str, int] = self.owner.cluster["workers"]
        named: str = self.owner.cluster["scheduler"] or ""
        self._links = {name: Link(name, connections) for name in dict.fromkeys([*wanted, *filter(None, [named])])}
        self._checks = await check_all(list(self._links.values()))
        self._judge(named)
        ready = [check.host for check in self._checks if check.ok and check.host in wanted]
        self._share = await prove(self.owner.cluster["share"], [self._links[name] for name in ready])
        assert self._job.wenv is not None
        lock = await asyncio.to_thread(backplane_lock, self._job.wenv, self._note)
        made = await asyncio.gather(*(self._made_ready(name, lock) for name in ready), return_exceptions=True)
        skews = {check.host: check.skew_s for check in self._checks}
        for one in made:  # every host was given its time, so that none is left half way
            if isinstance(one, BaseException):
                raise one
            self._members[one.name] = one
            one.skew_s = skews[one.name]
        if named in self._members:
            self._backplane = self._members[named].backplane
        elif named:
            self._backplane = await Deployment(self._links[named], self._job.wenv, self._note).backplane(lock)

    def _judge(self, scheduler: str) -> None:
        """Say what is not as it should be; refuse the run unless it may go on without hosts that are not ready.

        Raises
        ------
        BackendRefusedError
            Names every host that is not ready, how far it came, and what mends it.
        """
        wanted: Mapping[str, int] = self.owner.cluster["workers"]
        for check in self._checks:
            for warning in check.warnings:
                self._note(f"host {check.host}: {warning}")
            if check.ok and (asked := wanted.get(check.host, 0)) > check.cores:
                self._note(f"host {check.host}: {asked} workers share {check.cores} cores")
        bad = [f"{one.host}: {one.step}: {one.problem}; {one.fix}" for one in self._checks if not one.ok]
        if not bad:
            return
        partial = self.owner.cluster["allow_partial_hosts"]
        there = {one.host for one in self._checks if one.ok}
        goes_on = bool(there.intersection(wanted)) and (not scheduler or scheduler in there)
        if partial and goes_on:
            for line in bad:
                self._note(f"host {line}; the run goes on without it")
            return
        others = "" if partial or not goes_on else " (or go on without, with allow_partial_hosts)"
        raise BackendRefusedError(f"{len(bad)} of {len(self._checks)} hosts not ready{others}: {' | '.join(bad)}")

    async def _made_ready(self, name: str, lock: str) -> Member:
        try:
            return await self._deploy(name, lock)
        except AgilabError as err:  # which fails the run when the other hosts have had their time
            self._note(str(err))
            raise

    async def _deploy(self, name: str, lock: str) -> Member:
        job = self._job
        assert job.wenv is not None
        host = Deployment(self._links[name], job.wenv, self._note)
        remembered = self._remembered(name)
        found = await host.have(job.installed, lock, offer=remembered) if remembered is not None else None
        if found is None:
            offer = await host.survey()
            found = await asyncio.gather(host.worker(job.installed, "", offer=offer), host.backplane(lock, offer=offer))
            self._remember(name, offer)
        return Member(self._links[name], job, installed=found[0], backplane=found[1], note=self._note)

    def _offer(self, name: str) -> Path:
        assert self._job.home is not None
        return (
            self._job.home.cache / "hosts" / f"{digest.of_bytes(self._links[name].target.address.encode())[:32]}.json"
        )

    def _remembered(self, name: str) -> Offer | None:
        """Return what a host had to offer when it was last asked; the host checks what that leads to."""
        with suppress(OSError, ValueError, LookupError, TypeError):
            return Offer.from_json(json.loads(self._offer(name).read_bytes()))
        return None

    def _remember(self, name: str, offer: Offer) -> None:
        path = self._offer(name)
        with suppress(OSError):  # a cache that cannot be written costs time, not the run
            make_folder(path.parent)
            write_file(path, json.dumps(offer.to_json()).encode(), durable=False)

    def _note(self, text: str) -> None:
        if self._found.done():
            self._inbox.put(Told("note", {"text": text}))
        else:
            self._notes.put(text)

    # --- what is different from a cluster on this machine -----------------------------

    @property
    def direct(self) -> bool:
        return not self.owner.cluster["scheduler"]

    def new_host(self) -> Host:
        host = scheduler_of(self.owner)
        self._ask(host)
        return host

    def _ask(self, host: Host | None) -> None:
        """Let a scheduler of this machine start, while hosts are made ready."""
        if isinstance(host, HostProcess):
            self._asked[host] = asyncio.ensure_future(asyncio.to_thread(host.ask, 0))

    async def _serve_once(self) -> bool:
        host = self._host
        try:
            return await super()._serve_once()
        finally:
            if isinstance(host, HostScheduler):
                await host.end()

    @asynccontextmanager
    async def staffed(self, client: Client) -> AsyncIterator[None]:
        assert self._host is not None
        port = int(str(client.scheduler.address).rpartition(":")[2])  # type: ignore[union-attr]
        link = self._host.link if isinstance(self._host, HostScheduler) else None
        access = Access(port, pem_of(self._host.security or {}), link)
        self.fleet = Fleet(self._members, self._share, scheduler=access, patient=self.patient)
        self.fleet.begin()
        try:
            async with super().staffed(client):
                yield
        finally:
            await self.fleet.end()

    def new_link(self, client: Client) -> Leases:
        assert self.fleet is not None
        return HostLeases(self._job, client, self._slots, put=self._inbox.put, fleet=self.fleet)

    async def ask(self, host: Any) -> Mapping[str, Any]:
        if isinstance(host, HostScheduler):
            assert self._backplane is not None
            return await host.start(self._links[self.owner.cluster["scheduler"]], self._backplane)
        return await self._asked[host]

    def tell(self, cluster: Mapping[str, object]) -> None:
        hosts = [
            {"name": one.host, "address": one.address, "slots": self._members[one.host].slots}
            | {name: getattr(one, name) for name in _TOLD}
            for one in self._checks
            if one.host in self._members
        ]
        super().tell({**cluster, "hosts": hosts})
