"""What a service keeps from run to run: one watcher, a planner child that has imported the app, a pool of warm workers.

New code gets a new child and a new pool: modules of two states of an app
never meet. It knows no socket and no queue (`agilab.serving` does).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from agilab import slots
from agilab.backends.base import Backend, Event, Job, KeptPool, Pool, Started, Told, WorkerState, backend
from agilab.errors import BackendRefusedError, ServiceError
from agilab.installation import Installation
from agilab.means import Means
from agilab.package import Installed
from agilab.paths import HomePaths, ServicePaths, WenvPaths
from agilab.planner import Child, Planner
from agilab.project import Project
from agilab.reaper import Watcher, start_time

LOADED_S = 120.0
"""How long workers may take to load an app before its service starts [s]."""
RATE_S = 3600.0
"""Over what time restarts are counted [s]."""
_POLL_S = 0.01


class Kept(Means):
    """Lends what it keeps to one run after the other.

    Parameters
    ----------
    home, paths
        The user's folders, and the service's.
    cluster
        Every cluster option, as the service was started with.
    watcher
        Ends every process of the service when the service has gone.
    wenv
        The user's other folder.
    report
        Told what happens until workers are there, and to them between runs, line by line.
    """

    def __init__(
        self,
        home: HomePaths,
        paths: ServicePaths,
        *,
        cluster: Mapping[str, Any],
        watcher: Watcher,
        wenv: WenvPaths,
        report: Callable[[str], None],
    ) -> None:
        self.home, self.paths, self.cluster, self.wenv = home, paths, cluster, wenv
        self._report = report
        self.installed: Installed | None = None
        self._watcher = watcher
        self._child: Child | None = None
        self._child_is_for = ""
        self._pool: KeptPool | None = None
        self._earlier: list[float] = []

    def watcher(self, run_id: str) -> AbstractContextManager[Watcher]:
        return nullcontext(self._watcher)

    def planner(self, project: Project, home: HomePaths, data_root: Path, *, source: Path | None = None) -> Planner:
        snapshot = source or Planner(project, home, data_root).snapshot()
        if self._child is None or self._child.process.poll() is not None or self._child_is_for != snapshot.name:
            if self._child is not None:
                self._child.close()
            name, _, value = self._watcher.marker.partition("=")
            self._child, self._child_is_for = Child({name: value}), snapshot.name
            self._watcher.watch(self._child.process.pid, start_time(self._child.process.pid))
        return Planner(project, home, data_root, source=snapshot, in_process=False, child=self._child)

    def pool(self, backend: Backend, job: Job) -> Pool:
        pool = self._suited(backend, job.installed, job.init["worker"])
        pool.begin(replace(job, idle_logs=str(self.paths.logs)))
        return pool

    def load(self, project: Project, installation: Installation) -> None:
        """Get the app's code into planner and workers, before there is a request.

        Raises
        ------
        ServiceError
            A worker cannot load it.
        PlanError
            The manager package cannot be imported, and the other errors of `agilab.planner`.
        """
        chosen = backend(self.cluster["backend"])
        pool = self._suited(chosen, installation.worker, project.worker_class)
        self.planner(project, self.home, installation.data_root).load()
        end = time.monotonic() + LOADED_S
        while any(one.state == "starting" for one in pool.states()) and time.monotonic() < end:
            self.look()
            time.sleep(_POLL_S)
        bad = [one for one in pool.states() if one.state != "idle"]
        if bad:
            why = bad[0].problem or f"it is still {bad[0].state} after {LOADED_S:g} s"
            raise ServiceError(f"worker {bad[0].worker} of {project.name} does not load: {why}; see {self.paths.logs}")

    def look(self) -> None:
        """Between two runs: start again what has died."""
        if self._pool is not None:
            self._watch(self._pool.look())

    def states(self) -> Sequence[WorkerState]:
        """Say how each worker is; also from another thread."""
        return () if self._pool is None else self._pool.states()

    def restarts(self) -> int:
        """Count how often a worker that had died was started again in the last `RATE_S`."""
        since = time.monotonic() - RATE_S
        return sum(at > since for at in (*self._earlier, *(() if self._pool is None else self._pool.restarts)))

    def end(self) -> None:
        """End planner and workers."""
        if self._child is not None:
            self._child.close()
            self._child = None
        if self._pool is not None:
            self._pool.end()

    def _suited(self, chosen: Backend, installed: Installed, worker: str) -> KeptPool:
        """Return the pool for some worker code; one that has loaded other code is ended."""
        if self._pool is not None and self.installed == installed and not self._pool.lost:
            return self._pool
        name, _, value = self._watcher.marker.partition("=")
        job = Job(
            self.paths,
            installed,
            {"worker": worker, "code": str(installed.code)},
            workers_of(chosen, self.cluster),
            {name: value},
            self.cluster,
            self.home,
            self.wenv,
            idle_logs=str(self.paths.logs),
        )
        if self._pool is None or self._pool.lost or not self._pool.reload(job):
            if self._pool is not None:
                self._pool.end()
                since = time.monotonic() - RATE_S
                self._earlier = [at for at in (*self._earlier, *self._pool.restarts) if at > since]
            self._pool = chosen.keep(job, self._report)
        self.installed = installed
        self._watch(self._pool.look())
        return self._pool

    def _watch(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Started):
                self._watcher.watch(event.pgid, event.start_time)
            elif isinstance(event, Told) and event.event == "note":
                self._report(event.fields["text"])


def workers_of(chosen: Backend, cluster: Mapping[str, Any]) -> int:
    """Return how many workers a service with these cluster options has: as many as a run with them.

    Raises
    ------
    BackendRefusedError
        The slots of this machine do not decide that, and the options do not say it.
    """
    asked: int | Mapping[str, int] | None = cluster["workers"]
    if isinstance(asked, Mapping):
        return sum(asked.values())
    if chosen.takes_slots(cluster):
        cores = slots.machine(os.environ)["cpu"]
        return min(asked or cores, cores)
    if not asked:
        raise BackendRefusedError("say how many workers the service is to keep there: --workers NUMBER")
    return asked
