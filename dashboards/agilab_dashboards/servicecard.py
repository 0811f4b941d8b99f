"""The kept-alive service of an app on a page: start it, see its health, hand it requests, stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.agi import AGI
from agilab.cli.screen import count
from agilab.env import AgiEnv
from agilab.run import Run
from agilab.service import Health
from agilab_dashboards import markup
from agilab_dashboards.components import Work, row
from agilab_dashboards.markup import Markup, chip, code, element
from agilab_dashboards.session import Session

PERIOD_MS = 2000
"""How often a service that lives is asked how it is [ms]."""

STATES = {"running": "succeeded", "starting": "running", "unreachable": "failed", "lost": "failed", "stopped": "queued"}
"""State of a service -> the state of a run whose colour and sign it is shown with."""

_WORKERS = {"starting": "running", "idle": "queued", "busy": "running", "broken": "failed"}


class ServiceCard(Viewer):
    """The service of one app.

    Parameters
    ----------
    session
        Who looks.
    env
        With the app.
    given
        Returns the settings and the cluster options that the page's forms have just now.
    watch_run
        Shows a run that the service has taken.
    """

    def __init__(
        self,
        session: Session,
        env: AgiEnv,
        *,
        given: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]],
        watch_run: Callable[[Run], Any],
    ) -> None:
        super().__init__()
        self._env, self._given, self._watch_run = env, given, watch_run
        self._start = pmui.Button(label="Start the service", variant="outlined")
        self._submit = pmui.Button(label="Send it these settings", variant="outlined")
        self._stop = pmui.Button(label="Stop the service", variant="outlined", color="error")
        self._work = Work(self._start, self._submit, self._stop, rested=lambda: None)
        self._ticker: Any = None
        for button, action in (
            (self._start, self._press_start), (self._submit, self._press_submit), (self._stop, self._press_stop),
        ):  # fmt: skip
            session.on_press(button, action)
        self._view = pn.Column(row(self._start, self._submit, self._stop), self._work, sizing_mode="stretch_width")

    def __panel__(self) -> Viewable:
        return self._view

    async def start(self) -> ServiceCard:
        """Show how the service is, and go on doing so while it lives."""
        await self._look()
        return self

    async def _press_start(self, event: Any) -> None:
        _, cluster = self._given()
        await self._do(lambda: AGI.service(self._env, "start", cluster=cluster))

    async def _press_submit(self, event: Any) -> None:
        settings, _ = self._given()
        run = await self._do(lambda: AGI.service(self._env, "submit", settings))
        await self._watch_run(run)

    async def _press_stop(self, event: Any) -> None:
        await self._do(lambda: AGI.service(self._env, "stop"))

    async def _do(self, work: Callable[[], Any]) -> Any:
        """Do something; then say how the service is, whatever has come of it."""
        try:
            return await self._work.do(work)
        finally:
            await self._look()

    async def _look(self) -> None:
        _, cluster = self._given()
        found = await asyncio.to_thread(lambda: AGI.service(self._env, "health", cluster=cluster))
        self._work.show(_described(found))
        alive, runs = found.status.alive, found.status.state == "running"
        self._start.disabled, self._stop.disabled, self._submit.disabled = alive, not alive, not runs
        if self._ticker is None and alive:
            self._ticker = pn.state.add_periodic_callback(self._look, period=PERIOD_MS)
        elif self._ticker is not None and alive != self._ticker.running:
            (self._ticker.start if alive else self._ticker.stop)()


def _described(found: Health) -> Markup:
    """Return how a service is, with its workers."""
    status, record = found.status, found.status.record
    head = [chip(STATES[status.state], status.state)]
    if not status.alive:
        advice = {
            "stopped": "Nothing of this app is kept warm. With a service, a request starts at once: its workers have "
            "loaded the app already.",
            "lost": "Its process has gone without stopping it. Nothing of it runs; start it again when you like.",
        }[status.state]
        return element("p", markup.join([*head, " ", advice]), {"data-service": status.state, "role": "status"})
    lead = markup.join([*head, " ", element("strong", found.verdict), f": {found.reason}"])
    going = status.going
    facts = markup.facts(
        [
            ("process", record.get("pid", "")),
            ("backend", (record.get("cluster") or {}).get("backend", "")),
            ("running", code(going[0]) if going else ""),
            ("waiting", count(len(going) - 1, "request") if len(going) > 1 else ""),
        ]
    )
    rows = [
        (chip(_WORKERS[one["state"]], one["state"]), one["worker"], one["pid"] or "", one["problem"])
        for one in status.workers
    ]
    workers = markup.table(("", "worker", "process", "problem"), rows) if rows else Markup("")
    return element("p", lead, {"data-service": status.state, "role": "status"}) + facts + workers
