"""Kept-alive services, as their users see them: start one, ask how it is, hand it a request, stop it.

A service is a process of its own (`agilab.serving`) that listens on a socket
in AGILAB_HOME which only its owner can reach. It holds workers that have
loaded an app, and a request that it takes is an ordinary run. Nothing here
imports code of an app; what a service says of itself is
``agilab.service/1``, which also lies in its folder as ``service.json``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab.backends.base import WORKER_STATES
from agilab.digest import of_bytes
from agilab.errors import AgilabError, BackendRefusedError, PlanError, ProjectError, RequestError, ServiceError
from agilab.owner import probe_owner, read_owner
from agilab.paths import HomePaths, RunPaths, ServicePaths, WenvPaths, make_folder, read_json
from agilab.project import Project
from agilab.request import RunRequest
from agilab.run import Run

SCHEMA = "agilab.service/1"
STATES = ("running", "starting", "unreachable", "lost", "stopped")
"""``lost``: its process has gone without stopping it; ``unreachable``: it lives and does not answer."""

ANSWER_S = 5.0
"""How long a service may take to answer [s]."""
STOP_S = 30.0
"""How long a service may take to stop [s]."""
FREE_OPTIONS = ("timeout_s",)
"""Cluster options in which a request may differ from its service."""

_POLL_S = 0.01
_NONE = "no service of {app} runs; start it with: agilab service start {app}"
_KINDS = (AgilabError, BackendRefusedError, PlanError, ProjectError, RequestError, ServiceError)
_HEALTH = {"ok": 0, "unreachable": 2, "unhealthy": 3, "restarting": 4, "idle": 5}


@dataclass(frozen=True, slots=True)
class Status:
    """How a service is.

    Parameters
    ----------
    app
        Its app.
    state
        One of `STATES`.
    record
        What it says of itself, or said last, of schema ``agilab.service/1``; empty when there never was one.
    """

    app: str
    state: str
    record: Mapping[str, Any]

    @property
    def alive(self) -> bool:
        """Whether there is a process of it."""
        return self.state in ("running", "starting", "unreachable")

    @property
    def workers(self) -> Sequence[Mapping[str, Any]]:
        """Its workers, each with ``worker``, ``pid``, ``state`` and ``problem``; none unless it is running."""
        return self.record["workers"] if self.state == "running" else ()

    @property
    def unhealthy(self) -> int:
        """How many of its workers cannot work."""
        return sum(bool(one["problem"]) for one in self.workers)

    @property
    def going(self) -> tuple[str, ...]:
        """Ids of the runs that it has taken and not ended: the one that runs first."""
        return tuple(self.record["runs"]["going"]) if self.state == "running" else ()

    def to_json(self) -> dict[str, Any]:
        return {"app": self.app, "state": self.state, "service": dict(self.record) or None}


@dataclass(frozen=True, slots=True)
class Health:
    """How a service is, against what is allowed.

    Parameters
    ----------
    status
        How it is.
    verdict
        ``"ok"``, ``"unreachable"``, ``"unhealthy"``, ``"restarting"`` or ``"idle"``: the first that holds of the last
        four.
    reason
        Why, in one line.
    """

    status: Status
    verdict: str
    reason: str

    @property
    def exit_code(self) -> int:
        """What the shell is told: 0 ok, 2 unreachable, 3 unhealthy, 4 restarting too often, 5 idle."""
        return _HEALTH[self.verdict]

    def to_json(self) -> dict[str, Any]:
        return {**self.status.to_json(), "verdict": self.verdict, "reason": self.reason}


def services(home: HomePaths) -> list[Status]:
    """Return how every service is that AGILAB_HOME knows of, by name of its app; no code of an app is looked at."""
    with suppress(FileNotFoundError):
        names = sorted(entry.name for entry in os.scandir(home.services) if entry.is_dir(follow_symlinks=False))
        return [status(home, name) for name in names]
    return []


def status(home: HomePaths, app: str) -> Status:
    """Return how the service of an app is."""
    paths = home.service(app)
    record = _record(paths)
    if probe_owner(paths) != "held":
        return Status(app, "stopped" if record.get("state", "stopped") == "stopped" else "lost", record)
    try:
        return Status(app, "running", _ask(paths, {"op": "status"}))
    except ServiceError:
        return Status(app, "unreachable" if record.get("state") == "running" else "starting", record)


def health(found: Status, allowed: Mapping[str, Any]) -> Health:
    """Compare how a service is with what is allowed.

    Parameters
    ----------
    found
        What `status` returned.
    allowed
        The cluster options' ``service_health``, as JSON.
    """
    if found.state != "running":
        return Health(found, "unreachable", f"it is {found.state}")
    ill = [one for one in found.workers if one["problem"]]
    if len(ill) > allowed["max_unhealthy"]:
        first = f"{ill[0]['worker']}: {ill[0]['problem']}"
        why = f"{len(ill)} of {len(found.workers)} workers cannot work, allowed {allowed['max_unhealthy']}; {first}"
        return Health(found, "unhealthy", why)
    restarts = found.record["restarts_per_hour"]
    if restarts > allowed["max_restart_rate"]:
        why = f"workers were started again {restarts} times in an hour, allowed {allowed['max_restart_rate']:g}"
        return Health(found, "restarting", why)
    if not found.going and not allowed["allow_idle"]:
        return Health(found, "idle", "it has nothing to do")
    return Health(found, "ok", f"{len(found.workers) - len(ill)} of {len(found.workers)} workers can work")


def prometheus(found: Health) -> list[str]:
    """Return metrics as lines of the Prometheus text format, version 0.0.4."""
    service, record = found.status, found.status.record
    app = _label(service.app)
    states = Counter(one["state"] for one in service.workers)
    ended = record["runs"]["ended"] if service.state == "running" else {}
    families: list[tuple[str, str, str, list[tuple[str, float]]]] = [
        ("up", "gauge", "Whether the service runs and answers.", [("", float(service.state == "running"))]),
        ("health_code", "gauge", "Exit code of agilab service health.", [("", found.exit_code)]),
        ("workers", "gauge", "Workers by state.", [(f',state="{name}"', states[name]) for name in WORKER_STATES]),
        ("unhealthy_workers", "gauge", "Workers that cannot work.", [("", service.unhealthy)]),
        (
            "restarts_last_hour",
            "gauge",
            "How often workers that had died were started again in the last hour.",
            [("", record["restarts_per_hour"] if service.state == "running" else 0)],
        ),
        ("requests_going", "gauge", "Requests that run or wait.", [("", len(service.going))]),
        (
            "runs_total",
            "counter",
            "Runs that the service has ended since it was started, by outcome.",
            [(f',outcome="{name}"', ended.get(name, 0)) for name in ("succeeded", "failed", "cancelled")],
        ),
    ]
    lines = []
    for name, kind, doc, samples in families:
        lines += [f"# HELP agilab_service_{name} {doc}", f"# TYPE agilab_service_{name} {kind}"]
        lines += [f'agilab_service_{name}{{app="{app}"{labels}}} {value:g}' for labels, value in samples]
    return lines


def _label(text: str) -> str:
    """Escape the value of a label."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def start(
    home: HomePaths, wenv: WenvPaths, project: Project, *, cluster: Mapping[str, Any], report: Callable[[str], None]
) -> Status:
    """Start the service of an app, and return once its workers have loaded the app.

    Parameters
    ----------
    home, wenv
        The user's folders.
    project
        The app; it is installed.
    cluster
        Every cluster option.
    report
        Told what happens until then, a line at a time.

    Raises
    ------
    ServiceError
        It runs already, or does not start; the message says where its log is.
    """
    paths = home.service(project.name)
    _require_free(paths, project.name)
    make_folder(paths.root)
    order = {"home": str(home.root), "wenv": str(wenv.root), "project": str(project.root), "cluster": dict(cluster)}
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with open(os.open(paths.log, flags, 0o600), "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "agilab.serving"],  # -P: no module of the current folder is meant
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    said: dict[str, Any] = {}
    with process.stdout:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(order).encode())
        for line in process.stdout:  # it closes that when it has begun
            said = json.loads(line)
            if "report" in said:
                report(said["report"])
    process.wait()  # the service is a child of this process, which has gone
    if "begun" not in said:
        why = f": {said['error']}" if "error" in said else ""
        raise ServiceError(f"the service of {project.name} did not start{why}; see {paths.log}")
    return status(home, project.name)


