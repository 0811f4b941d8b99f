"""The sealed record of a run: building the manifest, closing the folder, seeing that it is closed.

`build` and `seal` belong to the owner of a run; nothing is written after
them. What a partition record is, `records` knows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agilab import digest, sums
from agilab.errors import EvidenceError, RunStateError
from agilab.events import plain
from agilab.paths import RunPaths, disk_errors, make_folder, sync_folder, write_file
from agilab.records import FIRST_RECORDS, count_artifacts, read_records, record_line, records_digest, shares

if TYPE_CHECKING:
    from agilab.verification import Verification

__all__ = ["build", "is_sealed", "read_records", "record_line", "seal", "sealed_manifest", "set_aside", "verify"]

SCHEMA = "agilab.run/1"

_FACTS = frozenset(
    (
        *("run_id", "app", "state", "error", "attempt", "created", "started", "ended", "duration_s"),
        *("request", "inputs", "data", "code", "environment", "manager", "backend", "stages", "metrics", "reproduce"),
    )
)
_SYNCED_AT_A_TIME = 8
_MANIFEST = "run_manifest.json"
_MANIFEST_LINE = re.compile(rb"(?:\A|\n)([0-9a-f]{64})  run_manifest\.json\n")
_ASIDE = re.compile(r"(?:.*/)?\.[^/]+\.[0-9]+\.tmp")
_compact = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False).encode


def build(
    facts: Mapping[str, Any], records: Sequence[Mapping[str, Any]], *, lines: Sequence[bytes] | None = None
) -> dict[str, Any]:
    """Fill in the manifest of a run, schema ``agilab.run/1``.

    Parameters
    ----------
    facts
        Every top-level field but ``schema``, ``partitions`` and ``artifacts``; in ``stages`` the field ``committed``
        is counted here, and ``planned``, worker -> partitions, becomes ``workers``: what was planned and what was done.
    records
        The records of all committed partitions, in plan order.
    lines
        What `record_line` made of them, where the caller still has it.

    Raises
    ------
    EvidenceError
        A field is missing or unknown.
    """
    wrong = sorted(_FACTS.symmetric_difference(facts))
    if wrong:
        raise EvidenceError(f"a manifest cannot be built with {', '.join(wrong)} missing or unknown")
    committed: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        committed.setdefault(record["stage"], []).append(record)
    stages = [_stage(stage, committed.get(stage["stage"], ())) for stage in facts["stages"]]
    if lines is None:
        lines = [record_line(record) for record in records]
    return {
        **facts,
        "schema": SCHEMA,
        "metrics": plain(facts["metrics"]),
        "stages": stages,
        "partitions": {
            "count": sum(stage["partitions"] or 0 for stage in stages),
            "committed": len(records),
            "digest": records_digest(lines),
            "first": [dict(record) for record in records[:FIRST_RECORDS]],
        },
        "artifacts": count_artifacts(records),
    }


def _stage(stage: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    known = {name: value for name, value in stage.items() if name != "planned"}
    workers = {"workers": shares(stage["planned"], done)} if "planned" in stage else {}
    return {**known, "committed": len(done), **workers}


def seal(paths: RunPaths, manifest: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Close a run: write ``run_manifest.json``, then ``manifest-sha256.txt``, both durably.

    Everything else must have been written. Files whose digest is not known
    are hashed and synced here. Leftovers of interrupted writes are removed.

    Parameters
    ----------
    paths
        The run folder.
    manifest
        What `build` returned.
    known
        POSIX path -> sha256 of files that the caller has hashed and synced.

    Raises
    ------
    EvidenceError
        The folder holds a link, something that is no file, or a name with control characters, or a known file is
        gone. Nothing has been written.
    RunStateError
        The run has a seal already; it moves to ``seals/`` first.
    NoSpaceError
        The disk is full; the run has no seal.
    """
    if os.path.lexists(paths.sums):
        raise RunStateError(f"run {paths.run_id} has a seal already, {paths.sums}; it is never written over")
    with disk_errors(paths.root, "sealing"):
        listed = _listed(paths, known)
        try:
            text = _layout(manifest).encode()
        except ValueError:  # the text of an error may hold what JSON and UTF-8 lack
            text = _layout(plain(manifest)).encode()
        listed[_MANIFEST] = digest.of_bytes(text)
        write_file(paths.manifest, text)
        write_file(paths.sums, sums.to_text(listed))


