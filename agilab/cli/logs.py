"""`agilab logs`: what a run, its workers and its partitions said, once or as it is said."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from agilab import events
from agilab.cli.named import named_run
from agilab.cli.progress import attempt_line, resumed_line
from agilab.cli.screen import clock, out
from agilab.env import AgiEnv
from agilab.errors import ArtifactNotFoundError
from agilab.rows import NONSENSE
from agilab.run import Run

Line = tuple[str, str, str]
"""Where it comes from, when (empty where that is not known) and what was said."""

LIVE = ("queued", "installing", "running", "sealing")
POLL_S = 0.1
"""How often a followed log is looked at [s]."""
EVENTS = "run"
"""Heads the lines that come from the event log."""
PROGRESS_EVERY_S = 1.0
"""How often progress of one partition is told to who follows [s]."""


@click.command("logs")
@click.argument("run_id", metavar="RUN")
@click.option("--worker", metavar="NAME", help="Only this worker, and the partitions it had.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print every line as a JSON object: source, t, text.")
def logs_command(*, run_id: str, worker: str | None, follow: bool, as_json: bool) -> int:
    """Print the log of a run, or follow it.

    RUN is a run id, the head of one, `last`, or a run folder. Lines of the run itself come first, then what
    each worker printed.
    """
    run = named_run(AgiEnv(), run_id)
    if follow or as_json:
        for source, t, text in followed(run, worker) if follow else logged(run, worker):
            if as_json:
                out(json.dumps({"source": source, "t": t or None, "text": text}))
            else:
                out(f"{source}: {stamped(t, text)}")
            sys.stdout.flush()
        return 0
    heading = ""
    for source, t, text in logged(run, worker):
        if source != heading:
            out(f"==> {source} <==")
            heading = source
        out(stamped(t, text))
    return 0


def stamped(t: str, text: str) -> str:
    """Put the time before a line that has one."""
    return f"{clock(t)} {text}" if t else text


def logged(run: Run, worker: str | None) -> list[Line]:
    """Return what a run and its workers said; what the supervisor only repeats is left out."""
    said = EventLines(worker)
    lines = [line for event in run.events() for line in said(event)]
    told = events.visible("\n".join(text for _, _, text in lines))
    for name in [worker] if worker is not None else sorted(path.stem for path in run.paths.logs.glob("*.log")):
        text = _printed(run, name, known=said.workers).rstrip()
        if text and not (name == "supervisor" and text in told):
            lines += [(name, "", line) for line in text.splitlines()]
    return lines


class EventLines:
    """Writes events as lines of a log.

    Parameters
    ----------
    worker
        Only events of this worker's partitions; None for everything.
    progress
        Whether to tell of progress.

    Attributes
    ----------
    workers
        Every worker that was given a partition so far.
    """

    def __init__(self, worker: str | None, *, progress: bool = False) -> None:
        self.workers: set[str] = set()
        self._worker = worker
        self._worker_of: dict[str, str] = {}
        self._progress = progress
        self._told: dict[str, float] = {}
        self._failed = False

    def __call__(self, event: Mapping[str, Any]) -> list[Line]:
        """Return the lines of one event; none for those that only count, or make no sense in a damaged folder."""
        try:
            return self._lines(event)
        except NONSENSE:
            return []

    def _lines(self, event: Mapping[str, Any]) -> list[Line]:
        if event.get("event") == "dispatched":
            self._worker_of[event["partition"]] = event["worker"]
            self.workers.add(event["worker"])
        if self._worker is not None and self._worker_of.get(event.get("partition", "")) != self._worker:
            return []
        progress = event.get("event") == "progress"
        text = self._progress_text(event) if progress else _text(event, failed=self._failed)
        self._failed = self._failed or (event.get("event") == "failed" and not event["retry"])
        first, *rest = text.split("\n")
        return [(EVENTS, str(event.get("t") or ""), first), *((EVENTS, "", line) for line in rest)] if text else []

    def _progress_text(self, event: Mapping[str, Any]) -> str:
        partition, now = event["partition"], event["mono"]
        if not self._progress or now - self._told.get(partition, -PROGRESS_EVERY_S) < PROGRESS_EVERY_S:
            return ""
        self._told[partition] = now
        return f"progress {partition}: {event['done']} of {event['total']}"


def _text(event: Mapping[str, Any], *, failed: bool) -> str:
    """Write one event; how a run ended is not repeated where the failed partition has said it."""
    match event.get("event"):
        case "log":
            return f"{event['level']} {event['partition']}: {event['text']}"
        case "note":
            return str(event["text"])
        case "resumed":
            return resumed_line(event)
        case "state":
            outcome = f": {event['outcome']}" if event.get("outcome") else ""
            error = f": {event['error']}" if event.get("error") and not failed else ""
            return f"state {event['state']}{outcome}{error}"
        case "stage":
            return f"stage {event['stage']} {event['status']}"
        case "failed":
            traceback = str(event.get("traceback") or "").rstrip()
            return f"{attempt_line(event)}\n{traceback}".rstrip()
    return ""


def _printed(run: Run, worker: str, *, known: set[str]) -> str:
    """Return what a worker printed; one that was there and printed nothing is no error."""
    try:
        return run.logs(worker)
    except ArtifactNotFoundError:
        if worker in known:
            return ""
        raise


def followed(run: Run, worker: str | None) -> Iterator[Line]:
    """Yield the lines of a run's events and log files as they are written, until the run has ended.

    Parameters
    ----------
    run
        The run.
    worker
        Only this worker's; None for all.
    """
    said = EventLines(worker, progress=True)
    offset, offsets, over = 0, dict[Path, int](), False
    while not over:
        over = run.state not in LIVE
        found, new = events.read(run.paths.events, offset)
        while found or new != offset:
            offset = new
            yield from (line for event in found for line in said(event))
            found, new = events.read(run.paths.events, offset)
        for path in sorted(run.paths.logs.glob("*.log" if worker is None else f"{worker}.log")):
            yield from ((path.stem, "", line) for line in _new_lines(path, offsets, last=over))
        if not over:
            time.sleep(POLL_S)


def _new_lines(path: Path, offsets: dict[Path, int], *, last: bool) -> list[str]:
    """Read the complete lines after the offset of a file, and the torn one too when nothing follows."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        file.seek(offsets.get(path, 0))
        data = file.read()
    end = len(data) if last else data.rfind(b"\n") + 1
    offsets[path] = offsets.get(path, 0) + end
    return data[:end].decode(errors="replace").splitlines()
