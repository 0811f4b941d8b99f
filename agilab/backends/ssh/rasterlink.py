"""`RasterLink`, the channel to one host for pictures: deploys what it takes, starts `rasterhost` there, and asks it.

There is one such program on a host for everybody who looks from this process.
It starts when it is first asked, and again when it is asked after it has gone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import asyncssh

from agilab.backends.ssh.deploy import Backplane
from agilab.backends.ssh.link import Link, heartbeat
from agilab.backends.ssh.loop import LoopThread
from agilab.errors import (
    AgilabError,
    ArtifactNotFoundError,
    EvidenceError,
    HostError,
    QueryError,
    SupersededError,
    first_line,
)
from agilab.raster.far import Channel
from agilab.raster.scan import Cancelled
from agilab.raster.wire import MOST_BYTES, Answer, Packed

POLL_S = 0.02
"""How often it is asked whether an answer is still wanted [s]."""
RETRY_S = 5.0
"""How long a host that could not be asked is not tried again [s]; until then that is said at once."""
SILENT_S = 10.0
"""How long the program may say nothing before it counts as lost [s]; it says something every second."""
_LONGEST_HEAD = 1 << 22
_BLOCK_BYTES = 1 << 18
_KINDS: Mapping[str, type[AgilabError]] = {
    kind.__name__: kind for kind in (ArtifactNotFoundError, EvidenceError, QueryError, SupersededError)
}


class RasterLink(Channel):
    """One host.

    Parameters
    ----------
    link
        The host.
    loop
        The thread in which it is spoken to.
    deploy
        Gives the host what the program needs, unless it has it.

    Attributes
    ----------
    received_bytes
        What has come from the host so far [bytes].
    """

    def __init__(self, link: Link, loop: LoopThread, deploy: Callable[[], Awaitable[Backplane]]) -> None:
        self.name = link.name
        self.received_bytes = 0
        self._link, self._loop, self._deploy = link, loop, deploy
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._process: asyncio.Task[asyncssh.SSHClientProcess[bytes]] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._failed: tuple[float, AgilabError] | None = None

    def ask(self, task: str, request: Mapping[str, Any], cancelled: Cancelled) -> Answer:
        asked = self._loop.start(self._ask({"task": task, **request}))
        while True:
            try:
                return asked.result(POLL_S)
            except TimeoutError:
                if cancelled():
                    asked.cancel()
                    raise SupersededError("the picture is not wanted any more") from None

    async def _ask(self, request: Mapping[str, Any]) -> Answer:
        process = await self._started()
        self._number += 1
        number = self._number
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            _write(process, {"id": number, **request})
            return await waiting
        except asyncio.CancelledError:
            _write(process, {"cancel": number})
            raise
        finally:
            self._waiting.pop(number, None)

    async def _started(self) -> asyncssh.SSHClientProcess[bytes]:
        """Return the program, started unless it runs; whoever gives up waiting does not end the start."""
        if self._process is None or (self._process.done() and self._listening is None):
            if self._failed is not None and time.monotonic() - self._failed[0] < RETRY_S:
                raise self._failed[1]
            self._process = asyncio.create_task(self._start())
        return await asyncio.shield(self._process)

    async def _start(self) -> asyncssh.SSHClientProcess[bytes]:
        try:
            there = await self._deploy()
            request = {"python": there.python, "code": there.code}
            process = await self._link.begin("raster", request)
        except AgilabError as err:
            # A host on which it cannot run is as good as one that is not there: what others hold is shown.
            lost = err if isinstance(err, HostError) else HostError(self.name, "link", _own_words(err, self.name))
            self._failed = time.monotonic(), lost
            raise lost from err
        self._listening = asyncio.create_task(self._listen(process))
        return process

    async def _listen(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        """Hand answers to those who wait for them, until the program or the link to it has gone."""
        problem = "was lost while it made a picture"
        try:
            async with heartbeat(process):
                frames = _Frames(process, self)
                while True:
                    async with asyncio.timeout(SILENT_S):
                        head = await frames.head()
                        blocks = [await frames.block(size) for size in _sizes(head)]
                    self._take(head, blocks)
        except (TimeoutError, EOFError, asyncssh.Error, OSError):
            pass
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            problem = f"gave an answer that makes no sense ({first_line(err, 120)})"
        finally:
            process.close()
            self._listening = None
            lost = HostError(self.name, "link", problem, "what others hold is shown")
            if self._waiting:  # else nobody has asked for long, and it has ended by itself
                self._failed = time.monotonic(), lost
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(lost)

    def _take(self, head: Mapping[str, Any], blocks: list[bytes]) -> None:
        waiting = self._waiting.get(head.get("id", 0))
        if waiting is None or waiting.done():
            return
        if "failed" in head:
            kind, message = str(head["failed"]["kind"]), str(head["failed"]["message"])
            waiting.set_exception(_KINDS.get(kind, EvidenceError)(f"host {self.name}: {message:.500}"))
            return
        named = zip(head["arrays"], blocks, strict=True)
        arrays = {str(one["name"]): Packed(str(one["kind"]), tuple(one["shape"]), block) for one, block in named}
        waiting.set_result(Answer(dict(head["done"]), arrays))


class _Frames:
    """Lines and blocks of what a program says, none longer than it may be."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes], counter: RasterLink) -> None:
        self._process, self._counter = process, counter
        self._data = bytearray()

    async def head(self) -> Mapping[str, Any]:
        seen = 0
        while (end := self._data.find(b"\n", seen)) < 0:
            seen = len(self._data)
            if seen > _LONGEST_HEAD:
                raise ValueError(f"a line of more than {_LONGEST_HEAD} bytes")
            await self._more()
        head = json.loads(self._data[:end])
        del self._data[: end + 1]
        if not isinstance(head, dict):
            raise ValueError(f"{head!r:.100}")
        return head

    async def block(self, size: int) -> bytes:
        while len(self._data) < size:
            await self._more()
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    async def _more(self) -> None:
        data = await self._process.stdout.read(_BLOCK_BYTES)
        if not data:
            raise EOFError
        self._counter.received_bytes += len(data)
        self._data += data


def _sizes(head: Mapping[str, Any]) -> list[int]:
    sizes = [one["size_bytes"] for one in head.get("arrays", ())]
    if not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) > MOST_BYTES:
        raise ValueError(f"arrays of {sizes!r:.100} bytes")
    return sizes


def _own_words(err: AgilabError, host: str) -> str:
    return str(err).removeprefix(f"host {host}: ")


def _write(process: asyncssh.SSHClientProcess[bytes], message: Mapping[str, Any]) -> None:
    with suppress(asyncssh.Error, OSError):
        process.stdin.write(json.dumps(message).encode() + b"\n")
