"""`/`: run the first proof, open its run, make an app of your own; and what was run last."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from agilab.agi import AGI
from agilab.proof import APP, Proof, prove
from agilab.run import Run
from agilab_dashboards import markup, rows
from agilab_dashboards.components import Work, card, new_app, row, run_table
from agilab_dashboards.form import html
from agilab_dashboards.markup import Markup, code, element, link
from agilab_dashboards.session import Session
from agilab_dashboards.template import heading

LAST = 5
"""How many runs are shown."""


async def page(session: Session) -> Viewable:
    """Return the start page."""
    runs = await asyncio.to_thread(session.env.runs.list)
    last = html(await asyncio.to_thread(_last, session, runs))
    return pn.Column(
        heading("Reproducible runs, from one declaration", "Choose settings, look at the plan, run, keep evidence."),
        row(_proof(session, runs, last), _own_app(session), gap_px=20, align="start"),
        card("Last runs", last),
        sizing_mode="stretch_width",
    )


def _last(session: Session, runs: list[Run]) -> Markup:
    """Return the newest runs, and how to go on from there."""
    if not runs:
        return markup.empty("Nothing has run yet", "Run the first proof above: it needs a minute and a network, once.")
    to = link(session.href("orchestrate", app=runs[0].app), f"Run {runs[0].app} again")
    on = markup.join([to, " or ", link(session.href("project"), "choose another app"), "."])
    return run_table(session, rows.history(runs[:LAST])) + element("p", on, {"style": "margin-top:12px"})


def _proof(session: Session, runs: list[Run], last: pn.pane.HTML) -> Viewable:
    """Return the card that installs, runs and proves the shipped example."""
    done = next((run for run in runs if run.app == APP), None)
    button = pmui.Button(label="Run the first proof" if done is None else "Run it again", color="primary")
    work = Work(button)
    to_run = html(_next(session, done) if done else Markup(""))

    async def start(event: Any) -> None:
        proof = await work.do(lambda: _run_and_prove(session, work.tell))
        work.show(_findings(proof))
        to_run.object = str(_next(session, proof.run))
        last.object = str(await asyncio.to_thread(lambda: _last(session, session.env.runs.list())))

    session.on_press(button, start)
    about = element(
        "p",
        "Installs flight_telemetry, runs it on real flights, hashes what it left again and compares its "
        "numbers with an independent count.",
        {"class": "soft"},
    )
    return _column(card("1. See it work", html(Markup(about)), button, work, to_run))


def _run_and_prove(session: Session, tell: Any) -> Proof:
    env = session.env.select(APP)
    AGI.install(env, report=tell)
    tell("running")
    run = AGI.submit(env, env.request())
    tell(f"run {run.run_id} goes on by itself, even when this page is closed")
    run.wait().check()
    tell("comparing with an independent count")
    return prove(env, run)


def _findings(proof: Proof) -> Markup:
    items = [(markup.chip("succeeded" if one.ok else "failed", one.name), one.detail) for one in proof.findings]
    lead = "Proved." if proof.ok else "Something differs."
    return markup.join([element("p", element("strong", lead), {"role": "status"}), markup.table(("", ""), items)])


def _next(session: Session, run: Run) -> Markup:
    opened = link(session.href("analysis", app=APP, run=run.run_id), f"Open run {run.run_id}")
    changed = link(session.href("orchestrate", app=APP), "change its settings")
    return Markup(element("p", markup.join([opened, " or ", changed, "."])))


def _own_app(session: Session) -> Viewable:
    """Return the card that writes a new app project."""
    about = element(
        "p",
        markup.join(
            ["Writes six short files that run at once into ", code(Path.cwd()), ". Two of them are yours to change."]
        ),
        {"class": "soft"},
    )
    return _column(card("2. Make it yours", html(Markup(about)), new_app(session)))


def _column(content: Viewable) -> Viewable:
    return pn.Column(content, sizing_mode="stretch_width", min_width=320, max_width=600, styles={"flex": "1 1 380px"})
