"""Backend `dask` on clusters of its own: a part of the contract, and what is its own: leases, kills, keys.

All of the contract is kept on a scheduler that serves every run (`test_dask_scheduler`), and here by hand
(`contract_on_a_cluster`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from distributed import Security

from agilab import AGI, Stage, manifest
from agilab.backends.base import Committed, Failed, Gone, Job, Returned
from agilab.backends.dask import tls
from agilab.backends.dask.link import Link, Slot, lost
from agilab.committer import Committer, Finished
from agilab.paths import RunPaths, make_folder
from agilab.testing import BackendTests, Bench, do, is_alive, processes_marked
from agilab.testing.faults import Suite
from agilab.testing.probe import Going, events, wait_until
from tests.backends.hostile import attack
from tests.backends.part import only

FAST_S = 10.0


@only(
    "test_a_run_leaves_artifacts_metrics_and_records_that_verify",
    "test_neither_order_nor_workers_nor_a_retry_change_what_a_run_leaves",
    "test_a_partition_whose_worker_is_killed_is_tried_again",
    "test_a_partition_that_kills_every_worker_fails_the_run_and_the_rest_is_kept",
    "test_a_worker_that_uses_more_memory_than_it_may_is_ended",
    "test_what_a_dead_worker_leaves_running_ends_with_it",
    "test_runs_beyond_the_slots_of_the_machine_queue_visibly",
    "test_a_cancelled_run_is_gone_in_time_however_often_it_is_asked",
    "test_a_second_signal_ends_it_at_once",
    "test_the_environment_of_a_worker_is_an_allowlist",
    "test_a_lost_run_goes_on_and_leaves_the_same_hashes",
)
class TestDask(BackendTests):
    backend = "dask"

    @pytest.mark.parametrize("retries", [0])
    def test_a_partition_that_ignores_signals_is_ended_by_its_timeout(self, bench: Bench, retries: int) -> None:
        """F23."""
        super().test_a_partition_that_ignores_signals_is_ended_by_its_timeout(bench, retries)

    @pytest.mark.parametrize("number", [signal.SIGTERM])
    def test_a_signal_cancels_the_run(self, bench: Bench, number: signal.Signals) -> None:
        """F5."""
        super().test_a_signal_cancels_the_run(bench, number)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def host_of(run_id: str) -> int:
    """Return the process that holds scheduler and nannies."""
    [found] = [pid for pid in processes_marked(run_id) if "agilab.backends.dask.host" in command_line(pid)]
    return found


def page_at(url: str) -> str:
    with urlopen(url) as answer:
        return answer.read().decode()


def entries_of(run_id: str) -> list[int]:
    return [pid for pid in processes_marked(run_id) if " -I " in command_line(pid)]


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """Return address and port of every TCP socket that processes listen on. Source: proc(5), net/tcp."""
    inodes = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:
                address, port = local.split(":")
                found.add((address, int(port, 16)))
    return found


class TestItsOwnCluster(Suite):
    backend = "dask"

    def held(self, bench: Bench, *more: Any, workers: int = 1) -> Going:
        """Start a run that waits for the file ``gate``, and wait until its partition has begun."""
        hold = do(
            "hold", ["touch", str(bench.folder / "begun")], ["wait", str(bench.folder / "gate")], ["write", "x", 1]
        )
        going = bench.follow(bench.request(Stage("first", [*more, hold]), cluster={"workers": workers}))
        going.wait_for((bench.folder / "begun").exists)
        return going

    def test_a_dask_worker_that_is_killed_costs_an_attempt_and_is_replaced(self, bench: Bench) -> None:
        going = self.held(bench, do("good", ["write", "value", 1]))
        [entry] = entries_of(going.run.run_id)
        os.kill(parent(entry), signal.SIGKILL)
        going.until("failed", "hold")
        wait_until(lambda: not is_alive(entry))
        (bench.folder / "gate").touch()
        run = going.result().check()
        [failed] = events(run, "failed")
        assert (failed["reason"], failed["retry"]) == ("died", True)
        assert "the Dask worker of dask-0 was lost" in failed["message"]
        assert {one["partition"]: one["attempt"] for one in run.records()} == {"good": 1, "hold": 2}
        assert manifest.verify(run.paths).ok

    def test_the_scheduler_is_started_once_more_and_then_the_run_fails(self, bench: Bench) -> None:
        """F3."""
        going = self.held(bench, do("good", ["write", "value", 1]))
        os.kill(host_of(going.run.run_id), signal.SIGKILL)
        assert "scheduler lost" in going.until("note")["text"]
        going.until("dispatched", "hold", count=2)
        os.kill(host_of(going.run.run_id), signal.SIGKILL)
        run = going.result()
        assert run.state == "failed"
        assert str(run.error).startswith("scheduler lost")
        assert "\n" not in str(run.error)
        assert [item.name for item in run.artifacts()] == ["value"]
        assert processes_marked(run.run_id) == []
        assert manifest.verify(run.paths).ok

    def test_after_a_loss_only_what_has_not_committed_runs_again(self, bench: Bench) -> None:
        """F3."""
        going = self.held(bench, do("good", ["write", "value", 1]))
        os.kill(host_of(going.run.run_id), signal.SIGKILL)
        going.until("failed", "hold")
        (bench.folder / "gate").touch()
        run = going.result().check()
        assert [one["partition"] for one in events(run, "dispatched")] == ["good", "hold", "hold"]
        assert len(events(run, "cluster")) == 2

    def test_the_pages_of_its_scheduler_come_up_when_somebody_asks(self, bench: Bench) -> None:
        going = self.held(bench)
        dashboard = going.until("cluster")["dashboard"]
        with ThreadPoolExecutor(2) as at_once:
            pages = list(at_once.map(page_at, [dashboard, dashboard.replace("status", "individual-task-stream")]))
        assert all("bokeh" in page for page in pages)
        with pytest.raises(HTTPError, match="404"):
            page_at(dashboard.replace("status", "nothing"))
        (bench.folder / "gate").touch()
        going.result().check()

    def test_nothing_outlives_a_supervisor_that_is_killed(self, bench: Bench) -> None:
        """F4."""
        hold = do("hold", ["hang", str(bench.folder / "pids")])
        with bench.elsewhere(bench.request(Stage("first", [hold]))) as process:
            pids = bench.pids("pids")
            run = bench.env.runs.get("last")
            assert len(processes_marked(run.run_id)) > len(pids)
            process.kill()
        wait_until(lambda: not processes_marked(run.run_id), FAST_S)
        wait_until(lambda: not any(map(is_alive, pids)), FAST_S)
        assert run.state == "lost"
        [sockets] = {json.loads(path.read_bytes())[3] for path in bench.env.home.tls.glob("*/owner.json")}
        assert Path(sockets).is_dir()
        bench.run(Stage("first", [do("a")])).check()
        assert list(bench.env.home.tls.iterdir()) == []  # the next run has swept what the dead one left
        assert not Path(sockets).exists()

    def test_a_damaged_worker_environment_is_made_again_before_a_run_and_named_in_one(self, bench: Bench) -> None:
        """F25."""
        python = AGI.install(bench.env).worker.python
        target = python.readlink()
        python.unlink()
        going = self.held(bench)
        [entry] = entries_of(going.run.run_id)
        assert python.readlink() == target
        python.unlink()
        try:
            os.kill(entry, signal.SIGKILL)
            run = going.result()
        finally:
            python.symlink_to(target)
        assert run.state == "failed"
        assert f"the worker cannot start: {python} cannot be run: No such file or directory" in str(run.error)

    def test_every_port_is_on_loopback_and_wants_the_keys_of_the_run(self, bench: Bench) -> None:
        going = self.held(bench)
        run_id = going.run.run_id
        keys = bench.env.home.tls / run_id
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}
        open_ = listening(processes_marked(run_id))
        assert {address for address, _ in open_} == {"0100007F"}
        address = going.until("cluster")["scheduler"]
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            strange_client(int(address.rpartition(":")[2]))
        (bench.folder / "gate").touch()
        going.result().check()
        assert not keys.exists()

    def test_whoever_has_its_keys_may_run_code_in_it(self, bench: Bench) -> None:
        """That is its owner, and nobody else; of a run on hosts it is those too, see there."""
        going = self.held(bench)
        (bench.folder / "hit").mkdir()
        keys = tls.Certificates(bench.env.home.tls / going.run.run_id).security()
        found = attack(going.until("cluster")["scheduler"], keys, bench.folder / "hit")
        assert found == {"message", "function", "graph", "file", "annotation"}
        (bench.folder / "gate").touch()
        going.result().check()

    def test_many_short_partitions_travel_in_few_leases(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        send = Link._lease

        def count(self: Link, slot: Slot, tasks: Any, *, time_s: float | None) -> None:
            sizes.append(len(tasks))
            send(self, slot, tasks, time_s=time_s)

        monkeypatch.setattr(Link, "_lease", count)
        run = bench.run(Stage("first", [do(f"p{number}", ["write", "x", number]) for number in range(200)])).check()
        assert len({one["partition"] for one in run.records()}) == 200
        assert sizes[0] == 1
        assert len(sizes) < 100

    def test_nothing_waits_behind_a_partition_that_takes_longer_than_those_before(self, bench: Bench) -> None:
        """Whatever was leased together with it is given back, and ends on the other worker."""
        gate = bench.folder / "gate"
        heard: list[str] = []

        def open_gate(event: Mapping[str, Any]) -> None:
            heard.append(event["event"])
            if heard.count("committed") == 119:  # the worker may have one more in its pipe
                gate.touch()

        parts = [replace(do(f"p{number}", ["write", "x", 1]), weight=2.0) for number in range(60)]
        parts += [replace(do("long", ["wait", str(gate)]), weight=2.0)]
        parts += [do(f"q{number}", ["write", "x", 1]) for number in range(60)]
        run = bench.run(Stage("first", parts), on_event=open_gate).check()
        assert {one["attempt"] for one in run.records()} == {1}

    def test_the_log_of_scheduler_and_workers_lies_in_the_run(
        self, bench: Bench, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run = bench.run(Stage("first", [do("a")])).check()
        assert "Scheduler at:" in run.logs("scheduler")
        assert "Registered to:" in run.logs("scheduler")
        assert capfd.readouterr() == ("", "")

    def test_a_class_makes_the_cluster_and_ends_it(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        (bench.folder / "mine.py").write_text(_CLASS.format(closed=str(bench.folder / "closed")))
        monkeypatch.setenv("PYTHONPATH", str(bench.folder))
        cluster = {"cluster_class": "mine.Mine", "cluster_options": {"threads": 2}, "workers": None}
        run = AGI.run(bench.env, bench.request(Stage("first", [do("a"), do("b")]), cluster=cluster)).check()
        assert run.manifest["backend"]["workers"] == ["dask-0", "dask-1"]
        assert run.request["cluster"]["cluster_class"] == "mine.Mine"
        assert (bench.folder / "closed").exists()
        assert processes_marked(run.run_id) == []

    def test_jobs_of_dask_jobqueue_run_what_a_queue_would(self, bench: Bench) -> None:
        """Its class for this machine runs the script that its classes for Slurm and others submit."""
        options = {"cores": 1, "processes": 1, "memory": "1 GiB", "local_directory": str(bench.folder)}
        options |= {"scheduler_options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
        cluster = {"cluster_class": "dask_jobqueue.local.LocalCluster", "cluster_options": options, "workers": 1}
        run = AGI.run(bench.env, bench.request(Stage("first", [do("a", ["write", "x", 1])]), cluster=cluster)).check()
        assert run.artifact("x").read_text() == "1\n"
        assert processes_marked(run.run_id) == []

    def test_a_class_that_cannot_make_one_is_named_in_one_line(self, bench: Bench) -> None:
        for name, why in (
            ("distributed.NoSuchCluster", "AttributeError"),
            ("no_such_package.Cluster", "ModuleNotFound"),
        ):
            run = AGI.run(bench.env, bench.request(Stage("first", [do("a")]), cluster={"cluster_class": name}))
            assert run.state == "failed"
            assert "the cluster does not start: " in str(run.error)
            assert why in str(run.error)
            assert "\n" not in str(run.error)


_CLASS = """
from pathlib import Path
from distributed import LocalCluster