def submit(home: HomePaths, app: str, request: RunRequest) -> Run:
    """Hand a request to the service of its app; return its run at once.

    Raises
    ------
    ServiceError
        There is no service, it does not answer, or too much waits there already.
    RequestError
        The service runs with other cluster options, or for another app.
    """
    answer = _ask(home.service(app), {"op": "submit", "request": request.to_json()})
    return Run(RunPaths(Path(answer["run"])))


def stop(home: HomePaths, app: str) -> Status:
    """Stop the service of an app, and return when nothing of it is left; what it runs or has waiting is cancelled.

    Raises
    ------
    ServiceError
        There is none, or it does not stop.
    """
    paths = home.service(app)
    _ask(paths, {"op": "stop"})
    end = time.monotonic() + STOP_S
    while probe_owner(paths) == "held":
        if time.monotonic() > end:
            pid = (read_owner(paths) or {}).get("pid", "unknown")
            raise ServiceError(f"the service of {app} (process {pid}) goes on after {STOP_S:g} s; see {paths.log}")
        time.sleep(_POLL_S)
    return status(home, app)


def options(home: HomePaths, app: str) -> dict[str, Any]:
    """Return the cluster options of a service that runs, for a request to it.

    Raises
    ------
    ServiceError
        There is none.
    """
    paths = home.service(app)
    if probe_owner(paths) != "held":
        raise ServiceError(_NONE.format(app=app))
    return dict(_record(paths).get("cluster") or {})


