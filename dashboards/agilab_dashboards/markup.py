"""HTML that pages are made of: every text that goes into it is escaped here, whoever chose it.

Control characters are shown and not obeyed, as in a terminal. A `Markup` is
HTML already; everything else is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from html import escape
from pathlib import Path
from zoneinfo import ZoneInfo

from agilab.events import visible

COLOURS: Mapping[str, str] = {
    "succeeded": "#0f7b6c",
    "committed": "#0f7b6c",
    "running": "#1f6feb",
    "queued": "#6e7781",
    "waiting": "#6e7781",
    "installing": "#1f6feb",
    "sealing": "#1f6feb",
    "failed": "#c2410c",
    "lost": "#c2410c",
    "unreadable": "#c2410c",
    "cancelled": "#a16207",
    "retried": "#a16207",
    "unknown": "#a16207",
}
"""State -> colour; told apart with every common colour blindness, and always beside the word."""
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8ab00", "#7a7a7a")
"""Okabe and Ito's colours, told apart with every common colour blindness; stage by stage."""
SIGNS: Mapping[str, str] = {
    "succeeded": "✓",
    "committed": "✓",
    "failed": "✕",
    "lost": "✕",
    "unreadable": "✕",
    "cancelled": "■",
    "running": "▶",
    "installing": "▶",
    "sealing": "▶",
}
"""State -> sign, so that colour is never the only difference."""


class Markup(str):
    """Text that is HTML already; what is added to it is escaped unless it is too."""

    __slots__ = ()

    def __add__(self, other: str) -> Markup:
        return Markup(f"{self}{text(other)}")


def text(value: object) -> Markup:
    """Return any value as HTML that shows it."""
    return value if isinstance(value, Markup) else Markup(escape(visible(str(value))))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Put pieces one after the other."""
    return Markup(between.join(text(part) for part in parts))


def element(tag: str, content: object = "", attributes: Mapping[str, str] | None = None) -> Markup:
    """Return an element; its attributes are escaped too."""
    told = "".join(f' {name}="{escape(visible(value))}"' for name, value in (attributes or {}).items())
    return Markup(f"<{tag}{told}>{text(content)}</{tag}>")


def link(href: str, label: object, *, new: bool = False) -> Markup:
    """Return a link to a page of ours, which opens in a new tab if that is said."""
    return element("a", label, {"href": href, **({"target": "_blank", "rel": "noopener"} if new else {})})


def chip(state: str, label: str = "") -> Markup:
    """Return a state as a word in its colour, with its sign."""
    sign = SIGNS.get(state, "●")
    return element(
        "span", f"{sign} {label or state}", {"class": "chip", "style": f"--chip:{COLOURS.get(state, '#6e7781')}"}
    )


def code(value: object) -> Markup:
    """Return text in the type of code."""
    return element("code", value)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> Markup:
    """Return a table that scrolls inside itself where it is too wide.

    Parameters
    ----------
    heads
        Its headings.
    rows
        Cells.
    right
        Columns with numbers, by index.
    """
    kind = [{"class": "number"} if index in right else {} for index in range(len(heads))]
    head = join(element("th", name, {"scope": "col", **kind[index]}) for index, name in enumerate(heads))
    body = join(element("tr", join(element("td", cell, kind[i]) for i, cell in enumerate(row))) for row in rows)
    inner = join([element("thead", element("tr", head)), element("tbody", body)])
    return element("div", element("table", inner), {"class": "table", "tabindex": "0", "role": "group"})


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Return names and values as a list; what is empty is left out."""
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    return element("dl", join(element("dt", name) + element("dd", value) for name, value in known))


def when(iso: str | None, zone: str = "") -> str:
    """Write an ISO time for people, in their zone where it is known."""
    if not iso:
        return "-"
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    if not zone:
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}"


def alert(content: object) -> Markup:
    """Return what is wrong as a paragraph that is also read out."""
    return element("p", content, {"class": "error", "role": "alert"})


def empty(title: str, advice: object) -> Markup:
    """Return what stands where there is nothing yet, and what to do about it."""
    return element("div", element("strong", title) + element("p", advice), {"class": "empty"})


def markdown(source: str) -> Markup:
    """Return Markdown as HTML, without the HTML, the pictures and the scripts in it."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return element("div", Markup(parser.render(visible(source))), {"class": "prose"})


@cache
def style() -> str:
    """Return what every piece of HTML here is drawn with; the colours are those of the page's theme."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
