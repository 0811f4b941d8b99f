"""What a manifest says about a run that only its supervisor knows; the form of the manifest is `agilab.manifest`'s."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agilab import __version__, environment
from agilab.digest import of_bytes
from agilab.dispatch import now
from agilab.inputs import Input
from agilab.plan import InputRef, Stage
from agilab.uv import current_interpreter

if TYPE_CHECKING:
    from agilab.supervisor import Execution


def prepare(run: Execution) -> dict[str, Any]:
    """Gather the fields of ``agilab.run/1`` that are known before the first dispatch."""
    project, installed = run.project, run.installed
    return {
        "app": {
            "name": project.name,
            "uuid": project.uuid,
            "version": project.version,
            "license": project.license,
            "description": project.description,
        },
        "inputs": [_input(item) for _, item in sorted(run.inputs.items())],
        "data": dict(installed.data) if installed is not None and installed.data else None,
        "code": run.code,
        "environment": _environment(run),
        "manager": {
            "agilab": __version__,
            "python": current_interpreter().version,
            "platform": current_interpreter().platform,
            "host": os.uname().nodename,
        },
        "backend": _backend(run),
    }


def facts(run: Execution) -> dict[str, Any]:
    """Gather every top-level field of ``agilab.run/1`` that does not follow from the partition records."""
    known = run.prepared or prepare(run)
    return {
        **{name: known[name] for name in ("app", "data", "code", "environment", "manager")},
        "backend": _backend(run),
        "inputs": _inputs(run, known["inputs"]),
        "run_id": run.paths.run_id,
        "state": run.outcome,
        "error": run.error,
        "attempt": run.attempt,
        "created": run.created,
        "started": run.started,
        "ended": now(),
        "duration_s": round(run.past.active_s + time.monotonic() - run.began, 3),
        "request": run.request.to_json(),
        "stages": _stages(run),
        "metrics": dict(run.metrics),
        "reproduce": f"agilab run {run.project.name} --request request.json",
    }


def _backend(run: Execution) -> dict[str, Any]:
    """Name hosts and workers, those of earlier attempts too: where records say that partitions ran."""
    before = (run.past.prepared or {}).get("backend") or {"hosts": (), "workers": ()}
    ran = run.dispatcher.records if run.dispatcher is not None else run.past.records
    hosts = sorted({record["host"] for record in ran.values()}) or [os.uname().nodename]
    workers = run.pool.workers if run.pool is not None else ()
    return {
        "name": run.request.cluster["backend"],
        "hosts": list(dict.fromkeys([*before["hosts"], *hosts])),
        "workers": list(dict.fromkeys([*before["workers"], *workers])),
    }


def code(run: Execution) -> dict[str, Any]:
    """Name the code that runs, once it is installed."""
    assert run.installed is not None
    return {
        "code_digest": run.request.code_digest,
        "manager_digest": run.project.manager_digest(),
        "worker_digest": run.installed.worker.code_digest,
        "runtime_digest": run.installed.worker.runtime_digest,
        "git": run.project.git(),
    }


def _environment(run: Execution) -> dict[str, Any] | None:
    """Describe where worker code ran: its own environment, or for `inline` this process and how it differs."""
    if run.installed is None:
        return None
    worker = run.installed.worker
    recorded = (run.past.prepared or {}).get("environment")
    lock = recorded["lock"] if recorded else worker.lock.read_text(encoding="utf-8")
    isolated = run.backend.capabilities.isolated
    here = current_interpreter()
    differences: list[str] = []
    if not isolated:
        if here.version != worker.python_version:
            differences.append(f"python {here.version} instead of {worker.python_version}")
        if environment.pins(lock):
            differences += environment.compare(lock, environment.distributions_of())
    return {
        "digest": worker.environment_digest,
        "python": worker.python_version if isolated else here.version,
        "platform": here.platform,
        "cpu_features": environment.cpu_features(),
        "lock_sha256": of_bytes(lock.encode()),
        "lock": lock,
        "isolated": isolated,
        "differences": differences,
    }


def _input(item: Input) -> dict[str, Any]:
    return {"path": item.path, "size_bytes": item.size_bytes, "sha256": item.sha256}


def _inputs(run: Execution, known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """List what the run has read: what was hashed, and what plans of earlier attempts name with its digest."""
    found = {item["path"]: item for item in known}
    for part in run.plan.partitions if run.plan is not None else ():
        for ref in part.references:
            if isinstance(ref, InputRef) and ref.sha256:
                found[ref.path] = {"path": ref.path, "size_bytes": ref.size_bytes, "sha256": ref.sha256}
    found |= {path: _input(item) for path, item in run.inputs.items()}
    return [item for _, item in sorted(found.items())]


def _stages(run: Execution) -> list[dict[str, Any]]:
    """List the stages with the plans that lie in the run folder, whatever this process still knows of them."""
    found = []
    for stage in run.plan.stages if run.plan is not None else ():
        data = _plan_of(run, stage)
        recorded: dict[str, Any] = {"partitions": None, "plan_sha256": None}
        if data is not None:
            planned = {worker: len(ids) for worker, ids in json.loads(data)["assignment"].items()}
            recorded = {
                "partitions": len(stage.partitions or ()),
                "plan_sha256": of_bytes(data),
                "planned": planned,
            }
        found.append({"stage": stage.name, "after": list(stage.after), **recorded})
    return found


def _plan_of(run: Execution, stage: Stage) -> bytes | None:
    """Return the recorded plan of a stage; None when it has none."""
    path = run.paths.plan(stage.name)
    return path.read_bytes() if stage.partitions is not None and path.is_file() else None
