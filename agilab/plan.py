"""What a run is going to do: `WorkPlan`, `Stage`, `Partition` and their references; it runs nothing.

All of them are frozen values that go to JSON and back without loss.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agilab.errors import PlanError
from agilab.paths import NAME_PATTERN

if TYPE_CHECKING:
    from agilab.artifact import Artifact


_LONGEST_ID = 100


@dataclass(frozen=True, slots=True)
class InputRef:
    """A file that existed before the run.

    Parameters
    ----------
    name
        What the stage method finds it under, ``part.inputs[name]``.
    path
        POSIX path relative to the app's data root, or absolute.
    sha256
        Digest of its bytes; the manager fills it in before anything is dispatched.
    size_bytes
        Its size [bytes], -1 when it is not known; filled in with the digest, by `App.inputs` already when planning.
    """

    name: str
    path: str
    sha256: str = ""
    size_bytes: int = -1


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A named output of a partition of an earlier stage.

    Parameters
    ----------
    stage, partition, name
        Which artifact.
    sha256, size_bytes
        Digest and size [bytes]; the manager fills them in from the commit record.
    """

    stage: str
    partition: str
    name: str
    sha256: str = ""
    size_bytes: int = -1

    @property
    def key(self) -> str:
        """What the stage method finds it under: ``stage/partition/name``."""
        return f"{self.stage}/{self.partition}/{self.name}"


@dataclass(frozen=True, slots=True)
class Partition:
    """The unit of work that is sent to one worker.

    Parameters
    ----------
    id
        Unique in its run; up to 100 of letters, digits, ``_``, ``.``, ``-``;
        `partition_id` makes one from any text.
    stage
        Name of the stage whose method runs it; `Stage` fills it in.
    params
        What the method reads as ``part.params``; JSON values only.
    inputs
        What has to lie on the worker's disk before the method is called:
        `InputRef`, `ArtifactRef`, or an `Artifact` that `App.plan_stage` was
        given, which becomes its `ArtifactRef`.
    weight
        Expected cost, in any unit common to the plan; longest first.
    pin
        Name of the only worker that may run it, or of the host whose workers may; empty for any.
    resources
        What it occupies while it runs, such as ``{"gpu": 1}``.
    timeout_s
        Longest time one attempt may take [s]; None for no limit.
    """

    id: str
    stage: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[InputRef | ArtifactRef | Artifact] = ()
    weight: float = 1.0
    pin: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(map(_reference, self.inputs)))

    @property
    def references(self) -> tuple[InputRef | ArtifactRef, ...]:
        """The inputs, as the references they have become."""
        return self.inputs  # type: ignore[return-value]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "stage": self.stage,
            "params": dict(self.params),
            "inputs": [reference_to_json(ref) for ref in self.references],
            "weight": self.weight,
            "pin": self.pin,
            "resources": dict(self.resources),
            "timeout_s": self.timeout_s,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Partition:
        return cls(**{**value, "inputs": tuple(reference_from_json(ref) for ref in value["inputs"])})


