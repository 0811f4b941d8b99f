"""ORCHESTRATE: choose settings, look at the plan, run, watch; opening the page finds a run that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from agilab.agi import AGI, Distribution
from agilab.cli.screen import count, size
from agilab.env import AgiEnv
from agilab.errors import DataError, RunNotFoundError
from agilab.installation import data_root
from agilab.layers import Resolved
from agilab.request import ClusterOptions, RunRequest
from agilab.run import FINAL_STATES, Run
from agilab_dashboards import markup, snippets
from agilab_dashboards.charts import legend, plan_chart
from agilab_dashboards.components import Work, app_cards, card, copy_text, row, sections
from agilab_dashboards.form import SettingsForm, html
from agilab_dashboards.markup import Markup, code, element
from agilab_dashboards.readiness import Readiness
from agilab_dashboards.runview import RunView
from agilab_dashboards.servicecard import ServiceCard
from agilab_dashboards.session import Session
from agilab_dashboards.template import heading

MOST_PARTITIONS = 200
"""How many partitions the table of a plan lists of each stage; the chart has all."""


async def page(session: Session) -> Viewable:
    """Return the page of the session's app, or the apps to choose from."""
    if not session.app:
        projects = await asyncio.to_thread(session.env.apps)
        return pn.Column(
            heading("Which app shall run?", "Choose one; its settings, plan and runs come next."),
            app_cards(session, projects, page="orchestrate"),
            sizing_mode="stretch_width",
        )
    env = await asyncio.to_thread(session.select)
    fields, settings, cluster = await asyncio.to_thread(_known, env)
    root = data_root(env.project, env.home)
    form = SettingsForm(fields, settings, session.remembered("settings"), data_root=root)
    options = SettingsForm(ClusterOptions.fields(), cluster, session.remembered("cluster"))
    return await _Orchestration(session, env, form, options).view()


def _known(env: AgiEnv) -> tuple[Any, Resolved, Resolved]:
    return env.fields(), env.settings(), env.cluster()


