"""A run while it goes on: stages, partitions by state, timeline, log; cancel it, resume it, close its record."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.agi import AGI
from agilab.cli.screen import count, duration, size
from agilab.run import RESUMABLE, Run
from agilab_dashboards import markup
from agilab_dashboards.charts import ResourceChart, Timeline, legend
from agilab_dashboards.components import card, stage_table
from agilab_dashboards.daskview import DaskView
from agilab_dashboards.form import html
from agilab_dashboards.live import LEVELS, LogFilter, Watch, log_lines, sources, watch
from agilab_dashboards.markup import Markup, chip, element, link
from agilab_dashboards.session import Session

PERIOD_MS = 400
"""How often a page asks for what is new [ms]."""
_LEVELS = {level if level == LEVELS[-1] else f"{level} and worse": level for level in LEVELS}


class RunView(Viewer):
    """A run as it goes on.

    Parameters
    ----------
    session
        Who looks.
    run
        At what.
    on_look
        Told what is known, each time that something may be new.

    Attributes
    ----------
    actions
        The buttons that cancel it, resume it and close its record.
    """

    def __init__(
        self, session: Session, run: Run, *, on_look: Callable[[Watch], Awaitable[None]] | None = None
    ) -> None:
        super().__init__()
        self._on_look = on_look
        self._session, self._run = session, run
        self._watch: Watch = watch(run)
        self._head, self._stages, self._log = html(Markup("")), html(Markup("")), html(Markup(""))
        self._legend = html(Markup(""))
        self._timeline: Timeline | None = None
        self._chart = pn.Column(sizing_mode="stretch_width")
        self._cancel = pmui.Button(label="Cancel", variant="outlined", color="error", visible=False)
        self._resume = pmui.Button(label="Resume", color="primary", visible=False)
        self._seal = pmui.Button(label="Close its record", variant="outlined", visible=False)
        self._source = pmui.Select(label="Said by", options={"everybody": ""}, value="", width=170)
        self._level = pmui.Select(label="Level", options={"every level": "", **_LEVELS}, value="", width=200)
        self._stage = pmui.Select(label="Stage", options={"every stage": ""}, value="", width=170)
        self._words = pmui.TextInput(label="Lines that contain", value="", width=230)
        session.on_press(self._cancel, self._cancelled)
        session.on_press(self._resume, self._resumed)
        session.on_press(self._seal, self._sealed)
        self._dask = DaskView(session, run)
        self._used = ResourceView(run)
        for widget in (self._source, self._level, self._stage, self._words):
            widget.param.watch(self._filtered, "value")
        self.actions = pn.Row(self._cancel, self._resume, self._seal)
        self._seen: tuple[Any, ...] = ()
        self._ticker: Any = None
        self._view = pn.Column(
            card(
                f"Run {run.run_id}",
                self._head,
                self._stages,
                self.actions,
            ),
            card("Timeline by worker", self._legend, self._chart),
            self._used,
            self._dask,
            card("Log", pn.FlexBox(self._source, self._level, self._stage, self._words, gap="12px"), self._log),
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
        lines = await asyncio.to_thread(self._lines)
        if found.ended and self._ticker is not None and self._ticker.running:
            self._ticker.stop()
        self._draw(found)
        self._dask.show({} if found.ended else found.cluster)
        self._used.show(found)
        self._write(lines)
        for select, every, known in (
            (self._source, "everybody", sources(self._run)),
            (self._stage, "every stage", list(found.tally.stages)),
        ):
            if len(known) + 1 != len(select.options):
                select.options = {every: "", **{name: name for name in known}}
        if self._on_look is not None:
            await self._on_look(found)

    def _lines(self) -> list[str]:
        said_by, level, stage, words = (w.value or "" for w in (self._source, self._level, self._stage, self._words))
        return log_lines(self._watch, LogFilter(said_by, level, stage, words), zone=self._session.zone)

    async def _filtered(self, event: Any) -> None:
        self._write(await asyncio.to_thread(self._lines))

    def _write(self, lines: list[str]) -> None:
        text = "\n".join(lines) if lines else "nothing was said"
        _set(
            self._log, element("div", element("pre", text), {"class": "log tail", "tabindex": "0", "aria-label": "log"})
        )

    def _draw(self, found: Watch) -> None:
        counts = found.counts()
        _set(self._head, self._said(found))
        _set(self._stages, stage_table(counts))
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
        timeline = self._timeline

        def send() -> None:
            assert timeline is not None
            timeline.add(found.spans[timeline.sent :])
            timeline.show_running({} if found.ended else found.running, found.now_s)

        _later(send)

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


class ResourceView(Viewer):
    """What the run uses of this machine, while it goes on.

    Parameters
    ----------
    run
        The run.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._said = html(Markup(""))
        self._place = pn.Row(sizing_mode="stretch_width")
        self._view = card("Resource use on this machine", self._said, self._place)
        self._view.visible = False
        self._chart: ResourceChart | None = None
        self._sent = 0

    def __panel__(self) -> Viewable:
        return self._view

    def show(self, found: Watch) -> None:
        """Show what is new."""
        sampler = found.sampler
        new = sampler.samples[-(sampler.taken - self._sent) :] if sampler.taken > self._sent else []
        if not new:
            return
        self._sent = sampler.taken
        points = [(found.since(sample.at), sample) for sample in new]
        last = new[-1]
        facts = (count(last.processes, "process", "processes"), f"{last.cores:.1f} of {os.cpu_count()} cores busy")
        line = " · ".join([*facts, f"{size(last.memory_bytes)} of memory, shared pages counted for each"])
        _set(self._said, element("p", line, {"class": "soft small"}))
        if self._chart is not None:
            chart = self._chart
            _later(lambda: chart.add(points))
        elif len(sampler.samples) > 1:  # the first one says nothing of the processor
            self._chart = chart = ResourceChart([(found.since(sample.at), sample) for sample in sampler.samples])
            self._place.objects = [pn.pane.Bokeh(each, sizing_mode="stretch_width") for each in chart.figures]
            self._view.visible = True


def _later(send: Callable[[], None]) -> None:
    """Change a chart when its document may be changed: not in the middle of what it is sending."""
    document = pn.state.curdoc
    if document is None:
        send()
    else:
        document.add_next_tick_callback(send)


def _set(pane: pn.pane.HTML, content: Markup) -> None:
    """Send a pane its content, unless it is what it shows."""
    if pane.object != str(content):
        pane.object = str(content)
