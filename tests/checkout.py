"""The checkout under test: where it is, which files belong to it, how much a core install may bring."""

from __future__ import annotations

import subprocess
from pathlib import Path

from agilab.digest import tree_files

ROOT = Path(__file__).resolve().parent.parent

CORE_LIMITS = {"3.11": 35, "3.12": 30, "3.13": 30}
"""Python -> most distributions of a core install, ours included; on 3.11 dask brings three backports."""


def files() -> list[str]:
    """List what a clone would hold: the files git knows or would add, else (a source distribution) all that count."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.splitlines() if listed.returncode == 0 else tree_files(ROOT)
    return [name for name in names if (ROOT / name).is_file()]
