"""ANALYSIS, first form: the history of runs, and one run with its settings, metrics, artifacts, record and hashes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from agilab.cli.outcome import record_of
from agilab.cli.screen import number, size
from agilab.run import Run
from agilab.verification import Verification, verify
from agilab_dashboards import markup, rows
from agilab_dashboards.components import artifact_table, card, data_table, elsewhere_line, kinds_line, run_head
from agilab_dashboards.form import html
from agilab_dashboards.markup import Markup, chip, code, element, link
from agilab_dashboards.session import Session
from agilab_dashboards.template import heading

LARGEST_SHOWN_BYTES = 1 << 20
"""Largest manifest that is shown on the page."""


async def page(session: Session) -> Viewable:
    """Return the history, or the run of the URL."""
    return await (_run(session) if session.run else _history(session))


async def _history(session: Session) -> Viewable:
    runs = await asyncio.to_thread(session.env.runs.list, session.app or None)
    found = await asyncio.to_thread(rows.history, runs)
    title = f"Runs of {session.app}" if session.app else "Every run"
    everywhere = ((session.href("analysis", app=""), "all runs"),) if session.app else ()
    head = heading(title, "Newest first. Choose one to see what it left.", crumbs=everywhere)
    if not found:
        to = link(session.href("orchestrate"), "start one")
        advice = markup.join(["Run an app, and it appears here: ", to, "."])
        return pn.Column(head, html(markup.empty("No runs yet", advice)), sizing_mode="stretch_width")
    shown = [
        {
            "run": str(link(session.href("analysis", app=row["app"], run=row["run"]), row["run"])),
            "app": row["app"],
            "state": f"{markup.SIGNS.get(row['state'], '●')} {row['state']}",
            "started": markup.when(row["created"], session.zone),
            "took [s]": row["duration_s"],
            "partitions": row["partitions"],
            **({"why": row["error"]} if any(one["error"] for one in found) else {}),
        }
        for row in found
    ]
    table = data_table(shown, {"run": 175, "state": 110, "started": 155, "took [s]": 95, "partitions": 105})
    table.formatters = {"run": "html"}
    return pn.Column(head, card("", table), sizing_mode="stretch_width")


async def _run(session: Session) -> Viewable:
    run = await asyncio.to_thread(session.found_run)
    session.app = run.app
    crumbs = ((session.href("analysis", app=""), "all runs"), (session.href("analysis"), run.app))
    summary, tabs = await asyncio.to_thread(_summary, session, run)
    again = pmui.Button(
        label="Watch or run again", href=session.href("orchestrate", run=run.run_id), variant="outlined"
    )
    verifies, said = _verification(run)
    return pn.Column(
        heading(f"Run {run.run_id}", crumbs=crumbs),
        card("Summary", html(summary), pn.FlexBox(verifies, again, gap="8px"), said),
        pmui.Tabs(*tabs, dynamic=True, sizing_mode="stretch_width"),
        sizing_mode="stretch_width",
    )


def _summary(session: Session, run: Run) -> tuple[Markup, list[tuple[str, Viewable]]]:
    head = run_head(session, run)
    left = kinds_line(run)
    if left:
        head = head + element("p", f"It left {left}.", {"class": "soft"}) + elsewhere_line(run)
    tabs: list[tuple[str, Viewable]] = [
        ("Metrics", html(_metrics(run))),
        ("Settings", html(_settings(run))),
        ("Artifacts", artifact_table(run)),
        ("Partitions", _partitions(run)),
        ("Environment", html(_environment(run))),
        ("Manifest", html(_manifest(run))),
    ]
    return head, tabs


def _metrics(run: Run) -> Markup:
    found = rows.metrics(run)
    if not found:
        return markup.empty("No metrics", "A worker reports them with part.metric(name, value), an app in summarize().")
    return markup.table(("metric", "value"), [(row["name"], number(row["value"])) for row in found], right=(1,))


def _settings(run: Run) -> Markup:
    parts = []
    for title, table in (("Settings", "settings"), ("Cluster options", "cluster")):
        found = [(code(row["name"]), row["value"], row["source"], row["where"]) for row in rows.settings(run, table)]
        parts.append(element("h3", title) + markup.table(("name", "value", "source", "where"), found))
    command = record_of(run).get("reproduce")
    if command:
        parts.append(element("p", markup.join(["The same again, in the run's folder: ", code(command)])))
    return markup.join(parts)


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
