"""`Drawing`, where a page's pictures are made: beside the loop that serves all, and only the newest that is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import panel as pn

from agilab.raster.scan import Cancelled, check, threads

T = TypeVar("T")
QUIET_S = 0.08
"""How long a zoom rests before it is drawn anew [s]."""


class Drawing:
    """One place on a page; a request takes the place of the one before, which stops at its next block of rows.

    So nobody has more than one picture made at a time, and those of different sessions take turns.
    """

    def __init__(self) -> None:
        self._newest = self._at_work = 0
        if pn.state.curdoc is not None:
            pn.state.on_session_destroyed(lambda context: self.stop())

    async def make(self, work: Callable[[Cancelled], T]) -> T:
        """Return what a function makes in a thread.

        Parameters
        ----------
        work
            Takes what says, from any thread, whether the answer is not wanted any more.

        Raises
        ------
        SupersededError
            Another request has taken its place.
        """
        self._newest += 1
        mine = self._newest

        def cancelled() -> bool:
            return mine != self._newest

        def made() -> T:
            check(cancelled)
            return work(cancelled)

        self._at_work += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(_painters(), made)
        finally:
            self._at_work -= 1
        check(cancelled)
        return found

    @property
    def busy(self) -> bool:
        """Whether something is being made."""
        return self._at_work > 0

    def stop(self) -> None:
        """Let go of what is being made."""
        self._newest += 1


def sent(shown: Any) -> tuple[Any, Any]:
    """Return a HoloViews plot, and the pipe by which another element takes the place of what it shows."""
    import holoviews as hv

    pipe = hv.streams.Pipe(data=shown)
    # Of a plot whose elements overlay each other HoloViews reports ranges and boxes only if it has such a stream.
    return hv.DynamicMap(lambda data, resetting=False: data, streams=[pipe, hv.streams.PlotReset()]), pipe


def soon(work: Callable[[], None]) -> None:
    """Change the document when it may be: not in the middle of what it is sending."""
    pn.state.execute(work, schedule=True)


@cache
def _painters() -> ThreadPoolExecutor:
    # Of their own, so that long tables do not keep pages waiting that read a small file in a thread.
    return ThreadPoolExecutor(max(2, threads()), "agilab-draw")
