"""`Fleet`: the Dask workers of all hosts, as long as one connection to a scheduler lasts; it leases nothing.

A service hands a fleet from run to run. Whoever leases to it for now is told
who comes and who goes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from agilab.backends.ssh.member import Access, Member
from agilab.backends.ssh.share import Share
from agilab.errors import AgilabError

AGAIN_S = 10.0
"""How long after a host was lost it is tried again, while others go on [s]."""
FUTILE = 3
"""How often in a row a Dask worker may end without a partition done before its host counts as lost."""
LASTING_S = 60.0
"""One that has lived this long was not futile [s]."""


class Lessee(Protocol):
    """Who leases to the fleet."""

    def match(self) -> None:
        """A Dask worker may have come."""

    def went(self, address: str, why: str) -> None:
        """The Dask worker at an address has gone; the address is empty when it never came."""

    def all_lost(self) -> None:
        """There is no host any more, or none for now."""

    async def clear(self) -> None:
        """Nothing of it runs on any host any more."""

    def finished(self, task: asyncio.Task[None]) -> None:
        """What keeps a Dask worker running has ended."""


class Fleet:
    """The hosts of a cluster.

    Parameters
    ----------
    members
        By name.
    share
        What all of them see.
    scheduler
        How it is reached.
    patient
        Whether it goes on when there is no host left: one may come back.

    Attributes
    ----------
    lost
        Host that is not there -> why.
    lessee
        Who leases to it now.
    """

    def __init__(self, members: Mapping[str, Member], share: Share, *, scheduler: Access, patient: bool) -> None:
        self.members, self.share = members, share
        self.lost: dict[str, str] = {}
        self.lessee: Lessee | None = None
        self._scheduler, self._patient = scheduler, patient
        self._futile = dict.fromkeys(members, 0)
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Start a Dask worker on every host."""
        for member in self.members.values():
            task = asyncio.create_task(self._keep(member))
            task.add_done_callback(self._finished)
            self._tasks.append(task)

    async def end(self) -> None:
        """End them all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(member.end() for member in self.members.values()))
        if self.lessee is not None:
            await self.lessee.clear()

    @property
    def all_lost(self) -> bool:
        """Whether there is no host."""
        return len(self.lost) == len(self.members)

    def worked(self, host: str) -> None:
        """Take note that a partition was done on a host."""
        self._futile[host] = 0

    async def _keep(self, member: Member) -> None:
        """Have a Dask worker on a host, as long as there is a host."""
        while True:
            begun = 0.0
            try:
                await member.join(self._scheduler)
                begun = time.monotonic()
                self.lost.pop(member.name, None)
                if self.lessee is not None:
                    self.lessee.match()  # the scheduler may have heard of it before
                why = f"host {member.name}: {await member.ended()}"
            except AgilabError as err:
                why = str(err)
            address = member.address
            await member.end()
            if self.lessee is not None:
                self.lessee.went(address, why)
            lasted = bool(begun) and time.monotonic() - begun > LASTING_S
            self._futile[member.name] = 1 if lasted else self._futile[member.name] + 1
            if begun and self._futile[member.name] < FUTILE:
                continue
            self.lost[member.name] = why
            if self.all_lost and self.lessee is not None:
                self.lessee.all_lost()
            if self.all_lost and not self._patient:
                return
            await asyncio.sleep(AGAIN_S)

    def _finished(self, task: asyncio.Task[None]) -> None:
        if self.lessee is not None:
            self.lessee.finished(task)
