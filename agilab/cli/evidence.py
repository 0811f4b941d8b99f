"""`agilab show`: what a run did, read from its folder; nothing of an app is imported or run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import click

from agilab import tracking
from agilab.cli.fetch import elsewhere, left_on
from agilab.cli.flags import setting_value
from agilab.cli.named import named_run
from agilab.cli.outcome import (
    MOST_WORKERS,
    edited,
    print_failures,
    print_metrics,
    record_of,
    request_of,
    run_json,
    tallied,
)
from agilab.cli.progress import Tally
from agilab.cli.screen import (
    Column,
    clock,
    count,
    document,
    duration,
    json_option,
    number,
    out,
    pairs,
    plain_value,
    size,
    table,
)
from agilab.env import AgiEnv
from agilab.errors import AgilabError, EvidenceError, first_line
from agilab.rows import NONSENSE
from agilab.run import RESUMABLE, Run
from agilab.sidecar import read_tags


@click.command("show")
@click.argument("run_id", metavar="RUN")
@click.option("--artifacts", is_flag=True, help="List every artifact with its digest.")
@click.option("--metrics", is_flag=True, help="List every metric of every partition, with its last value.")
@json_option
def show_command(*, run_id: str, artifacts: bool, metrics: bool, as_json: bool) -> int:
    """Show what a run did and what it left.

    RUN is a run id, the head of one, `last`, or a run folder.
    """
    env = AgiEnv()
    run = named_run(env, run_id)
    if as_json:
        extra: dict[str, Any] = {"artifact_list": [item.to_json() for item in run.artifacts()]} if artifacts else {}
        extra |= {"metric_list": _metrics(run)} if metrics else {}
        manifest = dict(record_of(run)) or None
        document("show", {**run_json(run), "request": dict(request_of(run)) or None, "manifest": manifest, **extra})
        return 0
    if artifacts:
        _print_artifacts(run)
    if metrics:
        columns = (Column("partition"), Column("metric"), Column("values", right=True), Column("last", right=True))
        cells = [(row["partition"], row["metric"], row["values"], number(row["last"])) for row in _metrics(run)]
        table(columns, cells)
    if artifacts or metrics:
        return 0
    tally = tallied(run)
    try:
        _print_summary(run, env)
        stages = list(_stages(tally, record_of(run)))
    except NONSENSE as err:
        why = f"a record in {run.paths.root} makes no sense ({first_line(err)}); see agilab verify {run.run_id}"
        raise EvidenceError(why) from err
    if stages:
        out("stages")
        pairs(stages, indent="  ")
    print_metrics(run.metrics)
    print_failures(run, tally.failures, env, write=out)
    return 0


def _print_artifacts(run: Run) -> None:
    """Write a table of what a run left; with the host of each where some are not here."""
    found = run.artifacts()
    rows = [(item.sha256[:12], size(item.size_bytes), item.kind, item.location, item.path) for item in found]
    columns = [Column("sha256"), Column("size", right=True), Column("kind"), Column("host"), Column("path", wraps=True)]
    away = [item.location for item in found if item.location]
    if not away:
        columns.pop(3)
        rows = [(*row[:3], row[4]) for row in rows]  # type: ignore[misc]
    table(columns, rows)
    out(*left_on(away, run.run_id))


def _stages(tally: Tally, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every stage that was planned or is to be, and how far it came."""
    failed = {event.get("stage") for event in tally.failures}
    for name in dict.fromkeys([*(item["stage"] for item in manifest.get("stages") or ()), *tally.stages]):
        stage = tally.stages.get(name)
        if stage is None or stage.partitions is None:
            yield name, "not started"
            continue
        retried = f", {count(stage.retries, 'retry', 'retries')}" if stage.retries else ""
        end = ", failed" if name in failed else ""
        yield name, f"{stage.committed} of {stage.partitions} committed{retried}{end}"


def _metrics(run: Run) -> list[dict[str, Any]]:
    """List the metrics of every partition's last attempt: how many values each got, and the last one."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for event in run.events():
        with suppress(*NONSENSE):
            if event["event"] == "dispatched":
                found[event["partition"]] = {}
            elif event["event"] == "metric":
                partition, name = event["partition"], event["name"]
                first = {"partition": partition, "metric": name, "values": 0}
                row = found.setdefault(partition, {}).setdefault(name, first)
                row |= {"values": row["values"] + 1, "last": event["value"]}
    return [row for rows in found.values() for row in rows.values()]


def _print_summary(run: Run, env: AgiEnv) -> None:
    """Write what ran: the manifest's answers, one per line."""
    manifest, request = record_of(run), request_of(run)
    app = manifest.get("app") or {}
    pairs(
        (
            ("run", run.run_id),
            ("app", " ".join(str(app[key]) for key in ("name", "version") if app.get(key)) or run.app),
            ("state", run.state),
            ("error", run.error),
            ("folder", run.paths.root),
            *_said(run),
            ("started", _when(manifest)),
            ("request", f"sha256 {str(request.get('digest', '-'))[:16]}"),
            ("seed", request.get("seed")),
            ("edited", edited(request.get("edits") or {})),
            *_where(manifest),
            *_work(manifest),
            ("reproduce", _reproduce(run, env)),
            ("next", f"agilab resume {run.run_id}" if run.state in RESUMABLE else ""),
            ("next", f"agilab fetch {run.run_id}" if elsewhere(manifest.get("artifacts") or {}) else ""),
        )
    )
    out("settings")
    pairs(_settings(request), indent="  ")


