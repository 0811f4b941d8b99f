"""Where a request is going to run, on which hosts and how fast they are; plans that are edited before the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, Run, Stage, manifest, markup
from agilab.backends.base import BACKENDS
from agilab.backends.entries import EntryPool, Launch
from agilab.backends.local import LocalBackend
from agilab.distribution import Distribution
from agilab.errors import AgilabError, PlanError, RequestError
from agilab.testing.probe import Bench, do, hashes, make_probe
from agilab.throughput import relative_speeds
from tests.run_folder import conform


class TwoHosts(LocalBackend):
    """The worker processes of `local`, named as if they were on two hosts."""

    capabilities = replace(LocalBackend.capabilities, needs_hosts=True)

    def worker_names(self, count: int, plan: Any = None, *, hosts: Any = None) -> tuple[str, ...]:
        return ("alpha-0", "alpha-1", "beta-0")[: max(count, 1)]

    def open(self, job: Any) -> EntryPool:
        return EntryPool(Launch.of(job), self.worker_names(1))


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
    folder = tmp_path_factory.mktemp("distribution")
    env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
    AGI.install(env)
    return env


@pytest.fixture
def bench(probe: AgiEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Return a bench on a machine with three slots, on two hosts if one believes their names."""
    monkeypatch.setenv("AGILAB_SLOTS", "3")
    monkeypatch.setitem(BACKENDS, "local", f"{__name__}:TwoHosts")  # type: ignore[arg-type]
    env = AgiEnv(probe.project.root, home=tmp_path / "home", wenv=probe.wenv.root)
    with Bench(env, "local", tmp_path, {"workers": 3}) as bench:
        yield bench


WORK = Stage("first", [replace(do(f"p{number}", ["write", "x", number]), weight=2.0) for number in range(6)])


def sizes(found: Distribution) -> dict[str, int]:
    return {name: len(ids) for name, ids in found.assignment["first"].items()}


def ran(run: Run) -> dict[str, str]:
    return {record["partition"]: record["worker"] for record in run.records()}


def test_a_plan_shows_hosts_with_their_slots_and_what_each_is_going_to_do(bench: Bench) -> None:
    found = AGI.get_distrib(bench.env, bench.request(WORK))
    assert found.hosts == {"alpha": {"alpha-0": 1.0, "alpha-1": 1.0}, "beta": {"beta-0": 1.0}}
    assert sizes(found) == {"alpha-0": 2, "alpha-1": 2, "beta-0": 2}


