"""What two pages or more show: a card, work that takes a while, a table of runs, artifacts, texts to copy, apps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, TypeVar

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.cli.outcome import record_of
from agilab.cli.screen import count, duration, size
from agilab.copies import clone
from agilab.project import Project
from agilab.run import Run
from agilab.template import create
from agilab_dashboards import markup, rows
from agilab_dashboards.form import SettingsForm, html
from agilab_dashboards.markup import COLOURS, Markup, chip, code, element, link
from agilab_dashboards.session import Session

GAP = (0, 0, 20, 0)
LARGEST_TABLE = 15
"""How many rows a table shows before it has pages."""

Maker = Callable[[], Any]
"""Returns content, as `Markup` or to be viewed: a coroutine function, or one for a thread."""
_Result = TypeVar("_Result")


def card(title: str, *content: Any) -> pn.Column:
    """Return a titled part of a page."""
    head = [html(element("h2", title))] if title else []
    return pn.Column(*head, *content, sizing_mode="stretch_width", margin=GAP, styles=_CARD)


_CARD = {
    "background": "var(--mui-palette-background-paper, transparent)",
    "border": "1px solid var(--mui-palette-divider, #ddd)",
    "border-radius": "4px",
    "padding": "12px 16px",
    "box-sizing": "border-box",
}


def row(*content: Any, gap_px: int = 12, align: str = "center") -> pn.Row:
    """Return things side by side, on further lines where they do not fit."""
    styles = {"gap": f"{gap_px}px", "flex-wrap": "wrap"}
    for one in content:
        if isinstance(one, Viewable):
            one.align = align
    return pn.Row(*content, sizing_mode="stretch_width", styles=styles)


class Work(Viewer):
    """Something that takes a while: it runs in a thread, with a bar moving, its buttons resting, and what it says.

    Parameters
    ----------
    buttons
        What nobody may press meanwhile.
    rested
        Called at the end instead of letting every button be pressed again.
    """

    def __init__(self, *buttons: Any, rested: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._buttons, self._rested = buttons, rested
        self._text, self._moving = Markup(""), False
        self._pane = html(Markup(""))

    def __panel__(self) -> Viewable:
        return self._pane

    def show(self, content: Markup) -> None:
        """Show what there is to say."""
        self._text = content
        self._pane.object = str(content + _MOVING if self._moving else content)

    def tell(self, line: object, kind: str = "soft wrap", role: str = "status") -> None:
        """Show a line: how far it is, or what has come of it."""
        self.show(element("p", line, {"class": kind, "role": role}))

    async def do(self, work: Callable[[], _Result]) -> _Result:
        """Do it, and return what it returns."""
        self._moving = True
        self.show(self._text)
        for button in self._buttons:
            button.disabled = True
        try:
            return await asyncio.to_thread(work)
        finally:
            self._moving = False
            self.show(self._text)
            if self._rested is not None:
                self._rested()
            else:
                for button in self._buttons:
                    button.disabled = False


_MOVING = element("div", Markup("<i></i>"), {"class": "moving", "role": "progressbar", "aria-label": "at work"})


def app_cards(session: Session, projects: Sequence[Project], *, page: str = "project") -> Viewable:
    """Return a card per app, with a search over names and descriptions."""
    search = pmui.TextInput(label="Search apps", sizing_mode="stretch_width", max_width=420, margin=(10, 0))

    def shown(words: str) -> pn.pane.HTML:
        wanted = words.lower().split()
        found = [p for p in projects if all(word in f"{p.name} {p.description}".lower() for word in wanted)]
        if not found:
            return html(
                markup.empty("No app is called so", "Search for another word, or make an app on the home page.")
            )
        cards = element("div", markup.join(_app_card(session, p, page) for p in found), {"class": "cards"})
        pane = html(cards, _CARDS)
        pane.margin = (5, 0)  # as wide as what stands below
        return pane

    results = pn.bind(shown, search.param.value_input)
    return pn.Column(*([search] if len(projects) > 3 else []), results, sizing_mode="stretch_width")


def _app_card(session: Session, project: Project, page: str) -> Markup:
    if project.breaches:
        about = element("p", project.breaches[0], {"class": "error small wrap"})
        name = project.name or project.root.name
    else:
        about, name = element("p", project.description or "no description", {"class": "soft"}), project.name
    chosen = str(project.root) if project.source in ("path", "current") else name
    foot = element("span", f"{project.version} · {project.source}".strip(" ·"), {"class": "soft small"})
    inner = markup.join([element("h3", name), about, foot])
    return element("a", inner, {"class": "card", "href": session.href(page, app=chosen)})


_CARDS = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 16px; }
a.card { display: block; padding: 14px 16px; border-radius: 8px; border: 1px solid var(--mui-palette-divider, #ddd);
  color: inherit; overflow-wrap: anywhere; }
a.card:hover, a.card:focus-visible { border-color: var(--mui-palette-primary-main, #1f6feb); text-decoration: none; }
a.card h3 { color: var(--mui-palette-primary-main, #1f6feb); }
a.card p { display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical; overflow: hidden; }
"""


