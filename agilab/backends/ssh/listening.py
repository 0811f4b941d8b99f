"""A process of Dask on a host: started over SSH, told on stdin what it needs, ended with us; it says where it listens.

What it listens on is a port of the host's loopback. Knows neither leases nor
runs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from agilab.backends.base import Job
from agilab.backends.dask.logs import NAME as NAME_OF_LOG
from agilab.backends.ssh.deploy import Backplane
from agilab.backends.ssh.link import Command, Link, Running
from agilab.errors import HostError
from agilab.paths import make_folder
from agilab.reaper import NAME

START_S = 60.0
"""How long it may take to start [s]."""
END_S = 8.0
"""How long it may take to hear that what ran on a host has ended [s]."""
GRACE_S = 2.0
"""How long it may take to end after it was told to [s]."""

SIGNALLED = 128
"""Exit code of a command that a signal ended, less the number of the signal."""
LOOPBACK = "127.0.0.1"


def called(job: Job) -> tuple[str, str]:
    """Return what hosts call a run, and the service that it is a request to; the latter empty for a run alone.

    A service between its runs is called by its own name.
    """
    if job.idle_logs is None:
        return job.paths.run_id, ""
    service = job.environment[NAME].rpartition("-")[0]
    return (service if job.idle_logs == str(job.paths.logs) else job.paths.run_id), service


class Listening:
    """A process of Dask on a host.

    Parameters
    ----------
    link
        The host.
    job
        Whose it is: a run, or a service.
    backplane
        What was deployed there.
    what
        What people call it.
    """

    def __init__(self, link: Link, job: Job, *, backplane: Backplane, what: str) -> None:
        self.link, self.backplane, self._job, self._what = link, backplane, job, what
        self._port: asyncio.Future[int] = asyncio.Future()
        self._running: Running | None = None
        self._end: asyncio.Task[str] | None = None
        self._said = self._dismissed = ""

    async def start(self, module: str, order: Mapping[str, Any]) -> int:
        """Start it; return its port, once it has said that.

        Parameters
        ----------
        module
            Its main module.
        order
            What it reads from stdin, as JSON.

        Raises
        ------
        HostError
            The host is not there, forwards no ports, or the process does not start.
        AgilabError
            What the host says.
        """
        self._port = asyncio.get_running_loop().create_future()
        self._said = self._dismissed = ""
        command = Command(
            (self.backplane.python, "-P", "-m", module),
            called(self._job)[0],
            environment={"PYTHONPATH": self.backplane.code},
            input=json.dumps(order),
            grace_s=GRACE_S,
        )
        self._running = await self.link.start(command, self._hear)
        self._end = asyncio.create_task(self._watch(self._running))
        either: set[asyncio.Future[Any]] = {self._end, self._port}
        await asyncio.wait(either, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._port.done():
            why = f"its {self._what} did not start in {START_S:g} s"
            if self._end.done():
                why = await self._end
            raise HostError(self.link.name, "link", why, f"{self._job.paths.logs / NAME_OF_LOG} has all it said")
        try:  # whoever has to reach it could not say why it does not get through
            (await self.open())[1].close()
        except (asyncssh.Error, OSError) as err:
            raise no_port(self.link, str(err)) from err
        return self._port.result()

    async def open(self) -> tuple[Any, Any]:
        """Connect to its port; return reader and writer."""
        port = await asyncio.shield(self._port)
        return await (await self.link.connection()).open_connection(LOOPBACK, port)

    async def ended(self) -> str:
        """Wait until it has ended; say how."""
        assert self._end is not None
        return await asyncio.shield(self._end)

    def dismiss(self, why: str) -> None:
        """Let it end, for a reason."""
        self._dismissed = why
        if self._running is not None:
            self._running.tell("SIGTERM")

    async def end(self) -> None:
        """End it, if it is there, with everything it has started."""
        running, self._running = self._running, None
        if running is not None:
            with suppress(HostError, TimeoutError):
                async with asyncio.timeout(END_S):
                    await running.end()
        if self._end is not None:
            self._end.cancel()

    def understand(self, message: Any) -> bool:
        """Take in what it says besides its port; False when that is a line for the log."""
        return False

    def log(self, line: str) -> None:
        """Write a line to the log of the cluster."""
        write(self._job.paths.logs / NAME_OF_LOG, f"{self.link.name}: {line}\n")

    async def _watch(self, running: Running) -> str:
        try:
            code = await running.wait()
        except HostError as err:
            return err.problem
        if self._dismissed:
            return self._dismissed
        if code > SIGNALLED:
            return f"its {self._what} was ended by signal {code - SIGNALLED}"
        return f"its {self._what} ended with exit code {code}: {self._said or 'it said nothing'}"

    def _hear(self, stream: str, line: str) -> None:
        message: Any = None
        if stream == "stdout":
            with suppress(ValueError):
                message = json.loads(line)
        match message:
            case {"port": int(port)}:
                if not self._port.done():
                    self._port.set_result(port)
            case _ if not self.understand(message):
                self._said = line.strip()[:500] or self._said
                self.log(line)


def no_port(link: Link, why: str) -> HostError:
    """Say that a host forwards no ports."""
    fix = "its sshd must forward ports for you, both ways: AllowTcpForwarding yes"
    return HostError(link.name, "link", f"a port cannot be forwarded: {why}", fix)


def write(file: Path, text: str) -> None:
    """Append to a log."""
    make_folder(file.parent)
    with open(file, "a", encoding="utf-8", errors="replace") as log:
        log.write(text)
