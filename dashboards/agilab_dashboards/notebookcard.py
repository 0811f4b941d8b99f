"""A notebook on its way to become an app: the review is shown before anything is made; nothing of it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from agilab.cli.screen import count
from agilab.errors import ProjectError
from agilab.notebook.importing import Looked, import_notebook, look
from agilab_dashboards import markup
from agilab_dashboards.chooser import Chooser, inside
from agilab_dashboards.components import row
from agilab_dashboards.form import html
from agilab_dashboards.markup import Markup, code, element, link
from agilab_dashboards.session import Session

ENDINGS = (".ipynb", ".py")


def notebook_import(session: Session) -> Viewable:
    """Return what looks at a notebook in the server's folder, and makes an app project of it once that was seen."""
    folder = Path.cwd()
    file = pmui.TextInput(label="Notebook or percent script", placeholder="analysis.ipynb", width=320)
    chooser = Chooser([folder], lambda path: file.param.update(value=str(path)), folders_only=False)
    name = pmui.TextInput(label="Name of the app", placeholder="after the file", width=220)
    whole = pmui.Checkbox(label="One stage of all cells", value=False)
    ask = pmui.Button(label="Look at it", variant="outlined")
    make = pmui.Button(label="Make the app", color="primary", disabled=True)
    said = html(Markup(""))
    seen: list[Looked] = []

    def forget(event: Any) -> None:
        seen.clear()
        make.disabled = True

    for widget in (file, name, whole):
        widget.param.watch(forget, "value")

    async def review(event: Any) -> None:
        forget(event)
        path = _inside(folder, file.value.strip())
        found = await asyncio.to_thread(look, path, name=name.value.strip(), one_stage=whole.value)
        seen.append(found)
        said.object = str(_review(found))
        make.disabled = False

    async def write(event: Any) -> None:
        if not seen:
            raise ProjectError("look at the notebook first; what was seen is what is made")
        found = seen[-1]
        forget(event)
        made = await asyncio.to_thread(lambda: import_notebook(found.file, folder, home=session.env.home, looked=found))
        root = made.project.root
        to = link(session.href("project", app=str(root)), f"Open {made.project.name}")
        parts = ["Wrote ", code(root), ", not trusted. ", to, ", read it, then: ", code(f"agilab trust {root}")]
        said.object = str(element("p", markup.join(parts), {"role": "status"}))

    session.on_press(ask, review)
    session.on_press(make, write)
    first = row(file, chooser.button, name, whole)
    return pn.Column(first, chooser, row(ask, make), said, sizing_mode="stretch_width")


def _inside(folder: Path, given: str) -> Path:
    """Return the notebook that was named; it lies in the server's folder, whatever a browser sends."""
    path = folder / given
    if not given or not inside(path, [folder]) or path.suffix not in ENDINGS or not path.is_file():
        raise ProjectError(f"{given!r:.120} is no notebook or script in {folder}; put it there, or name another one")
    return path


def _review(found: Looked) -> Markup:
    """Return what was decided, and why."""
    stages = ", ".join(stage.name for stage in found.decisions.stages)
    settings = ", ".join(setting.name for setting in found.decisions.settings)
    facts = markup.facts(
        [
            ("app", found.name),
            ("stages", stages),
            ("settings", settings or "none"),
            ("needs", ", ".join(found.requirements) or "nothing beyond Python"),
            ("files that come along", count(len(found.brought), "file") if found.brought else ""),
            ("sha256", code(found.sha256)),
        ]
    )
    cells = [(note.cell or "", note.what, note.why) for note in sorted(found.notes, key=lambda note: note.cell)]
    lead = element("p", "Nothing is written yet, and nothing of it has run.", {"class": "soft", "role": "status"})
    return element("div", lead + facts + markup.table(("cell", "decided", "why"), cells), {"data-review": found.name})
