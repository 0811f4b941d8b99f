"""One host of a cluster: the Dask worker that is kept there, and the tunnels between it and the scheduler.

Nothing listens beyond loopback, on either side: the host reaches the
scheduler by a port that its sshd forwards to us, and the scheduler reaches the
Dask worker by a port of ours that leads there. So a firewall, a jump host or a
manager that no host can reach makes no difference.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from agilab.backends.base import Job, on_hosts
from agilab.backends.dask.logs import NAME as NAME_OF_LOG
from agilab.backends.ssh.deploy import Backplane
from agilab.backends.ssh.link import Command, Link, Running
from agilab.errors import HostError
from agilab.package import Installed
from agilab.paths import make_folder
from agilab.reaper import NAME

START_S = 60.0
"""How long a Dask worker may take to start [s]; most of it waiting for one of a lost link to end."""
END_S = 8.0
"""How long it may take to hear that what ran on a host has ended [s]."""
GRACE_S = 2.0
"""How long a Dask worker may take to end after it was told to [s]."""

SIGNALLED = 128
"""Exit code of a command that a signal ended, less the number of the signal."""

_LOOPBACK = "127.0.0.1"


def called(job: Job) -> tuple[str, str]:
    """Return what hosts call a run, and the service that it is a request to; the latter empty for a run alone.

    A service between its runs is called by its own name.
    """
    if job.idle_logs is None:
        return job.paths.run_id, ""
    service = job.environment[NAME].rpartition("-")[0]
    return (service if job.idle_logs == str(job.paths.logs) else job.paths.run_id), service


class Member:
    """The Dask worker of one host.

    Parameters
    ----------
    link
        The host.
    job
        Whose it is: a run, or a service.
    installed, backplane
        What was deployed there.
    note
        Told what is worth a line in the event log.

    Attributes
    ----------
    address
        Where the scheduler reaches it; empty while there is none.
    skew_s
        How far its clock is ahead of ours, negative when behind [s].
    """

    def __init__(
        self,
        link: Link,
        job: Job,
        *,
        installed: Installed,
        backplane: Backplane,
        note: Callable[[str], None],
    ) -> None:
        self.link, self.name, self.installed, self.note = link, link.name, installed, note
        self._job, self._backplane = job, backplane
        hosts: Mapping[str, int] = job.cluster["workers"]
        self.slots = hosts[self.name]
        self._log_names = {f"{name}.log" for name, host in on_hosts(hosts).items() if host == self.name}
        self._log_folders: dict[str, Path] = {}
        self._leaving: dict[str, asyncio.Event] = {}
        self.address = ""
        self.skew_s = 0.0
        self._ready: asyncio.Future[int] = asyncio.Future()
        self._running: Running | None = None
        self._end: asyncio.Task[str] | None = None
        self._server: asyncio.Server | None = None
        self._listener: asyncssh.SSHListener | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._said = self._dismissed = ""

    async def start(self, scheduler: str, keys: Mapping[str, str]) -> None:
        """Start the Dask worker; it tells the scheduler of itself.

        Parameters
        ----------
        scheduler
            Address on this machine.
        keys
            ``ca``, ``cert`` and ``key`` of the cluster, as PEM.

        Raises
        ------
        HostError
            The host is not there, forwards no ports, or the Dask worker does not start.
        AgilabError
            What the host says.
        """
        self._ready = asyncio.get_running_loop().create_future()
        self._said = self._dismissed = ""
        name, _ = called(self._job)
        connection = await self.link.connection()
        try:
            port = int(scheduler.rpartition(":")[2])
            listener = await connection.forward_remote_port(_LOOPBACK, 0, _LOOPBACK, port)
        except (asyncssh.ChannelListenError, asyncssh.Error, OSError) as err:
            raise self._no_port(str(err)) from err
        self._listener = listener
        self._server = await asyncio.start_server(self._relay, _LOOPBACK, 0)
        contact = self._server.sockets[0].getsockname()[1]
        order: dict[str, Any] = {
            "name": name,
            "host": self.name,
            "scheduler": f"tls://{_LOOPBACK}:{listener.get_port()}",
            "contact": f"tls://{_LOOPBACK}:{contact}",
            "threads": self.slots,
            "keys": dict(keys),
        }
        command = Command(
            (self._backplane.python, "-P", "-m", "agilab.backends.ssh.daskworker"),
            name,
            environment={"PYTHONPATH": self._backplane.code},
            input=json.dumps(order),
            grace_s=GRACE_S,
        )
        self._running = await self.link.start(command, self._hear)
        self._end = asyncio.create_task(self._watch(self._running))
        either: set[asyncio.Future[Any]] = {self._end, self._ready}
        await asyncio.wait(either, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            why = f"its Dask worker did not start in {START_S:g} s"
            if self._end.done():
                why = await self._end
            raise HostError(self.name, "link", why, f"{self._job.paths.logs / NAME_OF_LOG} has all it said")
        try:  # the scheduler could not say why it does not get through
            (await connection.open_connection(_LOOPBACK, self._ready.result()))[1].close()
        except (asyncssh.Error, OSError) as err:
            raise self._no_port(str(err)) from err
        self.address = order["contact"]

    def _no_port(self, why: str) -> HostError:
        fix = "its sshd must forward ports for you, both ways: AllowTcpForwarding yes"
        return HostError(self.name, "link", f"a port cannot be forwarded: {why}", fix)

    async def ended(self) -> str:
        """Wait until the Dask worker has ended; say how."""
        assert self._end is not None
        return await asyncio.shield(self._end)

    def dismiss(self, why: str) -> None:
        """Let the Dask worker end, for a reason."""
        self._dismissed = why
        if self._running is not None:
            self._running.tell("SIGTERM")

    async def _watch(self, running: Running) -> str:
        try:
            code = await running.wait()
        except HostError as err:
            return err.problem
        if self._dismissed:
            return self._dismissed
        if code > SIGNALLED:
            return f"its Dask worker was ended by signal {code - SIGNALLED}"
        return f"its Dask worker ended with exit code {code}: {self._said or 'it said nothing'}"

    async def end(self) -> None:
        """End the Dask worker, if there is one, with everything it has started; then the tunnels."""
        self.address = ""
        running, self._running = self._running, None
        if running is not None:
            with suppress(HostError, TimeoutError):
                async with asyncio.timeout(END_S):
                    await running.end()
        if self._end is not None:
            self._end.cancel()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        if self._listener is not None:
            self._listener.close()
        self._server = self._listener = None

    def log_to(self, run: str, folder: Path) -> None:
        """Put what entry processes print for a run into a folder here."""
        self._log_folders[run] = folder
        self._leaving[run] = asyncio.Event()

    async def has_left(self, run: str) -> None:
        """Wait until a run has left, and all that was printed for it is here."""
        await self._leaving[run].wait()
        del self._leaving[run], self._log_folders[run]

    def _hear(self, stream: str, line: str) -> None:
        message: Any = None
        if stream == "stdout":
            with suppress(ValueError):
                message = json.loads(line)
        match message:
            case {"port": int(port)}:
                if not self._ready.done():
                    self._ready.set_result(port)
            case {"left": str(run)} if run in self._leaving:
                self._leaving[run].set()
            case {"run": str(run), "log": str(name), "text": str(text)} if (
                run in self._log_folders and name in self._log_names
            ):
                self._write(self._log_folders[run] / name, text)
            case _:
                self._said = line.strip()[:500] or self._said
                self._write(self._job.paths.logs / NAME_OF_LOG, f"{self.name}: {line}\n")

    def _write(self, file: Path, text: str) -> None:
        make_folder(file.parent)
        with open(file, "a", encoding="utf-8", errors="replace") as log:
            log.write(text)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a connection of the scheduler's to the Dask worker."""
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        try:
            port = await asyncio.shield(self._ready)
            connection = await self.link.connection()
            there = await connection.open_connection(_LOOPBACK, port)
            ways = {
                asyncio.ensure_future(_copy(reader, there[1])),
                asyncio.ensure_future(_copy(there[0], writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                there[1].close()
        except (asyncssh.Error, OSError) as err:
            self._hear("stderr", f"no connection to its Dask worker: {err}")
        finally:
            writer.close()


async def _copy(reader: Any, writer: Any) -> None:
    with suppress(asyncssh.Error, OSError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
