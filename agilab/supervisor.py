"""Executes one request to its end, as a visible tuple of small steps; it alone writes the run folder.

It runs in the caller's process, or in one of its own (`agilab.detached`).
Whatever happens in a step, the run folder is sealed.
"""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from agilab import codec, edits, evidence, fetching, installation, manifest, prepared, records, recovery, slots, trust
from agilab.artifact import Artifact
from agilab.backends.base import Backend, Job, Pool, backend
from agilab.committer import Committer
from agilab.dispatch import Dispatcher, now
from agilab.entry import PROTOCOL
from agilab.errors import (
    AgilabError,
    EvidenceError,
    NoSpaceError,
    RequestError,
    RunCancelledError,
    RunStateError,
    first_line,
)
from agilab.events import EventLog
from agilab.inputs import Input, InputHasher
from agilab.installation import Installation
from agilab.interrupt import CancelSwitch
from agilab.layers import resolve_secrets
from agilab.means import Means
from agilab.owner import hold_owner
from agilab.paths import HomePaths, RunPaths, WenvPaths, free_reserve, make_folder, sync_folder
from agilab.plan import InputRef, Partition, WorkPlan
from agilab.planner import Planner
from agilab.project import Project
from agilab.reaper import Watcher, end_marked
from agilab.recovery import Past
from agilab.request import ClusterOptions, RunRequest, code_digest
from agilab.state import RunState
from agilab.throughput import capacities

CLOSE_GRACE_S = 10.0
"""How long workers may take to tear down after the last partition [s]."""

CANCEL_GRACE_S = 1.0
"""How long workers may take to notice that they are to stop [s]."""

OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class Execution:
    """What the steps of one run share.

    Parameters
    ----------
    home, wenv
        The user's folders.
    project
        The app project.
    request
        What is to be done.
    paths
        The run folder; it exists and holds nothing but the request, unless the run is taken up.
    takes_up
        Whether the run was begun before: it goes on with what was recorded, or is only sealed when it has an outcome.
    on_event
        Told every event as it is written to the log.
    owner_fd
        Descriptor of the owner's lock when another process took it for us; -1 to take it here.
    before_seal
        Called when everything but the seal has been written.
    means
        What it is made with.
    """

    home: HomePaths
    wenv: WenvPaths
    project: Project
    request: RunRequest
    paths: RunPaths
    takes_up: bool = False
    on_event: OnEvent | None = None
    owner_fd: int = -1
    before_seal: Callable[[], None] = field(default_factory=lambda: _nothing)
    means: Means = field(default_factory=Means)
    created: str = field(default_factory=now)
    began: float = field(default_factory=time.monotonic)
    started: str | None = None
    attempt: int = 1
    past: Past = field(default_factory=Past)
    prepared: Mapping[str, Any] | None = None
    code: Mapping[str, Any] | None = None
    outcome: str = ""
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    available: Mapping[str, int] = field(default_factory=dict)
    held: slots.Slots = field(default_factory=slots.Slots)
    plan: WorkPlan | None = None
    input_refs: Sequence[InputRef] = ()
    installed: Installation | None = None
    dispatcher: Dispatcher | None = None
    pool: Pool | None = None
    log: EventLog = field(init=False)
    switch: CancelSwitch = field(init=False)
    watcher: Watcher = field(init=False)
    committer: Committer = field(init=False)
    backend: Backend = field(init=False)
    planner: Planner = field(init=False)

    def __post_init__(self) -> None:
        trust.require(self.project.root, self.home)

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write an event to the log, and hand it to whoever listens."""
        self.log.append(event, fields)
        if self.on_event is not None:
            try:
                self.on_event({"event": event, **fields})
            except (Exception, SystemExit):  # it fails the run once, but must not keep it from being sealed
                self.on_event = None
                raise

    def flush(self) -> None:
        """Make events durable that have waited long enough."""
        self.log.flush_due(time.monotonic())

    def note(self, text: str) -> None:
        """Write a line for people to the log, at once: what it is about may take long."""
        self.tell("note", {"text": text})
        self.log.sync()

    def fail(self, error: str, details: str = "") -> None:
        """Remember why the run failed; the first reason stands."""
        if not self.outcome:
            self.outcome, self.error = "failed", error
        if details:
            with suppress(OSError):  # the reason stands in the record
                log = make_folder(self.paths.logs) / "supervisor.log"
                with open(log, "a", encoding="utf-8", errors="replace") as file:
                    file.write(details + "\n")


def choose_backend(run: Execution) -> None:
    """Find the backend that the request names."""
    run.backend = backend(run.request.cluster["backend"])
    run.backend.admit(ClusterOptions.complete(run.request.cluster))


def wait_for_slots(run: Execution) -> None:
    """Wait until the machine has cores for the run's workers; `inline` uses the caller's."""
    run.available = slots.machine(os.environ)
    if not run.backend.takes_slots(run.request.cluster):
        return
    run.tell("state", {"state": "queued"})
    asked, there_are = run.request.cluster["workers"], run.available["cpu"]
    if asked and asked > there_are:
        run.note(f"{asked} workers were asked for; this machine runs {there_are} at a time (AGILAB_SLOTS)")
    _hold(run, {"cpu": asked or there_are})


def install(run: Execution) -> None:
    """Make what the workers need and is not there yet."""
    run.tell("state", {"state": "installing"})
    run.planner = run.means.planner(run.project, run.home, installation.fetch_data(run.project, run.home, run.note))
    run.installed = installation.found(run.project, home=run.home, wenv=run.wenv)
    if run.installed is None:
        plan(run)  # building may take minutes: a plan that cannot be is found before
        run.installed = installation.install(run.project, home=run.home, wenv=run.wenv, report=run.note)
    now_is = code_digest(run.project.manager_digest(), run.installed.worker.code_digest)
    if now_is != run.request.code_digest:  # the record would name code that did not run
        raise RequestError(
            f"the code of {run.project.name} has changed since the request was made, from "
            f"{run.request.code_digest[:12]} to {now_is[:12]}; make the request again with AgiEnv.request"
        )
    run.planner.snapshot()
    run.code = evidence.code(run)


def restore(run: Execution) -> None:
    """Take code, environment, plan and inputs as they were recorded."""
    assert run.past.prepared is not None
    run.tell("state", {"state": "installing"})
    if installation.code_digest_at(run.project.root) != run.request.code_digest:
        run.note(
            f"{run.project.name} in {run.project.root} has changed since this run began; it goes on with the code it "
            f"began with, {run.request.code_digest[:12]}; a new run has the new code"
        )
    value = run.past.prepared
    run.installed = prepared.installation_of(value, run.project, home=run.home, wenv=run.wenv, report=run.note)
    run.planner = run.means.planner(run.project, run.home, run.installed.data_root, source=run.project.manager.parent)
    run.code = value["code"]
    run.plan = prepared.plan_of(value, run.past.plans)
    inputs = [InputRef(item["path"], **item) for item in value["inputs"]]
    _provide(run, run.plan.partitions, inputs)


def open_first_worker(run: Execution) -> None:
    """Start one worker already: it gets ready while the app plans."""
    assert run.installed is not None
    fields = run.planner.fields()
    init = {
        "op": "init",
        "protocol": PROTOCOL,
        "worker": run.project.worker_class,
        "code": str(run.installed.worker.code),
        "fields": codec.fields_to_json(fields),
        "values": dict(run.request.settings),
        "secrets": resolve_secrets(fields, run.request.settings, os.environ),
        "seed": run.request.seed,
        "cancel_file": str(run.paths.cancel_request),
        "kinds": {name: dict(kind) for name, kind in run.project.kinds.items()},
    }
    name, _, marker = run.watcher.marker.partition("=")
    slots_held = len(run.held.numbers.get("cpu", (0,)))
    options = ClusterOptions.complete(run.request.cluster)
    job = Job(run.paths, run.installed.worker, init, slots_held, {name: marker}, options, run.home, run.wenv)
    run.pool = run.means.pool(run.backend, job)


def plan(run: Execution) -> None:
    """Ask the app what there is to do, unless it was asked before, and hash what it reads."""
    if run.plan is not None:
        return
    run.input_refs, own = run.planner.plan(run.request.settings)
    run.plan = edits.apply(own, run.request.edits)
    _provide(run, run.plan.partitions, run.input_refs)


def open_workers(run: Execution) -> None:
    """Start as many workers more as the widest stage can use, and give the other slots back."""
    assert run.plan is not None
    assert run.pool is not None
    for text in run.pool.prepare():
        if run.switch():
            raise RunCancelledError("cancelled")
        if text:
            run.note(text)
    held = run.held.numbers.get("cpu")
    most = len(held) if held is not None else run.pool.most
    workers = run.backend.worker_names(most, run.plan, hosts=run.pool.hosts)
    run.held.shrink("cpu", len(workers))
    run.pool.add(workers[len(run.pool.workers) :])


def execute(run: Execution) -> None:
    """Dispatch, retry and commit until nothing is left."""
    assert run.plan is not None
    assert run.pool is not None
    run.tell("state", {"state": "running"})
    run.started = run.started or now()
    devices = run.pool.devices
    if devices is None:
        devices = {"": {name: numbers for name, numbers in run.held.numbers.items() if name != "cpu"}}
    workers, cluster = run.pool.workers, run.request.cluster
    run.committer = Committer(run.paths, dict(run.past.hashes))
    run.dispatcher = Dispatcher(
        paths=run.paths,
        state=RunState(
            run.plan,
            capacities(run.home, run.project.name, run.backend, workers=workers, cluster=cluster),
            hosts=run.backend.hosts(workers, cluster),
            devices=devices,
            committed=run.past.records,
            attempts=run.past.attempts,
        ),
        pool=run.pool,
        committer=run.committer,
        inputs=run.inputs,
        plan_stage=lambda stage, artifacts: _plan_later(run, stage, artifacts),
        timeout_s=cluster["timeout_s"],
        tell=run.tell,
        flush=run.flush,
        cancelled=run.switch,
        started=run.watcher.watch,
        advice=lambda partition: _advice(run, partition),
        records=dict(run.past.records),
        planned=dict(run.past.plans),
    )
    _prepare(run)
    if run.backend.capabilities.parallel:  # this thread is never busy for long: nothing has to be torn out of its hands
        run.switch.at_once = run.pool.kill
    finish = run.dispatcher.run()
    run.switch.at_once = None
    run.plan = run.dispatcher.state.plan
    if finish.outcome == "cancelled":
        raise RunCancelledError("cancelled")
    if finish.outcome == "failed":
        run.fail(finish.error or "failed", run.dispatcher.traceback)


def summarize(run: Execution) -> None:
    """Ask the app for the run's metrics, once."""
    assert run.plan is not None
    assert run.dispatcher is not None
    run.metrics = run.planner.summarize(
        run.request.settings, run.plan.partitions, run.dispatcher.records, run_folder=run.paths.root
    )