class Mine(LocalCluster):
    def __init__(self, threads):
        super().__init__(n_workers=1, threads_per_worker=threads, processes=False,
                         host="127.0.0.1", protocol="tcp", dashboard_address="127.0.0.1:0")

    def close(self, timeout=None):
        Path({closed!r}).touch()
        return super().close(timeout)
"""


def strange_client(port: int) -> bytes:
    """Say something to a port over TLS as another user of the machine would: without the keys of the run."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as raw, context.wrap_socket(raw) as secured:
        secured.settimeout(5)
        secured.sendall(b"x" * 64)
        answer = secured.recv(64)
        if not answer:
            raise ConnectionResetError("closed")
        return answer


# --- keys ---------------------------------------------------------------------


def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    one, two = tls.issue(tmp_path / "tls" / "one", "one"), tls.issue(tmp_path / "tls" / "two", "two")
    assert handshake(one, one)
    assert not handshake(one, two)
    assert not handshake(two, one)


def test_nothing_older_than_tls_1_2_is_spoken_and_nothing_in_the_clear(tmp_path: Path) -> None:
    security = Security(**tls.issue(tmp_path / "tls" / "one", "one").security())
    for role in ("scheduler", "worker", "client"):
        said = security.get_connection_args(role)
        assert said["require_encryption"]
        assert said["ssl_context"].minimum_version >= ssl.TLSVersion.TLSv1_2
        assert said["ssl_context"].verify_mode is ssl.CERT_REQUIRED


