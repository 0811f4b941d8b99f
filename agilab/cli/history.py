"""`agilab runs` and `tag`: which runs there are, and what somebody has said about them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from agilab.cli.screen import (
    Column,
    clock,
    count,
    document,
    duration,
    json_option,
    note,
    number,
    out,
    pairs,
    safe,
    table,
)
from agilab.history import SORTS, STATES, Found, Query, as_text, condition, find, flat, moment
from agilab.paths import HomePaths
from agilab.rows import Row

CSV_COLUMNS = (
    *("run_id", "app", "state", "error", "created", "started", "ended", "duration_s", "planned", "committed"),
    *("artifacts", "artifact_bytes", "request_digest", "tags", "note", "folder"),
)
"""What ``--csv`` prints of every run; its settings and metrics follow."""


QUERY = "agilab.query"
"""Key of `click.Context.meta`: the fields of the query that were given."""


def asks(field: str, flag: str, read: Callable[[str], Any], text: str, *, single: bool = False) -> Callable[..., Any]:
    """Give a command an option that is a field of its query.

    Parameters
    ----------
    field
        Of `Query`.
    flag
        The option and what it takes, such as ``"--tag TAG"``.
    read
        Makes a value of what was typed.
    text
        What help says.
    single
        Whether it can be given only once.
    """

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value:
            ctx.meta.setdefault(QUERY, {})[field] = read(value) if single else tuple(map(read, value))

    name, _, metavar = flag.partition(" ")
    return click.option(name, field, metavar=metavar, multiple=not single, expose_value=False, callback=keep, help=text)


@click.command("runs")
@click.argument("app", required=False, metavar="[APP]")
@asks("states", "--state STATE", str, f"One of {', '.join(STATES)}; repeatable.")
@asks("since", "--since TIME", moment, "Made since a date, a time (UTC) or an age such as 3h, 2d.", single=True)
@asks("until", "--until TIME", moment, "Made before that, likewise.", single=True)
@asks("settings", "--setting COND", condition, "Such as 'sample_s>=60'; repeatable.")
@asks("metrics", "--metric COND", condition, "Such as 'rmse<0.5'; repeatable.")
@asks("tags", "--tag TAG", str, "Has this tag; repeatable.")
@asks("sort", "--sort FIELD", str, f"One of {', '.join(SORTS)}; -FIELD for descending; default: -started", single=True)
@click.option("--limit", type=click.IntRange(min=1), default=30, show_default=True, help="How many to list.")
@click.option("--all", "everything", is_flag=True, help="List every run that fits.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout, with a column for each setting and metric.")
@json_option
@click.pass_context
def runs_command(
    ctx: click.Context, *, app: str | None, limit: int, everything: bool, as_csv: bool, as_json: bool
) -> int:
    """List runs, newest first.

    APP lists those of one app. A condition is a name, one of = != < <= > >= and a value; all have to hold.
    """
    home = HomePaths.chosen()
    query = Query(app=app or "", limit=None if everything else limit, **ctx.meta.get(QUERY, {}))
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
            note(f"left out: {count(rest, 'more run')}; --all prints every run that fits")
        return 0
    if not found.rows:
        out(_nothing(found, app))
        return 0
    _print_table(found.rows, query)
    if rest:
        out(f"... and {rest:,} {'older' if query == Query(query.app, limit=limit) else 'more'}; --all lists them")
    return 0


@click.command("tag")
@click.argument("run_id", metavar="RUN")
@click.argument("tags", nargs=-1, metavar="[TAG]...")
@click.option("--remove", multiple=True, metavar="TAG", help="Take a tag away; repeatable.")
@click.option("--note", "text", metavar="TEXT", help="Write the note; an empty one removes it.")
@json_option
def tag_command(*, run_id: str, tags: tuple[str, ...], remove: tuple[str, ...], text: str | None, as_json: bool) -> int:
    """Give a run tags and a note, or take them away.

    RUN is a run id, the head of one, `last`, or a run folder. With nothing to change, what it has is printed.
    """
    from agilab.cli.named import named_run
    from agilab.env import AgiEnv
    from agilab.sidecar import change_tags, read_tags

    run = named_run(AgiEnv(), run_id)
    if tags or remove or text is not None:
        said = change_tags(run.paths, add=tags, remove=remove, note=text)
    else:
        said = read_tags(run.paths)
    if as_json:
        document("tag", {"run_id": run.run_id, "app": run.app, "tags": list(said.tags), "note": said.note})
        return 0
    pairs((("run", run.run_id), ("tags", ", ".join(said.tags) or "none"), ("note", said.note or "none")))
    return 0


def _nothing(found: Found, app: str | None) -> str:
    if found.total:
        are = "is" if found.total == 1 else "are"
        return f"no run fits; there {are} {count(found.total, 'run')}{f' of {app}' if app else ''}"
    return f"no run yet; `agilab run {shlex.quote(app) if app else 'APP'}` makes one, `agilab apps` lists the apps"


def _require_ours(app: str | None) -> None:
    """Refuse a home of another program, and an app that there is not."""
    from agilab.env import AgiEnv
    from agilab.home import check_owner

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
