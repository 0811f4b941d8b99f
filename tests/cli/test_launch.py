"""`plan` and `run` as real processes: flags, requests, failures, interruptions."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]
MadeRun = Callable[..., dict[str, Any]]
WaitFor = Callable[..., object]


def test_run_says_what_it_came_to_and_what_to_type_next(shell: Cli) -> None:
    done = shell("run", "trouble")
    assert done.returncode == 0
    first, *rest = done.stdout.splitlines()
    assert first.startswith("succeeded: ")
    run_id = first.split()[1]
    assert "  artifacts  4 files" in done.stdout
    assert "  done  3" in rest
    assert rest[-3:] == [f"  agilab show {run_id}", f"  agilab verify {run_id}", f"  agilab logs {run_id}"]
    assert "stage work: 3 of 3 committed in" in done.stderr
    assert "planned aloud" in done.stderr


def test_json_is_one_document_whatever_app_code_prints(shell: Cli) -> None:
    done = shell("run", "trouble", "--json", "--backend", "inline")
    found = json.loads(done.stdout)
    assert (found["schema"], found["state"]) == ("agilab.cli.run/1", "succeeded")
    assert found["partitions"] == {"count": 4, "committed": 4}
    assert found["metrics"] == {"done": 3}
    assert "planned aloud" in done.stderr
    assert "printed by p0" in done.stderr


def test_flags_reach_the_request_with_their_source(made_run: MadeRun) -> None:
    found = made_run(
        "--parts", "2", "--model.depth", "4", "--no-loud", "--set", "json=y", "--workers", "1", "--seed", "7"
    )
    request = json.loads(Path(found["folder"], "request.json").read_text())
    assert request["settings"]["parts"] == 2
    assert request["settings"]["model"] == {"depth": 4, "fast": False}
    assert request["settings"]["loud"] is False
    assert request["settings"]["json"] == "y"
    assert request["cluster"]["workers"] == 1
    assert request["seed"] == 7
    assert request["provenance"]["model.depth"]["source"] == "caller"
    assert request["provenance"]["model.fast"]["source"] == "default"


def test_the_same_choices_by_flags_file_and_python_have_one_digest(cli: Cli, made_run: MadeRun, tmp_path: Path) -> None:
    from agilab import AgiEnv

    by_flags = made_run("--parts", "2", "--seed", "3")
    by_file = json.loads(cli("run", "--request", Path(by_flags["folder"], "request.json"), "--json").stdout)
    partial = tmp_path / "partial.json"
    partial.write_text(json.dumps({"schema": "agilab.request/1", "settings": {"parts": 2}, "seed": 3}))
    by_part = json.loads(cli("run", "trouble", "--request", partial, "--json").stdout)
    by_python = AgiEnv("trouble").request({"parts": 2}, seed=3)
    assert len({by_python.digest, *(found["request_digest"] for found in (by_flags, by_file, by_part))}) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--parts", "0"), "setting 'parts' is 0; allowed: a whole number >= 1 and <= 1000 (--parts)"),
        (("--backend", "moon"), "setting 'backend' is 'moon'; allowed: one of"),
        (("--set", "prats=2"), "unknown setting 'prats'; did you mean 'parts'? (--set)"),
        (("--prats", "2"), "no option '--prats'; did you mean '--parts'? see agilab run trouble --help"),
        (("--parts",), "option '--parts' requires an argument; see agilab run trouble --help"),
        (("--seed", "-1"), "seed is -1; allowed: a whole number from 0 to"),
        (("--request", "nowhere.json"), "nowhere.json is not a request that can be read"),
    ],
)
def test_a_wrong_choice_is_one_line_and_nothing_is_written(
    cli: Cli, home: Path, words: tuple[str, ...], line: str
) -> None:
    done = cli("run", "trouble", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"agilab: error: {line}")
    assert done.stderr.count("\n") == 1
    assert not (home / "runs").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "name the app first, then its settings; see agilab run --help"),
        (("--parts", "2", "trouble"), "no option '--parts'"),
        (("troubel",), "no app project 'troubel'; did you mean 'trouble'?"),
        (("--request", "nowhere.json"), "no file nowhere.json"),
    ],
)
def test_a_command_line_without_its_app_says_what_is_missing(cli: Cli, words: tuple[str, ...], line: str) -> None:
    done = cli("run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"agilab: error: {line}")


def test_a_failed_partition_ends_with_its_traceback_and_the_command_that_repeats_it(shell: Cli) -> None:
    done = shell("run", "trouble", "--how", "raise")
    run_id = done.stdout.split()[1]
    assert done.returncode == 1
    assert done.stdout.startswith(f"failed: {run_id} of trouble")
    assert "Traceback (most recent call last):" in done.stderr
    line = "partition p1 of stage work failed: ValueError: wrong \\x1b[31mred\\x1b[0m"
    assert done.stderr.splitlines().count(line) == 1
    assert done.stderr.count("ValueError: wrong") == 3  # as it happens, in the traceback, in the last line
    assert 'trouble_project/src/trouble_worker/__init__.py", line' in done.stderr
    assert f"agilab debug {run_id} p1" in done.stderr
    assert "worker_manifest.json" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"agilab: error: run {run_id} failed: ")
    assert "\x1b" not in done.stdout + done.stderr


def test_a_worker_that_died_is_named_with_the_command_that_repeats_the_partition(cli: Cli) -> None:
    done = cli("run", "trouble", "--how", "die")
    assert done.returncode == 1
    assert done.stderr.count("trying again") == 2
    assert f"agilab debug {done.stdout.split()[1]} p1" in done.stderr


def test_a_failed_run_is_a_document_too(cli: Cli) -> None:
    done = cli("run", "trouble", "--how", "raise", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["state"] == "failed"
    assert "wrong" in found["error"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_cleanly(
    here: Path, wait_for: WaitFor, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    words = [sys.executable, "-m", "agilab", "run", "trouble", "--sleep-s", "60", "--json"]
    with (
        open(tmp_path / "err", "wb+") as err,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=err, text=True, start_new_session=True) as process,
    ):
        wait_for(lambda: b"stage work: 3 partitions" in (tmp_path / "err").read_bytes(), 20.0)
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert json.loads(out)["state"] == "cancelled"
    assert b"cancelling; interrupt again to stop at once\n" in (tmp_path / "err").read_bytes()


def test_a_detached_run_goes_on_and_can_be_followed_and_cancelled(cli: Cli) -> None:
    started = json.loads(cli("run", "trouble", "--detach", "--json", "--sleep-s", "0.2").stdout)
    followed = cli("logs", started["run_id"], "--follow")
    assert followed.returncode == 0
    assert re.search(r"^local-\d: printed by p\d$", followed.stdout, re.MULTILINE)
    assert "INFO p0: at work on 0" in followed.stdout
    assert followed.stdout.splitlines()[-1].endswith("state sealing: succeeded")
    endless = json.loads(cli("run", "trouble", "--detach", "--json", "--sleep-s", "60").stdout)
    cancelled = cli("cancel", endless["run_id"], "--json")
    assert cancelled.returncode == 0
    assert json.loads(cancelled.stdout)["state"] == "cancelled"
    again = cli("cancel", endless["run_id"])
    assert (again.returncode, again.stdout) == (0, f"cancelled: {endless['run_id']}\n")
    late = cli("cancel", started["run_id"])
    assert late.returncode == 1
    assert late.stderr == f"agilab: error: run {started['run_id']} is succeeded, so there was nothing to cancel\n"


def test_a_terminal_shows_a_line_per_stage(here: Path) -> None:
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "agilab", "run", "trouble", "--sleep-s", "1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=follower, env=environment) as process:
        os.close(follower)
        written = b""
        while True:
            try:
                written += os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
        assert process.stdout is not None
        assert process.stdout.read().startswith(b"succeeded")
    os.close(leader)
    text = written.decode()
    assert "running" in text
    assert "work" in text
    assert "3/3" in text
    assert "total" in text


def test_plan_shows_stages_partitions_weights_and_workers(cli: Cli, home: Path) -> None:
    done = cli("plan", "trouble", "--workers", "2")
    assert done.returncode == 0
    assert "inputs   0 files, 0 B" in done.stdout
    assert "stage work: 3 partitions on 2 workers" in done.stdout
    assert "p2              3  local-0  -" in done.stdout
    slots = [line.split() for line in done.stdout.splitlines() if line.split()[1:2] in (["local-0"], ["local-1"])]
    assert slots == [[os.uname().nodename, "local-0", "1", "1", "3"], [os.uname().nodename, "local-1", "1", "2", "3"]]
    assert "stage total: planned later, from what earlier stages leave, after work" in done.stdout
    assert not (home / "runs").exists()


def test_plan_lists_as_many_partitions_as_one_can_read_unless_asked_for_all(cli: Cli) -> None:
    assert "... and 170 more; --all lists them" in cli("plan", "trouble", "--parts", "200").stdout
    assert "p199" in cli("plan", "trouble", "--parts", "200", "--all").stdout


def test_a_plan_that_was_edited_is_run_and_one_that_was_changed_otherwise_is_not(cli: Cli, here: Path) -> None:
    plan = json.loads(cli("plan", "trouble", "--workers", "2", "--parts", "4", "--json").stdout)
    part = plan["distribution"]["plan"]["stages"][0]["partitions"][0]
    part.update(weight=50, pin="local-1")
    file = here / "plan.json"
    file.write_text(json.dumps(plan))
    shown = cli("plan", "--plan", file).stdout
    assert "edited   1 weight, 1 pin" in shown
    assert ["p0", "50", "local-1", "local-1", "-"] in [line.split() for line in shown.splitlines()]
    run = json.loads(cli("run", "--plan", file, "--json").stdout)
    assert run["state"] == "succeeded"
    shown = cli("show", run["run_id"]).stdout
    assert "1 weight, 1 pin" in shown
    assert f"ran on {os.uname().nodename}" in shown
    for words, said in (
        (("--parts", "5"), "the partitions of stage 'work' are not those of the app's own plan ('p4')"),
        (("--request", file), "give one of --request and --plan: a plan holds its request"),
    ):
        refused = cli("run", "trouble", "--plan", file, *words)
        assert refused.returncode != 0
        assert said in refused.stderr
    part["pin"] = "nobody"
    file.write_text(json.dumps(plan))
    assert "pinned to 'nobody', which is no worker and no host" in cli("run", "trouble", "--plan", file).stderr
    file.write_text("{}")
    assert "this version of AGILAB reads 'agilab.cli.plan/1'" in cli("run", "--plan", file).stderr
    assert "no file none.json; --plan takes what" in cli("run", "--plan", "none.json").stderr


def test_plan_as_json_holds_request_and_distribution(cli: Cli) -> None:
    found = json.loads(cli("plan", "trouble", "--json").stdout)
    assert found["request"]["settings"]["parts"] == 3
    assert [stage["name"] for stage in found["distribution"]["plan"]["stages"]] == ["work", "total"]
    assert found["distribution"]["later"] == ["total"]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_help_of_an_app_lists_its_settings(cli: Cli, command: str) -> None:
    done = cli(command, "trouble", "--help")
    assert done.returncode == 0
    assert "Settings of trouble:" in done.stdout
    assert "--sleep-s NUMBER" in done.stdout
    assert "--model.depth INTEGER" in done.stdout
    assert "Cluster options:" in done.stdout
    assert done.stderr == ""


def test_help_of_an_app_shows_what_holds_now_and_why(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("settings", "trouble", "set", "parts=7", "model.depth=2")
    monkeypatch.setenv("AGILAB_CLUSTER_WORKERS", "1")
    monkeypatch.setenv("AGILAB_SETTING_LOUD", "false")
    text = " ".join(cli("run", "trouble", "--help").stdout.split())
    assert "default: 7 (workspace file)" in text
    assert "default: 2 (workspace file)" in text
    assert "default: 1 (environment)" in text
    assert "default: false (environment)" in text
    assert "default: 0.0 " in text
    (home / "apps" / "trouble" / "app_settings.toml").write_text("[settings]\nprats = 1\n")
    assert cli("run", "trouble", "--help").returncode == 0


def test_help_without_an_app_says_how_settings_become_flags(cli: Cli) -> None:
    text = " ".join(cli("run", "--help").stdout.split())
    assert "`agilab run APP --help` lists them" in text
    assert "--workers NUMBER OR HOST=NUMBER,..." in text
