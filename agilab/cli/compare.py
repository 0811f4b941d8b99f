"""`agilab compare`: what differs between runs, and whether a gate lets one of them pass; it runs nothing of an app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agilab.cli.flags import gathered
from agilab.cli.named import named_run
from agilab.cli.screen import (
    Column,
    clock,
    count,
    duration,
    json_option,
    note,
    number,
    out,
    pairs,
    plain_value,
    print_json,
    size,
    table,
)
from agilab.compare import INFORMATION, Comparison, Row, compare
from agilab.contents import ArtifactChange
from agilab.differences import EXACT, Change, Tolerance, percent, step
from agilab.env import AgiEnv
from agilab.facts import Cell
from agilab.paths import write_json

if TYPE_CHECKING:
    from agilab.gate import Decision
    from agilab.tables import TableChange

MOST_ROWS = 20
"""How many rows of a section are printed, and lines of one artifact, unless all are asked for."""
MOST_ARTIFACTS = 10
"""How many artifacts are printed in detail, unless all are asked for."""
MOST_DIFF_LINES = 200
"""How many lines of code diffs are printed, unless all are asked for."""
LONGEST_VALUE = 40
TITLES = {"seed": "run", "machine": "for information", "costs": "for information"}
"""Sections that are printed under another title."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Looking:
    """How closely runs are compared, and how much of it is printed."""

    rtol: float
    atol: float
    full: bool
    everything: bool

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.rtol, self.atol)


@dataclass(frozen=True, slots=True)
class Deciding:
    """Whether the runs are compared to decide something, and where the decision goes."""

    exit_code: bool
    gate: Path | None
    record: Path | None
    keep: bool


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="A B [C]...")
@gathered(
    "looking",
    Looking,
    click.option("--rtol", type=click.FloatRange(min=0), default=0.0, help="Relative tolerance of numbers; default: 0"),
    click.option("--atol", type=click.FloatRange(min=0), default=0.0, help="Absolute tolerance of numbers; default: 0"),
    click.option("--full", is_flag=True, help="Read changed artifacts to their end, and print every line."),
    click.option("--all", "everything", is_flag=True, help="List what is the same too."),
)
@gathered(
    "deciding",
    Deciding,
    click.option("--exit-code", is_flag=True, help="Exit with 1 when the runs differ."),
    click.option("--gate", type=click.Path(path_type=Path), metavar="FILE", help="Decide by rules whether B passes."),
    click.option("--record", type=click.Path(path_type=Path), metavar="FILE", help="Write the gate's decision there."),
    click.option("--keep", is_flag=True, help="Write the gate's decision beside B, in its sidecar/gates/."),
)
@json_option
@click.pass_context
def compare_command(
    ctx: click.Context, /, *, names: tuple[str, ...], looking: Looking, deciding: Deciding, as_json: bool
) -> int:
    """Show what differs between runs.

    Each is a run id, the head of one, `last`, or a run folder. Of two runs, code is shown as a diff and changed
    artifacts by their kind: tables by columns, JSON by structure, text by lines. With --gate the exit code is 0 when
    B passes, 1 when it is blocked, 2 when nothing can be decided; otherwise 0, however much differs.
    """
    if len(names) < 2:
        raise click.UsageError(f"there is nothing to compare {names[0]!r} with; name two runs or more", ctx)
    if len(names) > len(LETTERS):
        raise click.UsageError(f"{len(names)} runs do not fit side by side; name {len(LETTERS)} at most", ctx)
    if deciding.gate is None and (deciding.record or deciding.keep):
        raise click.UsageError("--record and --keep are about the decision of a gate; add --gate FILE", ctx)
    if deciding.gate is not None and len(names) != 2:
        raise click.UsageError(f"a gate decides about two runs, baseline and candidate, not {len(names)}", ctx)
    env = AgiEnv()
    if deciding.gate is not None:
        return _gate(env, names, looking, deciding, as_json=as_json)
    runs = [named_run(env, name) for name in names]
    found = compare(env, runs, tolerance=looking.tolerance, full=looking.full)
    if as_json:
        print_json(found.to_json(everything=looking.everything))
    else:
        _print(found, everything=looking.everything, full=looking.full)
    return 1 if deciding.exit_code and found.differences else 0