def new_app(session: Session, source: Project | None = None) -> Viewable:
    """Return what writes a new app project into the server's folder: from a template, or as a clone of another one."""
    folder = Path.cwd()
    name = pmui.TextInput(label="Name of your app", placeholder="my_app", width=260)
    button = pmui.Button(label="Make it" if source is None else "Clone it", color="primary")
    said = html(Markup(""))

    def write() -> Project:
        chosen = name.value.strip() or "my_app"
        return create(chosen, folder) if source is None else clone(source, chosen, folder, home=session.env.home)

    async def make(event: Any) -> None:
        button.disabled = True
        try:
            project = await asyncio.to_thread(write)
        finally:
            button.disabled = False
        to = link(session.href("project", app=str(project.root)), f"Open {project.name}")
        said.object = str(element("p", markup.join(["Wrote ", code(project.root), ". ", to, "."]), {"role": "status"}))

    session.on_press(button, make)
    return pn.Column(row(name, button), said, sizing_mode="stretch_width")


async def lazy_tabs(session: Session, makers: Mapping[str, Maker]) -> Viewable:
    """Return tabs each of which is made when it is looked at first; which one that is stands in the URL.

    Parameters
    ----------
    session
        Whose URL.
    makers
        Title -> what returns its content.
    """
    titles, places = list(makers), _Places(makers)
    asked = session.query.get("tab", "")
    active = titles.index(asked) if asked in titles else 0
    tabs = pmui.Tabs(*places.columns.items(), active=active, sizing_mode="stretch_width")

    async def chosen(event: Any) -> None:
        session.remember("tab", titles[event.new])
        await places.fill(titles[event.new])

    tabs.param.watch(chosen, "active")
    await places.fill(titles[tabs.active])
    return tabs


def sections(makers: Mapping[str, Maker]) -> Viewable:
    """Return parts of a page that are folded, each made when it is opened first.

    Parameters
    ----------
    makers
        Title -> what returns its content.
    """
    titles, places = list(makers), _Places(makers)
    folded = pmui.Accordion(*places.columns.items(), title_variant="subtitle1", sizing_mode="stretch_width", margin=GAP)

    async def opened(event: Any) -> None:
        for number in event.new:
            await places.fill(titles[number])

    folded.param.watch(opened, "active")
    return folded


