"""Live progress of a run on stderr: a line per stage on a terminal, a line per change elsewhere.

`Tally` adds up events and prints nothing; `watch` chooses how its numbers are
shown. A run that has ended before `PATIENCE_S` never loads rich.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agilab.cli.screen import count, duration, note, number, safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Event = Mapping[str, Any]

PATIENCE_S = 0.4
REDRAW_S = 0.2
BAR_WIDTH = 20
STAGE_WIDTH = 24


@dataclass(slots=True)
class StageTally:
    """How far one stage has come.

    Attributes
    ----------
    partitions
        How many there are; None while they are not planned.
    committed, retries
        Counts.
    running
        Partitions that a worker has and that have not ended -> what part of each is done.
    started, ended
        Monotonic times of its events [s].
    """

    name: str
    partitions: int | None = None
    committed: int = 0
    retries: int = 0
    running: dict[str, float] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None

    @property
    def done(self) -> float:
        """What is done [partitions], counting parts of those that run."""
        return self.committed + sum(self.running.values())

    def elapsed_s(self, now: float) -> float | None:
        if self.started is None:
            return None
        return (self.ended if self.ended is not None else now) - self.started


@dataclass(slots=True)
class Tally:
    """What the events of a run add up to.

    Attributes
    ----------
    stages
        By name, in the order in which they were planned.
    failures
        ``failed`` events that were not tried again.
    metric
        The last ``metric`` event.
    """

    run_id: str = ""
    app: str = ""
    created: str | None = None
    state: str = ""
    stages: dict[str, StageTally] = field(default_factory=dict)
    failures: list[Event] = field(default_factory=list)
    metric: Event | None = None

    def apply(self, event: Event) -> None:
        """Take one event into account; unknown ones change nothing."""
        name = event["event"]
        if name == "created":
            self.run_id, self.app, self.created = event["run_id"], event["app"], event.get("t")
            self.stages.clear()  # a command may run one after the other
            self.failures.clear()
        elif name == "resumed":  # what ran then runs no more, and what failed is tried again
            self.failures.clear()
            for stage in self.stages.values():
                stage.running.clear()
        elif name == "state":
            self.state = event["state"]
        elif name == "metric":
            self.metric = event
        elif name == "progress":
            for stage in self.stages.values():
                if event["partition"] in stage.running:
                    stage.running[event["partition"]] = min(1.0, event["done"] / (event["total"] or 1))
        elif name in ("planned", "stage", "dispatched", "committed", "failed"):
            stage = self.stages.setdefault(event["stage"], StageTally(event["stage"]))
            self._apply_to_stage(stage, name, event)

    def _apply_to_stage(self, stage: StageTally, name: str, event: Event) -> None:
        # Events from a log carry their time, those handed over live happen now.
        moment = event.get("mono", time.monotonic())
        if name == "planned":
            planned = event["partitions"]
            stage.partitions = planned if isinstance(planned, int) else len(planned)
        elif name == "stage" and event["status"] == "started":
            stage.started = moment
        elif name == "stage":
            stage.ended = moment
        elif name == "dispatched":
            stage.running[event["partition"]] = 0.0
        elif name == "committed":
            stage.running.pop(event["partition"], None)
            stage.committed += 1
        else:
            stage.running.pop(event["partition"], None)
            if event["retry"]:
                stage.retries += 1
            else:
                self.failures.append(event)


class PlainView:
    """Writes a line when something changes: states, starts and ends of stages, notes, failed attempts."""

    def __init__(self, write: Callable[[str], None] = note) -> None:
        self.tally = Tally()
        self._write = write

    def __call__(self, event: Event) -> None:
        self.tally.apply(event)
        line = change(event, self.tally)
        if line:
            self._write(line)

    def say(self, line: str) -> None:
        """Write a line of somebody else."""
        self._write(line)

    def close(self) -> None:
        """Do nothing: every line stands already."""


def change(event: Event, tally: Tally) -> str:
    """Write an event as a line for people, or return nothing when it is not worth one."""
    name = event["event"]
    if name == "created":
        return f"run {event['run_id']} of {event['app']}"
    if name == "resumed":
        return resumed_line(event)
    if name == "state":
        return str(event["state"])
    if name == "note":
        return str(event["text"])
    if name == "stage":
        return _stage_change(event, tally.stages[event["stage"]])
    if name == "failed":
        return attempt_line(event) if event["retry"] else failure_line(event)
    return ""


def resumed_line(event: Event) -> str:
    """Write in one line that a run goes on."""
    return f"attempt {event['attempt']}, {count(event['committed'], 'partition')} committed before"


def failure_line(event: Event) -> str:
    """Write in one line that a partition failed for good."""
    return f"partition {event['partition']} of stage {event['stage']} failed: {event['message']}"


def attempt_line(event: Event) -> str:
    """Write a failed attempt in one line."""
    names = ("partition", "stage", "worker", "attempt", "reason", "message")
    partition, stage, worker, attempt, reason, message = (event.get(name, "?") for name in names)
    again = "; trying again" if event.get("retry") else ""
    return f"partition {partition} of stage {stage} failed on {worker}, attempt {attempt} ({reason}): {message}{again}"


def _stage_change(event: Event, stage: StageTally) -> str:
    if event["status"] == "started":
        return f"stage {stage.name}: {count(stage.partitions or 0, 'partition')}"
    took = duration(stage.elapsed_s(stage.ended or 0.0))
    return f"stage {stage.name}: {stage.committed} of {stage.partitions or 0} committed in {took}"


class TerminalView:
    """Redraws a line per stage a few times a second, from a thread of its own; notes scroll by above."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._lines: list[str] = []
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="agilab-progress", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        with self._guard:
            self.tally.apply(event)
            if event["event"] in ("note", "failed"):
                self._lines.append(change(event, self.tally))

    def say(self, line: str) -> None:
        """Let a line of somebody else scroll by."""
        with self._guard:
            self._lines.append(line)

    def close(self) -> None:
        """Leave the last state of the lines on the screen."""
        self._over.set()
        self._thread.join()
        for line in self._lines:
            note(line)

    def _draw(self) -> None:
        if self._over.wait(PATIENCE_S):
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(file=sys.stderr, highlight=False, emoji=False)
        with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
            over = False
            while not over:
                over = self._over.wait(REDRAW_S)
                with self._guard:
                    lines, self._lines = self._lines, []
                    drawn = _drawn(self.tally, time.monotonic())
                _scroll(console, lines)
                live.update(drawn, refresh=True)


