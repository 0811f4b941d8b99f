"""`show`, `logs` and `debug`: what is told about runs, also damaged ones."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agilab.cli.logs import EventLines

Cli = Callable[..., subprocess.CompletedProcess[str]]
MadeRun = Callable[..., dict[str, Any]]


def test_show_says_what_ran(cli: Cli, made_run: MadeRun) -> None:
    run = made_run("--parts", "2")
    text = cli("show", "last").stdout
    for words in (
        f"run          {run['run_id']}",
        "app          trouble 0.1.0",
        "state        succeeded",
        f"request      sha256 {run['request_digest'][:16]}",
        f"reproduce    agilab run --request {run['folder']}/request.json ",
        "parts        2  (caller)",
        "sleep_s      0.0  (default)",
        "limit        none  (default)",
        "json         x  (default)",
        "work   2 of 2 committed",
        "total  1 of 1 committed",
        "done  2",
    ):
        assert words in text
    assert json.loads(cli("show", run["run_id"], "--json").stdout)["manifest"]["run_id"] == run["run_id"]


def test_a_run_is_found_by_the_head_of_its_id_by_its_app_and_by_its_folder(cli: Cli, made_run: MadeRun) -> None:
    run = made_run()
    for name in (run["run_id"][:12], "last", "trouble/last", run["folder"]):
        assert json.loads(cli("show", name, "--json").stdout)["run_id"] == run["run_id"]


@pytest.mark.parametrize(("name", "line"), [("2001", "no run '2001'"), ("./nowhere", "is not a run folder")])
def test_a_run_that_is_not_there_is_named(cli: Cli, made_run: MadeRun, name: str, line: str) -> None:
    made_run()
    done = cli("show", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr


def test_show_of_a_failed_run_ends_with_the_reason(cli: Cli, made_run: MadeRun) -> None:
    run = made_run("--how", "raise")
    done = cli("show", "last")
    assert done.returncode == 0
    assert "ValueError: wrong \\x1b[31mred\\x1b[0m" in done.stdout
    assert f"agilab debug {run['run_id']} p1" in done.stdout


def test_show_of_a_failed_run_lists_the_stages_that_it_did_not_reach(cli: Cli, made_run: MadeRun) -> None:
    made_run("--how", "raise", "--parts", "2")
    lines = cli("show", "last").stdout.splitlines()
    assert any(line.startswith("  work   ") and line.endswith(" of 2 committed, failed") for line in lines)
    assert "  total  not started" in lines


def test_show_lists_metrics_of_partitions(cli: Cli, made_run: MadeRun) -> None:
    made_run("--parts", "2")
    lines = cli("show", "last", "--metrics").stdout.splitlines()
    assert lines[0].split() == ["partition", "metric", "values", "last"]
    assert sorted(line.split() for line in lines[1:]) == [["p0", "done", "1", "1"], ["p1", "done", "1", "1"]]
    listed = json.loads(cli("show", "last", "--metrics", "--json").stdout)["metric_list"]
    assert {"partition": "p0", "metric": "done", "values": 1, "last": 1} in listed


def test_the_command_that_reproduces_a_run_works_from_any_folder(cli: Cli, made_run: MadeRun) -> None:
    run = made_run("--parts", "2")
    line = next(line for line in cli("show", "last").stdout.splitlines() if line.startswith("reproduce"))
    again = json.loads(cli(*shlex.split(line)[2:], "--json").stdout)
    assert again["request_digest"] == run["request_digest"]


def test_show_lists_artifacts_with_their_digests(cli: Cli, made_run: MadeRun) -> None:
    run = made_run("--parts", "2")
    listed = json.loads(cli("show", "last", "--artifacts", "--json").stdout)["artifact_list"]
    assert {item["path"] for item in listed} == {
        "artifacts/work/p0/out.json",
        "artifacts/work/p1/out.json",
        "artifacts/total/total/total.json",
    }
    assert all((Path(run["folder"]) / item["path"]).is_file() for item in listed)
    assert "artifacts/work/p1/out.json" in cli("show", "last", "--artifacts").stdout


@pytest.mark.parametrize("damage", ["run_manifest.json", "request.json", "events.jsonl"])
def test_a_damaged_run_is_still_listed_and_shown(cli: Cli, made_run: MadeRun, damage: str) -> None:
    run = made_run()
    path = Path(run["folder"]) / damage
    path.chmod(0o600)
    path.write_text('{"event": "planned", "stage": [], "schema": 3}\n')
    for words in (("runs",), ("show", run["folder"])):
        done = cli(*words)
        assert done.returncode == 0
        assert run["run_id"] in done.stdout


def test_a_record_that_makes_no_sense_breaks_no_list_and_is_named(cli: Cli, made_run: MadeRun) -> None:
    good, run = made_run(), made_run()
    folder = Path(run["folder"])
    manifest = json.loads((folder / "run_manifest.json").read_text())
    damaged = json.dumps({**manifest, "inputs": 3, "duration_s": "x", "backend": [], "artifacts": "y"}).encode()
    sums = folder / "manifest-sha256.txt"
    old = hashlib.sha256((folder / "run_manifest.json").read_bytes()).hexdigest()
    for path in (sums, folder / "run_manifest.json", folder / "events.jsonl"):
        path.chmod(0o600)
    (folder / "run_manifest.json").write_bytes(damaged)
    sums.write_text(sums.read_text().replace(old, hashlib.sha256(damaged).hexdigest()))
    (folder / "events.jsonl").write_text('{"event": "failed", "stage": "work"}\n{"event": "log"}\n[]\n')
    listed = cli("runs")
    assert listed.returncode == 0
    assert good["run_id"] in listed.stdout
    assert run["run_id"] in listed.stdout
    shown = cli("show", "last")
    assert shown.returncode == 1
    assert shown.stderr.startswith(f"agilab: error: a record in {folder} makes no sense")
    assert cli("logs", "last").returncode == 0
    assert cli("verify", "last").returncode == 1


def test_logs_hold_what_the_run_and_its_workers_said(cli: Cli, made_run: MadeRun) -> None:
    made_run("--how", "escape", "--workers", "1")
    text = cli("logs", "last").stdout
    assert "state sealing: succeeded" in text
    assert "INFO p0: at work on 0" in text
    assert "INFO p1: \\x1b]0;owned\\x07" in text
    assert "printed by p2" in text
    assert "\\x1b]0;printed\\x07" in text
    assert "\x1b" not in text


def test_logs_say_nothing_twice_and_have_no_empty_sections(cli: Cli, made_run: MadeRun) -> None:
    made_run("--how", "raise", "--no-loud", "--parts", "2", "--workers", "2")
    text = cli("logs", "last").stdout
    assert text.count("Traceback (most recent call last):") == 1
    assert re.search(r"^Traceback", text, re.MULTILINE)  # only the first line of a text has the time
    assert "==> supervisor" not in text
    assert re.search(r"state sealing: failed$", text, re.MULTILINE)
    assert not re.search(r"<==\n+(==>|$)", text)


def test_logs_as_json_are_objects_one_per_line(cli: Cli, made_run: MadeRun) -> None:
    made_run("--workers", "1")
    for words in ((), ("--follow",)):
        lines = [json.loads(line) for line in cli("logs", "last", "--json", *words).stdout.splitlines()]
        assert all(set(line) == {"source", "t", "text"} for line in lines)
        assert {"source": "local-0", "t": None, "text": "printed by p0"} in lines
        assert lines[0]["source"] == "run"
        assert lines[0]["t"].endswith("Z")


def test_progress_is_told_once_a_second_of_each_partition_to_who_follows() -> None:
    told = EventLines(None, progress=True)
    for mono, expected in ((1.0, 1), (1.5, 0), (2.0, 1)):
        event = {"event": "progress", "partition": "p0", "done": 1, "total": 2, "mono": mono}
        assert len(told(event)) == expected
        assert EventLines(None)(event) == []


def test_logs_of_one_worker_are_its_own(cli: Cli, made_run: MadeRun) -> None:
    made_run("--workers", "1", "--how", "raise")
    text = cli("logs", "last", "--worker", "local-0").stdout
    assert "printed by p1" in text
    assert "ValueError: wrong" in text
    assert "state running" not in text
    done = cli("logs", "last", "--worker", "local-7")
    assert done.returncode == 1
    assert "no log of worker 'local-7'" in done.stderr


def test_following_a_run_that_has_ended_ends(cli: Cli, made_run: MadeRun) -> None:
    made_run()
    done = cli("logs", "last", "--follow")
    assert "run: " in done.stdout
    assert re.search(r"^local-\d: printed by p\d$", done.stdout, re.MULTILINE)


def test_debug_repeats_a_partition_and_shows_its_own_error(cli: Cli, made_run: MadeRun) -> None:
    run = made_run("--how", "raise")
    done = cli("debug", "last", "p1", "--no-pdb")
    assert done.returncode == 1
    assert "in work\n" in done.stderr
    assert done.stderr.count("  File ") == 1
    last = "agilab: error: partition p1 raised ValueError: wrong \\x1b[31mred\\x1b[0m"
    assert done.stderr.splitlines()[-1] == last
    done = cli("debug", "last", "p0")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "  out  2 B"
    assert "INFO: at work on 0" in done.stderr
    assert cli("verify", run["run_id"]).returncode == 0


def test_debug_of_an_unknown_partition_is_one_line(cli: Cli, made_run: MadeRun) -> None:
    made_run()
    done = cli("debug", "last", "p9", "--no-pdb")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no partition 'p9'" in done.stderr
    assert done.stderr.count("\n") == 1
