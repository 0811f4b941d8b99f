"""On a host: the Dask worker of a run, which holds the lease runners of all its slots there.

Started as ``python -m agilab.backends.ssh.daskworker`` with one JSON order on
standard input, keys included: they are never on the disk longer than it takes
to load them, in a folder that only their owner can enter. It says on standard
output, line by line, where it listens and what the logs of entry processes
hold. Knows nothing of SSH.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Security, Worker
from distributed.comm.addressing import get_address_host_port
from distributed.versions import VersionMismatchWarning

from agilab.backends.dask import lease
from agilab.backends.dask.host import CONFIG
from agilab.paths import RunPaths, WenvPaths, make_folder
from agilab.records import read_records, record_line

LOCK_S = 45.0
"""How long one of an earlier attempt, whose link was lost, may take to end [s]; it notices after 20 s at most."""
SCRATCH = ".dask"
"""Folder for what Dask puts aside, and for keys while they are loaded."""
LOG_S = 0.25
"""How often logs are looked at [s]."""

_lock = threading.Lock()


class Logs:
    """What entry processes print, told as it comes.

    Parameters
    ----------
    folder
        Where their logs are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: dict[str, int] = {}
        self._turn = threading.Lock()

    def follow(self) -> None:
        """Go on for good."""
        while True:
            time.sleep(LOG_S)
            self.tell()

    def tell(self) -> None:
        """Tell what is new."""
        with self._turn, suppress(FileNotFoundError):
            for path in sorted(self._folder.glob("*.log")):
                with open(path, "rb") as file:
                    file.seek(self._told.get(path.name, 0))
                    while data := file.read(1 << 16):
                        say({"log": path.name, "text": data.decode(errors="replace")})
                    self._told[path.name] = file.tell()


def main() -> int:
    """Serve until told to end."""
    order = json.load(sys.stdin)
    own = RunPaths(make_folder(WenvPaths.chosen().results / order["run"]))
    owner = _own(own)
    paths = RunPaths(make_folder(Path(order["root"]))) if order["root"] else own
    sweep(paths, order["keep"])
    scratch = make_folder(own.root / SCRATCH)
    tempfile.tempdir = str(scratch)
    dask.config.set({**CONFIG, "distributed.admin.log-format": "%(asctime)s - %(name)s - %(levelname)s - %(message)s"})
    warnings.simplefilter("ignore", VersionMismatchWarning)  # it was deployed with the versions that count
    make_folder(paths.staging)
    logs = Logs(paths.logs)
    threading.Thread(target=logs.follow, daemon=True).start()
    try:
        asyncio.run(_serve(order, paths))
    finally:
        logs.tell()
        shutil.rmtree(scratch, ignore_errors=True)
        for root in {own.root, paths.root}:
            if not any(RunPaths(root).artifacts.glob("*/*")):
                shutil.rmtree(root, ignore_errors=True)
        os.close(owner)
    return 0


async def _serve(order: Mapping[str, Any], paths: RunPaths) -> None:
    keys = order["keys"]
    security = Security(
        require_encryption=True,
        tls_ca_file=keys["ca"],
        tls_worker_cert=keys["cert"],
        tls_worker_key=keys["key"],
        tls_client_cert=keys["cert"],
        tls_client_key=keys["key"],
        tls_scheduler_cert=keys["cert"],
        tls_scheduler_key=keys["key"],
    )
    worker = Worker(
        order["scheduler"],
        nthreads=order["threads"],
        name=order["name"],
        host="127.0.0.1",
        protocol="tls",
        contact_address=order["contact"],
        security=security,
        local_directory=tempfile.tempdir,
        memory_limit=0,  # what may grow are entry processes, which have a limit of their own
        silence_logs=logging.WARNING,
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    told = asyncio.ensure_future(_tell_port(worker, paths))  # before the scheduler hears of it and wants to connect
    async with worker:
        await told
        watched = {asyncio.ensure_future(ended.wait()), asyncio.ensure_future(_finished(worker))}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        await lease.end(json.dumps({"run": None, "grace_s": 0.5}), worker)
        for one in watched:
            one.cancel()
        await worker.close(nanny=False, timeout=0.5)


async def _tell_port(worker: Worker, paths: RunPaths) -> None:
    while not worker.listeners:
        await asyncio.sleep(0.002)
    say({"port": get_address_host_port(worker.listeners[0].listen_address)[1], "folder": str(paths.root)})


async def _finished(worker: Worker) -> None:
    await worker.finished()


async def leave(text: str, dask_worker: Worker) -> None:
    """End every runner of a run here, politely at first; remove what need not be kept of it."""
    order = json.loads(text)
    paths = RunPaths(Path(order["folder"]))
    make_folder(paths.staging)
    paths.cancel_request.touch(mode=0o600)  # worker code that still runs may look
    await lease.end(text, dask_worker)
    await asyncio.to_thread(sweep, paths, order["keep"])


def sweep(paths: RunPaths, keep: Collection[str]) -> None:
    """Remove everything of a run but the results that stay here.

    Parameters
    ----------
    paths
        Its folder on this host.
    keep
        Their partitions, as ``<stage>/<partition>``.
    """
    lines: dict[str, list[bytes]] = {}
    with suppress(FileNotFoundError):
        for record in read_records(paths):
            if f"{record['stage']}/{record['partition']}" in keep:
                lines.setdefault(record["worker"], []).append(record_line(record))
    for folder in paths.artifacts.glob("*/*"):
        if f"{folder.parent.name}/{folder.name}" not in keep:
            shutil.rmtree(folder)
    for path in (paths.staging, paths.partitions, paths.root / ".inputs"):
        shutil.rmtree(path, ignore_errors=True)
    for worker, kept in lines.items():
        make_folder(paths.partitions)
        paths.records(worker).write_bytes(b"".join(kept))


def say(message: Mapping[str, Any]) -> None:
    """Tell the manager something."""
    with _lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def _own(paths: RunPaths) -> int:
    """Hold the run's folder here: one of an earlier attempt may still be about to end."""
    fd = os.open(paths.owner, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                sys.exit(f"another process holds {paths.root}; end it on this host")
            time.sleep(0.1)
        else:
            return fd


if __name__ == "__main__":
    sys.exit(main())
