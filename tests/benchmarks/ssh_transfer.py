"""How fast bytes reach a host and come back, against scp in the same run: ``python tests/benchmarks/ssh_transfer.py``.

An sshd of its own on loopback, 500 MB that cannot be compressed, the best of
several rounds that alternate. `put` includes the hash on the host and the
rename; `fetch` includes the hash here. `pass on` goes from a host to a host
through this process, against scp down and up again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import asyncssh

from agilab import digest
from agilab.backends.base import Remote
from agilab.backends.ssh import transfer
from agilab.backends.ssh.connection import Connections
from agilab.backends.ssh.hosts import Hosts
from agilab.backends.ssh.link import Command, Link
from agilab.paths import WenvPaths
from tests.hosts import introduce, loopback_host


def seconds(step: Callable[[], object]) -> float:
    """Return how long a step takes [s]."""
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


async def pass_on(there: Remote) -> None:
    """Stream a file from one host to another through this process, connections included."""
    connections = Connections()
    source, target = Link("loop", connections), Link("other", connections)
    async with transfer.sftp(source) as client:

        async def reader() -> asyncssh.SFTPClient:
            return client

        parcel = transfer.Parcel(transfer.Elsewhere("loop", there, reader), there.sha256)
        await transfer.put(target, [parcel], report=lambda line: None)
    await connections.close()


def main() -> None:
    """Print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=500_000_000, help="bytes to send")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, nargs="*", default=[transfer.BLOCK_BYTES], help="sizes of SFTP requests")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, loopback_host() as server:
        folder = Path(name)
        os.environ["HOME"] = str(folder)
        ssh = introduce(server, replace(server, name="other"))
        data = folder / "data.bin"
        with open(data, "wb") as file:
            for _ in range(given.size // 1_000_000):
                file.write(os.urandom(1_000_000))
        sha256 = digest.of_file(data)
        scp = ["scp", "-q", "-F", ssh / "config", "-o", f"UserKnownHostsFile={ssh / 'known_hosts'}"]
        there = f"{server.home}/copy.bin"
        best: dict[str, float] = {}

        def note(what: str, taken: float) -> None:
            best[what] = min(taken, best.get(what, taken))

        with Hosts(WenvPaths(folder / "wenv")) as hosts:
            hosts.run("loop", Command(("true",), "warm-up"))
            for _ in range(given.rounds):
                note("scp up", seconds(lambda: subprocess.run([*scp, data, f"loop:{there}"], check=True)))
                note("scp down", seconds(lambda: subprocess.run([*scp, f"loop:{there}", folder / "back"], check=True)))
                for block in given.blocks:
                    transfer.BLOCK_BYTES = block
                    hosts.clean("loop")
                    note(f"put {block >> 10} kB", seconds(lambda: hosts.put("loop", data, sha256)))
                    fetch = seconds(lambda: hosts.fetch("loop", str(server.home), "copy.bin", into=folder / "in"))
                    note(f"fetch {block >> 10} kB", fetch)
                    hosts.clean("loop")
                    copy = Remote(there, sha256, data.stat().st_size)
                    note(f"pass on {block >> 10} kB", seconds(lambda copy=copy: asyncio.run(pass_on(copy))))
        for what, taken in best.items():
            against = best["scp down" if "fetch" in what or "down" in what else "scp up"]
            if "pass on" in what:
                against = best["scp down"] + best["scp up"]
            print(f"{what:<14} {given.size / taken / 1e6:7.0f} MB/s   {against / taken:5.2f} x scp")


if __name__ == "__main__":
    main()
