"""PROJECT, first form: apps to choose from; one app with README, settings, source, contract, environment and runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from agilab.agi import AGI
from agilab.cli.screen import count, size
from agilab.contract import check
from agilab.digest import tree_files
from agilab.disk import measure
from agilab.errors import AgilabError, ProjectError
from agilab.installation import data_root, has_worker, worker_environment
from agilab.project import Project, locate
from agilab.trust import untrusted
from agilab_dashboards import markup, rows
from agilab_dashboards.components import Work, app_cards, card, lazy_tabs, new_app, run_table
from agilab_dashboards.form import SettingsForm, html
from agilab_dashboards.markup import Markup, chip, code, element, link
from agilab_dashboards.notebookcard import notebook_import
from agilab_dashboards.session import Session
from agilab_dashboards.template import heading

LARGEST_FILE_BYTES = 200_000
"""Of a longer source file only the beginning is shown."""
LAST = 10
"""How many of the app's runs are shown."""


async def page(session: Session) -> Viewable:
    """Return the apps, or the one of the URL."""
    if not session.app:
        projects = await asyncio.to_thread(session.env.apps)
        return pn.Column(
            heading("Apps", "Shipped ones, those that are installed, and yours."),
            app_cards(session, projects),
            pn.Spacer(height=16),
            card("Make an app of your own", new_app(session)),
            card("Make an app of a notebook", notebook_import(session)),
            sizing_mode="stretch_width",
        )
    project = await asyncio.to_thread(locate, session.app)
    crumbs = ((session.href("project", app=""), "apps"),)
    head = heading(project.name or project.root.name, project.description, crumbs=crumbs)
    run = pmui.Button(label="Run it", icon="play_arrow", color="primary", href=session.href("orchestrate"))

    tabs = await lazy_tabs(
        session,
        {
            "README": partial(_readme, project),
            "Settings": partial(_settings, session),
            "Source": partial(_source, project),
            "Contract": partial(_contract, session, project),
            "Environment": partial(_environment, session, project),
            "Runs": partial(_runs, session, project),
            "Clone": partial(_clone, session, project),
        },
    )
    return pn.Column(
        head,
        card("", html(_facts(project)), *([] if project.breaches else [run])),
        tabs,
        sizing_mode="stretch_width",
    )


def _clone(session: Session, project: Project) -> Viewable:
    said = "A clone is an app of its own: another name and uuid, every reference renamed. It is yours to change."
    return pn.Column(html(element("p", said, {"class": "soft"})), new_app(session, project), margin=(12, 0))


def _facts(project: Project) -> Markup:
    rights = "yours to edit" if project.writable else "read only; clone it to change it"
    return markup.facts(
        [
            ("folder", code(project.root)),
            ("version", project.version),
            ("licence", project.license),
            ("found", f"{project.source}, {rights}"),
            ("id", code(project.uuid) if project.uuid else ""),
        ]
    )


def _readme(project: Project) -> Markup:
    try:
        return markup.markdown((project.root / "README.md").read_text(encoding="utf-8")[:LARGEST_FILE_BYTES])
    except (OSError, UnicodeDecodeError):
        return markup.empty("No README", "Write README.md beside pyproject.toml: purpose, settings, one command.")


async def _settings(session: Session) -> Viewable:
    """Return the form of what the app is run with, whose values are kept in the workspace file."""
    try:
        env = await asyncio.to_thread(session.select)
        fields = await asyncio.to_thread(env.fields)
        resolved = await asyncio.to_thread(env.settings)
    except AgilabError as err:
        return html(markup.alert(err))
    form = SettingsForm(fields, resolved, data_root=data_root(env.project, env.home))
    if not fields:
        return html(markup.empty("No settings", "Declare them as param attributes of the app's Settings class."))
    save = pmui.Button(label="Keep as my settings", color="primary", disabled=True)
    said = html(Markup(""))
    form.param.watch(lambda event: setattr(save, "disabled", bool(form.errors) or not form.given), ["given", "errors"])

    async def keep(event: Any) -> None:
        path = await asyncio.to_thread(env.save_settings, dict(form.given))
        form.rebase(await asyncio.to_thread(env.settings))
        said.object = str(element("p", markup.join(["Kept in ", code(path), "."]), {"role": "status"}))

    session.on_press(save, keep)
    return pn.Column(form, save, said, sizing_mode="stretch_width", margin=(12, 0))


