"""The process that hands a run to MLflow, the only place that imports it; what is asked for, `agilab.tracking` knows.

One JSON object on standard input says what. A run becomes an MLflow run with a
nested run per stage, found again by the tag ``agilab.run_id``; what is there
already is not sent again. The run folder is only read.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agilab import events, tracking
from agilab.artifact import matches
from agilab.digest import canonical_json
from agilab.errors import AgilabError, TrackingError, first_line
from agilab.history import flat
from agilab.paths import RunPaths
from agilab.run import FINAL_STATES, Run
from agilab.sidecar import read_tags
from agilab.tracking import TIMEOUT_S, Store

LOOK_S = 0.5
"""How often a run that goes on is looked at [s]."""
BEGIN_S = 30.0
"""How long to wait for the first event of a run [s]."""
LONGEST_PAUSE_S = 8.0
"""How long to wait at most before a server that refuses is asked again [s]."""
MOST_SERIES = 2000
"""How many series of metrics a stage may have there: metric names times partitions."""
RECORDS = ("request.json", "run_manifest.json", "manifest-sha256.txt", "ro-crate-metadata.json")
"""What of the record goes along, where it exists."""
REMOTE = ("mlflow-artifacts", "s3", "gs", "wasbs", "abfss", "hdfs", "dbfs", "r2")
"""Schemes to which artifacts are sent when a server asks for it; never to a path of this machine."""

_STATUS = {"succeeded": "FINISHED", "cancelled": "KILLED"}
_ENTITIES = 100
_METRICS = 500
_ODD = re.compile(r"[^\w\-. /]", re.ASCII)
_LARGEST = sys.float_info.max


@dataclass(slots=True)
class Series:
    """What becomes one MLflow run, that of a stage or the one around them, and the metrics on their way to it.

    Parameters
    ----------
    facts
        What MLflow says of it; None until it is found or made.
    began_ms, ended_ms
        When it did [ms since 1970]; 0 while it is not known.
    sent
        Name, step and value of what has arrived.
    waiting
        Name, value, time [ms] and step of what is to be sent unless it has arrived.
    """

    facts: Any = None
    began_ms: int = 0
    ended_ms: int = 0
    sent: set[tuple[str, int, str]] = field(default_factory=set)
    waiting: list[tuple[str, float, int, int]] = field(default_factory=list)

    @property
    def ident(self) -> str:
        """The MLflow run id."""
        return str(self.facts.info.run_id)

    def add(self, name: str, value: Any, *, step: int, at_ms: int) -> None:
        """Note a value that is to be sent."""
        self.waiting.append((_key(name), _finite(value), at_ms, step))

    def missing(self) -> list[tuple[str, float, int, int]]:
        """Return what is to be sent and has not arrived, each once; no more series than `MOST_SERIES`."""
        names = {name for name, _, _ in self.sent}
        found: dict[tuple[str, int, str], tuple[str, float, int, int]] = {}
        for name, value, at_ms, step in self.waiting:
            key = (name, step, repr(value))
            if key not in self.sent and (name in names or len(names) < MOST_SERIES):
                names.add(name)
                found.setdefault(key, (name, value, at_ms, step))
        return list(found.values())


class Tracker:
    """One run on its way to one store.

    Parameters
    ----------
    run
        The run; its folder is read again and again.
    store
        Where it goes.
    client
        An ``MlflowClient``.
    """

    def __init__(self, run: Run, store: Store, client: Any) -> None:
        self.run, self.store, self._client = run, store, client
        self.known = tracking.remembered(run.paths, store, run.app)
        self.arrived_at = time.monotonic()
        self._whole = Series()
        self._stages: dict[str, Series] = {}
        self._offset = 0
        self._stage_of: dict[str, str] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def hand_over(self) -> bool:
        """Send what is new; say whether the run has ended and all of it has arrived."""
        over = is_over(self.run)  # asked before the events are read
        self._read_events()
        if over:
            self._read_records()
        if self._whole.facts is None:
            self._find()
        for stage, series in self._stages.items():
            if series.facts is None:
                self._make(series, stage)
            self._send(series)
        if over:
            self._finish()
        return over

    # --- what the folder says -------------------------------------------------------------

    def _read_events(self) -> None:
        before = -1
        while before != self._offset:
            before = self._offset
            found, self._offset = events.read(self.run.paths.events, self._offset)
            for event in found:
                with suppress(KeyError, TypeError, ValueError):  # a damaged line counts for nothing
                    self._hear(event)

    def _hear(self, event: Mapping[str, Any]) -> None:
        at, kind = _ms(event["t"]), event["event"]
        self._whole.began_ms = self._whole.began_ms or at
        if kind == "stage":
            series = self._stages.setdefault(event["stage"], Series())
            series.began_ms, series.ended_ms = series.began_ms or at, at
        elif kind == "dispatched":
            self._stage_of[event["partition"]] = event["stage"]
            self._counts = {key: count for key, count in self._counts.items() if key[0] != event["partition"]}
        elif kind == "metric":
            self._metric(self._stage_of[event["partition"]], event["partition"], event, at_ms=at)

    def _read_records(self) -> None:
        """Add what the records have and the log, which is derived, has lost."""
        self._counts.clear()
        for record in self.run.records():
            for item in record["metrics"]:
                self._metric(record["stage"], record["partition"], item, at_ms=_ms(record["ended"]))

    def _metric(self, stage: str, partition: str, item: Mapping[str, Any], *, at_ms: int) -> None:
        """Note a metric of a partition; one without a step gets its number among those of its name."""
        name = str(item["name"])
        number = self._counts[partition, name] = self._counts.get((partition, name), -1) + 1
        step = number if item["step"] is None else int(item["step"])
        series = self._stages.setdefault(stage, Series())
        series.add(f"{name}/{partition}", item["value"], step=step, at_ms=at_ms)

    # --- the runs there -------------------------------------------------------------------

    def _find(self) -> None:
        """Find the run and its stages there, or make the run."""
        name = self.known.experiment
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingError(f"experiment {name!r} is deleted there; restore it, or name another one")
        ident = str(found.experiment_id if found is not None else self._client.create_experiment(name))
        self.known = replace(self.known, experiment_id=ident)
        for facts in self._client.search_runs([ident], f"tags.`agilab.run_id` = '{self.run.run_id}'"):
            tags = facts.data.tags
            if tags.get("agilab.run_id") == self.run.run_id:
                stage = tags.get("agilab.stage")
                self._take(self._stages.setdefault(stage, Series()) if stage else self._whole, facts)
        if self._whole.facts is None:
            self._make(self._whole, "")
        self.known = replace(self.known, run_id=self._whole.ident)
        self._remember()
        request = self.run.request
        params = {**flat(request["settings"]), "seed": request["seed"]}
        params |= {f"cluster.{name}": value for name, value in flat(request["cluster"]).items()}
        texts = {_key(name): _text(value) for name, value in params.items()}
        there = self._whole.facts.data.params
        self._batch(self._whole, params={key: text for key, text in texts.items() if key not in there})

    def _make(self, series: Series, stage: str) -> None:
        """Make the MLflow run of a stage; without a stage, the one around them."""
        tags = {"agilab.run_id": self.run.run_id, "mlflow.source.name": self.run.app, "mlflow.source.type": "PROJECT"}
        if stage:
            tags |= {"agilab.stage": stage, "mlflow.parentRunId": self.known.run_id}
        title = stage or f"{self.run.app} {self.run.run_id}"
        ident = self.known.experiment_id
        series.facts = self._client.create_run(ident, start_time=series.began_ms or None, tags=tags, run_name=title)
        self._remember()

    def _take(self, series: Series, facts: Any) -> None:
        """Go on with a run that is there."""
        for name in facts.data.metrics:
            history = self._client.get_metric_history(facts.info.run_id, name)
            series.sent |= {(name, int(item.step), repr(_finite(item.value))) for item in history}
        if facts.info.status != "RUNNING" and not is_over(self.run):
            self._client.update_run(facts.info.run_id, status="RUNNING")
        series.facts = facts

    def _remember(self) -> None:
        stages = {stage: series.ident for stage, series in self._stages.items() if series.facts is not None}
        self.known = replace(self.known, stages=stages)
        tracking.remember(self.run.paths, self.known)

    # --- the end --------------------------------------------------------------------------

    def _finish(self) -> None:
        """Send what stands once a run has ended; the digest of the seal comes last, as the sign that all is there."""
        run, seal = self.run, tracking.seal_of(self.run.paths)
        manifest = run.manifest if seal else {}
        ended = _ms(str(manifest.get("ended") or "")) or int(time.time() * 1000)
        metrics = {**manifest["metrics"], "duration_s": manifest["duration_s"]} if manifest else {}
        for name, value in metrics.items():
            self._whole.add(name, value, step=0, at_ms=ended)
        self._send(self._whole)
        new = not seal or self._whole.facts.data.tags.get("agilab.seal") != seal
        self._upload(records=new)
        self._tag(manifest)
        if new:
            status = _STATUS.get(run.state, "FAILED")
            counts = {item["stage"]: item["committed"] == item["partitions"] for item in manifest.get("stages", ())}
            for stage, series in self._stages.items():
                done = "FINISHED" if counts.get(stage) else status
                self._client.set_terminated(series.ident, done, series.ended_ms or ended)
            self._client.set_terminated(self._whole.ident, status, ended)
        if new and seal:
            self._batch(self._whole, tags={"agilab.seal": seal})
        self.known = replace(self.known, seal=seal)
        self._remember()

    def _tag(self, manifest: Mapping[str, Any]) -> None:
        run, said = self.run, read_tags(self.run.paths)
        request, code = run.request, manifest.get("code") or {}
        tags = {
            "agilab.app": run.app,
            "agilab.state": run.state,
            "agilab.error": run.error or "",
            "agilab.request_digest": request["digest"],
            "agilab.code_digest": request["code_digest"],
            "agilab.environment_digest": (manifest.get("environment") or {}).get("digest", ""),
            "agilab.reproduce": manifest.get("reproduce", ""),
            "mlflow.source.git.commit": (code.get("git") or {}).get("commit", ""),
            "mlflow.note.content": said.note,
            **{f"agilab.tag.{tag}": "true" for tag in said.tags},
        }
        there = self._whole.facts.data.tags
        self._batch(self._whole, tags={key: text for key, text in tags.items() if there.get(key, "") != text})
        for key in [key for key in there if key.startswith("agilab.tag.") and key not in tags]:
            self._client.delete_tag(self._whole.ident, key)

    def _upload(self, *, records: bool) -> None:
        """Send records and chosen artifacts; those on other hosts stay there."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        root = self.run.paths.root
        files = [(root / name, "") for name in RECORDS if records and (root / name).is_file()]
        for item in self.run.artifacts() if self.store.artifacts != "none" else ():
            if matches(self.store.artifacts, item.key) and not item.location:
                path = self.run.file_of(item)
                files.append((path, path.parent.relative_to(root).as_posix()))
        if not files:
            return
        uri = str(self._whole.facts.info.artifact_uri)
        if urlsplit(self.store.uri).scheme in ("http", "https") and urlsplit(uri).scheme not in REMOTE:
            raise TrackingError(
                f"the server wants artifacts at {uri!r:.200}, which is not on it; nothing was written there. "
                "Start it with --artifacts-destination"
            )
        there = get_artifact_repository(uri)
        listed: dict[str, dict[str, int]] = {}
        for path, folder in files:
            if folder and folder not in listed:
                listed[folder] = {item.path: item.file_size or 0 for item in there.list_artifacts(folder)}
            if not folder or listed[folder].get(f"{folder}/{path.name}") != path.stat().st_size:
                there.log_artifact(str(path), folder or None)
                self.arrived_at = time.monotonic()

    # --- sending --------------------------------------------------------------------------

    def _send(self, series: Series) -> None:
        from mlflow.entities import Metric

        for some in _portions(series.missing(), _METRICS):
            self._client.log_batch(series.ident, metrics=[Metric(*point) for point in some])
            series.sent |= {(name, step, repr(value)) for name, value, _, step in some}
            self.arrived_at = time.monotonic()
        series.waiting.clear()

    def _batch(
        self, series: Series, *, params: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        from mlflow.entities import Param, RunTag

        for some in _portions(list((params or {}).items()), _ENTITIES):
            self._client.log_batch(series.ident, params=[Param(*item) for item in some])
        for some in _portions(list((tags or {}).items()), _ENTITIES):
            self._client.log_batch(series.ident, tags=[RunTag(*item) for item in some])
        self.arrived_at = time.monotonic()


def main() -> int:
    """Hand over one run, as the order on standard input says."""
    order = json.load(sys.stdin)
    live = bool(order["live"])
    if live and os.fork():
        os._exit(0)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # MLflow prints for people
    run, store = Run(RunPaths(Path(order["run"]))), Store(**order["store"])
    guard = _Guard(run, store, live=live, patience_s=order["patience_s"])
    threading.Thread(target=guard.watch, daemon=True).start()
    if live and not _has_begun(run, order["seen_bytes"]):
        return 1
    pause = LOOK_S
    while True:
        try:
            guard.tracker = guard.tracker or _connect(run, store)
            if guard.tracker.hand_over() or not live:
                break
            guard.say("")
            pause = LOOK_S
        except Exception as err:  # whatever a server makes its client raise is an answer
            guard.say(reason(err))
            pause = min(pause * 2, LONGEST_PAUSE_S)
            if not live or guard.is_late():
                guard.give_up()
        time.sleep(pause)
    out.write(json.dumps(guard.tracker.known.to_json()))
    out.close()
    return 0


class _Guard:
    """Ends this process when nothing has arrived for too long, whatever its other thread waits for."""

    def __init__(self, run: Run, store: Store, *, live: bool, patience_s: float) -> None:
        self._run, self._store, self._live, self._patience_s = run, store, live, patience_s
        self._began = time.monotonic()
        self.tracker: Tracker | None = None
        self._error = ""

    def is_late(self) -> bool:
        """Say whether the run has ended, and nothing has arrived for too long since then."""
        now = time.monotonic()
        if self._live and not is_over(self._run):
            self._began = now
        if self.tracker is None:  # MLflow is being imported, which takes seconds of a core
            return now - self._began > 4 * self._patience_s
        return now - max(self.tracker.arrived_at, self._began) > self._patience_s

    def watch(self) -> None:
        """Look now and then, to the end of this process."""
        while not self.is_late():
            time.sleep(LOOK_S)
        self.give_up()

    def say(self, error: str) -> None:
        """Write down what is in the way, or that nothing is any more."""
        if error == self._error:
            return
        self._error = error
        with suppress(AgilabError, OSError):
            known = self.tracker.known if self.tracker else None
            known = known or tracking.remembered(self._run.paths, self._store, self._run.app)
            tracking.remember(self._run.paths, replace(known, error=events.visible(error)))

    def give_up(self) -> None:
        """Write down why, and end this process."""
        self.say(self._error or f"nothing has arrived for {self._patience_s:g} s")
        os._exit(1)


def reason(error: BaseException) -> str:
    """Say in one line what came of a request; MLflow wraps a refused connection in three others."""
    chain: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and inner not in chain:
        chain.append(inner)
        inner = inner.__cause__ or inner.__context__
    if any(isinstance(item, ConnectionRefusedError) for item in chain):
        return "the connection was refused; is the server running?"
    if any(isinstance(item, TimeoutError) or "timed out" in first_line(item) for item in chain):
        return f"no answer within {TIMEOUT_S} s"
    return str(error) if isinstance(error, AgilabError) else first_line(error)


def is_over(run: Run) -> bool:
    """Say whether nothing more comes of a run."""
    return run.state in (*FINAL_STATES, "lost", "unreadable")


def _connect(run: Run, store: Store) -> Tracker:
    from mlflow import MlflowClient, set_tracking_uri

    set_tracking_uri(store.uri)  # who sends artifacts asks there
    return Tracker(run, store, MlflowClient(store.uri))


def _has_begun(run: Run, seen_bytes: int) -> bool:
    """Wait until a run that is about to begin, or to go on, has a new event; False when it never does."""
    end = time.monotonic() + BEGIN_S
    while time.monotonic() < end:
        with suppress(OSError):
            if run.paths.events.stat().st_size > seen_bytes:
                return True
        time.sleep(LOOK_S / 10)
    return False


def _portions(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]


def _key(name: str) -> str:
    return _ODD.sub("_", name)[:250]


def _text(value: object) -> str:
    return value if isinstance(value, str) else canonical_json(value).decode()


def _finite(value: Any) -> float:
    """Return a number as MLflow's databases keep it: they know NaN, and the largest number in the place of infinity."""
    number = float(value)
    return math.copysign(_LARGEST, number) if math.isinf(number) else number


def _ms(text: str) -> int:
    """Return a time of a record in ms since 1970; 0 for none."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
