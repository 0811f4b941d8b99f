"""Hosts from the shell: what stops each, what mends it, and how what was deployed goes away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess

import pytest

from tests.hosts import SshServer, introduce, loopback_host

Cli = Callable[..., CompletedProcess[str]]


@pytest.fixture
def loop(cli: Cli) -> Iterator[SshServer]:
    """Return a host on loopback that is trusted in the HOME of the command line."""
    with loopback_host() as server:
        introduce(server)
        yield server


def test_a_ready_host_is_a_line_of_a_table(cli: Cli, loop: SshServer) -> None:
    done = cli("doctor", "--hosts", "loop")
    assert done.returncode == 0
    head, row, empty, last = done.stdout.splitlines()
    assert head.split() == [
        "host",
        "address",
        "state",
        "Python",
        "uv",
        "platform",
        "cores",
        "memory",
        "devices",
        "free",
        "clock",
    ]
    assert row.split()[:3] == ["loop", f"{loop.user}@127.0.0.1:{loop.port}", "ready"]
    assert (empty, last) == ("", "1 host ready")


def test_a_host_that_is_not_ready_comes_with_its_fix(cli: Cli, loop: SshServer) -> None:
    done = cli("doctor", "--hosts", "loop", "bad;name", "loop")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[4].startswith("FAIL  bad;name: name: not a name a host can have")
    assert lines[5].startswith("      fix: write [user@]host")
    assert done.stderr == "agilab: error: 1 host not ready: bad;name\n"


def test_hosts_are_one_document_too(cli: Cli, loop: SshServer) -> None:
    done = cli("doctor", "--hosts", "--json", "loop", "bad;name")
    said = json.loads(done.stdout)
    assert (said["schema"], said["ok"], done.returncode) == ("agilab.cli.doctor/1", False, 1)
    assert [(item["host"], item["ok"], item["step"]) for item in said["hosts"]] == [
        ("loop", True, ""),
        ("bad;name", False, "name"),
    ]


@pytest.mark.parametrize("words", [("--hosts",), ("loop",)])
def test_names_and_flag_belong_together(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli("doctor", *words)
    assert done.returncode == 2
    assert "agilab doctor --hosts alpha beta" in done.stderr


def test_cleaning_says_what_it_removed_and_what_it_kept(cli: Cli, loop: SshServer) -> None:
    wenv = loop.home / "wenv"
    (wenv / ".runs" / "20261126-191454-4f2d").mkdir(parents=True)
    (wenv / "wenv.json").write_text('{"schema": "agilab.home/1", "of": "AGILAB_WENV"}')
    (wenv / "demo_worker").mkdir()
    done = cli("cluster", "clean", "loop")
    first, second, third = done.stdout.splitlines()
    assert first.endswith(f" removed from {wenv}")
    assert second == "results of 1 run kept: 20261126-191454-4f2d"
    assert not (wenv / "demo_worker").exists()
    done = cli(*third.partition("agilab ")[2].split(), "--json")
    said = json.loads(done.stdout)
    assert (said["schema"], said["kept"]) == ("agilab.cli.cluster.clean/1", [])
    assert not wenv.exists()


def test_a_host_that_cannot_be_cleaned_is_an_error_of_one_line(cli: Cli) -> None:
    done = cli("cluster", "clean", "--", "-v")
    assert done.returncode == 1
    assert done.stderr.startswith("agilab: error: host -v: name: ")
