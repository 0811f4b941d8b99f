"""`Reach`, the hosts on which runs have left artifacts, for a process that looks at these; connected when asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from agilab.backends.base import Keeper, backend
from agilab.paths import WenvPaths
from agilab.run import Run

if TYPE_CHECKING:
    from agilab.raster.far import Far


class Reach:
    """Hosts by their names, of every backend that has some.

    One connection leads to each, and one helper process answers there. Both end
    with `close`, or with this process.

    Parameters
    ----------
    wenv
        AGILAB_WENV here.
    report
        Told progress, a line at a time, from any thread.
    """

    def __init__(self, wenv: WenvPaths, report: Callable[[str], None] = lambda line: None) -> None:
        self._wenv, self._report = wenv, report
        self._keepers: dict[str, Keeper] = {}
        self._turn = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Reach:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._stack.close()

    def far(self, run: Run, host: str) -> Far:
        """Return what answers for tables of a run that lie on a host; nothing is asked of it yet.

        Raises
        ------
        BackendRefusedError
            The run's backend leaves nothing on hosts.
        """
        name = run.request["cluster"]["backend"]
        with self._turn:
            if name not in self._keepers:
                self._keepers[name] = self._stack.enter_context(backend(name).keeper(self._wenv, self._report))
            return self._keepers[name].far(host)
