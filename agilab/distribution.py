"""`Distribution`: what a request is going to do, where, and what of that may be changed before it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agilab import edits, installation, markup, slots, throughput
from agilab.backends.base import backend
from agilab.env import AgiEnv
from agilab.errors import PlanError
from agilab.inputs import InputHasher
from agilab.plan import InputRef, WorkPlan, assign
from agilab.request import RunRequest

SCHEMA = "agilab.distribution/1"

Assignment = Mapping[str, Mapping[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a request is going to do, before anything runs; a value: editing it gives another one.

    Parameters
    ----------
    request
        The request.
    own
        The work plan as the app made it.
    plan
        The same with the edits of the request.
    inputs
        What the run reads, with digest and size [bytes].
    hosts
        Host -> worker on it -> capacity, its relative speed; the host is empty where only the run will tell.
    assignment
        Stage -> worker -> partition ids in their planned order; a hint that balancing may overrule.
    later
        Stages that are planned when those before them have ended.
    matches
        `Input` setting -> the files that it matches, with size [bytes].
    """

    request: RunRequest
    own: WorkPlan
    plan: WorkPlan
    inputs: tuple[InputRef, ...]
    hosts: Mapping[str, Mapping[str, float]]
    assignment: Assignment
    later: tuple[str, ...]
    matches: Mapping[str, tuple[InputRef, ...]]

    def edit(
        self, *, weights: Mapping[str, float] | None = None, pins: Mapping[str, str] | None = None
    ) -> Distribution:
        """Return a distribution with other weights and pins; run its ``request``.

        Parameters
        ----------
        weights
            Partition id -> expected cost.
        pins
            Partition id -> the worker or host that has to run it, empty for any.

        Raises
        ------
        PlanError
            There is no such partition, worker or host.
        RequestError
            A weight is not above 0.

        Examples
        --------
        >>> edited = AGI.get_distrib(env, request).edit(weights={"p0": 3})  # doctest: +SKIP
        >>> run = AGI.run(env, edited.request)  # doctest: +SKIP
        """
        changed = {ident: dict(edit) for ident, edit in self.request.edits.items()}
        for name, values in (("weight", weights or {}), ("pin", pins or {})):
            for ident, value in values.items():
                changed.setdefault(ident, {})[name] = value
        return self._with(edits.differing(self.own, changed))

    def edit_as(self, value: Mapping[str, Any]) -> Distribution:
        """Return a distribution with the weights and pins of one that `to_json` wrote and somebody edited.

        Raises
        ------
        PlanError
            Anything else in it is not what it would be now, or a pin names what is not there.
        """
        now = self.to_json()
        for name in [*now, *value]:
            if name not in ("plan", "hosts", "assignment") and value.get(name, edits) != now.get(name, edits):
                raise PlanError(f"{name} of the edited plan is not what it would be now; {edits.AGAIN}")
        found = edits.read(self.own, value.get("plan"))
        try:
            before = {host: dict(workers) for host, workers in value["hosts"].items()}
            same = _assign(self.plan, before) == _tuples(value["assignment"])
        except (PlanError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            same = False
        if not same:
            raise PlanError(
                "hosts or assignment of the edited plan differ from what follows from it; only weight and pin can be "
                "edited: pin a partition to move it"
            )
        return self._with(found)

    def _with(self, changed: edits.Edits) -> Distribution:
        plan = edits.apply(self.own, changed)
        return replace(
            self,
            request=replace(self.request, edits=changed),
            plan=plan,
            assignment=_assign(plan, self.hosts),
        )

    def _repr_html_(self) -> str:
        """Show the distribution at the end of a notebook cell: per stage, what each slot is going to do."""
        weights = {part.id: part.weight for part in self.plan.partitions}
        rows = [
            (stage, host, worker, speed, len(workers[worker]), float(sum(weights[ident] for ident in workers[worker])))
            for stage, workers in self.assignment.items()
            for host, there in self.hosts.items()
            for worker, speed in there.items()
        ]
        later = f"planned later, from what earlier stages leave: {', '.join(self.later)}" if self.later else ""
        parts, files = len(self.plan.partitions), len(self.inputs)
        return markup.frame(
            f"{self.request.app} on {self.request.cluster['backend']}: {parts:,} partitions, {files:,} input files",
            markup.table(("stage", "host", "slot", "capacity", "partitions", "load"), rows),
            markup.table(
                ("edited partition", "weight", "pin"),
                ((part.id, part.weight, part.pin) for part in self.plan.partitions if part.id in self.request.edits),
            ),
            markup.line(later),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "plan": self.plan.to_json(),
            "inputs": [{"path": ref.path, "sha256": ref.sha256, "size_bytes": ref.size_bytes} for ref in self.inputs],
            "hosts": {host: dict(workers) for host, workers in self.hosts.items()},
            "assignment": {
                stage: {worker: list(ids) for worker, ids in workers.items()}
                for stage, workers in self.assignment.items()
            },
            "later": list(self.later),
            "matches": {
                name: [{"path": ref.path, "size_bytes": ref.size_bytes} for ref in refs]
                for name, refs in self.matches.items()
            },
        }


def distribute(env: AgiEnv, request: RunRequest) -> Distribution:
    """Plan a request without running it: see `AGI.get_distrib`."""
    root = installation.require_data(env.project, env.home)
    refs, own = env.planner.plan(request.settings)
    plan = edits.apply(own, request.edits)
    runs_on = backend(request.cluster["backend"])
    runs_on.check(plan.partitions, timeout_s=request.cluster["timeout_s"])
    more = [ref for part in plan.partitions for ref in part.inputs if isinstance(ref, InputRef)]
    hashed = InputHasher(env.home.cache / "hashes.json").hash([*refs, *more], root)
    cores, asked = slots.machine(os.environ)["cpu"], request.cluster["workers"]
    named = asked if isinstance(asked, Mapping) else None
    most = sum(named.values()) if named is not None else min(asked or cores, cores)
    workers = runs_on.worker_names(most, plan, hosts=named)
    speeds = throughput.capacities(env.home, env.project.name, runs_on, workers=workers, cluster=request.cluster)
    hosts = {
        host: {worker: speeds[worker] for worker in names}
        for host, names in runs_on.hosts(workers, request.cluster).items()
    }
    return Distribution(
        request=request,
        own=own,
        plan=plan,
        inputs=tuple(
            replace(InputRef(path, path), sha256=item.sha256, size_bytes=item.size_bytes)
            for path, item in sorted(hashed.items())
        ),
        hosts=hosts,
        assignment=_assign(plan, hosts),
        later=tuple(stage.name for stage in plan.stages if stage.planned_later),
        matches={
            name: tuple(InputRef(path, path, size_bytes=(root / path).stat().st_size) for path in paths)
            for name, paths in env.planner.input_matches(request.settings).items()
        },
    )


def _assign(plan: WorkPlan, hosts: Mapping[str, Mapping[str, float]]) -> Assignment:
    capacities = {worker: speed for workers in hosts.values() for worker, speed in workers.items()}
    slots_of = {host: tuple(workers) for host, workers in hosts.items()}
    return {
        stage.name: assign(stage.partitions, capacities, hosts=slots_of)
        for stage in plan.stages
        if stage.partitions is not None
    }


def _tuples(value: Mapping[str, Mapping[str, Any]]) -> Assignment:
    return {stage: {worker: tuple(ids) for worker, ids in workers.items()} for stage, workers in value.items()}
