"""`runs` and `tag`: lists, filters, CSV, and what somebody says about a run."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agilab.cli.history import csv_cell
from agilab.paths import HomePaths
from agilab.sidecar import change_tags
from tests.run_folder import MOMENT, RunFolder, sealed_run

Cli = Callable[..., subprocess.CompletedProcess[str]]
MadeRun = Callable[..., dict[str, Any]]


def test_runs_are_listed_newest_first(cli: Cli, made_run: MadeRun) -> None:
    old, new = made_run(), made_run("--how", "raise")
    lines = cli("runs").stdout.splitlines()
    assert lines[0].split() == ["run", "app", "state", "took", "partitions", "request", "started", "(UTC)"]
    assert lines[1].startswith(f"{new['run_id']}  trouble  failed")
    assert lines[2].startswith(f"{old['run_id']}  trouble  succeeded")
    listed = json.loads(cli("runs", "trouble", "--json", "--limit", "1").stdout)
    assert listed["count"] == 2
    assert [run["run_id"] for run in listed["runs"]] == [new["run_id"]]
    assert "... and 1 older; --all lists them" in cli("runs", "--limit", "1").stdout


def test_no_run_yet_says_what_to_do(cli: Cli) -> None:
    done = cli("runs")
    assert (done.returncode, done.stdout) == (
        0,
        "no run yet; `agilab run APP` makes one, `agilab apps` lists the apps\n",
    )
    assert json.loads(cli("runs", "--json").stdout)["runs"] == []


def test_runs_of_an_app_that_is_not_there_is_an_error(cli: Cli) -> None:
    done = cli("runs", "troubel")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("agilab: error: no app project 'troubel'; did you mean 'trouble'?")
    assert cli("runs", "trouble").stdout.startswith("no run yet; `agilab run trouble` makes one")


def test_a_home_of_another_program_has_no_runs_to_list(cli: Cli, home: Path) -> None:
    home.mkdir()
    (home / "notes.txt").touch()
    done = cli("runs")
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds files that are not AGILAB's (notes.txt)" in done.stderr


def test_what_is_asked_for_is_a_column(cli: Cli, home: Path) -> None:
    old, new = sealed_run(home), sealed_run(home, moment=MOMENT + 86400)
    done = cli("runs", "--setting", "sample_s=60", "--metric", "rows>=3", "--sort", "started", "--since", "2023-11-14")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["run", "app", "state", "took", "partitions", "sample_s", "rows", *lines[0].split()[7:]]
    assert [line.split()[:8] for line in lines[1:]] == [
        [paths.run_id, "flights", "succeeded", "5.00", "s", "4/4", "60", "3"] for paths in (old, new)
    ]
    found = json.loads(cli("runs", "--json", "--until", "2023-11-15").stdout)
    assert [run["run_id"] for run in found["runs"]] == [old.run_id]
    assert (found["runs"][0]["settings"]["sample_s"], found["runs"][0]["tags"]) == (60, [])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--metric", "row<3"), "none of 1 runs has a metric 'row'; did you mean 'rows'?"),
        (("--setting", "sample_s"), "'sample_s' is no condition; write NAME OPERATOR VALUE"),
        (("--state", "succeded"), "no state 'succeded'; did you mean 'succeeded'?"),
        (("--since", "soon"), "'soon' is no time; write a date such as"),
        (("--sort", "rows"), "runs cannot be sorted by 'rows'; allowed: started, took"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(cli: Cli, home: Path, words: tuple[str, ...], line: str) -> None:
    sealed_run(home)
    done = cli("runs", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"agilab: error: {line}")
    assert done.stderr.count("\n") == 1


def test_when_no_run_fits_the_list_says_how_many_there_are(cli: Cli, home: Path) -> None:
    sealed_run(home)
    done = cli("runs", "--tag", "best")
    assert (done.returncode, done.stdout) == (0, "no run fits; there is 1 run\n")


def test_csv_holds_no_formula_and_nothing_that_a_terminal_obeys(cli: Cli, home: Path) -> None:
    folder = RunFolder(home)
    folder.request["settings"] |= {"=cmd": "@SUM(A1)", "neg": -3, "text": "-3+2", "red": "\x1b[31m", "many": ["+", 1]}
    folder.commit_all().seal("failed", error="=HYPERLINK(1)")
    change_tags(folder.paths, add=["b", "a"], note="\t=1\nnext")
    sealed_run(home, moment=MOMENT - 1)
    done = cli("runs", "--csv", "--limit", "1")
    assert "left out: 1 more run; --all prints" in done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["error"], row["note"], row["tags"]) == ("'=HYPERLINK(1)", "'\\t=1\\nnext", "a b")
    assert (row["setting.=cmd"], row["setting.neg"], row["setting.text"]) == ("'@SUM(A1)", "-3", "'-3+2")
    assert (row["setting.red"], row["setting.many"]) == ("\\x1b[31m", "'+,1")
    assert (row["metric.rows"], row["state"], row["run_id"]) == ("3.0", "failed", folder.paths.run_id)


@pytest.mark.parametrize("start", "=+-@\t\r")
def test_each_beginning_of_a_formula_is_quoted(start: str) -> None:
    assert str(csv_cell(f"{start}x")).startswith("'")
    assert csv_cell(f"x{start}").startswith("x")  # type: ignore[union-attr, attr-defined]


def test_numbers_stay_numbers() -> None:
    assert [csv_cell(value) for value in (-1.5, 3, None, True)] == [-1.5, 3, None, "true"]


def test_tags_and_note_are_shown_where_the_run_is(cli: Cli, home: Path) -> None:
    paths = sealed_run(home)
    assert cli("tag", "last").stdout == f"run   {paths.run_id}\ntags  none\nnote  none\n"
    cli("tag", "last", "best", "paper", "--note", "red \x1b[31m")
    done = cli("tag", "last", "--remove", "paper", "--json")
    assert json.loads(done.stdout)["tags"] == ["best"]
    shown = cli("show", "last").stdout
    assert "tags         best\n" in shown
    assert "note         red \\x1b[31m\n" in shown
    assert json.loads(cli("show", "last", "--json").stdout)["note"] == "red \x1b[31m"
    listed = cli("runs", "--tag", "best").stdout.splitlines()
    assert listed[0].split()[:6] == ["run", "app", "state", "took", "partitions", "tags"]
    assert cli("verify", paths.root).stdout.startswith("ok")


def test_tags_that_cannot_be_read_break_no_list(cli: Cli, home: Path) -> None:
    paths = sealed_run(home)
    change_tags(paths, add=["x"])
    paths.tags.write_text("{")
    assert paths.run_id in cli("runs").stdout
    assert "tags         unreadable: the tags of run" in cli("show", "last").stdout
    assert cli("tag", "last", "y").returncode == 1


def test_a_list_writes_nothing_into_a_run_folder(cli: Cli, home: Path) -> None:
    paths = sealed_run(home)
    before = sorted(paths.root.rglob("*"))
    cli("runs", "--all", "--state", "succeeded")
    assert sorted(paths.root.rglob("*")) == before
    assert HomePaths(home).index.is_file()
