"""What pages show as numbers: plain functions from a `Run` to rows; they draw nothing and never write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agilab.artifact import KINDS
from agilab.cli.outcome import record_of, request_of
from agilab.cli.screen import plain_value
from agilab.rows import Row as Known
from agilab.rows import read_row
from agilab.run import Run

Row = dict[str, Any]

MOST_RUNS = 500
"""How many runs a history shows, the newest; `agilab runs` has all."""


def history(runs: Iterable[Run]) -> list[Row]:
    """Return a row per run: what a table of runs shows."""
    return listed(read_row(run) for run, _ in zip(runs, range(MOST_RUNS), strict=False))


def listed(found: Iterable[Known]) -> list[Row]:
    """Return the same of runs that have been looked up already, as `agilab.history.find` returns them."""
    return [
        {
            "run": one.run_id,
            "app": one.app,
            "state": one.state,
            "created": one.created or "",
            "duration_s": one.duration_s,
            "partitions": f"{one.committed}/{one.planned}",
            "request": one.request_digest[:12],
            "error": one.error or "",
            "tags": ", ".join(one.tags),
        }
        for one in found
    ]


def settings(run: Run, table: str = "settings") -> list[Row]:
    """Return a row per setting of a run, or per cluster option: name, value, source and where exactly."""
    request = request_of(run)
    sources = request.get("provenance" if table == "settings" else "cluster_provenance") or {}
    return [
        {"name": name, "value": plain_value(value), **_source(sources, name)}
        for name, value in _flat(request.get(table) or {}, sources)
    ]


def metrics(run: Run) -> list[Row]:
    """Return a row per metric: of a final run those it ended with, else the last ones reported."""
    return [{"name": name, "value": value} for name, value in sorted(run.metrics.items())]


def series(run: Run) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return metrics that were reported step by step: name -> partition -> step and value, in order of steps."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in run.records():
        for item in record.get("metrics") or ():
            step, value = item.get("step"), item.get("value")
            if isinstance(step, int) and isinstance(value, int | float):
                found.setdefault(item["name"], {}).setdefault(record["partition"], []).append((step, float(value)))
    return {
        name: {partition: sorted(points) for partition, points in parts.items()}
        for name, parts in sorted(found.items())
        if any(len(points) > 1 for points in parts.values())
    }


def artifacts(run: Run) -> list[Row]:
    """Return a row per artifact, in plan order."""
    return [
        {
            "name": item.name,
            "stage": item.stage,
            "partition": item.partition,
            "kind": item.kind,
            "size_bytes": item.size_bytes,
            "sha256": item.sha256,
            "hashed_by": item.hashed_by,
            "location": item.location or "run folder",
            "path": item.path,
        }
        for item in run.artifacts()
    ]


def elsewhere(run: Run) -> list[Row]:
    """Return a row per host that artifacts of a final run lie on: how many, and how large together."""
    there = (record_of(run).get("artifacts") or {}).get("elsewhere") or {}
    return [{"host": host, "count": item["count"], "size_bytes": item["size_bytes"]} for host, item in there.items()]


def kinds(run: Run) -> list[Row]:
    """Return a row per kind of artifact: how many, and how large together."""
    found: dict[str, Row] = {}
    for item in run.artifacts():
        doc = KINDS[item.kind].doc if item.kind in KINDS else "a kind of the app's own"
        row = found.setdefault(item.kind, {"kind": item.kind, "count": 0, "size_bytes": 0, "doc": doc})
        row["count"] += 1
        row["size_bytes"] += item.size_bytes
    return sorted(found.values(), key=lambda row: row["kind"])


def stages(run: Run) -> list[Row]:
    """Return a row per stage of a run that has ended."""
    return [
        {
            "stage": stage.get("stage", ""),
            "after": ", ".join(stage.get("after") or ()),
            "partitions": stage.get("partitions"),
            "committed": stage.get("committed", 0),
        }
        for stage in record_of(run).get("stages") or ()
    ]


def partitions(run: Run) -> list[Row]:
    """Return a row per committed partition, in plan order."""
    keys = ("partition", "stage", "worker", "attempt", "started", "ended", "wall_s", "cpu_s", "peak_rss_bytes")
    return [{key: record.get(key) for key in keys} for record in run.records()]


def environment(run: Run) -> list[tuple[str, Any]]:
    """Return names and values of where a final run ran."""
    record = record_of(run)
    found, code, manager = (record.get(name) or {} for name in ("environment", "code", "manager"))
    git = code.get("git") or {}
    backend = record.get("backend") or {}
    differences = found.get("differences") or ()
    return [
        ("worker Python", f"{found.get('python', '')} on {found.get('platform', '')}" if found else ""),
        ("environment", found.get("digest")),
        ("isolated", "" if not found else "yes" if found.get("isolated") else "no"),
        ("differs from its lock", "; ".join(differences)),
        ("manager", f"AGILAB {manager.get('agilab')}, Python {manager.get('python')}, host {manager.get('host')}"),
        ("code", code.get("code_digest")),
        ("git", f"{git.get('commit')}{' with changes' if git.get('dirty') else ''}" if git else ""),
        ("backend", backend.get("name")),
        ("workers", ", ".join(backend.get("workers") or ())),
        ("data set", (record.get("data") or {}).get("sha256")),
    ]


def lock(run: Run) -> list[str]:
    """Return the distributions that a run's worker environment was locked to."""
    text = str((record_of(run).get("environment") or {}).get("lock", ""))
    return [line.split()[0] for line in text.splitlines() if "==" in line and not line.startswith(("#", " "))]


def _source(sources: Mapping[str, Any], name: str) -> Row:
    found = sources.get(name) or {}
    return {"source": found.get("source", "default"), "where": found.get("where", "")}


def _flat(values: Mapping[str, Any], sources: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield settings by dotted name; a table that has a source of its own is one value."""
    for name, value in values.items():
        dotted = prefix + name
        nested = isinstance(value, Mapping) and any(one.startswith(f"{dotted}.") for one in sources)
        if nested:
            yield from _flat(value, sources, f"{dotted}.")
        else:
            yield dotted, value
