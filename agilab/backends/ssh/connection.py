"""One connection to each host, as the user's own ssh_config says, to a host key that the user trusts; runs no command.

What is ours and not the user's to change: host keys are always checked, the
agent is never forwarded, nothing is asked for on a terminal, and a link that
is silent for `KEEPALIVE_S` times `KEEPALIVES` + 1 counts as lost.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import asyncssh

from agilab.backends.ssh.names import split_host
from agilab.errors import HostError

KEEPALIVE_S = 4
KEEPALIVES = 3
CONNECT_S = 8.0
"""How long connecting may take, and logging in likewise [s]."""
SSH_PORT = 22
_FIRST_CIPHER = "^aes128-gcm@openssh.com"


@dataclass(slots=True)
class Target:
    """A host as the user's configuration describes it.

    Parameters
    ----------
    name
        As it was asked for.
    host, port, user
        Where the connection goes.
    known_hosts
        Text of the user's known_hosts files.
    known_hosts_file
        The file a new key belongs into.
    shown_key
        The key that the host showed and that was not trusted.
    """

    name: str
    host: str = ""
    port: int = SSH_PORT
    user: str = ""
    known_hosts: bytes = b""
    known_hosts_file: Path = field(default_factory=Path)
    alias: str = ""
    shown_key: asyncssh.SSHKey | None = None

    @property
    def address(self) -> str:
        """User, host and port, for people."""
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != SSH_PORT else "")

    @property
    def known_as(self) -> str:
        """What known_hosts calls it."""
        name = self.alias or self.host
        return name if self.port == SSH_PORT or self.alias else f"[{name}]:{self.port}"


class _Client(asyncssh.SSHClient):
    """Refuses every host key that known_hosts does not hold, and remembers it for the message."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self._target.shown_key = key
        return False


