"""Two runs beside each other on a page: what differs first, then what is the same, as `agilab compare` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable

from agilab.cli.compare import difference_text, tells, title_of, value_text
from agilab.compare import INFORMATION, Comparison, Row
from agilab_dashboards import markup, rows
from agilab_dashboards.components import card
from agilab_dashboards.form import html
from agilab_dashboards.markup import Markup, chip, element, link
from agilab_dashboards.session import Session, href

MOST_ROWS = 200
"""How many rows of a section are shown."""
MOST_LINES = 400
"""How many lines of a difference in code are shown."""


def comparison(session: Session, found: Comparison) -> Viewable:
    """Return a page's parts: both runs, what differs, code that differs, and the rest folded away."""
    differing = [row for row in found.rows if row.section not in INFORMATION and tells(row, found)]
    told = [row for row in found.rows if row.section in INFORMATION and not row.same]
    same = [row for row in found.rows if row.same and not tells(row, found)]
    notes = markup.join(element("p", note, {"class": "soft"}) for note in found.notes)
    lead = (
        element("p", f"{len(found.differences):,} things differ.", {"role": "status", "data-differ": "yes"})
        if found.differences
        else element("p", chip("succeeded", "no difference"), {"role": "status", "data-differ": "no"})
    )
    parts: list[Viewable] = [card("", html(_runs(session, found)), html(lead + notes))]
    if differing:
        parts.append(card("What differs", html(_sections(differing, found))))
    if found.sources:
        parts.append(card("Code that differs", html(_code(found))))
    folded = [
        (name, html(_sections(some, found))) for name, some in (("Time and machine", told), ("Same", same)) if some
    ]
    if folded:
        parts.append(pmui.Accordion(*folded, title_variant="subtitle1", sizing_mode="stretch_width"))
    return pn.Column(*parts, sizing_mode="stretch_width")


def _runs(session: Session, found: Comparison) -> Markup:
    listed = rows.history([facts.run for facts in found.runs])
    cells = [
        (letter, link(href("analysis", app=one["app"], run=one["run"]), one["run"]), one["app"], chip(one["state"]),
         markup.when(one["created"], session.zone), one["tags"])
        for letter, one in zip("AB", listed, strict=False)
    ]  # fmt: skip
    return markup.table(("", "run", "app", "state", "started", "tags"), cells)


def _sections(some: Iterable[Row], found: Comparison) -> Markup:
    parts = []
    for title, group in groupby(some, key=title_of):
        several = list(group)
        cells = [
            (row.name or row.section, *(value_text(row, cell) for cell in row.cells), difference_text(row, found))
            for row in several[:MOST_ROWS]
        ]
        if len(several) > MOST_ROWS:
            cells.append((f"and {len(several) - MOST_ROWS:,} more", "", "", ""))
        width = 4 if any(row[-1] for row in cells) else 3
        heads = (title, "A", "B", "difference")
        table = markup.table(heads[:width], [row[:width] for row in cells])
        parts.append(element("div", table, {"class": "even"}))
    return markup.join(parts)


def _code(found: Comparison) -> Markup:
    lines = [line for change in found.sources for line in change.text or (f"{change.path}: {change.note}",)]
    more = [f"... and {len(lines) - MOST_LINES:,} lines more"] if len(lines) > MOST_LINES else []
    text = "\n".join([*lines[:MOST_LINES], *more])
    return element("pre", text, {"class": "log", "tabindex": "0", "aria-label": "code that differs"})
