"""Backend `inline`: worker code in this process, for a debugger; it isolates nothing and can end nothing."""

from __future__ import annotations

import os
import sys
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agilab import environment
from agilab.backends.base import Backend, Broken, Capabilities, Done, Event, Failed, Job, Pool, Report, Wanted
from agilab.entry import WorkerSession, failure
from agilab.errors import BackendRefusedError


class InlineBackend(Backend):
    """Runs partitions one after the other in the calling process."""

    name = "inline"
    capabilities = Capabilities(isolated=False, timeouts=False, survives_worker_death=False, parallel=False)

    def open(self, job: Job) -> Pool:
        check_requirements(job.installed.lock)
        return InlinePool(job)


class InlinePool(Pool):
    """The calling process as the only worker of a run."""

    def __init__(self, job: Job) -> None:
        self._worker = InlineBackend().worker_names(1)[0]
        self._package = str(job.init["worker"]).partition(":")[0]
        self._code = str(job.init["code"])
        self._tasks: deque[Mapping[str, Any]] = deque()
        self._session: WorkerSession | None = None
        self._init = job.init
        self._opened = False

    @property
    def workers(self) -> tuple[str, ...]:
        return (self._worker,)

    def add(self, workers: Sequence[str]) -> None:
        """Do nothing: the only worker is this process."""

    def submit(self, worker: str, task: Mapping[str, Any], *, timeout_s: float | None) -> None:
        self._tasks.append(task)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        if not self._opened:
            self._opened = True
            return [self._start()]
        if not self._tasks or self._session is None:
            return []
        task = self._tasks.popleft()
        events: list[Event] = []
        folder = os.getcwd()
        try:
            done = self._session.run(task, lambda message: events.append(Report(self._worker, message)))
            events.append(Done(self._worker, task["id"], done))
        except KeyboardInterrupt:
            raise
        except BaseException as err:  # what worker code raises is an answer, SystemExit too
            events.append(_failed(self._worker, task, err))
        finally:
            os.chdir(folder)
        return [*events, Wanted(self._worker)]

    def kill(self) -> None:
        """Do nothing: the only worker is this process."""

    def close(self, *, grace_s: float) -> None:
        session, self._session = self._session, None
        try:
            if session is not None:
                session.close()
        except KeyboardInterrupt:
            raise
        except BaseException:  # worker code may raise anything; its partitions are done, so this ends up in the log
            traceback.print_exc()
        finally:
            forget(self._package, self._code)

    def _start(self) -> Event:
        forget(self._package, "")
        try:
            self._session = WorkerSession(self._init)
        except KeyboardInterrupt:
            raise
        except BaseException as err:  # worker code may raise anything at import
            said = failure("", err)
            return Broken(said["message"], said["traceback"])
        return Wanted(self._worker)


def check_requirements(lock: Path) -> None:
    """Refuse when this process lacks a distribution that the worker needs.

    Raises
    ------
    BackendRefusedError
        Names them and how to install them.
    """
    text = lock.read_text(encoding="utf-8")
    if not environment.pins(text):
        return
    missing = [
        line for line in environment.compare(text, environment.distributions_of()) if " missing instead of " in line
    ]
    if missing:
        wanted = " ".join(f"{line.split()[0]}=={line.split()[-1]}" for line in missing)
        raise BackendRefusedError(
            f"backend 'inline' runs in this Python, which lacks what the worker needs: {sys.executable} -m pip install "
            f"{wanted}; or choose backend 'local'"
        )


def forget(package: str, code: str) -> None:
    """Unload a worker package, so that the next run imports its own code."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
    if code in sys.path:
        sys.path.remove(code)


def _failed(worker: str, task: Mapping[str, Any], err: BaseException) -> Failed:
    said = failure(task["id"], err)
    return Failed(worker, task["id"], said["reason"], said["message"], said["traceback"])
