"""What must hold of a run after something was broken, however it was: the five things that every harness checks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from agilab import Run, manifest
from agilab.run import FINAL_STATES
from agilab.testing import processes_marked
from agilab.testing.probe import hashes, wait_until

HONEST_S = 5.0
"""How long a run may take to be seen as lost once its supervisor has gone [s]."""
GONE_S = 10.0
"""How long processes of a run may live on after that [s]."""


def check_honest(run: Run) -> str:
    """Fail unless a run whose supervisor has gone tells the truth and has left nothing; return its state."""
    wait_until(lambda: run.state in FINAL_STATES | {"lost"}, HONEST_S)
    wait_until(lambda: not processes_marked(run.run_id), GONE_S)
    state = run.state
    for path in _json_files(run.paths.root):
        json.loads(path.read_bytes())
    for path in run.paths.partitions.glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            json.loads(line)
    verified = manifest.verify(run.paths)
    wrong = [one for one in verified.problems if state in FINAL_STATES or not _may_be_left(one.path, one.problem)]
    assert not wrong, (state, wrong)
    return state


def check_resumed(run: Run, expected: dict[str, str]) -> None:
    """Fail unless a run has come to its end as if nothing had happened."""
    assert run.state == "succeeded", (run.state, run.error)
    assert hashes(run) == expected
    verified = manifest.verify(run.paths)
    assert verified.ok, verified.problems
    assert not run.paths.staging.exists()
    assert not list(run.paths.root.rglob("*.tmp"))
    assert processes_marked(run.run_id) == []


def _may_be_left(path: str, problem: str) -> bool:
    """Whether a run that was lost may have this: it has no seal, and unrecorded folders of a commit under way."""
    return problem == "unsealed" or (path.startswith("artifacts/") and problem in ("unrecorded", "missing"))


def _json_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        if ".staging" in folders:
            folders.remove(".staging")
        for name in names:
            # A copy of a record that has not become durable may be cut; it is written again by whoever goes on.
            if name.endswith(".json") and name != "partition.json":
                yield Path(folder, name)
