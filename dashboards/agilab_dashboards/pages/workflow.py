"""WORKFLOW, first form: the stages of an app or of a run as a graph, live; one of them looked into; run and resume."""

from __future__ import annotations

import asyncio
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from agilab.cli.outcome import request_of
from agilab.cli.screen import size
from agilab.errors import DataError
from agilab.project import locate
from agilab.run import Run
from agilab_dashboards import markup, rows
from agilab_dashboards.components import app_cards, card, data_table, row, settings_tables
from agilab_dashboards.form import html
from agilab_dashboards.live import LogFilter, Watch, log_lines, watch
from agilab_dashboards.markup import Markup, chip, element, link
from agilab_dashboards.runview import RunView
from agilab_dashboards.session import Session, href
from agilab_dashboards.stagegraph import StageGraph, boxes
from agilab_dashboards.stages import StageNode, input_rows, of_plan, of_run, plan_rows, states
from agilab_dashboards.template import heading

LAST = 50
"""How many of the app's runs can be chosen."""
PLAN = "the plan, not run"
WIDTHS = {"weight": 90, "reads": 90, "planned worker": 150, "partitions": 105, "kind": 90, "size": 90, "sha256": 150}
TABS = ("Plan", "Inputs", "Artifacts", "Settings", "Log")


async def page(session: Session) -> Viewable:
    """Return the stages of the URL's run, or of its app's plan; without an app those to choose from."""
    if not session.app and not session.run:
        projects = await asyncio.to_thread(session.env.apps)
        return pn.Column(
            heading("Whose stages?", "Choose an app to see its stages, and how far its runs have come."),
            app_cards(session, projects, page="workflow"),
            sizing_mode="stretch_width",
        )
    if session.run:
        chosen: Run | None = await asyncio.to_thread(session.found_run)
        name = chosen.app
        session.app = session.app or name
        runs = await asyncio.to_thread(session.env.runs.list, name)
    else:
        name = (await asyncio.to_thread(locate, session.app)).name
        runs = await asyncio.to_thread(session.env.runs.list, name)
        chosen = None if "plan" in session.query or not runs else runs[0]
    crumbs = ((session.href("workflow", app=""), "apps"), (session.href("project"), name))
    head = heading(f"Stages of {name}", "Click one to see its plan, inputs, artifacts and log.", crumbs=crumbs)
    choice = await asyncio.to_thread(_choice, session, runs, chosen)
    shown = await (_planned(session) if chosen is None else _Stages(session, chosen).view())
    return pn.Column(head, choice, shown, sizing_mode="stretch_width")


def _choice(session: Session, runs: list[Run], chosen: Run | None) -> Viewable:
    """Return the choice between the app's runs and its plan, as links."""
    found = rows.history(runs[:LAST])
    here = "" if chosen is None else chosen.run_id
    options = {PLAN: "", **{f"{one['run']}  {one['state']}": one["run"] for one in found}}
    if here not in options.values():
        options[here] = here
    select = pmui.Select(label="Run", options=options, value=here, width=340, margin=(10, 0, 16, 0))
    go = "window.location.search = base + (cb_obj.value ? `&run=${cb_obj.value}` : '&plan=yes')"
    select.jscallback(args={"base": href("workflow", app=session.app)}, value=go)
    return select


async def _planned(session: Session) -> Viewable:
    """Return the stages as they would be run now."""
    run = pmui.Button(label="Run it", icon="play_arrow", color="primary", href=session.href("orchestrate"))
    env = await asyncio.to_thread(session.select)
    try:
        nodes = await asyncio.to_thread(lambda: of_plan(env.planner.plan(env.settings().values)[1]))
    except DataError as err:
        advice = markup.join([f"{err}. ", link(session.href("project"), "Install it"), " first."])
        return html(markup.empty("Its stages are not known yet", advice))
    return await _Stages(session, None, nodes, (run,)).view()


