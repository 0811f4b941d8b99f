"""Partition records, the truth about what has been committed: one line each, canonical, with a digest over all.

Who may append them, and when, it does not know. A record is one line of
``partitions/<worker>.jsonl``; a copy lies beside the artifacts it names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
    return digest.of_json({**content, "app_uuid": request["app"]["uuid"]})


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
