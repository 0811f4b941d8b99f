"""The handoff surface in docs/reference/core.md: every name resolves, every file is in a run folder."""

from __future__ import annotations

import re
from pathlib import Path
from pydoc import locate

import pytest

from tests.checkout import ROOT
from tests.run_folder import RunFolder

PAGE = (ROOT / "docs" / "reference" / "core.md").read_text()
LISTED = re.findall(r"(?m)^\| `([^`]+)` \|", PAGE)
NAMES = [name for name in LISTED if name.startswith("agilab.")]
FIRST = {
    *("__version__", "AgiEnv", "AgiEnv.request", "AgiEnv.select", "AgiEnv.runs", "AGI.install", "AGI.get_distrib"),
    *("AGI.run", "AGI.submit", "AGI.resume", "AGI.cancel", "run.Run.check", "run.Run.state", "run.Run.artifacts"),
    *("run.Run.artifact", "run.Run.metrics", "run.Run.manifest", "Worker", "PartitionContext", "App", "Settings"),
}
"""What was promised first."""


def missing(names: list[str]) -> list[str]:
    """Return the names that lead nowhere."""
    return [name for name in names if locate(name) is None]


def test_every_name_is_there() -> None:
    assert missing(NAMES) == []
    assert missing(["agilab.AGI.runs"]) == ["agilab.AGI.runs"]


def test_a_promise_goes_only_with_a_change_fragment() -> None:
    gone = "".join(path.read_text() for path in (ROOT / "docs" / "changes").glob("*.removed*.md"))
    assert [name for name in sorted(FIRST) if f"agilab.{name}" not in NAMES and name not in gone] == []


def test_every_file_is_in_a_run_folder(home: Path) -> None:
    made = RunFolder(home).commit_all()
    made.seal()
    assert [name for name in set(LISTED) - set(NAMES) if not (made.paths.root / name).exists()] == []


@pytest.mark.parametrize("file", ["core", "standalone", "harness"])
def test_what_notebooks_use_is_promised(file: str) -> None:
    text = (ROOT / "agilab" / "notebook" / f"{file}.py").read_text()
    used = {f"agilab.{name}" for name in re.findall(r"\b(AGI\.\w+|AgiEnv)\(", text)}
    assert used <= set(NAMES)
