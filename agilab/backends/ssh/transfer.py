"""Bytes to a host and back, named by their sha256 and hashed by the side that receives; no byte goes twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from agilab.backends.ssh.link import Link
from agilab.backends.ssh.names import checked_file_name
from agilab.errors import ArtifactNotFoundError, EvidenceError, HostError
from agilab.paths import disk_errors, make_folder
from agilab.uv import Report

BLOCK_BYTES = 1 << 18
"""Size of one SFTP request [bytes]; measured in tests/benchmarks/ssh_transfer.py."""
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes for a host.

    Parameters
    ----------
    file
        Where they are here.
    sha256
        What they must be; the host checks it before anything uses them.
    place
        What the host does with them, as in `onhost.Target`; nothing for the input cache.
    label
        What progress calls them; the file's name by default.
    """

    file: Path
    sha256: str
    place: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "size_bytes": self.file.stat().st_size, **self.place}


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
        The link was lost.
    InstallError
        What arrived is something else.
    NoSpaceError
        The host's disk is full; path, need and free space are named.
    """

    async def send(number: int, to: str) -> None:
        file = parcels[number].file
        report(f"{link.name}: sending {parcels[number].label or file.name} ({file.stat().st_size / 2**20:.1f}MiB)")
        async with sftp(link) as client:
            block = min(BLOCK_BYTES, client.limits.max_write_len or BLOCK_BYTES)
            await client.put(str(file), to, block_size=block)

    request = {"items": [item.to_json() for item in parcels]}
    done = await link.ask("receive", request, report=report, send=send)
    return [(item["path"], item["sent"]) for item in done["items"]]


async def fetch(
    link: Link, folder: str, name: str, *, into: Path, sha256: str = "", client: asyncssh.SFTPClient | None = None
) -> tuple[Path, str]:
    """Copy a file from a host.

    Parameters
    ----------
    link
        The host.
    folder
        A folder there, chosen by us.
    name
        Path of the file in it, which the host may have chosen: checked before anything is written.
    into
        Folder here; the file gets the same name in it, whole or not at all.
    sha256
        What it must be; empty to take what comes.
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
    target = into / checked_file_name(name, host=link.name)
    make_folder(target.parent)
    if not target.parent.resolve().is_relative_to(into.resolve()):
        raise EvidenceError(
            f"host {link.name} names a file {name!r}, whose folder here leads elsewhere; nothing written"
        )
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(target, "writing"):
            async with sftp(link) if client is None else nullcontext(client) as files:
                found = await _copy(link, f"{folder}/{name}", aside, files)
            if sha256 and found != sha256:
                raise EvidenceError(
                    f"host {link.name} sent {folder}/{name} with sha256 {found} instead of {sha256}; it was thrown away"
                )
            os.replace(aside, target)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
    return target, found


async def _copy(link: Link, source: str, aside: Path, client: asyncssh.SFTPClient) -> str:
    """Write a remote file aside, hashing what comes while more is on its way; return its sha256."""
    total = hashlib.sha256()
    with open(aside, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as local:

        def take(block: bytes | str) -> None:
            assert isinstance(block, bytes)
            total.update(block)
            local.write(block)

        try:
            async with client.open(source, "rb", block_size=BLOCK_BYTES) as remote:
                block = await remote.read(_CHUNK_BYTES)
                while block:
                    taking = asyncio.create_task(asyncio.to_thread(take, block))
                    try:
                        block = await remote.read(_CHUNK_BYTES)
                    finally:
                        await taking
        except asyncssh.SFTPNoSuchFile as err:
            raise ArtifactNotFoundError(f"host {link.name} has no file {source}; it may have been cleaned") from err
        except asyncssh.SFTPConnectionLost as err:
            raise HostError(link.name, "link", f"was lost while {source} was fetched", "try again") from err
        except asyncssh.SFTPError as err:
            raise HostError(link.name, "link", f"{source} cannot be read: {err.reason}", "look at it there") from err
    return total.hexdigest()


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