def _gate(env: AgiEnv, names: Sequence[str], looking: Looking, deciding: Deciding, *, as_json: bool) -> int:
    """Decide, write the record where it is wanted, and return the exit code."""
    from agilab.gate import EXIT, decide, keep, read_gate

    assert deciding.gate is not None
    gate = read_gate(deciding.gate)
    runs = [named_run(env, name) for name in names]
    found = compare(env, runs, tolerance=looking.tolerance, full=looking.full)
    decision = decide(gate, found)
    kept = []
    if deciding.record:
        write_json(deciding.record.absolute(), decision.to_json())
        kept.append(deciding.record)
    if deciding.keep:
        kept.append(keep(decision, found.runs[1].run.paths))
    if as_json:
        print_json(decision.to_json())
    else:
        _print_decision(decision)
        pairs([("recorded", place) for place in kept])
    return EXIT[decision.decision]


def _print_decision(decision: Decision) -> None:
    items = [*(item for item in decision.conditions if item.verdict != "pass"), *decision.rules]
    rows = [
        (
            item.verdict,
            item.title,
            "-" if item.limit is None else _cut(plain_value(item.limit)),
            *(_cut(number(value)) if value is not None else "-" for value in (item.baseline, item.candidate)),
            item.reason,
        )
        for item in items
    ]
    heads = ("verdict", "rule", "limit", "baseline", "candidate")
    table((*(Column(head) for head in heads), Column("why", wraps=True)), rows)
    runs = f"{decision.candidate.run.run_id} against {decision.baseline.run.run_id}"
    out("", f"{decision.decision}: {runs}")


def _print(found: Comparison, *, everything: bool, full: bool) -> None:
    """Write runs, rows, code, what is inside artifacts, and information."""
    letters = LETTERS[: len(found.runs)]
    for letter, facts in zip(letters, found.runs, strict=True):
        out(f"{letter}  {facts.run.run_id} of {facts.app}: {facts.state}, started {clock(facts.started)}")
    shown = [row for row in found.rows if row.section not in INFORMATION and (everything or tells(row, found))]
    _print_rows(shown, found, letters, limit=None if full else MOST_ROWS)
    if not found.differences:
        out("", "no difference" + (" in values" if found.artifacts else ""))
    _print_sources(found, limit=None if full else MOST_DIFF_LINES)
    _print_artifacts(found, full=full)
    costs = [row for row in found.rows if row.section in INFORMATION and (everything or not row.same)]
    _print_rows(costs, found, letters, limit=None)
    for line in found.notes:
        note(f"note: {line}")


def tells(row: Row, found: Comparison) -> bool:
    """Whether a row is worth a line: it differs, or is an artifact with the same values in other bytes."""
    return not row.same or (row.section == "artifacts" and row.name in found.artifacts)


def _print_rows(rows: Sequence[Row], found: Comparison, letters: str, *, limit: int | None) -> None:
    """Write a table for each section; a column for what can be said beyond two values, where there is such a thing."""
    for title, group in groupby(rows, key=title_of):
        several = list(group)
        cells = [
            (row.name or row.section, *(value_text(row, cell) for cell in row.cells), difference_text(row, found))
            for row in several[:limit]
        ]
        columns = [Column(title, wraps=True), *(Column(letter, wraps=True) for letter in letters)]
        if any(row[-1] for row in cells):
            columns.append(Column("difference", wraps=True))
        out("")
        table(columns, [row[: len(columns)] for row in cells])
        if limit is not None and len(several) > limit:
            out(f"... and {count(len(several) - limit, 'more row')}; --full prints them")


def title_of(row: Row) -> str:
    """Return the heading that a row stands under."""
    return TITLES.get(row.section, row.section)


def value_text(row: Row, cell: Cell | None) -> str:
    """Write what one run says."""
    if cell is None:
        return "-"
    value = cell.value
    if row.section in ("inputs", "artifacts") and isinstance(value, dict):
        return f"{size(value['size_bytes'])} {str(value['sha256'])[:8]}"
    if row.section == "code" or (row.section, row.name) == ("environment", "lock"):
        return str(value)[:12]
    if row.section == "metrics":
        return number(value)
    if row.section == "costs":
        return size(value) if row.name.endswith("_bytes") else duration(value)
    if isinstance(value, list) and row.section in ("environment", "plan", "machine"):
        return _cut(" ".join(map(str, value))) or "-"
    text = value if isinstance(value, str) and row.section != "settings" else plain_value(value)
    return _cut(text) + (f" ({cell.source})" if cell.source else "")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def difference_text(row: Row, found: Comparison) -> str:
    """Write what can be said beyond both values: how far apart, or what changed inside."""
    if row.name in found.artifacts and row.section == "artifacts":
        return summary(found.artifacts[row.name])
    if row.section not in ("metrics", "costs") or len(row.cells) != 2 or not all(row.cells):
        return ""
    old, new = (cell.value for cell in row.cells if cell)
    return _step(old, new, absolute=row.section == "metrics")


