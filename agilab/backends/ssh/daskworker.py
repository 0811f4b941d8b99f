"""On a host: the Dask worker of a run or a service, which holds the lease runners of all its slots there.

Started as ``python -m agilab.backends.ssh.daskworker`` with one JSON order on
standard input, keys included: they are never on the disk longer than it takes
to load them, in a folder that only their owner can enter. It says on standard
output, line by line, where it listens and what the logs of entry processes
hold. Runs come (`enter`) and go (`leave`) while it serves. Knows nothing of SSH.
"""

from __future__ import annotations

import asyncio
import errno
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
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Security, Worker
from distributed.comm.addressing import get_address_host_port
from distributed.versions import VersionMismatchWarning

from agilab.backends.dask import lease
from agilab.backends.dask.host import CONFIG
from agilab.backends.ssh.onhost import ELSEWHERE, INPUTS
from agilab.paths import RunPaths, WenvPaths, make_folder, write_file
from agilab.reaper import start_time
from agilab.records import read_records, record_line

LOCK_S = 45.0
"""How long one of an earlier attempt, whose link was lost, may take to end [s]; it notices after 20 s at most."""
LOG_S = 0.25
"""How often logs are looked at [s]."""

_STAYS = "agilab_stays"
_lock = threading.Lock()


class Stay:
    """A run on this host: its folder, held against everybody else; what its entry processes print is told as it comes.

    Parameters
    ----------
    order
        ``run``, what it is called here; ``root``, where it works, empty for a folder of this host; ``keep``, the
        partitions whose artifacts stay, as ``<stage>/<partition>``: everything else that it left before goes.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.run: str = order["run"]
        self._own = RunPaths(make_folder(WenvPaths.chosen().results / self.run))
        self._owner = _own(self._own)
        self.paths = self._own
        if order["root"]:
            write_file(self._own.root / ELSEWHERE, order["root"].encode(), durable=False)
            self.paths = RunPaths(make_folder(Path(order["root"])))
        sweep(self.paths, order["keep"])
        make_folder(self.paths.staging)
        self._told: dict[str, int] = {}
        self._turn = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    def leave(self) -> None:
        """Tell the last of the logs; leave nothing but artifacts that stay."""
        self._over.set()
        self._tell()
        stays = any(self.paths.artifacts.glob("*/*"))
        for folder in (self._own.root / INPUTS,) if stays else {self._own.root, self.paths.root}:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(self._owner)

    def _follow(self) -> None:
        while not self._over.wait(LOG_S):
            self._tell()

    def _tell(self) -> None:
        """Tell what is new in the logs."""
        with self._turn, suppress(FileNotFoundError):
            for path in sorted(self.paths.logs.glob("*.log")):
                with open(path, "rb") as file:
                    file.seek(self._told.get(path.name, 0))
                    while data := file.read(1 << 16):
                        say({"run": self.run, "log": path.name, "text": data.decode(errors="replace")})
                    self._told[path.name] = file.tell()


def main() -> int:
    """Serve until told to end."""
    order = json.load(sys.stdin)
    with settled(order["name"]):
        asyncio.run(_serve(order))
    return 0


@contextmanager
def settled(name: str) -> Iterator[None]:
    """Configure Dask, with a folder for what it puts aside, and for keys while they are loaded; those of the killed go.

    Parameters
    ----------
    name
        What the run or the service is called here that this process is for.
    """
    tmp, mine = make_folder(WenvPaths.chosen().tmp), f".dask-{name}-{os.uname().nodename}"
    for left in tmp.glob(f"{mine}.*.tmp"):
        if not start_time(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True)
    scratch = make_folder(tmp / f"{mine}.{os.getpid()}.tmp")
    tempfile.tempdir = str(scratch)
    dask.config.set({**CONFIG, "distributed.admin.log-format": "%(asctime)s - %(name)s - %(levelname)s - %(message)s"})
    warnings.simplefilter("ignore", VersionMismatchWarning)  # it was deployed with the versions that count
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def security(keys: Mapping[str, str]) -> Security:
    """Return what both ends of every connection of a cluster present, from ``ca``, ``cert`` and ``key`` as PEM."""
    roles = ("worker", "client", "scheduler")
    return Security(
        require_encryption=True,
        tls_ca_file=keys["ca"],
        **{f"tls_{role}_cert": keys["cert"] for role in roles},
        **{f"tls_{role}_key": keys["key"] for role in roles},
    )


async def _serve(order: Mapping[str, Any]) -> None:
    worker = Worker(
        order["scheduler"],
        nthreads=order["threads"],
        name=order["host"],
        host="127.0.0.1",
        protocol="tls",
        contact_address=order["contact"],
        security=security(order["keys"]),
        local_directory=tempfile.tempdir,
        memory_limit=0,  # what may grow are entry processes, which have a limit of their own
        silence_logs=logging.WARNING,
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    told = asyncio.ensure_future(_tell_port(worker))  # before the scheduler hears of it and wants to connect
    async with worker:
        await told
        watched = {asyncio.ensure_future(ended.wait()), asyncio.ensure_future(_finished(worker))}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        await lease.end(json.dumps({"run": None, "grace_s": 0.5}), worker)
        for one in watched:
            one.cancel()
        for stay in _stays(worker).values():
            await asyncio.to_thread(stay.leave)
        await worker.close(nanny=False, timeout=0.5)


async def _tell_port(worker: Worker) -> None:
    while not worker.listeners:
        await asyncio.sleep(0.002)
    say({"port": get_address_host_port(worker.listeners[0].listen_address)[1]})


async def _finished(worker: Worker) -> None:
    await worker.finished()


async def enter(text: str, dask_worker: Worker) -> str:
    """Let a run begin here; return its folder and that of its service, or why it cannot.

    Parameters
    ----------
    text
        As JSON: ``run``, ``root`` and ``keep``, see `Stay`; ``service``, what the service is called here that it is a
        request to, or empty.
    dask_worker
        This one.
    """
    order, stays = json.loads(text), _stays(dask_worker)
    folders = {}
    for place, one in (("service", {"run": order["service"], "root": "", "keep": []}), ("run", order)):
        if one["run"] and one["run"] not in stays:
            try:
                stays[one["run"]] = await asyncio.to_thread(Stay, one)
            except OSError as err:
                return json.dumps({"error": f"{err.filename or 'its folder'}: {err.strerror or err}"})
        folders[place] = str(stays[one["run"]].paths.root) if one["run"] else ""
    return json.dumps(folders)


async def leave(text: str, dask_worker: Worker) -> None:
    """End every runner of a run here, politely at first; remove what need not be kept of it.

    Parameters
    ----------
    text
        As JSON: ``run`` and ``grace_s``, as for `lease.end`; ``stay``, what the run is called here; ``keep``, see
        `Stay`.
    dask_worker
        This one.
    """
    order = json.loads(text)
    stay = _stays(dask_worker).pop(order["stay"], None)
    if stay is not None:
        make_folder(stay.paths.staging)
        stay.paths.cancel_request.touch(mode=0o600)  # worker code that still runs may look
    await lease.end(text, dask_worker)
    if stay is not None:
        await asyncio.to_thread(sweep, stay.paths, order["keep"])
        await asyncio.to_thread(stay.leave)
        say({"left": stay.run})


def _stays(worker: Worker) -> dict[str, Stay]:
    """Return the runs that are on this host, by name; they last as long as a Dask worker."""
    found: dict[str, Stay] = worker.__dict__.setdefault(_STAYS, {})
    return found


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
    for path in (paths.staging, paths.partitions, paths.root / INPUTS):
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
                os.close(fd)
                raise OSError(errno.EBUSY, "another process holds it; end that on this host", str(paths.root)) from None
            time.sleep(0.1)
        else:
            return fd


if __name__ == "__main__":
    from agilab.backends.ssh import daskworker  # what Dask calls must not be another copy of this module

    sys.exit(daskworker.main())
