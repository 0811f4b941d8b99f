"""`agilab logs`: what a run, its workers and its partitions said, once or as it is said."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from agilab import events
from agilab.cli.named import named_run
from agilab.cli.outcome import NONSENSE
from agilab.cli.progress import attempt_line
from agilab.cli.screen import clock, out
from agilab.env import AgiEnv
from agilab.errors import ArtifactNotFoundError
from agilab.run import Run

LIVE = ("queued", "installing", "running", "sealing")
POLL_S = 0.1
"""How often a followed log is looked at [s]."""
EVENTS = "run"
"""Heads the lines that come from the event log."""


@click.command("logs")
@click.argument("run_id", metavar="RUN")
@click.option("--worker", metavar="NAME", help="Only this worker, and the partitions it had.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
def logs_command(*, run_id: str, worker: str | None, follow: bool) -> int:
    """Print the log of a run, or follow it.

    RUN is a run id, the head of one, `last`, or a run folder. Lines of the run itself come first, then what
    each worker printed.
    """
    run = named_run(AgiEnv(), run_id)
    if not follow:
        said = EventLines(worker)
        lines = [line for event in run.events() for line in said(event)]
        printed = _printed(run, worker, known=said.workers)
        out(*([f"==> {EVENTS} <==", *lines] if lines else []), *printed)
        return 0
    for line in followed(run, worker):
        out(line)
        sys.stdout.flush()
    return 0


class EventLines:
    """Writes events as lines of a log.

    Parameters
    ----------
    worker
        Only events of this worker's partitions; None for everything.

    Attributes
    ----------
    workers
        Every worker that was given a partition so far.
    """

    def __init__(self, worker: str | None) -> None:
        self.workers: set[str] = set()
        self._worker = worker
        self._worker_of: dict[str, str] = {}

    def __call__(self, event: Mapping[str, Any]) -> list[str]:
        """Return the lines of one event; none for those that only count, or make no sense in a damaged folder."""
        try:
            return self._lines(event)
        except NONSENSE:
            return []

    def _lines(self, event: Mapping[str, Any]) -> list[str]:
        if event.get("event") == "dispatched":
            self._worker_of[event["partition"]] = event["worker"]
            self.workers.add(event["worker"])
        if self._worker is not None and self._worker_of.get(event.get("partition", "")) != self._worker:
            return []
        text = _text(event)
        return [f"{clock(event.get('t'))} {line}" for line in text.split("\n")] if text else []


def _text(event: Mapping[str, Any]) -> str:
    match event.get("event"):
        case "log":
            return f"{event['level']} {event['partition']}: {event['text']}"
        case "note":
            return str(event["text"])
        case "state":
            outcome = f": {event['outcome']}" if event.get("outcome") else ""
            error = f": {event['error']}" if event.get("error") else ""
            return f"state {event['state']}{outcome}{error}"
        case "stage":
            return f"stage {event['stage']} {event['status']}"
        case "failed":
            traceback = str(event.get("traceback") or "").rstrip()
            return f"{attempt_line(event)}\n{traceback}".rstrip()
    return ""


def _printed(run: Run, worker: str | None, *, known: set[str]) -> list[str]:
    """Return what workers printed; a worker that was there and printed nothing is no error."""
    try:
        return run.logs(worker).splitlines()
    except ArtifactNotFoundError:
        if worker in known:
            return []
        raise


def followed(run: Run, worker: str | None) -> Iterator[str]:
    """Yield the lines of a run's events and log files as they are written, until the run has ended.

    Parameters
    ----------
    run
        The run.
    worker
        Only this worker's; None for all, each line headed by where it comes from.
    """
    said = EventLines(worker)
    offset, offsets, over = 0, dict[Path, int](), False
    while not over:
        over = run.state not in LIVE
        found, new = events.read(run.paths.events, offset)
        while found or new != offset:
            offset = new
            yield from (f"{EVENTS}: {line}" for event in found for line in said(event))
            found, new = events.read(run.paths.events, offset)
        for path in sorted(run.paths.logs.glob("*.log" if worker is None else f"{worker}.log")):
            yield from (f"{path.stem}: {line}" for line in _new_lines(path, offsets, last=over))
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
