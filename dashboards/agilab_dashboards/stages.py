"""The stages of an app or a run as a graph with states: plain rows for the page WORKFLOW; it draws nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agilab import prepared
from agilab.cli.outcome import record_of
from agilab.errors import AgilabError
from agilab.paths import read_json
from agilab.plan import WorkPlan, reference_to_json
from agilab.run import Run
from agilab_dashboards.live import Watch


@dataclass(frozen=True, slots=True)
class StageNode:
    """One stage of a graph.

    Parameters
    ----------
    name
        Its name.
    after
        Stages that end before it starts.
    partitions
        How many; None while they are not planned.
    plan
        What is planned for each partition, as ``plan/<stage>.json`` says it; empty while it is not planned.
    workers
        Partition -> the worker that it is planned for.
    """

    name: str
    after: tuple[str, ...] = ()
    partitions: int | None = None
    plan: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    workers: Mapping[str, str] = field(default_factory=dict, repr=False)


def of_plan(plan: WorkPlan) -> tuple[StageNode, ...]:
    """Return the stages of a plan that nobody runs."""
    return tuple(
        StageNode(
            stage.name,
            tuple(stage.after),
            None if stage.partitions is None else len(stage.partitions),
            tuple(
                {
                    "id": part.id,
                    "weight": part.weight,
                    "params": dict(part.params),
                    "inputs": [reference_to_json(one) for one in part.references],
                }
                for part in stage.partitions or ()
            ),
        )
        for stage in plan.stages
    )


def of_run(run: Run) -> tuple[StageNode, ...]:
    """Return the stages of a run, in the order of its plan; those that are known so far."""
    known: dict[str, tuple[str, ...]] = {}
    with suppress(AgilabError, OSError, LookupError, TypeError):
        listed = record_of(run).get("stages") or (prepared.read(run.paths) or {}).get("stages") or ()
        known = {str(one["stage"]): tuple(map(str, one.get("after") or ())) for one in listed}
    plans: dict[str, Mapping[str, Any]] = {}
    for path in sorted(run.paths.plans.glob("*.json")) if run.paths.plans.is_dir() else ():
        with suppress(AgilabError, OSError):
            plans[path.stem] = read_json(path, "agilab.stage/1")
    for name, plan in plans.items():
        known.setdefault(name, tuple(plan.get("after") or ()))
    return tuple(_of_record(name, after, plans.get(name)) for name, after in known.items())


def _of_record(name: str, after: tuple[str, ...], plan: Mapping[str, Any] | None) -> StageNode:
    if plan is None:
        return StageNode(name, after)
    parts = tuple(plan.get("partitions") or ())
    workers = {ident: worker for worker, ids in (plan.get("assignment") or {}).items() for ident in ids}
    return StageNode(name, after, len(parts), parts, workers)


def placed(nodes: Sequence[StageNode]) -> dict[str, tuple[int, int]]:
    """Return column and row of each stage: behind every stage that it waits for, in the order of the plan."""
    depths: dict[str, int] = {}
    by_name = {node.name: node for node in nodes}
    for _ in nodes:  # as often as the longest way can be long; a cycle in a damaged plan ends here
        for node in nodes:
            depths[node.name] = 1 + max((depths.get(one, -1) for one in node.after if one in by_name), default=-1)
    filled: dict[int, int] = {}
    found = {}
    for node in nodes:
        column = min(depths[node.name], len(nodes))
        found[node.name] = column, filled.get(column, 0)
        filled[column] = filled.get(column, 0) + 1
    return found


def states(nodes: Sequence[StageNode], watch: Watch | None) -> dict[str, dict[str, Any]]:
    """Return state, share done and words of each stage."""
    counts = {} if watch is None else {row["stage"]: row for row in watch.counts()}
    return {node.name: _state(node, counts.get(node.name), watch) for node in nodes}


def _state(node: StageNode, row: Mapping[str, Any] | None, watch: Watch | None) -> dict[str, Any]:
    total = node.partitions if row is None or row["partitions"] is None else row["partitions"]
    if total is None:
        words = "planned when those before it have ended"
    else:
        words = f"{total:,} partition{'' if total == 1 else 's'}"
    if watch is None or row is None:
        state = "planned" if watch is None else "not run" if watch.ended else "waiting"
        return {"state": state, "done": 0.0, "words": words, "seen": (state, total)}
    if total is not None:
        words = f"{row['committed']:,} of {words}"
    if row["failed"]:
        state = "failed"
    elif total is not None and row["committed"] >= total:
        state = "committed"
    elif watch.ended:
        state = watch.state if watch.state != "succeeded" else "not run"
    else:
        state = "running" if row["running"] or row["committed"] else "waiting"
    done = min(1.0, row["done"] / total) if total else 0.0
    return {"state": state, "done": done, "words": words, "seen": (state, row["committed"], row["running"], total)}


def plan_rows(node: StageNode) -> list[dict[str, Any]]:
    """Return a row per planned partition of a stage."""
    return [
        {
            "partition": part.get("id", ""),
            "weight": part.get("weight"),
            "planned worker": node.workers.get(part.get("id", ""), ""),
            "reads": len(part.get("inputs") or ()),
            "parameters": ", ".join(f"{name}={value}" for name, value in (part.get("params") or {}).items()),
        }
        for part in node.plan
    ]


def input_rows(node: StageNode) -> list[dict[str, Any]]:
    """Return a row per file or artifact that a stage reads, with how many partitions do."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for part in node.plan:
        for ref in part.get("inputs") or ():
            is_file = ref.get("type") == "input"
            name = ref.get("path", "") if is_file else f"{ref.get('stage')}/{ref.get('partition')}/{ref.get('name')}"
            row = found.setdefault(
                (str(ref.get("type")), str(name)),
                {
                    "what it reads": name,
                    "is": "input file" if is_file else "artifact",
                    "size_bytes": ref.get("size_bytes"),
                    "sha256": ref.get("sha256") or "",
                    "partitions": 0,
                },
            )
            row["partitions"] += 1
    return list(found.values())
