"""Backend `dask` on a scheduler that somebody else has started: the contract; what is missing is sent, and so on.

One cluster serves every run of a class, so that it is started once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from distributed import Client

from agilab import AGI, Run, Stage, __version__, manifest
from agilab.backends.dask import tls
from agilab.backends.dask.backplane import DISTRIBUTION, compare
from agilab.errors import BackendRefusedError
from agilab.testing import BackendTests, Bench, do, processes_marked
from agilab.testing.faults import Suite
from agilab.testing.probe import events, hashes, wait_until
from tests.backends.dask_cluster import packages, scheduler


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@contextmanager
def pickled_by_value() -> Iterator[None]:
    """Send functions of this module to workers that do not have it."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def answer_with_evil(path: str) -> None:
    import os

    from agilab.backends.dask import lease

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (path,)

    vars(lease).setdefault("usual", lease.sees)
    lease.sees = lambda text: Evil()  # type: ignore[assignment, return-value]


def answer_as_usual() -> None:
    from agilab.backends.dask import lease

    lease.sees = vars(lease)["usual"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the tests of this module a cluster with two workers."""
    folder = tmp_path_factory.mktemp("foreign")
    with scheduler(packages(folder), folder) as address:
        yield address


class TestContract(BackendTests):
    backend = "dask"
    test_runs_beyond_the_slots_of_the_machine_queue_visibly = None  # it uses none

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def goes_there(cls, address: str) -> None:
        """Let every run go to the cluster."""
        cls.cluster = {"scheduler": address}


class TestExistingScheduler(Suite):
    backend = "dask"

    def run(self, bench: Bench, address: str, *stages: Stage, **cluster: Any) -> Run:
        return AGI.run(bench.env, bench.request(*stages, cluster={"scheduler": address, **cluster}))

    def test_a_run_leaves_what_it_leaves_here(self, bench: Bench, address: str) -> None:
        stage = Stage("first", [do(name, ["random", "numbers"], ["metric", "rows", 2]) for name in "abc"])
        run = self.run(bench, address, stage).check()
        assert hashes(run) == hashes(AGI.run(bench.env, bench.request(stage, cluster={"backend": "local"})).check())
        assert run.manifest["backend"]["workers"] == ["dask-0", "dask-1"]
        assert manifest.verify(run.paths).ok
        assert processes_marked(run.run_id) == []

    def test_it_serves_one_run_after_the_other_and_uses_no_slot_of_this_machine(
        self, bench: Bench, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGILAB_SLOTS", "1")
        for _ in range(2):
            run = self.run(bench, address, Stage("first", [do("a"), do("b")]), workers=None).check()
            assert len(run.manifest["backend"]["workers"]) == 2
            assert "queued" not in [event["state"] for event in events(run, "state")]

    def test_a_partition_that_dies_or_hangs_is_ended_and_the_cluster_goes_on(self, bench: Bench, address: str) -> None:
        tries = bench.folder / "tries"
        tries.mkdir()
        self.run(bench, address, Stage("first", [do("a", ["die_times", str(tries), 2])])).check()
        hang = do("hang", ["hang", str(bench.folder / "pids")])
        run = self.run(bench, address, Stage("first", [hang]), timeout_s=0.3)
        assert "timeout after 0.3 s" in str(run.error)
        assert processes_marked(run.run_id) == []

    def test_a_cancelled_run_leaves_nothing_on_its_workers(self, bench: Bench, address: str) -> None:
        hang = do("hang", ["hang", str(bench.folder / "pids")])
        going = bench.follow(bench.request(Stage("first", [hang]), cluster={"scheduler": address}))
        bench.pids("pids")
        going.run.cancel()
        run = going.result()
        assert run.state == "cancelled"
        assert processes_marked(run.run_id) == []

    def test_what_its_workers_answer_runs_nothing_here(self, bench: Bench, address: str) -> None:
        """T37."""
        self.run(bench, address, Stage("first", [do("a")])).check()  # which has sent them what they lack
        with pickled_by_value(), Client(address, set_as_default=False) as client:
            client.run(answer_with_evil, str(bench.folder / "hit"))
            try:
                run = self.run(bench, address, Stage("first", [do("a")]))
            finally:
                client.run(answer_as_usual)
        assert run.state == "failed"
        assert "a pickle names posix.mkdir, which nothing of AGILAB's sends; it was not loaded" in str(run.error)
        assert "\n" not in str(run.error)
        assert not (bench.folder / "hit").exists()

    def test_nothing_stays_on_its_workers_when_the_supervisor_is_killed(self, bench: Bench, address: str) -> None:
        """F4: the workers live on, and so would what they drive, were it not ended there."""
        gate = bench.folder / "never"
        hold = do("hold", ["touch", str(bench.folder / "begun")], ["wait", str(gate)])
        request = bench.request(Stage("first", [hold, do("b")]), cluster={"scheduler": address})
        with bench.elsewhere(request) as process:
            wait_until((bench.folder / "begun").exists)
            run = bench.env.runs.get("last")
            [reaper] = [pid for pid in children(process.pid) if b"reaper.py" in command_line(pid)]
            os.kill(reaper, signal.SIGKILL)  # it sees this machine only
            process.kill()
        wait_until(lambda: not processes_marked(run.run_id))
        assert run.state == "lost"
        self.run(bench, address, Stage("first", [do("a")])).check()


class TestOtherSchedulers(Suite):
    backend = "dask"

    def fails(self, bench: Bench, **cluster: Any) -> str:
        run = AGI.run(bench.env, bench.request(Stage("first", [do("a")]), cluster=cluster))
        assert run.state == "failed"
        assert events(run, "dispatched") == []
        assert "\n" not in str(run.error)
        return str(run.error)

    def test_a_scheduler_that_is_killed_fails_the_run_which_keeps_what_it_has(self, bench: Bench) -> None:
        """F3."""
        begun = bench.folder / "begun"
        hold = do("hold", ["touch", str(begun)], ["wait", str(bench.folder / "never")])
        with scheduler(packages(bench.folder), bench.folder) as address:
            request = bench.request(
                Stage("first", [do("good", ["write", "value", 1]), hold]), cluster={"scheduler": address}
            )
            going = bench.follow(request)
            going.until("committed", "good")
            going.wait_for(begun.exists)
        run = going.result()
        assert run.state == "failed"
        assert str(run.error).startswith("scheduler lost")
        assert [item.name for item in run.artifacts()] == ["value"]
        assert processes_marked(run.run_id) == []

    def test_one_with_certificates_is_reached_with_them_and_not_without(self, bench: Bench) -> None:
        keys = tls.issue(bench.folder / "keys" / "theirs", "theirs")
        with scheduler(packages(bench.folder), bench.folder, security=keys.security()) as address:
            assert address.startswith("tls://")
            cluster = {"scheduler": address, "certificates": str(keys.folder)}
            AGI.run(bench.env, bench.request(Stage("first", [do("a")]), cluster=cluster)).check()
            assert f"scheduler {address} wants certificates" in self.fails(bench, scheduler=address)
            other = tls.issue(bench.folder / "keys" / "others", "others")
            error = self.fails(bench, scheduler=address, certificates=str(other.folder))
            assert f"no scheduler answers at {address}" in error

    def test_other_versions_are_refused_before_the_start_and_both_are_named(self, bench: Bench) -> None:
        """F26."""
        with scheduler(packages(bench.folder, {"msgpack": "0.9.9"}), bench.folder) as address:
            error = self.fails(bench, scheduler=address)
        assert "the scheduler runs msgpack 0.9.9, this manager " in error

    def test_an_address_where_nothing_answers_is_named(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("agilab.backends.dask.pool.CONNECT_S", 0.5)
        assert "no scheduler answers at tcp://127.0.0.1:1" in self.fails(bench, scheduler="tcp://127.0.0.1:1")

    def test_a_folder_without_certificates_is_refused(self, bench: Bench) -> None:
        error = self.fails(bench, scheduler="tls://127.0.0.1:1", certificates=str(bench.folder))
        assert f"certificates is {bench.folder}, which has no ca.pem" in error

    def test_a_scheduler_and_a_class_are_one_too_many(self, bench: Bench) -> None:
        error = self.fails(bench, scheduler="tcp://127.0.0.1:1", cluster_class="distributed.LocalCluster")
        assert "give one of them" in error

    def test_options_without_a_class_are_refused(self, bench: Bench) -> None:
        assert "without a cluster_class" in self.fails(bench, cluster_options={"host": "0.0.0.0"})


@pytest.mark.parametrize("name", ["python", "distributed", "cloudpickle"])
def test_what_runs_at_both_ends_must_agree(name: str) -> None:
    here = dict.fromkeys(("python", "distributed", "dask", "msgpack", "cloudpickle", "tornado"), "1.0")
    compare("worker x", here, here)
    compare("worker x", {**here, DISTRIBUTION: __version__}, here)
    with pytest.raises(BackendRefusedError, match=rf"worker x runs {name} 2\.0, this manager 1\.0; "):
        compare("worker x", {**here, name: "2.0"}, here)
    with pytest.raises(BackendRefusedError, match=rf"worker x has AGILAB 0\.0\.1, this manager {__version__}"):
        compare("worker x", {**here, DISTRIBUTION: "0.0.1"}, here)
