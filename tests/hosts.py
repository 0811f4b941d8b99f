"""Real hosts for tests: an sshd on loopback, or several as network namespaces with users, homes and links of their own.

Keys are thrown away, homes are temporary, and nothing is reachable from
outside this machine. Namespaces need root; `why_no_namespaces` says what is
missing. A namespace is called after the process that made it, so that one
left by a killed test run is found and removed by the next.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from agilab.home import claim
from agilab.paths import WenvPaths, make_folder

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
_PREFIX = "agilab"
_START_S = 20.0
_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "/usr/sbin/sshd"


@dataclass
class SshServer:
    """An sshd of ours.

    Parameters
    ----------
    name
        What ssh_config calls the host.
    folder
        Its keys, configuration and log.
    address, port
        Where it listens.
    user, home
        Who may log in, and their home.
    namespace
        The network namespace that is the host; empty on loopback.
    link
        The manager's end of the veth pair.
    options
        Lines of its configuration.
    mounts
        Shell commands that mount what only this host sees, before it starts.
    """

    name: str
    folder: Path
    address: str
    port: int
    user: str
    home: Path
    namespace: str = ""
    link: str = ""
    options: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def client_key(self) -> Path:
        """The private key that it lets in."""
        return self.folder / "id_ed25519"

    @property
    def pid(self) -> int:
        """The process id of its sshd."""
        assert self._process is not None
        return self._process.pid

    @property
    def known_hosts_line(self) -> str:
        """What known_hosts says of it."""
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        return f"{name} {self.folder.joinpath('host_key.pub').read_text().strip()}\n"

    @property
    def log(self) -> str:
        """What sshd said."""
        return self.folder.joinpath("sshd.log").read_text()

    def configure(self) -> None:
        """Make its keys and write its configuration."""
        make_key(self.folder / "host_key")
        make_key(self.client_key)
        shutil.copy(f"{self.client_key}.pub", self.folder / "authorized_keys")
        self.folder.joinpath("authorized_keys").chmod(0o644)

    def start(self) -> None:
        """Start it and wait until it answers."""
        lines = [
            f"Port {self.port}",
            f"ListenAddress {self.address}",
            f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "UseDNS no",
            "Subsystem sftp internal-sftp",
            *self.options,
        ]
        config = self.folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation wants it
        command = [_SSHD, "-D", "-e", "-f", str(config)]
        if self.namespace:
            script = " && ".join([*self.mounts, 'exec "$@"'])
            command = ["ip", "netns", "exec", self.namespace, "sh", "-c", script, "sh", *command]
        with open(self.folder / "sshd.log", "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self.answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, f"sshd does not answer: {self.log}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill it with every session; on a namespace every process there."""
        if self._process is None:
            return
        doomed = self.processes() if self.namespace else descendants(self._process.pid)
        for pid in {self._process.pid, *doomed}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def sessions(self) -> list[int]:
        """List the sshd processes that serve connections."""
        assert self._process is not None
        found = []
        for pid in descendants(self._process.pid):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    found.append(pid)
        return found

    def drop_sessions(self) -> None:
        """Kill the processes that serve connections; sshd itself goes on."""
        for pid in self.sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """List the processes of a namespace."""
        done = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
        return [int(pid) for pid in done.stdout.split()]

    def busy(self) -> list[int]:
        """List the processes of a namespace that are neither its sshd nor sessions of it."""
        found = []
        for pid in self.processes():
            with suppress(OSError):
                if not Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    found.append(pid)
        return found

    def cut(self) -> None:
        """Let the link lose every packet, without a word to either side."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Let packets through again."""
        _ip("-n", self.namespace, "link", "set", "eth0", "up")

    def answers(self) -> bool:
        """Whether it can be reached; just after its link has come up, not yet."""
        with suppress(OSError), socket.create_connection((self.address, self.port), 1) as connection:
            return connection.recv(4) == b"SSH-"
        return False


def make_key(path: Path, *, kind: str = "ed25519") -> None:
    """Make a key pair, anew if there is one."""
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "test", "-f", str(path)], check=True)


