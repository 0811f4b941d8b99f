"""What is written to the terminal and how: safe text, tables, JSON documents, sizes and durations; it decides nothing.

Answers go to stdout, everything else (progress, notes, errors) to stderr, so
that stdout can be piped. Text that somebody else chose (names, logs, errors)
passes through `safe` first: an escape sequence in it must not reach the
terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from agilab.events import visible


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, and how it gives way where the terminal is too narrow.

    Parameters
    ----------
    name
        Its heading.
    right
        Aligned to the right.
    wraps
        Goes on in further lines.
    cut
        Ends in an ellipsis. A column that neither wraps nor is cut stays whole.
    optional
        Left out rather than squeezing the others below `LEAST`.
    """

    name: str
    right: bool = False
    wraps: bool = False
    cut: bool = False
    optional: bool = False


LEAST = 12
"""How narrow a column may get that wraps or is cut."""
GAP = 2


def safe(value: object, *, keep: str = "") -> str:
    r"""Return text with every character that a terminal would obey written as an escape such as ``\x1b``.

    Parameters
    ----------
    value
        Anything; its `str`.
    keep
        ``"\t"`` lets tabs stay; line ends never do.
    """
    text = str(value)
    if text.isprintable():
        return text
    text = visible(text).replace("\n", "\\n")
    return text if "\t" in keep else text.replace("\t", "\\t")


def out(*lines: object) -> None:
    """Write lines of an answer to stdout."""
    for line in lines:
        sys.stdout.write(f"{safe(line, keep=_TAB)}\n")


def note(line: object) -> None:
    """Write a line that is not part of the answer to stderr, at once, and after what was answered before."""
    with suppress(OSError):  # who calls ends with the code for that
        sys.stdout.flush()
    sys.stderr.write(f"{safe(line, keep=_TAB)}\n")
    sys.stderr.flush()


def block(text: str) -> None:
    """Write several lines, such as a traceback, to stderr."""
    for line in text.splitlines():
        note(line)


def document(command: str, body: Mapping[str, Any]) -> None:
    """Write the one JSON document of a command to stdout.

    Parameters
    ----------
    command
        Becomes its schema, ``agilab.cli.<command>/1``.
    body
        Its fields.
    """
    print_json({"schema": f"agilab.cli.{command}/1", **body})


def print_json(value: Mapping[str, Any]) -> None:
    """Write a JSON value to stdout."""
    # ASCII only: no character of a name or log in it can reach the terminal as a command.
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Write a table to stdout: fitted to a terminal's width, or whole when stdout is a file or a pipe.

    Parameters
    ----------
    columns
        What the columns are called and how they give way.
    rows
        Cells, made safe here.
    """
    cells = [[safe(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _terminal_table(columns, cells)
        return
    heads = [column.name for column in columns]
    widths = [max(map(len, texts)) for texts in zip(heads, *cells, strict=True)]
    for row in [heads, *cells]:
        aligned = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        sys.stdout.write("  ".join(aligned).rstrip() + "\n")


def _terminal_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, emoji=False)
    natural = [max(map(cell_len, texts)) for texts in zip([item.name for item in columns], *cells, strict=True)]
    widths = fitted(columns, natural, console.width)
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for index, width in widths.items():
        column = columns[index]
        how: dict[str, Any] = {"overflow": "fold"} if column.wraps else {"overflow": "ellipsis", "no_wrap": True}
        drawn.add_column(Text(column.name), justify="right" if column.right else "left", width=width, **how)
    for row in cells:
        drawn.add_row(*(Text(row[index]) for index in widths))
    # What is copied stays whole, if need be beyond the edge.
    console.print(drawn, width=max(console.width, sum(widths.values()) + GAP * len(widths)), crop=False)


def fitted(columns: Sequence[Column], natural: Sequence[int], room: int) -> dict[int, int]:
    """Return the columns that are shown, by index, with their widths.

    Parameters
    ----------
    columns
        How each gives way.
    natural
        How wide each would like to be.
    room
        Width of the terminal.
    """
    gives = [column.wraps or column.cut for column in columns]
    least = [min(width, LEAST) if give else width for width, give in zip(natural, gives, strict=True)]
    kept = list(range(len(columns)))
    for index in reversed(kept):
        if columns[index].optional and sum(least[i] + GAP for i in kept) - GAP > room:
            kept.remove(index)
    widths = {index: natural[index] for index in kept}
    while sum(widths.values()) + GAP * (len(kept) - 1) > room:
        widest = max(kept, key=lambda index: widths[index] - least[index])
        if widths[widest] == least[widest]:
            break
        widths[widest] -= 1
    return widths


def pairs(rows: Iterable[tuple[str, object]], *, indent: str = "") -> None:
    """Write ``name  value`` lines to stdout, aligned and never cut: they hold paths that are copied."""
    known = [(name, value) for name, value in rows if value not in (None, "")]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        out(f"{indent}{name.ljust(width)}  {safe(value)}")


def size(size_bytes: float) -> str:
    """Write a size [bytes] for people, in powers of 1024."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size_bytes /= 1024
        if size_bytes < 1024:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Write a duration [s] for people; a dash when it is not known."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def count(number: int, noun: str, plural: str = "") -> str:
    """Write ``1 partition`` or ``1,000 partitions``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def number(value: object) -> str:
    """Write a metric: whole numbers whole, others with seven digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.7g}"


def clock(iso: str | None) -> str:
    """Write an ISO time without fraction and zone; times are UTC throughout."""
    return iso[:19].replace("T", " ") if iso else "-"


def first_words(text: str, limit: int = 100) -> str:
    """Return the first line of a text, cut at `limit` characters."""
    line = next(iter(text.strip().splitlines()), "")
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def plain_value(value: object) -> str:
    """Write a setting's JSON value for people: ``none``, and texts as they are where nothing else is meant."""
    if value is None:
        return "none"
    return value if isinstance(value, str) and value not in ("", "none") else json.dumps(value, ensure_ascii=False)


_TAB = "\t"
