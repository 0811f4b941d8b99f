"""Takes up a run folder whose supervisor has gone or gave up: what is committed stays, everything else makes room.

Only the owner of a run may call it. A crash in any of its steps leaves a
folder that the next call takes up in the same way.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agilab import digest, events, manifest, prepared, records, sums
from agilab.errors import EvidenceError, RunStateError
from agilab.paths import RunPaths, disk_errors, make_folder, sync_folder, write_file
from agilab.run import FINAL_STATES


@dataclass(slots=True)
class Past:
    """What earlier attempts at a run left.

    Attributes
    ----------
    attempt
        Number of the last of them.
    created, started
        When the run was made, and when its partitions began to run; None unless they did.
    active_s
        How long those attempts took together, as far as their events tell [s].
    attempts
        Partition -> how often it was dispatched.
    told
        Partitions whose commit stands in the event log.
    records
        Partition -> its durable record.
    hashes
        Path -> sha256 of the files of committed partitions, hashed again.
    plans
        Stage -> what ``plan/<stage>.json`` holds.
    prepared
        What ``prepared.json`` holds; None when nothing was ever dispatched.
    """

    attempt: int = 0
    created: str = ""
    started: str | None = None
    active_s: float = 0.0
    attempts: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    records: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    plans: dict[str, bytes] = field(default_factory=dict)
    prepared: dict[str, Any] | None = None


def require_resumable(paths: RunPaths) -> None:
    """Make sure that a run may go on; its owner is the caller, or nobody.

    Raises
    ------
    RunStateError
        It has succeeded.
    EvidenceError
        Its seal is damaged.
    """
    if not os.path.lexists(paths.sums):
        return
    state = (records.parse(manifest.sealed_manifest(paths) or b"") or {}).get("state")
    if state == "succeeded":
        raise RunStateError(f"run {paths.run_id} has succeeded: there is nothing left to do")
    if state not in FINAL_STATES:
        raise EvidenceError(f"run {paths.run_id} cannot be read; see what is wrong with: agilab verify {paths.run_id}")


def take_up(paths: RunPaths, *, resumes: bool) -> Past:
    """Bring a run folder into the state of its durable records, and return what they say.

    Parameters
    ----------
    paths
        The run folder; the caller owns it.
    resumes
        Whether the run goes on. Then what it re-uses is hashed first, and its
        seal is superseded. Otherwise it is only to be sealed.

    Raises
    ------
    RunStateError
        It has succeeded.
    EvidenceError
        What it left is not what was recorded.
    NoSpaceError
        The disk is full; the next call finds what it needs.
    """
    with disk_errors(paths.root, "taking up"):
        return _take_up(paths, resumes=resumes)


def _take_up(paths: RunPaths, *, resumes: bool) -> Past:
    finish_superseding(paths)
    past = Past(prepared=prepared.read(paths))
    if resumes:
        require_resumable(paths)
    for path in _files(paths.partitions):
        _cut_torn_line(path)
    past.records = {record["partition"]: record for record in records.read_records(paths)}
    if resumes:
        past.hashes = _hash(paths, past.records)
        if os.path.lexists(paths.sums):
            supersede(paths)
    shutil.rmtree(paths.staging, ignore_errors=True)
    manifest.set_aside(paths, {(record["stage"], record["partition"]) for record in past.records.values()})
    shutil.rmtree(paths.staging, ignore_errors=True)
    for record in past.records.values():
        _restore_copy(paths, record)
    if past.prepared is None:  # nothing was dispatched, so these plans stand for nothing
        shutil.rmtree(paths.plans, ignore_errors=True)
    past.plans = {path.stem: path.read_bytes() for path in _files(paths.plans)}
    _read_log(paths, past)
    return past


def _hash(paths: RunPaths, found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Hash the files of committed partitions that lie here; they are what was recorded, or the run cannot go on."""
    here = (item for record in found.values() for item in record["artifacts"] if not item["location"])
    expected = {item["path"]: item["sha256"] for item in here}
    unsafe = [path for path in expected if not (sums.safe_path(path) and path.startswith("artifacts/"))]
    reasons: dict[str, str] = dict.fromkeys(unsafe, "is recorded outside of the run folder")
    hashed = sums.hash_all(
        str(paths.root),
        sorted(expected.keys() - reasons.keys()),
        lambda path, err: reasons.update({path: f"cannot be read ({err})"}),
    )
    for path, (sha256, _) in hashed.items():
        if sha256 != expected[path]:
            reasons[path] = f"has sha256 {sha256}, not the recorded {expected[path]}"
    if reasons:
        path, reason = min(reasons.items())
        raise EvidenceError(
            f"artifact {path} of run {paths.run_id} {reason}, so the run cannot go on with it; run again"
        )
    copies = {
        f"artifacts/{record['stage']}/{record['partition']}/{records.COPY}": digest.of_bytes(
            records.record_line(record)
        )
        for record in found.values()
    }
    return {path: sha256 for path, (sha256, _) in hashed.items()} | copies