class _Orchestration:
    """The page of one app."""

    def __init__(self, session: Session, env: AgiEnv, form: SettingsForm, options: SettingsForm) -> None:
        self.session, self.env, self.form, self.options = session, env, form, options
        self.run = pmui.Button(label="Run", icon="play_arrow", color="primary")
        self.plan = pmui.Button(label="Show the plan", variant="outlined")
        self.install = pmui.Button(label="Install", variant="outlined")
        self.save = pmui.Button(label="Keep as my settings", variant="text")
        self.reset = pmui.Button(label="Reset all", variant="text")
        self.work = Work(self.run, self.plan, rested=self._rest)
        self.planned = pn.Column(sizing_mode="stretch_width")
        self.running = pn.Column(sizing_mode="stretch_width")
        for button, action in (
            (self.run, self._run), (self.plan, self._plan), (self.install, self._install), (self.save, self._save),
        ):  # fmt: skip
            session.on_press(button, action)
        self.reset.on_click(self._reset)
        form.param.watch(self._changed, ["given", "errors"])
        options.param.watch(self._changed, ["given", "errors"])
        self._changed()

    async def view(self) -> Viewable:
        """Return the page; with a run in the URL, or one that goes on, that comes first."""
        project = self.env.project
        await self._find_run()
        crumbs = ((self.session.href("orchestrate", app=""), "apps"), (self.session.href("project"), project.name))
        actions = row(self.run, self.plan, self.install, self.save, self.reset, gap_px=8)
        return pn.Column(
            heading(f"Run {project.name}", project.description, crumbs=crumbs),
            self.running,
            card("Settings", self.form, sections({"Where it runs": lambda: self.options}), actions, self.work),
            self.planned,
            sections(
                {
                    "The same as TOML, shell or Python": lambda: copy_text(self._texts, self.form, self.options),
                    "Keep it warm: a service": self._service,
                    "Is everything ready for it?": lambda: Readiness(self.session, self._hosts),
                }
            ),
            sizing_mode="stretch_width",
        )

    async def _service(self) -> ServiceCard:
        return await ServiceCard(self.session, self.env, given=self._given, watch_run=self._watch).start()

    def _given(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return self.form.given, self.options.given

    def _hosts(self) -> list[str]:
        """Return the hosts that the cluster options name."""
        workers = self.options.values.get("workers")
        return list(workers) if isinstance(workers, Mapping) else []

    async def _find_run(self) -> None:
        """Show the run of the URL, else the newest one of this app that goes on."""
        if self.session.run:
            run = await asyncio.to_thread(self.session.found_run)
        else:
            runs = await asyncio.to_thread(self.env.runs.list, self.env.project.name)
            state = await asyncio.to_thread(lambda: runs[0].state) if runs else "succeeded"
            if state in FINAL_STATES or state in ("unreadable", "lost"):
                return
            run = runs[0]
        if run.app != self.env.project.name:
            raise RunNotFoundError(f"run {run.run_id} is of {run.app}, not of {self.env.project.name}")
        self.running.objects = [await RunView(self.session, run).start()]

    def _changed(self, *events: Any) -> None:
        """Keep what is set in the URL; nothing can be planned or run while something is wrong."""
        self._rest()
        self.save.disabled = self.run.disabled
        if events:
            self.session.remember("settings", self.form.given or None)
            self.session.remember("cluster", self.options.given or None)
            self.planned.objects = []
        if self.save.disabled:
            self.work.tell("Correct what is marked above first, or reset it.", "error")
        else:
            self.work.show(Markup(""))

    def _rest(self) -> None:
        self.run.disabled = self.plan.disabled = bool(self.form.errors or self.options.errors)

    def _texts(self) -> dict[str, str]:
        project = self.env.project
        named = str(project.root) if project.source == "path" else project.name
        tables = {
            "settings": (self.form.fields, self.form.given),
            "cluster": (self.options.fields, self.options.given),
        }
        return {
            "Shell": snippets.shell(named, tables) + "\n",
            "TOML": snippets.toml(tables),
            "Python": snippets.python(named, self.form.given, self.options.given),
        }

    def _request(self) -> RunRequest:
        return self.env.request(self.form.given, cluster=self.options.given)

    async def _plan(self, event: Any) -> None:
        try:
            request, found = await self.work.do(self._distribution)
        except DataError as err:
            self.work.tell(f"{err}: or press Install")
            return
        self.work.show(Markup(""))
        self.planned.objects = [card("Plan", *_plan_view(request, found))]

    def _distribution(self) -> tuple[RunRequest, Distribution]:
        request = self._request()
        return request, AGI.get_distrib(self.env, request)

    async def _run(self, event: Any) -> None:
        self.work.tell("starting")
        await self._watch(await self.work.do(lambda: AGI.submit(self.env, self._request())))

    async def _watch(self, run: Run) -> None:
        """Show a run that has just been asked for."""
        self.session.run = run.run_id
        self.session.remember("run", run.run_id)
        self.work.show(Markup(""))
        self.running.objects = [await RunView(self.session, run).start()]

    def _reset(self, event: Any) -> None:
        self.form.reset()
        self.options.reset()

    async def _install(self, event: Any) -> None:
        await self.work.do(lambda: AGI.install(self.env, report=self.work.tell))
        self.work.tell("installed: data set, worker package and worker environment are there")

    async def _save(self, event: Any) -> None:
        given = dict(self.form.given)
        path = await asyncio.to_thread(self.env.save_settings, given)
        resolved = await asyncio.to_thread(self.env.settings)
        self.form.rebase(resolved)
        saved = markup.join(["Kept in ", code(path), ", where shell and Python find them too."])
        self.work.tell(saved, "soft")


def _plan_view(request: RunRequest, found: Distribution) -> list[Any]:
    """Return a plan as its numbers, a chart and a table."""
    total = sum(max(ref.size_bytes, 0) for ref in found.inputs)
    parts = sum(len(stage.partitions or ()) for stage in found.plan.stages)
    facts = markup.facts(
        [
            (
                "request",
                element("span", markup.join(["sha256 ", code(request.digest)]), {"data-digest": request.digest}),
            ),
            ("inputs", f"{count(len(found.inputs), 'file')}, {size(total)}"),
            ("stages", ", ".join(stage.name for stage in found.plan.stages)),
            ("partitions", f"{parts:,}"),
            ("planned later", ", ".join(found.later)),
        ]
    )
    rows: list[tuple[object, ...]] = []
    for stage in found.plan.stages:
        worker_of = {i: worker for worker, ids in found.assignment.get(stage.name, {}).items() for i in ids}
        listed = stage.partitions or ()
        rows += [
            (stage.name, part.id, f"{part.weight:g}", worker_of.get(part.id, "-"), count(len(part.inputs), "input"))
            for part in listed[:MOST_PARTITIONS]
        ]
        if len(listed) > MOST_PARTITIONS:
            rows.append((stage.name, f"and {len(listed) - MOST_PARTITIONS:,} more", "", "", ""))
    table = markup.table(("stage", "partition", "weight", "planned worker", "reads"), rows, right=(2,))
    listing = pn.Column(html(table), sizing_mode="stretch_width", max_height=420, scroll=True)
    chart: list[Any] = [html(legend([stage.name for stage in found.plan.stages]))]
    if parts:
        chart.append(pn.pane.Bokeh(plan_chart(found), sizing_mode="stretch_width"))
    return [html(facts), *chart, listing]
