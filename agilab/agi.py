"""`AGI`: the control path in a few verbs, each taking an `AgiEnv`; thin, all work is done below."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, overload

from agilab import installation, slots
from agilab.backends.base import backend
from agilab.distribution import Distribution, distribute
from agilab.env import AgiEnv
from agilab.errors import RequestError, RunStateError
from agilab.installation import Installation
from agilab.layers import resolve_secrets
from agilab.paths import write_json
from agilab.request import ClusterOptions, RunRequest
from agilab.run import FINAL_STATES, Run, probe_owner, read_owner

if TYPE_CHECKING:
    from agilab.environment import Report
    from agilab.fetching import Fetched
    from agilab.service import Health, Status
    from agilab.tracking import Store


GONE_S = 10.0
"""How long `AGI.cancel` waits for the last process of a run whose record is closed [s]."""
POLL_S = 0.01


class AGI:
    """Install, plan, run, submit and cancel: `AgiEnv -> AGI.run -> worker package -> artifacts`."""

    @staticmethod
    def install(env: AgiEnv, *, report: Report | None = None) -> Installation:
        """Make data set, worker package and worker environment of the selected app; what is there already is kept.

        Parameters
        ----------
        env
            An environment with an app.
        report
            Told what happens, a line at a time, download sizes included.

        Raises
        ------
        InstallError
            Something could not be made.
        """
        env.prepare()
        return installation.install(env.project, home=env.home, wenv=env.wenv, report=report or _silent)

    @staticmethod
    def get_distrib(env: AgiEnv, request: RunRequest) -> Distribution:
        """Plan a request without running it.

        Raises
        ------
        PlanError
            The app's plan does not hold together.
        DataError
            An input is missing; when the data set is not there yet, install the app first.
        """
        _check(env, request)
        return distribute(env, request)

    @staticmethod
    def run(
        env: AgiEnv,
        request: RunRequest,
        *,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        track: str | None = None,
    ) -> Run:
        """Run a request to its end in this process; return the run, however it ended.

        Parameters
        ----------
        env
            Where the app and the folders are.
        request
            From `AgiEnv.request`.
        on_event
            Told every event of the run as it happens.
        track
            An MLflow server or store that is told of the run while it goes on, in a process of its own: see
            `agilab.tracking`. By default the one that ``AGILAB_TRACK`` names, if any; empty for none.

        Returns
        -------
        Run
            Final: `Run.check` raises unless it succeeded.
        """
        from agilab.supervisor import Execution, supervise

        store = _store(track)
        run = _create(env, request)
        _follow(run, store)
        supervise(Execution(env.home, env.wenv, env.project, request, run.paths, on_event=on_event))
        return run

    @staticmethod
    def submit(env: AgiEnv, request: RunRequest, *, track: str | None = None) -> Run:
        """Start a request in a process that outlives this one; return its run at once.

        Parameters
        ----------
        env, request, track
            As for `AGI.run`.

        Raises
        ------
        RunStateError
            The supervisor did not start; the message says where its log is.
        """
        from agilab import detached

        store = _store(track)
        run = _create(env, request)
        _follow(run, store)
        detached.start(env.home, env.wenv, run.paths, project=env.project.root)
        return run

    @staticmethod
    def resume(
        env: AgiEnv,
        run_id: str,
        *,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        detach: bool = False,
        track: str | None = None,
    ) -> Run:
        """Go on with a run that failed, was cancelled or was lost, in its folder, with the code and plan it began with.

        Only partitions that have not committed run; the seal that it had is
        kept in ``seals/``.

        Parameters
        ----------
        env
            Folders; the app's project is needed only for a run that never came to record its code.
        run_id
            The run, or ``last``.
        on_event
            Told every event as it happens.
        detach
            Whether to return at once and let the run go on in a process of its own.
        track
            As for `AGI.run`.

        Raises
        ------
        RunNotFoundError
            There is no such run.
        RunStateError
            It has succeeded, goes on already, or what it was made with is gone.
        EvidenceError
            What it left is not what was recorded.
        """
        from agilab import detached
        from agilab.recovery import require_resumable
        from agilab.supervisor import supervise, taking_up

        store = _store(track)
        run = env.runs.get(run_id)
        _require_free(run)
        require_resumable(run.paths)
        env.prepare()
        # Made here in either case: what cannot go on is refused before anything changes.
        execution = taking_up(env.home, env.wenv, run.paths, find_project=lambda: env.select(run.app).project)
        _follow(run, store, resumes=True)
        if detach:
            project = None if run.paths.prepared.exists() else execution.project.root
            detached.start(env.home, env.wenv, run.paths, project=project, takes_up=True)
            return run
        execution.on_event = on_event
        supervise(execution)
        return run

    @staticmethod
    def seal(env: AgiEnv, run_id: str) -> Run:
        """Close the record of a lost run: it becomes ``failed`` with error ``lost``.

        Raises
        ------
        RunNotFoundError
            There is no such run.
        RunStateError
            It is not lost.
        """
        from agilab.supervisor import sealing, supervise

        run = env.runs.get(run_id)
        if run.state != "lost":
            raise RunStateError(f"run {run.run_id} is {run.state}; only a lost run can be sealed")
        supervise(sealing(env.home, env.wenv, run.paths, outcome="failed", error="lost"))
        return run

    @staticmethod
    def fetch(
        env: AgiEnv, run_id: str, pattern: str = "all", *, report: Callable[[str], None] | None = None
    ) -> Fetched:
        """Bring artifacts here that have stayed on hosts, and close the record of the run anew.

        Every byte is hashed here. Either all that match come, or the run stays
        as it is; a fetch that was interrupted goes on where it stopped.

        Parameters
        ----------
        env
            Folders.
        run_id
            The run, or ``last``; it has ended.
        pattern
            For ``stage/partition/name``, such as ``"train/*/model"``; ``"all"`` by default.
        report
            Told progress, a line at a time.

        Raises
        ------
        RunNotFoundError
            There is no such run.
        RunStateError
            It has not ended.
        ArtifactNotFoundError
            Nothing matches, or a host does not have it any more.
        EvidenceError
            A host sent something else than was recorded.
        HostError
            A host cannot be reached.
        """
        from agilab import fetching

        run = env.runs.get(run_id)
        runs_on = backend(run.request["cluster"]["backend"])
        return fetching.fetch(run, pattern, keeper=lambda: runs_on.keeper(env.wenv, report or _silent))

    @staticmethod
    def debug(
        env: AgiEnv, run_id: str, partition: str, *, tell: Callable[[Mapping[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Repeat one partition of a run in this process; what its method raises passes through to a debugger.

        Parameters
        ----------
        env
            Folders.
        run_id
            The run, or ``last``.
        partition
            Id of the partition.
        tell
            Told progress, metrics and log messages.

        Returns
        -------
        dict
            The ``done`` message of `agilab.entry`: what it wrote, and what that cost.

        Raises
        ------
        RunNotFoundError
            There is no such run or partition.
        BackendRefusedError
            This Python lacks what the worker needs.
        """
        from agilab.debug import prepare, repeat

        return repeat(prepare(env, env.runs.get(run_id), partition, environ=os.environ), tell or _ignore)

    @staticmethod
    def cancel(env: AgiEnv, run_id: str) -> Run:
        """Ask a run to stop, and wait until nothing of it is left; seal it when nobody runs it any more.

        Raises
        ------
        RunNotFoundError
            There is no such run.
        """
        from agilab.supervisor import sealing, supervise

        run = env.runs.get(run_id)
        if run.state == "lost":
            try:
                supervise(sealing(env.home, env.wenv, run.paths, outcome="cancelled"))
            except RunStateError:
                if run.state == "lost":
                    raise
                # Another process was faster: it has sealed the run, or goes on with it.
        run.cancel()
        run.wait()
        # Its record is closed; now its owner ends what still runs, and then lets go.
        end = time.monotonic() + GONE_S
        while probe_owner(run.paths) == "held" and time.monotonic() < end:
            time.sleep(POLL_S)
        return run

    @overload
    @staticmethod
    def service(
        env: AgiEnv,
        action: Literal["start"],
        *,
        cluster: Mapping[str, Any] | None = None,
        report: Report | None = None,
    ) -> Status: ...
    @overload
    @staticmethod
    def service(env: AgiEnv, action: Literal["status", "stop"]) -> Status: ...
    @overload
    @staticmethod
    def service(env: AgiEnv, action: Literal["health"], *, cluster: Mapping[str, Any] | None = None) -> Health: ...
    @overload
    @staticmethod
    def service(
        env: AgiEnv, action: Literal["submit"], request: RunRequest | Mapping[str, Any] | None = None
    ) -> Run: ...
    @staticmethod
    def service(
        env: AgiEnv,
        action: str,
        request: RunRequest | Mapping[str, Any] | None = None,
        *,
        cluster: Mapping[str, Any] | None = None,
        report: Report | None = None,
    ) -> Status | Health | Run:
        """Start, ask, use or stop the kept-alive service of the selected app.

        Parameters
        ----------
        env
            An environment with an app.
        action
            ``"start"`` returns once workers have loaded the app; ``"status"`` says how the service is, ``"health"``
            whether that is allowed; ``"submit"`` hands it a request and returns the run at once; ``"stop"`` ends it.
        request
            For ``"submit"``: a request, or the settings of one that runs with the cluster options of the service.
        cluster
            For ``"start"`` the cluster options of the service, for ``"health"`` its ``service_health``.
        report
            For ``"start"``: told what happens until then, a line at a time.

        Returns
        -------
        Status, Health or Run
            A `Run` for ``"submit"``.

        Raises
        ------
        ServiceError
            There is no service to ask, there is one already, or it takes nothing.
        RequestError
            The action is unknown, or the request does not fit the service.
        """
        from agilab import service

        app = env.project.name
        match action:
            case "start":
                options, say = env.cluster(cluster).values, report or _silent
                backend(options["backend"]).admit(options)
                AGI.install(env, report=say)
                return service.start(env.home, env.wenv, env.project, cluster=options, report=say)
            case "status":
                return service.status(env.home, app)
            case "health":
                return service.health(service.status(env.home, app), env.cluster(cluster).values["service_health"])
            case "submit":
                if not isinstance(request, RunRequest):
                    request = env.request(request, cluster=service.options(env.home, app))
                _check(env, request)
                store = _store(None)
                run = service.submit(env.home, app, request)
                _follow(run, store)
                return run
            case "stop":
                return service.stop(env.home, app)
        raise RequestError(f"a service cannot {action!r:.80}; allowed: start, status, health, submit, stop")


