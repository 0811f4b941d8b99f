"""Passes TCP connections on to another address, each byte a while later; netem is not to be had everywhere.

Started as ``python tests/relay.py ADDRESS PORT DELAY_S``; says the port of
loopback that it listens on, and ends when its standard input does. The delay is
that of each direction, whatever the amount: bytes queue on the way as they do on a long line.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def relayed(address: str, port: int, delay_s: float) -> Iterator[int]:
    """Run a relay; give its port on loopback."""
    command = [sys.executable, __file__, address, str(port), str(delay_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


async def serve(address: str, port: int, delay_s: float) -> None:
    """Relay until standard input ends."""
    loop = asyncio.get_running_loop()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(address, port)
        with suppress(OSError):
            await asyncio.gather(pass_on(reader, there_writer, delay_s), pass_on(there_reader, writer, delay_s))

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)  # with whatever is still on the way


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Copy one direction, late."""
    loop = asyncio.get_running_loop()
    way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def arrive() -> None:
        while True:
            due, data = await way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    arriving = asyncio.create_task(arrive())
    data = b"-"
    while data:
        data = await reader.read(1 << 16)
        way.put_nowait((loop.time() + delay_s, data))
    await arriving


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