def _said(run: Run) -> Iterator[tuple[str, object]]:
    """Yield tags and note, and where it is tracked, or why that cannot be read."""
    try:
        said = read_tags(run.paths)
    except EvidenceError as err:
        yield "tags", f"unreadable: {err}"
    else:
        yield from (("tags", ", ".join(said.tags)), ("note", said.note))
    try:
        tracked = tracking.read(run.paths)
    except EvidenceError as err:
        yield "tracked", f"unreadable: {err}"
    else:
        yield from (("tracked", item.error or item.link or f"{item.uri}, run {item.run_id}") for item in tracked)


def _reproduce(run: Run, env: AgiEnv) -> str:
    """Return the command that runs the same request again, from any folder."""
    try:
        app = str(env.select(run.app).project.root)
    except AgilabError:
        app = run.app
    return shlex.join(("agilab", "run", "--request", str(run.paths.request.absolute()), app))


def _when(manifest: Mapping[str, Any]) -> str:
    if not manifest.get("started"):
        return ""
    attempt = f", attempt {manifest['attempt']}" if manifest.get("attempt", 1) > 1 else ""
    return f"{clock(manifest['started'])} UTC, took {duration(manifest['duration_s'])}{attempt}"


def _where(manifest: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what is known of backend, code, environment, inputs and artifacts."""
    backend, code, environment = (manifest.get(name) or {} for name in ("backend", "code", "environment"))
    if backend:
        workers = count(len(backend.get("workers") or ()), "worker")
        yield "backend", f"{backend['name']}, {workers} on {', '.join(map(str, backend.get('hosts') or ())) or '-'}"
    if code:
        git = code.get("git")
        commit = f", git {git['commit'][:12]}{' (changed since)' if git['dirty'] else ''}" if git else ""
        yield "code", f"sha256 {code['code_digest'][:16]}{commit}"
    if environment:
        isolated = "" if environment.get("isolated") else ", not isolated: it ran in the manager's own"
        yield "environment", f"Python {environment['python']}, lock sha256 {environment['lock_sha256'][:16]}{isolated}"
        differences = environment.get("differences") or ()
        if differences:
            yield (
                "differs",
                f"{count(len(differences), 'package')} from the worker's lock: {', '.join(map(str, differences[:5]))}",
            )
    inputs = manifest.get("inputs")
    if inputs is not None:
        total = sum(item["size_bytes"] for item in inputs)
        yield "inputs", f"{count(len(inputs), 'file')}, {size(total)}"
    artifacts = manifest.get("artifacts")
    if artifacts:
        there = elsewhere(artifacts)
        yield "artifacts", f"{count(artifacts['count'], 'file')}, {size(artifacts['size_bytes'])}{there}"


def _work(manifest: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield for each host how many partitions its workers have run, and how many were planned for them."""
    ran: dict[str, int] = {}
    planned: dict[str, int] = {}
    hosts: dict[str, str] = {}
    for share in [share for stage in manifest.get("stages") or () for share in stage.get("workers") or ()]:
        name = str(share["worker"])
        ran[name] = ran.get(name, 0) + share["committed"]
        planned[name] = planned.get(name, 0) + share["planned"]
        hosts[name] = str(share["host"]) or hosts.get(name, "")
    for host in sorted(set(hosts.values()), key=lambda host: (not host, host)):
        busiest = sorted((name for name in hosts if hosts[name] == host), key=lambda name: -ran[name])
        said = [
            f"{name} {ran[name]}" + (f" ({planned[name]} planned)" if ran[name] != planned[name] else "")
            for name in busiest[:MOST_WORKERS]
        ]
        more = f", and {len(busiest) - MOST_WORKERS} more" if len(busiest) > MOST_WORKERS else ""
        yield f"ran on {host}" if host else "ran nothing", ", ".join(said) + more


def _settings(request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every setting of a request with its value and where that came from."""
    for name, source in (request.get("provenance") or {}).items():
        where = f", {source['where']}" if source.get("where") else ""
        yield name, f"{plain_value(setting_value(request['settings'], name))}  ({source['source']}{where})"