def close_workers(run: Execution) -> None:
    """Let the workers tear down."""
    assert run.pool is not None
    run.pool.close(grace_s=CLOSE_GRACE_S)


STEPS: tuple[Callable[[Execution], None], ...] = (
    choose_backend,
    wait_for_slots,
    install,
    open_first_worker,
    plan,
    open_workers,
    execute,
    summarize,
    close_workers,
)
"""What a run goes through, in order, until a step gives it an outcome or raises."""

RESUMING_STEPS = tuple(restore if step is install else step for step in STEPS if step is not plan)
"""The same for a run that goes on: nothing is made or planned again."""


def supervise(run: Execution) -> None:
    """Take a run through `STEPS`, and seal it however that went.

    The outcome stands in the run folder; nothing is raised for a run that fails.

    Raises
    ------
    NoSpaceError
        The disk is so full that the run could not even be sealed.
    RunStateError
        Another process owns the run, or it has ended already.
    EvidenceError
        A run that was to go on left something else than was recorded.
    """
    with ExitStack() as stack:
        stack.enter_context(hold_owner(run.paths, fd=run.owner_fd))
        if run.takes_up:
            _take_up(run)
        run.log = stack.enter_context(EventLog(run.paths.events))
        run.switch = stack.enter_context(CancelSwitch(run.paths.cancel_request))
        run.watcher = stack.enter_context(run.means.watcher(run.paths.run_id))
        stack.callback(run.held.release)
        try:
            _begin(run)
            for step in _steps(run):
                if run.switch():
                    raise RunCancelledError("cancelled")
                step(run)
                if run.outcome:
                    break
            run.outcome = run.outcome or "succeeded"
        except RunCancelledError:
            run.outcome, run.error = "cancelled", None
        except KeyboardInterrupt:  # the second signal
            run.outcome, run.error = "cancelled", None
            if run.pool is not None:
                run.pool.kill()
        except AgilabError as err:
            if isinstance(err, NoSpaceError):
                free_reserve(run.home)
            _failed(run, str(err), err.__cause__ if _is_foreign(err.__cause__) else None)
        except (Exception, SystemExit) as err:  # a defect of ours must leave a sealed record too
            _failed(run, f"AGILAB itself failed: {first_line(err)}; logs/supervisor.log has the traceback", err)
        finally:
            # From here on a second signal ends the workers at once, but not the sealing.
            run.switch.at_once = run.pool.kill if run.pool is not None else _nothing
            run.switch.announces = False
            if run.pool is not None:
                run.pool.close(grace_s=CANCEL_GRACE_S)
            _seal(run)


