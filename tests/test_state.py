"""Every order of events can be replayed: what the state machine answers is checked against what must always hold."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agilab import ArtifactRef, InputRef, Partition, Stage, WorkPlan
from agilab.errors import PlanError
from agilab.state import Dispatch, EndStage, Finish, Instruction, PlanStage, Retry, RunState, StartStage


def parts(*names: str, **fields: object) -> list[Partition]:
    return [Partition(name, **fields) for name in names]  # type: ignore[arg-type]


def dispatched(answer: Sequence[Instruction]) -> list[tuple[str, str]]:
    """List partition and worker of the dispatches of an answer."""
    return [(step.partition.id, step.worker) for step in answer if isinstance(step, Dispatch)]


def finish(answer: Sequence[Instruction]) -> Finish | None:
    return next((step for step in answer if isinstance(step, Finish)), None)


def started(plan: WorkPlan, *workers: str, devices: Mapping[str, Sequence[int]] | None = None) -> RunState:
    state = RunState(plan, dict.fromkeys(workers, 1.0), devices={"": devices or {}})
    state.start()
    return state


def test_a_pin_names_a_worker_or_a_host_whose_workers_share_what_is_pinned_there() -> None:
    pinned = [Partition(name, pin=pin) for name, pin in (("a", "alpha"), ("b", "alpha"), ("c", "beta-0"), ("d", ""))]
    hosts = {"alpha": ("alpha-0", "alpha-1"), "beta": ("beta-0",)}
    workers = dict.fromkeys(("alpha-0", "alpha-1", "beta-0"), 1.0)
    state = RunState(WorkPlan([Stage("one", pinned)]), workers, hosts=hosts)
    [start] = state.start()
    assert isinstance(start, StartStage)
    assert start.assignment == {"alpha-0": ("a", "d"), "alpha-1": ("b",), "beta-0": ("c",)}
    assert dispatched(state.wanted("alpha-1", 2)) == [("a", "alpha-1"), ("b", "alpha-1")]
    assert dispatched(state.wanted("beta-0", 2)) == [("c", "beta-0"), ("d", "beta-0")]
    assert dispatched(state.failed("b", "died", "lost")) == []
    assert dispatched(state.wanted("beta-0")) == []
    assert dispatched(state.wanted("alpha-0")) == [("b", "alpha-0")]


# --- one thing at a time ------------------------------------------------------


def test_a_stage_is_recorded_before_its_first_dispatch_and_the_next_one_waits() -> None:
    plan = WorkPlan([Stage("one", parts("a")), Stage("two", parts("b"), after="one")])
    state = RunState(plan, {"w": 1.0})
    assert [type(step) for step in state.start()] == [StartStage]
    assert dispatched(state.wanted("w", 2)) == [("a", "w")]
    answer = state.committed("a")
    assert [type(step) for step in answer] == [EndStage, StartStage, Dispatch]
    assert finish(state.committed("b")) == Finish("succeeded")


def test_each_worker_gets_what_was_planned_for_it_and_then_helps_the_busiest() -> None:
    weights = {"a": 8.0, "b": 7.0, "c": 6.0, "d": 1.0, "e": 1.0}
    plan = WorkPlan([Stage("one", [Partition(name, weight=weight) for name, weight in weights.items()])])
    state = RunState(plan, {"w0": 1.0, "w1": 1.0})
    [start] = state.start()
    assert isinstance(start, StartStage)
    assert start.assignment == {"w0": ("a", "d", "e"), "w1": ("b", "c")}
    assert dispatched(state.wanted("w0")) == [("a", "w0")]
    assert dispatched(state.wanted("w1")) == [("b", "w1")]
    state.committed("a")
    assert dispatched(state.wanted("w0")) == [("d", "w0")]
    state.committed("d")
    assert dispatched(state.wanted("w0")) == [("e", "w0")]
    state.committed("e")
    assert dispatched(state.wanted("w0")) == [("c", "w0")]


ON_HOSTS = {"alpha": ("a0",), "beta": ("b0", "b1")}
THERE = ("a0", "b0", "b1")


def reading(ident: str, *names: str) -> Partition:
    """Return a partition that reads artifacts of stage ``one``."""
    return Partition(ident, inputs=[ArtifactRef("one", name, "rows") for name in names])


def second_stage(*partitions: Partition) -> RunState:
    """Return a state where ``p`` has left 10 bytes on alpha, ``q`` 9 and ``r`` 2 on beta, at the start of stage two."""
    plan = WorkPlan([Stage("one", [Partition(name) for name in "pqr"]), Stage("two", partitions, after="one")])
    state = RunState(plan, dict.fromkeys(THERE, 1.0), hosts=ON_HOSTS)
    state.start()
    for (name, size), worker in zip({"p": 10, "q": 9, "r": 2}.items(), THERE, strict=True):
        assert dispatched(state.wanted(worker)) == [(name, worker)]
        state.left(worker, {f"one/{name}/rows": size})
    for name in "pqr":
        state.committed(name)
    return state


@pytest.mark.parametrize(
    ("reads", "workers"),
    [("p", ["a0"]), ("q", ["b0", "b1"]), ("pq", ["a0"]), ("pqr", ["b0", "b1"]), ("", list(THERE))],
)
def test_a_partition_is_planned_for_the_host_with_most_of_its_bytes(reads: str, workers: list[str]) -> None:
    state = second_stage(*(reading(f"x{number}", *reads) for number in range(6)))
    planned = state.assignment(state.plan.stage("two"))
    assert {worker for worker, ids in planned.items() if ids} == set(workers)
    counts = [len(planned[worker]) for worker in workers]
    assert max(counts) - min(counts) <= 1


def test_a_worker_that_is_free_takes_what_would_wait_for_another_and_not_what_is_taken_at_once() -> None:
    state = second_stage(reading("x0", "p"), reading("x1", "p"))
    assert dispatched(state.wanted("b0")) == [("x0", "b0")], "a0 is busy, and b0 does not wait for it"
    assert dispatched(state.wanted("a0")) == [("x1", "a0")]

    state = RunState(
        WorkPlan([Stage("one", [Partition("p")]), Stage("two", [reading("x", "p")], after="one")]),
        dict.fromkeys(THERE, 1.0),
        hosts=ON_HOSTS,
    )
    state.start()
    state.wanted("a0", 2)
    state.wanted("b0")
    state.left("a0", {"one/p/rows": 10})
    assert dispatched(state.committed("p")) == [("x", "a0")], "both were free"


def test_what_was_brought_to_a_host_counts_there_too() -> None:
    big = InputRef("big", "big", size_bytes=100)
    plan = WorkPlan(
        [Stage("one", [Partition("p", inputs=[big])]), Stage("two", [Partition("x", inputs=[big])], after="one")]
    )
    state = RunState(plan, dict.fromkeys(THERE, 1.0), hosts=ON_HOSTS)
    state.start()
    assert dispatched(state.wanted("b1")) == [("p", "b1")]
    state.committed("p")
    planned = state.assignment(plan.stage("two"))
    assert planned["a0"] == ()
    assert planned["b0"] + planned["b1"] == ("x",)


def test_a_demand_is_kept_until_there_is_work() -> None:
    plan = WorkPlan([Stage("one", parts("a")), Stage("two", parts("b", "c"), after="one")])
    state = started(plan, "w0", "w1")
    assert dispatched(state.wanted("w0")) == [("a", "w0")]
    assert dispatched(state.wanted("w1")) == []
    assert dispatched(state.wanted("w0")) == []
    assert sorted(dispatched(state.committed("a"))) == [("b", "w0"), ("c", "w1")]


def test_a_stage_without_partitions_ends_at_once() -> None:
    state = RunState(WorkPlan([Stage("one", []), Stage("two", [], after="one")]), {"w": 1.0})
    assert finish(state.start()) == Finish("succeeded")


def test_a_stage_is_planned_later_when_those_before_have_ended() -> None:
    plan = WorkPlan([Stage("one", parts("a")), Stage("two", after="one")])
    state = started(plan, "w")
    state.wanted("w", 2)
    assert state.committed("a") == [EndStage("one"), PlanStage("two")]
    answer = state.planned("two", parts("b"))
    assert [type(step) for step in answer] == [StartStage, Dispatch]
    assert finish(state.committed("b")) == Finish("succeeded")
    assert [part.id for part in state.plan.partitions] == ["a", "b"]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Partition("x", pin="nobody"), "pinned to 'nobody', which is no worker and no host of this run"),
        (Partition("x", resources={"gpu": 3}), "'x' asks for 3 gpu; this machine offers 2"),
        (Partition("x", resources={"licence": 1}), "'x' asks for 1 licence; this machine offers 0"),
    ],
)
def test_what_no_worker_can_run_is_refused_before_anything_is_dispatched(part: Partition, said: str) -> None:
    workers = {"w0": 1.0, "w1": 1.0}
    plan = WorkPlan([Stage("one", parts("a")), Stage("two", [part], after="one")])
    with pytest.raises(PlanError, match=said):
        RunState(plan, workers, devices={"": {"gpu": (0, 1)}})
    state = RunState(
        WorkPlan([Stage("one", parts("a")), Stage("two", after="one")]), workers, devices={"": {"gpu": (0, 1)}}
    )
    state.start()
    state.wanted("w0")
    state.committed("a")
    with pytest.raises(PlanError, match=said):
        state.planned("two", [part])
    assert finish(state.fail("it cannot be planned")) == Finish("failed", "it cannot be planned")


# --- failures --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "retries", "attempts"),
    [
        ("exception", 0, 1),
        ("exception", 3, 4),
        ("timeout", 0, 1),
        ("timeout", 1, 2),
        ("protocol", 0, 1),
        ("memory", 0, 2),
        ("memory", 3, 4),
        ("died", 0, 3),
        ("died", 5, 3),
    ],
)
def test_how_often_a_partition_is_tried_depends_on_why_it_failed(reason: str, retries: int, attempts: int) -> None:
    state = started(WorkPlan([Stage("one", parts("a"), retries=retries)]), "w")
    for attempt in range(1, attempts + 1):
        [(_, _)] = dispatched(state.wanted("w")) or dispatched([])  # one worker, which wants again each time
        assert state.running["a"].attempt == attempt
        answer = state.failed("a", reason, "it broke")
        assert [type(step) for step in answer] == ([Retry] if attempt < attempts else [Finish])
    tried = f" (attempt {attempts}, on {', '.join(['w'] * attempts)})" if attempts > 1 else ""
    assert answer == [Finish("failed", f"partition 'a' of stage 'one' failed: it broke{tried}")]


def test_reasons_are_counted_apart() -> None:
    state = started(WorkPlan([Stage("one", parts("a"), retries=1)]), "w")
    for reason in ("died", "exception", "died", "memory"):
        state.wanted("w")
        assert state.failed("a", reason, "it broke") == [Retry("a")]
    state.wanted("w")
    assert finish(state.failed("a", "exception", "it broke")) is not None


def test_a_retry_goes_to_another_worker_that_is_free() -> None:
    state = started(WorkPlan([Stage("one", parts("a"))]), "w0", "w1")
    assert dispatched(state.wanted("w0")) == [("a", "w0")]
    state.wanted("w1")
    state.worker_gone("w0")
    assert dispatched(state.failed("a", "died", "killed")) == [("a", "w1")]


def test_a_worker_that_has_gone_gets_nothing_until_it_wants_again() -> None:
    state = started(WorkPlan([Stage("one", parts("a"))]), "w")
    assert dispatched(state.wanted("w", 2)) == [("a", "w")]
    state.worker_gone("w")
    assert state.failed("a", "died", "killed") == [Retry("a")]
    assert dispatched(state.wanted("w")) == [("a", "w")]


def test_after_a_final_failure_what_runs_may_finish_and_the_first_error_stands() -> None:
    plan = WorkPlan([Stage("one", parts("a", "b", "c", "d")), Stage("two", parts("e"), after="one")])
    state = started(plan, "w0", "w1", "w2")
    for worker in ("w0", "w1", "w2"):
        state.wanted(worker)
    first, second, third = list(state.running)
    assert state.failed(first, "exception", "first") == []
    assert state.wanted("w0") == []
    assert state.failed(second, "died", "second") == []
    [end] = state.committed(third)
    assert end == Finish("failed", f"partition '{first}' of stage 'one' failed: first")


def test_a_refused_partition_is_not_tried_again() -> None:
    state = started(WorkPlan([Stage("one", parts("a"), retries=5)]), "w")
    state.wanted("w")
    assert state.refused("a", "its input has changed") == [
        Finish("failed", "partition 'a' of stage 'one' failed: its input has changed")
    ]


def test_a_returned_partition_was_no_attempt() -> None:
    state = started(WorkPlan([Stage("one", parts("a", "b"))]), "w")
    state.wanted("w", 2)
    state.worker_gone("w")
    state.failed("a", "died", "killed")
    assert state.returned("b") == []
    assert sorted(dispatched(state.wanted("w", 2))) == [("a", "w"), ("b", "w")]
    assert (state.running["a"].attempt, state.running["b"].attempt) == (2, 1)


def test_a_cancelled_run_waits_for_nothing_and_ends_once() -> None:
    state = started(WorkPlan([Stage("one", parts("a", "b"))]), "w")
    state.wanted("w")
    assert state.cancel() == [Finish("cancelled")]
    assert state.cancel() == []
    assert state.running == {}
    assert state.wanted("w") == []


def test_a_run_that_is_failing_can_still_be_cancelled() -> None:
    state = started(WorkPlan([Stage("one", parts("a", "b"))]), "w0", "w1")
    state.wanted("w0")
    state.wanted("w1")
    state.failed("a", "exception", "it broke")
    assert state.cancel() == [Finish("cancelled")]


# --- devices ------------------------------------------------------------------------


def test_devices_are_given_by_number_and_come_back() -> None:
    gpu = {"resources": {"gpu": 1}}
    plan = WorkPlan([Stage("one", [*parts("a", "b", "c", **gpu), Partition("free")])])
    state = started(plan, "w0", "w1", "w2", "w3", devices={"gpu": (4, 7)})
    given = [step for worker in ("w0", "w1", "w2", "w3") for step in state.wanted(worker)]
    assert {step.partition.id: step.devices for step in given if isinstance(step, Dispatch)} == {
        "a": {"gpu": (4,)},
        "b": {"gpu": (7,)},
        "free": {},
    }
    [again] = state.committed("b")
    assert isinstance(again, Dispatch)
    assert (again.partition.id, again.devices) == ("c", {"gpu": (7,)})


def test_devices_belong_to_hosts_and_partitions_go_where_theirs_are() -> None:
    gpu = {"resources": {"gpu": 1}}
    plan = WorkPlan([Stage("one", [*parts("a", "b", "c", **gpu), *parts("free")])])
    hosts = {"alpha": ("alpha-0", "alpha-1"), "beta": ("beta-0", "beta-1")}
    workers = dict.fromkeys((*hosts["alpha"], *hosts["beta"]), 1.0)
    state = RunState(plan, workers, hosts=hosts, devices={"alpha": {}, "beta": {"gpu": (0, 1)}})
    planned = state.assignment(plan.stages[0])
    assert {*planned["beta-0"], *planned["beta-1"]} >= {"a", "b", "c"}
    state.start()
    given = [step for worker in workers for step in state.wanted(worker)]
    assert [(step.partition.id, step.worker, step.devices) for step in given if isinstance(step, Dispatch)] == [
        ("free", "alpha-0", {}),
        ("a", "beta-0", {"gpu": (0,)}),
        ("b", "beta-1", {"gpu": (1,)}),
    ]
    assert state.wanted("alpha-0") == []
    state.wanted("beta-0")
    [again] = state.committed("b")
    assert isinstance(again, Dispatch)
    assert (again.partition.id, again.worker, again.devices) == ("c", "beta-0", {"gpu": (1,)})


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (
            Partition("x", resources={"gpu": 3}),
            "host alpha offers 0, host beta offers 2; set AGILAB_RESOURCES",
        ),
        (Partition("x", resources={"gpu": 1}, pin="alpha"), "'x' asks for 1 gpu; host alpha offers 0"),
        (Partition("x", resources={"gpu": 1, "licence": 1}), "asks for 1 gpu, 1 licence"),
    ],
)
def test_what_no_host_has_is_refused_with_what_each_has(part: Partition, sentence: str) -> None:
    hosts = {"alpha": ("alpha-0",), "beta": ("beta-0",)}
    devices = {"alpha": {"licence": (0,)}, "beta": {"gpu": (0, 1)}}
    with pytest.raises(PlanError, match=sentence):
        RunState(WorkPlan([Stage("one", [part])]), {"alpha-0": 1.0, "beta-0": 1.0}, hosts=hosts, devices=devices)


def test_devices_of_another_kind_can_come_later() -> None:
    state = started(WorkPlan([Stage("one", parts("a")), Stage("two", after="one")]), "w")
    state.wanted("w", 2)
    state.committed("a")
    state.offer({"gpu": (3,)})
    assert dispatched(state.planned("two", parts("b", resources={"gpu": 1}))) == [("b", "w")]


# --- speed ------------------------------------------------------------------------------


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Keep the garbage of earlier tests from being looked through meanwhile, which takes half a second."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("resources", [{}, {"gpu": 1}])
def test_ten_thousand_partitions_are_dispatched_in_a_second_at_a_flat_cost(
    resources: dict[str, int], no_collection: None
) -> None:
    plan = WorkPlan([Stage("one", [Partition(f"p{number}", resources=resources) for number in range(10_000)])])
    workers = [f"w{number}" for number in range(8)]
    begun = time.process_time()
    state = started(plan, *workers, devices={"gpu": (0,)})
    running = [pair for worker in workers for pair in dispatched(state.wanted(worker))]
    seconds, done = [], 0
    while running:
        part, worker = running.pop()
        running += dispatched(state.committed(part))
        running += dispatched(state.wanted(worker))
        done += 1
        if done % 2500 == 0:
            seconds.append(time.process_time() - begun - sum(seconds))
    assert done == 10_000
    assert state.outcome == "succeeded"
    assert sum(seconds) < 2.0
    assert seconds[-1] < 3 * min(seconds) + 0.02


# --- any order --------------------------------------------------------------------------------


@dataclass
class World:
    """Drives a state machine and checks after every answer what must always hold."""

    plan: WorkPlan
    later: Mapping[str, list[Partition]]
    workers: tuple[str, ...]
    devices: Mapping[str, tuple[int, ...]]
    on_hosts: bool = False
    running: dict[str, Dispatch] = field(default_factory=dict)
    committed: list[str] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    finish: Finish | None = None
    doomed: bool = False

    def __post_init__(self) -> None:
        hosts = {f"h{number}": self.workers[number::2] for number in range(2)} if self.on_hosts else {}
        self.state = RunState(self.plan, dict.fromkeys(self.workers, 1.0), devices={"": self.devices}, hosts=hosts)
        self.take(self.state.start())

    def take(self, answer: Sequence[Instruction]) -> None:
        """Carry out an answer, as the supervisor would."""
        todo = list(answer)
        while todo:
            assert self.finish is None, f"{todo} after the end"
            step = todo.pop(0)
            match step:
                case Dispatch():
                    self.dispatch(step)
                case PlanStage():
                    assert set(self.plan.stage(step.stage).after) <= set(self.ended)
                    todo += self.state.planned(step.stage, self.later[step.stage])
                case StartStage():
                    assert step.stage.name not in self.started
                    assert set(step.stage.after) <= set(self.ended)
                    self.started.append(step.stage.name)
                case EndStage():
                    mine = {part.id for part in self.state.plan.stage(step.stage).partitions or ()}
                    assert mine <= set(self.committed)
                    self.ended.append(step.stage)
                case Finish():
                    assert not self.running or step.outcome == "cancelled"
                    self.finish = step

    def dispatch(self, step: Dispatch) -> None:
        part = step.partition
        assert not self.doomed
        assert part.id not in self.running
        assert part.id not in self.committed
        assert part.stage in self.started
        assert step.worker == (part.pin or step.worker)
        assert step.attempt == self.attempts.get(part.id, 0) + 1
        assert {name: len(numbers) for name, numbers in step.devices.items()} == dict(part.resources)
        self.attempts[part.id] = step.attempt
        self.running[part.id] = step
        for name, there_are in self.devices.items():
            taken = [number for run in self.running.values() for number in run.devices.get(name, ())]
            assert len(taken) == len(set(taken))
            assert set(taken) <= set(there_are)


PLANNED = st.lists(
    st.tuples(
        st.integers(0, 5),  # how many partitions
        st.booleans(),  # planned later
        st.integers(0, 7),  # after which of the stages before
        st.integers(0, 2),  # retries
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    workers = tuple(f"w{number}" for number in range(draw(st.integers(1, 3))))
    devices = {"gpu": tuple(range(draw(st.integers(1, 2))))}
    stages: list[Stage] = []
    later: dict[str, list[Partition]] = {}
    for place, (count, planned_later, mask, retries) in enumerate(draw(PLANNED)):
        name = f"s{place}"
        made = [
            Partition(
                f"{name}.{number}",
                stage=name,
                weight=draw(st.sampled_from([0.5, 1.0, 4.0])),
                pin=draw(st.sampled_from(["", "", "", *workers])),
                resources=draw(st.sampled_from([{}, {}, {"gpu": 1}, {"gpu": len(devices["gpu"])}])),
                inputs=draw(st.sampled_from([(), (InputRef("a", "a", size_bytes=9),), (InputRef("b", "b"),)])),
            )
            for number in range(count)
        ]
        after = tuple(stage.name for bit, stage in enumerate(stages) if mask >> bit & 1)
        if planned_later and after:
            later[name] = made
            stages.append(Stage(name, after=after, retries=retries))
        else:
            stages.append(Stage(name, made, after=after, retries=retries))
    return World(WorkPlan(stages), later, workers, devices, on_hosts=draw(st.booleans()))


REASONS = ["exception", "timeout", "died", "memory", "protocol"]


@settings(max_examples=300, deadline=None)
@given(worlds(), st.data())
def test_in_any_order_of_events_everything_is_committed_once_or_the_run_fails(
    world: World, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(0, 60))):
        if world.finish is not None:
            break
        worker = data.draw(st.sampled_from(world.workers))
        event = data.draw(st.sampled_from(["wanted", "wanted", "committed", "committed", "failed", "returned", "gone"]))
        if event == "wanted":
            world.take(world.state.wanted(worker, data.draw(st.integers(1, 2))))
        elif event == "gone":
            world.take(world.state.worker_gone(worker))
        elif world.running:
            part = data.draw(st.sampled_from(sorted(world.running)))
            answer_to(world, part, event, data.draw(st.sampled_from(REASONS)))
    while world.finish is None:  # from here on all goes well: nothing may be forgotten
        before = len(world.committed)
        for worker in world.workers:
            if world.finish is None:
                world.take(world.state.wanted(worker))
        for part in sorted(world.running):
            answer_to(world, part, "committed", "")
        assert len(world.committed) > before or world.finish is not None, "nothing moves any more"
    assert world.state.outcome == world.finish.outcome
    assert len(world.committed) == len(set(world.committed))
    if world.doomed:
        assert world.finish.outcome == "failed"
        assert "it broke" in str(world.finish.error)
    else:
        assert world.finish == Finish("succeeded")
        assert set(world.committed) == {part.id for part in world.state.plan.partitions}
        assert set(world.ended) == {stage.name for stage in world.plan.stages}


def answer_to(world: World, part: str, event: str, reason: str) -> None:
    """Tell the state machine how an attempt ended."""
    del world.running[part]
    if event == "committed":
        world.committed.append(part)
        world.take(world.state.committed(part))
    elif event == "returned":
        world.attempts[part] -= 1
        world.take(world.state.returned(part))
    else:
        answer = world.state.failed(part, reason, "it broke")
        if Retry(part) not in answer:
            world.doomed = True
        world.take(answer)