def test_this_machine_is_the_host_of_its_workers(
    probe: AgiEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGILAB_SLOTS", "2")
    bench = Bench(AgiEnv(probe.project.root, home=tmp_path, wenv=probe.wenv.root), "dask", tmp_path)
    found = AGI.get_distrib(bench.env, bench.request(WORK))
    assert found.hosts == {os.uname().nodename: {"dask-0": 1.0, "dask-1": 1.0}}
    elsewhere = bench.request(WORK, cluster={"scheduler": "tcp://there:8786"})
    assert list(AGI.get_distrib(bench.env, elsewhere).hosts) == [""]


def test_an_edited_plan_is_another_value_and_runs_as_it_says(bench: Bench) -> None:
    before = AGI.get_distrib(bench.env, bench.request(WORK))
    edited = before.edit(weights={"p0": 9}, pins={"p0": "beta-0", "p1": "alpha", "p2": "alpha"})
    assert (before.request.edits, before.plan.partitions[0].pin) == ({}, "")
    assert edited.assignment["first"]["beta-0"][0] == "p0"
    assert edited.request.digest != before.request.digest
    assert edited.edit(weights={"p0": 2.0}, pins=dict.fromkeys(("p0", "p1", "p2"), "")).request == before.request
    run = AGI.run(bench.env, edited.request).check()
    where = ran(run)
    assert where["p0"] == "beta-0"
    assert {where["p1"], where["p2"]} <= {"alpha-0", "alpha-1"}
    edits = {"p0": {"weight": 9.0, "pin": "beta-0"}, "p1": {"pin": "alpha"}, "p2": {"pin": "alpha"}}
    assert run.request["edits"] == run.manifest["request"]["edits"] == edits
    planned = json.loads(run.paths.plan("first").read_text())
    assert planned["partitions"][0]["weight"] == 9
    assert planned["assignment"] == edited.to_json()["assignment"]["first"]
    conform(run.manifest, "agilab.run/1")
    verified = manifest.verify(run.paths)
    assert verified.ok, verified.problems
    assert hashes(run) == hashes(AGI.run(bench.env, before.request).check())
    again = bench.env.request(file=run.paths.request)  # what `reproduce` says
    assert again.digest == edited.request.digest


def test_a_run_that_goes_on_keeps_its_edits(bench: Bench) -> None:
    gate = bench.folder / "tried"
    gate.mkdir()
    stage = Stage("first", [do("a", ["write", "x", 1]), do("b", ["raise_times", str(gate), 1, "value"])])
    edited = AGI.get_distrib(bench.env, bench.request(stage)).edit(pins={"a": "beta-0", "b": "alpha-1"})
    run = AGI.run(bench.env, edited.request)
    assert run.state == "failed"
    run = AGI.resume(bench.env, run.run_id).check()
    assert ran(run) == {"a": "beta-0", "b": "alpha-1"}
    assert run.manifest["request"]["edits"] == {"a": {"pin": "beta-0"}, "b": {"pin": "alpha-1"}}


def test_the_manifest_says_what_was_planned_for_each_worker_and_what_it_has_done(bench: Bench) -> None:
    run = bench.run(WORK).check()
    [stage] = run.manifest["stages"]
    assert [share["worker"] for share in stage["workers"]] == ["alpha-0", "alpha-1", "beta-0"]
    assert [share["planned"] for share in stage["workers"]] == [2, 2, 2]
    done = [list(ran(run).values()).count(share["worker"]) for share in stage["workers"]]
    assert [share["committed"] for share in stage["workers"]] == done
    shown = run._repr_html_()
    assert shown.count("<td") == 6 * 3
    assert f"succeeded: run {run.run_id} of probe in " in shown
    assert all(share["busy_s"] > 0 and share["host"] for share in stage["workers"] if share["committed"])


@pytest.mark.parametrize(
    ("edit", "kind", "said"),
    [
        (
            {"pins": {"p0": "gamma"}},
            PlanError,
            "pinned to 'gamma', which is no worker and no host of this run; there are",
        ),
        ({"pins": {"nobody": "alpha"}}, PlanError, "an edit names partition 'nobody'"),
        ({"weights": {"p0": 0}}, RequestError, "the weight of partition 'p0' is 0; allowed: a number above 0"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(bench: Bench, edit: Any, kind: type[AgilabError], said: str) -> None:
    with pytest.raises(kind) as caught:
        AGI.get_distrib(bench.env, bench.request(WORK)).edit(**edit)
    assert said in str(caught.value)


def test_only_weight_and_pin_of_a_written_plan_may_be_edited(bench: Bench) -> None:
    found = AGI.get_distrib(bench.env, bench.request(WORK)).edit(weights={"p5": 7})
    value = json.loads(json.dumps(found.to_json()))
    assert found.edit_as(value) == found
    value["plan"]["stages"][0]["partitions"][0]["pin"] = "beta"
    assert found.edit_as(value).request.edits == {"p0": {"pin": "beta"}, "p5": {"weight": 7.0}}
    for name, other, said in (
        ("later", ["second"], "later of the edited plan is not what it would be now"),
        ("more", 1, "more of the edited plan"),
        ("assignment", {"first": {"alpha-0": ["p0"]}}, "pin a partition to move it"),
        ("hosts", {"alpha": {"alpha-0": 1.0}}, "pin a partition to move it"),
        ("hosts", 3, "pin a partition to move it"),
    ):
        with pytest.raises(PlanError) as caught:
            found.edit_as({**value, name: other})
        assert said in str(caught.value)


def test_a_distribution_shows_itself_in_a_notebook_in_the_colours_of_the_page(bench: Bench) -> None:
    found = AGI.get_distrib(bench.env, bench.request(WORK)).edit(pins={"p0": "alpha"})
    shown = found._repr_html_()
    assert "probe on local: 6 partitions, 0 input files" in shown
    assert [name in shown for name in ("alpha-1", "beta-0", "edited partition")] == [True] * 3
    for outside in ("<style", "<script", "http", "class=", "#", "rgb"):
        assert outside not in shown
    assert markup.table(("<b>",), [["<script>"]] * 21).count("<script>") == 0
    assert "... and 1 more" in markup.table(("<b>",), [["<script>"]] * 21)


# --- how fast hosts are ---------------------------------------------------------


def test_a_host_that_was_faster_is_planned_to_do_more_and_results_stay(bench: Bench) -> None:
    request = bench.request(WORK)
    run = AGI.run(bench.env, request).check()
    file = bench.env.home.cache / "throughput" / "probe.json"
    AGI.get_distrib(bench.env, request)
    known = json.loads(file.read_text())
    assert list(known["runs"]) == [run.run_id]
    share = {"weight": 6.0, "busy_s": 1.0}
    known["runs"][run.run_id]["stages"] = {"first": {"alpha-0": share, "beta-0": {**share, "busy_s": 3.0}}}
    file.write_text(json.dumps(known))
    found = AGI.get_distrib(bench.env, request)
    assert found.hosts == {"alpha": {"alpha-0": 2.0, "alpha-1": 2.0}, "beta": {"beta-0": 0.667}}
    assert sizes(found) == {"alpha-0": 3, "alpha-1": 2, "beta-0": 1}
    assert AGI.get_distrib(bench.env, request) == found
    again = AGI.run(bench.env, request).check()
    assert hashes(again) == hashes(run)
    planned = json.loads(again.paths.plan("first").read_text())["assignment"]
    assert planned == found.to_json()["assignment"]["first"]
    file.unlink()  # it is made again, from the run folders
    AGI.get_distrib(bench.env, request)
    assert list(json.loads(file.read_text())["runs"]) == [run.run_id, again.run_id]


def test_speeds_are_relative_to_an_average_host_whatever_the_unit_of_weights() -> None:
    def shares(**hosts: tuple[float, float]) -> dict[str, dict[str, float]]:
        return {host: {"weight": weight, "busy_s": busy_s} for host, (weight, busy_s) in hosts.items()}

    one = {"rows": shares(alpha=(3e6, 1.0), beta=(1e6, 1.0)), "last": shares(beta=(1.0, 9.0))}
    assert relative_speeds([one]) == {"alpha": 1.5, "beta": 0.5}
    other = {"small": shares(alpha=(0.003, 1.0), beta=(0.001, 1.0))}
    assert relative_speeds([one, other]) == {"alpha": 1.5, "beta": 0.5}
    assert relative_speeds([{"rows": shares(alpha=(1.0, 1.0))}]) == {}
