"""`Row`, one run as lists, tables and programs show it: what its folder says, in one flat value; it looks for none."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agilab.errors import AgilabError, EvidenceError, RunStateError, first_line
from agilab.events import plain
from agilab.run import Run
from agilab.sidecar import Tags, read_tags

NONSENSE = (LookupError, TypeError, AttributeError, ValueError)
"""What a record of the right schema and the wrong shape raises; a folder may come from anybody."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one run came to.

    Parameters
    ----------
    run_id, app, state
        As `Run` says them.
    folder
        Path of the run folder.
    error
        Why it failed, or why its record cannot be read; None otherwise.
    created, started, ended
        UTC, ISO 8601; None where it is not known.
    duration_s
        From the monotonic clock [s]; None until the run is final.
    planned, committed
        Partitions.
    artifacts, artifact_bytes
        How many there are, and their size [bytes]; None until the run is final.
    settings, metrics
        By name, as JSON values.
    request_digest
        Equal for runs of the same request; empty when it is not known.
    tags, note
        What somebody has said about it.
    """

    run_id: str
    app: str
    state: str
    folder: str
    error: str | None = None
    created: str | None = None
    started: str | None = None
    ended: str | None = None
    duration_s: float | None = None
    planned: int = 0
    committed: int = 0
    artifacts: int | None = None
    artifact_bytes: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    request_digest: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        artifacts = None
        if self.artifacts is not None:
            artifacts = {"count": self.artifacts, "size_bytes": self.artifact_bytes}
        return {
            "run_id": self.run_id,
            "app": self.app,
            "state": self.state,
            "error": self.error,
            "folder": self.folder,
            "created": self.created,
            "started": self.started,
            "ended": self.ended,
            "duration_s": self.duration_s,
            "partitions": {"count": self.planned, "committed": self.committed},
            "artifacts": artifacts,
            "metrics": dict(self.metrics),
            "settings": dict(self.settings),
            "request_digest": self.request_digest,
            "tags": list(self.tags),
            "note": self.note,
        }


def read_row(run: Run) -> Row:
    """Return the row of a run; one whose record makes no sense is ``unreadable`` and breaks no list."""
    try:
        return _row(run)
    except (AgilabError, OSError, *NONSENSE) as err:
        return Row(run.run_id, run.app, "unreadable", str(run.paths.root), error=first_line(err))


def _row(run: Run) -> Row:
    state, manifest = run.state, {}
    with suppress(RunStateError, EvidenceError):
        manifest = run.manifest
    request = manifest.get("request") or _request(run)
    said = _tags(run)
    fields: dict[str, Any] = {
        "run_id": run.run_id,
        "app": run.app,
        "state": str(manifest.get("state", state)),
        "folder": str(run.paths.root),
        "settings": plain(dict(request.get("settings") or {})),
        "request_digest": str(request.get("digest") or ""),
        "tags": said.tags,
        "note": said.note,
    }
    if not manifest:
        return Row(**fields, **_so_far(run))
    for name in ("created", "started", "ended"):
        fields[name] = None if manifest[name] is None else str(manifest[name])
    artifacts, partitions, took = manifest["artifacts"], manifest["partitions"], manifest["duration_s"]
    return Row(
        **fields,
        error=manifest["error"],
        duration_s=None if took is None else plain(float(took)) + 0.0,  # neither a text nor without end
        planned=int(partitions["count"]),
        committed=int(partitions["committed"]),
        artifacts=int(artifacts["count"]),
        artifact_bytes=int(artifacts["size_bytes"]),
        metrics=plain(dict(manifest["metrics"])),
    )


def _so_far(run: Run) -> dict[str, Any]:
    """Return what the events of a run without a manifest tell."""
    created, planned, committed, metrics = None, {}, set(), {}
    for event in run.events():
        with suppress(*NONSENSE):
            if event["event"] == "created":
                created = str(event["t"])
            elif event["event"] == "planned":
                planned[str(event["stage"])] = int(event["partitions"])
            elif event["event"] == "committed":
                committed.add(str(event["partition"]))
            elif event["event"] == "metric":
                metrics[str(event["name"])] = event["value"]
    done = {"planned": sum(planned.values()), "committed": len(committed)}
    return {"created": created, **done, "metrics": plain(metrics)}


def _request(run: Run) -> Mapping[str, Any]:
    try:
        return run.request
    except (AgilabError, OSError):
        return {}


def _tags(run: Run) -> Tags:
    """Return the tags of a run; those that cannot be read are none in a list, and `agilab show` says why."""
    with suppress(EvidenceError):
        return read_tags(run.paths)
    return Tags()
