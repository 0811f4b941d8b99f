"""What a pool's event loop does differently where slots are on hosts: their paths, what they read and wrote, losses."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distributed import Client

from agilab.backends.base import Broken, Done, Event, Failed, Gone, Job, Told, on_hosts
from agilab.backends.dask.lease import Said
from agilab.backends.dask.link import Link, Slot, Task
from agilab.backends.entries import Launch
from agilab.backends.ssh import daskworker
from agilab.backends.ssh.collect import Collector
from agilab.backends.ssh.heard import checked
from agilab.backends.ssh.member import Member
from agilab.backends.ssh.share import Share
from agilab.backends.ssh.supply import Supply
from agilab.errors import AgilabError, EvidenceError, HostError

AGAIN_S = 10.0
"""How long after a host was lost it is tried again, while others go on [s]."""
FUTILE = 3
"""How often in a row a Dask worker may end without a partition done before its host counts as lost."""


@dataclass(frozen=True, slots=True)
class Hosting:
    """Where slots are.

    Parameters
    ----------
    members
        The hosts, by name.
    share
        What all of them see.
    keys
        The run's certificates, as arguments of `distributed.Security`.
    """

    members: Mapping[str, Member]
    share: Share
    keys: Mapping[str, Any]


class HostLeases(Link):
    """Leases on the Dask workers of hosts.

    Parameters
    ----------
    job, client, slots, put
        As for a link to any scheduler.
    place
        Where the slots are.
    """

    def __init__(
        self,
        job: Job,
        client: Client,
        slots: Mapping[str, Slot],
        *,
        put: Callable[[Event], None],
        place: Hosting,
    ) -> None:
        super().__init__(job, client, slots, put=put, own=True)
        self._members, self._share = place.members, place.share
        hosts = on_hosts(job.cluster["workers"])
        self._member_of = {name: self._members[host] for name, host in hosts.items() if host in self._members}
        self._scheduler = client.scheduler.address  # type: ignore[union-attr]
        self._keys = {
            name: Path(place.keys[f"tls_{key}"]).read_text(encoding="utf-8")
            for name, key in (("ca", "ca_file"), ("cert", "worker_cert"), ("key", "worker_key"))
        }
        self._supplies: dict[str, Supply] = {}
        wanted, members = job.cluster["collect"], self._members.items()
        self._collectors = {name: Collector(one.link, wanted, shared=bool(one.root)) for name, one in members}
        self._lost: dict[str, str] = {}
        self._futile = dict.fromkeys(self._members, 0)

    async def serve(self) -> bool:
        for member in self._members.values():
            self._spawn(self._keep(member))
        try:
            return await super().serve()
        finally:
            ends = [member.end() for member in self._members.values()]
            await asyncio.gather(*ends, *(one.close() for one in self._collectors.values()))
            for member in self._members.values():
                if member.root and not member.kept():  # of a host that was lost
                    await asyncio.to_thread(shutil.rmtree, member.root, ignore_errors=True)

    async def end_runners(self, grace_s: float) -> None:
        async def leave(member: Member) -> None:
            order = {"run": None, "folder": str(member.paths.root), "keep": member.kept(), "grace_s": grace_s}
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(grace_s + 2.0):
                    await self._client.run(
                        daskworker.leave, json.dumps(order), workers=[member.address], on_error="ignore"
                    )

        if self._client.status == "running":
            await asyncio.gather(*(leave(member) for member in self._members.values() if member.address))

    # --- hosts that come and go -------------------------------------------------------

    async def _keep(self, member: Member) -> None:
        """Have a Dask worker on a host, as long as there is a host."""
        while True:
            begun = False
            try:
                self._supplies[member.name] = Supply(member, self._collectors, self._share)
                await member.start(str(self._scheduler), self._keys)
                begun = True
                self.match()  # the scheduler may have heard of it before
                self._lost.pop(member.name, None)
                why = f"host {member.name}: {await member.ended()}"
            except AgilabError as err:
                why = str(err)
            address = member.address
            await member.end()
            self._put(Told("note", {"text": why}))
            for slot in self._slots.values():
                if address and slot.address == address:
                    self._lose(slot, address)
            self._futile[member.name] += 1
            if begun and self._futile[member.name] < FUTILE:
                continue
            self._lost[member.name] = why
            if len(self._lost) == len(self._members):
                self._put(Broken("; ".join(self._lost.values()), "", "no host is left"))
                return
            await asyncio.sleep(AGAIN_S)

    def order(self, slot: Slot) -> dict[str, Any]:
        member = self._member_of[slot.name]
        launch = Launch.of(self._job)
        init = {**launch.init, "code": str(member.installed.code), "cancel_file": str(member.paths.cancel_request)}
        there = {
            "python": str(member.installed.python),
            "runtime": str(member.installed.runtime),
            "logs": str(member.paths.logs),
            "init": init,
            "environment": None,
        }
        return {
            **super().order(slot),
            "folder": str(member.paths.root),
            "launch": {**asdict(launch), **there},
            "slots": member.slots,
            "marker": {},
        }

    def admits(self, slot: Slot, address: str) -> bool:
        return self._member_of[slot.name].address == address

    async def bury(self, slot: Slot, message: str) -> list[Event]:
        """What a lost host still does reaches nobody: its tunnels are closed, and another attempt has another name."""
        failed = [Failed(slot.name, ident, "died", message) for ident in slot.tasks]
        return [Gone(slot.name, message), *failed]

    def _take(self, slot: Slot, said: Sequence[Said]) -> None:
        """Take nothing on the word of a host that our own program would not say."""
        host = self._member_of[slot.name].name
        try:
            super()._take(slot, checked(said, slot.tasks, host=host))
        except EvidenceError as err:
            self._put(Broken(str(err), "", "a wrong record"))
            for ident in slot.tasks:
                self._put(Failed(slot.name, ident, "protocol", str(err)))
            slot.tasks.clear()

    # --- what partitions read and write -------------------------------------------------

    async def provide(self, slot: Slot, tasks: Sequence[Task]) -> Sequence[Task]:
        member = self._member_of[slot.name]
        supply = self._supplies[member.name]
        try:
            brought = await supply.bring([task for task, _ in tasks])
            return [(task, timeout_s) for task, (_, timeout_s) in zip(brought, tasks, strict=True)]
        except AgilabError as err:
            reason = "died" if isinstance(err, HostError) else "exception"
            for task, _ in tasks:
                if slot.tasks.pop(task["id"], None) is not None:
                    self._put(Failed(slot.name, task["id"], reason, str(err)))
            return []

    def committed(self, slot: Slot, record: Mapping[str, Any], sha256: str) -> None:
        task = slot.tasks.get(record["partition"])
        if task is not None:
            self._spawn(self._collect(slot, task, record))

    async def _collect(self, slot: Slot, task: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        member = self._member_of[slot.name]
        event: Event
        try:
            artifacts = await self._collectors[member.name].collect(record, task, member.paths)
            self._supplies[member.name].has(record, task, artifacts)
            self._futile[member.name] = 0
            event = Done(slot.name, task["id"], done(record, artifacts, member))
        except EvidenceError as err:
            self._put(Broken(str(err), "", "a wrong record"))
            event = Failed(slot.name, task["id"], "protocol", str(err))
        except AgilabError as err:
            reason = "died" if isinstance(err, HostError) else "exception"
            event = Failed(slot.name, task["id"], reason, str(err))
        if slot.tasks.get(task["id"]) is task:  # else it was lost meanwhile, and that has been reported
            del slot.tasks[task["id"]]
            if isinstance(event, Done):
                member.handed_over(task, event.message)
            self._put(event)


def done(record: Mapping[str, Any], artifacts: Sequence[Mapping[str, Any]], member: Member) -> dict[str, Any]:
    """Return the message that a partition is done, from its record on a host.

    Parameters
    ----------
    record
        As the host has committed it.
    artifacts
        What became of its artifacts, as `Collector.collect` says.
    member
        The host; what its clock said is told by ours.
    """
    from datetime import datetime

    return {
        "op": "done",
        "id": record["partition"],
        "cancelled": False,
        "host": member.name,
        "folder": str(member.paths.root),
        "started": datetime.fromisoformat(record["started"]).timestamp() - member.skew_s,
        **{name: record[name] for name in ("wall_s", "cpu_s", "peak_rss_bytes", "metrics")},
        "artifacts": list(artifacts),
    }
