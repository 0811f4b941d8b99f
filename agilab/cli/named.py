"""Finds the run that a command line names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agilab.errors import RunNotFoundError
from agilab.paths import RunPaths

if TYPE_CHECKING:
    from agilab.env import AgiEnv
    from agilab.run import Run


def named_run(env: AgiEnv, text: str) -> Run:
    """Return a run by its id, the head of its id, ``last``, ``APP/`` and one of these, or the path of its folder.

    Raises
    ------
    RunNotFoundError
        There is none.
    """
    folder = Path(text).expanduser().resolve()
    is_run = (folder / "request.json").is_file()
    if not is_run and not text.startswith((".", "~", os.sep)):
        return env.runs.get(text)
    from agilab.run import Run

    if not is_run:
        raise RunNotFoundError(f"{folder} is not a run folder: it holds no request.json; `agilab runs` lists the runs")
    return Run(RunPaths(folder))
