"""What a run is made with: its watcher, its planner, its pool; here they are made for it alone.

A service hands out what it keeps instead (`agilab.kept`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from agilab.backends.base import Backend, Job, Pool
from agilab.paths import HomePaths
from agilab.planner import Planner
from agilab.project import Project
from agilab.reaper import Watcher


class Means:
    """Makes everything anew for every run."""

    def watcher(self, run_id: str) -> AbstractContextManager[Watcher]:
        """Return what ends the processes of a run when its supervisor has gone."""
        return Watcher.open(run_id)

    def planner(self, project: Project, home: HomePaths, data_root: Path, *, source: Path | None = None) -> Planner:
        """Return what asks the app's manager code; `source` is the folder of a snapshot, None for the project's."""
        return Planner(project, home, data_root, source=source)

    def pool(self, backend: Backend, job: Job) -> Pool:
        """Return the pool of a run, with its first worker on the way."""
        return backend.open(job)
