"""What a manifest says about a run that only its supervisor knows; the form of the manifest is `agilab.manifest`'s."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from agilab import __version__, environment
from agilab.digest import of_bytes
from agilab.dispatch import now
from agilab.uv import current_interpreter

if TYPE_CHECKING:
    from agilab.supervisor import Execution


def facts(run: Execution) -> dict[str, Any]:
    """Gather every top-level field of ``agilab.run/1`` that does not follow from the partition records."""
    project, installed = run.project, run.installed
    return {
        "run_id": run.paths.run_id,
        "app": {
            "name": project.name,
            "uuid": project.uuid,
            "version": project.version,
            "license": project.license,
            "description": project.description,
        },
        "state": run.outcome,
        "error": run.error,
        "attempt": 1,
        "created": run.created,
        "started": run.started,
        "ended": now(),
        "duration_s": round(time.monotonic() - run.began, 3),
        "request": run.request.to_json(),
        "inputs": [
            {"path": item.path, "size_bytes": item.size_bytes, "sha256": item.sha256}
            for _, item in sorted(run.inputs.items())
        ],
        "data": dict(installed.data) if installed is not None and installed.data else None,
        "code": _code(run),
        "environment": _environment(run),
        "manager": {
            "agilab": __version__,
            "python": current_interpreter().version,
            "platform": current_interpreter().platform,
            "host": os.uname().nodename,
        },
        "backend": {
            "name": run.request.cluster["backend"],
            "hosts": _hosts(run),
            "workers": list(run.pool.workers) if run.pool is not None else [],
        },
        "stages": _stages(run),
        "metrics": dict(run.metrics),
        "reproduce": f"agilab run {project.name} --request request.json",
    }


def _hosts(run: Execution) -> list[str]:
    records = run.dispatcher.records.values() if run.dispatcher is not None else ()
    return sorted({record["host"] for record in records}) or [os.uname().nodename]


def _code(run: Execution) -> dict[str, Any] | None:
    if run.installed is None:
        return None
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
    lock = worker.lock.read_bytes()
    isolated = run.backend.capabilities.isolated
    here = current_interpreter()
    differences: list[str] = []
    if not isolated:
        if here.version != worker.python_version:
            differences.append(f"python {here.version} instead of {worker.python_version}")
        if environment.pins(lock.decode()):
            differences += environment.compare(lock.decode(), environment.distributions_of())
    return {
        "digest": worker.environment_digest,
        "python": worker.python_version if isolated else here.version,
        "platform": here.platform,
        "cpu_features": environment.cpu_features(),
        "lock_sha256": of_bytes(lock),
        "lock": lock.decode(),
        "isolated": isolated,
        "differences": differences,
    }


def _stages(run: Execution) -> list[dict[str, Any]]:
    planned = run.dispatcher.planned if run.dispatcher is not None else {}
    return [
        {
            "stage": stage.name,
            "after": list(stage.after),
            "partitions": len(stage.partitions) if stage.partitions is not None and stage.name in planned else None,
            "plan_sha256": of_bytes(planned[stage.name]) if stage.name in planned else None,
        }
        for stage in (run.plan.stages if run.plan is not None else ())
    ]
