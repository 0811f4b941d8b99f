"""Repeats one partition of a run in this process, for a debugger; the run it comes from is not touched."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab import codec, digest, installation
from agilab.backends.inline import check_requirements, forget
from agilab.entry import PROTOCOL, WorkerSession
from agilab.env import AgiEnv
from agilab.errors import EvidenceError, InstallError, RunNotFoundError, RunStateError
from agilab.layers import resolve_secrets
from agilab.paths import make_folder
from agilab.run import Run


@dataclass(frozen=True, slots=True)
class Repetition:
    """What a repeated partition left.

    Parameters
    ----------
    folder
        Where its files lie; nothing removes them.
    message
        The ``done`` message of `agilab.entry`.
    """

    folder: Path
    message: Mapping[str, Any]


def repeat(
    env: AgiEnv, run: Run, partition: str, *, environ: Mapping[str, str], tell: Callable[[dict[str, Any]], None]
) -> Repetition:
    """Run the method of one partition again, with the recorded code, settings, inputs and seed.

    Whatever the method raises passes through, so that a debugger can stop there.

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
    tell
        Told progress, metrics and log messages.

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
    check_requirements(installed.worker.lock)
    code = _code(env, run, installed.worker.code, installed.worker.code_digest)
    folder = Path(tempfile.mkdtemp(prefix=f"{run.run_id}-{partition}-", dir=make_folder(env.home.tmp)))
    task = {
        "id": partition,
        "stage": part["stage"],
        "params": part["params"],
        "inputs": dict(_input(ref, run, installed.data_root) for ref in part["inputs"]),
        "resources": {name: list(range(count)) for name, count in part["resources"].items()},
        "folder": str(folder / "partition"),
    }
    try:
        session = WorkerSession(_init(env, run, code, environ))
        message = session.run(task, tell)
        session.close()
    finally:
        forget(env.project.worker_class.partition(":")[0], str(code))
    return Repetition(folder / "partition", message)


def _init(env: AgiEnv, run: Run, code: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the ``init`` message that the run's workers were given."""
    request, fields = run.request, env.fields()
    return {
        "protocol": PROTOCOL,
        "worker": env.project.worker_class,
        "code": str(code),
        "fields": codec.fields_to_json(fields),
        "values": request["settings"],
        "secrets": resolve_secrets(fields, request["settings"], environ),
        "seed": request["seed"],
        "cancel_file": str(run.paths.cancel_request),
    }


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


def _code(env: AgiEnv, run: Run, current: Path, current_digest: str) -> Path:
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
    found = digest.of_file(path)
    if found != ref["sha256"]:
        raise EvidenceError(f"input {path} has sha256 {found}, the run read {ref['sha256']}; restore it")
    return name, (str(path), found)