def handshake(server: tls.Certificates, client: tls.Certificates) -> bool:
    """Try a mutual TLS handshake in memory."""
    sides = []
    for keys, purpose in ((server, ssl.Purpose.CLIENT_AUTH), (client, ssl.Purpose.SERVER_AUTH)):
        context = ssl.create_default_context(purpose, cafile=str(keys.folder / "ca.pem"))
        context.check_hostname, context.verify_mode = False, ssl.CERT_REQUIRED
        context.load_cert_chain(keys.folder / "cert.pem", keys.folder / "key.pem")
        sides.append(context)
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    pair = [sides[0].wrap_bio(a, b, server_side=True), sides[1].wrap_bio(b, a)]
    done = set()
    for _ in range(10):
        for side in pair:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return len(done) == 2


# --- how large leases are -----------------------------------------------------------


def test_leases_grow_to_the_time_they_should_take_and_further_where_they_come_slowly() -> None:
    def sizes(gap_s: float) -> list[int]:
        slot, found = Slot("dask-0"), []
        for _ in range(8):
            slot.measure({"finished": slot.size, "busy_s": slot.size * 0.002, "gap_s": gap_s}, 0.1)
            found.append(slot.size)
        return found

    assert sizes(0.001)[:4] == [8, 50, 50, 50]
    assert sizes(0.05)[-1] in range(240, 252)  # half a second
    assert sizes(3.0)[-1] in range(480, 502)  # a second at most


