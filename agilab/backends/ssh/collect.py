"""Brings what partitions wrote on a host to the manager, which hashes what it receives; decides what is brought."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import asyncssh

from agilab.artifact import matches
from agilab.backends.base import Remote
from agilab.backends.ssh import transfer
from agilab.backends.ssh.link import Link
from agilab.backends.ssh.names import checked_file_name
from agilab.paths import RunPaths, make_folder

AT_ONCE = 8
"""How many files of a host are on their way at the same time."""


async def bring(link: Link, folder: str, files: Sequence[Remote], *, into: Path) -> None:
    """Copy files of a run from a host; see `agilab.backends.base.Keeper.bring`."""
    collector = Collector(link)
    try:
        await asyncio.gather(*(collector.fetch(folder, file, into=into) for file in files))
    finally:
        await collector.close()


class Collector:
    """The artifacts of one host.

    Parameters
    ----------
    link
        The host.
    wanted
        Which of them come here: ``"all"``, ``"none"`` or a pattern; see `agilab.artifact.matches`.
    shared
        Whether they lie in a folder that we see too.
    """

    def __init__(self, link: Link, wanted: str = "all", *, shared: bool = False) -> None:
        self._link, self._wanted, self._shared = link, wanted, shared
        self._room = asyncio.Semaphore(AT_ONCE)
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._client: tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient] | None = None

    async def collect(
        self, record: Mapping[str, Any], task: Mapping[str, Any], there: RunPaths
    ) -> list[dict[str, Any]]:
        """Put the artifacts of a partition into the folder of its attempt here.

        Parameters
        ----------
        record
            As the host has committed it.
        task
            What it was told to do, with the folder here.
        there
            The run's folder on the host.

        Returns
        -------
        list of dict
            ``name``, ``kind``, ``path`` and ``size_bytes`` of each, as `agilab.entry` says them; with ``location`` and
            ``sha256`` where it stayed.

        Raises
        ------
        EvidenceError
            What came is not what was recorded.
        HostError
            The link was lost.
        NoSpaceError
            The disk here is full.
        """
        into = make_folder(Path(task["folder"]))
        source = str(there.partition(task["stage"], task["id"]))
        found = []
        for item in record["artifacts"]:
            name = str(item["path"]).rpartition("/")[2]
            one = {"name": item["name"], "kind": item["kind"], "path": name, "size_bytes": item["size_bytes"]}
            if not matches(self._wanted, f"{task['stage']}/{task['id']}/{item['name']}"):
                one |= {"location": self._link.name, "sha256": item["sha256"]}
            found.append((item, one))
        coming = [
            Remote(one["path"], item["sha256"], one["size_bytes"]) for item, one in found if "location" not in one
        ]
        await asyncio.gather(*(self._take(source, file, into=into) for file in coming))
        return [one for _, one in found]

    async def close(self) -> None:
        """Close its session."""
        await self._stack.aclose()

    async def _take(self, folder: str, file: Remote, *, into: Path) -> None:
        """Take a file: by renaming it where we see it and its filesystem is ours too, else over the link."""
        name = checked_file_name(file.path, host=self._link.name)
        if self._shared:
            with suppress(OSError):
                await asyncio.to_thread(os.rename, f"{folder}/{name}", into / name)
                return
        await self.fetch(folder, file, into=into)

    async def fetch(self, folder: str, file: Remote, *, into: Path) -> None:
        """Copy a file here; a few at a time."""
        async with self._room:
            await transfer.fetch(self._link, folder, file, into=into, client=await self.client())

    async def client(self) -> asyncssh.SFTPClient:
        """Return one session for all files, opened anew when the connection is another one."""
        async with self._opening:
            connection = await self._link.connection()
            if self._client is None or self._client[0] is not connection:
                await self._stack.aclose()
                self._client = connection, await self._stack.enter_async_context(transfer.sftp(self._link))
            return self._client[1]