def _files(project: Project) -> Iterator[tuple[str, Path]]:
    """Yield the files of an app that are worth reading: what it declares, plans and does."""
    for folder in (project.manager, project.worker):
        if folder.is_dir():
            for name in tree_files(folder):
                path = folder / name
                if path.suffix in (".py", ".toml", ".txt", ".md") and not path.is_symlink():
                    yield f"{folder.name}/{name}", path
    yield "pyproject.toml", project.pyproject


def _source(project: Project) -> Viewable:
    files = dict(_files(project))
    choice = pmui.Select(label="File", options=list(files), sizing_mode="stretch_width", max_width=520)

    def shown(name: str) -> pn.pane.HTML:
        path = files.get(name)
        if path is None:
            return html(markup.empty("No source", "The project has no packages in src/ yet."))
        where = element("p", markup.join(["Open ", code(path), " in your editor to change it."]), {"class": "soft"})
        return html(where + element("pre", _text(path), {"class": "log", "tabindex": "0", "style": "max-height:none"}))

    return pn.Column(choice, pn.bind(shown, choice), sizing_mode="stretch_width", margin=(12, 0))


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as err:
        return f"cannot be read: {err.strerror}"
    return text if len(text) <= LARGEST_FILE_BYTES else text[:LARGEST_FILE_BYTES] + "\n..."


def _contract(session: Session, project: Project) -> Viewable:
    made = None if project.breaches else worker_environment(project, session.env.wenv)
    found = check(project, environment=made)
    held = untrusted(project.root, session.env.home) is not None
    if not found and not held:
        try:
            found = check(project, environment=made, fields=session.env.select(session.app).fields())
        except AgilabError as err:
            return html(element("p", chip("failed", "cannot be asked")) + element("p", err, {"class": "error"}))
    if not found:
        words = "keeps the app contract" + (", as far as its files tell: it is not trusted" if held else "")
        return html(element("p", chip("succeeded", words)))
    table = [(f"{item.file.name}:{item.line}", item.message, item.fix) for item in found]
    lead = chip("failed", count(len(found), "breach", "breaches"))
    return html(element("p", lead) + markup.table(("where", "what is wrong", "what to do"), table))


def _environment(session: Session, project: Project) -> Viewable:
    """Return the state of worker package and environment, and the button that makes them."""
    button = pmui.Button(label="Install", variant="outlined", disabled=bool(project.breaches))
    work = Work(button)
    work.show(_installed(session, project))

    async def start(event: Any) -> None:
        await work.do(lambda: AGI.install(session.env.select(session.app), report=work.tell))
        work.show(await asyncio.to_thread(_installed, session, project))

    session.on_press(button, start)
    return pn.Column(work, button, sizing_mode="stretch_width", margin=(12, 0))


def _installed(session: Session, project: Project) -> Markup:
    try:
        ready = not project.breaches and has_worker(project, session.env.wenv)
    except ProjectError:
        ready = False
    made = None if project.breaches else worker_environment(project, session.env.wenv)
    state = chip("succeeded", "ready") if ready else chip("waiting", "not installed yet; the first run does it too")
    lock = project.worker / "requirements.lock"
    pins = [line.split()[0] for line in _text(lock).splitlines() if "==" in line] if lock.is_file() else []
    facts = markup.facts(
        [
            ("worker package", state),
            ("environment", code(made) if made else ""),
            ("size", size(measure(made).used_bytes) if made and made.is_dir() else ""),
            ("locked", count(len(pins), "package")),
        ]
    )
    return facts + (element("pre", "\n".join(pins), {"class": "log"}) if pins else Markup(""))


def _runs(session: Session, project: Project) -> Markup:
    found = rows.history(session.env.runs.list(project.name)[:LAST]) if project.name else []
    if not found:
        to = link(session.href("orchestrate"), "run it")
        return markup.empty("It has not run yet", markup.join(["Look at its settings and ", to, "."]))
    more = link(session.href("analysis", app=project.name), "all its runs")
    return run_table(session, found) + element("p", more)
