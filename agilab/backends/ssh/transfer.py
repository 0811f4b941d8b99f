"""Bytes to a host and back, named by their sha256 and hashed by the side that receives; no byte goes twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncssh

from agilab.backends.base import Remote
from agilab.backends.ssh.link import Link
from agilab.backends.ssh.names import checked_file_name
from agilab.errors import ArtifactNotFoundError, EvidenceError, HostError
from agilab.paths import disk_errors, make_folder
from agilab.uv import Report

BLOCK_BYTES = 1 << 18
"""Size of one SFTP request [bytes]; measured in tests/benchmarks/ssh_transfer.py."""
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Bytes on another host, which pass through here and are not kept.

    Parameters
    ----------
    host
        Its name.
    file
        Where they are there, and how many.
    client
        Gives what reads them.
    """

    host: str
    file: Remote
    client: Callable[[], Awaitable[asyncssh.SFTPClient]]


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes for a host.

    Parameters
    ----------
    file
        Where they are, here or on another host; None when the host must have them already, which it sees to.
    sha256
        What they must be; the host checks it before anything uses them.
    place
        What the host does with them, as in `onhost.Target`; nothing for the input cache.
    label
        What progress calls them; the file's name by default.
    """

    file: Path | Elsewhere | None
    sha256: str
    place: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def size_bytes(self) -> int:
        """How many there are [bytes]."""
        if self.file is None:
            return 0
        return self.file.stat().st_size if isinstance(self.file, Path) else self.file.file.size_bytes

    @property
    def name(self) -> str:
        """What progress calls them."""
        return self.label or (self.file.name if isinstance(self.file, Path) else "a file")

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "size_bytes": self.size_bytes, **self.place}


async def put(link: Link, parcels: Sequence[Parcel], *, report: Report) -> list[tuple[str, bool]]:
    """Give a host bytes that it does not have yet.

    Parameters
    ----------
    link
        The host.
    parcels
        The bytes.
    report
        Receives progress.

    Returns
    -------
    list of tuple
        Path on the host, and whether the bytes were sent.

    Raises
    ------
    HostError
        A link was lost.
    InstallError
        What arrived is something else.
    ArtifactNotFoundError
        The other host does not have it any more.
    NoSpaceError
        The host's disk is full; path, need and free space are named.
    """

    async def send(number: int, to: str) -> None:
        parcel, file = parcels[number], parcels[number].file
        report(f"{link.name}: sending {parcel.name} ({parcel.size_bytes / 2**20:.1f}MiB)")
        async with sftp(link) as client:
            block = min(BLOCK_BYTES, client.limits.max_write_len or BLOCK_BYTES)
            if isinstance(file, Path):
                await client.put(str(file), to, block_size=block)
                return
            assert file is not None  # a host does not ask for what it must have
            async with client.open(to, "wb", block_size=block) as there:
                await _stream(file.host, file.file, await file.client(), there.write)

    request = {"items": [item.to_json() for item in parcels]}
    done = await link.ask("receive", request, report=report, send=send)
    return [(item["path"], item["sent"]) for item in done["items"]]


async def fetch(
    link: Link, folder: str, file: Remote, *, into: Path, client: asyncssh.SFTPClient | None = None
) -> tuple[Path, str]:
    """Copy a file from a host.

    Parameters
    ----------
    link
        The host.
    folder
        A folder there, chosen by us.
    file
        Which; the host may have chosen its path, which is checked before anything is written.
    into
        Folder here; the file gets the same name in it, whole or not at all.
    client
        What it is read with; None for one of its own.

    Returns
    -------
    tuple
        Path here, and the sha256 of what came.

    Raises
    ------
    EvidenceError
        The name is a trick, or the bytes are not those that were promised.
    ArtifactNotFoundError
        The host has no such file.
    HostError
        The link was lost.
    NoSpaceError
        This disk is full.
    """
    name = file.path
    target = into / checked_file_name(name, host=link.name)
    make_folder(target.parent)
    if not target.parent.resolve().is_relative_to(into.resolve()):
        raise EvidenceError(
            f"host {link.name} names a file {name!r}, whose folder here leads elsewhere; nothing written"
        )
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(target, "writing"):
            source = replace(file, path=f"{folder}/{name}")
            async with sftp(link) if client is None else nullcontext(client) as files:
                found = await _copy(link.name, source, aside, files)
            if file.sha256 and found != file.sha256:
                raise EvidenceError(
                    f"host {link.name} sent {folder}/{name} with sha256 {found} instead of {file.sha256}; "
                    "it was thrown away"
                )
            os.replace(aside, target)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
    return target, found


async def _copy(host: str, source: Remote, aside: Path, client: asyncssh.SFTPClient) -> str:
    """Write a remote file aside, hashing what comes while more is on its way; return its sha256."""
    total = hashlib.sha256()
    with open(aside, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as local:

        def take(block: bytes) -> None:
            total.update(block)
            local.write(block)

        await _stream(host, source, client, lambda block: asyncio.to_thread(take, block))
    return total.hexdigest()


async def _stream(
    host: str, source: Remote, client: asyncssh.SFTPClient, take: Callable[[Any], Awaitable[object]]
) -> None:
    """Read a file of a host and have each piece taken while the next one is on its way.

    Raises
    ------
    EvidenceError
        It is longer than it may be.
    ArtifactNotFoundError
        The host has no such file.
    HostError
        The link was lost.
    """
    left = source.size_bytes
    try:
        remote = await client.open(source.path, "rb", block_size=BLOCK_BYTES)
        block = await remote.read(_CHUNK_BYTES)
    except (asyncssh.Error, OSError) as err:
        raise _said(host, source.path, err) from err
    try:
        while block:
            left -= len(block)
            if source.size_bytes >= 0 > left:
                raise EvidenceError(
                    f"host {host} sent {source.path} with more than {source.size_bytes} bytes; it was thrown away"
                )
            taking = asyncio.ensure_future(take(block))
            try:
                block = await remote.read(_CHUNK_BYTES)
            except (asyncssh.Error, OSError) as err:
                raise _said(host, source.path, err) from err
            finally:
                await taking
    finally:
        with suppress(asyncssh.Error, OSError):
            await remote.close()


def _said(host: str, path: str, error: Exception) -> ArtifactNotFoundError | HostError:
    """Say why a file of a host cannot be read."""
    if isinstance(error, asyncssh.SFTPNoSuchFile):
        return ArtifactNotFoundError(f"host {host} has no file {path}; it may have been cleaned")
    if isinstance(error, asyncssh.SFTPError) and not isinstance(error, asyncssh.SFTPConnectionLost):
        return HostError(host, "link", f"{path} cannot be read: {error.reason}", "look at it there")
    return HostError(host, "link", f"was lost while {path} was fetched", "try again")


@asynccontextmanager
async def sftp(link: Link) -> AsyncIterator[asyncssh.SFTPClient]:
    """Open a client for the files of a host, in a session of its own; HostError when that cannot be."""
    try:
        client = await (await link.connection()).start_sftp_client()
    except (asyncssh.Error, OSError) as err:
        if isinstance(err, HostError):
            raise
        raise HostError(link.name, "link", f"SFTP does not start: {err}", "enable Subsystem sftp in its sshd") from err
    async with client:
        yield client