def taking_up(home: HomePaths, wenv: WenvPaths, paths: RunPaths, *, find_project: Callable[[], Project]) -> Execution:
    """Return the execution that goes on with a run where an earlier one left it.

    Parameters
    ----------
    home, wenv
        The user's folders.
    paths
        The run folder.
    find_project
        Returns the app project as it is now, for a run that has recorded nothing yet.

    Raises
    ------
    RunStateError
        The run never got a request, or the code it was made with is gone.
    """
    request = recorded_request(paths)
    recorded = prepared.read(paths)
    project = prepared.project_of(recorded, home) if recorded else find_project()
    return Execution(home, wenv, project, request, paths, takes_up=True)


def sealing(home: HomePaths, wenv: WenvPaths, paths: RunPaths, *, outcome: str, error: str | None = None) -> Execution:
    """Return the execution that only closes the record of a lost run; nothing of its app is needed for that.

    Raises
    ------
    RunStateError
        The run never got a request.
    """
    request = recorded_request(paths)
    project = prepared.unknown_project(request.app, request.app_uuid, paths.root)
    return Execution(home, wenv, project, request, paths, takes_up=True, outcome=outcome, error=error)


def recorded_request(paths: RunPaths) -> RunRequest:
    """Return the request that lies in a run folder.

    Raises
    ------
    RunStateError
        There is none.
    """
    if not paths.request.is_file():
        raise RunStateError(f"run {paths.run_id} never got a request, so nothing was done; remove {paths.root}")
    return RunRequest.from_json(records.parse(paths.request.read_bytes()) or {})


def _steps(run: Execution) -> tuple[Callable[[Execution], None], ...]:
    if run.outcome:  # it is only to be sealed
        return ()
    return STEPS if run.past.prepared is None else RESUMING_STEPS


def _take_up(run: Execution) -> None:
    """Learn what earlier attempts left, and end what they left running."""
    fetching.finish(run.paths)
    if run.outcome and os.path.lexists(run.paths.sums):
        raise RunStateError(f"run {run.paths.run_id} has ended already; agilab show {run.paths.run_id}")
    end_marked(run.paths.run_id)
    run.past = recovery.take_up(run.paths, resumes=not run.outcome)
    run.created, run.started = run.past.created or run.created, run.past.started
    run.attempt = max(1, run.past.attempt + (not run.outcome))
    if run.outcome and run.past.prepared is not None:
        run.prepared = run.past.prepared
        run.plan = prepared.plan_of(run.prepared, run.past.plans)


def _begin(run: Execution) -> None:
    """Write the first event of this attempt, and those of commits that a crash has cost."""
    if run.past.attempt == 0:
        first = {"schema": "agilab.events/1", "run_id": run.paths.run_id, "app": run.project.name}
        run.tell("created", {**first, "request_digest": run.request.digest, "attempt": 1})
    elif not run.outcome:
        run.tell("resumed", {"attempt": run.attempt, "committed": len(run.past.records)})
    for partition, record in run.past.records.items():
        if partition not in run.past.told:
            run.tell("committed", {name: record[name] for name in ("partition", "stage", "worker", "attempt")})


def _prepare(run: Execution) -> None:
    """Record, once, what it takes to go on without this process; nothing is dispatched before that."""
    assert run.dispatcher is not None
    assert run.installed is not None
    assert run.plan is not None
    run.dispatcher.record_plans()
    run.prepared = evidence.prepare(run)
    if run.past.prepared is None:
        stages = [{"stage": item.name, "after": list(item.after), "retries": item.retries} for item in run.plan.stages]
        place = prepared.place_of(run.project, run.installed.worker)
        prepared.write(run.paths, {**run.prepared, "stages": stages, "place": place})


def _advice(run: Execution, partition: str) -> str:
    folder = run.wenv.package(run.project.name)
    then = f"repeat it here: agilab debug {run.paths.run_id} {partition}"
    if not partition:
        then = f"if a module is missing, add it to dependencies in {run.project.worker_pyproject}"
    return f"worker code: {folder / 'current'}\nenvironment and lock: {folder / 'worker_manifest.json'}\n{then}\n"


def _plan_later(run: Execution, stage: str, artifacts: Sequence[Artifact]) -> Sequence[Partition]:
    """Ask the app for the partitions of a stage, and get what they need besides."""
    assert run.dispatcher is not None
    at_once, run.switch.at_once = run.switch.at_once, None  # the app's code may be busy for long
    parts = run.planner.plan_stage(run.request.settings, stage, artifacts, run_folder=run.paths.root)
    before = set(run.held.numbers)
    _provide(run, parts)
    run.switch.at_once = at_once
    run.dispatcher.state.offer({name: run.held.numbers[name] for name in run.held.numbers.keys() - before})
    return parts


