"""`agilab rm` and `clean`: removing runs, and what nothing needs any more."""

from __future__ import annotations

from collections.abc import Sequence

import click

from agilab.cleanup import KINDS, Item, clean
from agilab.cli.named import named_run
from agilab.cli.outcome import record_of
from agilab.cli.screen import Column, document, json_option, out, size, table
from agilab.disk import measure, remove_run
from agilab.env import AgiEnv
from agilab.errors import RunStateError
from agilab.owner import probe_owner
from agilab.run import Run

LISTED = 20
"""How many things of one kind are named; --json has all."""


@click.command("rm")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@json_option
def rm_command(*, run_ids: tuple[str, ...], as_json: bool) -> int:
    """Remove runs.

    RUN is a run id, the head of one, or `last`. All that it left goes, and there is no way back. When one of them is
    in use, none is removed.
    """
    env = AgiEnv()
    runs = list(dict.fromkeys(_own(env, text) for text in run_ids))
    sizes = [measure(run.paths.root) for run in runs]
    hosts = sorted({host for run in runs for host in (record_of(run).get("artifacts") or {}).get("elsewhere") or {}})
    for run in runs:
        remove_run(run)
    if as_json:
        removed = [
            {"run_id": run.run_id, "app": run.app, "size_bytes": found.used_bytes}
            for run, found in zip(runs, sizes, strict=True)
        ]
        document("rm", {"removed": removed})
        return 0
    for run, found in zip(runs, sizes, strict=True):
        out(f"removed {run.run_id} of {run.app}, {size(found.used_bytes)}")
    for host in hosts:
        out(f"what it left on host {host} is there still; to remove all results: agilab cluster clean --results {host}")
    return 0


def _own(env: AgiEnv, text: str) -> Run:
    """Return a run of AGILAB_HOME that is not in use."""
    run = named_run(env, text)
    folder = run.paths.root
    if folder.parent.parent != env.home.runs.resolve() and folder.parent.parent != env.home.runs:
        raise RunStateError(f"{folder} is no run of {env.home.root}; remove the folder itself with: rm -r")
    if probe_owner(run.paths) == "held":
        raise RunStateError(
            f"run {run.run_id} is {run.state}; wait for it, or cancel it with: agilab cancel {run.run_id}"
        )
    return run


@click.command("clean")
@click.option("--older-than", default="", metavar="TIME", help="Also runs made before a date or age, such as 30d, 2w.")
@click.option("--keep-last", type=click.IntRange(min=0), metavar="N", help="Also runs, but not the last N of each app.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@json_option
def clean_command(*, older_than: str, keep_last: int | None, dry_run: bool, as_json: bool) -> int:
    """Remove what nothing needs any more, and old runs.

    That is worker packages, environments, runtimes, snapshots and caches. Runs go only with --older-than or
    --keep-last; with both, those that both let go. Never removed are runs in use, runs with a tag or a note, data
    sets, and what an installed app or a run that can be resumed needs.
    """
    items = clean(AgiEnv(), older_than=older_than, keep_last=keep_last, dry_run=dry_run)
    gone = [item for item in items if not item.kept]
    freed = sum(item.size.freed_bytes for item in gone)
    if as_json:
        document("clean", {"dry_run": dry_run, "freed_bytes": freed, "items": [item.to_json() for item in items]})
        return 0
    for kind in KINDS:
        named = [item for item in gone if item.kind == kind]
        for item in named[:LISTED]:
            out(f"{'would remove' if dry_run else 'removed'} {kind} {item.name}, {size(item.size.used_bytes)}")
        if len(named) > LISTED:
            out(f"... and {len(named) - LISTED:,} more of this kind; --json names them")
    if gone:
        out("")
    _print_totals(items, dry_run=dry_run)
    used = sum(item.size.used_bytes for item in gone)
    elsewhere = f"; {size(used - freed)} of it stay in uv's cache" if used > freed else ""
    if items:
        out("")
    out(f"{'would free' if dry_run else 'freed'} {size(freed)}{elsewhere}" if gone else "nothing to remove")
    return 0


def _print_totals(items: Sequence[Item], *, dry_run: bool) -> None:
    """Write what goes and what stays, by kind, and why the first thing of a kind stays."""
    rows = []
    for kind in KINDS:
        gone = [item for item in items if item.kind == kind and not item.kept]
        kept = [item for item in items if item.kind == kind and item.kept]
        if gone or kept:
            why = kept[0].kept if kept else ""
            rows.append((f"{kind}s", len(gone), _total(gone), len(kept), _total(kept), why))
    columns = (
        Column(""),
        Column("to remove" if dry_run else "removed", right=True),
        Column("size", right=True),
        Column("kept", right=True),
        Column("size", right=True),
        Column("kept for example since", cut=True),
    )
    if rows:
        table(columns, rows)


def _total(items: Sequence[Item]) -> str:
    return size(sum(item.size.used_bytes for item in items))
