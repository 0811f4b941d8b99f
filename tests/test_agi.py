"""`AGI`: what a request is going to do, and runs that go on without the process that began them."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, InputRef, Run, Stage, manifest
from agilab.agi import Distribution
from agilab.backends.inline import forget
from agilab.errors import AgilabError, DataError, RequestError, RunFailedError, RunNotFoundError, RunStateError
from agilab.owner import probe_owner, read_owner
from agilab.testing.probe import Bench, do, is_alive, make_probe, processes_marked, wait_until
from tests.survey import MANAGER, make_survey

LOST_S = 5.0
"""How long a run may seem alive after its supervisor was killed [s]."""
GONE_S = 10.0
"""How long anything of it may go on [s]."""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
    """Return an installed probe; its AGILAB_WENV is shared by the module."""
    folder = tmp_path_factory.mktemp("agi")
    env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
    AGI.install(env)
    return env


@pytest.fixture
def bench(probe: AgiEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Return a bench whose runs are the test's own, on a machine with two slots."""
    monkeypatch.setenv("AGILAB_SLOTS", "2")
    env = AgiEnv(probe.project.root, home=tmp_path / "home", wenv=probe.wenv.root)
    with Bench(env, "local", tmp_path) as bench:
        yield bench
        for run in env.runs.list():  # what a test that failed has left going
            run.cancel()
            run.wait(30)


@pytest.fixture
def survey(probe: AgiEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgiEnv]:
    monkeypatch.setenv("AGILAB_SLOTS", "2")
    forget("survey", "")
    yield AgiEnv(make_survey(tmp_path), home=tmp_path / "home", wenv=probe.wenv.root)
    forget("survey", "")


