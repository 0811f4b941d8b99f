"""Backend `local`: entry processes on this machine, driven by the supervisor itself; no Dask, no threads."""

from __future__ import annotations

from collections.abc import Callable

from agilab.backends.base import Backend, Capabilities, Job, KeptPool, Pool
from agilab.backends.entries import EntryPool, Launch
from agilab.backends.kept import KeptEntryPool


class LocalBackend(Backend):
    """Runs partitions in processes of the worker environment on this machine."""

    name = "local"
    capabilities = Capabilities()

    def open(self, job: Job) -> Pool:
        return EntryPool(Launch.of(job), self.worker_names(1))

    def keep(self, job: Job, report: Callable[[str], None]) -> KeptPool:
        return KeptEntryPool(Launch.of(job), tuple(f"{self.name}-{number}" for number in range(job.slots)))