def _listed(paths: RunPaths, known: Mapping[str, str]) -> dict[str, str]:
    """Return path -> sha256 of every file that a seal lists but the manifest; all of them are on the disk."""
    from concurrent.futures import ThreadPoolExecutor

    root = str(paths.root)
    files, odd = sums.walk(root)
    if odd:
        named = ", ".join(f"{path} ({what})" for path, what in sorted(odd.items())[:5])
        raise EvidenceError(f"run {paths.run_id} holds what cannot be sealed: {named}; only regular files can be")
    listed: dict[str, str] = {}
    for path in files:
        if path == _MANIFEST:
            continue
        if _ASIDE.fullmatch(path) and not path.startswith("artifacts/"):
            Path(root, path).unlink()
            continue
        listed[path] = known.get(path, "")
    new = [path for path, sha256 in listed.items() if not sha256]
    with ThreadPoolExecutor(_SYNCED_AT_A_TIME) as threads:  # the disk makes one wait of several
        found = threads.map(lambda path: sums.hash_file(f"{root}/{path}", durable=True)[0], new)
        listed.update(zip(new, found, strict=True))
        list(threads.map(lambda folder: sync_folder(paths.root / folder), {path.rpartition("/")[0] for path in new}))
    gone = known.keys() - listed.keys()
    if gone:
        raise EvidenceError(f"run {paths.run_id} has lost {', '.join(sorted(gone)[:5])} since it was hashed")
    return listed


def set_aside(paths: RunPaths, committed: Collection[tuple[str, str]]) -> dict[str, str]:
    """Move what no seal may list to ``.staging/aside``: partition folders without a record, links, what is no file.

    For the owner of a run that goes on after a crash, or that could not be sealed.

    Parameters
    ----------
    paths
        The run folder.
    committed
        Stage and partition of every durable record.

    Returns
    -------
    dict
        POSIX path -> ``"uncommitted"``, ``"link"`` or ``"odd"``.
    """
    root = str(paths.root)
    files, odd = sums.walk(root)
    found = dict(odd)
    for path in files:
        parts = path.split("/")
        if parts[0] == "artifacts" and tuple(parts[1:3]) not in committed:
            found["/".join(parts[:3])] = "uncommitted"
    for number, path in enumerate(sorted(found)):
        if os.path.lexists(f"{root}/{path}"):  # it may have gone with its folder
            with disk_errors(paths.staging, "setting aside in"):
                target = make_folder(paths.staging / "aside") / f"{number}.{os.urandom(2).hex()}"
                Path(root, path).rename(target)
    return found


def is_sealed(paths: RunPaths) -> bool:
    """Say whether a run is final: its seal exists and names the manifest that is there."""
    return sealed_manifest(paths) is not None


def sealed_manifest(paths: RunPaths) -> bytes | None:
    """Return the bytes of the manifest when the seal names exactly them, else None; nothing else is checked."""
    try:
        with open(sums.open_file(str(paths.sums)), "rb", buffering=0) as file:
            # The lines are sorted, so this one stands near the end.
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65536))
            match = _MANIFEST_LINE.search(file.read())
            if match is None and size > 65536:
                file.seek(0)
                match = _MANIFEST_LINE.search(file.readall())
        if match is None:
            return None
        data = sums.read_file(str(paths.manifest))
    except (OSError, EvidenceError):
        return None
    return data if digest.of_bytes(data).encode() == match[1] else None


def verify(paths: RunPaths) -> Verification:
    """Hash every file of a run again and hold the records against each other: see `agilab.verification`."""
    from agilab import verification

    return verification.verify(paths)


def _layout(value: Any, margin: str = "") -> str:
    """Write JSON for people and fast: a member or list item per line, and each list item on one."""
    inner = margin + "  "
    if isinstance(value, Mapping) and value:
        members = [f"{inner}{_compact(name)}: {_layout(item, inner)}" for name, item in sorted(value.items())]
        return "{\n" + ",\n".join(members) + f"\n{margin}}}" + ("" if margin else "\n")
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join([inner + _compact(item) for item in value]) + f"\n{margin}]"
    return _compact(value)
