"""Takes to one host what partitions read, by digest and only what it lacks; it knows no leases."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agilab.backends.base import Remote
from agilab.backends.ssh import transfer
from agilab.backends.ssh.collect import Collector
from agilab.backends.ssh.share import Share
from agilab.backends.ssh.stay import Stay
from agilab.backends.ssh.transfer import Elsewhere, Parcel
from agilab.errors import HostError

Key = tuple[str, str]
"""sha256 of a file, and its name."""
Place = tuple[str, bool]
"""Path of a file on the host, and whether it is used there as it is: to link it somewhere else would be to copy it."""


class Supply:
    """What one host has of a run's inputs, as long as its Dask worker lives.

    Parameters
    ----------
    stay
        The run on the host.
    sources
        What reads files of the run's hosts, by name: an artifact that has stayed on one is read there.
    share
        What all of them see: files in it stay where they are.
    """

    def __init__(self, stay: Stay, sources: Mapping[str, Collector], share: Share) -> None:
        self._stay, self._member, self._sources, self._share = stay, stay.member, sources, share
        self._there: dict[Key, asyncio.Future[Place]] = {}

    async def bring(self, tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Make sure that the host has what partitions read; return their tasks with the paths of the host.

        Raises
        ------
        HostError
            The link was lost.
        NoSpaceError
            The host's disk is full.
        InstallError
            What arrived is something else: a file has changed meanwhile.
        """
        wanted = {_key(path, sha): self._source(task, name) for task in tasks for name, (path, sha) in _inputs(task)}
        if missing := {key: file for key, file in wanted.items() if key not in self._there}:
            await self._put(missing)
        there = {key: await asyncio.shield(self._there[key]) for key in wanted}
        return [self._task(task, there) for task in tasks]

    def _source(self, task: Mapping[str, Any], name: str) -> Path | Elsewhere | Place:
        """Say where something lies that a partition reads: here, on another host, or on this one."""
        if name not in task.get("away", ()):
            file = Path(task["inputs"][name][0])
            shared = self._share.path(file)
            return (shared, True) if shared else file
        host, path, size_bytes = task["away"][name]
        if host == self._member.name:
            return str(path), bool(self._stay.root)
        if shared := self._share.path(path):
            return shared, True
        if host not in self._sources:
            raise HostError(
                host, "link", f"has {name} and takes no part in this run", "bring it back, or run again without it"
            )
        return Elsewhere(host, Remote(path, size_bytes=size_bytes), self._sources[host].client)

    def _task(self, task: Mapping[str, Any], there: Mapping[Key, Place]) -> dict[str, Any]:
        away = task.get("away", {})
        read = [
            {"name": name, "sha256": sha, "size_bytes": away[name][2] if name in away else os.stat(path).st_size}
            for name, (path, sha) in _inputs(task)
        ]
        inputs = {}
        for name, (path, sha) in _inputs(task):
            place, as_it_is = there[_key(path, sha)]
            inputs[name] = place, "" if as_it_is or self._stay.root else sha
        return {
            **task,
            "inputs": inputs,
            "folder": str(self._stay.paths.attempt(task["id"], task["attempt"])),
            "read": read,
            "files": [],
        }

    def has(self, record: Mapping[str, Any], task: Mapping[str, Any], artifacts: Sequence[Mapping[str, Any]]) -> None:
        """Remember what a partition wrote and the host has still: out of a shared folder it may have been taken."""
        folder = self._stay.paths.partition(task["stage"], task["id"])
        for item, now in zip(record["artifacts"], artifacts, strict=True):
            if "location" in now or not self._stay.root:
                path = str(folder / str(item["path"]).rpartition("/")[2])
                known = self._there[_key(path, item["sha256"])] = asyncio.get_running_loop().create_future()
                known.set_result((path, False))

    async def _put(self, wanted: Mapping[Key, Path | Elsewhere | Place]) -> None:
        """Send files, or see that they are there; whoever wants one of them meanwhile waits for it."""
        loop = asyncio.get_running_loop()
        self._there.update((key, loop.create_future()) for key in wanted)
        parcels = [self._parcel(key, source) for key, source in wanted.items()]
        try:
            done = await transfer.put(self._member.link, parcels, report=self._member.note)
        except BaseException as err:
            for key in wanted:
                waiting = self._there.pop(key)
                waiting.set_exception(err)
                waiting.exception()  # whoever waits gets it; nobody has to
            raise
        for (key, source), (path, _) in zip(wanted.items(), done, strict=True):
            self._there[key].set_result((path, isinstance(source, tuple) and source[1]))

    def _parcel(self, key: Key, source: Path | Elsewhere | Place) -> Parcel:
        sha256, name = key
        if isinstance(source, tuple):
            return Parcel(None, sha256, {"at": source[0]}, name)
        return Parcel(source, sha256, {"run": self._stay.name, "name": name}, name)


def _inputs(task: Mapping[str, Any]) -> Iterable[tuple[str, tuple[str, str]]]:
    """Return name, path here and sha256 of what a partition reads."""
    found: Mapping[str, tuple[str, str]] = task["inputs"]
    return found.items()


def _key(path: str, sha256: str) -> Key:
    """Return what names bytes on a host: a worker reads them by the name that they have here."""
    return sha256, os.path.basename(path)
