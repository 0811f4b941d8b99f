"""What ruff and mypy say of the tree; their caches lie outside it, so that a second run is quick."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(tempfile.gettempdir()) / f"agilab-lint-{os.getuid()}"
TOOLS = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "--quiet", "."], id="ruff check"),
        pytest.param(["ruff", "format", "--quiet", "--diff", "."], id="ruff format"),
        pytest.param(["mypy", "--strict", "--no-error-summary"], id="mypy"),
    ],
)
def test_nothing_to_say(command: list[str]) -> None:
    CACHE.mkdir(mode=0o700, exist_ok=True)
    tool, *arguments = command
    cache = ["--cache-dir", str(CACHE / tool)]
    done = subprocess.run([TOOLS / tool, *arguments, *cache], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
