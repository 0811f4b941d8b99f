"""HTML that pages are made of: every text that goes into it is escaped here, whoever chose it.

Control characters are shown and not obeyed, as in a terminal. A `Markup` is
HTML already; everything else is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
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


def link(href: str, label: object, *, kind: str = "") -> Markup:
    """Return a link to a page of ours."""
    return element("a", label, {"href": href, **({"class": kind} if kind else {})})


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


def empty(title: str, advice: object) -> Markup:
    """Return what stands where there is nothing yet, and what to do about it."""
    return element("div", element("strong", title) + element("p", advice), {"class": "empty"})


def markdown(source: str) -> Markup:
    """Return Markdown as HTML, without the HTML, the pictures and the scripts in it."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return element("div", Markup(parser.render(visible(source))), {"class": "prose"})


CSS = """
:host { color: var(--mui-palette-text-primary, inherit); font-size: 14px; line-height: 1.5; }
a { color: var(--mui-palette-primary-main, #1f6feb); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 12.5px; }
code { overflow-wrap: anywhere; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
h1 { font-size: 24px; font-weight: 600; margin: 0 0 4px; line-height: 1.3; overflow-wrap: anywhere; }
h2 { font-size: 17px; font-weight: 600; margin: 0 0 8px; }
h3 { font-size: 15px; font-weight: 600; margin: 0 0 4px; }
p { margin: 0 0 8px; }
.soft { color: var(--mui-palette-text-secondary, #667); }
.small { font-size: 12.5px; }
.wrap { overflow-wrap: anywhere; }
.chip { display: inline-block; padding: 0 8px; border-radius: 10px; font-size: 12px; line-height: 20px; white-space: nowrap;
  color: color-mix(in srgb, var(--chip) 78%, var(--mui-palette-text-primary, black));
  background: color-mix(in srgb, var(--chip) 15%, transparent); }
.table { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; font-size: 12.5px; color: var(--mui-palette-text-secondary, #667); white-space: nowrap; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--mui-palette-divider, #ddd); vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 20px; margin: 0; }
dt { color: var(--mui-palette-text-secondary, #667); }
dd { margin: 0; overflow-wrap: anywhere; }
.empty { padding: 28px 16px; text-align: center; border: 1px dashed var(--mui-palette-divider, #ccc); border-radius: 8px; }
.empty p { margin: 6px 0 0; color: var(--mui-palette-text-secondary, #667); }
.bar { display: block; height: 8px; border-radius: 4px; min-width: 120px; overflow: hidden;
  background: color-mix(in srgb, var(--mui-palette-text-primary, #888) 12%, transparent); }
.bar > i { display: block; height: 100%; background: var(--fill, #0f7b6c); }
.prose h1 { font-size: 20px; } .prose h2 { margin-top: 16px; } .prose pre { padding: 8px 12px; margin: 8px 0; border-radius: 6px;
  background: color-mix(in srgb, var(--mui-palette-text-primary, #888) 6%, transparent); }
.log { max-height: 360px; overflow: auto; padding: 8px 12px; border-radius: 6px; border: 1px solid var(--mui-palette-divider, #ddd);
  background: color-mix(in srgb, var(--mui-palette-text-primary, #888) 4%, transparent); }
.error { color: color-mix(in srgb, #c2410c 80%, var(--mui-palette-text-primary, black)); }
"""
"""What every piece of HTML here is drawn with; the colours are those of the page's theme."""