# --- what a lost slot held ------------------------------------------------------


def test_of_what_a_lost_slot_held_the_recorded_is_kept_and_the_begun_has_failed(tmp_path: Path) -> None:
    paths = RunPaths(make_folder(tmp_path / "20260101-000000-0000"))
    tasks = {name: {"id": name, "stage": "one", "attempt": 2} for name in ("recorded", "renamed", "begun", "waiting")}
    for name in ("recorded", "begun"):
        make_folder(paths.attempt(name, 2))
    record = {"schema": "agilab.partition/1", "partition": "recorded", "stage": "one", "worker": "dask-0"}
    committer = Committer(paths)
    committer.put(Finished(str(paths.attempt("recorded", 2)), {**record, "attempt": 2, "artifacts": []}))
    assert [commit.error for commit in committer.close()] == [None]
    make_folder(paths.partition("one", "renamed"))  # moved into place, and killed before the record was durable
    with open(paths.records("dask-0"), "ab") as file:
        file.write(b'{"schema": "agilab.partition/1", "part')

    job: Any = Job(paths, None, {}, 1)  # type: ignore[arg-type]
    gone, *found = lost(job, Slot("dask-0", tasks=tasks), "lost")
    assert isinstance(gone, Gone)
    kinds = {event.partition: type(event) for event in found}  # type: ignore[union-attr]
    assert kinds == {"recorded": Committed, "renamed": Failed, "begun": Failed, "waiting": Returned}
    assert not paths.partition("one", "renamed").exists()
    assert paths.attempt("renamed", 2).exists()
