"""`ResumeTests`: a run that failed, was cancelled or was lost goes on where it was; part of `BackendTests`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, InputRef, Partition, Run, Stage, manifest
from agilab.errors import RunStateError
from agilab.testing.faults import Suite
from agilab.testing.probe import Bench, do, events, hashes, make_probe, processes_marked, wait_until


class ResumeTests(Suite):
    """What must hold when a run goes on: nothing committed runs again, nothing planned is planned again."""

    def test_a_failed_run_goes_on_with_what_has_not_committed(self, bench: Bench) -> None:
        tries, begun = _folder(bench, "tries"), str(bench.folder / "begun")
        good = do("good", ["touch", begun], ["random", "numbers"])
        parts = [good, replace(do("bad", ["wait", begun], *_fails(tries, 1)), weight=0.5)]
        failed = bench.run(Stage("first", parts), Stage("late", after="first"))
        assert failed.state == "failed"
        assert [record["partition"] for record in failed.records()] == ["good"]
        before = failed.paths.sums.read_bytes()

        run = AGI.resume(bench.env, failed.run_id).check()

        assert run == failed
        assert _dispatched(run)[-2:] == [("bad", 2), ("late", 1)]
        assert _resumed(run) == {"bad", "late"}
        assert [(one["attempt"], one["committed"]) for one in events(run, "resumed")] == [(2, 1)]
        assert run.manifest["attempt"] == 2
        assert (run.paths.seals / "1" / "manifest-sha256.txt").read_bytes() == before
        assert json.loads((run.paths.seals / "1" / "run_manifest.json").read_text())["state"] == "failed"
        self._is_sound(run)
        assert _left(run) == _left(bench.run(Stage("first", parts), Stage("late", after="first")).check())

    def test_a_cancelled_run_goes_on(self, bench: Bench) -> None:
        gate = bench.folder / "gate"
        parts = [replace(do("good", ["write", "value", 1]), weight=9.0), do("slow", ["wait", str(gate)])]
        if self.promises.parallel:
            going = bench.start(Stage("first", parts))
            going.until("committed", "good")
            going.until("dispatched", "slow")
            going.run.cancel()
            run = going.result()
        else:
            run = bench.run(Stage("first", parts), on_event=_cancels(bench, "slow"))
        assert run.state == "cancelled"
        assert [record["partition"] for record in run.records()] == ["good"]
        gate.touch()
        assert AGI.resume(bench.env, run.run_id).check() == run
        assert "good" not in _resumed(run)
        self._is_sound(run)

    def test_a_lost_run_goes_on_and_leaves_the_same_hashes(self, bench: Bench) -> None:
        """F4."""
        gate = bench.folder / "gate"
        parts = [replace(do("good", ["random", "numbers"]), weight=9.0), do("slow", ["wait", str(gate)], ["fork"])]
        stages = (Stage("first", [*parts, do("more", ["random", "numbers"])]), Stage("late", after="first"))
        run = self._lose(bench, *stages)
        gate.touch()
        with pytest.raises(RunStateError, match="is lost and has no manifest"):
            assert run.manifest
        assert AGI.resume(bench.env, run.run_id).check() == run
        assert "good" not in _resumed(run)
        assert not run.paths.seals.exists()
        assert run.manifest["attempt"] == 2
        self._is_sound(run)
        assert _left(run) == _left(bench.run(*stages).check())

    def test_a_lost_run_is_sealed_by_cancel_or_by_seal_and_goes_on_all_the_same(self, bench: Bench) -> None:
        gate = bench.folder / "gate"
        parts = [replace(do("good", ["write", "value", 1]), weight=9.0), do("slow", ["wait", str(gate)])]
        for seal, state, error in ((AGI.cancel, "cancelled", None), (AGI.seal, "failed", "lost")):
            gate.unlink(missing_ok=True)
            run = self._lose(bench, Stage("first", parts))
            assert seal(bench.env, run.run_id).state == state
            assert run.error == error
            assert run.manifest["partitions"] | {"digest": "", "first": []} == {
                "count": 2,
                "committed": 1,
                "digest": "",
                "first": [],
            }
            assert run.manifest["code"]["code_digest"] == run.request["code_digest"]
            assert run.manifest["backend"]["name"] == self.backend
            assert manifest.verify(run.paths).ok, manifest.verify(run.paths).problems
            gate.touch()
            assert AGI.resume(bench.env, run.run_id).check().artifact("value").read_text() == "1\n"
            self._is_sound(run)

    def test_no_plan_is_made_twice(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        tries = _folder(bench, "tries")
        later = replace(do("x", ["random", "numbers"]), stage="second")
        request = bench.request(
            Stage("first", [do("a", ["write", "value", 1])]),
            Stage("second", after="first"),
            Stage("third", [do("y", *_fails(tries, 2))], after="second"),
            settings={"later": {"second": [later.to_json()]}},
        )
        run = AGI.run(bench.env, request)
        assert run.state == "failed"
        plans = {stage: run.paths.plan(stage).read_bytes() for stage in ("first", "second", "third")}

        def refuse(*arguments: object, **named: object) -> None:
            raise AssertionError("the app was asked for a plan again")

        monkeypatch.setattr("agilab.planner.Planner.plan", refuse)
        monkeypatch.setattr("agilab.planner.Planner.plan_stage", refuse)
        assert AGI.resume(bench.env, run.run_id).state == "failed"
        assert AGI.resume(bench.env, run.run_id).check().manifest["attempt"] == 3
        assert {stage: run.paths.plan(stage).read_bytes() for stage in plans} == plans
        assert sorted(os.listdir(run.paths.seals)) == ["1", "2"]
        self._is_sound(run)

    def test_it_goes_on_with_the_code_it_began_with(self, bench: Bench, tmp_path: Path) -> None:
        project = make_probe(tmp_path / "edited")
        env = AgiEnv(project, home=bench.env.home.root, wenv=bench.env.wenv.root)
        tries = _folder(bench, "tries")
        stages = (Stage("first", [do("a", ["write", "value", 1], *_fails(tries, 1))]),)
        run = AGI.run(env, replace(bench, env=env).request(*stages))
        assert run.state == "failed"
        worker = project / "src" / "probe_worker" / "__init__.py"
        worker.write_text(worker.read_text().replace("def _write", "def _write_no_more"))
        manager = project / "src" / "probe" / "__init__.py"
        manager.write_text("raise RuntimeError('this code is not asked')\n")

        AGI.resume(env, run.run_id).check()

        assert run.artifact("value").read_text() == "1\n"
        assert any("has changed since this run began" in one["text"] for one in events(run, "note"))
        assert run.manifest["code"]["code_digest"] == run.request["code_digest"]
        self._is_sound(run)

    def test_a_run_that_never_came_to_dispatch_begins_again_in_its_folder(self, bench: Bench) -> None:
        source = bench.folder / "input"
        part = do("a", ["write", "value", 1])
        stage = Stage("first", [Partition("a", params=part.params, inputs=[InputRef("source", str(source))])])
        run = bench.run(stage)
        assert run.state == "failed"
        assert not run.paths.prepared.exists()
        source.write_text("now it is there")
        assert AGI.resume(bench.env, run.run_id).check() == run
        assert run.artifact("value").read_text() == "1\n"
        self._is_sound(run)

    def test_a_run_that_is_resumed_in_a_process_of_its_own_goes_on_when_the_caller_has_gone(self, bench: Bench) -> None:
        tries = _folder(bench, "tries")
        run = bench.run(Stage("first", [do("a", *_fails(tries, 1), ["write", "value", 1])]))
        assert run.state == "failed"
        assert AGI.resume(bench.env, run.run_id, detach=True).wait(30).check() == run
        self._is_sound(run)

    def test_a_succeeded_run_and_one_that_goes_on_are_refused(self, bench: Bench) -> None:
        run = bench.run(Stage("first", [do("a")])).check()
        seal = run.paths.sums.read_bytes()
        with pytest.raises(RunStateError, match="has succeeded: there is nothing left to do"):
            AGI.resume(bench.env, run.run_id)
        with pytest.raises(RunStateError, match="only a lost run can be sealed"):
            AGI.seal(bench.env, run.run_id)
        assert run.paths.sums.read_bytes() == seal
        gate = bench.folder / "gate"
        going = bench.start(Stage("first", [do("a", ["wait", str(gate)])]))
        going.until("dispatched")
        with pytest.raises(RunStateError, match="goes on: it is running"):
            AGI.resume(bench.env, going.run.run_id)
        gate.touch()
        going.result().check()

    def _lose(self, bench: Bench, *stages: Stage) -> Run:
        """Kill the supervisor of a run once the partition ``good`` has committed."""
        known = {run.run_id for run in bench.env.runs.list()}
        with bench.elsewhere(bench.request(*stages)) as process:
            wait_until(lambda: {run.run_id for run in bench.env.runs.list()} - known)
            run = bench.env.runs.get("last")
            wait_until(lambda: any(record["partition"] == "good" for record in run.records()))
            process.kill()
            process.wait()
        wait_until(lambda: run.state == "lost")
        wait_until(lambda: not processes_marked(run.run_id))
        return run

    def _is_sound(self, run: Run) -> None:
        verified = manifest.verify(run.paths)
        assert verified.ok, verified.problems
        assert len(verified.superseded) == (len(os.listdir(run.paths.seals)) if run.paths.seals.exists() else 0)
        assert not run.paths.staging.exists()
        assert processes_marked(run.run_id) == []
        assert len({record["partition"] for record in run.records()}) == run.manifest["partitions"]["committed"]
        assert [one["state"] for one in events(run, "state")][-1] == "sealing"


def _folder(bench: Bench, name: str) -> Path:
    folder = bench.folder / name
    folder.mkdir()
    return folder


def _fails(tries: Path, times: int) -> list[list[Any]]:
    return [["raise_times", str(tries), times, "value"]]


def _dispatched(run: Run) -> list[tuple[str, int]]:
    return [(one["partition"], one["attempt"]) for one in events(run, "dispatched")]


def _left(run: Run) -> dict[str, str]:
    """Return the hashes of what a run left, and of what its last stage read, which also tells where it lay."""
    found = hashes(run)
    del found["late/late/read"]
    read = json.loads(run.artifact("late/late/read").read_text())
    return found | {f"late read {name}": sha256 for name, (sha256, _) in read.items()}


def _resumed(run: Run) -> set[str]:
    """Return the partitions that the last attempt at a run has dispatched."""
    found: set[str] = set()
    for event in run.events():
        if event["event"] == "resumed":
            found.clear()
        elif event["event"] == "dispatched":
            found.add(event["partition"])
    return found


def _cancels(bench: Bench, partition: str) -> Callable[[Mapping[str, Any]], None]:
    """Ask for the end of a run from inside of it, when a partition is about to begin."""

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] == "dispatched" and event["partition"] == partition:
            bench.env.runs.get("last").cancel()

    return hear
