"""Small HTML for the end of a notebook cell: a title and tables, in the colours of the page; it knows nothing of runs.

Every text is escaped. No style sheet, script or colour is needed, so that it
looks right on a light page and on a dark one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MOST_ROWS = 20
"""How many rows of a table are shown; the others are counted."""

_FRAME = "font:13px/1.5 system-ui,sans-serif;color:inherit;max-width:60em"
_TABLE = "border-collapse:collapse;background:none;color:inherit;margin:.4em 0"
_CELL = "padding:.1em .9em .1em 0;background:none;color:inherit;border:0"
_FAINT = "opacity:.65"


def frame(title: str, *parts: str) -> str:
    """Return a title with what belongs to it."""
    return f'<div style="{_FRAME}"><b>{escape(title)}</b>{"".join(parts)}</div>'


def line(text: str) -> str:
    """Return a line of text."""
    return f'<div style="{_FAINT}">{escape(text)}</div>' if text else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table, numbers to the right; empty when there is nothing in it."""
    found = list(rows)
    if not found:
        return ""
    top = "".join(
        f'<th style="{_CELL};{_FAINT};text-align:{_side(value)}">{escape(head)}</th>'
        for head, value in zip(heads, found[0], strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in found[:MOST_ROWS])
    more = line(f"... and {len(found) - MOST_ROWS:,} more") if len(found) > MOST_ROWS else ""
    return f'<table style="{_TABLE}"><tr>{top}</tr>{body}</table>{more}'


def _cell(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return f'<td style="{_CELL};text-align:{_side(value)}">{escape(text)}</td>'


def _side(value: object) -> str:
    return "right" if isinstance(value, int | float) else "left"
