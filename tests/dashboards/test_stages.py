"""Stages as a graph with states, from plans and run folders, without a server."""

from __future__ import annotations

from pathlib import Path

from agilab_dashboards.live import Watch
from agilab_dashboards.stages import StageNode, input_rows, of_plan, of_run, placed, plan_rows, states

from agilab.plan import Partition, Stage, WorkPlan
from agilab.run import Run
from tests.run_folder import RunFolder, sealed_run


def test_a_stage_stands_behind_all_that_it_waits_for() -> None:
    nodes = [StageNode("a"), StageNode("b"), StageNode("c", ("a",)), StageNode("d", ("a", "c")), StageNode("e", ("b",))]
    assert placed(nodes) == {"a": (0, 0), "b": (0, 1), "c": (1, 0), "d": (2, 0), "e": (1, 1)}
    assert set(placed([StageNode("a", ("b",)), StageNode("b", ("a",))])) == {"a", "b"}, "a damaged plan"


def test_a_plan_that_nobody_runs_has_stages_too() -> None:
    plan = WorkPlan((Stage("make", (Partition("p", params={"n": 1}),)), Stage("later", after=("make",))))
    nodes = of_plan(plan)
    assert [(node.name, node.after, node.partitions) for node in nodes] == [("make", (), 1), ("later", ("make",), None)]
    assert {name: one["state"] for name, one in states(nodes, None).items()} == {"make": "planned", "later": "planned"}
    assert plan_rows(nodes[0])[0]["parameters"] == "n=1"


def test_states_follow_the_events_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, partitions=2)
    folder.plan()
    folder.commit("tracks", "p0", files={"points": b"1"})
    folder.log.sync()
    run = Run(folder.paths)
    watch = Watch(run).look()
    found = states(of_run(run), watch)
    assert {name: one["state"] for name, one in found.items()} == {"tracks": "lost", "summary": "not run"}
    assert found["tracks"]["words"] == "1 of 2 partitions"


def test_a_sealed_run_tells_plan_and_inputs_of_each_stage(tmp_path: Path) -> None:
    run = Run(sealed_run(tmp_path))
    nodes = {node.name: node for node in of_run(run)}
    assert list(nodes) == ["tracks", "summary"]
    assert nodes["summary"].after == ("tracks",)
    assert [row["planned worker"] for row in plan_rows(nodes["tracks"])] == ["local-0", "local-1", "local-0"]
    assert [(row["what it reads"], row["partitions"]) for row in input_rows(nodes["tracks"])] == [("flights.csv", 3)]
    assert {row["is"] for row in input_rows(nodes["summary"])} == {"artifact"}
