"""Backend `ssh`, as the supervisor finds it: a Dask cluster of one run, whose workers are on hosts reached over SSH.

`pool` checks hosts, deploys to them and starts the scheduler, on this machine or
on a named host (`scheduler`, and `daskscheduler` there).
`fleet` keeps a Dask worker running on every host: each is a `member`, started
there as `daskworker`, with a tunnel each way. `slots` is what a pool's event
loop does differently where slots are on hosts; a run is a `stay` on each.
`supply` takes to a host what partitions read, `collect` brings back what they
wrote. `kept` is the pool of a service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from agilab.backends.base import Backend, Capabilities, Job, Keeper, KeptPool, Pool, on_hosts
from agilab.backends.ssh.names import split_host
from agilab.errors import BackendRefusedError
from agilab.paths import WenvPaths

if TYPE_CHECKING:
    from agilab.backends.dask.cluster import HostProcess
    from agilab.backends.ssh.scheduler import HostScheduler

_OF_DASK = ("cluster_class", "certificates")


class SshBackend(Backend):
    """Runs partitions in entry processes on hosts, driven by lease runners in one Dask worker on each."""

    name = "ssh"
    capabilities = Capabilities(needs_hosts=True)

    def takes_slots(self, cluster: Mapping[str, Any]) -> bool:
        return False

    def admit(self, cluster: Mapping[str, Any]) -> None:
        super().admit(cluster)
        hosts = cluster["workers"]
        if not isinstance(hosts, Mapping):
            raise BackendRefusedError(
                "backend 'ssh' needs the hosts and how many workers each may run; write --workers alpha=2,beta=4, or "
                "workers = {alpha = 2, beta = 4} under [cluster]"
            )
        for host in hosts:
            split_host(host)
        if len(on_hosts(hosts)) < sum(hosts.values()):
            raise BackendRefusedError(
                f"workers names hosts that only differ in signs: {', '.join(hosts)}; give them other names in "
                "~/.ssh/config"
            )
        if given := [name for name in _OF_DASK if cluster.get(name)]:
            raise BackendRefusedError(
                f"{given[0]} is for backend 'dask'; backend 'ssh' starts scheduler and workers itself: leave it out"
            )
        if scheduler := cluster.get("scheduler"):
            if "://" in scheduler:
                raise BackendRefusedError(
                    f"scheduler is {scheduler}, and one that runs already is for backend 'dask'; backend 'ssh' starts "
                    "its own: name the host that it is to run on, or leave it out"
                )
            split_host(scheduler)

    def keeper(self, wenv: WenvPaths, report: Callable[[str], None]) -> AbstractContextManager[Keeper]:
        from agilab.backends.ssh.hosts import Hosts

        return Hosts(wenv, report)

    def open(self, job: Job) -> Pool:
        host = scheduler_of(job)  # asyncssh and Dask are imported here and there
        from agilab.backends.ssh.pool import SshPool

        return SshPool(job, host)

    def keep(self, job: Job, report: Callable[[str], None]) -> KeptPool:
        host = scheduler_of(job)
        from agilab.backends.ssh.kept import KeptSshPool

        pool = KeptSshPool(job, host)
        try:
            pool.get_ready(report)
        except BaseException:
            pool.end()
            raise
        return pool


def scheduler_of(job: Job) -> HostProcess | HostScheduler:
    """Return what is going to hold the scheduler of a cluster: a process here, or one on the host that was named."""
    if job.cluster["scheduler"]:
        from agilab.backends.ssh.scheduler import HostScheduler

        return HostScheduler(job)
    from agilab.backends.dask.cluster import HostProcess

    return HostProcess(job, alone=True)
