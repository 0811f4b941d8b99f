"""Finds the scheduler of a run: one that runs already, or one in a process of our own; it sends no work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agilab.backends.base import Job
from agilab.backends.dask import tls
from agilab.backends.dask.host import ALONE, LOCAL, OWN
from agilab.backends.dask.logs import NAME
from agilab.errors import BackendRefusedError
from agilab.paths import make_folder
from agilab.reaper import start_time

CLOSE_S = 10.0
"""How long a cluster that a class made may take to end its jobs [s]."""


class Host(ABC):
    """What holds the cluster of a run.

    Attributes
    ----------
    is_own
        Whether it was started for this run.
    pgid, start_time
        The process group, and when that began; 0 where it is on another host.
    security
        Arguments of `distributed.Security`.
    """

    is_own: bool
    pgid: int
    start_time: int
    security: Mapping[str, Any] | None

    @abstractmethod
    def kill(self) -> None:
        """End scheduler and workers, now."""

    @abstractmethod
    def close(self) -> None:
        """End the cluster, and leave nothing of it here."""


class HostProcess(Host):
    """The process that holds the cluster of a run (`agilab.backends.dask.host`), and the keys of that cluster.

    It begins at once: it imports Dask while the caller does.

    Parameters
    ----------
    job
        The run, and its cluster options.
    alone
        Whether it is to hold a scheduler only: the workers are elsewhere.
    """

    def __init__(self, job: Job, *, alone: bool = False) -> None:
        self._job = job
        self.is_own = not job.cluster.get("cluster_class")
        # In the run folder the path of a socket may be too long.
        self._sockets = Path(tempfile.mkdtemp(prefix="agilab-")) if self.is_own else None
        self.security: Mapping[str, Any] | None = None
        self._keys: tls.Certificates | None = None
        log = os.open(make_folder(job.paths.logs) / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        kind = (ALONE if alone else OWN, str(self._sockets)) if self._sockets is not None else ()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "agilab.backends.dask.host", *kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **job.environment},
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(log)
        self.pgid, self.start_time = self._process.pid, start_time(self._process.pid)
        if self.is_own:
            assert job.home is not None
            self._keys = tls.issue(job.home.tls / job.paths.run_id, job.paths.run_id, sockets=self._sockets)
            self.security = self._keys.security()
        else:
            self.security = certificates(job.cluster)

    def ask(self, workers: int | None) -> dict[str, Any]:
        """Start the cluster; return its ``scheduler`` and ``dashboard``, or an ``error``. Waits for it.

        Parameters
        ----------
        workers
            How many Dask workers; None to leave that to the class and its options.
        """
        cluster = self._job.cluster
        order = {
            "class": LOCAL if self.is_own else cluster["cluster_class"],
            "options": self._local(1 if workers is None else workers) if self.is_own else cluster["cluster_options"],
            "security": self.security,
            "workers": workers,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # its log says why
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"its process ended; see {self._job.paths.logs / NAME}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def wait(self) -> None:
        """Return when the process has ended."""
        assert self._process.stdout is not None
        self._process.stdout.read()

    def kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pgid, signal.SIGKILL)

    def close(self) -> None:
        """End the cluster: at once where all of it is here, in good order where a class may have jobs elsewhere."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self.is_own:
            with suppress(OSError):
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_S)
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._keys is not None:
            self._keys.remove()

    def _local(self, workers: int) -> dict[str, Any]:
        """Return what our own cluster is made with: everything on loopback, everything in the run's folders."""
        mib = self._job.cluster.get("memory_mib")
        return {
            "n_workers": workers,
            "threads_per_worker": 1,
            "processes": True,
            "host": "127.0.0.1",
            "protocol": "tls",
            "dashboard_address": "127.0.0.1:0",
            "scheduler_kwargs": {"dashboard": False},  # see `agilab.backends.dask.pages`
            "worker_dashboard_address": None,
            "silence_logs": False,
            "local_directory": str(make_folder(self._job.paths.staging / "dask")),
            **({"memory_limit": mib << 20} if mib else {}),
        }


def certificates(cluster: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what `distributed.Security` needs for a cluster that is not ours; None for what Dask's own files say.

    Raises
    ------
    BackendRefusedError
        The folder of the certificates lacks one.
    """
    folder = cluster.get("certificates")
    if not folder:
        return None
    for name in ("ca.pem", "cert.pem", "key.pem"):
        if not Path(folder, name).is_file():
            raise BackendRefusedError(
                f"certificates is {folder}, which has no {name}; it takes ca.pem, cert.pem, key.pem"
            )
    return tls.Certificates(Path(folder)).security()
