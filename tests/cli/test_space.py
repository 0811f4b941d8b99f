"""`rm` and `clean`: what goes, what stays, and what is said about it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from agilab.owner import hold_owner
from agilab.sidecar import change_tags
from tests.run_folder import MOMENT, RunFolder, sealed_run

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_runs_are_removed_by_id_by_app_and_by_folder(cli: Cli, home: Path) -> None:
    one, two, three = (sealed_run(home, moment=MOMENT + number * 86400) for number in range(3))
    done = cli("rm", one.run_id, two.root, two.run_id[:10])
    assert done.returncode == 0
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        f"removed {paths.run_id} of flights" for paths in (one, two)
    ]
    assert json.loads(cli("rm", "flights/last", "--json").stdout)["removed"][0]["run_id"] == three.run_id
    assert list((home / "runs" / "flights").iterdir()) == []


def test_when_one_is_in_use_or_unknown_none_is_removed(cli: Cli, home: Path, tmp_path: Path) -> None:
    done_run, live = sealed_run(home), RunFolder(home, moment=MOMENT + 1)
    copy = tmp_path / "copies" / "flights" / done_run.run_id
    shutil.copytree(done_run.root, copy)
    with hold_owner(live.paths):
        for name, words in (
            (live.paths.run_id, f"run {live.paths.run_id} is running; wait for it, or cancel it with: agilab cancel"),
            ("2001", "no run '2001'"),
            (copy, f"{copy} is no run of {home}; remove the folder itself with: rm -r"),
        ):
            done = cli("rm", done_run.run_id, name)
            assert done.returncode != 0
            assert done.stdout == ""
            assert words in done.stderr
    assert done_run.request.exists()
    assert live.paths.request.exists()
    assert (copy / "request.json").exists()


def test_clean_says_what_goes_and_why_the_rest_stays(cli: Cli, home: Path) -> None:
    assert cli("run", "trouble", "--parts", "1").returncode == 0
    old = sealed_run(home, app="trouble")
    dry = cli("clean", "--older-than", "30d", "--dry-run")
    assert f"would remove run trouble/{old.run_id}, " in dry.stdout
    assert "would free " in dry.stdout
    assert old.request.exists()
    done = cli("clean", "--older-than", "30d")
    assert f"removed run trouble/{old.run_id}, " in done.stdout
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert lines["runs"].endswith("it is not old enough")
    assert lines["environments"].endswith(" is installed with it")
    assert not old.root.exists()
    assert cli("run", "trouble", "--parts", "1").returncode == 0


def test_clean_of_nothing_says_so(cli: Cli) -> None:
    done = cli("clean", "--keep-last", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("nothing to remove\n")


def test_clean_as_json_gives_every_item_its_reason(cli: Cli, home: Path) -> None:
    paths = sealed_run(home)
    assert cli("new", "other").returncode == 0
    change_tags(paths, note="keep")
    (home / "home.json").write_text('{"schema": "agilab.home/1", "of": "AGILAB_HOME"}')
    found = json.loads(cli("clean", "--keep-last", "0", "--dry-run", "--json").stdout)
    (item,) = (item for item in found["items"] if item["kind"] == "run")
    assert (item["name"], item["kept"]) == (f"flights/{paths.run_id}", "it has tags or a note")
    assert item["size_bytes"] > 0
    assert found["dry_run"] is True


def test_doctor_says_what_each_app_takes(cli: Cli, home: Path) -> None:
    sealed_run(home)
    (home / "home.json").write_text('{"schema": "agilab.home/1", "of": "AGILAB_HOME"}')
    lines = [line for line in cli("doctor").stdout.splitlines() if "disk flights" in line]
    assert len(lines) == 1
    assert "1 run 0." in lines[0]