@dataclass(frozen=True, slots=True)
class Stage:
    """A named step of a plan; the worker has a method of the same name.

    Parameters
    ----------
    name
        A Python identifier.
    partitions
        What to run; None when it is planned from the artifacts of earlier
        stages once those have ended (`App.plan_stage`).
    after
        Stages that must have ended before this one starts.
    retries
        How often a partition that raised or ran out of time is tried again.
    """

    name: str
    partitions: Sequence[Partition] | None = None
    after: Sequence[str] = ()
    retries: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", tuple([self.after] if isinstance(self.after, str) else self.after))
        if self.partitions is not None:
            object.__setattr__(self, "partitions", tuple(map(self._own, self.partitions)))

    def _own(self, part: Partition) -> Partition:
        return part if part.stage == self.name else replace(part, stage=self.name)

    @property
    def planned_later(self) -> bool:
        return self.partitions is None

    def to_json(self) -> dict[str, Any]:
        parts = None if self.partitions is None else [part.to_json() for part in self.partitions]
        return {"name": self.name, "partitions": parts, "after": list(self.after), "retries": self.retries}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Stage:
        parts = value["partitions"]
        return cls(
            name=value["name"],
            partitions=None if parts is None else tuple(Partition.from_json(part) for part in parts),
            after=tuple(value["after"]),
            retries=value["retries"],
        )


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """Stages in the order in which they were declared, checked when made.

    Parameters
    ----------
    stages
        What there is to do; a stage may come after those that stand before it.

    Raises
    ------
    PlanError
        A stage or partition has a bad or repeated name, waits for an unknown
        stage or for itself, or a partition asks for something that cannot be.
    """

    stages: Sequence[Stage]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        _check(self.stages)

    def stage(self, name: str) -> Stage:
        """Return the stage of that name; PlanError when there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise PlanError(f"no stage {name!r} in this plan; it has {', '.join(s.name for s in self.stages)}")

    def with_partitions(self, name: str, partitions: Iterable[Partition]) -> WorkPlan:
        """Return the plan with a later-planned stage filled in."""
        filled = replace(self.stage(name), partitions=tuple(partitions))
        return WorkPlan(tuple(filled if stage.name == name else stage for stage in self.stages))

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Every partition known so far, stage by stage."""
        return tuple(part for stage in self.stages for part in stage.partitions or ())

    def to_json(self) -> dict[str, Any]:
        return {"schema": "agilab.plan/1", "stages": [stage.to_json() for stage in self.stages]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WorkPlan:
        return cls(tuple(Stage.from_json(stage) for stage in value["stages"]))


def _reference(ref: InputRef | ArtifactRef | Artifact) -> InputRef | ArtifactRef:
    if isinstance(ref, InputRef | ArtifactRef):
        return ref
    try:
        return ArtifactRef(ref.stage, ref.partition, ref.name)
    except AttributeError:
        raise PlanError(
            f"an input of a partition is {ref!r:.80}; allowed: InputRef, ArtifactRef, or an Artifact of this run"
        ) from None


def partition_id(text: str) -> str:
    """Return a partition id for any text, such as the name of an input.

    Parameters
    ----------
    text
        Anything: paths, spaces, any alphabet.

    Returns
    -------
    str
        The text itself where it is allowed as an id. Otherwise what is not
        allowed becomes ``-``, and the head of the text's sha256 follows, so
        that different texts have different ids.
    """
    if NAME_PATTERN.fullmatch(text):
        return text
    short = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[: _LONGEST_ID - len(short) - 1]
    return f"{kept}-{short}" if kept else short


def reference_to_json(ref: InputRef | ArtifactRef) -> dict[str, Any]:
    """Write a reference as JSON, with ``type`` saying which of the two it is."""
    digest = {"sha256": ref.sha256, "size_bytes": ref.size_bytes}
    if isinstance(ref, InputRef):
        return {"type": "input", "name": ref.name, "path": ref.path, **digest}
    return {"type": "artifact", "stage": ref.stage, "partition": ref.partition, "name": ref.name, **digest}


def reference_from_json(value: Mapping[str, Any]) -> InputRef | ArtifactRef:
    """Read what `reference_to_json` wrote."""
    fields = {key: item for key, item in value.items() if key != "type"}
    return InputRef(**fields) if value["type"] == "input" else ArtifactRef(**fields)


def assign(
    partitions: Sequence[Partition],
    capacities: Mapping[str, float],
    *,
    hosts: Mapping[str, Sequence[str]] | None = None,
    near: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> dict[str, tuple[str, ...]]:
    """Spread partitions over workers, longest first, onto the worker that would finish soonest.

    Parameters
    ----------
    partitions
        What to spread; one that is pinned goes to its worker or stays on its host.
    capacities
        Worker name -> relative speed (> 0).
    hosts
        Host name -> its workers.
    near
        Partition id -> workers that have what it reads, where some have more of it than others; it goes to one of them.

    Returns
    -------
    dict
        Worker name -> partition ids in the order they should run. The same
        input always gives the same answer.

    Raises
    ------
    PlanError
        There is no worker, or a partition is pinned to what is not there.

    Notes
    -----
    Graham's longest-processing-time rule, with loads divided by capacity.
    """
    if not capacities:
        raise PlanError("no worker to assign partitions to; ask for at least one")
    there = hosts or {}
    check_pins(partitions, workers=capacities, hosts=there)
    groups: dict[tuple[str, ...], list[Partition]] = {}
    for part in sorted(partitions, key=lambda part: -part.weight):
        names = tuple(near.get(part.id, ()))
        if part.pin:
            names = (part.pin,) if part.pin in capacities else tuple(there[part.pin])
        groups.setdefault(names or tuple(capacities), []).append(part)
    chosen: dict[str, list[str]] = {name: [] for name in capacities}
    load = dict.fromkeys(capacities, 0.0)
    # The less a partition can choose, the earlier it does.
    for names, parts in sorted(groups.items(), key=lambda item: len(item[0])):
        heap = [(load[name], rank, name) for rank, name in enumerate(names)]
        heapq.heapify(heap)
        for part in parts:
            busy, rank, name = heap[0]
            chosen[name].append(part.id)
            load[name] = busy + part.weight / capacities[name]
            heapq.heapreplace(heap, (load[name], rank, name))
    return {name: tuple(ids) for name, ids in chosen.items()}


def check_pins(
    partitions: Iterable[Partition], *, workers: Collection[str], hosts: Mapping[str, Sequence[str]]
) -> None:
    """Refuse a partition that is pinned to what is neither a worker nor a host of the run."""
    for part in partitions:
        if part.pin and part.pin not in workers and not hosts.get(part.pin):
            where = f", on {', '.join(host for host in hosts if host)}" if any(hosts) else ""
            raise PlanError(
                f"partition {part.id!r} is pinned to {part.pin!r}, which is no worker and no host of this run; "
                f"there are {', '.join(workers)}{where}"
            )


def _check(stages: Sequence[Stage]) -> None:
    if not stages:
        raise PlanError("a plan needs at least one stage; App.plan returned none")
    ancestors: dict[str, set[str]] = {}
    ids: set[str] = set()
    for stage in stages:
        if not stage.name.isidentifier() or stage.name.startswith("_"):
            raise PlanError(f"stage {stage.name!r} is not a name a worker method can have; use letters, digits and _")
        if stage.name in ancestors:
            raise PlanError(f"stage {stage.name!r} stands twice in the plan; give each stage its own name")
        for before in stage.after:
            if before not in ancestors:
                raise PlanError(
                    f"stage {stage.name!r} waits for {before!r}, which is not an earlier stage; declare stages in order"
                )
        if stage.planned_later and not stage.after:
            raise PlanError(f"stage {stage.name!r} has no partitions and waits for no stage; give it one of the two")
        ended = set(stage.after).union(*(ancestors[before] for before in stage.after))
        ancestors[stage.name] = ended
        for part in stage.partitions or ():
            _check_partition(part, ids, ended)
            ids.add(part.id)


def _check_partition(part: Partition, ids: set[str], ended: set[str]) -> None:
    if not NAME_PATTERN.fullmatch(part.id):
        raise PlanError(
            f"partition id {part.id!r:.120} is not allowed; use up to 100 of letters, digits, '_', '.', '-', "
            "or make one with agilab.partition_id(text)"
        )
    if part.id in ids:
        raise PlanError(f"partition id {part.id!r} stands twice in the plan; ids are unique in a run")
    if not part.weight > 0:
        raise PlanError(f"partition {part.id!r} has weight {part.weight!r}; weights are above 0")
    if part.timeout_s is not None and not part.timeout_s > 0:
        raise PlanError(f"partition {part.id!r} has timeout_s {part.timeout_s!r}; timeouts are above 0 [s], or None")
    for ref in part.references:
        if isinstance(ref, ArtifactRef) and ref.stage not in ended:
            raise PlanError(
                f"partition {part.id!r} reads from stage {ref.stage!r}, which has not ended by then; "
                f"name it in after=... of stage {part.stage!r}"
            )
