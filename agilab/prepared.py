"""What a run is about to run, recorded before its first dispatch, so that it can go on when its supervisor has gone.

``prepared.json`` (schema ``agilab.prepared/1``) is written once, durably,
after the plans of the stages: a run without it has dispatched nothing. It
holds what the manifest says of code, environment and inputs, and what it
takes to find them again on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agilab import environment, package, records, sums
from agilab.environment import Report
from agilab.errors import EvidenceError, InstallError, RunStateError
from agilab.installation import Installation, data_root
from agilab.package import Installed
from agilab.paths import HomePaths, RunPaths, WenvPaths, write_json
from agilab.plan import Partition, Stage, WorkPlan
from agilab.project import Project
from agilab.uv import Interpreter

SCHEMA = "agilab.prepared/1"


def write(paths: RunPaths, value: Mapping[str, Any]) -> None:
    """Record what was prepared; once this returns, partitions may be dispatched."""
    write_json(paths.prepared, {"schema": SCHEMA, **value})


def read(paths: RunPaths) -> dict[str, Any] | None:
    """Return what was prepared, None when the run has dispatched nothing.

    Raises
    ------
    EvidenceError
        The record cannot be read.
    """
    try:
        value = records.parse(sums.read_file(str(paths.prepared)))
    except FileNotFoundError:
        return None
    if value is None or value.get("schema") != SCHEMA:
        raise EvidenceError(f"{paths.prepared} is no record of schema {SCHEMA!r}; see agilab verify {paths.run_id}")
    return value


def place_of(project: Project, installed: Installed) -> dict[str, Any]:
    """Return what it takes to find project, worker code and interpreter again, beyond their digests."""
    return {
        "root": str(project.root),
        "app_class": project.app_class,
        "worker_class": project.worker_class,
        "dependencies": list(project.dependencies),
        "kinds": {name: dict(kind) for name, kind in project.kinds.items()},
        "worker_code": installed.code.name,
    }


def project_of(value: Mapping[str, Any], home: HomePaths) -> Project:
    """Return the app project as it was recorded, with the snapshot of its manager package.

    Raises
    ------
    RunStateError
        The snapshot is no longer there, or is not what it was.
    """
    app, place = value["app"], value["place"]
    name, root = app["name"], Path(place["root"])
    snapshot = home.snapshots / value["code"]["manager_digest"]
    manager = snapshot / name
    project = Project(
        **app,
        root=root,
        writable=False,
        manager=manager,
        worker=root / "src" / f"{name}_worker",
        settings_file=manager / "app_settings.toml",
        app_class=place["app_class"],
        worker_class=place["worker_class"],
        dependencies=tuple(place["dependencies"]),
        data=value["data"],
        kinds=place["kinds"],
    )
    _require("manager package", manager, manager.is_dir() and project.manager_digest() == snapshot.name)
    return project


def unknown_project(name: str, uuid: str, folder: Path) -> Project:
    """Return what can be said of a project that is not looked at: its name and uuid."""
    return Project(
        root=folder, name=name, uuid=uuid, manager=folder, worker=folder, settings_file=folder, writable=False, kinds={}
    )


def installation_of(
    value: Mapping[str, Any], project: Project, *, home: HomePaths, wenv: WenvPaths, report: Report
) -> Installation:
    """Return worker package, environment and data as they were recorded.

    Nothing is made anew but an environment that is damaged, or that this
    machine has not looked at since it was started.

    Raises
    ------
    RunStateError
        One of them is no longer there, or is not what it was.
    """
    code, recorded = value["code"], value["environment"]
    worker = wenv.package(project.name) / value["place"]["worker_code"]
    runtime = wenv.runtimes / code["runtime_digest"]
    _require("worker package", worker, not package.verify_code(worker))
    _require("runtime", runtime, package.runtime_digest_at(runtime) == code["runtime_digest"])
    root = data_root(project, home)
    _require("data folder", root, root.is_dir())
    folder, python_version = _environment(recorded, wenv, report)
    installed = Installed(
        app=project.name,
        code_digest=code["worker_digest"],
        code=worker,
        environment_digest=folder.name,
        environment=folder,
        python=environment.python_of(folder),
        python_version=python_version,
        lock=folder / environment.LOCK_NAME,
        lock_sha256=recorded["lock_sha256"],
        runtime=runtime,
        runtime_digest=code["runtime_digest"],
    )
    return Installation(installed, root, project.data)


def plan_of(value: Mapping[str, Any], plans: Mapping[str, bytes]) -> WorkPlan:
    """Return the work plan as it was recorded.

    Parameters
    ----------
    value
        What `read` returned.
    plans
        Stage -> content of its ``plan/<stage>.json``; a stage without one is planned from what earlier ones leave.
    """
    return WorkPlan(tuple(_stage(stage, plans.get(stage["stage"])) for stage in value["stages"]))


def _stage(stage: Mapping[str, Any], plan: bytes | None) -> Stage:
    parts = None if plan is None else (records.parse(plan) or {}).get("partitions", ())
    partitions = None if parts is None else tuple(map(Partition.from_json, parts))
    return Stage(stage["stage"], partitions, after=tuple(stage["after"]), retries=stage["retries"])


def _environment(recorded: Mapping[str, Any], wenv: WenvPaths, report: Report) -> tuple[Path, str]:
    folder = wenv.environments / recorded["digest"]
    try:
        stamp = environment.read_stamp(folder)
        python = Interpreter(
            path=Path(stamp["interpreter"]),
            implementation=stamp["implementation"],
            version=stamp["python"],
            abi=stamp["abi"],
            platform=stamp["platform"],
        )
        made = environment.ensure(recorded["lock"], python, wenv=wenv, report=report)
    except (InstallError, KeyError):
        made = None
    _require("worker environment", folder, made == folder)
    return folder, str(stamp["python"])


def _require(what: str, path: Path, there: bool) -> None:
    if not there:
        raise RunStateError(
            f"the {what} that this run was made with is no longer whole in {path}, so it cannot go on; run again"
        )
