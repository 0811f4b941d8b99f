"""What a run does next: a pure state machine, events in, instructions out; no I/O and no clock.

The supervisor tells it what happened (`worker_ready`, `wanted`,
`committed`, `failed`, ...) and carries out what it answers. So every order
of events, however unlikely, can be replayed in a test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agilab.errors import PlanError
from agilab.plan import ArtifactRef, InputRef, Partition, Stage, WorkPlan, assign, check_pins

RETRIES_AFTER_DEATH = 2
RETRIES_AFTER_MEMORY = 1


@dataclass(frozen=True, slots=True)
class PlanStage:
    """Ask the app for the partitions of a stage whose predecessors have ended."""

    stage: str


@dataclass(frozen=True, slots=True)
class StartStage:
    """Record the plan of a stage durably: its first dispatch comes after this."""

    stage: Stage
    assignment: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class EndStage:
    """Every partition of a stage has committed."""

    stage: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send one attempt at a partition to a worker, with the devices it may use."""

    partition: Partition
    worker: str
    attempt: int
    devices: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Retry:
    """An attempt has failed and the partition will be tried again."""

    partition: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing runs and nothing will: close the run with this outcome."""

    outcome: str
    error: str | None = None


Instruction = PlanStage | StartStage | EndStage | Dispatch | Retry | Finish


@dataclass(slots=True)
class _Running:
    partition: Partition
    worker: str
    attempt: int
    devices: dict[str, tuple[int, ...]]


@dataclass(slots=True)
class _Track:
    """How often a partition was tried, and why an attempt failed."""

    attempts: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)


class _Queue:
    """Partitions that wait for a worker, in planned order.

    Those that occupy the same devices stand in one line, so that finding the
    first one that fits costs the same however many wait.
    """

    __slots__ = ("_back", "_front", "_lines")

    def __init__(self) -> None:
        self._lines: dict[tuple[tuple[str, int], ...], deque[tuple[int, Partition]]] = {}
        self._front = self._back = 0

    def put(self, part: Partition) -> None:
        self._back += 1
        self._line(part).append((self._back, part))

    def put_first(self, part: Partition) -> None:
        self._front -= 1
        self._line(part).appendleft((self._front, part))

    def take(self, free: Mapping[str, Sequence[int]]) -> Partition | None:
        best: tuple[tuple[str, int], ...] | None = None
        for needs, line in self._lines.items():
            if (best is None or line[0][0] < self._lines[best][0][0]) and all(
                len(free.get(name, ())) >= count for name, count in needs
            ):
                best = needs
        if best is None:
            return None
        _, part = self._lines[best].popleft()
        if not self._lines[best]:
            del self._lines[best]
        return part

    def _line(self, part: Partition) -> deque[tuple[int, Partition]]:
        return self._lines.setdefault(tuple(part.resources.items()) if part.resources else (), deque())


class _Places:
    """Which host has which bytes, as far as this run has put them there; of one host it has nothing to say."""

    __slots__ = ("_held", "_hosts", "_sizes")

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self._hosts = dict(hosts)
        self._held: dict[str, set[str]] = {}
        self._sizes: dict[str, int] = {}

    def add(self, worker: str, sizes: Mapping[str, int]) -> None:
        if worker in self._hosts:
            for key, size_bytes in sizes.items():
                self._held.setdefault(key, set()).add(self._hosts[worker])
                self._sizes[key] = size_bytes

    def bring(self, worker: str, part: Partition) -> None:
        """What a partition reads is brought to the host of its worker."""
        if worker in self._hosts:
            self.add(worker, {_key(ref): self._sizes.get(_key(ref), ref.size_bytes) for ref in part.references})

    def nearest(self, part: Partition) -> list[str]:
        """List the workers on hosts with most of the bytes that a partition reads; none when no host has any."""
        if not self._held:
            return []
        there: dict[str, int] = {}
        for key in map(_key, part.references):
            for host in self._held.get(key, ()):
                there[host] = there.get(host, 0) + max(1, self._sizes[key])
        most = max(there.values(), default=0)
        return [worker for worker, host in self._hosts.items() if most and there.get(host) == most]

    def away_from(self, worker: str) -> Collection[str]:
        """Return the workers that are on other hosts than this one."""
        host = self._hosts.get(worker)
        return {name for name, its in self._hosts.items() if its != host}


def _key(ref: InputRef | ArtifactRef) -> str:
    return ref.path if isinstance(ref, InputRef) else ref.key


class RunState:
    """Decide what runs where, what is tried again, and when a run has ended.

    Parameters
    ----------
    plan
        The work plan; stages planned later have no partitions yet.
    workers
        Worker name -> relative speed.
    hosts
        Host name -> its workers, as far as that is known.
    devices
        Host name -> its countable resources, such as ``{"gpu": (0, 1)}``; those under an empty name are for all workers
        that have no host with some.
    committed
        Partitions that an earlier attempt at the run has committed.
    attempts
        Partition -> how often earlier attempts at the run have dispatched it; their failures do not count any more.

    Raises
    ------
    PlanError
        A partition asks for more of a resource than there is, or for a worker that is not there.
    """

    def __init__(
        self,
        plan: WorkPlan,
        workers: Mapping[str, float],
        *,
        hosts: Mapping[str, Sequence[str]] | None = None,
        devices: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
        committed: Collection[str] = (),
        attempts: Mapping[str, int] | None = None,
    ) -> None:
        self.plan = plan
        self.outcome: str | None = None
        self._workers = dict(workers)
        self._hosts = dict(hosts or {})
        self._host_of = {name: host for host, names in self._hosts.items() for name in names}
        found = {"": {}, **(devices or {})}
        self._there_are = {at: {name: len(numbers) for name, numbers in kinds.items()} for at, kinds in found.items()}
        self._free = {at: {name: list(numbers) for name, numbers in kinds.items()} for at, kinds in found.items()}
        self._queues = {name: _Queue() for name in workers}
        self._loads = dict.fromkeys(workers, 0.0)
        self._pinned = {name: _Queue() for name in (*workers, *self._hosts)}
        self._demand: dict[str, int] = dict.fromkeys(workers, 0)
        self._places = _Places(self._host_of if len(self._hosts) > 1 else {})
        self._committed = frozenset(committed)
        self._assigned: dict[str, dict[str, tuple[str, ...]]] = {}
        self._tracks = {partition: _Track(count) for partition, count in (attempts or {}).items()}
        self._running: dict[str, _Running] = {}
        self._remaining: dict[str, int] = {}
        self._started: set[str] = set()
        self._ended: set[str] = set()
        self._error: str | None = None
        self._stopping = ""
        self._check(plan.partitions)

    @property
    def running(self) -> Mapping[str, _Running]:
        """Partitions that were dispatched and have not come back."""
        return self._running

    def start(self) -> list[Instruction]:
        """Start the stages that wait for nothing."""
        return self._advance()

    def offer(self, devices: Mapping[str, Sequence[int]]) -> None:
        """Take in devices of this machine, of kinds that the run has not had so far."""
        for name, numbers in devices.items():
            self._there_are[""][name] = len(numbers)
            self._free[""][name] = list(numbers)

    def planned(self, stage: str, partitions: Iterable[Partition]) -> list[Instruction]:
        """Take in the partitions of a stage that was planned late; PlanError as when the state is made."""
        plan = self.plan.with_partitions(stage, partitions)
        self._check(plan.stage(stage).partitions or ())
        self.plan = plan
        return self._begin(plan.stage(stage)) + self._advance()

    def left(self, worker: str, sizes: Mapping[str, int]) -> None:
        """Take in what a worker has written: ``stage/partition/name`` -> size [bytes]."""
        self._places.add(worker, sizes)

    def wanted(self, worker: str, count: int = 1) -> list[Instruction]:
        """A worker can take `count` more partitions."""
        self._demand[worker] += count
        return self._serve()

    def committed(self, partition: str) -> list[Instruction]:
        """The record of a partition is durable."""
        done = self._take_back(partition)
        stage = done.partition.stage
        self._remaining[stage] -= 1
        return self._advance() + self._serve()

    def failed(self, partition: str, reason: str, message: str) -> list[Instruction]:
        """An attempt has failed, for `reason` ``exception``, ``timeout``, ``died``, ``memory`` or ``protocol``."""
        lost = self._take_back(partition)
        track = self._tracks[partition]
        track.failures[reason] = track.failures.get(reason, 0) + 1
        if not self._stopping and track.failures[reason] <= self._allowed(lost.partition, reason):
            self._enqueue(lost.partition, avoid=lost.worker)
            return [Retry(partition), *self._serve()]
        if not self._stopping:
            self._stopping = "failed"
            self._error = self._sentence(lost.partition, message)
        return self._advance()

    def refused(self, partition: str, message: str) -> list[Instruction]:
        """A partition cannot be given what it reads, or could not be sure of it; trying again would not help."""
        lost = self._take_back(partition)
        if not self._stopping:
            self._stopping = "failed"
            self._error = self._sentence(lost.partition, message)
        return self._advance()

    def returned(self, partition: str) -> list[Instruction]:
        """A partition that was sent ahead comes back untouched; that was no attempt."""
        back = self._take_back(partition)
        self._tracks[partition].attempts -= 1
        self._tracks[partition].workers.pop()
        if not self._stopping:
            self._enqueue(back.partition)
        return self._advance() + self._serve()

    def worker_gone(self, worker: str) -> list[Instruction]:
        """A worker has ended; what it could take, it takes no longer."""
        self._demand[worker] = 0
        return []

    def cancel(self) -> list[Instruction]:
        """Stop for good: nothing more is dispatched, what runs is dropped."""
        self._stopping = "cancelled"
        self._error = None
        self._running.clear()
        return self._advance()

    def fail(self, message: str) -> list[Instruction]:
        """Stop because of something outside any partition; what runs may finish."""
        if not self._stopping:
            self._stopping, self._error = "failed", message
        return self._advance()

    def _allowed(self, partition: Partition, reason: str) -> int:
        if reason == "died":
            return RETRIES_AFTER_DEATH
        if reason == "memory":
            return max(RETRIES_AFTER_MEMORY, self.plan.stage(partition.stage).retries)
        return self.plan.stage(partition.stage).retries

    def _sentence(self, partition: Partition, message: str) -> str:
        track = self._tracks[partition.id]
        tried = f" (attempt {track.attempts}, on {', '.join(track.workers)})" if track.attempts > 1 else ""
        return f"partition {partition.id!r} of stage {partition.stage!r} failed: {message}{tried}"

    def _take_back(self, partition: str) -> _Running:
        run = self._running.pop(partition)
        free = self._free_for(run.worker)
        for name, numbers in run.devices.items():
            free[name] = sorted([*free[name], *numbers])
        return run

    def _advance(self) -> list[Instruction]:
        """Start what can start, end what has ended, and finish when nothing is left."""
        answer: list[Instruction] = []
        moved = True
        while moved and not self._stopping:
            moved = False
            for stage in self.plan.stages:
                if stage.name not in self._started and self._ended.issuperset(stage.after):
                    moved = True
                    self._started.add(stage.name)
                    answer += [PlanStage(stage.name)] if stage.planned_later else self._begin(stage)
            for name in [name for name, count in self._remaining.items() if not count]:
                del self._remaining[name]
                self._ended.add(name)
                answer.append(EndStage(name))
                moved = True
        if self.outcome is None and not self._running:
            if self._stopping:
                self.outcome = self._stopping
                answer.append(Finish(self.outcome, self._error))
            elif len(self._ended) == len(self.plan.stages):
                self.outcome = "succeeded"
                answer.append(Finish(self.outcome))
        return answer

    def assignment(self, stage: Stage) -> dict[str, tuple[str, ...]]:
        """Return worker -> partition ids of a stage, as they are planned to run; balancing may overrule it."""
        if stage.name not in self._assigned:
            parts = self._open(stage)
            near = {part.id: workers for part in parts if (workers := self._suited(part))}
            self._assigned[stage.name] = assign(parts, self._workers, hosts=self._hosts, near=near)
        return self._assigned[stage.name]

    def _suited(self, part: Partition) -> list[str]:
        """List the workers that a partition is planned for: with its devices, near its bytes; none for any."""
        near = self._places.nearest(part)
        if not part.resources or len(self._there_are) == 1:
            return near
        able = self._able(part)
        return [worker for worker in able if worker in near] or able

    def _open(self, stage: Stage) -> list[Partition]:
        """List the partitions of a stage that no earlier attempt at the run has committed."""
        return [part for part in stage.partitions or () if part.id not in self._committed]

    def _begin(self, stage: Stage) -> list[Instruction]:
        partitions = self._open(stage)
        if stage.partitions and not partitions:  # an earlier attempt at the run has ended it
            self._ended.add(stage.name)
            return []
        planned = self.assignment(stage)
        by_id = {part.id: part for part in partitions}
        for worker, ids in planned.items():
            for part_id in ids:
                part = by_id[part_id]
                (self._pinned[part.pin] if part.pin else self._queues[worker]).put(part)
                self._loads[worker] += 0.0 if part.pin else part.weight
        self._remaining[stage.name] = len(partitions)
        return [StartStage(stage, planned), *self._serve()]

    def _check(self, partitions: Iterable[Partition]) -> None:
        partitions = tuple(partitions)
        check_pins(partitions, workers=self._workers, hosts=self._hosts)
        for part in partitions:
            if part.resources and not self._able(part):
                asked = ", ".join(f"{count} {name}" for name, count in part.resources.items())
                where = "there" if self._there_are.keys() - {""} else "if it has them"
                raise PlanError(
                    f"partition {part.id!r} asks for {asked}; {self._offers(part)}; set AGILAB_RESOURCES such as "
                    f"{','.join(f'{name}={count}' for name, count in part.resources.items())} {where}"
                )

    def _able(self, part: Partition) -> list[str]:
        """List the workers at a place that has all the devices which a partition asks for, free or not."""
        able = []
        for worker in self._workers:
            there_are = self._there_are[self._place_of(worker)]
            may = not part.pin or part.pin in (worker, self._host_of.get(worker))
            if may and all(there_are.get(name, 0) >= count for name, count in part.resources.items()):
                able.append(worker)
        return able

    def _offers(self, part: Partition) -> str:
        """Say what every place has of what a partition asks for."""
        said = []
        for place in dict.fromkeys(map(self._place_of, self._workers)):
            kinds = self._there_are[place]
            offer = ", ".join(str(kinds.get(name, 0)) for name in part.resources)
            said.append(f"{f'host {place}' if place else 'this machine'} offers {offer}")
        return ", ".join(said)

    def _place_of(self, worker: str) -> str:
        """Return the key in `_there_are` and `_free` for a worker."""
        host = self._host_of.get(worker, "")
        return host if host in self._there_are else ""

    def _free_for(self, worker: str) -> dict[str, list[int]]:
        """Return the devices that are free where a worker is."""
        return self._free[self._place_of(worker)]

    def _enqueue(self, part: Partition, avoid: str = "") -> None:
        """Put a partition at the head of a queue, on another worker than `avoid` where there is one."""
        if part.pin:
            self._pinned[part.pin].put_first(part)
            return
        worker = min((name for name in self._queues if name != avoid), key=self._loads.__getitem__, default=avoid)
        worker = worker or next(iter(self._queues))
        self._queues[worker].put_first(part)
        self._loads[worker] += part.weight

    def _serve(self) -> list[Instruction]:
        """Give every worker that asks what is planned for it; who asks then still, what would wait for another.

        So a partition runs where its bytes are if a worker there is free, and
        no worker stays idle for the sake of that.
        """
        answer: list[Instruction] = []
        if self._stopping:
            return answer
        for worker in self._demand:
            answer += self._give(worker, self._take_own)
        for worker in self._demand:
            answer += self._give(worker, self._take_shared)
            if self._demand[worker] and len(self._free) == 1:  # there is nothing for the others either
                break
        return answer

    def _give(self, worker: str, take: Callable[[str], Partition | None]) -> Iterator[Dispatch]:
        while self._demand[worker] and (part := take(worker)) is not None:
            self._demand[worker] -= 1
            yield self._dispatch(part, worker)

    def _take_own(self, worker: str) -> Partition | None:
        free = self._free_for(worker)
        found = self._pinned[worker].take(free)
        if found is None and worker in self._host_of:
            found = self._pinned[self._host_of[worker]].take(free)
        return found if found is not None else self._take_from(worker, free)

    def _take_shared(self, worker: str) -> Partition | None:
        """Take from the worker with most left, first from those on the same host."""
        away, free = self._places.away_from(worker), self._free_for(worker)
        for name in sorted(self._queues, key=lambda name: (name in away, -self._loads[name])):
            found = self._take_from(name, free)
            if found is not None:
                return found
        return None

    def _take_from(self, name: str, free: Mapping[str, Sequence[int]]) -> Partition | None:
        found = self._queues[name].take(free)
        if found is not None:
            self._loads[name] -= found.weight
        return found

    def _dispatch(self, part: Partition, worker: str) -> Dispatch:
        track = self._tracks.setdefault(part.id, _Track())
        track.attempts += 1
        track.workers.append(worker)
        devices: dict[str, tuple[int, ...]] = {}
        free = self._free_for(worker)
        for name, count in part.resources.items():
            devices[name] = tuple(free[name][:count])
            del free[name][:count]
        self._places.bring(worker, part)
        self._running[part.id] = _Running(part, worker, track.attempts, devices)
        return Dispatch(part, worker, track.attempts, devices)
