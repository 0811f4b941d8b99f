"""On a host: the scheduler of a cluster, where the user wants it on a named one.

Started as ``python -m agilab.backends.ssh.daskscheduler`` with one JSON order
on standard input, as `daskworker` is; it says on standard output where it
listens. Knows nothing of SSH.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from typing import Any

from distributed import Scheduler

from agilab.backends.ssh.daskworker import say, security, settled


def main() -> int:
    """Serve until told to end."""
    order = json.load(sys.stdin)
    with settled(order["name"]):
        asyncio.run(_serve(order))
    return 0


async def _serve(order: Mapping[str, Any]) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    made = Scheduler(
        host="127.0.0.1",
        port=0,
        protocol="tls",
        security=security(order["keys"]),
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    )
    async with made as scheduler:
        say({"port": scheduler.port})
        await ended.wait()


if __name__ == "__main__":
    sys.exit(main())
