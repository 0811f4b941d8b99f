"""`fetch`, and what other commands say of a run whose artifacts lie on hosts."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import pytest

from agilab import AgiEnv
from agilab.backends.local import LocalBackend
from agilab.paths import RunPaths
from tests.run_folder import RunFolder
from tests.test_fetching import Folders

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def paths(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    """Return a run that has left four of its seven artifacts on host alpha, which can be reached."""
    env = AgiEnv()
    env.prepare()
    folder = RunFolder(env.home.root)
    folder.away = frozenset({"points", "totals"})
    monkeypatch.setattr(LocalBackend, "keeper", lambda *_: Folders().reach())
    return folder.commit_all().seal()


def test_every_command_about_a_run_names_the_host_and_what_to_do(cli: Cli, paths: RunPaths) -> None:
    hint = f"4 artifacts on host alpha; to bring here: agilab fetch {paths.run_id}\n"
    shown = cli("show", "last").stdout
    assert re.search(
        rf"artifacts +7 files, .* B; 4 of them on alpha\n(.*\n)*next +agilab fetch {paths.run_id}\n", shown
    )
    listed = cli("show", "last", "--artifacts").stdout
    assert listed.splitlines()[1].split()[-2:] == ["alpha", "artifacts/tracks/p0/points.txt"]
    assert listed.endswith(hint)
    verified = cli("verify", "last")
    assert verified.returncode == 0
    assert verified.stdout.splitlines()[0] == f"elsewhere: {hint.strip()}"
    assert len(json.loads(cli("verify", "last", "--json").stdout)["elsewhere"]) == 4


def test_fetch_says_what_came_and_what_is_left(cli: Cli, paths: RunPaths) -> None:
    done = cli("fetch", "last", "tracks/*")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"fetched 3 artifacts, 780 B: {paths.run_id}",
        f"  folder  {paths.root}",
        f"1 artifact on host alpha; to bring here: agilab fetch {paths.run_id}",
    ]
    found = json.loads(cli("fetch", paths.root, "--json").stdout)
    assert (found["schema"], found["run_id"], found["elsewhere"]) == ("agilab.cli.fetch/1", paths.run_id, [])
    assert [item["name"] for item in found["artifacts"]] == ["totals"]
    assert cli("fetch", "last").stdout == f"nothing to fetch: what was asked for is in {paths.root}\n"
    assert cli("verify", "last").stdout.splitlines()[1] == "2 earlier seals in seals/ held against it too"


def test_a_fetch_that_cannot_be_done_is_one_line(cli: Cli, paths: RunPaths) -> None:
    done = cli("fetch", "last", "tracks/p9/*")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"agilab: error: no artifact of run {paths.run_id} matches 'tracks/p9/*'; ")
    assert done.stderr.count("\n") == 1


def test_removing_a_run_says_what_stays_on_hosts(cli: Cli, paths: RunPaths) -> None:
    done = cli("rm", "last")
    assert done.stdout.splitlines()[1] == (
        "what it left on host alpha is there still; to remove all results: agilab cluster clean --results alpha"
    )
    assert not paths.root.exists()
