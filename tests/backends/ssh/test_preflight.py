"""All hosts at once, within ten seconds, each with what stops it and what mends it; nothing is left there."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agilab.backends.ssh import STEPS
from agilab.backends.ssh.hosts import Hosts
from tests.hosts import FAKETIME, SshServer, free_port, introduce, loopback_host, make_key


@pytest.fixture
def crowd(home: Path) -> Iterator[dict[str, SshServer]]:
    """Return hosts with every fault that one can have on loopback, by name."""
    assert FAKETIME is not None, "libfaketime is missing (package faketime)"
    with ExitStack() as stack, socket.socket() as silent:
        fake = home.parent / "bin"
        fake.mkdir()
        (fake / "sh").symlink_to("/bin/sh")
        (fake / "python3").write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.10\nexit 1\n')
        (fake / "python3").chmod(0o755)
        variables = {"skewed": {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "-1h"}, "old": {"PATH": str(fake)}}
        names = ("ready", "unknown", "changed", "skewed", "old", "wrong_key", "wrong_user", "stopped")
        found = {name: stack.enter_context(loopback_host(name, **variables.get(name, {}))) for name in names}
        for name, server in found.items():
            if name == "wrong_user":
                server.user = "nobody-of-this-name"
            introduce(server, trusted=name != "unknown")
        found["changed"].stop()
        make_key(found["changed"].folder / "host_key")
        found["changed"].start()
        found["wrong_key"].folder.joinpath("authorized_keys").write_text("")
        found["stopped"].stop()
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with open(home.parent / ".ssh" / "config", "a") as config:
            config.write(f"Host silent\n  HostName 127.0.0.1\n  Port {silent.getsockname()[1]}\n")
            config.write(f"Host broken\n  HostName 127.0.0.1\n  Port {free_port()}\n  ProxyJump unknown\n")
        (found["ready"].home / ".bashrc").write_text("echo welcome\n")
        yield found


def test_every_fault_has_its_step_and_its_fix_within_ten_seconds(hosts: Hosts, crowd: dict[str, SshServer]) -> None:
    names = [*crowd, "silent", "broken", "no-such-host.invalid", "-v"]
    begun = time.monotonic()
    checks = {item.host: item for item in hosts.preflight(names)}
    assert time.monotonic() - begun < 10
    assert {name: item.step for name, item in checks.items()} == {
        "ready": "",
        "unknown": "host key",
        "changed": "host key",
        "skewed": "",
        "old": "Python",
        "wrong_key": "login",
        "wrong_user": "login",
        "stopped": "connection",
        "silent": "connection",
        "broken": "host key",
        "no-such-host.invalid": "address",
        "-v": "name",
    }
    assert all(item.step in STEPS and item.problem and item.fix for item in checks.values() if not item.ok)
    assert "found Python 3.8.10" in checks["old"].problem
    assert "3600 s behind" in checks["skewed"].warnings[0]
    assert -3602 < checks["skewed"].skew_s <= -3598


def test_a_key_that_was_trusted_as_told_makes_the_host_ready(hosts: Hosts, home: Path) -> None:
    with loopback_host("new") as server:
        introduce(server, trusted=False)
        (check,) = hosts.preflight(["new"])
        subprocess.run(["sh", "-c", check.fix.partition("trust it: ")[2]], check=True)
        assert hosts.preflight(["new"])[0].ok


def test_nothing_is_written_on_a_host(hosts: Hosts, loop_host: SshServer) -> None:
    (check,) = hosts.preflight(["loop"])
    assert check.ok
    assert list(loop_host.home.iterdir()) == []


def test_a_ready_host_says_what_it_has(hosts: Hosts, loop_host: SshServer) -> None:
    (check,) = hosts.preflight(["loop"])
    assert re.fullmatch(r"3\.\d+\.\d+", check.python)
    assert check.platform.startswith("linux-")
    assert check.address == f"{loop_host.user}@127.0.0.1:{loop_host.port}"
    assert check.cores >= 1
    assert abs(check.skew_s) < 1
    assert check.warnings == ()
