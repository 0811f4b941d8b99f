"""Partition records, the truth about what has been committed: one line each, canonical, with a digest over all.

Who may append them, and when, it does not know. A record is one line of
``partitions/<worker>.jsonl``; a copy lies beside the artifacts it names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agilab import digest, sums
from agilab.errors import EvidenceError
from agilab.events import plain
from agilab.paths import RunPaths

SCHEMA = "agilab.partition/1"
COPY = "partition.json"
"""The copy of its record that every partition folder holds."""
FIRST_RECORDS = 1000
"""How many records the manifest repeats; the digest covers all of them."""


def partition_record(
    task: Mapping[str, Any],
    done: Mapping[str, Any],
    *,
    worker: str,
    metrics: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the record of a partition whose method has returned, but for the digests of its artifacts.

    Parameters
    ----------
    task
        What it was told to do, with ``read``: name, sha256 and size of each of its inputs.
    done
        The ``done`` message of `agilab.entry`. From another host it also has ``host``; its artifacts that stayed there
        have ``location`` (that host), ``sha256`` and ``size_bytes``, and ``folder`` says where the run lies there.
    worker
        Who ran it.
    metrics
        What it reported.
    """
    stage, ident = task["stage"], task["id"]
    base = f"artifacts/{stage}/{ident}/"
    stayed = any(item.get("location") for item in done["artifacts"])
    return {
        "schema": SCHEMA,
        "partition": ident,
        "stage": stage,
        "worker": worker,
        "host": done.get("host") or os.uname().nodename,
        "attempt": task["attempt"],
        "started": iso_time(done["started"]),
        "ended": iso_time(done["started"] + done["wall_s"]),
        "wall_s": done["wall_s"],
        "cpu_s": done["cpu_s"],
        "peak_rss_bytes": done["peak_rss_bytes"],
        "inputs": task["read"],
        "artifacts": [
            {
                "stage": stage,
                "partition": ident,
                "name": item["name"],
                "kind": item["kind"],
                "path": base + item["path"],
                "size_bytes": item["size_bytes"],
                "sha256": item["sha256"] if item.get("location") else "",
                "hashed_by": "worker" if item.get("location") else "manager",
                "location": item.get("location", ""),
            }
            for item in done["artifacts"]
        ],
        "metrics": metrics,
        **({"folder": done["folder"]} if stayed else {}),
    }


def count_artifacts(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``count`` and ``size_bytes`` of what partitions left, and ``elsewhere``, by host, what is not here."""
    count = size_bytes = 0
    elsewhere: dict[str, dict[str, Any]] = {}
    for record in records:
        for item in record["artifacts"]:
            count += 1
            size_bytes += item["size_bytes"]
            if item["location"]:
                new = {"count": 0, "size_bytes": 0, "folder": record["folder"]}
                there = elsewhere.setdefault(item["location"], new)
                there["count"] += 1
                there["size_bytes"] += item["size_bytes"]
    return {"count": count, "size_bytes": size_bytes, **({"elsewhere": elsewhere} if elsewhere else {})}


def iso_time(seconds: float) -> str:
    """Write a time [s since 1970] as UTC ISO-8601 with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def record_line(record: Mapping[str, Any]) -> bytes:
    """Write a partition record as one line of canonical JSON; NaN and infinity become texts (`plain`)."""
    try:
        return digest.canonical_json(record) + b"\n"
    except ValueError:
        return digest.canonical_json(plain(record)) + b"\n"


def records_digest(lines: Sequence[bytes]) -> str:
    """Return the sha256 over record lines sorted by bytes: what ``cat FILES | LC_ALL=C sort | sha256sum`` prints."""
    return digest.of_bytes(b"".join(sorted(lines)))


def request_digest(request: Mapping[str, Any]) -> str:
    """Return the digest that the content of a ``request.json`` has, whatever it says itself."""
    content = {name: request[name] for name in ("schema", "code_digest", "settings", "cluster", "seed")}
    if "edits" in request:
        content["edits"] = request["edits"]
    return digest.of_json({**content, "app_uuid": request["app"]["uuid"]})


def shares(planned: Mapping[str, int], done: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say for each worker how much of a stage was planned for it, and what it has done.

    Parameters
    ----------
    planned
        Worker -> how many partitions it was planned to run.
    done
        The records of the stage.
    """
    found = {name: _share(name, count) for name, count in planned.items()}
    for record in done:
        share = found.setdefault(record["worker"], _share(record["worker"], 0))
        share["host"] = record["host"]
        share["committed"] += 1
        share["busy_s"] += record["wall_s"]
    return [{**share, "busy_s": round(share["busy_s"], 6)} for share in found.values()]


def _share(worker: str, planned: int) -> dict[str, Any]:
    return {"worker": worker, "host": "", "planned": planned, "committed": 0, "busy_s": 0.0}


def read_records(paths: RunPaths) -> Iterator[dict[str, Any]]:
    """Yield the records of committed partitions, in the order of the files; a torn last line is no record.

    Raises
    ------
    EvidenceError
        A complete line is not a record, or a file of records is none.
    """
    try:
        found = sorted(path for path in paths.partitions.iterdir() if path.suffix == ".jsonl")
    except FileNotFoundError:
        return
    for path in found:
        with open(sums.open_inside(str(paths.root), f"partitions/{path.name}"), "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    record = parse(line)
                    if record is None or record.get("schema") != SCHEMA:
                        raise EvidenceError(
                            f"{path}, line {number}, is no record of schema {SCHEMA!r}; "
                            f"see what else has changed with: agilab verify {paths.run_id}"
                        )
                    yield record


def parse(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object that bytes hold, or None when they hold anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
