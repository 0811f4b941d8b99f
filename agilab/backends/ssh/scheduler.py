"""`HostScheduler`: the scheduler of a cluster on a named host, and the tunnel to it; else that is a `HostProcess`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncssh

from agilab.backends.base import Job
from agilab.backends.dask import tls
from agilab.backends.dask.cluster import Host
from agilab.backends.ssh.deploy import Backplane
from agilab.backends.ssh.link import Link
from agilab.backends.ssh.listening import LOOPBACK, Listening, called, no_port


class HostScheduler(Host):
    """The scheduler of a cluster, on a host.

    Parameters
    ----------
    job
        Whose it is: a run, or a service.

    Attributes
    ----------
    security
        Arguments of `distributed.Security`: keys that were made for this cluster.
    link
        The host, once it has started.
    """

    is_own = True
    pgid = start_time = 0

    def __init__(self, job: Job) -> None:
        assert job.home is not None
        self._job = job
        self._keys = tls.issue(job.home.tls / job.paths.run_id, job.paths.run_id)
        self.security = self._keys.security()
        self.link: Link | None = None
        self._process: Listening | None = None
        self._listener: asyncssh.SSHListener | None = None

    async def start(self, link: Link, backplane: Backplane) -> Mapping[str, Any]:
        """Start it; return what `HostProcess.ask` does.

        Raises
        ------
        HostError
            The host is not there, forwards no ports, or the scheduler does not start.
        AgilabError
            What the host says.
        """
        self.link, self._process = link, Listening(link, self._job, backplane=backplane, what="scheduler")
        assert self.security is not None
        order = {"name": called(self._job)[0], "keys": tls.pem_of(self.security)}
        port = await self._process.start("agilab.backends.ssh.daskscheduler", order)
        try:
            self._listener = await (await link.connection()).forward_local_port(LOOPBACK, 0, LOOPBACK, port)
        except (asyncssh.Error, OSError) as err:
            raise no_port(link, str(err)) from err
        return {"scheduler": f"tls://{LOOPBACK}:{self._listener.get_port()}", "dashboard": None}

    async def end(self) -> None:
        """End it, if it is there; then the tunnel."""
        if self._process is not None:
            await self._process.end()
        if self._listener is not None:
            self._listener.close()
        self._process = self._listener = None

    def kill(self) -> None:
        """Do nothing: it ends with the connection."""

    def close(self) -> None:
        """Remove the keys."""
        self._keys.remove()
