"""A run while it goes on: stages, partitions by state, timeline, log; cancel it, resume it, close its record."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.agi import AGI
from agilab.cli.screen import count, duration, size
from agilab.run import RESUMABLE, Run
from agilab_dashboards import markup
from agilab_dashboards.charts import MetricChart, ResourceChart, Timeline, legend
from agilab_dashboards.components import card, row, stage_table
from agilab_dashboards.daskview import DaskView
from agilab_dashboards.follow import follow
from agilab_dashboards.form import html
from agilab_dashboards.live import LEVELS, LogFilter, Watch, log_lines, sources
from agilab_dashboards.markup import Markup, chip, element, link
from agilab_dashboards.session import Session

_LOOKS = {
    "Cancel": {"variant": "outlined", "color": "error"},
    "Resume": {"color": "primary"},
    "Close its record": {"variant": "outlined"},
}
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
        self._follow = follow(run)
        self._watch = self._follow.watch
        self._head, self._stages, self._log = html(Markup("")), html(Markup("")), html(Markup(""))
        self._legend = html(Markup(""))
        self._timeline: Timeline | None = None
        self._chart = pn.Column(sizing_mode="stretch_width")
        self._buttons: dict[str, Any] = {}
        self.actions = pn.Row()
        self._source = pmui.Select(label="Said by", options={"everybody": ""}, value="", width=170)
        self._level = pmui.Select(label="Level", options={"every level": "", **_LEVELS}, value="", width=200)
        self._stage = pmui.Select(label="Stage", options={"every stage": ""}, value="", width=170)
        self._words = pmui.TextInput(label="Lines that contain", value="", width=230)
        self._dask = DaskView(session, run)
        self._used, self._curves = ResourceView(run), CurvesView()
        for widget in (self._source, self._level, self._stage, self._words):
            widget.param.watch(self._filtered, "value")
        self._seen: tuple[Any, ...] = ()
        self._offered: tuple[str, ...] = ()
        self._view = pn.Column(
            card(f"Run {run.run_id}", self._head, self._stages, self.actions),
            card("Timeline by worker", self._legend, self._chart),
            self._curves,
            self._used,
            self._dask,
            card("Log", row(self._source, self._level, self._stage, self._words), self._log),
            sizing_mode="stretch_width",
        )

    def __panel__(self) -> Viewable:
        return self._view

    async def start(self) -> RunView:
        """Show what there is, and go on looking until the run has ended."""
        await self._look(await asyncio.to_thread(self._watch.look))
        if not self._watch.ended:
            self._go_on()
        return self

    def _go_on(self) -> None:
        self._follow.join(self._look)

    async def _look(self, found: Watch) -> None:
        self._draw(found)
        self._dask.show({} if found.ended else found.cluster)
        self._used.show(found)
        self._curves.show(found)
        self._write()
        for select, every, known in (
            (self._source, "everybody", found.once("sources", lambda: sources(self._run))),
            (self._stage, "every stage", list(found.tally.stages)),
        ):
            if len(known) + 1 != len(select.options):
                select.options = {every: "", **{name: name for name in known}}
        if self._on_look is not None:
            await self._on_look(found)

    def _filtered(self, event: Any) -> None:
        self._write()

    def _write(self) -> None:
        """Show the lines that are wanted; who wants the same ones shares them."""
        said_by, level, stage, words = (w.value or "" for w in (self._source, self._level, self._stage, self._words))
        wanted, zone, found = LogFilter(said_by, level, stage, words), self._session.zone, self._watch

        def make() -> Markup:
            text = "\n".join(log_lines(found, wanted, zone=zone)) or "nothing was said"
            return element("div", element("pre", text), {"class": "log tail", "tabindex": "0", "aria-label": "log"})

        _set(self._log, found.once(("log", wanted, zone), make))

    def _draw(self, found: Watch) -> None:
        counts, state = found.once("counts", found.counts), found.state
        _set(self._head, self._said(found))
        _set(self._stages, found.once("stages", lambda: stage_table(counts)))
        cancels = not found.ended and state != "unknown"
        self._offer({"Cancel": cancels, "Resume": state in RESUMABLE, "Close its record": state == "lost"})
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
            self._chart.objects = [pn.pane.Bokeh(self._timeline.figure, sizing_mode="stretch_width")]
        self._timeline.add(found.spans[self._timeline.sent :])
        self._timeline.show_running({} if found.ended else found.running, found.now_s)
        _set(self._legend, legend(self._timeline.stages))

    def _offer(self, wanted: Mapping[str, bool]) -> None:
        """Show the buttons that make sense; each is made when it first does."""
        names = tuple(name for name, makes_sense in wanted.items() if makes_sense)
        if names != self._offered:
            self._offered = names
            self.actions.objects = [self._button(name) for name in names]

    def _button(self, name: str) -> Any:
        if name not in self._buttons:
            look: dict[str, Any] = _LOOKS[name]
            act = {"Cancel": self._cancelled, "Resume": self._resumed, "Close its record": self._sealed}[name]
            self._buttons[name] = button = pmui.Button(label=name, **look)
            self._session.on_press(button, act)
        return self._buttons[name]

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
        button = self._buttons["Cancel"]
        button.disabled = True
        try:
            await asyncio.to_thread(self._run.cancel)
        finally:
            button.disabled = False

    async def _resumed(self, event: Any) -> None:
        button = self._buttons["Resume"]
        button.disabled = True
        name = f"{self._run.app}/{self._run.run_id}"
        try:
            await asyncio.to_thread(AGI.resume, self._session.env, name, detach=True)
        finally:
            button.disabled = False
        self._watch.forget_end()
        self._go_on()

    async def _sealed(self, event: Any) -> None:
        await asyncio.to_thread(AGI.seal, self._session.env, f"{self._run.app}/{self._run.run_id}")
        self._watch.forget_end()
        self._go_on()


class CurvesView(Viewer):
    """Metrics that partitions report step by step, while they do."""

    def __init__(self) -> None:
        super().__init__()
        self._charts: dict[str, MetricChart] = {}
        self._partitions: list[str] = []
        self._place = pn.Column(sizing_mode="stretch_width")
        self._view = card("Metrics by step", self._place)
        self._view.visible = False

    def __panel__(self) -> Viewable:
        return self._view

    def show(self, found: Watch) -> None:
        """Show what is new; a metric gets its chart with its second step."""
        for name, parts in sorted(found.metrics.items()):
            if name not in self._charts:
                if not any(len(points) > 1 for points in parts.values()):
                    continue
                self._charts[name] = MetricChart(name, self._partitions)
                self._place.append(pn.pane.Bokeh(self._charts[name].figure, sizing_mode="stretch_width"))
                self._view.visible = True
            self._charts[name].show(parts)


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
            self._chart.add(points)
        elif len(sampler.samples) > 1:  # the first one says nothing of the processor
            self._chart = ResourceChart([(found.since(sample.at), sample) for sample in sampler.samples])
            self._place.objects = [pn.pane.Bokeh(each, sizing_mode="stretch_width") for each in self._chart.figures]
            self._view.visible = True


def _set(pane: pn.pane.HTML, content: Markup) -> None:
    """Send a pane its content, unless it is what it shows."""
    if pane.object != str(content):
        pane.object = str(content)
