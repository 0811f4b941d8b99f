"""What can be asked of one host over its connection: an operation of `onhost`, or a command that ends with us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from agilab.backends.ssh.connection import Connections, Target
from agilab.backends.ssh.program import NO_PYTHON, command, program
from agilab.errors import AgilabError, HomeError, HostError, InstallError, NoSpaceError, UnreachableIndexError
from agilab.uv import Report

HEARTBEAT_S = 4.0
"""How often a host hears of us while something runs there [s]; `onhost.LOST_S` is several times that."""
_AT_ONCE = 3  # OpenSSH admits ten sessions on a connection: a transfer takes two, and commands need some
_LONGEST_LINE = 1 << 22
_KINDS: Mapping[str, type[AgilabError]] = {
    kind.__name__: kind for kind in (HomeError, InstallError, NoSpaceError, UnreachableIndexError)
}

Send = Callable[[int, str], Awaitable[None]]
"""Copies the bytes of a parcel, by its number, to a path on the host."""
OnLine = Callable[[str, str], None]
"""Receives ``"stdout"`` or ``"stderr"`` and a line."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run on a host.

    Parameters
    ----------
    argv
        Program and arguments; no shell reads them. Everybody on the host can: secrets go into `input`.
    run_id
        The run it belongs to.
    environment
        Variables on top of those that a login gives.
    input
        What it reads from stdin.
    folder
        Where it starts; the root folder by default.
    grace_s
        How long it may take to end when its time has come, before it is killed [s].
    """

    argv: tuple[str, ...]
    run_id: str
    environment: Mapping[str, str] = field(default_factory=dict)
    input: str = ""
    folder: str = ""
    grace_s: float = 5.0

    def to_json(self) -> dict[str, Any]:
        names = ("run_id", "input", "folder", "grace_s")
        return {
            "argv": list(self.argv),
            "environment": dict(self.environment),
            **{name: getattr(self, name) for name in names},
        }


class Link:
    """One host.

    Parameters
    ----------
    name
        As the user calls it.
    connections
        Where its connection comes from, when it is needed and whenever it was lost.
    """

    def __init__(self, name: str, connections: Connections) -> None:
        self.name = name
        self._connections = connections
        self._program = program()
        self._gate = asyncio.Semaphore(_AT_ONCE)

    @property
    def target(self) -> Target:
        """Where the host is; empty until its configuration was read."""
        return self._connections.targets.get(self.name) or Target(self.name)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to it now."""
        return self._connections.has(self.name)

    async def connection(self) -> asyncssh.SSHClientConnection:
        """Connect unless that is done; see `Connections.get`."""
        return await self._connections.get(self.name)

    async def answer(self, line: str) -> tuple[str, str, int | None]:
        """Run a command line that leaves nothing there; return stdout, stderr and exit status."""
        async with self.process(line) as process:
            process.stdin.write_eof()
            done = await process.wait()
            return _text(done.stdout), _text(done.stderr), done.exit_status

    @asynccontextmanager
    async def process(self, line: str) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        """Start a command line in a session of its own, closed in the end."""
        process = await self._session(line)
        try:
            yield process
        finally:
            process.close()

    async def _session(self, line: str) -> asyncssh.SSHClientProcess[bytes]:
        connection = await self.connection()
        try:
            return await connection.create_process(line, encoding=None, request_pty=False)
        except (asyncssh.Error, OSError) as err:
            fix = "its sshd may admit too few: raise MaxSessions there"
            raise HostError(self.name, "link", f"no session could be opened: {err}", fix) from err

    async def ask(
        self,
        operation: str,
        request: Mapping[str, Any],
        *,
        report: Report = lambda line: None,
        send: Send | None = None,
    ) -> dict[str, Any]:
        """Let the host do an operation of `onhost.OPERATIONS`; return its answer.

        Parameters
        ----------
        operation, request
            What is asked.
        report
            Receives progress.
        send
            Copies the bytes of a ``receive`` that the host does not have.

        Raises
        ------
        HostError
            The link was lost, or the host cannot run the program.
        AgilabError
            What the host says, with its name.
        """
        async with self._gate, self.process(command("boot", self._program.digest, operation)) as process:
            await self._begin(process, request)
            async with heartbeat(process):
                while line := await _next_line(process):
                    message = json.loads(line)
                    if "report" in message:
                        report(f"{self.name}: {message['report']}")
                    elif "to" in message:
                        assert send is not None
                        await self._send(process, send(message["number"], message["to"]))
                    elif "failed" in message:
                        failed = message["failed"]
                        raise _KINDS.get(failed["kind"], InstallError)(f"host {self.name}: {failed['message']}")
                    else:
                        done: dict[str, Any] = message["done"]
                        return done
            raise await self._ended_early(process, operation)

    async def _send(self, process: asyncssh.SSHClientProcess[bytes], sending: Awaitable[None]) -> None:
        try:
            await sending
        except asyncssh.SFTPError:  # the host knows why, a full disk as a rule, and says so next
            process.stdin.write(b"failed\n")
        except (asyncssh.Error, OSError) as err:
            if isinstance(err, AgilabError):
                raise
            raise HostError(self.name, "link", f"was lost during a transfer: {err}") from err
        else:
            process.stdin.write(b"sent\n")

    async def start(self, what: Command, on_line: OnLine) -> Running:
        """Run a command on the host; it ends with us, whatever happens.

        Parameters
        ----------
        what
            The command.
        on_line
            Receives its output, in the thread of the event loop.
        """
        process = await self.begin("run", what.to_json())
        return Running(self.name, what, process, on_line)

    async def begin(self, operation: str, request: Mapping[str, Any]) -> asyncssh.SSHClientProcess[bytes]:
        """Let the host do an operation of `onhost.LASTING`; return its session once it has started.

        Parameters
        ----------
        operation, request
            As for `ask`.
        """
        process = await self._session(command("boot", self._program.digest, operation))
        try:
            await self._begin(process, request)
            line = await _next_line(process)
            message = json.loads(line) if line else {}
            if "failed" in message:
                failed = message["failed"]
                raise _KINDS.get(failed["kind"], InstallError)(f"host {self.name}: {failed['message']}")
            if "started" not in message:
                raise await self._ended_early(process, operation)
        except BaseException:
            process.close()
            raise
        return process

    async def _begin(self, process: asyncssh.SSHClientProcess[bytes], request: Mapping[str, Any]) -> None:
        """Get the program to its first line: send it unless the host has it, then the request."""
        said = ""
        while True:
            line = await _next_line(process)
            if not line:
                raise await self._ended_early(process, "start", said=said)
            if not line.startswith('{"status": '):  # what start-up files of its shell print
                said = line
                continue
            message = json.loads(line)
            if message["status"] == "ready":
                break
            if message["status"] == "failed":
                import errno

                text = f"host {self.name}: {message['reason']}: {message['path']}"
                if message["errno"] in (errno.ENOSPC, errno.EDQUOT):
                    need = len(self._program.data)
                    raise NoSpaceError(
                        f"host {self.name}: no space on disk for {message['path']}: {need} bytes needed, "
                        f"{message['free']} free; make room and try again"
                    )
                raise InstallError(f"{text}; make it writable and try again")
            process.stdin.write(b"%d\n" % len(self._program.data) + self._program.data)
        process.stdin.write(json.dumps(request).encode() + b"\n")

    async def _ended_early(
        self, process: asyncssh.SSHClientProcess[bytes], doing: str, *, said: str = ""
    ) -> HostError | InstallError:
        process.stdin.write_eof()
        done = await process.wait()
        if done.exit_status is None:
            return HostError(self.name, "link", f"was lost during {doing!r}", "check the network to it and try again")
        if done.exit_status == NO_PYTHON:
            return no_python(self.name, said)
        words = (_text(done.stderr).strip() or said or "it said nothing").splitlines()[-1]
        return InstallError(f"host {self.name}: {doing!r} ended with exit code {done.exit_status}: {words:.300}")


