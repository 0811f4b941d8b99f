"""One host of a cluster: the Dask worker that is kept there, and the tunnels between it and the scheduler.

Nothing listens beyond loopback, on any side: the host reaches the scheduler
by a port that its sshd forwards to us, and the scheduler reaches the Dask
worker by a port of ours that leads there. So a firewall, a jump host or a
manager that no host can reach makes no difference. Where the scheduler is on a
host too, what they say to each other passes through us all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from agilab.backends.base import Job, on_hosts
from agilab.backends.ssh.deploy import Backplane
from agilab.backends.ssh.link import Link
from agilab.backends.ssh.listening import LOOPBACK, Listening, called, no_port, write
from agilab.package import Installed


@dataclass(frozen=True, slots=True)
class Access:
    """How a scheduler is reached.

    Parameters
    ----------
    port
        On the loopback of this machine.
    keys
        ``ca``, ``cert`` and ``key`` of the cluster, as PEM.
    link
        The host that it is on; None for this machine.
    """

    port: int
    keys: Mapping[str, str]
    link: Link | None = None


class Member(Listening):
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
        super().__init__(link, job, backplane=backplane, what="Dask worker")
        self.name, self.installed, self.note = link.name, installed, note
        hosts: Mapping[str, int] = job.cluster["workers"]
        self.slots = hosts[self.name]
        self._log_names = {f"{name}.log" for name, host in on_hosts(hosts).items() if host == self.name}
        self._log_folders: dict[str, Path] = {}
        self._leaving: dict[str, asyncio.Event] = {}
        self.address = ""
        self.skew_s = 0.0
        self._server: asyncio.Server | None = None
        self._listeners: list[asyncssh.SSHListener] = []
        self._relays: set[asyncio.Task[None]] = set()

    async def join(self, scheduler: Access) -> None:
        """Start the Dask worker; it tells the scheduler of itself.

        Raises
        ------
        HostError
            The host is not there, forwards no ports, or the Dask worker does not start.
        AgilabError
            What the host says.
        """
        there = await self._forward(self.link, scheduler.port)
        self._server = await asyncio.start_server(self._relay, LOOPBACK, 0)
        contact: int = self._server.sockets[0].getsockname()[1]
        if scheduler.link is not None:
            contact = await self._forward(scheduler.link, contact)
        order = {
            "name": called(self._job)[0],
            "host": self.name,
            "scheduler": f"tls://{LOOPBACK}:{there}",
            "contact": f"tls://{LOOPBACK}:{contact}",
            "threads": self.slots,
            "keys": dict(scheduler.keys),
        }
        await self.start("agilab.backends.ssh.daskworker", order)
        self.address = str(order["contact"])

    async def end(self) -> None:
        """End the Dask worker, if there is one, with everything it has started; then the tunnels."""
        self.address = ""
        await super().end()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for listener in self._listeners:
            listener.close()
        self._server, self._listeners = None, []

    def log_to(self, run: str, folder: Path) -> None:
        """Put what entry processes print for a run into a folder here, and no more for those before it."""
        own = called(self._job)[0]
        self._log_folders = {name: its for name, its in self._log_folders.items() if name == own} | {run: folder}
        self._leaving = {run: asyncio.Event()}

    async def has_left(self, run: str) -> None:
        """Wait until a run has left, and all that was printed for it is here."""
        await self._leaving[run].wait()
        self._log_folders.pop(run)

    def understand(self, message: Any) -> bool:
        match message:
            case {"left": str(run)} if run in self._leaving:
                self._leaving[run].set()
            case {"run": str(run), "log": str(name), "text": str(text)} if (
                run in self._log_folders and name in self._log_names
            ):
                write(self._log_folders[run] / name, text)
            case _:
                return False
        return True

    async def _forward(self, link: Link, port: int) -> int:
        """Let a host's sshd forward a port of its loopback to one of ours; return the former."""
        connection = await link.connection()
        try:
            listener = await connection.forward_remote_port(LOOPBACK, 0, LOOPBACK, port)
        except (asyncssh.ChannelListenError, asyncssh.Error, OSError) as err:
            raise no_port(link, str(err)) from err
        self._listeners.append(listener)
        return listener.get_port()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a connection of the scheduler's to the Dask worker."""
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        try:
            there = await self.open()
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
            self.log(f"no connection to its Dask worker: {err}")
        finally:
            writer.close()


async def _copy(reader: Any, writer: Any) -> None:
    with suppress(asyncssh.Error, OSError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
