"""The pool of a service on hosts: what `KeptDaskPool` keeps, on Dask workers that are on hosts."""

from __future__ import annotations

from collections.abc import Callable

from agilab.backends.base import Job, on_hosts
from agilab.backends.dask.kept import KeptDaskPool
from agilab.backends.ssh.pool import SshPool


class KeptSshPool(KeptDaskPool, SshPool):
    """Entry processes on hosts, for one run after the other.

    A host that is lost is tried again for good. New code takes another pool, which deploys it.
    """

    patient = True

    def get_ready(self, report: Callable[[str], None]) -> None:
        """Wait until hosts are ready, then let workers there load what the pool is for.

        Parameters
        ----------
        report
            Told what happens on the hosts, a line at a time.

        Raises
        ------
        BackendRefusedError
            Names every host that is not ready.
        AgilabError
            What a host says.
        """
        for text in self.prepare():
            if text:
                report(text)
        self.found()
        self.load(list(on_hosts(self.hosts)))

    def reload(self, job: Job) -> bool:
        return False

    def kill(self) -> None:
        self._tell_loop(self._hurry)

    def trouble(self, worker: str) -> str:
        host = on_hosts(self.owner.cluster["workers"])[worker]
        return (self.fleet.lost.get(host, "") if self.fleet is not None else "") or super().trouble(worker)

    def _hurry(self) -> None:
        """End what a run has on hosts, at once."""
        if self._link is not None:
            self._hurrying = self._loop.create_task(self._link.end_runners(0.0))