def _scroll(console: Console, lines: list[str]) -> None:
    from rich.text import Text

    for line in lines:
        console.print(Text(safe(line)), soft_wrap=True)


def _drawn(tally: Tally, now: float) -> RenderableType:
    """Draw a line per stage, and the last metric below."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    drawn = Table.grid(padding=(0, 2, 0, 0))
    for index in range(6):
        drawn.add_column(no_wrap=True, overflow="ellipsis", justify="left" if index < 2 else "right")
    if not tally.stages:
        drawn.add_row(Text(tally.state or "starting"))
    for stage in tally.stages.values():
        elapsed = stage.elapsed_s(now)
        total = stage.partitions
        bar = ProgressBar(total=total or 1, completed=stage.done, width=BAR_WIDTH)
        drawn.add_row(
            Text(stage.name[:STAGE_WIDTH]),
            bar,
            Text(f"{stage.committed}/{'?' if total is None else total}"),
            Text(f"{len(stage.running)} running" if stage.running else ""),
            Text(f"{stage.committed / elapsed:.1f}/s" if elapsed and stage.committed else ""),
            Text("waiting" if elapsed is None else duration(elapsed)),
        )
    if tally.metric is None:
        return drawn
    step = "" if tally.metric["step"] is None else f" at step {tally.metric['step']}"
    last = f"{tally.metric['name']} {number(tally.metric['value'])}{step} ({tally.metric['partition']})"
    return Group(drawn, Text(safe(last), no_wrap=True, overflow="ellipsis"))


View = PlainView | TerminalView


@contextmanager
def watch() -> Iterator[View]:
    """Give a callable that takes the events of a run and shows them on stderr until the block ends."""
    view: View = TerminalView() if sys.stderr.isatty() else PlainView()
    try:
        yield view
    finally:
        view.close()
