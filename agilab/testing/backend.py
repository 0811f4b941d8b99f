"""`BackendTests`: what every backend must do, and refuse in one line where it cannot promise it; it knows none by name.

Real runs of the probe in real processes. A test of something that a backend
does not promise (`Capabilities`) asserts what happens instead; none is skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agilab import AGI, ArtifactRef, InputRef, Stage, manifest
from agilab.testing.faults import FaultTests
from agilab.testing.probe import Bench, do, events, hashes
from agilab.testing.resume import ResumeTests

MIB = 1 << 20


class BackendTests(FaultTests, ResumeTests):
    """The contract of a backend: what it does, what it does when something breaks, and that a run can go on.

    Attributes
    ----------
    backend
        Its name in `agilab.backends.base.BACKENDS`.
    cluster
        Cluster options that it needs besides.
    """

    # --- what a run leaves ------------------------------------------------------

    def test_a_run_leaves_artifacts_metrics_and_records_that_verify(self, bench: Bench) -> None:
        parts = [do("a", ["write", "value", 1], ["metric", "rows", 2]), do("b", ["write", "value", [2, None, "x"]])]
        run = bench.run(Stage("first", parts)).check()
        assert json.loads(run.artifact("first/b/value").read_text()) == [2, None, "x"]
        assert run.metrics == {"rows": 2.0}
        records = list(run.records())
        assert [(one["partition"], one["attempt"]) for one in records] == [("a", 1), ("b", 1)]
        assert {one["worker"] for one in records} <= set(run.manifest["backend"]["workers"])
        assert run.manifest["backend"]["name"] == self.backend
        assert run.manifest["environment"]["isolated"] is self.promises.isolated
        assert run.manifest["request"]["digest"] == run.request["digest"]
        verified = manifest.verify(run.paths)
        assert verified.ok, verified.problems

    def test_hashes_seeds_and_random_numbers_are_equal_on_every_backend(self, bench: Bench) -> None:
        stage = Stage("first", [do(name, ["random", "numbers"], ["write", "name", name]) for name in "abc"])
        found = {}
        for backend in sorted({self.backend, "inline", "local"}):
            there = replace(bench, backend=backend, cluster=self.cluster if backend == self.backend else {})
            found[backend] = hashes(there.run(stage).check())
        assert found[self.backend] == found["inline"] == found["local"]
        assert len({sha for key, sha in found["local"].items() if key.endswith("numbers")}) == 3
        other = hashes(AGI.run(bench.env, bench.request(stage, seed=1)).check())
        assert other["first/a/numbers"] != found["local"]["first/a/numbers"]
        assert other["first/a/name"] == found["local"]["first/a/name"]

    def test_what_a_partition_does_not_hand_over_is_dropped(self, bench: Bench) -> None:
        run = bench.run(Stage("first", [do("a", ["scatter", "junk.txt"], ["write", "kept", 1])])).check()
        files = {path.name for path in run.paths.partition("first", "a").iterdir()}
        assert files == {"kept.json", "partition.json"}
        assert not run.paths.staging.exists()

    # --- stages and inputs --------------------------------------------------------

    def test_a_stage_reads_what_earlier_stages_wrote_by_digest(self, bench: Bench) -> None:
        source = bench.folder / "source.txt"
        source.write_text("some rows")
        ref = InputRef("rows", str(source))
        made = ArtifactRef("first", "a", "value")
        run = bench.run(
            Stage("first", [replace(do("a", ["read", "seen"], ["write", "value", 7]), inputs=(ref,))]),
            Stage("second", [replace(do("b", ["read", "seen"]), inputs=(made, ref))], after="first"),
        ).check()
        first, second = (json.loads(run.artifact(key).read_text()) for key in ("first/a/seen", "second/b/seen"))
        sha = hashlib.sha256(b"some rows").hexdigest()
        written = next(item for item in run.artifacts() if item.name == "value")
        assert {name: digest for name, (digest, _) in first.items()} == {"rows": sha}
        assert {name: digest for name, (digest, _) in second.items()} == {"first/a/value": written.sha256, "rows": sha}
        assert [item["sha256"] for item in list(run.records())[1]["inputs"]] == [written.sha256, sha]
        assert [item["sha256"] for item in run.manifest["inputs"]] == [sha]
        planned = json.loads(run.paths.plan("second").read_text())["partitions"][0]["inputs"]
        assert [item["sha256"] for item in planned] == [written.sha256, sha]

    def test_an_input_that_changes_after_planning_is_refused(self, bench: Bench) -> None:
        source = bench.folder / "source.txt"
        source.write_text("some rows")

        def change(event: Mapping[str, Any]) -> None:
            if event["event"] == "planned":
                source.write_text("other rows, and more")

        stage = Stage("first", [replace(do("a"), inputs=(InputRef("rows", str(source)),))], retries=1)
        run = bench.run(stage, on_event=change)
        assert run.state == "failed"
        assert f"input {source} has changed since the run began" in str(run.error)
        assert hashlib.sha256(b"some rows").hexdigest() in str(run.error)
        assert [event["partition"] for event in events(run, "failed")][-1:] == ["a"]

    def test_an_input_that_changes_while_it_is_read_fails_the_run(self, bench: Bench) -> None:
        source = bench.folder / "source.txt"
        source.write_text("some rows")
        spoil = [["touch", str(bench.folder / "begun")], ["wait", str(bench.folder / "changed")]]
        going = bench.start(Stage("first", [replace(do("a", *spoil), inputs=(InputRef("rows", str(source)),))]))
        going.wait_for((bench.folder / "begun").exists)
        source.write_text("other rows, and more")
        (bench.folder / "changed").touch()
        run = going.result()
        assert run.state == "failed"
        assert f"input {source} has changed since the run began" in str(run.error)

    def test_a_stage_planned_later_is_recorded_before_it_is_dispatched(self, bench: Bench) -> None:
        source = bench.folder / "late.txt"
        source.write_text("read late")
        later = replace(do("x", ["read", "seen"]), stage="second", inputs=(InputRef("late", str(source)),))
        seen: dict[str, bytes] = {}

        def look(event: Mapping[str, Any]) -> None:
            if event["event"] == "dispatched":
                path = bench.env.runs.get("last").paths.plan("second")
                seen[event["stage"]] = path.read_bytes() if path.exists() else b""

        request = bench.request(
            Stage("first", [do("a", ["write", "value", 1])]),
            Stage("second", after="first"),
            Stage("late", after=("first", "second")),
            settings={"later": {"second": [later.to_json()]}},
        )
        run = AGI.run(bench.env, request, on_event=look).check()
        assert seen["first"] == b""
        plan = json.loads(seen["second"])
        assert seen["second"] == run.paths.plan("second").read_bytes()
        assert [part["id"] for part in plan["partitions"]] == ["x"]
        assert plan["partitions"][0]["inputs"][0]["sha256"] == hashlib.sha256(b"read late").hexdigest()
        read = json.loads(run.artifact("late/late/read").read_text())
        assert sorted(read) == ["first/a/value", "second/x/seen"]

    def test_a_partition_that_reads_what_nobody_wrote_fails_the_run(self, bench: Bench) -> None:
        missing = replace(do("b"), inputs=(ArtifactRef("first", "a", "nothing"),))
        run = bench.run(Stage("first", [do("a")]), Stage("second", [missing], after="first"))
        assert run.state == "failed"
        assert "'first/a/nothing', which no partition has written" in str(run.error)

    # --- order, workers, devices ----------------------------------------------------

    def test_a_worker_that_is_free_takes_what_was_planned_for_a_busy_one(self, bench: Bench) -> None:
        gates = [bench.folder / "gate 0", bench.folder / "gate 1"]
        holds = [replace(do(f"hold{number}", ["wait", str(gate)]), weight=9.0) for number, gate in enumerate(gates)]
        heard: list[str] = []

        def open_gates(event: Mapping[str, Any]) -> None:
            heard.append(event["event"])
            if not self.promises.parallel:
                for gate in gates:
                    gate.touch()
            if heard.count("dispatched") >= 2:  # both workers are busy: one of them will be for longer
                gates[1].touch()
            if heard.count("committed") == 5:
                gates[0].touch()

        run = bench.run(Stage("first", [*holds, *(do(f"p{number}") for number in range(4))]), on_event=open_gates)
        planned = json.loads(run.check().paths.plan("first").read_text())["assignment"]
        ran = [record["worker"] for record in run.records()]
        if not self.promises.parallel:
            assert planned == {ran[0]: ["hold0", "hold1", "p0", "p1", "p2", "p3"]}
            return
        assert {worker: ids[0] for worker, ids in planned.items()} == {ran[0]: "hold0", ran[1]: "hold1"}
        assert [len(ids) for ids in planned.values()] == [3, 3]
        assert ran[0] != ran[1]
        assert set(ran[2:]) == {ran[1]}

    def test_a_pinned_partition_runs_on_its_worker_only(self, bench: Bench) -> None:
        names = bench.run(Stage("first", [do("a"), do("b")])).check().manifest["backend"]["workers"]
        parts = [replace(do(f"p{number}"), pin=names[-1]) for number in range(4)]
        run = bench.run(Stage("first", [*parts, do("free")])).check()
        assert {one["worker"] for one in run.records() if one["partition"] != "free"} == {names[-1]}
        refused = bench.run(Stage("first", [replace(do("a"), pin="elsewhere-9")]))
        assert refused.state == "failed"
        assert f"pinned to worker 'elsewhere-9'; there are {names[0]}" in str(refused.error)

    def test_a_device_is_never_given_to_two_partitions_at_once(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGILAB_RESOURCES", "gpu=1")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        parts = [replace(do(f"p{number}", ["devices", "seen"]), resources={"gpu": 1}) for number in range(4)]
        run = bench.run(Stage("first", [*parts, do("free", ["devices", "seen"])])).check()
        order = [
            event["event"]
            for event in run.events()
            if event["event"] in ("dispatched", "committed") and event["partition"] != "free"
        ]
        assert order == ["dispatched", "committed"] * 4
        found = {one.partition: json.loads((run.paths.root / one.path).read_text()) for one in run.artifacts()}
        assert found["p0"] == found["p3"] == [{"gpu": [0]}, "0"]
        assert found["free"] == [{}, None]
        assert "CUDA_VISIBLE_DEVICES" not in os.environ

    def test_a_stage_planned_later_gets_devices_too(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AGILAB_RESOURCES", "gpu=2")
        later = replace(do("x", ["devices", "seen"]), stage="second", resources={"gpu": 2})
        request = bench.request(
            Stage("first", [do("a")]),
            Stage("second", after="first"),
            settings={"later": {"second": [later.to_json()]}},
        )
        run = AGI.run(bench.env, request).check()
        assert json.loads(run.artifact("seen").read_text()) == [{"gpu": [0, 1]}, "0,1"]

    def test_more_devices_than_there_are_is_refused_in_one_line(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGILAB_RESOURCES", "gpu=1")
        run = bench.run(Stage("first", [do("a"), replace(do("b"), resources={"gpu": 2})]))
        assert run.state == "failed"
        assert "'b' asks for 2 gpu; this machine offers 1" in str(run.error)
        assert events(run, "dispatched") == []

    def test_runs_beyond_the_slots_of_the_machine_queue_visibly(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGILAB_SLOTS", "1")
        gate = bench.folder / "gate"
        if not self.promises.parallel or self.promises.needs_hosts:  # it uses no slot of the machine
            run = bench.run(Stage("first", [do("a")])).check()
            assert [event["state"] for event in events(run, "state")] == ["installing", "running", "sealing"]
            return
        one = bench.start(Stage("first", [do("a", ["wait", str(gate)]), do("b")]))
        one.until("dispatched")
        two = bench.follow(bench.request(Stage("first", [do("a")]), cluster={"workers": 1}))
        assert one.run.run_id in two.until("note")["text"]
        assert two.run.state == "queued"
        gate.touch()
        assert len(one.result().check().manifest["backend"]["workers"]) == 1
        assert two.result().check().state == "succeeded"

    # --- what is seen while it goes on ------------------------------------------------

    def test_metrics_and_progress_are_in_the_log_while_the_partition_still_runs(self, bench: Bench) -> None:
        gate = bench.folder / "gate"
        steps: list[list[Any]] = [["metric", "loss", 1.0, 0], ["progress", 10], ["metric", "loss", 0.5, 1]]
        going = bench.start(Stage("first", [do("a", *steps, ["wait", str(gate)], ["metric", "loss", 0.25, 2])]))
        if self.promises.parallel:
            run = going.run
            going.wait_for(lambda: len(events(run, "metric")) == 2 and events(run, "progress"))
            assert not events(run, "committed")
            assert run.metrics == {"loss": 0.5}
        gate.touch()
        run = going.result().check()
        assert [(one["value"], one["step"]) for one in events(run, "metric")] == [(1.0, 0), (0.5, 1), (0.25, 2)]
        assert next(run.records())["metrics"][2] == {"name": "loss", "value": 0.25, "step": 2}
        last = events(run, "progress")[-1]
        assert (last["partition"], last["done"], last["total"]) == ("a", 10, 10)
        assert len(events(run, "progress")) < 11

    def test_numbers_that_json_does_not_know_are_recorded(self, bench: Bench) -> None:
        run = bench.run(Stage("first", [do("a", ["strange_numbers"])])).check()
        found = {one["name"]: (one["value"], one["step"]) for one in next(run.records())["metrics"]}
        assert found["strange"] == (3.0, 3)
        assert found["missing"][1] == 2
        assert manifest.verify(run.paths).ok

    def test_what_worker_code_prints_and_logs_is_kept(self, bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
        run = bench.run(Stage("first", [do("a", ["print", "printed words"], ["log", "logged words"])])).check()
        out, err = capfd.readouterr()
        worker = next(run.records())["worker"]
        printed = run.logs(worker) if self.promises.isolated else out + err
        assert printed.count("printed words") == 3
        assert "from a child: printed words" in printed
        assert "torn down after 1 partitions" in printed
        if self.promises.isolated:
            assert "words" not in out + err
        [logged] = events(run, "log")
        assert (logged["partition"], logged["level"], logged["text"]) == ("a", "WARNING", "logged words")

    def test_the_peak_memory_is_that_of_the_partition_alone(self, bench: Bench) -> None:
        parts = [replace(do("large", ["allocate", 200 * MIB]), weight=9.0), do("small", ["write", "x", 1])]
        request = bench.request(Stage("first", parts), cluster={"workers": 1})
        run = AGI.run(bench.env, request).check()
        peaks = {one["partition"]: one["peak_rss_bytes"] for one in run.records()}
        assert 150 * MIB < peaks["large"] - peaks["small"] < 400 * MIB
        if self.promises.isolated:  # the manager's own memory is not the worker's
            assert peaks["small"] < 150 * MIB