def _check(env: AgiEnv, request: RunRequest) -> None:
    if not isinstance(request, RunRequest):
        raise RequestError(
            f"a {type(request).__name__} is not a request; make one with env.request({{...}}), which checks every value"
        )
    project = env.project
    if (request.app, request.app_uuid) != (project.name, project.uuid):
        raise RequestError(
            f"the request is for app {request.app!r} ({request.app_uuid}), the environment has {project.name!r} "
            f"({project.uuid}); use env.select({request.app!r})"
        )
    backend(request.cluster["backend"]).admit(ClusterOptions.complete(request.cluster))
    env.prepare()


def _create(env: AgiEnv, request: RunRequest) -> Run:
    """Make the run folder with its request, once nothing is wrong that can be seen before."""
    _check(env, request)
    slots.machine(os.environ)
    resolve_secrets(env.fields(), request.settings, os.environ)
    paths = env.runs.create(env.project.name)
    try:
        write_json(paths.request, request.to_json())
    except OSError:  # a folder without a request is no run
        with suppress(OSError):
            paths.root.rmdir()
        raise
    return Run(paths)


def _store(track: str | None) -> Store | None:
    """Return where a run is tracked; nothing of that is imported when it is not."""
    if track == "" or (track is None and not os.environ.get("AGILAB_TRACK")):
        return None
    from agilab.tracking import chosen

    return chosen(track, os.environ)


def _follow(run: Run, store: Store | None, *, resumes: bool = False) -> None:
    if store is not None:
        from agilab.tracking import follow

        follow(run, store, resumes=resumes)


def _require_free(run: Run) -> None:
    """Refuse a run that somebody runs."""
    state, name = run.state, run.run_id
    if state == "unknown":
        host = (read_owner(run.paths) or {}).get("host", "another host")
        raise RunStateError(f"run {name} may still go on: its owner is on {host}, and only there its lock can be seen")
    if state not in {*FINAL_STATES, "lost", "unreadable"}:
        raise RunStateError(f"run {name} goes on: it is {state}; follow it with: agilab logs {name} --follow")


def _silent(text: str) -> None:
    """Report to nobody."""


def _ignore(message: Mapping[str, Any]) -> None:
    """Tell nobody."""