def _provide(run: Execution, partitions: Sequence[Partition], refs: Sequence[InputRef] = ()) -> None:
    """Hash what partitions read and hold the devices they use, each kind once."""
    run.backend.check(partitions, timeout_s=run.request.cluster["timeout_s"])
    refs = [*refs, *(ref for part in partitions for ref in part.inputs if isinstance(ref, InputRef))]
    if refs:
        found = InputHasher(run.home.cache / "hashes.json").hash(refs, run.planner.data_root)
        run.inputs.update({path: item for path, item in found.items() if path not in run.inputs})
    if run.backend.capabilities.needs_hosts:  # each has devices of its own
        return
    devices: dict[str, int] = {}
    for part in partitions:
        for name, count in part.resources.items():
            devices[name] = devices.get(name, 0) + count
    wanted = {name: min(count, run.available.get(name, 0)) for name, count in devices.items()}
    if missing := {name: count for name, count in wanted.items() if name not in run.held.numbers}:
        _hold(run, missing)


def _hold(run: Execution, wanted: Mapping[str, int]) -> None:
    held = slots.acquire(
        run.home.slots,
        run_id=run.paths.run_id,
        wanted=wanted,
        available=run.available,
        waiting=run.note,
        stopped=run.switch,
    )
    if held is None:
        raise RunCancelledError("cancelled")
    run.held.add(held)


def _is_foreign(cause: BaseException | None) -> bool:
    """Say whether a traceback would tell more than the sentence does: it comes from the app's own code."""
    return cause is not None and not isinstance(cause, AgilabError | OSError)


def _failed(run: Execution, message: str, cause: BaseException | None) -> None:
    if run.switch():  # an interrupted step fails in its own way, but what happened is that the user stopped it
        run.outcome, run.error = "cancelled", None
    else:
        run.fail(message, "".join(traceback.format_exception(cause)) if cause is not None else "")


def _seal(run: Execution) -> None:
    """Close the record: after this, nothing of the run changes."""
    committed: dict[str, Mapping[str, Any]] = dict(run.past.records)
    known: Mapping[str, str] = run.past.hashes
    if run.dispatcher is not None:
        run.plan = run.dispatcher.state.plan
        committed, known = run.dispatcher.records, run.committer.hashes
        for commit in run.committer.close():
            if commit.error is None:
                committed[commit.record["partition"]] = commit.record
    if run.outcome != "succeeded":
        with suppress(EvidenceError):  # a signal may have come between a commit and our hearing of it
            committed.update({record["partition"]: record for record in records.read_records(run.paths)})
        _set_aside(run, committed)
    run.before_seal()
    try:
        _write_seal(run, committed, known)
    except EvidenceError as err:  # somebody has removed artifacts, or left links or odd files in the run folder
        run.outcome, run.error = "failed", str(err)
        _set_aside(run, committed)
        run.log = EventLog(run.paths.events)
        _write_seal(run, committed, {path: sha for path, sha in known.items() if (run.paths.root / path).is_file()})


def _write_seal(run: Execution, committed: Mapping[str, Mapping[str, Any]], known: Mapping[str, str]) -> None:
    shutil.rmtree(run.paths.staging, ignore_errors=True)
    last = {"state": "sealing", "outcome": run.outcome, "error": run.error}
    _despite_full_disk(run, lambda: run.tell("state", last), then=run.log.sync)
    run.log.close()
    in_order = [committed[part.id] for part in (run.plan.partitions if run.plan else ()) if part.id in committed]
    sealed = manifest.build(evidence.facts(run), in_order)

    def seal_again() -> None:
        if os.path.lexists(run.paths.sums):  # written, but not known to be on the disk
            sync_folder(run.paths.root)
        else:
            manifest.seal(run.paths, sealed, known)

    _despite_full_disk(run, lambda: manifest.seal(run.paths, sealed, known), then=seal_again)
    shutil.rmtree(run.paths.staging, ignore_errors=True)  # a request to cancel that came too late


def _despite_full_disk(run: Execution, step: Callable[[], object], *, then: Callable[[], object] | None = None) -> None:
    """Take a step of the sealing, and once more with the reserve freed when the disk is full."""
    try:
        step()
    except NoSpaceError:
        free_reserve(run.home)
        (then or step)()


def _set_aside(run: Execution, committed: Mapping[str, Mapping[str, Any]]) -> None:
    kept = {(record["stage"], record["partition"]) for record in committed.values()}
    _despite_full_disk(run, lambda: manifest.set_aside(run.paths, kept))


def _nothing() -> None:
    """Do nothing."""