def introduce(*servers: SshServer, trusted: bool = True) -> Path:
    """Write ~/.ssh for hosts: config, keys and, when trusted, known_hosts; return the folder."""
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    config = folder / "config"
    entries = "".join(
        f"Host {server.name}\n  HostName {server.address}\n  Port {server.port}\n  User {server.user}\n"
        f"  IdentityFile {server.client_key}\n  IdentitiesOnly yes\n"
        for server in servers
    )  # first, since the first one of a name holds
    config.write_text(entries + (config.read_text() if config.exists() else ""))
    with open(folder / "known_hosts", "a") as known:
        known.writelines(server.known_hosts_line for server in servers if trusted)
    return folder


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """List the processes below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


@contextmanager
def loopback_host(name: str = "loop", **variables: str) -> Iterator[SshServer]:
    """Run an sshd on 127.0.0.1 for this user, with a home of its own."""
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}-host-{os.getpid()}-") as text:
        folder = Path(text)
        home = folder / "home"
        home.mkdir(mode=0o700)
        server = SshServer(name, folder, "127.0.0.1", free_port(), pwd.getpwuid(os.getuid()).pw_name, home)
        variables = {"HOME": str(home), "UV_PYTHON_DOWNLOADS": "never", **variables}
        server.options.append("SetEnv " + " ".join(f"{key}={value}" for key, value in variables.items()))
        server.configure()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def namespace_hosts(
    *names: str, setenv: Mapping[str, str] | None = None, mounts: tuple[str, ...] = (), own_users: bool = True
) -> Iterator[list[SshServer]]:
    """Run hosts as network namespaces, each with a link to us and to nobody else.

    Parameters
    ----------
    names
        What ssh_config calls them; their users are called ``user-<name>``.
    setenv
        Variables that a login gets.
    mounts
        Commands that mount what only they see; ``{home}`` and ``{uid}`` are filled in.
    own_users
        Whether users are others than here; else we are the same on every host, as where folders are shared.
    """
    sweep()
    with ExitStack() as stack:
        servers = []
        for number, name in enumerate(names):
            server = stack.enter_context(_namespace(name, number, mounts))
            variables = dict(setenv or {})
            if not own_users:
                server.user = pwd.getpwuid(os.getuid()).pw_name
                variables["HOME"] = str(server.home)
            if variables:
                server.options.append("SetEnv " + " ".join(f"{key}={value}" for key, value in variables.items()))
            server.start()
            stack.callback(server.stop)
            servers.append(server)
        yield servers


@contextmanager
def warm_hosts(
    *names: str, shared: Path, results: str = "mode=700", mounts: tuple[str, ...] = ()
) -> Iterator[list[SshServer]]:
    """Run hosts as network namespaces that find what any of them was sent, and keep results each on a disk of its own.

    Parameters
    ----------
    names
        What ssh_config calls them.
    shared
        Folder of this test run, where `run_host` of the tests of backend `ssh` deploys too.
    results
        Options of the disk for results, a tmpfs.
    mounts
        As for `namespace_hosts`.
    """
    wenv = WenvPaths(shared / "host_wenv")
    claim(wenv.root, wenv.marker, "AGILAB_WENV")
    make_folder(wenv.results)
    variables = {"AGILAB_WENV": str(wenv.root), "UV_CACHE_DIR": os.environ["UV_CACHE_DIR"]}
    own = f"mount -t tmpfs -o {results} none {wenv.results}"
    with namespace_hosts(*names, setenv=variables, mounts=(own, *mounts), own_users=False) as servers:
        introduce(*servers)
        yield servers


@contextmanager
def _namespace(name: str, number: int, mounts: tuple[str, ...]) -> Iterator[SshServer]:
    pid, uid = os.getpid(), 20001 + number
    namespace, link = f"{_PREFIX}-{pid}-{number}", _link_of(pid, number)
    folder, database = Path(f"/tmp/{namespace}"), Path(f"/etc/netns/{namespace}")
    subnet = 4 * ((pid * 8 + number) % 32768)  # of 198.18.0.0/15, which no network uses: RFC 2544
    ours, theirs = (f"198.{18 + (subnet >> 16)}.{subnet >> 8 & 255}.{(subnet & 255) + last}" for last in (1, 2))
    home = folder / "home"
    try:
        for path in (folder, home, database):
            path.mkdir(parents=True, mode=0o755)
        os.chown(home, uid, uid)
        # `ip netns exec` lays these over those in /etc: each host has users of its own.
        for file, line in (
            ("passwd", f"user-{name}:x:{uid}:{uid}::{home}:/bin/sh"),
            ("group", f"user-{name}:x:{uid}:"),
            ("shadow", f"user-{name}:*:19000:0:99999:7:::"),
        ):
            database.joinpath(file).write_text(f"{Path('/etc', file).read_text().rstrip()}\n{line}\n")
        database.joinpath("resolv.conf").write_text("")
        _ip("netns", "add", namespace)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("addr", "add", f"{ours}/30", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", namespace, "addr", "add", f"{theirs}/30", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        server = SshServer(name, folder, theirs, 22, f"user-{name}", home, namespace, link)
        server.mounts += [line.format(home=home, uid=uid) for line in mounts]
        server.configure()
        yield server
    finally:
        _remove(namespace)


def _link_of(pid: int, number: int) -> str:
    return f"ag{pid % 10**7}n{number}"  # 15 characters at most


def _remove(namespace: str) -> None:
    """Remove a namespace with its processes, link and files; whatever there is of them."""
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    for pid in done.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    link = _link_of(*map(int, namespace.split("-")[1:]))
    subprocess.run(["ip", "link", "delete", link], capture_output=True)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)
    shutil.rmtree(f"/tmp/{namespace}", ignore_errors=True)
    shutil.rmtree(f"/etc/netns/{namespace}", ignore_errors=True)


def sweep() -> None:
    """Remove namespaces of test runs that were killed."""
    names = {path.name for folder in ("/run/netns", "/etc/netns") for path in Path(folder).glob(f"{_PREFIX}-*")}
    for name in names:
        owner = re.fullmatch(rf"{_PREFIX}-(\d+)-\d+", name)
        if owner and not Path("/proc", owner[1]).exists():
            _remove(name)


@cache
def why_no_namespaces() -> str:
    """Say why hosts cannot be network namespaces here; empty when they can."""
    if os.getuid() != 0:
        return "not root"
    if shutil.which("ip") is None:
        return "ip is missing (package iproute2)"
    name = f"{_PREFIX}-{os.getpid()}-9"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    pair = ["ip", "link", "add", _link_of(os.getpid(), 9), "type", "veth", "peer", "name", "eth0", "netns", name]
    linked = subprocess.run(pair, capture_output=True, text=True)
    _remove(name)
    refused = made if made.returncode else linked
    return f"the kernel refuses: {refused.stderr.strip()}" if refused.returncode else ""


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@pytest.fixture
def loop_host(home: Path) -> Iterator[SshServer]:
    """Give the test a host on loopback, known and trusted in the test's HOME."""
    with loopback_host() as server:
        introduce(server)
        yield server
