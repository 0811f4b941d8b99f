"""What is said about a run that has ended: its numbers, what failed in which partition, and what to type next."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agilab.cli.progress import Event, Tally
from agilab.cli.screen import count, duration, note, number, out, pairs, size
from agilab.errors import AgilabError, EvidenceError, RunStateError
from agilab.package import WorkerSource, code_digest
from agilab.rows import NONSENSE, read_row
from agilab.run import RESUMABLE

if TYPE_CHECKING:
    from agilab.env import AgiEnv
    from agilab.run import Run

MOST_METRICS = 20
"""How many metrics are printed at the end of a run; `show` and --json have all."""
TRACEBACK_LINES = 20
"""How much of a remote traceback is printed, from its end; the log has all."""

MOST_WORKERS = 8
"""How many workers are listed with what they have to do, or have done: the busiest."""

EXIT = {"succeeded": 0, "cancelled": 130}
"""State -> exit code; every other state is a failure."""


def exit_code(run: Run, signal: int = 0) -> int:
    """Return what the shell is told about a run that ended by itself (0) or after a signal of that number."""
    return 128 + signal if signal and run.state == "cancelled" else EXIT.get(run.state, 1)


def record_of(run: Run) -> Mapping[str, Any]:
    """Return the manifest of a run, empty while it has none or when it cannot be read."""
    try:
        return run.manifest
    except (RunStateError, EvidenceError):
        return {}


def request_of(run: Run) -> Mapping[str, Any]:
    """Return the request of a run, empty when it cannot be read."""
    try:
        return record_of(run).get("request") or run.request
    except (AgilabError, OSError):
        return {}


def edited(edits: Mapping[str, Any]) -> str:
    """Say in a few words what of a plan was edited; empty when nothing was."""
    found = {name: sum(name in edit for edit in edits.values()) for name in ("weight", "pin")}
    return ", ".join(count(number, name) for name, number in found.items() if number)


def run_json(run: Run) -> dict[str, Any]:
    """Return a run as one JSON value: what lists show, and what `agilab run --json` says at the end."""
    return read_row(run).to_json()


def tallied(run: Run) -> Tally:
    """Add up the events of a run; one that makes no sense, in a damaged folder, counts for nothing."""
    tally = Tally()
    for event in run.events():
        with suppress(*NONSENSE):
            tally.apply(event)
    return tally


def print_run(run: Run) -> None:
    """Write what a run came to: state, folder, artifacts, metrics, and the commands that come next."""
    manifest = record_of(run)
    took = f" in {duration(manifest['duration_s'])}" if manifest.get("duration_s") is not None else ""
    out(f"{run.state}: {run.run_id} of {run.app}{took}")
    found = manifest.get("artifacts") or {"count": 0, "size_bytes": 0}
    pairs(
        (
            ("folder", run.paths.root),
            ("artifacts", f"{count(found['count'], 'file')}, {size(found['size_bytes'])}"),
        ),
        indent="  ",
    )
    print_metrics(run.metrics, limit=MOST_METRICS)
    verbs = ("show", "verify", "logs", *(["resume"] if run.state in RESUMABLE else []))
    out("next", *(f"  agilab {verb} {run.run_id}" for verb in verbs))


def print_metrics(metrics: Mapping[str, float], *, limit: int | None = None) -> None:
    """Write metrics, one per line; those beyond `limit` are counted."""
    if not metrics:
        return
    shown = list(metrics.items())[:limit]
    out("metrics")
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        out(f"  {name.ljust(width)}  {number(value)}")
    if len(shown) < len(metrics):
        out(f"  ... and {len(metrics) - len(shown)} more; --json has all")


def print_failures(run: Run, failures: list[Event], env: AgiEnv, *, write: Callable[[object], None] = note) -> None:
    """Write the end of the first failure's traceback, where the code lies and what repeats it; count the others.

    Parameters
    ----------
    run
        The run.
    failures
        Its ``failed`` events that were final.
    env
        Where worker packages and the run's app lie.
    write
        Takes a line.
    """
    for event in failures[:1]:
        lines = own_paths(str(event.get("traceback") or ""), run, env).splitlines()
        write("")
        if len(lines) > TRACEBACK_LINES:
            write(f"... {len(lines) - TRACEBACK_LINES} lines before this: agilab logs {run.run_id}")
        for line in lines[-TRACEBACK_LINES:]:
            write(line)
    if len(failures) > 1:
        write(f"and {count(len(failures) - 1, 'more failed partition')}: agilab logs {run.run_id}")


def own_paths(text: str, run: Run, env: AgiEnv) -> str:
    """Write paths of worker code for people: those of the project where its code is unchanged, else shortened."""
    folder = env.wenv.package(run.app)
    paths = re.compile(re.escape(f"{folder}{os.sep}") + r"([0-9a-f]{64})" + re.escape(os.sep) + r"([^\"\n]*)")
    if not paths.search(text):
        return text
    root, digest = "", ""
    with suppress(AgilabError):
        project = env.select(run.app).project
        root = str(project.worker.parent)
        digest = code_digest(WorkerSource(project.name, project.worker, project.writable))

    def shorter(found: re.Match[str]) -> str:
        own = os.path.join(root, found[2])
        if found[1] == digest and os.path.exists(own):
            return own
        return os.path.join("...", folder.name, found[1][:12], found[2])

    return paths.sub(shorter, text)


def print_tracked(run: Run, track: str | None) -> None:
    """Write to stderr where a run is tracked, once it has arrived there or some seconds have passed."""
    if track == "" or (track is None and not os.environ.get("AGILAB_TRACK")):
        return
    from agilab import tracking

    store = tracking.chosen(track, os.environ)
    assert store is not None
    found = tracking.arrived(run, store)
    if found is not None and found.seal and not found.error:
        note(f"tracked: {found.link or f'run {found.run_id} in {found.uri}'}")
        return
    why = f" ({found.error})" if found is not None and found.error else " yet"
    note(f"not all of it has reached {store.shown}{why}; hand it over with: agilab export mlflow {run.run_id}")


def print_error(run: Run) -> None:
    """Write to stderr, in one line, why a run did not succeed."""
    if run.state not in EXIT:
        note(f"agilab: error: run {run.run_id} {run.state}{f': {run.error}' if run.error else ''}")