def require_options(cluster: Mapping[str, Any], request: RunRequest) -> None:
    """Refuse a request that asks for other cluster options than its service has.

    Parameters
    ----------
    cluster
        The service's, as `ClusterOptions.recorded` returns them.
    request
        The request.

    Raises
    ------
    RequestError
        Names the first option that differs.
    """
    for name in sorted({*cluster, *request.cluster} - {*FREE_OPTIONS}):
        here, there = cluster.get(name), request.cluster.get(name)
        if here != there:
            raise RequestError(
                f"the request asks for {name} {there!r}, its service runs with {here!r}; leave that to the service, or "
                f"stop it and start it with the other: agilab service stop {request.app}"
            )


def marker_of(paths: ServicePaths) -> str:
    """Return what takes the place of a run id in the marker that every process of a service carries, and on hosts."""
    return f"service-{paths.run_id}-{of_bytes(os.fsencode(f'{os.uname().nodename}:{paths.root}'))[:12]}"


def address(folder_fd: int) -> str:
    """Return a path of the socket that is short enough for one, by an open descriptor of its folder."""
    return f"/proc/self/fd/{folder_fd}/socket"


def _require_free(paths: ServicePaths, app: str) -> None:
    if probe_owner(paths) == "held":
        pid = (read_owner(paths) or {}).get("pid", "unknown")
        raise ServiceError(
            f"the service of {app} runs already, as process {pid}; see agilab service status {app}, or end it with: "
            f"agilab service stop {app}"
        )


def _record(paths: ServicePaths) -> Mapping[str, Any]:
    try:
        return read_json(paths.request, SCHEMA)
    except (AgilabError, OSError):
        return {}


def _ask(paths: ServicePaths, question: Mapping[str, Any]) -> dict[str, Any]:
    """Put one question to a service and return its answer; an error there is one here."""
    app = paths.run_id
    line = b""
    try:
        folder = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as line_to:
                line_to.settimeout(ANSWER_S)
                line_to.connect(address(folder))
                line_to.sendall(json.dumps(question).encode() + b"\n")
                while not line.endswith(b"\n") and (data := line_to.recv(1 << 16)):
                    line += data
        finally:
            os.close(folder)
        answer: dict[str, Any] = json.loads(line)
    except (OSError, ValueError) as err:
        if probe_owner(paths) != "held":
            raise ServiceError(_NONE.format(app=app)) from err
        raise ServiceError(f"the service of {app} does not answer ({err}); see {paths.log}") from err
    if "error" in answer:
        kinds = {kind.__name__: kind for kind in _KINDS}
        raise kinds.get(answer["error"], ServiceError)(answer["message"])
    return answer
