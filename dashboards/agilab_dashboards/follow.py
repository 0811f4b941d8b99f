"""One reader of a live run for all sessions that look at it: it reads once, and lets each session draw in its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import panel as pn
from panel.io import hold
from panel.io.state import set_curdoc

from agilab.run import Run
from agilab_dashboards.live import Watch, watch

PERIOD_S = 0.4
"""How much time is left to everything else between two turns of a session [s]."""

Draw = Callable[[Watch], Awaitable[None]]


class Follow:
    """Sessions that follow a run, as long as it goes on.

    A session that nobody is connected to, or that has not drawn yet what it
    was given before, is left out until the next time: it misses nothing,
    since each draws what is known by then.

    Parameters
    ----------
    run
        The run.

    Attributes
    ----------
    watch
        What is known of it.
    """

    def __init__(self, run: Run) -> None:
        self.watch = watch(run)
        self._sessions: dict[Any, Draw] = {}
        self._drawing: set[Any] = set()
        self._task: asyncio.Task[None] | None = None

    def join(self, draw: Draw) -> None:
        """Let the current session draw what is known, again and again, until the run or the session ends."""
        document = pn.state.curdoc
        if document is None:
            return
        if document not in self._sessions:
            pn.state.on_session_destroyed(lambda context: self._leave(document))
        self._sessions[document] = draw
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._go_on())

    def _leave(self, document: Any) -> None:
        self._sessions.pop(document, None)
        self._drawing.discard(document)

    async def _go_on(self) -> None:
        while self._sessions:
            documents = list(self._sessions)
            for document in documents:
                found = await asyncio.to_thread(self.watch.look)
                if self._is_ready(document):
                    self._let_draw(document, found)
                    if found.ended:
                        del self._sessions[document]
                await asyncio.sleep(PERIOD_S / len(documents))  # evenly, so that what somebody types comes in between

    def _is_ready(self, document: Any) -> bool:
        session = getattr(document.session_context, "session", None)
        connected = session is not None and session.connection_count > 0
        return connected and document in self._sessions and document not in self._drawing

    def _let_draw(self, document: Any, found: Watch) -> None:
        """Let one session draw, when its document may be changed, and send all of that in one message."""
        draw = self._sessions[document]
        self._drawing.add(document)

        async def turn() -> None:
            try:
                with hold(document):
                    await draw(found)
            finally:
                self._drawing.discard(document)

        with set_curdoc(document):
            document.add_next_tick_callback(turn)


def follow(run: Run) -> Follow:
    """Return what all sessions of this server follow a run with."""
    found: Follow = pn.state.as_cached(f"follow {run.paths.root}", lambda: Follow(run), ttl=3600)
    return found
