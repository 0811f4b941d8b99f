"""Brings artifacts that stayed on hosts into a run folder that has ended, and closes its record anew.

Bytes arrive in ``.staging/fetched`` while the seal stands; only when all of
them are there does the seal make room for the next one, by the steps of a
journal that whoever owns the run next can finish.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

from agilab import manifest, records, recovery, sums
from agilab.artifact import Artifact, matches
from agilab.backends.base import Keeper, Remote
from agilab.errors import ArtifactNotFoundError, EvidenceError, NoSpaceError, RunStateError
from agilab.events import EventLog
from agilab.owner import hold_owner
from agilab.paths import RunPaths, make_folder, sync_folder, write_file, write_json
from agilab.run import FINAL_STATES, Run

Reach = Callable[[], AbstractContextManager[Keeper]]
_NOT_FACTS = ("schema", "partitions", "artifacts")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch did.

    Parameters
    ----------
    run
        The run.
    artifacts
        What has come, as it is recorded now.
    elsewhere
        What lies on hosts still.
    """

    run: Run
    artifacts: tuple[Artifact, ...]
    elsewhere: tuple[Artifact, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "folder": str(self.run.paths.root),
            "artifacts": [item.to_json() for item in self.artifacts],
            "elsewhere": [item.to_json() for item in self.elsewhere],
        }


def fetch(run: Run, pattern: str, *, keeper: Reach) -> Fetched:
    """Bring artifacts here that match a pattern: all of them, or the run stays as it is.

    What has arrived before a failure is not asked for again.

    Parameters
    ----------
    run
        A run that has ended.
    pattern
        For ``stage/partition/name``; see `agilab.artifact.matches`.
    keeper
        Returns what reaches the hosts; called only when there is something to fetch.

    Raises
    ------
    RunStateError
        The run has not ended, was lost, or somebody owns it.
    ArtifactNotFoundError
        No artifact matches, or a host does not have its file any more.
    EvidenceError
        What came is not what was recorded, or the folder is not what was sealed.
    HostError
        A host cannot be reached.
    NoSpaceError
        There is not enough space for them.
    """
    paths = run.paths
    _require_ended(run)
    with hold_owner(paths):
        finish(paths)
        wanted = _wanted(run, pattern)
        if wanted:
            _require_whole(paths)
            _bring(paths, wanted, keeper)
            _begin(paths, wanted)
            finish(paths)
    names = {item["path"] for record in wanted for item in record["artifacts"]}
    now = run.artifacts()
    return Fetched(run, tuple(item for item in now if item.path in names), tuple(item for item in now if item.location))


def finish(paths: RunPaths) -> bool:
    """Complete what a fetch has begun, from wherever it was interrupted; say whether there was anything.

    For the owner of a run, before anything else is done with it.
    """
    if not paths.fetch_journal.is_file():
        return False
    journal = json.loads(sums.read_file(str(paths.fetch_journal)))
    came = set(journal["paths"])
    recovery.finish_superseding(paths)
    old = paths.seals / str(journal["seal"])
    if not old.is_dir():
        copies = [paths.partition(*place) / records.COPY for place in journal["partitions"]]
        recovery.supersede(paths, also=copies)
    if not os.path.lexists(paths.sums):
        _move(paths, came)
        _rewrite(paths, came)
        _seal(paths, RunPaths(old), came)
    shutil.rmtree(paths.staging, ignore_errors=True)
    return True


def _require_ended(run: Run) -> None:
    state = run.state
    if state == "lost" and run.paths.fetch_journal.is_file():  # a fetch was killed: it is finished first
        return
    if state == "unreadable":
        raise EvidenceError(f"run {run.run_id} cannot be read; see what is wrong with: agilab verify {run.run_id}")
    if state == "lost":
        raise RunStateError(f"run {run.run_id} was lost; close its record first: agilab seal {run.run_id}")
    if state not in FINAL_STATES:
        raise RunStateError(f"run {run.run_id} is {state}; fetch when it has ended")


def _wanted(run: Run, pattern: str) -> list[dict[str, Any]]:
    """Return the records of partitions that have left what matches elsewhere, with those artifacts only."""
    found = []
    matched = False
    for record in run.records():
        named = [item for item in record["artifacts"] if matches(pattern, Artifact.from_json(item).key)]
        matched = matched or bool(named)
        away = [item for item in named if item["location"]]
        if away:
            found.append({**record, "artifacts": away})
    if not matched:
        raise ArtifactNotFoundError(
            f"no artifact of run {run.run_id} matches {pattern!r}; a pattern is held against stage/partition/name: "
            f"agilab show --artifacts {run.run_id}"
        )
    return found


def _require_whole(paths: RunPaths) -> None:
    """See that the folder holds the files that were sealed, so that the new seal vouches for no others."""
    files, odd = sums.walk(str(paths.root))
    listed = {path for _, _, path in sums.from_text(sums.read_file(str(paths.sums)).decode())}
    if odd or listed != set(files):
        raise EvidenceError(
            f"run {paths.run_id} does not hold what was sealed, so nothing is added to it; "
            f"see what has changed: agilab verify {paths.run_id}"
        )


