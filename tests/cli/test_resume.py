"""`agilab resume`, `seal` and `cancel` of runs that nobody runs any more, as they are typed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agilab import AgiEnv
from tests.cli.conftest import Cli
from tests.conftest import WaitFor


def lose(wait_for: WaitFor, *flags: str) -> str:
    """Kill `agilab run` while its partitions run; return the id of the run."""
    words = [sys.executable, "-m", "agilab", "run", "trouble", "--sleep-s", "60", *flags]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        runs = AgiEnv().runs

        def dispatched() -> bool:
            return any(event["event"] == "dispatched" for run in runs.list()[:1] for event in run.events())

        wait_for(dispatched, 20.0)
        process.send_signal(signal.SIGKILL)
    run = runs.get("last")
    wait_for(lambda: run.state == "lost", 5.0)
    return run.run_id


def test_a_lost_run_is_shown_sealed_and_resumed(cli: Cli, wait_for: WaitFor) -> None:
    run_id = lose(wait_for)
    shown = cli("show", run_id)
    assert "state lost\n" in re.sub(" +", " ", shown.stdout)
    assert f"next agilab resume {run_id}\n" in re.sub(" +", " ", shown.stdout)
    sealed = cli("seal", run_id)
    assert sealed.returncode == 0
    assert sealed.stdout == f"sealed as failed: {run_id}\nnext\n  agilab resume {run_id}\n  agilab show {run_id}\n"
    again = cli("seal", run_id)
    assert again.returncode == 1
    assert again.stderr == f"agilab: error: run {run_id} is failed; only a lost run can be sealed\n"
    assert cli("verify", run_id).returncode == 0


def test_cancelling_a_lost_run_seals_it(cli: Cli, wait_for: WaitFor) -> None:
    run_id = lose(wait_for)
    done = cli("cancel", run_id)
    assert (done.returncode, done.stdout) == (0, f"cancelled: {run_id}\n")
    assert json.loads(cli("seal", run_id, "--json").stdout)["exit_code"] == 1


def test_a_failed_run_is_resumed_and_says_what_it_goes_on_with(
    cli: Cli, made_run: Callable[..., dict[str, Any]], apps: Path
) -> None:
    failed = made_run("--how", "raise")
    assert failed["state"] == "failed"
    worker = apps / "trouble_project" / "src" / "trouble_worker" / "__init__.py"
    code = worker.read_text()
    try:
        worker.write_text(code.replace("raise ValueError", "raise KeyError"))
        done = cli("resume", failed["run_id"])
    finally:
        worker.write_text(code)
    assert done.returncode == 1
    assert "attempt 2, " in done.stderr
    assert "has changed since this run began; it goes on with the code it began with" in done.stderr
    assert "ValueError: wrong" in done.stderr
    assert "KeyError" not in done.stderr
    assert f"run {failed['run_id']} failed: partition 'p1'" in done.stderr.splitlines()[-1]
    verified = cli("verify", failed["run_id"])
    assert verified.returncode == 0
    assert "1 earlier seal in seals/ held against it too" in verified.stdout


def test_resume_in_the_background_and_as_json(cli: Cli, wait_for: WaitFor) -> None:
    run_id = lose(wait_for, "--how", "hang", "--timeout-s", "61")
    started = cli("resume", run_id, "--detach")
    assert started.stdout.startswith(f"{run_id} is on its way\n")
    assert json.loads(cli("cancel", run_id, "--json").stdout)["state"] == "cancelled"
    shown = json.loads(cli("show", run_id, "--json").stdout)
    assert shown["manifest"]["attempt"] == 2


def test_a_succeeded_run_has_nothing_left_to_resume(cli: Cli, made_run: Callable[..., dict[str, Any]]) -> None:
    run_id = made_run()["run_id"]
    for words in (("resume", run_id), ("resume", run_id, "--detach")):
        done = cli(*words)
        assert done.returncode == 1
        assert done.stderr == f"agilab: error: run {run_id} has succeeded: there is nothing left to do\n"
    missing = cli("resume", "nosuch")
    assert missing.returncode == 2
    assert "no run 'nosuch'" in missing.stderr