class Running:
    """A command on a host.

    Parameters
    ----------
    host
        Name of the host.
    what
        The command.
    process
        Its session.
    on_line
        Receives its output.
    """

    def __init__(self, host: str, what: Command, process: asyncssh.SSHClientProcess[bytes], on_line: OnLine) -> None:
        self.host, self._what, self._process = host, what, process
        self._pumps = [
            asyncio.create_task(_pump(process.stdout, lambda line: on_line("stdout", line))),
            asyncio.create_task(_pump(process.stderr, lambda line: on_line("stderr", line))),
        ]
        self._ended = asyncio.create_task(self._watch())

    async def wait(self) -> int:
        """Return its exit code.

        Raises
        ------
        HostError
            The link was lost: whether it did what it should is not known, so the attempt has failed.
        """
        return await asyncio.shield(self._ended)

    def tell(self, name: str) -> None:
        """Send a signal, such as ``"SIGINT"``, to its process group."""
        with suppress(OSError):
            self._process.stdin.write(f"{name}\n".encode())

    async def end(self) -> int:
        """End it, politely at first, with everything that it has started; return its exit code."""
        with suppress(OSError):
            self._process.stdin.write_eof()
        return await self.wait()

    async def _watch(self) -> int:
        try:
            async with heartbeat(self._process):
                await asyncio.gather(*self._pumps)
                await self._process.wait_closed()
        finally:
            for pump in self._pumps:
                pump.cancel()
            self._process.close()
        code = self._process.exit_status
        if code is None or code < 0:  # no status came, since the link was lost or the program was killed
            raise HostError(self.host, "link", "was lost while a command ran", "the attempt has failed")
        return code


def no_python(host: str, said: str) -> HostError:
    """Say that a host has no Python that is new enough; `said` is what ``python3 -V`` answered."""
    found = said.strip() if said.startswith("Python ") else "no python3"
    return HostError(
        host, "Python", f"3.11 or newer is needed, found {found}", "install python3.11 or newer there, in its PATH"
    )


@asynccontextmanager
async def heartbeat(process: asyncssh.SSHClientProcess[bytes]) -> AsyncIterator[None]:
    """Let a program of ours hear that we are there, as long as this is entered."""

    async def beat() -> None:
        with suppress(OSError, asyncssh.Error):
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                process.stdin.write(b"\n")

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


async def _next_line(process: asyncssh.SSHClientProcess[bytes]) -> str:
    """Read a line of stdout; empty when there is none any more."""
    try:
        return (await process.stdout.readuntil(b"\n")).decode(errors="replace")
    except asyncio.IncompleteReadError as err:
        return bytes(err.partial).decode(errors="replace")
    except (asyncssh.Error, OSError):
        return ""


async def _pump(stream: asyncssh.SSHReader[bytes], tell: Callable[[str], None]) -> None:
    """Pass lines on; one that never ends is passed on in pieces."""
    rest = b""
    with suppress(asyncssh.Error, OSError):
        while block := await stream.read(1 << 16):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                tell(line.decode(errors="replace"))
            if len(rest) > _LONGEST_LINE:
                tell(rest.decode(errors="replace"))
                rest = b""
    if rest:
        tell(rest.decode(errors="replace"))


def _text(said: object) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said or "")
