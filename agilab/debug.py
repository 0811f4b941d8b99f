"""Repeats one partition of a run in this process, for a debugger; the run it comes from is not touched."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agilab import codec, digest, installation
from agilab.backends.entries import worker_environment
from agilab.backends.inline import check_requirements, forget
from agilab.codec import Field
from agilab.entry import PROTOCOL, WorkerSession
from agilab.env import AgiEnv
from agilab.errors import EvidenceError, InstallError, RunNotFoundError, RunStateError
from agilab.layers import resolve_secrets
from agilab.package import Installed
from agilab.paths import make_folder, write_file
from agilab.run import Run


@dataclass(frozen=True, slots=True)
class Repetition:
    """One partition of a run, ready to be repeated.

    Parameters
    ----------
    init, task
        The messages of `agilab.entry` that its worker was given; inputs come from the run folder.
    folder
        Where what it writes will lie.
    worker
        Worker environment and runtime.
    """

    init: Mapping[str, Any]
    task: Mapping[str, Any]
    folder: Path
    worker: Installed


def prepare(env: AgiEnv, run: Run, partition: str, *, environ: Mapping[str, str]) -> Repetition:
    """Gather code, settings, inputs and seed of a partition as they were recorded.

    Parameters
    ----------
    env
        Folders; the run's app is selected here.
    run
        Where the partition comes from.
    partition
        Its id.
    environ
        Where secrets are looked up.

    Raises
    ------
    RunNotFoundError
        The run has no such partition, or never planned it.
    InstallError
        The recorded worker package is no longer there.
    EvidenceError
        An input is no longer what it was.
    """
    part = _recorded(run, partition)
    env = env.select(run.app)
    installed = installation.install(env.project, home=env.home, wenv=env.wenv, report=lambda text: None)
    request, fields = run.request, recorded_fields(env, run)
    folder = Path(tempfile.mkdtemp(prefix=f"{run.run_id}-{partition}-", dir=make_folder(env.home.tmp)))
    init = {
        "op": "init",
        "protocol": PROTOCOL,
        "worker": env.project.worker_class,
        "code": str(recorded_code(env, run, installed.worker.code, installed.worker.code_digest)),
        "fields": codec.fields_to_json(fields),
        "values": request["settings"],
        "secrets": resolve_secrets(fields, request["settings"], environ),
        "seed": request["seed"],
        "cancel_file": str(run.paths.cancel_request),
        "kinds": {name: dict(kind) for name, kind in env.project.kinds.items()},
    }
    task = {
        "op": "run",
        "id": partition,
        "stage": part["stage"],
        "params": part["params"],
        "inputs": dict(_input(ref, run, installed.data_root) for ref in part["inputs"]),
        "resources": {name: list(range(count)) for name, count in part["resources"].items()},
        "folder": str(folder / "partition"),
    }
    return Repetition(init, task, folder / "partition", installed.worker)


def repeat(repetition: Repetition, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the method in this process and return its ``done`` message; what it raises passes through.

    Raises
    ------
    BackendRefusedError
        This Python lacks what the worker needs; see `repeat_in_worker_environment`.
    """
    check_requirements(repetition.worker.lock)
    before = os.getcwd()
    try:
        session = WorkerSession(repetition.init)
        message = session.run(repetition.task, tell)
        session.close()
    finally:
        os.chdir(before)
        forget(str(repetition.init["worker"]).partition(":")[0], str(repetition.init["code"]))
    return message


def repeat_in_worker_environment(repetition: Repetition, *, interactive: bool) -> int:
    """Run the method with the worker environment's Python on this terminal, and stop in pdb where it raises.

    Parameters
    ----------
    repetition
        From `prepare`.
    interactive
        Whether it may stop in pdb.

    Returns
    -------
    int
        0, or 1 when the method raised.
    """
    order = repetition.folder.with_name("order.json")  # holds secrets: read and removed before worker code is imported
    write_file(order, json.dumps({"init": repetition.init, "task": repetition.task}).encode(), durable=False)
    command = [str(repetition.worker.python), "-I", str(repetition.worker.runtime), "debug", str(order)]
    stdin = None if interactive else subprocess.DEVNULL
    return subprocess.call(command, env=worker_environment(1, {}), stdin=stdin)


def recorded_fields(env: AgiEnv, run: Run) -> tuple[Field, ...]:
    """Return the settings as the run's own manager package declared them.

    Raises
    ------
    RunStateError
        The run is not final, or that package is no longer there.
    """
    recorded = str(run.manifest["code"]["manager_digest"])
    if recorded == env.project.manager_digest():
        return env.fields()
    snapshot = env.home.snapshots / recorded
    if not snapshot.is_dir():
        raise RunStateError(
            f"the manager package {recorded[:12]} of run {run.run_id} is no longer in {env.home.snapshots}; run again"
        )
    return replace(env.planner, source=snapshot).fields()


def _recorded(run: Run, partition: str) -> dict[str, Any]:
    """Return the plan of one partition as the run recorded it."""
    known: list[str] = []
    for path in sorted(run.paths.plans.glob("*.json")):
        for part in json.loads(path.read_bytes())["partitions"]:
            if part["id"] == partition:
                return dict(part)
            known.append(part["id"])
    shown = ", ".join(known[:10]) or "none: it ended before anything was planned"
    raise RunNotFoundError(f"run {run.run_id} has no partition {partition!r}; it has {shown}")


def recorded_code(env: AgiEnv, run: Run, current: Path, current_digest: str) -> Path:
    """Return the folder of the worker package that a run was made with.

    Parameters
    ----------
    env
        Folders.
    run
        A final run.
    current, current_digest
        The worker package as it is now.

    Raises
    ------
    RunStateError
        The run ended before it had one.
    InstallError
        It is no longer there.
    """
    code = run.manifest.get("code")
    if not code:
        raise RunStateError(f"run {run.run_id} ended before its worker package was made; see {run.paths.logs}")
    recorded = str(code["worker_digest"])
    if recorded == current_digest:
        return current
    found = sorted(env.wenv.package(run.app).glob(f"{recorded}*"))
    if not found:
        folder = env.wenv.package(run.app)
        raise InstallError(f"worker package {recorded[:12]} of run {run.run_id} is no longer in {folder}; run again")
    return found[0]


def _input(ref: Mapping[str, Any], run: Run, root: Path) -> tuple[str, tuple[str, str]]:
    if ref["type"] == "input":
        name, path = ref["name"], root / ref["path"]
    else:
        name = f"{ref['stage']}/{ref['partition']}/{ref['name']}"
        path = run.artifact(name)
    try:
        found = digest.of_file(path)
    except OSError as err:
        raise EvidenceError(
            f"input {path} cannot be read ({err.strerror}), the run read one with sha256 {ref['sha256']}; restore it"
        ) from err
    if found != ref["sha256"]:
        raise EvidenceError(f"input {path} has sha256 {found}, the run read {ref['sha256']}; restore it")
    return name, (str(path), found)
