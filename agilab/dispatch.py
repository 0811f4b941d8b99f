"""Carries out what the state machine decides: tasks to the pool, finished partitions to the committer, events to log.

It decides nothing about order, retries or outcome (`agilab.state` does) and
knows no backend by name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agilab import digest
from agilab.artifact import Artifact
from agilab.backends.base import (
    CANNOT_START,
    Broken,
    Committed,
    Done,
    Event,
    Failed,
    Gone,
    Pool,
    Report,
    Returned,
    Started,
    Told,
    Wanted,
)
from agilab.committer import Commit, Committer, Finished
from agilab.errors import AgilabError, EvidenceError
from agilab.inputs import Input
from agilab.paths import RunPaths, make_folder, write_file
from agilab.plan import ArtifactRef, InputRef, Partition, Stage
from agilab.records import iso_time, partition_record
from agilab.state import Dispatch, EndStage, Finish, Instruction, PlanStage, Retry, RunState, StartStage

LOOK_EVERY_S = 0.05
"""How often a request to cancel is looked for, and how long an event may wait for its fsync [s]."""

Tell = Callable[[str, Mapping[str, Any]], None]


@dataclass(slots=True)
class Dispatcher:
    """Drives one run from its first dispatch to its last commit.

    Parameters
    ----------
    paths
        The run folder.
    state
        What decides.
    pool
        Where partitions run.
    committer
        What makes them durable.
    inputs
        Path -> input, hashed.
    plan_stage
        Asks the app for the partitions of a stage, given the artifacts of earlier ones.
    timeout_s
        Longest time of an attempt at a partition that names none [s].
    tell
        Writes an event.
    flush
        Makes events durable that have waited long enough.
    cancelled
        Whether somebody wants the run to stop.
    started
        Told process group and start time of every process the pool starts.
    records
        Partition -> record of what has committed, by an earlier attempt at the run too.
    planned
        Stage -> its recorded plan, likewise.
    advice
        Says, for the id of a partition that failed for good, where to look and how to repeat it; for an empty id,
        where to look when a worker cannot start.
    """

    paths: RunPaths
    state: RunState
    pool: Pool
    committer: Committer
    inputs: Mapping[str, Input]
    plan_stage: Callable[[str, Sequence[Artifact]], Sequence[Partition]]
    timeout_s: float | None
    tell: Tell
    flush: Callable[[], None]
    cancelled: Callable[[], bool]
    started: Callable[[int, int], None]
    advice: Callable[[str], str]
    records: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    planned: dict[str, bytes] = field(default_factory=dict)
    traceback: str = ""
    _metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    _committing: set[str] = field(default_factory=set)
    _finish: Finish | None = None

    def record_plans(self) -> None:
        """Record every plan there is already, so that it need not be made again, whatever happens to this process."""
        for stage in self.state.plan.stages:
            if stage.partitions is not None and stage.name not in self.planned:
                self._record_plan(stage, self.state.assignment(stage))

    def run(self) -> Finish:
        """Go on until nothing runs and nothing will; return how it ended."""
        for record in self.records.values():
            self._note_place(record)
        self._carry_out(self.state.start())
        while not self._over():
            if self.cancelled():
                self._carry_out(self.state.cancel())
                break
            waiting_for_disk = bool(self._committing) and len(self._committing) == len(self.state.running)
            events = self.pool.wait(0.0 if waiting_for_disk else LOOK_EVERY_S)
            for event in events:
                self._HANDLERS[type(event)](self, event)
                if self._over():  # a cancelled run has let go of what its other events are about
                    break
            for commit in self.committer.take(LOOK_EVERY_S if waiting_for_disk and not events else 0.0):
                self._on_commit(commit)
            self.flush()
        assert self._finish is not None
        for commit in self.committer.close():
            self._on_commit(commit)
        return self._finish

    def _over(self) -> bool:
        return self._finish is not None

    def artifacts(self, stages: Sequence[str]) -> list[Artifact]:
        """List what the stages left, in plan order."""
        return [
            Artifact.from_json(item)
            for stage in stages
            for part in self.state.plan.stage(stage).partitions or ()
            if part.id in self.records
            for item in self.records[part.id]["artifacts"]
        ]

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        todo = list(instructions)
        while todo:
            step = todo.pop(0)
            match step:
                case Dispatch():
                    todo += self._dispatch(step)
                case StartStage():
                    self._start_stage(step.stage, step.assignment)
                case EndStage():
                    self.tell("stage", {"stage": step.stage, "status": "ended"})
                case PlanStage():
                    todo = [*self._plan_stage(step.stage), *todo]
                case Finish():
                    self._finish = step
                case Retry():
                    pass

    def _start_stage(self, stage: Stage, assignment: Mapping[str, tuple[str, ...]]) -> None:
        """Make sure that a stage's plan is recorded, with the digest of everything its partitions read."""
        parts = stage.partitions or ()
        if stage.name not in self.planned or any(isinstance(ref, ArtifactRef) for p in parts for ref in p.references):
            self._record_plan(stage, assignment)
        self.tell("stage", {"stage": stage.name, "status": "started"})

    def _record_plan(self, stage: Stage, assignment: Mapping[str, tuple[str, ...]]) -> None:
        parts = [
            replace(part, inputs=tuple(map(self._fill, part.references))) if part.inputs else part
            for part in stage.partitions or ()
        ]
        before = self.planned.get(stage.name)
        planned = {worker: list(ids) for worker, ids in assignment.items()}
        value = {
            "schema": "agilab.stage/1",
            "stage": stage.name,
            "after": list(stage.after),
            "retries": stage.retries,
            "partitions": [part.to_json() for part in parts],
            "assignment": planned if before is None else json.loads(before)["assignment"],
        }
        line = digest.canonical_json(value) + b"\n"
        if line != before:
            make_folder(self.paths.plans)
            write_file(self.paths.plan(stage.name), line)
            self.planned[stage.name] = line
        if before is None:
            self.tell("planned", {"stage": stage.name, "partitions": len(parts)})

    def _fill(self, ref: InputRef | ArtifactRef) -> InputRef | ArtifactRef:
        if isinstance(ref, InputRef):
            found = self.inputs[ref.path]
            return replace(ref, sha256=found.sha256, size_bytes=found.size_bytes)
        try:
            item = self._artifact(ref)
        except EvidenceError:  # the partition is refused when its turn comes
            return ref
        return replace(ref, sha256=item["sha256"], size_bytes=item["size_bytes"])

    def _artifact(self, ref: ArtifactRef) -> Mapping[str, Any]:
        record = self.records.get(ref.partition)
        for item in record["artifacts"] if record is not None and record["stage"] == ref.stage else ():
            if item["name"] == ref.name:
                return item  # type: ignore[no-any-return]
        raise EvidenceError(
            f"a partition reads artifact {ref.key!r}, which no partition has written; "
            "check the names in plan() against part.write()"
        )

    def _plan_stage(self, stage: str) -> list[Instruction]:
        try:
            found = self.plan_stage(stage, self.artifacts(self.state.plan.stage(stage).after))
            return self.state.planned(stage, found)
        except AgilabError as err:
            return self.state.fail(str(err))

    def _dispatch(self, step: Dispatch) -> list[Instruction]:
        part = step.partition
        try:
            inputs = {name: source for name, *source in map(self._source, part.references)}
        except EvidenceError as err:
            return self._refuse(part.id, str(err))
        task = {
            "op": "run",
            "id": part.id,
            "stage": part.stage,
            "attempt": step.attempt,
            "params": dict(part.params),
            "inputs": {name: source[:2] for name, source in inputs.items()},
            "resources": {name: list(numbers) for name, numbers in step.devices.items()},
            "folder": str(self.paths.attempt(part.id, step.attempt)),
        }
        if away := dict(self._away(part)):
            task["away"] = away
        sources = [{"name": name, "sha256": sha, "size_bytes": size} for name, (_, sha, size) in inputs.items()]
        self._tasks[part.id] = {**task, "read": sources, "files": part.inputs}
        self.tell(
            "dispatched",
            {"partition": part.id, "stage": part.stage, "worker": step.worker, "attempt": step.attempt},
        )
        if self.pool.commits:
            files = [asdict(self.inputs[ref.path]) for ref in part.inputs if isinstance(ref, InputRef)]
            task |= {"read": sources, "files": files}
        limit = part.timeout_s if part.timeout_s is not None else self.timeout_s
        self.pool.submit(step.worker, task, timeout_s=limit)
        return []

    def _refuse(self, partition: str, message: str) -> list[Instruction]:
        """Fail a partition for good because of what it reads, or has read."""
        run = self.state.running[partition]
        fields = {"partition": partition, "stage": run.partition.stage, "worker": run.worker, "attempt": run.attempt}
        text = self.advice(partition)
        self.tell("failed", {**fields, "reason": "exception", "message": message, "traceback": text, "retry": False})
        self.traceback = self.traceback or text
        return self.state.refused(partition, message)

    def _source(self, ref: InputRef | ArtifactRef) -> tuple[str, str, str, int]:
        """Return name, path, sha256 and size of what a partition reads."""
        if isinstance(ref, InputRef):
            found = self.inputs[ref.path]
            found.check()
            return ref.name, found.file, found.sha256, found.size_bytes
        item = self._artifact(ref)
        return ref.key, os.path.join(self.paths.root, item["path"]), item["sha256"], item["size_bytes"]

    def _away(self, part: Partition) -> Iterator[tuple[str, list[Any]]]:
        """Yield host, path there and size of the artifacts that a partition reads and that are not here."""
        for ref in part.references:
            if isinstance(ref, ArtifactRef) and (item := self._artifact(ref))["location"]:
                folder = self.records[ref.partition]["folder"]
                yield ref.key, [item["location"], f"{folder}/{item['path']}", item["size_bytes"]]

    def _on_started(self, event: Started) -> None:
        self.started(event.pgid, event.start_time)

    def _on_wanted(self, event: Wanted) -> None:
        self._carry_out(self.state.wanted(event.worker, event.count))

    def _on_report(self, event: Report) -> None:
        message = event.message
        fields = {name: value for name, value in message.items() if name not in ("op", "id")}
        self.tell(message["op"], {"partition": message["id"], **fields})
        if message["op"] == "metric":
            self._metrics.setdefault(message["id"], []).append(fields)

    def _on_done(self, event: Done) -> None:
        task, message = self._tasks.pop(event.partition), event.message
        metrics = self._metrics.pop(task["id"], [])
        metrics = message.get("metrics", metrics)  # reports from afar may have been lost
        if message["cancelled"]:  # it may have left early
            self._carry_out(self.state.cancel())
            return
        try:
            for ref in task["files"]:
                if isinstance(ref, InputRef):
                    self.inputs[ref.path].check()
        except EvidenceError as err:
            self._carry_out(self._refuse(task["id"], str(err)))
            return
        record = partition_record(task, message, worker=event.worker, metrics=metrics)
        self._committing.add(task["id"])
        self.committer.put(Finished(task["folder"], record))

    def _on_committed(self, event: Committed) -> None:
        del self._tasks[event.partition]
        self._metrics.pop(event.partition, None)
        self.committer.hashes.update(event.hashes)
        self._on_commit(Commit(event.record))

    def _on_told(self, event: Told) -> None:
        self.tell(event.event, event.fields)

    def _on_failed(self, event: Failed) -> None:
        task = self._tasks.pop(event.partition)
        self._metrics.pop(event.partition, None)
        if self.cancelled():
            self._carry_out(self.state.cancel())
            return
        answer = self.state.failed(event.partition, event.reason, event.message)
        retry = any(isinstance(step, Retry) for step in answer)
        traceback = event.traceback if retry else f"{event.traceback}{self.advice(event.partition)}"
        if not retry and not self.traceback:
            self.traceback = traceback
        self.tell(
            "failed",
            {
                "partition": task["id"],
                "stage": task["stage"],
                "worker": event.worker,
                "attempt": task["attempt"],
                "reason": event.reason,
                "message": event.message,
                "traceback": traceback,
                "retry": retry,
            },
        )
        self._carry_out(answer)

    def _on_returned(self, event: Returned) -> None:
        del self._tasks[event.partition]
        self._carry_out(self.state.returned(event.partition))

    def _on_gone(self, event: Gone) -> None:
        self._carry_out(self.state.worker_gone(event.worker))

    def _on_broken(self, event: Broken) -> None:
        details = f"{event.traceback}{self.advice('') if event.what == CANNOT_START else ''}"
        self.traceback = self.traceback or details
        for line in details.splitlines():
            self.tell("note", {"text": line})
        self._carry_out(self.state.fail(f"{event.what}: {event.message}"))

    def _on_commit(self, commit: Commit) -> None:
        record = commit.record
        partition = record["partition"]
        self._committing.discard(partition)
        if commit.error is None:
            self.records[partition] = record
            self._note_place(record)
            self.tell(
                "committed",
                {
                    "partition": partition,
                    "stage": record["stage"],
                    "worker": record["worker"],
                    "attempt": record["attempt"],
                },
            )
            if partition in self.state.running:  # a cancelled run waits for nothing, but keeps what was finished
                self._carry_out(self.state.committed(partition))
        elif partition in self.state.running:
            message = str(commit.error) or type(commit.error).__name__
            self._carry_out(self.state.failed(partition, "protocol", f"it could not be committed: {message}"))

    def _note_place(self, record: Mapping[str, Any]) -> None:
        """Let the state know what lies on the host of a worker, so that others that read it can run there."""
        base = f"{record['stage']}/{record['partition']}/"
        sizes = {f"{base}{item['name']}": item["size_bytes"] for item in record["artifacts"]}
        self.state.left(record["worker"], sizes)

    _HANDLERS: Mapping[type[Event], Callable[..., None]] = field(
        default_factory=lambda: {
            Started: Dispatcher._on_started,
            Wanted: Dispatcher._on_wanted,
            Report: Dispatcher._on_report,
            Done: Dispatcher._on_done,
            Committed: Dispatcher._on_committed,
            Failed: Dispatcher._on_failed,
            Returned: Dispatcher._on_returned,
            Gone: Dispatcher._on_gone,
            Broken: Dispatcher._on_broken,
            Told: Dispatcher._on_told,
        }
    )


def now() -> str:
    """Return the present time as UTC ISO-8601 with milliseconds."""
    return iso_time(time.time())
