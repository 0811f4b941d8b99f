"""Runs the stages of app projects in this Python, one after the other, without environments and run folders.

``python stages.py FOLDER PROJECT...``: prints what each left, artifact key -> path; FOLDER is for its files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from agilab import codec, planner
from agilab.artifact import Artifact
from agilab.entry import load_worker
from agilab.plan import InputRef, Partition, WorkPlan
from agilab.project import read
from agilab.worker import PartitionContext


def ran(root: Path, folder: Path) -> dict[str, str]:
    """Run one project; return artifact key -> path."""
    project = read(root)
    request = {"app": project.app_class, "source": str(project.manager.parent), "digest": "", "data_root": str(root)}

    def ask(**question: Any) -> dict[str, Any]:
        return planner.answer({**request, "question": question})

    fields = codec.fields_from_json(ask(op="fields"))
    values = codec.validate(fields, {})
    worker = load_worker(project.worker_class, root / "src")
    worker.settings = codec.decode(fields, values)
    left: dict[str, str] = {}
    for stage in WorkPlan.from_json(ask(op="plan", values=values)["plan"]).stages:
        parts = stage.partitions
        if parts is None:
            known = [artifact(key) for key in left if key.partition("/")[0] in stage.after]
            planned = ask(op="plan_stage", values=values, stage=stage.name, artifacts=known)["partitions"]
            parts = [Partition.from_json(one) for one in planned]
        for part in parts:
            files = {
                ref.name if isinstance(ref, InputRef) else ref.key: str(root / ref.path)
                if isinstance(ref, InputRef)
                else left[ref.key]
                for ref in part.references
            }
            task = {
                "id": part.id,
                "stage": stage.name,
                "params": part.params,
                "inputs": files,
                "resources": {},
                "seed": 0,
            }
            place = folder / root.name / part.id
            place.mkdir(parents=True)
            os.chdir(place)
            context = PartitionContext(task, place, send=lambda message: None)
            getattr(worker, stage.name)(context)
            for name, item in context.written.items():
                left[f"{stage.name}/{part.id}/{name}"] = str(place / item["path"])
    return left


def artifact(key: str) -> dict[str, Any]:
    """Describe an artifact as far as planning needs it."""
    stage, partition, name = key.split("/")
    return Artifact(stage, partition, name, "file", key, 0, "0" * 64).to_json()


if __name__ == "__main__":
    sys.stdout, said = sys.stderr, sys.stdout
    print(json.dumps({root: ran(Path(root), Path(sys.argv[1])) for root in sys.argv[2:]}), file=said, flush=True)