class Connections:
    """Connections by the name of the host, made when first asked for, at most one for each."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[asyncssh.SSHClientConnection]] = {}
        self.targets: dict[str, Target] = {}

    async def get(self, name: str) -> asyncssh.SSHClientConnection:
        """Return the connection to a host, made anew when it was lost.

        Raises
        ------
        HostError
            It cannot be reached, is not trusted, or does not let the user in.
        """
        task = self._tasks.get(name)
        if task is None or (task.done() and not self.has(name)):
            task = self._tasks[name] = asyncio.create_task(self._connect(name))
        return await asyncio.shield(task)

    def has(self, name: str) -> bool:
        """Whether there is a connection to a host now."""
        task = self._tasks.get(name)
        usable = task is not None and task.done() and not task.cancelled() and task.exception() is None
        return usable and task is not None and not task.result().is_closed()

    async def close(self) -> None:
        """Close every connection."""
        for task in self._tasks.values():
            if not task.done():
                task.cancel()
        ended = await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for connection in ended:
            if isinstance(connection, asyncssh.SSHClientConnection):
                connection.abort()
                await connection.wait_closed()

    async def _connect(self, name: str) -> asyncssh.SSHClientConnection:
        target = self.targets[name] = Target(name)
        try:
            options = await _read_configuration(target)
            tunnel = None
            hops = options.tunnel.split(",") if isinstance(options.tunnel, str) else []
            for hop in hops:
                tunnel = await self._hop(hop, tunnel, target)
            return await _open(target, options, tunnel)
        except (OSError, asyncssh.Error, asyncssh.ConfigParseError, ValueError) as err:
            if isinstance(err, HostError):
                raise
            raise explained(err, target) from err

    async def _hop(
        self, hop: str, tunnel: asyncssh.SSHClientConnection | None, behind: Target
    ) -> asyncssh.SSHClientConnection:
        """Connect to a jump host, with the same checks as any host."""
        if tunnel is None and ":" not in hop:
            return await self.get(hop)
        place, _, port = hop.rpartition(":") if ":" in hop else (hop, "", "")
        target = Target(f"{hop} (on the way to {behind.name})")
        try:
            options = await _read_configuration(target, place=place, port=int(port) if port else None)
            connection = await _open(target, options, tunnel)
        except (OSError, asyncssh.Error, ValueError) as err:
            if isinstance(err, HostError):
                raise
            raise explained(err, target) from err
        self._tasks[f"{hop} {behind.name}"] = asyncio.create_task(_value(connection))  # closed with the others
        return connection


async def _value(connection: asyncssh.SSHClientConnection) -> asyncssh.SSHClientConnection:
    return connection


async def _read_configuration(
    target: Target, *, place: str = "", port: int | None = None
) -> asyncssh.SSHClientConnectionOptions:
    """Fill a target from the user's ssh_config and the system's; return what asyncssh makes of them."""
    user, host = split_host(place or target.name)
    files = [path for path in (Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")) if path.is_file()]
    given: dict[str, Any] = {"host": host, "config": files}
    if user:
        given["username"] = user
    if port is not None:
        given["port"] = port
    options: asyncssh.SSHClientConnectionOptions = await asyncssh.SSHClientConnectionOptions.construct(**given)
    target.host, target.port, target.user = options.host, options.port, options.username
    target.alias = options.host_key_alias or ""
    # `UserKnownHostsFile none` or /dev/null would switch checking off or forget: an empty list refuses every key.
    listed = cast("list[str]", options.config.get("UserKnownHostsFile", None) or ["~/.ssh/known_hosts"])
    everywhere = cast("list[str]", options.config.get("GlobalKnownHostsFile", ["/etc/ssh/ssh_known_hosts"]))
    paths = [Path(name).expanduser() for name in [*listed, *everywhere] if name != "none"]
    target.known_hosts_file = paths[0] if paths else Path("~/.ssh/known_hosts").expanduser()
    target.known_hosts = b"\n".join(path.read_bytes() for path in paths if path.is_file())
    return options


async def _open(
    target: Target, options: asyncssh.SSHClientConnectionOptions, tunnel: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    ours: dict[str, Any] = {
        "client_factory": lambda: _Client(target),
        "known_hosts": target.known_hosts,
        "agent_forwarding": False,
        "x11_forwarding": False,
        "password_auth": False,
        "kbdint_auth": False,
        "keepalive_interval": KEEPALIVE_S,
        "keepalive_count_max": KEEPALIVES,
        "connect_timeout": CONNECT_S,
        "login_timeout": CONNECT_S,
    }
    if options.config.get("Ciphers", None) is None:
        ours["encryption_algs"] = _FIRST_CIPHER  # twice as fast here as asyncssh's own first choice
    if tunnel is not None:
        ours["tunnel"] = tunnel
    try:
        try:
            return await asyncssh.connect(target.host, target.port, options=options, **ours)
        except OSError as err:
            if err.errno != errno.EHOSTUNREACH:
                raise
            # The kernel asks its neighbours for 3 s: a link that is down for that long may be back by now (F10).
            return await asyncssh.connect(target.host, target.port, options=options, **ours)
    except (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError):
        if target.shown_key is not None or not _trusted(target):
            raise
        # Either side gives up when it has no key of the kinds we know it by: look at what it has, to say so.
        return await asyncssh.connect(
            target.host, target.port, options=options, **{**ours, "server_host_key_algs": "default"}
        )


# --- what went wrong -----------------------------------------------------------


def explained(error: Exception, target: Target) -> HostError:
    """Say which step failed, why, and what to do about it.

    Parameters
    ----------
    error
        What connecting raised.
    target
        The host.
    """
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return _untrusted(error, target)
        case asyncssh.PermissionDenied():
            return _not_let_in(target)
        case asyncssh.ConfigParseError() | ValueError():
            return HostError(target.name, "configuration", str(error), "correct ~/.ssh/config or known_hosts")
        case socket.gaierror():
            fix = "check the spelling, or give it a HostName in ~/.ssh/config"
            return HostError(target.name, "address", f"no address is known for {target.host!r}", fix)
        case ConnectionRefusedError():
            fix = "start sshd there, or set its Port in ~/.ssh/config"
            return HostError(target.name, "connection", f"nothing listens at {target.host} port {target.port}", fix)
        case TimeoutError():
            fix = "is it up, and does a firewall let you through?"
            return HostError(target.name, "connection", f"{target.address} did not answer in {CONNECT_S:g} s", fix)
        case OSError():
            reason = error.strerror or str(error)
            fix = "check its address and the network between"
            return HostError(target.name, "connection", f"{target.host} cannot be reached: {reason}", fix)
        case asyncssh.ConnectionLost():
            fix = f"look at its sshd log, and try: ssh {by_hand(target)}"
            return HostError(target.name, "connection", f"{target.address} hung up: {error}", fix)
    return HostError(target.name, "connection", str(error) or type(error).__name__, f"try: ssh {by_hand(target)}")


def by_hand(target: Target) -> str:
    """Return the arguments of ssh that reach a host by hand."""
    return shlex.quote(target.name.partition(" ")[0])


def _untrusted(error: asyncssh.HostKeyNotVerifiable, target: Target) -> HostError:
    key = target.shown_key
    if key is None:  # revoked, or a certificate of an authority that is not trusted
        return HostError(target.name, "host key", str(error), f"look at {target.known_hosts_file}")
    print_ = f"{key.get_algorithm()} {key.get_fingerprint()}"
    if _trusted(target):
        file = shlex.quote(str(target.known_hosts_file))
        forget = f"ssh-keygen -f {file} -R {shlex.quote(target.known_as)}"
        return HostError(
            target.name,
            "host key",
            f"CHANGED: {target.known_as} now shows {print_}, which is not the key you trust: "
            "it was installed anew, or somebody stands between",
            f"ask who runs it; only if the new key is right, forget the old one: {forget}",
        )
    line = f"{target.known_as} {key.export_public_key().decode().strip()}"
    file = shlex.quote(str(target.known_hosts_file))
    return HostError(
        target.name,
        "host key",
        f"unknown: {target.known_as} shows {print_}",
        f"compare that with `ssh-keygen -lf` on the host, then trust it: echo {shlex.quote(line)} >> {file}",
    )


def _trusted(target: Target) -> bool:
    """Whether known_hosts holds any key under the very name of a host."""
    try:
        known = asyncssh.import_known_hosts(target.known_hosts.decode(errors="replace"))
    except ValueError:
        return False
    host = target.alias or target.host
    port = None if target.port == SSH_PORT or target.alias else target.port
    keys, authorities, *_ = known.match(host, "", port)
    if port is not None:  # a name without a port stands for every port, which makes nothing of this one known
        plain, plain_authorities, *_ = known.match(host, "", None)
        return bool(keys or authorities) and (set(keys), set(authorities)) != (set(plain), set(plain_authorities))
    return bool(keys or authorities)


def _not_let_in(target: Target) -> HostError:
    agent = "your agent and ~/.ssh" if os.environ.get("SSH_AUTH_SOCK") else "~/.ssh (no agent is running)"
    port = f" -p {target.port}" if target.port != SSH_PORT else ""
    return HostError(
        target.name,
        "login",
        f"{target.host} does not let user {target.user!r} in with the keys of {agent}",
        f"set User and IdentityFile in ~/.ssh/config, or put your key there: "
        f"ssh-copy-id{port} {shlex.quote(f'{target.user}@{target.host}')}",
    )
