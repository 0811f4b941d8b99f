"""Following a run while it goes on: its event log read in batches, added up once for all who look; it draws nothing.

`Watch` is kept in Panel's cache, so that fifty sessions that look at one run
read its log once, and share what one of them has made of it (`Watch.once`).
What is new since a session last looked it asks with a place in the list of
spans, so that a page is sent batches and not a message each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import panel as pn

from agilab import events
from agilab.cli.logs import EventLines
from agilab.cli.outcome import NONSENSE
from agilab.cli.progress import Tally
from agilab.run import FINAL_STATES, Run
from agilab_dashboards.markup import when
from agilab_dashboards.resources import Sampler

FRESH_S = 0.2
"""How old what a watch knows may be before it reads again [s]."""
MOST_CURVES = 12
"""How many metrics are kept step by step, and of how many partitions each."""
MOST_STEPS = 5_000
"""How many steps of a metric are kept for each partition."""
TAIL_BYTES = 65_536
"""How much of a worker's log is looked at, from its end [bytes]."""
MOST_LINES = 2000
"""How many lines of the run's own log are kept."""
SHOWN_LINES = 300
"""How many lines a page is sent, the last ones."""
LEVELS = ("debug", "info", "warning", "error")
"""Of a log message, from what is said most to what matters most."""
ENDED = (*FINAL_STATES, "lost", "unreadable")

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt at a partition, from its dispatch to its end.

    Parameters
    ----------
    partition, stage, worker
        What ran where.
    start_s, end_s
        Seconds since the run was created.
    outcome
        ``"committed"``, ``"failed"`` or ``"retried"``.
    """

    partition: str
    stage: str
    worker: str
    start_s: float
    end_s: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a run's log.

    Parameters
    ----------
    source
        Who said it: ``run``, or the worker whose output it is.
    t
        When, ISO; empty where nobody knows.
    text
        What was said.
    level
        One of `LEVELS`; empty for what a worker printed.
    stage, worker
        Of the partition that it is about; empty for none.
    """

    source: str
    t: str
    text: str
    level: str = ""
    stage: str = ""
    worker: str = ""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines of a log are wanted; what is empty lets everything through.

    Parameters
    ----------
    said_by
        ``run``, or a worker: what it printed, and what is said of its partitions.
    level
        The least level; what was printed has none, and is left out.
    stage
        Only lines about partitions of this stage.
    words
        Only lines that contain this, whatever the case.
    """

    said_by: str = ""
    level: str = ""
    stage: str = ""
    words: str = ""

    def takes(self, line: Line) -> bool:
        """Say whether a line passes, its words aside."""
        if self.said_by not in ("", line.source, line.worker):
            return False
        if self.level and (not line.level or LEVELS.index(line.level) < LEVELS.index(self.level)):
            return False
        return self.stage in ("", line.stage)


class Watch:
    """What is known of a run so far.

    Attributes
    ----------
    tally
        Stages with their counts.
    spans
        Attempts that have ended, in the order of their ends; it only grows.
    running
        Partition -> stage, worker and start [s] of what runs now.
    lines
        The last lines of the run's own log.
    printed
        The last lines that its workers have printed.
    metrics
        Those reported step by step: name -> partition -> step and value, as they came.
    sampler
        What its processes use of this machine.
    state
        The run's.
    cluster
        The event about the Dask cluster that the run uses; empty without one.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.tally = Tally()
        self.spans: list[Span] = []
        self.running: dict[str, tuple[str, str, float]] = {}
        self.lines: list[Line] = []
        self.printed: list[Line] = []
        self.metrics: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self.sampler = Sampler(run.run_id)
        self.state = ""
        self.cluster: Mapping[str, Any] = {}
        self._offset = 0
        self._origin: float | None = None
        self._free: dict[str, float] = {}
        self._place: dict[str, tuple[str, str]] = {}
        self._tails: dict[Path, tuple[tuple[int, int], list[str]]] = {}
        self._say = EventLines(None)
        self._read_at = 0.0
        self._made: dict[Hashable, Any] = {}
        self._guard = threading.Lock()

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def now_s(self) -> float:
        """Seconds since the run was created; of one that has ended, its last event."""
        if self._origin is None:
            return 0.0
        if self.ended:
            return max((span.end_s for span in self.spans), default=0.0)
        return max(0.0, time.time() - self._origin)

    def since(self, at: float) -> float:
        """Return how long after the creation of the run a moment was [s]."""
        return at - (self._origin or at)

    def look(self) -> Watch:
        """Read what is new, unless somebody has just done so; to be called from a thread."""
        with self._guard:
            if time.monotonic() - self._read_at < FRESH_S:
                return self
            state = self.run.state  # before the log, so that an ended run has been read to its end
            self._read()
            self.printed = self._print()
            self.state = state
            if not self.ended:
                self.sampler.look()
            self._made = {}
            self._read_at = time.monotonic()
        return self

    def once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return what is made of what is known now; the next who asks with this key is given the same."""
        made = self._made
        if key not in made:
            made[key] = make()
        found: _Made = made[key]
        return found

    def forget_end(self) -> None:
        """Look again at once: somebody has made the run go on, or closed its record."""
        with self._guard:
            self._read_at = 0.0

    def counts(self) -> list[dict[str, Any]]:
        """Return a row per stage: partitions by state."""
        failed = dict.fromkeys(self.tally.stages, 0)
        for event in self.tally.failures:
            failed[event.get("stage", "")] = failed.get(event.get("stage", ""), 0) + 1
        rows = []
        for stage in self.tally.stages.values():
            known = stage.committed + len(stage.running) + failed.get(stage.name, 0)
            rows.append(
                {
                    "stage": stage.name,
                    "partitions": stage.partitions,
                    "committed": stage.committed,
                    "running": 0 if self.ended else len(stage.running),
                    "failed": failed.get(stage.name, 0),
                    "waiting": max(0, (stage.partitions or 0) - known),
                    "retries": stage.retries,
                    "done": stage.done,
                }
            )
        return rows

    def _read(self) -> None:
        before = -1
        while before != self._offset:
            before = self._offset
            found, self._offset = events.read(self.run.paths.events, self._offset)
            for event in found:
                with suppress(*NONSENSE):  # an event of a damaged folder
                    self._take(event)
        del self.lines[:-MOST_LINES]

    def _take(self, event: Mapping[str, Any]) -> None:
        name = event["event"]
        at = datetime.fromisoformat(event["t"]).timestamp()
        if self._origin is None:
            self._origin = at
        seconds = at - self._origin
        if name == "dispatched":
            self._place[event["partition"]] = (event["stage"], event["worker"])
            self.running[event["partition"]] = (event["stage"], event["worker"], seconds)
            for parts in self.metrics.values():
                parts.pop(event["partition"], None)  # what an earlier try has said
        elif name == "metric" and isinstance(event.get("step"), int):
            self._keep(event["name"], event["partition"], (event["step"], float(event["value"])))
        elif name in ("committed", "failed") and event["partition"] in self.running:
            stage, worker, start = self.running.pop(event["partition"])
            start = max(start, self._free.get(worker, 0.0))  # a worker has more than one, and runs one after the other
            self._free[worker] = max(seconds, start)
            outcome = "committed" if name == "committed" else "retried" if event["retry"] else "failed"
            self.spans.append(Span(event["partition"], stage, worker, start, max(seconds, start), outcome))
        elif name == "cluster":
            self.cluster = event
        elif name == "resumed":
            self.running.clear()
            self.cluster = {}
        self.tally.apply(event)
        level = str(event.get("level", "")).lower() if name == "log" else "error" if name == "failed" else "info"
        stage, worker = self._place.get(event.get("partition", ""), (str(event.get("stage", "")), ""))
        known = level if level in LEVELS else "error" if level == "critical" else "info"
        self.lines += [Line(source, t, text, known, stage, worker) for source, t, text in self._say(event)]

    def _keep(self, name: str, partition: str, point: tuple[int, float]) -> None:
        """Keep a step of a metric, as far as there is a chart with a line for it."""
        parts = self.metrics.get(name, {})
        is_new = len(parts) < MOST_CURVES if parts else len(self.metrics) < MOST_CURVES
        points = parts.get(partition, [])
        if len(points) < MOST_STEPS and (points or is_new):
            points.append(point)
            self.metrics.setdefault(name, parts)[partition] = points

    def _print(self) -> list[Line]:
        """Return the last lines that each worker has printed; a file that is as it was is not read again."""
        found: list[Line] = []
        for path in sorted(self.run.paths.logs.glob("*.log")):
            if path.is_symlink():
                continue
            with suppress(OSError):
                status = path.stat()
                state = (status.st_size, status.st_mtime_ns)
                if self._tails.get(path, ((-1, 0), []))[0] != state:
                    self._tails[path] = (state, _tail(path).splitlines())
                worker = path.stem
                found += [Line(worker, "", text, worker=worker) for text in self._tails[path][1]]
        return found


def watch(run: Run) -> Watch:
    """Return the watch over a run that every session of this server shares."""
    found: Watch = pn.state.as_cached(f"watch {run.paths.root}", lambda: Watch(run), ttl=3600)
    return found


def log_lines(found: Watch, wanted: LogFilter | None = None, *, zone: str = "") -> list[str]:
    """Return the last lines that a run and its workers said, control characters shown.

    Parameters
    ----------
    found
        The watch over the run.
    wanted
        Which of them; all without.
    zone
        Of the reader; empty for UTC.
    """
    chosen = wanted or LogFilter()
    words = chosen.words.lower()
    lines = reversed([*found.lines, *found.printed])
    told = (_told(line, zone) for line in lines if chosen.takes(line))
    return list(islice((line for line in told if words in line.lower()), SHOWN_LINES))[::-1]


@lru_cache(maxsize=4 * MOST_LINES)
def _told(line: Line, zone: str) -> str:
    at = f"{when(line.t, zone)} " if line.t else ""
    return events.visible(f"{line.source}: {at}{line.text}")


def sources(run: Run) -> list[str]:
    """Return whose lines there are: the run's own, then each worker's."""
    return ["run", *sorted(path.stem for path in run.paths.logs.glob("*.log"))]


def _tail(path: Any) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            data: bytes = file.read()
    except OSError:
        return ""
    text = data.decode("utf-8", "replace")
    return text.partition("\n")[2] if size > TAIL_BYTES else text
