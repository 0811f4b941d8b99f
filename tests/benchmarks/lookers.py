"""Many sessions that cost next to nothing themselves: ``python -m tests.benchmarks.lookers URL COOKIE COUNT``.

Each asks for the page, speaks Bokeh's protocol as far as a browser has to, and
then counts what it is sent: nothing is parsed, and no model is made. A line on
standard output says when all of them look; when standard input ends, one line
of JSON says how many patches and bytes a second each was sent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import struct
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

READY = {"type": "event", "name": "document_ready", "values": {"type": "map"}}
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
PATCH, CHILDREN = b'"PATCH-DOC"', b'"attr":"children"'
AT_ONCE = 4
"""How many come at a time; the others wait until a page stands."""


@dataclass
class Looker:
    """One session.

    Parameters
    ----------
    url
        Of the page, with its query.
    cookie
        What the server is to be sent.
    """

    url: str
    cookie: str
    patches: int = 0
    sent_bytes: int = 0

    async def arrive(self) -> None:
        """Open the page, and wait until it has been filled."""
        parts = urlsplit(self.url)
        assert parts.hostname
        asked = f"GET /?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {self.cookie}\r\n"
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"{asked}Connection: close\r\n\r\n".encode())
        token = re.search(rb'"token":"([^"]+)"', await reader.read())
        writer.close()
        assert token, "the page holds no session"
        key = base64.b64encode(os.urandom(16)).decode()
        self.reader, self.writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        lines = [
            f"GET /ws HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {self.cookie}\r\nOrigin: http://{parts.netloc}",
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}",
            f"Sec-WebSocket-Protocol: bokeh, {token[1].decode()}\r\n\r\n",
        ]
        self.writer.write("\r\n".join(lines).encode())
        answer = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in answer, answer
        for _ in range(3):  # ACK: before it nothing may be sent
            await self.receive()
        self.ask(1, "PULL-DOC-REQ", {})
        self.ask(2, "PATCH-DOC", {"events": [{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": READY}]})
        while CHILDREN not in await self.receive():
            pass

    def ask(self, number: int, kind: str, content: object) -> None:
        """Send one message of Bokeh's: header, metadata, content."""
        for part in ({"msgid": str(number), "msgtype": kind}, {}, content):
            self.send(TEXT, json.dumps(part).encode())

    def send(self, kind: int, data: bytes) -> None:
        """Send one frame; its mask is zero, so that nothing has to be masked."""
        length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack("!BH", 0x80 | 126, len(data))
        self.writer.write(bytes([0x80 | kind]) + length + bytes(4) + data)

    async def receive(self) -> bytes:
        """Return the next message that the server sends."""
        while True:
            first, length = await self.reader.readexactly(2)
            if length >= 126:
                size = await self.reader.readexactly(2 if length == 126 else 8)
                length = int.from_bytes(size, "big")
            data = await self.reader.readexactly(length)
            kind = first & 0x0F
            assert kind != CLOSE, f"the server closed a session: {data!r}"
            if kind == PING:
                self.send(PONG, data)
                continue
            self.patches += data.startswith(b'{"msgid"') and PATCH in data
            self.sent_bytes += length
            return data

    async def look(self) -> None:
        """Count until somebody cancels it."""
        while True:
            await self.receive()


async def main() -> None:
    """Let everybody arrive, and look until standard input ends."""
    url, cookie, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    lookers = [Looker(url, cookie) for _ in range(count)]
    few = asyncio.Semaphore(AT_ONCE)
    looking: list[asyncio.Task[None]] = []

    async def arrive(looker: Looker) -> None:
        async with few:
            await looker.arrive()
        looking.append(asyncio.create_task(looker.look()))

    await asyncio.gather(*map(arrive, lookers))
    for looker in lookers:
        looker.patches = looker.sent_bytes = 0
    begin = time.monotonic()
    print("all look", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    over = [task for task in looking if task.done()]
    assert not over, [task.exception() for task in over]
    seconds = time.monotonic() - begin
    print(json.dumps([[one.patches / seconds, one.sent_bytes / seconds] for one in lookers]), flush=True)
    for task in looking:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
