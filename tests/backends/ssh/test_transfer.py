"""Bytes go once, are hashed by whoever receives them, and are written only where they belong."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from agilab import digest
from agilab.backends.ssh.hosts import Hosts
from agilab.errors import ArtifactNotFoundError, EvidenceError, InstallError
from agilab.paths import WenvPaths
from tests.hosts import SshServer

SIZE = 20_000_000


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, str]:
    """Return a file that takes a moment to send, and its sha256."""
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(SIZE))
    return path, digest.of_file(path)


def cached(server: SshServer) -> list[str]:
    """List what lies in the input cache of a host, locks aside."""
    return sorted(path.name for path in (server.home / "wenv/.data").iterdir() if path.suffix != ".lock")


def test_bytes_go_once(hosts: Hosts, loop_host: SshServer, data: tuple[Path, str], told: list[str]) -> None:
    path, sha256 = data
    there, sent = hosts.put("loop", path, sha256)
    assert (there, sent) == (str(loop_host.home / "wenv" / ".data" / sha256), True)
    assert Path(there).read_bytes() == path.read_bytes()
    assert hosts.put("loop", path, sha256) == (there, False)
    assert told == ["loop: sending data.bin (19.1MiB)"]


def test_two_managers_that_send_the_same_send_it_once(
    hosts: Hosts, loop_host: SshServer, data: tuple[Path, str], home: Path
) -> None:
    path, sha256 = data
    found: list[bool] = []
    with Hosts(WenvPaths(home.parent / "wenv")) as other:
        both = [
            threading.Thread(target=lambda one=one: found.append(one.put("loop", path, sha256)[1]))
            for one in (hosts, other)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert sorted(found) == [False, True]
    assert cached(loop_host) == [sha256]


def test_bytes_that_were_changed_on_the_host_are_sent_again(
    hosts: Hosts, loop_host: SshServer, data: tuple[Path, str]
) -> None:
    path, sha256 = data
    there = Path(hosts.put("loop", path, sha256)[0])
    there.chmod(0o600)
    there.write_bytes(b"forged")
    assert hosts.put("loop", path, sha256) == (str(there), True)
    assert digest.of_file(there) == sha256


def test_what_arrives_different_is_thrown_away(hosts: Hosts, loop_host: SshServer, data: tuple[Path, str]) -> None:
    with pytest.raises(InstallError, match=r"host loop: what came for .* has sha256 .* instead of 0{64}"):
        hosts.put("loop", data[0], "0" * 64)
    assert cached(loop_host) == []


def test_a_file_comes_back_hashed_by_us(
    hosts: Hosts, loop_host: SshServer, data: tuple[Path, str], tmp_path: Path
) -> None:
    path, sha256 = data
    there = Path(hosts.put("loop", path, sha256)[0])
    got, found = hosts.fetch("loop", str(there.parent), there.name, into=tmp_path / "in" / "deep", sha256=sha256)
    assert (got, found) == (tmp_path / "in" / "deep" / sha256, sha256)
    assert got.read_bytes() == path.read_bytes()
    assert got.stat().st_mode & 0o777 == 0o600


def test_a_forged_file_is_thrown_away(hosts: Hosts, loop_host: SshServer, tmp_path: Path) -> None:
    (loop_host.home / "out.json").write_text("forged")
    with pytest.raises(EvidenceError, match=r"host loop sent .*/out.json with sha256 .* instead of 0{64}"):
        hosts.fetch("loop", str(loop_host.home), "out.json", into=tmp_path / "in", sha256="0" * 64)
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("name", ["../out.json", "/etc/hostname", "a/../../out.json", "a\nb"])
def test_a_name_that_leads_elsewhere_writes_nothing(
    hosts: Hosts, loop_host: SshServer, tmp_path: Path, name: str
) -> None:
    with pytest.raises(EvidenceError, match="nothing was written"):
        hosts.fetch("loop", str(loop_host.home), name, into=tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_a_link_here_does_not_lead_a_file_elsewhere(hosts: Hosts, loop_host: SshServer, tmp_path: Path) -> None:
    (loop_host.home / "sub").mkdir()
    (loop_host.home / "sub" / "out.json").write_text("x")
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EvidenceError, match="leads elsewhere"):
        hosts.fetch("loop", str(loop_host.home), "sub/out.json", into=tmp_path / "in")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_that_is_not_there_is_named(hosts: Hosts, loop_host: SshServer, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match=r"host loop has no file .*/gone.json"):
        hosts.fetch("loop", str(loop_host.home), "gone.json", into=tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []
