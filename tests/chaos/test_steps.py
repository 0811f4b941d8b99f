"""Whichever write, fsync or rename of a run fails, the run tells the truth and goes on (F14, F15, F18-F20, F28)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.chaos.steps import HOW
from tests.checkout import ROOT


def break_steps(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the harness in a process without threads, since it forks."""
    command = [sys.executable, "-m", "tests.chaos.steps", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.parametrize("how", HOW)
def test_a_run_that_is_broken_at_a_step_is_honest_and_goes_on(how: str) -> None:
    done = break_steps(how, "--first", str(1 + HOW.index(how)), "--every", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{how} at every step up to " in done.stdout


def test_the_checks_see_a_seal_that_is_written_in_place() -> None:
    done = break_steps("exit", "--first", "40", "--spoiled")
    assert done.returncode == 1
    # Half a file is no JSON; as long as nobody has opened it once more, its run has no state that could be true.
    assert "JSONDecodeError" in done.stderr or "is not true after" in done.stderr, done.stderr