def refusal(call: Callable[[], Any], kind: type[AgilabError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def submitted(bench: Bench, *stages: Stage) -> Run:
    """Submit from a process that exits at once; return the run."""
    with bench.elsewhere(bench.request(*stages), "submit") as process:
        assert process.stdout is not None
        run_id = process.stdout.read().decode().strip()
    assert process.returncode == 0
    return bench.env.runs.get(run_id)


# --- get_distrib ---


def test_a_distribution_says_what_is_going_to_happen(survey: AgiEnv) -> None:
    found = AGI.get_distrib(survey, survey.request())
    assert [stage.name for stage in found.plan.stages] == ["lines", "total"]
    assert found.later == ("total",)
    assert [(ref.path, ref.size_bytes) for ref in found.inputs] == [("tables/a.csv", 4), ("tables/b.csv", 6)]
    assert [len(ref.sha256) for ref in found.inputs] == [64, 64]
    assert found.assignment == {"lines": {"local-0": ("p0",), "local-1": ("p1",)}}
    assert {name: [(ref.path, ref.size_bytes) for ref in refs] for name, refs in found.matches.items()} == {
        "tables": [("tables/a.csv", 4), ("tables/b.csv", 6)]
    }
    assert not survey.home.runs.exists()
    assert not survey.wenv.package("survey").exists()


def test_a_distribution_is_json(survey: AgiEnv) -> None:
    shown = json.loads(json.dumps(AGI.get_distrib(survey, survey.request()).to_json()))
    assert shown["schema"] == "agilab.distribution/1"
    assert [(item["path"], item["size_bytes"]) for item in shown["inputs"]] == [
        ("tables/a.csv", 4),
        ("tables/b.csv", 6),
    ]
    assert shown["assignment"] == {"lines": {"local-0": ["p0"], "local-1": ["p1"]}}
    assert shown["later"] == ["total"]
    assert shown["matches"]["tables"][0] == {"path": "tables/a.csv", "size_bytes": 4}


@pytest.mark.parametrize(
    ("cluster", "workers"),
    [
        ({"workers": 1}, {"local-0"}),
        ({"workers": 9}, {"local-0", "local-1"}),
        ({"backend": "inline", "workers": 2}, {"inline-0"}),
    ],
)
def test_the_assignment_names_the_workers_that_the_run_will_have(
    survey: AgiEnv, cluster: dict[str, Any], workers: set[str]
) -> None:
    request = survey.request(cluster=cluster)
    found = AGI.get_distrib(survey, request)
    assert set(found.assignment["lines"]) == workers
    run = AGI.run(survey, request).check()
    assert set(run.manifest["backend"]["workers"]) == workers
    recorded = json.loads(run.paths.plan("lines").read_text())
    assert recorded["assignment"] == found.to_json()["assignment"]["lines"]
    planned = found.plan.to_json()["stages"][0]["partitions"]
    assert [part["id"] for part in recorded["partitions"]] == [part["id"] for part in planned]
    assert run.metrics["total"] == 5


def test_an_input_that_is_missing_is_named_before_anything_runs(survey: AgiEnv) -> None:
    manager = survey.project.manager / "__init__.py"
    manager.write_text(
        MANAGER.replace("for number, path in enumerate(paths)", 'for number, path in enumerate(["none.csv"])')
    )
    said = refusal(lambda: AGI.get_distrib(survey, survey.request()), DataError)
    assert said.startswith(f"input none.csv cannot be read in {survey.project.root}: No such file or directory")


def test_an_app_with_a_data_set_is_planned_after_it_was_installed(tmp_path: Path) -> None:
    env = AgiEnv("flight_telemetry", home=tmp_path / "home", wenv=tmp_path / "wenv")
    said = refusal(lambda: AGI.get_distrib(env, env.request()), DataError)
    assert said == ("the data set of flight_telemetry is not on this machine yet; run agilab install flight_telemetry")


def test_only_a_request_is_run(survey: AgiEnv) -> None:
    for verb in (AGI.get_distrib, AGI.run, AGI.submit):
        said = refusal(lambda verb=verb: verb(survey, {"count": 5}), RequestError)  # type: ignore[misc, arg-type]
        assert said.startswith("a dict is not a request; make one with env.request(")
    assert not survey.home.runs.exists()


def test_a_distribution_without_inputs_is_empty_where_there_is_nothing(bench: Bench) -> None:
    found = AGI.get_distrib(bench.env, bench.request(Stage("first", [do("a")])))
    assert isinstance(found, Distribution)
    assert (found.inputs, found.matches, found.later) == ((), {}, ())


def test_inputs_of_partitions_are_part_of_a_distribution(bench: Bench) -> None:
    file = bench.folder / "rows.txt"
    file.write_text("12345")
    stage = Stage("first", [replace(do("a"), inputs=(InputRef("rows", str(file)),))])
    [ref] = AGI.get_distrib(bench.env, bench.request(stage)).inputs
    assert (ref.path, ref.size_bytes) == (str(file), 5)


# --- code that changed ---


@pytest.mark.parametrize("verb", [AGI.run, AGI.submit])
def test_code_that_changed_since_the_request_does_not_run(survey: AgiEnv, verb: Callable[[AgiEnv, Any], Run]) -> None:
    request = survey.request()
    worker = survey.project.worker / "__init__.py"
    worker.write_text(worker.read_text() + "# edited\n")
    run = verb(survey, request).wait(30)
    assert run.state == "failed"
    assert "the code of survey has changed since the request was made" in str(run.error)
    assert manifest.verify(run.paths).ok


# --- submit ---


def test_a_submitted_run_outlives_the_process_that_began_it(bench: Bench) -> None:
    gate, begun = bench.folder / "gate", bench.folder / "begun"
    run = submitted(bench, Stage("first", [do("a", ["touch", str(begun)], ["wait", str(gate)], ["write", "x", 1])]))
    wait_until(begun.exists)
    assert run.state == "running"
    owner = read_owner(run.paths)
    assert owner is not None
    assert os.getsid(owner["pid"]) != os.getsid(0)
    with pytest.raises(RunStateError, match="is still running after"):
        run.wait(timeout_s=0.01)
    seen = run.events(follow=True)
    assert next(seen)["event"] == "created"
    gate.touch()
    names = [event["event"] for event in seen]
    assert names[-1] == "state"
    assert "committed" in names
    assert run.check() is run
    assert run.artifact("x").read_text() == "1\n"
    assert list(run.events())[-1]["state"] == "sealing"
    assert manifest.verify(run.paths).ok
    wait_until(lambda: not is_alive(owner["pid"]))
    assert processes_marked(run.run_id) == []


def test_a_submitted_run_is_cancelled_by_anyone_as_often_as_they_like(bench: Bench) -> None:
    run = submitted(bench, Stage("first", [do("hang", ["hang", str(bench.folder / "pids")])]))
    pids = bench.pids("pids")
    bench.env.runs.get(run.run_id).cancel()
    assert AGI.cancel(bench.env, run.run_id).state == "cancelled"
    assert AGI.cancel(bench.env, "last").state == "cancelled"
    run.cancel()
    assert [event["outcome"] for event in run.events() if event.get("state") == "sealing"] == ["cancelled"]
    assert not any(map(is_alive, pids))
    assert not run.paths.staging.exists()
    assert manifest.verify(run.paths).ok


def test_cancelling_a_run_that_has_succeeded_changes_nothing(bench: Bench) -> None:
    run = bench.run(Stage("first", [do("a", ["write", "x", 1])])).check()
    before = run.paths.sums.read_bytes()
    assert AGI.cancel(bench.env, run.run_id).state == "succeeded"
    assert run.paths.sums.read_bytes() == before
    assert manifest.verify(run.paths).ok
    assert "no run '2020" in refusal(lambda: AGI.cancel(bench.env, "20200101-000000-0000"), RunNotFoundError)


def test_a_run_whose_supervisor_is_killed_is_lost_and_leaves_nothing_running(bench: Bench) -> None:
    """F6."""
    run = submitted(bench, Stage("first", [do("hang", ["hang", str(bench.folder / "pids")])]))
    pids = bench.pids("pids")
    owner = read_owner(run.paths)
    assert owner is not None
    os.kill(owner["pid"], signal.SIGKILL)
    wait_until(lambda: run.state == "lost", LOST_S)
    wait_until(lambda: not any(map(is_alive, pids)) and not processes_marked(run.run_id), GONE_S)
    assert probe_owner(run.paths) == "free"
    assert run.wait(1).state == "lost"
    assert list(run.events(follow=True))[-1]["event"] != "sealing"
    assert f"run {run.run_id} was lost: the process that ran it has gone" in refusal(run.check, RunFailedError)
    assert "has no manifest" in refusal(lambda: run.manifest, RunStateError)
    again = bench.run(Stage("first", [do("a")]))  # slots of the lost run are free
    assert again.state == "succeeded"


@pytest.mark.parametrize("reads", [True, False])
def test_a_supervisor_that_does_not_start_is_said_with_its_log(
    survey: AgiEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\n{'cat > /dev/null' if reads else ''}\necho no luck today >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    survey.fields()
    request = survey.request()
    monkeypatch.setattr(sys, "executable", str(broken))
    said = refusal(lambda: AGI.submit(survey, request), RunStateError)
    run = survey.runs.get("last")
    log = run.paths.logs / "supervisor.log"
    assert said == f"run {run.run_id} did not start; see {log}"
    assert log.read_text() == "no luck today\n"
    assert run.state == "lost"


def test_a_submitted_run_that_fails_keeps_its_traceback(bench: Bench) -> None:
    run = submitted(bench, Stage("first", [do("bad", ["raise", "value"])])).wait(30)
    assert run.state == "failed"
    assert "in raise_it" in run.logs("supervisor")
    assert f"agilab debug {run.run_id} bad" in run.logs("supervisor")
    assert manifest.verify(run.paths).ok
