"""Backend `dask`, as the supervisor finds it; Dask itself is imported only when a pool opens.

`pool` is the supervisor's end: it makes leases of what it is given and events
of what comes back. `lease` is the other end, in the Dask workers. `cluster`
finds or starts the scheduler between them, in a process of its own (`host`)
that the keys of `tls` protect. `backplane` compares versions before a start,
and sends what a foreign worker lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agilab.backends.base import Backend, Capabilities, Job, KeptPool, Pool
from agilab.errors import BackendRefusedError


class DaskBackend(Backend):
    """Runs partitions in entry processes that lease runners drive on the workers of a Dask cluster."""

    name = "dask"
    capabilities = Capabilities()

    def takes_slots(self, cluster: Mapping[str, Any]) -> bool:
        return not (cluster.get("scheduler") or cluster.get("cluster_class"))

    def admit(self, cluster: Mapping[str, Any]) -> None:
        super().admit(cluster)
        if cluster.get("scheduler") and "://" not in cluster["scheduler"]:
            raise BackendRefusedError(
                f"scheduler is {cluster['scheduler']!r}, which is no address; write tcp://HOST:PORT, or choose backend "
                "'ssh' to have one started on a host of that name"
            )

    def host_of(self, worker: str, cluster: Mapping[str, Any]) -> str:
        return super().host_of(worker, cluster) if self.takes_slots(cluster) else ""

    def open(self, job: Job) -> Pool:
        _require_one_cluster(job)
        from agilab.backends.dask.cluster import HostProcess

        host = HostProcess(job) if not job.cluster.get("scheduler") else None  # Dask is imported here and there
        from agilab.backends.dask.pool import DaskPool

        return DaskPool(job, host)

    def keep(self, job: Job, report: Callable[[str], None]) -> KeptPool:
        if job.cluster.get("scheduler"):
            raise BackendRefusedError(
                f"scheduler is {job.cluster['scheduler']}: a service that is killed could not end what it keeps there; "
                "leave it out, or name a cluster_class"
            )
        _require_one_cluster(job)
        from agilab.backends.dask.cluster import HostProcess

        host = HostProcess(job)
        from agilab.backends.dask.kept import KeptDaskPool

        pool = KeptDaskPool(job, host)
        pool.load([f"{self.name}-{number}" for number in range(job.slots)])
        return pool


def _require_one_cluster(job: Job) -> None:
    """Refuse options that name no cluster, or two."""
    if job.cluster.get("scheduler") and job.cluster.get("cluster_class"):
        raise BackendRefusedError(
            f"scheduler is {job.cluster['scheduler']} and cluster_class {job.cluster['cluster_class']}; "
            "give one of them: a scheduler that runs, or a class that starts one"
        )
    if job.cluster["cluster_options"] and not job.cluster["cluster_class"]:
        raise BackendRefusedError(
            "cluster_options are given without a cluster_class to take them; name it, for example "
            "distributed.LocalCluster"
        )