class _Stages:
    """A graph, and the stage that is looked into."""

    def __init__(
        self, session: Session, run: Run | None, nodes: tuple[StageNode, ...] = (), actions: tuple[Any, ...] = ()
    ) -> None:
        self.session, self.run, self.nodes, self.actions = session, run, nodes, actions
        self.watch: Watch | None = None
        self.seen: Any = None
        self.graph = StageGraph(sizing_mode="stretch_width")
        self.said = html(Markup(""))
        self.place = pn.Column(sizing_mode="stretch_width")
        self.tabs = pmui.Tabs(*((name, pn.Column(sizing_mode="stretch_width")) for name in self.names),
                              dynamic=True, sizing_mode="stretch_width")  # fmt: skip
        tab = session.query.get("tab", "")
        self.tabs.active = self.names.index(tab) if tab in self.names else 0

    @property
    def names(self) -> tuple[str, ...]:
        return TABS if self.run is not None else TABS[:2]

    async def view(self) -> Viewable:
        """Return the parts of the page."""
        actions: list[Any] = list(self.actions)
        if self.run is not None:
            self.watch = watch(self.run)
            followed = RunView(self.session, self.run, on_look=self._looked)
            actions = [followed.actions, *self._links(self.run)]
            self.nodes = await asyncio.to_thread(of_run, self.run)
            await followed.start()
        names = [node.name for node in self.nodes]
        if not names:
            return html(markup.empty("No stages yet", "The plan is being made; they appear here when it is."))
        wanted = self.session.query.get("stage", "")
        self.graph.selected = wanted if wanted in names else names[0]
        self._redraw()
        await self._fill()
        self.graph.param.watch(self._selected, "selected")
        self.tabs.param.watch(self._opened, "active")
        return pn.Column(
            card("", self.said, self.graph, row(*actions, gap_px=8)),
            card("", self.place, self.tabs),
            sizing_mode="stretch_width",
        )

    def _links(self, run: Run) -> list[Any]:
        """Return the ways on: the same settings again, and what it left."""
        given = {
            name: value
            for name, value in (request_of(run).get("settings") or {}).items()
            if (request_of(run).get("provenance") or {}).get(name, {}).get("source") == "caller"
        }
        again = self.session.again(run.app, given)
        return [
            pmui.Button(label="Run again", variant="outlined", href=again),
            pmui.Button(label="What it left", variant="outlined", href=href("analysis", app=run.app, run=run.run_id)),
        ]

    @property
    def node(self) -> StageNode:
        return next(node for node in self.nodes if node.name == self.graph.selected)

    async def _looked(self, found: Watch) -> None:
        """Follow the run: what has changed is drawn, and the open tab renewed when its stage has changed."""
        if any(node.partitions is None for node in self.nodes) or len(found.tally.stages) > len(self.nodes):
            self.nodes = await asyncio.to_thread(of_run, found.run)
        if self.graph.selected and self._redraw():
            await self._fill()

    def _redraw(self) -> bool:
        """Bring the graph up to date; say whether the stage that is looked into has changed."""
        found = states(self.nodes, self.watch)
        self.graph.stages = boxes(self.nodes, found)
        if self.watch is not None:
            self.said.object = str(element("p", chip(self.watch.state), {"data-state": self.watch.state}))
        now = (self.graph.selected, found.get(self.graph.selected, {}).get("seen"))
        changed, self.seen = now != self.seen, now
        return changed

    async def _selected(self, event: Any) -> None:
        self.session.remember("stage", event.new)
        self._redraw()
        await self._fill()

    async def _opened(self, event: Any) -> None:
        self.session.remember("tab", self.names[event.new] if event.new else None)
        await self._fill()

    async def _fill(self) -> None:
        """Show the open tab of the stage that is looked into."""
        node, name = self.node, self.names[self.tabs.active]
        made = await asyncio.to_thread(self._tab, node, name)
        tab = self.tabs[self.tabs.active]
        after = f"after {', '.join(node.after)}" if node.after else "waits for no other"
        head = html(element("h2", node.name) + element("p", after, {"class": "soft"}))

        def show() -> None:
            if node.name == self.graph.selected:  # nobody has chosen another meanwhile
                self.place.objects, tab.objects = [head], [made]

        pn.state.execute(show, schedule=True)  # after an await the document may be in the middle of sending

    def _tab(self, node: StageNode, name: str) -> Viewable:
        if name == "Plan":
            return _table(plan_rows(node), "Not planned yet", "It is planned from what the stages before it leave.")
        if name == "Inputs":
            found = [{**row, "size_bytes": size(row["size_bytes"] or 0)} for row in input_rows(node)]
            return _table(found, "It reads nothing", "Its partitions have parameters only.")
        assert self.run is not None
        assert self.watch is not None
        if name == "Artifacts":
            keys = ("name", "partition", "kind", "size_bytes", "sha256", "location")
            mine = [row for row in rows.artifacts(self.run) if row["stage"] == node.name]
            found = [{**{key: row[key] for key in keys}, "size_bytes": size(row["size_bytes"])} for row in mine]
            return _table(found, "Nothing left yet", "A partition's files appear here when it has committed.")
        if name == "Settings":
            return html(settings_tables(self.run))
        lines = log_lines(self.watch, LogFilter(stage=node.name), zone=self.session.zone)
        text = "\n".join(lines) if lines else "nothing was said"
        return html(element("div", element("pre", text), {"class": "log tail", "tabindex": "0", "aria-label": "log"}))


def _table(found: list[dict[str, Any]], title: str, advice: str) -> Viewable:
    if not found:
        return html(markup.empty(title, advice))
    named = [{key.removesuffix("_bytes"): value for key, value in row.items()} for row in found]
    return data_table(named, {name: width for name, width in WIDTHS.items() if name in named[0]})
