"""ANALYSIS, first form: the history of runs, two of them compared, one with its views, numbers, record and hashes."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from agilab.cli.outcome import record_of
from agilab.cli.screen import number, size
from agilab.compare import compare
from agilab.errors import QueryError
from agilab.run import Run
from agilab.sidecar import change_tags, read_tags
from agilab.verification import Verification, verify
from agilab_dashboards import markup, rows, views
from agilab_dashboards.charts import metric_chart
from agilab_dashboards.comparison import comparison
from agilab_dashboards.components import (
    artifact_table,
    card,
    data_table,
    elsewhere_line,
    kinds_line,
    lazy_tabs,
    row,
    run_head,
    settings_tables,
)
from agilab_dashboards.datasets import asks_hosts
from agilab_dashboards.form import html
from agilab_dashboards.linkedcard import LinkedCard, able
from agilab_dashboards.live import ENDED
from agilab_dashboards.markup import Markup, chip, code, element, link
from agilab_dashboards.paircard import PairCard, pairs
from agilab_dashboards.runlist import RunList
from agilab_dashboards.session import Session
from agilab_dashboards.template import heading
from agilab_dashboards.viewcard import ViewCard

LARGEST_SHOWN_BYTES = 1 << 20
"""Largest manifest that is shown on the page."""
MOST_CHARTS = 12
"""How many metrics are shown step by step."""


async def page(session: Session) -> Viewable:
    """Return the history, the two runs that the URL compares, or its run."""
    if "compare" in session.query:
        return await _comparison(session)
    return await (_run(session) if session.run else _history(session))


async def _history(session: Session) -> Viewable:
    title = f"Runs of {session.app}" if session.app else "Every run"
    everywhere = ((session.href("analysis", app=""), "all runs"),) if session.app else ()
    head = heading(title, "Choose one to see what it left, or two to see what differs.", crumbs=everywhere)
    if not await asyncio.to_thread(session.env.runs.folders, session.app or None):
        to = link(session.href("orchestrate"), "start one")
        advice = markup.join(["Run an app, and it appears here: ", to, "."])
        return pn.Column(head, html(markup.empty("No runs yet", advice)), sizing_mode="stretch_width")
    return pn.Column(head, await RunList(session).start(), sizing_mode="stretch_width")


async def _comparison(session: Session) -> Viewable:
    names = session.query["compare"].split(",")
    if len(names) != 2:
        raise QueryError(f"two runs can be compared, not {len(names)}; tick two in the list of runs")
    runs = [session.env.runs.get(name) for name in names]
    found = await asyncio.to_thread(compare, session.env, runs)
    crumbs = ((session.href("analysis", app=""), "all runs"),)
    head = heading("Two runs compared", "What differs comes first.", crumbs=crumbs)
    catalogue = await asyncio.to_thread(views.catalogue, session.env, runs[0])
    known = await asyncio.to_thread(pairs, catalogue, (runs[0], runs[1]))
    seen = [card("Side by side", PairCard(session, catalogue, known).start())] if known else []
    return pn.Column(head, comparison(session, found), *seen, sizing_mode="stretch_width")


async def _run(session: Session) -> Viewable:
    run = await asyncio.to_thread(session.found_run)
    session.app = run.app
    crumbs = ((session.href("analysis", app=""), "all runs"), (session.href("analysis"), run.app))
    summary = await asyncio.to_thread(_summary, session, run)
    catalogue = await asyncio.to_thread(views.catalogue, session.env, run)
    away = await asyncio.to_thread(asks_hosts, run)
    known = () if away else await asyncio.to_thread(catalogue.shown, run)
    linkable = tuple(source for source in known if able(source, catalogue))

    async def views_of() -> Viewable:
        return await ViewCard(session, run, catalogue).start()

    async def linked() -> Viewable:
        found = linkable or tuple(
            source for source in await asyncio.to_thread(catalogue.shown, run) if able(source, catalogue)
        )
        return LinkedCard(session, catalogue, found).start() if found else html(_NOTHING_LINKED)

    makers = {
        **({"Views": views_of} if known or away or catalogue.problems or run.state not in ENDED else {}),
        **({"Linked": linked} if linkable or away else {}),
        "Metrics": partial(_metrics, run),
        "Settings": partial(settings_tables, run),
        "Artifacts": partial(artifact_table, run),
        "Partitions": partial(_partitions, run),
        "Environment": partial(_environment, run),
        "Manifest": partial(_manifest, run),
    }
    verifies, said = _verification(run)
    actions = [verifies, *(_button(label, session.href(page, run=run.run_id)) for page, label in NEXT.items())]
    return pn.Column(
        heading(f"Run {run.run_id}", crumbs=crumbs),
        card("Summary", html(summary), row(*actions, gap_px=8), said, _tags(session, run)),
        await lazy_tabs(session, makers),
        sizing_mode="stretch_width",
    )


_NOTHING_LINKED = markup.empty("Nothing to link", "The run has left no points with a time or a number beside them.")
NEXT = {"orchestrate": "Watch or run again", "workflow": "Its stages"}


def _button(label: str, href: str) -> Viewable:
    return pmui.Button(label=label, href=href, variant="outlined")


def _tags(session: Session, run: Run) -> Viewable:
    """Return what somebody has said about a run, to be changed; it lies outside of the seal."""
    known = read_tags(run.paths)
    tags = pmui.TextInput(label="Tags", value=" ".join(known.tags), placeholder="baseline", width=260)
    note = pmui.TextInput(label="Note", value=known.note, sizing_mode="stretch_width", max_width=520, min_width=200)
    save = pmui.Button(label="Keep", variant="outlined", disabled=True)
    said = html(Markup(""))

    def changed(event: Any) -> None:
        save.disabled = False

    async def keep(event: Any) -> None:
        wanted = set(tags.value.replace(",", " ").split())
        before = set(read_tags(run.paths).tags)
        after = await asyncio.to_thread(
            lambda: change_tags(run.paths, add=sorted(wanted - before), remove=sorted(before - wanted), note=note.value)
        )
        tags.value, save.disabled = " ".join(after.tags), True
        said.object = str(element("p", "Kept beside the record, outside of its seal.", {"role": "status"}))

    for widget in (tags, note):
        widget.param.watch(changed, "value_input")
    session.on_press(save, keep)
    return pn.Column(row(tags, note, save), said, sizing_mode="stretch_width")


def _summary(session: Session, run: Run) -> Markup:
    head = run_head(session, run)
    left = kinds_line(run)
    if left:
        head = head + element("p", f"It left {left}.", {"class": "soft"}) + elsewhere_line(run)
    return head


def _metrics(run: Run) -> Viewable:
    found = rows.metrics(run)
    if not found:
        advice = "A worker reports them with part.metric(name, value), an app in summarize()."
        return html(markup.empty("No metrics", advice))
    table = markup.table(("metric", "value"), [(row["name"], number(row["value"])) for row in found], right=(1,))
    by_step = list(rows.series(run).items())[:MOST_CHARTS]
    charts = [pn.pane.Bokeh(metric_chart(name, parts), sizing_mode="stretch_width") for name, parts in by_step]
    return pn.Column(*charts, html(table), sizing_mode="stretch_width")


def _partitions(run: Run) -> Viewable:
    found = rows.partitions(run)
    if not found:
        return html(markup.empty("Nothing has committed", "Partitions appear here once their files are safe."))
    hidden = ("started", "ended", "peak_rss_bytes")
    return data_table(
        [
            {**{name: row[name] for name in row if name not in hidden}, "memory": size(row["peak_rss_bytes"] or 0)}
            for row in found
        ]
    )


def _environment(run: Run) -> Markup:
    if not record_of(run):
        return markup.empty("Not known yet", "The record is written when the run ends.")
    facts = markup.facts((name, code(value)) for name, value in rows.environment(run) if value)
    locked = rows.lock(run)
    listed = element("pre", "\n".join(locked), {"class": "log"}) if locked else element("p", "nothing")
    return facts + element("h3", "The worker environment is locked to") + listed


def _manifest(run: Run) -> Markup:
    record = record_of(run)
    if not record:
        return markup.empty("No manifest yet", "It is written and sealed when the run ends.")
    text = json.dumps(record, indent=2, ensure_ascii=False)
    where = element("p", markup.join(["Lies in ", code(run.paths.manifest), ", sealed by ", code(run.paths.sums.name)]))
    if len(text) > LARGEST_SHOWN_BYTES:
        text = text[:LARGEST_SHOWN_BYTES] + "\n..."
    return where + element("pre", text, {"class": "log", "tabindex": "0", "aria-label": "manifest"})


def _verification(run: Run) -> tuple[Viewable, Viewable]:
    """Return the button that hashes everything again, and what it finds."""
    button = pmui.Button(label="Verify", color="primary", disabled=not record_of(run))
    said = html(Markup(""))

    async def start(event: Any) -> None:
        button.disabled = True
        said.object = str(element("p", "hashing every file again", {"role": "status"}))
        try:
            found = await asyncio.to_thread(verify, run.paths)
        finally:
            button.disabled = False
        said.object = str(_found(found))

    button.on_click(start)
    return button, said


def _found(found: Verification) -> Markup:
    if found.ok:
        words = f"{found.checked:,} files hashed again, all as sealed"
        if found.elsewhere:
            words += f"; {len(found.elsewhere):,} lie on other hosts and were not looked at"
        return element("p", chip("succeeded", words), {"role": "status", "data-verified": "yes"})
    problems = [(code(item.path), item.problem) for item in found.problems[:50]]
    lead = chip("failed", f"{len(found.problems):,} things are not as sealed")
    return element(
        "div", lead + markup.table(("file", "what is wrong"), problems), {"role": "status", "data-verified": "no"}
    )
