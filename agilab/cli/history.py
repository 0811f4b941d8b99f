"""`agilab runs`, `tag` and `rm`: which runs there are, what is said about them, and their end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click

from agilab.cli.screen import Column, clock, count, document, duration, json_option, note, number, out, safe, table
from agilab.history import SORTS, STATES, Found, Query, as_text, condition, find, flat, moment
from agilab.paths import HomePaths
from agilab.rows import Row

CSV_COLUMNS = (
    *("run_id", "app", "state", "error", "created", "started", "ended", "duration_s", "planned", "committed"),
    *("artifacts", "artifact_bytes", "request_digest", "tags", "note", "folder"),
)
"""What ``--csv`` prints of every run; its settings and metrics follow."""


@click.command("runs")
@click.argument("app", required=False, metavar="[APP]")
@click.option("--state", "states", multiple=True, metavar="STATE", help=f"One of {', '.join(STATES)}; repeatable.")
@click.option("--since", metavar="TIME", help="Made at or after a date or time (UTC), or an age such as 3h, 2d, 1w.")
@click.option("--until", metavar="TIME", help="Made before that, likewise.")
@click.option("--setting", "settings", multiple=True, metavar="COND", help="Such as 'sample_s>=60'; repeatable.")
@click.option("--metric", "metrics", multiple=True, metavar="COND", help="Such as 'rmse<0.5'; repeatable.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Has this tag; repeatable.")
@click.option(
    "--sort", default="-started", show_default=True, metavar="FIELD", help=f"{', '.join(SORTS)}; -FIELD: descending."
)
@click.option("--limit", type=click.IntRange(min=1), default=30, show_default=True, help="How many to list.")
@click.option("--all", "everything", is_flag=True, help="List every run that fits.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout, a column for each setting and metric.")
@json_option
def runs_command(*, app: str | None, limit: int, everything: bool, as_csv: bool, as_json: bool, **asked: Any) -> int:
    """List runs, newest first.

    APP lists those of one app. Conditions use = != < <= > >= and all have to hold.
    """
    home = HomePaths.chosen()
    query = Query(
        app=app or "",
        states=asked["states"],
        since=moment(asked["since"]) if asked["since"] else None,
        until=moment(asked["until"]) if asked["until"] else None,
        settings=tuple(map(condition, asked["settings"])),
        metrics=tuple(map(condition, asked["metrics"])),
        tags=asked["tags"],
        sort=asked["sort"],
        limit=None if everything else limit,
    )
    found = find(home, query)
    if not found.total:
        _require_ours(app)
    if as_json:
        document("runs", {"count": found.count, "runs": [row.to_json() for row in found.rows]})
        return 0
    rest = found.count - len(found.rows)
    if as_csv:
        _print_csv(found.rows)
        if rest:
            note(f"{rest:,} more are left out; --all prints them")
        return 0
    if not found.rows:
        out(_nothing(found, app))
        return 0
    _print_table(found.rows, query)
    if rest:
        out(f"... and {rest:,} {'older' if query == Query(query.app, limit=limit) else 'more'}; --all lists them")
    return 0


def _nothing(found: Found, app: str | None) -> str:
    if found.total:
        return f"no run fits; there are {count(found.total, 'run')}{f' of {app}' if app else ''}"
    return f"no run yet; `agilab run {shlex.quote(app) if app else 'APP'}` makes one, `agilab apps` lists the apps"


def _require_ours(app: str | None) -> None:
    """Refuse a home of another program, and an app that there is not."""
    from agilab.env import AgiEnv, check_owner

    env = AgiEnv()
    check_owner(env.home.root, env.home.marker, "AGILAB_HOME")
    if app:
        env.select(app)


def _print_table(rows: Sequence[Row], query: Query) -> None:
    settings, metrics = query.named("setting"), query.named("metric")
    tagged = any(row.tags for row in rows)
    columns = [
        Column("run"),
        Column("app", cut=True),
        Column("state"),
        Column("took", right=True),
        Column("partitions", right=True),
        *(Column(name, right=True) for name in (*settings, *metrics)),
        *([Column("tags", cut=True)] if tagged else ()),
        Column("request", optional=True),
        Column("started (UTC)", optional=True),
    ]
    cells = []
    for row in rows:
        values = flat(row.settings)
        cells.append(
            (
                row.run_id,
                row.app,
                row.state,
                duration(row.duration_s),
                f"{row.committed}/{row.planned}",
                *(as_text(values[name]) if name in values else "-" for name in settings),
                *(number(row.metrics[name]) if name in row.metrics else "-" for name in metrics),
                *([", ".join(row.tags)] if tagged else ()),
                row.request_digest[:8],
                clock(row.started or row.created),
            )
        )
    table(columns, cells)


def _print_csv(rows: Sequence[Row]) -> None:
    import csv

    settings = sorted({name for row in rows for name in flat(row.settings)})
    metrics = sorted({name for row in rows for name in row.metrics})
    writer = csv.writer(sys.stdout, lineterminator="\n")
    heads = [*CSV_COLUMNS, *(f"setting.{name}" for name in settings), *(f"metric.{name}" for name in metrics)]
    writer.writerow(map(csv_cell, heads))
    for row in rows:
        values = flat(row.settings)
        said = {**{name: getattr(row, name) for name in CSV_COLUMNS}, "tags": " ".join(row.tags)}
        found = [*said.values(), *(values.get(name) for name in settings), *(row.metrics.get(name) for name in metrics)]
        writer.writerow(map(csv_cell, found))


def csv_cell(value: object) -> object:
    """Return what a cell of a CSV file holds: no text in it is a formula to a spreadsheet or obeyed by a terminal."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    text = as_text(value)
    return safe(f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text)
