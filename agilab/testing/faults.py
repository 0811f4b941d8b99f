"""`FaultTests`: what a backend does when partitions raise, hang, die, are cancelled or spy; part of `BackendTests`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agilab import AGI, AgiEnv, Run, Stage, manifest
from agilab.backends.base import Capabilities
from agilab.backends.base import backend as find_backend
from agilab.errors import BackendRefusedError, SettingError
from agilab.testing.probe import (
    Bench,
    command_lines,
    do,
    events,
    is_alive,
    make_probe,
    processes_marked,
    wait_until,
)

GONE_S = 2.0
REMOTELY_GONE_S = 10.0
"""How long a cancelled run may take until nothing of it is left, on this machine and on hosts [s]."""


class Suite:
    """Makes the bench: the probe is installed once per class."""

    backend: ClassVar[str]
    cluster: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def probe(cls, tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
        """Return an environment with an installed probe, for all tests of the class."""
        folder = tmp_path_factory.mktemp("bench")
        env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
        AGI.install(env)
        return env

    @pytest.fixture
    def bench(self, probe: AgiEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
        """Return the bench, with runs of its own; the machine has two slots and no devices, whatever it has."""
        monkeypatch.setenv("AGILAB_SLOTS", "2")
        monkeypatch.setenv("AGILAB_RESOURCES", "")
        env = AgiEnv(probe.project.root, home=tmp_path / "home", wenv=probe.wenv.root)
        with Bench(env, self.backend, tmp_path, self.cluster) as bench:
            yield bench

    @property
    def promises(self) -> Capabilities:
        """What the backend says it can do."""
        return find_backend(self.backend).capabilities

    @property
    def gone_s(self) -> float:
        """How long a cancelled run may take until nothing of it is left [s]."""
        return REMOTELY_GONE_S if self.promises.needs_hosts else GONE_S


class FaultTests(Suite):
    """What must hold when something breaks; the numbers F.. are those of the list of faults."""

    # --- exceptions -----------------------------------------------------------------

    @pytest.mark.parametrize(
        ("kind", "line"),
        [
            ("value", "ValueError: first line"),
            ("local", "Local: <function raise_it.<locals>.<lambda>"),
            ("mute", "Mute: (its text cannot be read: __str__ raised RuntimeError)"),
            ("exit", "SystemExit: 0"),
            ("long", "x... (10000000 characters)"),
            ("surrogate", "ValueError: half a character: "),
        ],
    )
    def test_what_a_partition_raises_is_named_with_its_traceback(self, bench: Bench, kind: str, line: str) -> None:
        """F22."""
        run = bench.run(Stage("first", [do("bad", ["raise", kind])]))
        assert run.state == "failed"
        assert str(run.error).startswith("partition 'bad' of stage 'first' failed: ")
        assert line in str(run.error)
        assert "\n" not in str(run.error)
        assert len(str(run.error)) < 1000
        [failed] = events(run, "failed")
        assert (failed["reason"], failed["retry"], failed["attempt"]) == ("exception", False, 1)
        assert "probe_worker/__init__.py" in failed["traceback"]
        assert "in raise_it" in failed["traceback"]
        assert len(failed["traceback"]) < 100_000
        assert f"agilab debug {run.run_id} bad" in failed["traceback"]
        assert "in raise_it" in run.logs("supervisor")
        assert manifest.verify(run.paths).ok

    @pytest.mark.parametrize(
        ("kind", "retries", "allowed"),
        [("value", 2, 2), ("exit", 1, 1), ("memory", 0, 1)],
    )
    def test_an_exception_is_tried_again_as_often_as_allowed(
        self, bench: Bench, kind: str, retries: int, *, allowed: int
    ) -> None:
        for count, state in ((allowed, "succeeded"), (allowed + 1, "failed")):
            tries = bench.folder / str(count)
            tries.mkdir()
            part = do("a", ["write", "before", 1], ["raise_times", str(tries), count, kind])
            run = bench.run(Stage("first", [part], retries=retries))
            assert run.state == state, run.error
            assert [one["retry"] for one in events(run, "failed")] == [True] * allowed + [False] * (count - allowed)
            assert [one["attempt"] for one in events(run, "dispatched")] == list(range(1, allowed + 2))
            reason = "memory" if kind == "memory" else "exception"
            assert {one["reason"] for one in events(run, "failed")} <= {reason}
        assert allowed == 0 or f"(attempt {allowed + 1}, on " in str(run.error)
        assert run.artifacts() == ()

    def test_after_a_final_failure_what_runs_may_finish_and_nothing_new_starts(self, bench: Bench) -> None:
        begun = str(bench.folder / "begun")
        parts = [
            replace(do("good", ["touch", begun], ["write", "value", 1]), weight=9.0),
            replace(do("bad", ["wait", begun], ["raise", "value"]), weight=8.0),
            *(do(f"p{number}") for number in range(50)),
        ]
        run = bench.run(Stage("first", parts), Stage("second", after="first"))
        assert run.state == "failed"
        assert run.artifact("first/good/value").read_text() == "1\n"
        last = [event["event"] for event in run.events()].index("failed")
        assert "dispatched" not in [event["event"] for event in list(run.events())[last:]]
        assert not run.paths.plan("second").exists()
        assert manifest.verify(run.paths).ok

    @pytest.mark.parametrize("setup", ["raise", "raise at the end"])
    def test_a_worker_whose_setup_raises_fails_the_run_and_one_whose_teardown_does_not(
        self, bench: Bench, setup: str
    ) -> None:
        run = AGI.run(bench.env, bench.request(Stage("first", [do("a")]), settings={"setup": setup}))
        if setup == "raise":
            assert run.state == "failed"
            assert "RuntimeError: setup was told to fail" in str(run.error)
            assert "in setup" in run.logs("supervisor")
        else:
            assert run.check().manifest["partitions"]["committed"] == 1

    def test_a_stage_without_a_method_names_those_there_are(self, bench: Bench) -> None:
        run = bench.run(Stage("frist", [do("a")]))
        assert run.state == "failed"
        assert "ProbeWorker has no method for stage 'frist'; it has " in str(run.error)
        assert "first" in str(run.error)

    def test_a_child_that_worker_code_forks_neither_reports_nor_runs_partitions(self, bench: Bench) -> None:
        parts = [do("a", ["write", "x", 1], ["fork"]), do("b", ["write", "x", 2], ["fork_and_raise"])]
        run = bench.run(Stage("first", parts)).check()
        assert [one["name"] for one in events(run, "metric")] == ["forked"]
        assert len(run.artifacts()) == 2
        assert manifest.verify(run.paths).ok

    # --- workers that die or hang -------------------------------------------------------

    def test_a_partition_whose_worker_is_killed_is_tried_again(self, bench: Bench) -> None:
        """F1."""
        tries = bench.folder / "tries"
        tries.mkdir()
        part = do("a", ["write", "half", 1], ["scatter", "junk"], ["die_times", str(tries), 2], ["write", "whole", 2])
        if not self.promises.survives_worker_death:
            self._dies_with_its_process(bench, Stage("first", [part]))
            return
        run = bench.run(Stage("first", [part, do("other", ["write", "x", 1])])).check()
        lost = events(run, "failed")
        assert [(one["partition"], one["reason"], one["retry"]) for one in lost] == [("a", "died", True)] * 2
        assert "killed by signal 9 (SIGKILL)" in lost[0]["message"]
        assert {one["partition"]: one["attempt"] for one in run.records()} == {"a": 3, "other": 1}
        assert len({one["worker"] for one in events(run, "dispatched") if one["partition"] == "a"}) == 2
        assert sorted(path.name for path in run.paths.partition("first", "a").iterdir()) == [
            "half.json",
            "partition.json",
            "whole.json",
        ]
        assert manifest.verify(run.paths).ok

    def test_a_partition_that_kills_every_worker_fails_the_run_and_the_rest_is_kept(self, bench: Bench) -> None:
        """F2."""
        if not self.promises.survives_worker_death:
            self._dies_with_its_process(bench, Stage("first", [do("bad", ["die", signal.SIGSEGV])]))
            return
        good = str(bench.folder / "good")
        bad = do("bad", ["write", "half", 1], ["wait", good], ["die", signal.SIGSEGV])
        run = bench.run(Stage("first", [bad, do("good", ["write", "value", 1], ["touch", good])]))
        assert run.state == "failed"
        assert "partition 'bad' of stage 'first' failed" in str(run.error)
        assert "killed by signal 11 (SIGSEGV) (attempt 3, on " in str(run.error)
        assert [item.name for item in run.artifacts()] == ["value"]
        assert not run.paths.partition("first", "bad").exists()
        assert manifest.verify(run.paths).ok

    def test_a_partition_that_waits_for_a_process_that_was_stopped_is_named(self, bench: Bench) -> None:
        if not self.promises.isolated:  # who stops that stops the caller
            return
        going = bench.start(Stage("first", [do("held", ["die", signal.SIGSTOP], ["write", "x", 1])]))
        said = re.compile(
            r"worker \S+: its process (\d+) is stopped, and partition 'held' with it; let it go on with: "
        )

        def stopped() -> list[str]:
            notes = [one["text"] for one in going.seen if one["event"] == "note"]
            return [found[1] for found in map(said.match, notes) if found]

        going.wait_for(stopped)
        os.kill(int(stopped()[0]), signal.SIGCONT)
        run = going.result().check()
        assert [one["attempt"] for one in run.records()] == [1]
        assert len(stopped()) == 1

    def test_a_worker_that_ends_itself_is_named_with_its_exit_code(self, bench: Bench) -> None:
        stage = Stage("first", [do("bad", ["exit", 7])])
        if not self.promises.survives_worker_death:
            self._dies_with_its_process(bench, stage)
            return
        run = bench.run(stage)
        assert run.state == "failed"
        assert "ended with exit code 7 in the middle of a partition (attempt 3" in str(run.error)

    def test_a_worker_that_ends_itself_before_it_is_ready_fails_the_run(self, bench: Bench) -> None:
        request = bench.request(Stage("first", [do("a")]), settings={"setup": "exit"})
        if not self.promises.survives_worker_death:
            with bench.elsewhere(request) as process:
                assert process.wait() == 5
            assert bench.env.runs.get("last").state == "lost"
            return
        run = AGI.run(bench.env, request)
        assert run.state == "failed"
        assert "does not start: " in str(run.error)
        assert "exit code 5" in str(run.error)

    @pytest.mark.parametrize("retries", [0, 1])
    def test_a_partition_that_ignores_signals_is_ended_by_its_timeout(self, bench: Bench, retries: int) -> None:
        """F23."""
        good = str(bench.folder / "good")
        hang = replace(do("hang", ["wait", good], ["hang", str(bench.folder / "pids")]), timeout_s=1.5)
        stage = Stage("first", [hang, do("good", ["write", "value", 1], ["touch", good])], retries=retries)
        if not self.promises.timeouts:
            self._refuses(bench, stage, "cannot end a partition after its timeout, and 'hang' has one of 1.5 s")
            return
        run = bench.run(stage)
        assert run.state == "failed"
        assert str(run.error).startswith("partition 'hang' of stage 'first' failed: timeout after 1.5 s")
        assert [one["reason"] for one in events(run, "failed")] == ["timeout"] * (retries + 1)
        assert [item.name for item in run.artifacts()] == ["value"]
        assert processes_marked(run.run_id) == []
        assert not any(map(is_alive, bench.pids("pids")))

    def test_the_timeout_of_a_request_holds_for_partitions_without_one(self, bench: Bench) -> None:
        hang = do("hang", ["hang", str(bench.folder / "pids")])
        request = bench.request(Stage("first", [hang]), cluster={"timeout_s": 0.25})
        if not self.promises.timeouts:
            assert "cannot end a partition after its timeout" in str(AGI.run(bench.env, request).error)
            return
        run = AGI.run(bench.env, request)
        assert "'hang' of stage 'first' failed: timeout after 0.25 s" in str(run.error)

    def test_a_worker_that_uses_more_memory_than_it_may_is_ended(self, bench: Bench) -> None:
        """F24."""
        steps: list[list[Any]] = [["bloat", 200 << 20]]
        if self.promises.isolated:
            steps.append(["wait", str(bench.folder / "never")])
        request = bench.request(Stage("first", [do("a", *steps)]), cluster={"memory_mib": 100})
        run = AGI.run(bench.env, request)
        if not self.promises.isolated:  # the process is the caller's, and so is its memory
            assert run.state == "succeeded"
            return
        assert run.state == "failed"
        assert re.search(r"was ended, out of memory: it used \d+ of 100 MiB \(memory_mib\) \(attempt 2", str(run.error))
        assert [one["reason"] for one in events(run, "failed")] == ["memory", "memory"]

    def test_what_a_partition_leaves_running_ends_with_the_run(self, bench: Bench) -> None:
        run = bench.run(Stage("first", [do("a", ["orphans", str(bench.folder / "pids")])])).check()
        if self.promises.isolated:
            assert not any(map(is_alive, bench.pids("pids")))
            assert processes_marked(run.run_id) == []
            return
        self._end_orphans(bench)

    def test_what_a_dead_worker_leaves_running_ends_with_it(self, bench: Bench) -> None:
        tries, gate = bench.folder / "tries", bench.folder / "gate"
        tries.mkdir()
        steps: list[list[Any]] = [
            ["orphans", str(bench.folder / "pids")],
            ["die_times", str(tries), 1],
            ["wait", str(gate)],
        ]
        stage = Stage("first", [do("a", *steps)])
        if not self.promises.survives_worker_death:
            self._dies_with_its_process(bench, stage)
            self._end_orphans(bench)
            return
        going = bench.start(stage)
        in_its_group, elsewhere = bench.pids("pids")
        going.wait_for(lambda: not is_alive(in_its_group))
        gate.touch()
        assert going.result().check().manifest["partitions"]["committed"] == 1
        assert not is_alive(elsewhere)

    def _end_orphans(self, bench: Bench) -> None:
        """End what worker code has started in a process that is not its own: that is the caller's, as with any call."""
        for pid in bench.pids("pids"):
            os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _dies_with_its_process(self, bench: Bench, stage: Stage) -> None:
        """A backend that cannot survive the death of worker code: the run is lost, and says so."""
        with bench.elsewhere(bench.request(stage)) as process:
            assert process.wait() != 0
        run = bench.env.runs.get("last")
        assert run.state == "lost"
        assert run.artifacts() == ()
        wait_until(lambda: not processes_marked(run.run_id))

    def _refuses(self, bench: Bench, stage: Stage, sentence: str) -> None:
        """A backend that cannot promise something says so in one line, before anything runs and before planning it."""
        request = bench.request(stage)
        with pytest.raises(BackendRefusedError, match=sentence):
            AGI.get_distrib(bench.env, request)
        run = AGI.run(bench.env, request)
        assert run.state == "failed"
        assert sentence in str(run.error)
        assert "\n" not in str(run.error)
        assert events(run, "dispatched") == []

    # --- cancelling -------------------------------------------------------------------------

    def test_a_cancelled_run_is_gone_in_time_however_often_it_is_asked(self, bench: Bench) -> None:
        """F27."""
        hang = do("hang", ["hang", str(bench.folder / "pids")])
        if not self.promises.parallel:  # a caller that is busy with a partition sees no file; the partition may
            hang = do("hang", ["write", "pids", 0], ["until_cancelled", str(bench.folder / "pids")])
        good = do("good", ["write", "value", 1])
        going = bench.start(Stage("first", [replace(good, weight=9.0), hang]), Stage("second", after="first"))
        going.until("committed", "good") if self.promises.parallel else going.until("dispatched", "hang")
        pids = bench.pids("pids") if self.promises.parallel else []
        run, other = going.run, going.run
        begun = time.monotonic()
        run.cancel()
        other.cancel()
        assert going.result().state == "cancelled"
        assert time.monotonic() - begun < self.gone_s
        assert not any(map(is_alive, pids))
        assert processes_marked(run.run_id) == []
        run.cancel()
        assert AGI.cancel(bench.env, run.run_id).state == "cancelled"
        self._ended_once(run, "cancelled")
        assert [item.name for item in run.artifacts() if item.partition == "good"] == ["value"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_cancels_the_run(self, bench: Bench, number: signal.Signals) -> None:
        """F5."""
        seen, started = bench.folder / "seen", bench.folder / "started"

        begun = [time.monotonic()]

        def interrupt(event: Mapping[str, Any]) -> None:
            if event["event"] == "log":
                begun[0] = time.monotonic()
                os.kill(os.getpid(), number)

        former = signal.getsignal(number)
        steps: list[list[Any]] = [
            ["touch", str(started)],
            ["log", "begun"],
            ["until_cancelled", str(seen)],
            ["write", "half", 1],
        ]
        parts = [do("a", *steps), *(do(f"p{i}") for i in range(9))]
        if self.promises.parallel:
            run = bench.run(Stage("first", parts), on_event=interrupt)
        else:
            run = self._interrupted_inside(bench, Stage("first", parts), [number])
        assert time.monotonic() - begun[0] < 10
        assert run.state == "cancelled"
        assert signal.getsignal(number) is former
        assert seen.read_text() == "True"
        assert run.artifacts() == ()  # what left early is not complete
        assert processes_marked(run.run_id) == []
        self._ended_once(run, "cancelled")

    def test_a_second_signal_ends_it_at_once(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """F5."""
        monkeypatch.setattr("agilab.supervisor.CANCEL_GRACE_S", 60.0)  # nothing may wait for that
        if not self.promises.parallel:
            steps = [["touch", str(bench.folder / "started")], ["wait", str(bench.folder / "never")]]
            run = self._interrupted_inside(bench, Stage("first", [do("a", *steps)]), [signal.SIGINT, signal.SIGINT])
            self._ended_once(run, "cancelled")
            return

        sent: list[float] = []

        def interrupt(event: Mapping[str, Any]) -> None:
            if event["event"] == "log":
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

        hang = do("hang", ["log", "begun"], ["hang", str(bench.folder / "pids")])
        run = bench.run(Stage("first", [hang]), on_event=interrupt)
        assert time.monotonic() - sent[0] < self.gone_s
        assert processes_marked(run.run_id) == []
        self._ended_once(run, "cancelled")

    def _interrupted_inside(self, bench: Bench, stage: Stage, numbers: Sequence[signal.Signals]) -> Run:
        """Send signals while a partition, which touches ``started``, has the only thread of its process."""
        with bench.elsewhere(bench.request(stage)) as process:
            wait_until((bench.folder / "started").exists)
            run = bench.env.runs.get("last")
            process.send_signal(numbers[0])
            if numbers[1:]:
                wait_until(run.paths.cancel_request.exists)  # the first has been heard
                process.send_signal(numbers[1])
            process.wait()
        return run

    def _ended_once(self, run: Run, state: str) -> None:
        assert run.state == state
        assert [one["outcome"] for one in events(run, "state") if one["state"] == "sealing"] == [state]
        assert run.manifest["state"] == state
        assert manifest.verify(run.paths).ok

    # --- what worker code may see -------------------------------------------------------------

    def test_worker_code_sees_neither_the_manager_package_nor_its_dependencies(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        planted = bench.folder / "planted"
        planted.mkdir()
        (planted / "only_here.py").write_text("")
        monkeypatch.syspath_prepend(planted)
        monkeypatch.setenv("PYTHONPATH", str(planted))
        names = ["probe", "only_here", "param", "click", "agilab.app"]
        run = bench.run(Stage("first", [do("a", ["import", *names, "agilab.points"])])).check()
        found = json.loads(run.artifact("imports").read_text())
        assert found.pop("agilab.points") == "imported"
        assert set(found.values()) == {"ModuleNotFoundError" if self.promises.isolated else "imported"}

    def test_the_environment_of_a_worker_is_an_allowlist(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROBE_PASSWORD", "not for workers")
        monkeypatch.setenv("PYTHONPATH", str(bench.folder))
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        run = bench.run(Stage("first", [do("a", ["environment", "seen"]), do("b")])).check()
        seen = json.loads(run.artifact("first/a/seen").read_text())
        assert ("PROBE_PASSWORD" in seen["variables"]) is not self.promises.isolated
        if self.promises.isolated:
            assert not {"PYTHONPATH", "VIRTUAL_ENV", "AGILAB_HOME"} & set(seen["variables"])
            assert str(bench.folder) not in seen["path"]
            cores = str(max(1, len(os.sched_getaffinity(0)) // 2))
            limits = {name: seen["variables"].get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
            assert limits == {"OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores}

    def test_a_secret_reaches_the_worker_and_nothing_else(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = "a password that nobody else has 4711"
        monkeypatch.setenv("PROBE_TOKEN", secret)
        lines: list[bytes] = []

        def look(event: Mapping[str, Any]) -> None:
            if event["event"] == "dispatched":
                lines.append(command_lines())

        stage = Stage("first", [do("a", ["secret", "digest"], ["environment", "seen"])])
        run = AGI.run(bench.env, bench.request(stage, settings={"token": "env:PROBE_TOKEN"}), on_event=look).check()
        assert json.loads(run.artifact("digest").read_text()) == hashlib.sha256(secret.encode()).hexdigest()
        assert run.request["settings"]["token"] == "env:PROBE_TOKEN"
        if self.promises.isolated:
            holders = [path for path in run.paths.root.rglob("*") if path.is_file() and secret in path.read_text()]
            assert holders == []
        assert lines
        assert all(secret.encode() not in text for text in lines)

    def test_a_secret_that_is_not_there_is_refused_before_there_is_a_run(self, bench: Bench) -> None:
        request = bench.request(Stage("first", [do("a")]), settings={"token": "env:PROBE_NOT_SET"})
        runs = len(bench.env.runs.list())
        with pytest.raises(SettingError, match="secret 'token' is env:PROBE_NOT_SET, but that variable is not set"):
            AGI.run(bench.env, request)
        assert len(bench.env.runs.list()) == runs