def _step(old: object, new: object, *, absolute: bool = True) -> str:
    """Write how far it is from one number to another."""
    way = step(old, new)
    if way is None or not way[0]:
        return ""
    relative = "" if way[1] is None else f"{'+' if way[1] > 0 else '-'}{percent(way[1])}"
    if not absolute:
        return relative
    return f"{'+' if way[0] > 0 else ''}{number(way[0])}" + (f" ({relative})" if relative else "")


def summary(change: ArtifactChange) -> str:
    """Say in a few words what differs inside an artifact."""
    if change.same:
        return "same values in other bytes"
    if change.table is not None:
        return _table_summary(change.table)
    if change.compared == "json":
        return count(len(change.changes) + change.more_changes, "value")
    if change.compared == "text":
        added, removed = (
            sum(line.startswith(sign) and not line.startswith(sign * 3) for line in change.text) for sign in "+-"
        )
        return f"{count(added, 'line')} added, {removed} removed" + (f"; {change.note}" if change.note else "")
    return change.note


def _table_summary(change: TableChange) -> str:
    said = []
    if change.same_rows is not None:
        said.append(f"{change.rows[0]:,} -> {change.rows[1]:,} rows")
    if change.same_rows:
        said.append(f"first {change.same_rows:,} same")
    if change.rows_reordered:
        said.append("rows in another order")
    if change.columns_reordered:
        said.append("columns in another order")
    differing = [column for column in change.columns if column.differs]
    if differing:
        said.append(count(len(differing), "column"))
    if not change.complete:
        said.append(f"first {change.compared_rows:,} of {change.rows[0]:,} rows compared; --full compares all")
    return ", ".join(said) or "nothing within the tolerance"


def _print_sources(found: Comparison, *, limit: int | None) -> None:
    lines = [line for change in found.sources for line in (change.text or (f"{change.path}: {change.note}",))]
    if not lines:
        return
    out("", *lines[:limit])
    if limit is not None and len(lines) > limit:
        out(f"... and {count(len(lines) - limit, 'more line')}; --full prints them")


def _print_artifacts(found: Comparison, *, full: bool) -> None:
    """Write what changed inside artifacts, those first that come first in the plan."""
    changed = [change for change in found.artifacts.values() if not change.same]
    detailed = [
        change for change in changed if change.changes or change.text or (change.table and change.table.columns)
    ]
    limit = None if full else MOST_ROWS
    for change in detailed[: None if full else MOST_ARTIFACTS]:
        out("", f"{change.name} ({change.compared})")
        if change.table is not None:
            _print_columns(change.table, limit, tolerant=found.tolerance != EXACT)
            continue
        lines = [*change.text, *map(_place, change.changes)]
        shown = lines[:limit]
        out(*(f"  {line}" for line in shown))
        more = len(lines) - len(shown) + change.more_changes
        if more:
            out(f"  ... and {count(more, 'more line')}" + ("" if full else "; --full prints them"))
    if not full and len(detailed) > MOST_ARTIFACTS:
        out("", f"... and {count(len(detailed) - MOST_ARTIFACTS, 'more artifact')}; --full prints them")


def _place(change: Change) -> str:
    """Write one place of a JSON value that differs."""
    old = "-" if change.only == "new" else _cut(plain_value(change.old))
    new = "-" if change.only == "old" else _cut(plain_value(change.new))
    way = _step(change.old, change.new)
    return f"{change.path or '(the whole value)'}: {old} -> {new}" + (f"  {way}" if way else "")


def _print_columns(change: TableChange, limit: int | None, *, tolerant: bool) -> None:
    rows = []
    for column in change.columns[:limit]:
        kind = column.old if column.old == column.new else f"{column.old or '-'} -> {column.new or '-'}"
        first = "" if column.first is None else f"row {column.first_row:,}: {column.first[0]} -> {column.first[1]}"
        rows.append(
            (
                f"  {column.name}",
                kind,
                "-" if column.differing is None else f"{column.differing:,}",
                *((f"{column.beyond:,}",) if tolerant else ()),
                *("-" if top is None else f"{top:.4g}" for top in (column.max_abs, column.max_rel)),
                first,
            )
        )
    numbers = ("rows differ", *(("beyond tolerance",) if tolerant else ()), "max abs", "max rel")
    heads = (Column("  column"), Column("type"), *(Column(name, right=True) for name in numbers))
    table((*heads, Column("first", cut=True)), rows)
    if limit is not None and len(change.columns) > limit:
        out(f"  ... and {count(len(change.columns) - limit, 'more column')}; --full prints them")
