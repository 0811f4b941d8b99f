"""`Stay`: a run on one host, from when the Dask worker there is told of it until it has left; it starts no process."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import Client

from agilab.backends.base import Job
from agilab.backends.ssh import daskworker
from agilab.backends.ssh.listening import called
from agilab.backends.ssh.member import Member
from agilab.errors import HostError
from agilab.paths import RunPaths
from agilab.records import read_records

LEAVE_S = 2.0
"""How much longer than its workers may a host may take to let a run go [s]."""


class Stay:
    """A run on one host.

    Parameters
    ----------
    member
        The host.
    job
        The run, or a service between its runs.
    root
        Where it works, in a folder that we see too; empty for the host's own disk.

    Attributes
    ----------
    paths
        The run's folder on the host, known once it has entered.
    idle_logs
        Where workers that are kept log between runs, there; None for those of this run alone.
    """

    def __init__(self, member: Member, job: Job, root: str = "") -> None:
        self.member, self.root = member, root
        self.name, self._service = called(job)
        self.paths = RunPaths(Path())
        self.idle_logs: str | None = None
        self._job = job
        self._entered, self._over = "", False
        self._entering = asyncio.Lock()
        self._handed_over: set[str] = set()
        member.log_to(self.name, job.paths.logs)

    @property
    def inside(self) -> bool:
        """Whether the Dask worker that is there knows of the run."""
        return bool(self.member.address) and self._entered == self.member.address

    @property
    def may_enter(self) -> bool:
        """Whether there is a Dask worker that is still to be told."""
        return bool(self.member.address) and not (self.inside or self._over or self._entering.locked())

    async def enter(self, client: Client) -> None:
        """Tell the Dask worker of the run; where that cannot be reached just now, nothing is done.

        Raises
        ------
        HostError
            The host has no room for it.
        """
        async with self._entering:
            place = self.member.address
            order = {"run": self.name, "root": self.root, "keep": self.kept(), "service": self._service}
            answers: Mapping[str, str] = {}
            with suppress(OSError):
                answers = await client.run(daskworker.enter, json.dumps(order), workers=[place], on_error="ignore")
            if place not in answers or self._over:
                return
            said = json.loads(answers[place])
            if "error" in said:
                raise HostError(self.member.name, "disk", said["error"], "make room for the run on that host")
            self.paths = RunPaths(Path(said["run"]))
            if self._service:
                self.idle_logs = str(RunPaths(Path(said["service"])).logs)
            self._entered = place

    async def leave(self, client: Client, grace_s: float) -> None:
        """End what the run has there, politely at first, and hear the last of its logs; it does not enter again."""
        place, inside = self.member.address, self.inside
        self._over = True
        if not inside:
            return
        order = {"run": str(self._job.paths.root), "stay": self.name, "keep": self.kept(), "grace_s": grace_s}
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(grace_s + LEAVE_S):
                await client.run(daskworker.leave, json.dumps(order), workers=[place], on_error="ignore")
                await self.member.has_left(self.name)

    async def clear(self) -> None:
        """Remove from a shared folder what a host that is gone has left there."""
        if self.root and not self.member.address and not self.kept():
            await asyncio.to_thread(shutil.rmtree, self.root, ignore_errors=True)

    def kept(self) -> list[str]:
        """Name the partition folders whose artifacts stay on the host, by what is recorded here or about to be."""
        found = set(self._handed_over)
        for record in read_records(self._job.paths):
            if any(item["location"] == self.member.name for item in record["artifacts"]):
                found.add(f"{record['stage']}/{record['partition']}")
        return sorted(found)

    def handed_over(self, task: Mapping[str, Any], message: Mapping[str, Any]) -> None:
        """Remember a partition that is going to be recorded here, if its artifacts stay on the host."""
        if any("location" in item for item in message["artifacts"]):
            self._handed_over.add(f"{task['stage']}/{task['id']}")