class Folded(Viewer):
    """A part of a page that is folded: what stands in it is looked at by nobody, and not made, until it is opened."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._content: Any = None
        self._place = pn.Column(sizing_mode="stretch_width")
        self._view = pmui.Accordion(
            (title, self._place), title_variant="subtitle1", sizing_mode="stretch_width", margin=(8, 0, 0, 0)
        )
        self._view.param.watch(self._opened, "active")

    def __panel__(self) -> Viewable:
        return self._view

    def put(self, content: Any) -> None:
        """Let something else stand in it."""
        self._content = content
        self._opened(None)

    def _opened(self, event: Any) -> None:
        shown = [self._content] if self._view.active else []
        if self._place.objects != shown:
            self._place.objects = shown


class _Places:
    """Places by title, each with a content that is made once, when it is wanted."""

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        self._makers = dict(makers)
        self.columns = {title: pn.Column(html(Markup("Loading ...")), sizing_mode="stretch_width") for title in makers}

    async def fill(self, title: str) -> None:
        make, column, curdoc = self._makers.pop(title, None), self.columns[title], pn.state.curdoc
        if make is None:
            return
        content = await (make() if iscoroutinefunction(make) else asyncio.to_thread(make))
        content = html(content) if isinstance(content, Markup) else content
        if curdoc is None:
            column.objects = [content]
        else:
            curdoc.add_next_tick_callback(lambda: setattr(column, "objects", [content]))


def run_table(session: Session, runs: Iterable[dict[str, Any]], *, page: str = "analysis") -> Markup:
    """Return runs as a table whose first column leads to each."""
    return markup.table(
        ("run", "app", "state", "started", "took", "partitions"),
        [
            (
                link(session.href(page, app=row["app"], run=row["run"]), row["run"]),
                row["app"],
                chip(row["state"]),
                markup.when(row["created"], session.zone),
                duration(row["duration_s"]),
                row["partitions"],
            )
            for row in runs
        ],
        right=(4, 5),
    )


def artifact_table(run: Run) -> Viewable:
    """Return every artifact of a run, with filters, in pages."""
    found = rows.artifacts(run)
    if not found:
        return html(markup.empty("No artifacts yet", "A partition's files appear here when it has committed."))
    shown = [
        {
            **{name: row[name] for name in ("name", "stage", "partition", "kind")},
            "size": size(row["size_bytes"]),
            "sha256": row["sha256"][:12],  # the manifest has all of it
            "hashed by": row["hashed_by"],
            "location": row["location"],
        }
        for row in found
    ]
    return data_table(shown, {"sha256": 120, "size": 90, "kind": 90, "hashed by": 115, "location": 105})


def data_table(
    values: Sequence[rows.Row], widths: dict[str, int] | None = None, *, selectable: bool | str = False
) -> Any:
    """Return rows as a table that sorts and filters in the browser."""
    import pandas as pd

    frame = pd.DataFrame(list(values))
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    filters = {name: {"type": "input", "func": "like", "placeholder": "filter"} for name in texts}
    return pn.widgets.Tabulator(
        frame,
        disabled=True,
        show_index=False,
        pagination="local" if len(frame) > LARGEST_TABLE else None,
        page_size=LARGEST_TABLE,
        header_filters=filters if len(frame) > 5 else None,
        widths=widths or {},
        formatters={name: {"type": "textarea"} for name in texts},  # which makes a row as high as its texts need
        configuration={"columnDefaults": {"headerWordWrap": True}},
        layout="fit_columns",
        sizing_mode="stretch_width",
        selectable=selectable,
        stylesheets=[_TABULATOR],
    )


_TABULATOR = """
.tabulator .tabulator-cell, .tabulator .tabulator-col { font-size: 13px !important; }
.tabulator .tabulator-cell a { color: var(--mui-palette-primary-main, #1f6feb); }
.tabulator .tabulator-cell { overflow-wrap: anywhere; }
"""


def copy_text(texts: Callable[[], dict[str, str]], *forms: SettingsForm) -> Viewable:
    """Return texts under tabs that follow some forms, each with a button that copies it."""
    panes = {name: _Copied(name, text) for name, text in texts().items()}

    def renew(event: Any) -> None:
        for name, text in texts().items():
            panes[name].text = text

    for form in forms:
        form.param.watch(renew, "given")
    return pmui.Tabs(*((name, pane.view) for name, pane in panes.items()), sizing_mode="stretch_width")


class _Copied:
    """A text that can be copied."""

    def __init__(self, name: str, text: str) -> None:
        self._pane = html(Markup(""))
        self._text = ""
        self.text = text
        button = pmui.IconButton(icon="content_copy", size="small", description=f"copy {name}")
        button.js_on_click(args={"pane": self._pane}, code=_COPY)
        self.view = pn.Row(self._pane, button, sizing_mode="stretch_width", margin=(8, 0, 0, 0))

    @property
    def text(self) -> str:
        return self._text

    @text.setter
    def text(self, value: str) -> None:
        self._text = value
        self._pane.object = str(element("pre", code(value)))


_COPY = """
const holder = document.createElement('div')
holder.innerHTML = new DOMParser().parseFromString(pane.text, 'text/html').documentElement.textContent
navigator.clipboard.writeText(holder.textContent)
"""


def run_head(session: Session, run: Run) -> Markup:
    """Return what a run is, in a line."""
    value = rows.history([run])[0]
    found = [
        ("state", chip(value["state"])),
        ("started", markup.when(value["created"], session.zone)),
        ("took", duration(value["duration_s"]) if value["duration_s"] is not None else ""),
        ("partitions", value["partitions"]),
        ("why", element("span", value["error"], {"class": "error"}) if value["error"] else ""),
        ("folder", code(run.paths.root)),
    ]
    return markup.facts(found)


def elsewhere_line(run: Run) -> Markup:
    """Return which hosts artifacts lie on, and the command that brings them here; nothing when all are here."""
    found = rows.elsewhere(run)
    if not found:
        return Markup("")
    named = ", ".join(f"{row['count']:,} ({size(row['size_bytes'])}) on host {row['host']}" for row in found)
    words = [f"Of these, {named}. To have them here: ", code(f"agilab fetch {run.run_id}")]
    return element("p", markup.join(words), {"class": "soft"})


def kinds_line(run: Run) -> str:
    """Return how many artifacts of which kind a run has left."""
    found = rows.kinds(run)
    each = ", ".join(f"{row['count']:,} of kind {row['kind']} ({size(row['size_bytes'])})" for row in found)
    return f"{count(sum(row['count'] for row in found), 'artifact')}: {each}" if found else ""


def settings_tables(run: Run) -> Markup:
    """Return the settings and cluster options of a run with where each came from, and how to run it again."""
    parts = []
    for title, table in (("Settings", "settings"), ("Cluster options", "cluster")):
        found = [(code(row["name"]), row["value"], row["source"], row["where"]) for row in rows.settings(run, table)]
        parts.append(element("h3", title) + markup.table(("name", "value", "source", "where"), found))
    command = record_of(run).get("reproduce")
    if command:
        parts.append(element("p", markup.join(["The same again, in the run's folder: ", code(command)])))
    return markup.join(parts)


def stage_table(counts: list[dict[str, Any]]) -> Markup:
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
