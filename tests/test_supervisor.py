"""Whatever happens in a run, its folder is sealed once, with one outcome that everything agrees on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, Run, Stage, manifest
from agilab.backends.base import backend
from agilab.errors import RunStateError
from agilab.owner import hold_owner
from agilab.paths import write_json
from agilab.supervisor import Execution, supervise
from agilab.testing import Bench, do, make_probe, processes_marked
from agilab.testing.probe import events


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
    folder = tmp_path_factory.mktemp("supervisor")
    env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
    AGI.install(env)
    return env


@pytest.fixture(params=["local", "inline"])
def bench(probe: AgiEnv, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    env = AgiEnv(probe.project.root, home=tmp_path / "home", wenv=probe.wenv.root)
    with Bench(env, request.param, tmp_path) as made:
        yield made


def check_sealed_once(run: Run, state: str) -> None:
    assert run.state == state
    assert events(run, "state")[-1]["outcome"] == state
    assert run.manifest["state"] == state
    assert not run.paths.staging.exists()
    assert processes_marked(run.run_id) == []


WRITES = Stage("first", [do("a", ["write", "x", 1])])


@pytest.mark.parametrize("error", [ValueError("no listener"), SystemExit(0), BrokenPipeError()])
@pytest.mark.parametrize("at", ["created", "dispatched", "state"])
def test_a_listener_that_raises_fails_the_run_which_is_sealed_all_the_same(
    bench: Bench, error: BaseException, at: str
) -> None:
    def listen(event: Mapping[str, Any]) -> None:
        if event["event"] == at:
            raise error

    run = bench.run(WRITES, on_event=listen)
    check_sealed_once(run, "failed")
    assert f"AGILAB itself failed: {type(error).__name__}" in str(run.error)
    assert "in listen" in run.logs("supervisor")
    assert manifest.verify(run.paths).ok


def test_what_a_stage_planned_later_has_committed_is_kept_when_the_run_breaks(bench: Bench) -> None:
    def listen(event: Mapping[str, Any]) -> None:
        if event["event"] == "committed" and event["stage"] == "second":
            raise ValueError("no listener")

    run = bench.run(WRITES, Stage("second", after="first"), on_event=listen)
    check_sealed_once(run, "failed")
    assert [item.name for item in run.artifacts()] == ["x", "read"]
    assert [stage["committed"] for stage in run.manifest["stages"]] == [1, 1]
    assert manifest.verify(run.paths).ok


def test_a_queued_run_can_be_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    if not backend(bench.backend).capabilities.parallel:
        return  # it never queues: `BackendTests` says so
    monkeypatch.setenv("AGILAB_SLOTS", "1")
    gate = bench.folder / "gate"
    one = bench.start(Stage("first", [do("a", ["wait", str(gate)])]))
    one.until("dispatched")
    two = bench.start(WRITES)
    two.until("note", count=2)
    two.run.cancel()
    check_sealed_once(two.result(), "cancelled")
    gate.touch()
    assert one.result().state == "succeeded"


def test_a_run_folder_that_worker_code_has_spoiled_is_sealed_as_failed(bench: Bench) -> None:
    run = bench.run(Stage("first", [do("a", ["write", "x", 1], ["spoil", "link"])]))
    check_sealed_once(run, "failed")
    assert "odd" in str(run.error)
    assert [one["outcome"] for one in events(run, "state") if one["state"] == "sealing"] == ["succeeded", "failed"]
    assert manifest.verify(run.paths).ok


def test_an_artifact_that_vanished_before_the_end_fails_the_run_and_is_missed(bench: Bench) -> None:
    spoil = do("b", ["spoil", "artifacts/first/a/x.json"])
    run = bench.run(WRITES, Stage("second", [spoil], after="first"))
    check_sealed_once(run, "failed")
    assert "has lost artifacts/first/a/x.json" in str(run.error)
    assert [problem.path for problem in manifest.verify(run.paths).problems] == ["artifacts/first/a/x.json"]


def test_a_partition_that_cannot_be_committed_fails_and_what_stood_in_its_way_is_set_aside(bench: Bench) -> None:
    def obstruct(event: Mapping[str, Any]) -> None:
        if event["event"] == "dispatched":
            folder = bench.env.runs.get("last").paths.partition("first", "a")
            folder.mkdir(parents=True)
            (folder / "from somewhere else").touch()

    run = bench.run(WRITES, on_event=obstruct)
    check_sealed_once(run, "failed")
    assert "partition 'a' of stage 'first' failed: it could not be committed: " in str(run.error)
    assert run.artifacts() == ()
    assert manifest.verify(run.paths).ok


@pytest.mark.parametrize(("at", "state"), [("stage", "cancelled"), ("state", "succeeded")])
def test_a_run_that_is_cancelled_at_the_very_end_has_one_outcome(bench: Bench, at: str, state: str) -> None:
    """F27."""

    def cancel(event: Mapping[str, Any]) -> None:
        if event["event"] == at and (event.get("status") == "ended" or event.get("state") == "sealing"):
            bench.env.runs.get("last").cancel()

    run = bench.run(WRITES, on_event=cancel)
    check_sealed_once(run, state)
    assert [item.name for item in run.artifacts()] == ["x"]
    assert AGI.cancel(bench.env, run.run_id).state == state
    assert manifest.verify(run.paths).ok


def test_a_run_that_is_cancelled_before_it_begins_does_nothing(bench: Bench) -> None:
    run = begin(bench)
    Run(run.paths).cancel()
    supervise(run)
    check_sealed_once(Run(run.paths), "cancelled")
    assert [event["event"] for event in Run(run.paths).events()] == ["created", "state"]
    assert manifest.verify(run.paths).ok


def test_a_run_has_one_owner(bench: Bench) -> None:
    run = begin(bench)
    with hold_owner(run.paths), pytest.raises(RunStateError, match="is owned by process"):
        supervise(run)
    assert not run.paths.events.exists()


def begin(bench: Bench) -> Execution:
    """Make a run folder, as `AGI.run` does before it is supervised."""
    request = bench.request(WRITES)
    paths = bench.env.runs.create("probe")
    write_json(paths.request, request.to_json())
    return Execution(bench.env.home, bench.env.wenv, bench.env.project, request, paths)


def test_asking_for_more_workers_than_slots_is_noted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGILAB_SLOTS", "2")
    request = bench.request(Stage("first", [do(f"p{number}") for number in range(5)]), cluster={"workers": 5})
    run = AGI.run(bench.env, request).check()
    planned = AGI.get_distrib(bench.env, request).assignment["first"]
    assert list(planned) == run.manifest["backend"]["workers"]
    if backend(bench.backend).capabilities.parallel:
        noted = [event["text"] for event in events(run, "note")]
        assert noted.count("5 workers were asked for; this machine runs 2 at a time (AGILAB_SLOTS)") == 1
        assert len(planned) == 2


def test_a_submitted_run_leaves_its_submitter_no_child_to_wait_for(bench: Bench) -> None:
    run = AGI.submit(bench.env, bench.request(WRITES)).wait(30).check()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert run.artifact("x").read_text() == "1\n"


def test_a_submitter_that_dies_before_the_run_has_begun_does_not_stop_it(bench: Bench) -> None:
    run = begin(bench)
    order = {
        "home": str(run.home.root),
        "wenv": str(run.wenv.root),
        "project": str(run.project.root),
        "takes_up": False,
    }
    command = [sys.executable, "-P", "-m", "agilab.detached"]
    with (
        hold_owner(run.paths) as owner,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[owner.fileno()], start_new_session=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        with process.stdin as pipe:
            pipe.write(json.dumps({**order, "run": str(run.paths.root), "owner_fd": owner.fileno()}).encode())
    assert Run(run.paths).wait(30).check().artifact("x").read_text() == "1\n"


def test_a_module_of_the_current_folder_does_not_end_up_in_a_submitted_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.folder / "json.py").write_text("raise RuntimeError('the wrong json')")
    monkeypatch.chdir(bench.folder)
    AGI.submit(bench.env, bench.request(WRITES)).wait(30).check()
