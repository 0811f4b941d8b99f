"""What a pool's event loop does differently where slots are on hosts: their paths, what they read and wrote, losses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from distributed import Client

from agilab.backends.base import Broken, Done, Event, Failed, Gone, Job, Told, on_hosts
from agilab.backends.dask.lease import Said
from agilab.backends.dask.link import Link, Slot, Task
from agilab.backends.entries import Launch
from agilab.backends.ssh.collect import Collector
from agilab.backends.ssh.fleet import Fleet
from agilab.backends.ssh.heard import checked
from agilab.backends.ssh.stay import Stay
from agilab.backends.ssh.supply import Supply
from agilab.errors import AgilabError, EvidenceError, HostError


class HostLeases(Link):
    """Leases on the Dask workers of hosts.

    Parameters
    ----------
    job, client, slots, put
        As for a link to any scheduler.
    fleet
        Where the slots are.
    """

    def __init__(
        self, job: Job, client: Client, slots: Mapping[str, Slot], *, put: Callable[[Event], None], fleet: Fleet
    ) -> None:
        super().__init__(job, client, slots, put=put, own=True)
        self._fleet = fleet
        root, members = fleet.share.root, fleet.members.items()
        run_id = job.paths.run_id
        self._stays = {name: Stay(one, job, "" if self.idle else root(name, run_id)) for name, one in members}
        hosts = on_hosts(job.cluster["workers"])
        self._stay_of = {name: self._stays[host] for name, host in hosts.items() if host in self._stays}
        wanted = job.cluster["collect"]
        self._collectors = {
            name: Collector(one.member.link, wanted, shared=bool(one.root)) for name, one in self._stays.items()
        }
        self._supplies: dict[str, Supply] = {}

    async def serve(self) -> bool:
        self._fleet.lessee = self
        if self._fleet.all_lost:
            self.all_lost()
        try:
            return await super().serve()
        finally:
            await asyncio.gather(*(one.close() for one in self._collectors.values()))
            await self.clear()

    async def end_runners(self, grace_s: float) -> None:
        if self._client.status == "running":
            await asyncio.gather(*(stay.leave(self._client, grace_s) for stay in self._stays.values()))

    # --- hosts that come and go -------------------------------------------------------

    def match(self) -> None:
        for stay in self._stays.values():
            if stay.may_enter:
                self._spawn(self._enter(stay))
        super().match()

    async def _enter(self, stay: Stay) -> None:
        """Let the run begin on a host, where another attempt at it may be about to end."""
        try:
            await stay.enter(self._client)
        except HostError as err:
            stay.member.dismiss(str(err))
            return
        if stay.inside:
            self._supplies[stay.member.name] = Supply(stay, self._collectors, self._fleet.share)
            super().match()

    def went(self, address: str, why: str) -> None:
        """A Dask worker has gone, and what it held is lost."""
        self._put(Told("note", {"text": why}))
        for slot in self._slots.values():
            if address and slot.address == address:
                self._lose(slot, address)

    def all_lost(self) -> None:
        """No host is left; a service between its runs waits for one."""
        if not self.idle:
            self._put(Broken("; ".join(self._fleet.lost.values()), "", "no host is left"))

    async def clear(self) -> None:
        """Remove from a shared folder what hosts that are gone have left there."""
        await asyncio.gather(*(stay.clear() for stay in self._stays.values()))

    def order(self, slot: Slot) -> dict[str, Any]:
        stay = self._stay_of[slot.name]
        member, paths = stay.member, stay.paths
        launch = Launch.of(self._job)
        init = {**launch.init, "code": str(member.installed.code), "cancel_file": str(paths.cancel_request)}
        there = {
            "python": str(member.installed.python),
            "runtime": str(member.installed.runtime),
            "logs": str(paths.logs),
            "init": init,
            "environment": None,
        }
        return {
            **super().order(slot),
            "folder": str(paths.root),
            "launch": {**asdict(launch), **there},
            "slots": member.slots,
            "marker": {},
            "idle_logs": stay.idle_logs,
        }

    def admits(self, slot: Slot, address: str) -> bool:
        stay = self._stay_of[slot.name]
        return stay.inside and stay.member.address == address

    async def bury(self, slot: Slot, message: str) -> list[Event]:
        """What a lost host still does reaches nobody: its tunnels are closed, and another attempt has another name."""
        failed = [Failed(slot.name, ident, "died", message) for ident in slot.tasks]
        return [Gone(slot.name, message), *failed]

    def _take(self, slot: Slot, said: Sequence[Said]) -> None:
        """Take nothing on the word of a host that our own program would not say."""
        host = self._stay_of[slot.name].member.name
        try:
            super()._take(slot, checked(said, slot.tasks, host=host))
        except EvidenceError as err:
            self._put(Broken(str(err), "", "a wrong record"))
            for ident in slot.tasks:
                self._put(Failed(slot.name, ident, "protocol", str(err)))
            slot.tasks.clear()

    # --- what partitions read and write -------------------------------------------------

    async def provide(self, slot: Slot, tasks: Sequence[Task]) -> Sequence[Task]:
        supply = self._supplies[self._stay_of[slot.name].member.name]
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
        stay = self._stay_of[slot.name]
        host = stay.member.name
        event: Event
        try:
            artifacts = await self._collectors[host].collect(record, task, stay.paths)
            self._supplies[host].has(record, task, artifacts)
            self._fleet.worked(host)
            event = Done(slot.name, task["id"], done(record, artifacts, stay))
        except EvidenceError as err:
            self._put(Broken(str(err), "", "a wrong record"))
            event = Failed(slot.name, task["id"], "protocol", str(err))
        except AgilabError as err:
            reason = "died" if isinstance(err, HostError) else "exception"
            event = Failed(slot.name, task["id"], reason, str(err))
        if slot.tasks.get(task["id"]) is task:  # else it was lost meanwhile, and that has been reported
            del slot.tasks[task["id"]]
            if isinstance(event, Done):
                stay.handed_over(task, event.message)
            self._put(event)


def done(record: Mapping[str, Any], artifacts: Sequence[Mapping[str, Any]], stay: Stay) -> dict[str, Any]:
    """Return the message that a partition is done, from its record on a host.

    Parameters
    ----------
    record
        As the host has committed it.
    artifacts
        What became of its artifacts, as `Collector.collect` says.
    stay
        Of the run on the host; what its clock said is told by ours.
    """
    from datetime import datetime

    return {
        "op": "done",
        "id": record["partition"],
        "cancelled": False,
        "host": stay.member.name,
        "folder": str(stay.paths.root),
        "started": datetime.fromisoformat(record["started"]).timestamp() - stay.member.skew_s,
        **{name: record[name] for name in ("wall_s", "cpu_s", "peak_rss_bytes", "metrics")},
        "artifacts": list(artifacts),
    }
