"""However its supervisor is killed, a run tells the truth, leaves no process, and goes on to the same hashes (F4)."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from agilab import Stage, WorkPlan
from agilab.testing import do
from agilab.testing.probe import wait_until
from tests.chaos.damage import check_honest
from tests.chaos.kills import Kills

WITHOUT_REAPER = (
    sys.executable,
    "-c",
    "import sys, agilab.reaper; agilab.reaper.__file__ = '/dev/null'; from agilab.cli import main; sys.exit(main())",
)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_whose_supervisor_is_killed_goes_on_to_the_same_hashes(tmp_path: Path, seed: int) -> None:
    kills = Kills(tmp_path)
    kills.prepare()
    chance = random.Random(seed)
    for _ in range(5):
        kills.kill_once(chance)
    assert sum(kills.states.values()) >= 5
    assert kills.states["lost"] > 0


def test_the_checks_see_a_run_that_leaves_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.damage.GONE_S", 0.5)
    kills = Kills(tmp_path, WITHOUT_REAPER)
    kills.prepare()
    hang = WorkPlan([Stage("first", [do("a", ["hang", str(tmp_path / "hanging")])])])
    request = kills.env.request({"plan": hang.to_json()}, cluster={"workers": 1})
    (tmp_path / "request.json").write_text(json.dumps(request.to_json()))
    process = kills.start("run", str(kills.env.project.root), "--request", str(tmp_path / "request.json"))
    wait_until((tmp_path / "hanging").exists)
    process.kill()
    process.wait()
    run = kills.env.runs.get("last")
    with pytest.raises(AssertionError, match="is not true after"):
        check_honest(run)
    # Whoever takes the run up ends what it finds.
    kills.start("cancel", run.run_id).wait()
    assert check_honest(run) == "cancelled"
