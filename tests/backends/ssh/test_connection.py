"""The user's ssh_config decides where a connection goes; whom to trust is never left to it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from agilab.backends.ssh.connection import Connections, Target, explained
from agilab.backends.ssh.hosts import Hosts
from agilab.backends.ssh.link import Command
from agilab.errors import HostError
from tests.hosts import SshServer, introduce, loopback_host, make_key


def say(hosts: Hosts, host: str, text: str = 'echo "$HOME"') -> str:
    """Return what a shell on a host answers."""
    return hosts.run(host, Command(("sh", "-c", text), "run")).stdout.strip()


def config_of(home: Path) -> Path:
    """Return the user's ssh_config."""
    return home.parent / ".ssh" / "config"


def test_a_host_has_one_connection_for_everything(hosts: Hosts, loop_host: SshServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: say(hosts, "loop"), range(4))) == {str(loop_host.home)}
    assert loop_host.log.count("Accepted publickey") == 1


def test_a_lost_connection_is_made_anew(hosts: Hosts, loop_host: SshServer, wait_for: Callable[..., object]) -> None:
    say(hosts, "loop")
    loop_host.drop_sessions()

    def answered() -> str:
        with suppress(HostError):  # until the loss was noticed
            return say(hosts, "loop")
        return ""

    assert wait_for(answered, 10) == str(loop_host.home)
    assert loop_host.log.count("Accepted publickey") == 2


def test_an_unknown_key_is_refused_with_a_command_that_trusts_it(hosts: Hosts, home: Path) -> None:
    with loopback_host() as server:
        introduce(server, trusted=False)
        with pytest.raises(HostError, match=r"unknown: .* shows ssh-ed25519 SHA256:") as caught:
            say(hosts, "loop")
        assert caught.value.step == "host key"
        printed = subprocess.run(
            ["ssh-keygen", "-lf", server.folder / "host_key.pub"], capture_output=True, text=True, check=True
        )
        assert printed.stdout.split()[1] in str(caught.value)
        subprocess.run(["sh", "-c", caught.value.fix.partition("trust it: ")[2]], check=True)
        assert say(hosts, "loop") == str(server.home)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_changed_key_is_refused_whatever_its_kind(hosts: Hosts, loop_host: SshServer, kind: str) -> None:
    loop_host.stop()
    make_key(loop_host.folder / "host_key", kind=kind)
    loop_host.start()
    with pytest.raises(HostError, match="CHANGED: ") as caught:
        say(hosts, "loop")
    assert caught.value.step == "host key"
    assert "not the key you trust" in caught.value.problem
    subprocess.run(["sh", "-c", caught.value.fix.partition("old one: ")[2]], check=True, capture_output=True)
    with pytest.raises(HostError, match="unknown: "):
        say(hosts, "loop")


@pytest.mark.parametrize(
    "option", ["UserKnownHostsFile none", "UserKnownHostsFile /dev/null", "StrictHostKeyChecking no"]
)
def test_no_option_of_ssh_config_switches_the_check_off(hosts: Hosts, home: Path, option: str) -> None:
    with loopback_host() as server:
        introduce(server, trusted=False)
        with open(config_of(home), "a") as file:
            file.write(f"Host *\n  {option}\n")
        with pytest.raises(HostError, match="unknown: "):
            say(hosts, "loop")


def test_a_key_known_for_another_port_makes_no_key_of_this_one_changed(hosts: Hosts, home: Path) -> None:
    with loopback_host() as server:
        introduce(server, trusted=False)
        make_key(server.folder / "other")
        config_of(home).with_name("known_hosts").write_text(
            f"127.0.0.1 {server.folder.joinpath('other.pub').read_text()}"
        )
        with pytest.raises(HostError, match="unknown: "):
            say(hosts, "loop")


def test_a_revoked_key_is_refused(hosts: Hosts, loop_host: SshServer, home: Path) -> None:
    config_of(home).with_name("known_hosts").write_text(f"@revoked {loop_host.known_hosts_line}")
    with pytest.raises(HostError, match="revoked"):
        say(hosts, "loop")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run an agent."""
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(SSH_\w+)=([^;]+);", said))
    monkeypatch.setenv("SSH_AUTH_SOCK", found["SSH_AUTH_SOCK"])
    yield
    os.kill(int(found["SSH_AGENT_PID"]), 15)


def test_the_agent_is_never_forwarded(hosts: Hosts, loop_host: SshServer, home: Path, agent: None) -> None:
    with open(config_of(home), "a") as file:
        file.write("Host *\n  ForwardAgent yes\n")
    # `run` drops what sshd says about the session, so that is asked for in another way.
    stdout, _, _ = hosts._loop.run(hosts._link("loop").answer("env"))
    assert "SSH_CONNECTION" in stdout
    assert "SSH_AUTH_SOCK" not in stdout


def test_a_key_of_the_agent_lets_in(hosts: Hosts, loop_host: SshServer, home: Path, agent: None) -> None:
    subprocess.run(["ssh-add", "-q", loop_host.client_key], check=True)
    loop_host.client_key.unlink()
    text = config_of(home).read_text()
    config_of(home).write_text("".join(line for line in text.splitlines(True) if "Identit" not in line))
    assert say(hosts, "loop") == str(loop_host.home)


def test_a_jump_host_is_checked_like_any_other(hosts: Hosts, loop_host: SshServer, home: Path) -> None:
    with loopback_host("inner") as inner:
        introduce(inner)
        with open(config_of(home), "a") as file:
            file.write("Host inner\n  ProxyJump loop\n")
        assert say(hosts, "inner") == str(inner.home)
        assert "Accepted publickey" in loop_host.log
        config_of(home).with_name("known_hosts").write_text(inner.known_hosts_line)
    with loopback_host("outer") as outer:
        introduce(outer)
        with open(config_of(home), "a") as file:
            file.write(f"Host outer\n  ProxyJump root@127.0.0.1:{loop_host.port}\n")
        with pytest.raises(
            HostError, match=rf"host root@127\.0\.0\.1:{loop_host.port} \(on the way to outer\): host key"
        ):
            say(hosts, "outer")


def test_a_configuration_that_cannot_be_read_is_named(hosts: Hosts, loop_host: SshServer, home: Path) -> None:
    with open(config_of(home), "a") as file:
        file.write("Host *\n  Port many\n")
    config_of(home).write_text(config_of(home).read_text().replace(f"  Port {loop_host.port}\n", ""))
    with pytest.raises(HostError, match=r"correct ~/\.ssh/config") as caught:
        say(hosts, "loop")
    assert caught.value.step == "configuration"


def test_every_failure_of_a_connection_comes_with_a_step_and_a_fix() -> None:
    for error in (TimeoutError(), ConnectionRefusedError(), OSError(113, "No route to host"), RuntimeError("odd")):
        found = explained(error, Target("h", host="h", user="u"))
        assert (found.step, bool(found.fix)) == ("connection", True)


def test_nothing_is_connected_before_it_is_asked_for() -> None:
    assert not Connections().has("h")
