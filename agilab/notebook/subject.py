"""What a notebook is made of: an app as it is, or a run as it was recorded; it writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab import codec, debug, installation, prepared, syntax
from agilab.codec import Field
from agilab.env import AgiEnv
from agilab.environment import Report, read_requirements
from agilab.errors import ProjectError, RunStateError
from agilab.plan import WorkPlan
from agilab.project import Project, unreadable
from agilab.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An app with its values, ready to be written down.

    Parameters
    ----------
    project
        The app project.
    fields, values
        Its settings, and their values in canonical JSON.
    seed
        Of the request.
    plan
        What there is to do; a stage without partitions reads everything that those before it leave.
    worker
        Folder of the worker package.
    lock
        Requirements text that its environment is made from.
    requires_python
        Which Pythons it takes.
    data_root
        Where its inputs lie.
    run
        The run that it is; None for an app.
    recorded
        Artifact key -> sha256 of what the run left.
    """

    project: Project
    fields: tuple[Field, ...]
    values: Mapping[str, Any]
    seed: int = 0
    plan: WorkPlan
    worker: Path
    lock: str
    requires_python: str
    data_root: Path
    run: Run | None = None
    recorded: Mapping[str, str]


def of_app(env: AgiEnv, *, report: Report) -> Subject:
    """Return an app with its settings and plan as they are now; what is missing of its environment is made.

    Raises
    ------
    ProjectError
        A stage is planned by code of the app from artifacts that only a run has.
    AgilabError
        The app cannot be installed or planned.
    """
    env.prepare()
    installed = installation.install(env.project, home=env.home, wenv=env.wenv, report=report)
    values = env.request().settings
    _, plan = env.planner.plan(values)
    later = [stage.name for stage in plan.stages if stage.planned_later]
    if later and _plans_stages(env.project):
        raise ProjectError(
            f"stage {later[0]!r} of {env.project.name} is planned from artifacts, by plan_stage; run it once, and "
            f"export that run: agilab run {env.project.name}; agilab export notebook last --standalone"
        )
    return Subject(
        project=env.project,
        fields=env.fields(),
        values=values,
        plan=plan,
        worker=env.project.worker,
        lock=installed.worker.lock.read_text(encoding="utf-8"),
        requires_python=read_requirements(env.project.worker_pyproject).requires_python,
        data_root=installed.data_root,
        recorded={},
    )


def of_run(env: AgiEnv, run: Run, *, report: Report) -> Subject:
    """Return a run with the settings, the plan, the code and the lock that it was made with.

    Raises
    ------
    RunStateError
        It has not succeeded, or what it was made with is no longer there.
    """
    if run.state != "succeeded":
        raise RunStateError(f"run {run.run_id} is {run.state}; only one that has succeeded becomes a notebook")
    env = env.select(run.app)
    env.prepare()
    installed = installation.install(env.project, home=env.home, wenv=env.wenv, report=report)
    code = debug.recorded_code(env, run, installed.worker.code, installed.worker.code_digest)
    recorded = prepared.read(run.paths) or {"stages": ()}
    plans = {path.stem: path.read_bytes() for path in run.paths.plans.glob("*.json")}
    request = run.request
    return Subject(
        project=env.project,
        fields=debug.recorded_fields(env, run),
        values=request["settings"],
        seed=request["seed"],
        plan=prepared.plan_of(recorded, plans),
        worker=code / env.project.worker.name,
        lock=run.manifest["environment"]["lock"],
        requires_python=read_requirements(env.project.worker_pyproject).requires_python,
        data_root=installed.data_root,
        run=run,
        recorded={item.key: item.sha256 for item in run.artifacts()},
    )


def decoded(subject: Subject) -> Mapping[str, Any]:
    """Return the values of the settings as worker code reads them; secrets are their references."""
    frozen = codec.decode(subject.fields, subject.values)
    return {field.name: getattr(frozen, field.name) for field in subject.fields}


def _plans_stages(project: Project) -> bool:
    """Whether the app plans stages itself, as far as its files tell."""
    package, _, class_name = project.app_class.partition(":")
    relative = package.split(".")[1:]
    path = (
        project.manager.joinpath(*relative[:-1], f"{relative[-1]}.py") if relative else project.manager / "__init__.py"
    )
    try:
        found, complete = syntax.methods(syntax.parse(path, package), class_name, base="App")
    except SyntaxError as err:
        raise ProjectError(str(unreadable(path, err))) from err
    return "plan_stage" in found or not complete