def _restore_copy(paths: RunPaths, record: Mapping[str, Any]) -> None:
    """Write the copy of a record that a power cut has emptied, or that was never written."""
    path = paths.partition(record["stage"], record["partition"]) / records.COPY
    line = records.record_line(record)
    try:
        there = sums.read_file(str(path))
    except (OSError, EvidenceError):
        there = b""
    if there != line:
        make_folder(path.parent)
        write_file(path, line, durable=False)


def supersede(paths: RunPaths, also: Iterable[Path] = ()) -> None:
    """Move the seal to ``seals/<n>/``, with a copy of every file that it lists and that is going to change.

    Parameters
    ----------
    paths
        The run folder; the caller owns it.
    also
        Files that are going to change, besides those of a run that goes on.
    """
    shutil.rmtree(paths.superseded, ignore_errors=True)
    aside = make_folder(paths.superseded)
    for path in [*_changing(paths), *also]:
        target = aside / path.relative_to(paths.root)
        make_folder(target.parent)
        shutil.copyfile(path, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
    for folder in [aside, *(path for path in aside.rglob("*") if path.is_dir())]:
        sync_folder(folder)
    # The one step that counts: from here on the run is lost until it is sealed again.
    paths.sums.rename(aside / paths.sums.name)
    sync_folder(paths.root)
    finish_superseding(paths)


def finish_superseding(paths: RunPaths) -> None:
    """Bring a seal that was on its way into ``seals`` there, or forget one that had not left its place."""
    aside = paths.superseded
    if not (aside / paths.sums.name).is_file():
        shutil.rmtree(aside, ignore_errors=True)
        return
    if paths.manifest.is_file() and not (aside / paths.manifest.name).exists():
        paths.manifest.rename(aside / paths.manifest.name)
    sync_folder(aside)
    sync_folder(paths.root)
    aside.rename(make_folder(paths.seals) / str(1 + max(seal_numbers(paths), default=0)))
    sync_folder(paths.seals)


def seal_numbers(paths: RunPaths) -> list[int]:
    """Return the numbers of the superseded seals, ascending."""
    try:
        return sorted(int(name) for name in os.listdir(paths.seals) if name.isdecimal())
    except OSError:
        return []


def _changing(paths: RunPaths) -> Iterator[Path]:
    """Yield the files that a run which goes on may append to or replace."""
    yield paths.events
    for folder in (paths.logs, paths.partitions, paths.plans):
        yield from _files(folder)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    except OSError:
        return []


def _cut_torn_line(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        events.cut_torn_line(fd)
    finally:
        os.close(fd)


def _read_log(paths: RunPaths, past: Past) -> None:
    """Learn from the event log when attempts began and ended, and what they dispatched."""
    begun = last = 0.0
    for event in events.follow(paths.events, lambda: True):
        with suppress(LookupError, TypeError, ValueError):  # a line that a power cut has spoilt tells nothing
            name, mono = event["event"], float(event["mono"])
            if name in ("created", "resumed"):
                past.active_s += last - begun
                begun, past.attempt = mono, int(event["attempt"])
                past.created = past.created or str(event["t"])
            elif name == "state" and event["state"] == "running":
                past.started = past.started or str(event["t"])
            elif name == "dispatched":
                partition = event["partition"]
                past.attempts[partition] = max(past.attempts.get(partition, 0), int(event["attempt"]))
            elif name == "fetched":  # the time between the end of the run and this was not the run's
                past.active_s += last - begun
                begun = mono
            elif name == "committed":
                past.told.add(event["partition"])
            last = mono
    past.active_s += last - begun