def _bring(paths: RunPaths, wanted: Sequence[Mapping[str, Any]], keeper: Reach) -> None:
    """Have the bytes of artifacts in ``.staging/fetched``, each with the digest that was recorded."""
    items = [item | {"folder": record["folder"]} for record in wanted for item in record["artifacts"]]
    for item in items:
        if not sums.safe_path(item["path"]) or not item["path"].startswith("artifacts/"):
            raise EvidenceError(f"an artifact is recorded at {item['path']!r:.200}, outside of the run folder")
    missing = _not_arrived(paths, items) if paths.fetched.is_dir() else items
    if not missing:
        return
    need = sum(item["size_bytes"] for item in missing)
    disk = os.statvfs(paths.root)
    if need > disk.f_bavail * disk.f_frsize:
        raise NoSpaceError(
            f"no space on disk for {need} bytes of run {paths.run_id} in {paths.root}: "
            f"{disk.f_bavail * disk.f_frsize} free; make room, or fetch less: agilab fetch {paths.run_id} PATTERN"
        )
    make_folder(paths.fetched)
    with keeper() as hosts:
        for host, folder in dict.fromkeys((item["location"], item["folder"]) for item in missing):
            files = [
                Remote(item["path"], item["sha256"], item["size_bytes"])
                for item in missing
                if (item["location"], item["folder"]) == (host, folder)
            ]
            hosts.bring(host, folder, files, into=paths.fetched)
    for item in _not_arrived(paths, missing)[:1]:  # hosts say what they like: this is what counts
        what = f"{item['path']} of run {paths.run_id}"
        raise EvidenceError(f"host {item['location']} sent {what} other than recorded; it was thrown away")


def _not_arrived(paths: RunPaths, items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those that have not arrived; some at the same time, since each waits for the disk."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8, "agilab-fetch") as pool:
        arrived = pool.map(lambda item: _has_arrived(paths, item), items)
        return [item for item, there in zip(items, arrived, strict=True) if not there]


def _has_arrived(paths: RunPaths, item: Mapping[str, Any]) -> bool:
    """Hash what has arrived and put it on the disk; what is not as recorded is removed."""
    path = paths.fetched / item["path"]
    try:
        same = sums.hash_file(str(path), durable=True) == (item["sha256"], item["size_bytes"])
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not same:
        path.unlink()
    return same


def _begin(paths: RunPaths, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Write down, durably, what is to be done: from here on `finish` gets it done."""
    for folder in {(paths.fetched / item["path"]).parent for record in wanted for item in record["artifacts"]}:
        sync_folder(folder)
    journal = {
        "seal": 1 + max(recovery.seal_numbers(paths), default=0),
        "paths": [item["path"] for record in wanted for item in record["artifacts"]],
        "partitions": [[record["stage"], record["partition"]] for record in wanted],
    }
    write_json(paths.fetch_journal, journal)


def _move(paths: RunPaths, came: Iterable[str]) -> None:
    for path in sorted(came):
        with suppress(FileNotFoundError):  # moved before an interruption
            os.rename(paths.fetched / path, paths.root / path)
    for folder in {(paths.root / path).parent for path in came}:
        sync_folder(folder)


def _rewrite(paths: RunPaths, came: set[str]) -> None:
    """Say in the records, and in their copies, what is here now."""
    for path in sorted(paths.partitions.iterdir()):
        lines = sums.read_file(str(path)).splitlines(keepends=True)
        now = {}
        for number, line in enumerate(lines):
            record = records.parse(line) or {}
            if any(item["path"] in came for item in record["artifacts"]):
                now[number] = records.record_line(_arrived(record, came))
                copy = paths.partition(record["stage"], record["partition"]) / records.COPY
                write_file(copy, now[number], durable=False)  # the sealing waits for it
        if now:
            write_file(path, b"".join(now.get(number, line) for number, line in enumerate(lines)))


def _arrived(record: Mapping[str, Any], came: set[str]) -> dict[str, Any]:
    """Return a record that says which of its artifacts are here now."""
    here = {"hashed_by": "manager", "location": ""}
    artifacts = [item | (here if item["path"] in came else {}) for item in record["artifacts"]]
    away = any(item["location"] for item in artifacts)
    return {name: value for name, value in {**record, "artifacts": artifacts}.items() if away or name != "folder"}


def _seal(paths: RunPaths, old: RunPaths, came: set[str]) -> None:
    """Tell of it in the event log, and close the record: as before, but for what is here now."""
    before = records.parse(sums.read_file(str(old.manifest))) or {}
    found = list(Run(paths).records())
    items = [item for record in found for item in record["artifacts"] if item["path"] in came]
    was = [item for record in records.read_records(old) for item in record["artifacts"]]
    hosts = {item["location"] for item in was if item["path"] in came}
    os.truncate(paths.events, old.events.stat().st_size)  # what an interrupted attempt has told
    told = {"artifacts": len(items), "size_bytes": sum(item["size_bytes"] for item in items), "hosts": sorted(hosts)}
    with EventLog(paths.events) as log:
        log.append("fetched", told)
        log.append("state", {"state": "sealing", "outcome": before["state"], "error": before["error"]})
    changed = {f"{item['path'].rpartition('/')[0]}/{records.COPY}" for item in items}
    listed = sums.from_text(sums.read_file(str(old.sums)).decode())
    known = {path: sha for _, sha, path in listed if path.startswith("artifacts/") and path not in changed}
    known |= {item["path"]: item["sha256"] for item in items}
    facts = {name: value for name, value in before.items() if name not in _NOT_FACTS}
    manifest.seal(paths, manifest.build(facts, found), known)
