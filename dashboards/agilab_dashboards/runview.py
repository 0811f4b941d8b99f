"""A run while it goes on: stages, partitions by state, timeline, log; cancel it, resume it, close its record."""

from __future__ import annotations

import asyncio
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.agi import AGI
from agilab.cli.screen import duration
from agilab.run import Run
from agilab_dashboards import markup
from agilab_dashboards.charts import Timeline, legend
from agilab_dashboards.components import card
from agilab_dashboards.daskview import DaskView
from agilab_dashboards.form import html
from agilab_dashboards.live import Watch, log_lines, sources, watch
from agilab_dashboards.markup import COLOURS, Markup, chip, element, link
from agilab_dashboards.session import Session

PERIOD_MS = 400
"""How often a page asks for what is new [ms]."""
RESUMABLE = ("failed", "cancelled", "lost")


class RunView(Viewer):
    """A run as it goes on.

    Parameters
    ----------
    session
        Who looks.
    run
        At what.
    """

    def __init__(self, session: Session, run: Run) -> None:
        super().__init__()
        self._session, self._run = session, run
        self._watch: Watch = watch(run)
        self._head, self._stages, self._log = html(Markup("")), html(Markup("")), html(Markup(""))
        self._legend = html(Markup(""))
        self._timeline: Timeline | None = None
        self._chart = pn.Column(sizing_mode="stretch_width")
        self._cancel = pmui.Button(label="Cancel", variant="outlined", color="error", visible=False)
        self._resume = pmui.Button(label="Resume", color="primary", visible=False)
        self._seal = pmui.Button(label="Close its record", variant="outlined", visible=False)
        self._source = pmui.Select(label="Said by", options={"everybody": ""}, value="", width=200)
        self._words = pmui.TextInput(label="Lines that contain", value="", width=260)
        session.on_press(self._cancel, self._cancelled)
        session.on_press(self._resume, self._resumed)
        session.on_press(self._seal, self._sealed)
        self._dask = DaskView(session, run)
        for widget in (self._source, self._words):
            widget.param.watch(self._filtered, "value")
        self._seen: tuple[Any, ...] = ()
        self._ticker: Any = None
        self._view = pn.Column(
            card(
                f"Run {run.run_id}",
                self._head,
                self._stages,
                pn.Row(self._cancel, self._resume, self._seal, margin=(8, 0, 0, 0)),
            ),
            card("Timeline by worker", self._legend, self._chart),
            self._dask,
            card("Log", pn.FlexBox(self._source, self._words, gap="12px"), self._log),
            sizing_mode="stretch_width",
        )

    def __panel__(self) -> Viewable:
        return self._view

    async def start(self) -> RunView:
        """Show what there is, and go on looking until the run has ended."""
        await self._tick()
        if not self._watch.ended:
            self._go_on()
        return self

    def _go_on(self) -> None:
        if self._ticker is None:
            self._ticker = pn.state.add_periodic_callback(self._tick, period=PERIOD_MS)
        elif not self._ticker.running:
            self._ticker.start()

    async def _tick(self) -> None:
        found = await asyncio.to_thread(self._watch.look)
        lines = await asyncio.to_thread(log_lines, found, **self._filter)
        if found.ended and self._ticker is not None and self._ticker.running:
            self._ticker.stop()
        self._draw(found)
        self._dask.show({} if found.ended else found.cluster)
        self._write(lines)
        known = sources(self._run)
        if len(known) + 1 != len(self._source.options):
            self._source.options = {"everybody": "", **{name: name for name in known}}

    @property
    def _filter(self) -> dict[str, str]:
        return {
            "source": self._source.value or "",
            "words": self._words.value or "",
            "zone": self._session.zone,
        }

    async def _filtered(self, event: Any) -> None:
        self._write(await asyncio.to_thread(log_lines, self._watch, **self._filter))

    def _write(self, lines: list[str]) -> None:
        text = "\n".join(lines) if lines else "nothing was said"
        _set(
            self._log, element("div", element("pre", text), {"class": "log tail", "tabindex": "0", "aria-label": "log"})
        )

    def _draw(self, found: Watch) -> None:
        counts = found.counts()
        _set(self._head, self._said(found))
        _set(self._stages, _stage_table(counts))
        state = found.state
        self._cancel.visible = not found.ended and state != "unknown"
        self._resume.visible = state in RESUMABLE
        self._seal.visible = state == "lost"
        seen = (len(found.spans), len(found.running), state)
        if seen == self._seen and not found.running:
            return
        self._seen = seen
        if self._timeline is None:
            if not (found.spans or found.running):
                _set(
                    self._legend, markup.empty("Nothing has been dispatched yet", "Partitions appear here as they run.")
                )
                return
            workers = {span.worker for span in found.spans} | {worker for _, worker, _ in found.running.values()}
            self._timeline = Timeline(
                [row["stage"] for row in counts],
                sorted(workers),
                partitions=sum(row["partitions"] or 0 for row in counts),
            )
            self._timeline.add(found.spans)
            self._chart.objects = [pn.pane.Bokeh(self._timeline.figure, sizing_mode="stretch_width")]
        _set(self._legend, legend(self._timeline.stages))
        self._feed(found)

    def _feed(self, found: Watch) -> None:
        """Send the chart what is new, when the document may be changed."""
        timeline, document = self._timeline, pn.state.curdoc

        def send() -> None:
            assert timeline is not None
            timeline.add(found.spans[timeline.sent :])
            timeline.show_running({} if found.ended else found.running, found.now_s)

        if document is None:
            send()
        else:
            document.add_next_tick_callback(send)

    def _said(self, found: Watch) -> Markup:
        session, run = self._session, self._run
        rows: list[tuple[str, object]] = [("state", chip(found.state))]
        if found.ended:
            if run.error:
                rows.append(("why", element("span", run.error, {"class": "error wrap"})))
            rows.append(("next", link(session.href("analysis", app=run.app, run=run.run_id), "See what it left")))
            if found.state == "lost":
                rows.append(("", "The process that ran it has gone. Resume it, or close its record as failed."))
        else:
            rows.append(("since", markup.when(found.tally.created, session.zone)))
            rows.append(("", "It goes on by itself when this page or the server is closed."))
        rows.append(("time", duration(found.now_s)))
        return element("div", markup.facts(rows), {"role": "status", "data-state": found.state})

    async def _cancelled(self, event: Any) -> None:
        self._cancel.disabled = True
        try:
            await asyncio.to_thread(self._run.cancel)
        finally:
            self._cancel.disabled = False

    async def _resumed(self, event: Any) -> None:
        self._resume.disabled = True
        name = f"{self._run.app}/{self._run.run_id}"
        try:
            await asyncio.to_thread(AGI.resume, self._session.env, name, detach=True)
        finally:
            self._resume.disabled = False
        self._watch.forget_end()
        self._go_on()

    async def _sealed(self, event: Any) -> None:
        await asyncio.to_thread(AGI.seal, self._session.env, f"{self._run.app}/{self._run.run_id}")
        self._watch.forget_end()
        await self._tick()


def _set(pane: pn.pane.HTML, content: Markup) -> None:
    """Send a pane its content, unless it is what it shows."""
    if pane.object != str(content):
        pane.object = str(content)


def _stage_table(counts: list[dict[str, Any]]) -> Markup:
    """Return stages with a bar each, and partitions by state."""
    if not counts:
        return element("p", "Waiting for the plan.", {"class": "soft"})
    cells = []
    for row in counts:
        total = row["partitions"]
        part = row["done"] / total if total else 0.0
        fill = COLOURS["failed"] if row["failed"] else COLOURS["committed"]
        style = f"width:{min(part, 1.0):.1%};--fill:{fill}"
        bar = element("span", element("i", "", {"style": style}), {"class": "bar", "aria-hidden": "true"})
        numbers = [row[name] for name in ("committed", "running", "waiting", "failed", "retries")]
        cells.append(
            (row["stage"], bar, "?" if total is None else f"{total:,}", *(f"{number:,}" for number in numbers))
        )
    heads = ("stage", "progress", "partitions", "committed", "running", "waiting", "failed", "tried again")
    return markup.table(heads, cells, right=(2, 3, 4, 5, 6, 7))
