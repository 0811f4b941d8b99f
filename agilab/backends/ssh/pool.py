"""The pool of a run on hosts: checks them, deploys, starts the scheduler here, then serves as any Dask pool does."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import Client

from agilab import digest
from agilab.backends.base import Job, Told
from agilab.backends.dask.cluster import HostProcess
from agilab.backends.dask.link import Link as Leases
from agilab.backends.dask.pool import DaskPool
from agilab.backends.ssh.connection import Connections
from agilab.backends.ssh.deploy import Deployment, Offer, backplane_lock
from agilab.backends.ssh.link import Link
from agilab.backends.ssh.member import Member
from agilab.backends.ssh.preflight import HostCheck, check_all
from agilab.backends.ssh.share import Share, prove
from agilab.backends.ssh.slots import Hosting, HostLeases
from agilab.errors import AgilabError, BackendRefusedError
from agilab.paths import make_folder, write_file

NOTE_S = 0.1
"""How soon it is noticed that hosts are ready, or that the run is cancelled [s]."""


class SshPool(DaskPool):
    """Entry processes on hosts.

    The scheduler runs on this machine and listens on loopback; what hosts and
    scheduler say to each other goes through the SSH connections.

    Parameters
    ----------
    job
        The run.
    """

    commits = False
    leaving_s = 10.0

    def __init__(self, job: Job) -> None:
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._links: dict[str, Link] = {}
        self._members: dict[str, Member] = {}
        self._checks: Sequence[HostCheck] = ()
        self._share = Share()
        self._asked: dict[HostProcess, asyncio.Future[Mapping[str, Any]]] = {}
        super().__init__(job, HostProcess(job, alone=True))

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

    def kill(self) -> None:
        super().kill()
        self._tell_loop(self._leave, 0.0)

    # --- in the thread of the event loop ------------------------------------------

    async def _serve(self) -> None:
        connections = Connections()
        assert self._host is not None
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
        wanted: Mapping[str, int] = self._job.cluster["workers"]
        self._links = {name: Link(name, connections) for name in wanted}
        self._checks = await check_all(list(self._links.values()))
        self._judge()
        ready = [check.host for check in self._checks if check.ok]
        self._share = await prove(self._job.cluster["share"], [self._links[name] for name in ready])
        assert self._job.wenv is not None
        lock = await asyncio.to_thread(backplane_lock, self._job.wenv, self._note)
        made = await asyncio.gather(*(self._made_ready(name, lock) for name in ready), return_exceptions=True)
        skews = {check.host: check.skew_s for check in self._checks}
        for one in made:  # every host was given its time, so that none is left half way
            if isinstance(one, BaseException):
                raise one
            self._members[one.name] = one
            one.skew_s = skews[one.name]

    def _judge(self) -> None:
        """Say what is not as it should be; refuse the run unless it may go on without hosts that are not ready.

        Raises
        ------
        BackendRefusedError
            Names every host that is not ready, how far it came, and what mends it.
        """
        for check in self._checks:
            for warning in check.warnings:
                self._note(f"host {check.host}: {warning}")
        bad = [f"{one.host}: {one.step}: {one.problem}; {one.fix}" for one in self._checks if not one.ok]
        if not bad:
            return
        partial = self._job.cluster["allow_partial_hosts"]
        if partial and len(bad) < len(self._checks):
            for line in bad:
                self._note(f"host {line}; the run goes on without it")
            return
        others = "" if partial or len(bad) == len(self._checks) else " (or go on without, with allow_partial_hosts)"
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
        root = self._share.root(name, job.paths.run_id)
        return Member(self._links[name], job, installed=found[0], backplane=found[1], note=self._note, root=root)

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

    def new_host(self) -> HostProcess:
        host = HostProcess(self._job, alone=True)
        self._ask(host)
        return host

    def _ask(self, host: HostProcess) -> None:
        """Let a scheduler start, while hosts are made ready."""
        self._asked[host] = asyncio.ensure_future(asyncio.to_thread(host.ask, 0))

    def new_link(self, client: Client) -> Leases:
        assert self._host is not None
        place = Hosting(self._members, self._share, self._host.security or {})
        return HostLeases(self._job, client, self._slots, put=self._inbox.put, place=place)

    async def ask(self, host: HostProcess) -> Mapping[str, Any]:
        return await self._asked[host]

    def tell(self, cluster: Mapping[str, object]) -> None:
        hosts = [
            {"name": one.host, "address": one.address, "slots": self._members[one.host].slots}
            | {"python": one.python, "platform": one.platform, "cores": one.cores, "skew_s": one.skew_s}
            for one in self._checks
            if one.ok
        ]
        super().tell({**cluster, "hosts": hosts})
