"""A run on a host on loopback: what it leaves here and there, what is refused, what is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

import pytest

from agilab import AGI, InputRef, Run, Stage, manifest
from agilab.backends.base import on_hosts
from agilab.backends.dask import tls
from agilab.backends.ssh.collect import Collector
from agilab.backends.ssh.slots import HostLeases
from agilab.errors import BackendRefusedError
from agilab.testing import Bench, do, processes_marked
from agilab.testing.faults import Suite
from agilab.testing.probe import Going, command_lines, events, hashes, wait_until
from tests.backends.hostile import attack
from tests.hosts import SshServer, descendants, free_port

HOST = "runs"
GONE_S = 10.0


def content(run: Run) -> dict[str, Any]:
    """Return what a run left; of what partitions read, only the digests: paths differ from host to host."""
    found: dict[str, Any] = hashes(run)
    for item in run.artifacts():
        if item.name in ("seen", "read"):
            read = json.loads((run.paths.root / item.path).read_text())
            found[item.key] = {name: sha for name, (sha, _) in read.items() if name != "first/a/seen"}
    return found


def there(run: Run, host: SshServer) -> list[int]:
    """List the processes of a run below the host's sshd."""
    return sorted(set(processes_marked(run.run_id)) & set(descendants(host.pid)))


def results(host: SshServer) -> Path:
    """Return the folder on the host in which runs leave what was not collected."""
    [line] = [line for line in host.options if line.startswith("SetEnv ")]
    [wenv] = [word.partition("=")[2] for word in line.split() if word.startswith("AGILAB_WENV=")]
    return Path(wenv, ".runs")


def listening(pids: list[int]) -> set[str]:
    """Return the addresses on which processes listen. Source: proc(5), net/tcp."""
    inodes = {os.readlink(path) for pid in pids for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    found = set()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                found.add(local.partition(":")[0])
    return found


class TestOnAHost(Suite):
    backend = "ssh"
    cluster: ClassVar[Mapping[str, Any]] = {"workers": {HOST: 2}}

    @pytest.fixture(autouse=True)
    def host(self, run_host: SshServer) -> SshServer:
        """Have the host for every test."""
        return run_host

    def test_a_host_that_was_taken_over_runs_nothing_here(self, bench: Bench) -> None:
        """T37: it has the keys of the run."""
        going = self.held(bench)
        (bench.folder / "hit").mkdir()
        keys = tls.Certificates(bench.env.home.tls / going.run.run_id).security()
        assert attack(going.until("cluster")["scheduler"], keys, bench.folder / "hit") == set()
        with urlopen(going.until("cluster")["dashboard"]) as page:  # which imports much
            assert b"bokeh" in page.read()
        (bench.folder / "gate").touch()
        run = going.result().check()
        assert "a pickle names posix.mkdir, which nothing of AGILAB's sends" in run.logs("scheduler")
        assert {one["attempt"] for one in run.records()} == {1}

    def held(self, bench: Bench, *more: Any) -> Going:
        """Start a run that waits for the file ``gate``, and wait until its partition has begun."""
        hold = do(
            "hold", ["touch", str(bench.folder / "begun")], ["wait", str(bench.folder / "gate")], ["write", "x", 1]
        )
        going = bench.start(Stage("first", [replace(hold, weight=9.0), *more]))
        going.wait_for((bench.folder / "begun").exists)
        return going

    def test_it_leaves_what_a_local_run_leaves_and_nothing_on_the_host(
        self, bench: Bench, host: SshServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """T28, T36: no port beyond loopback, no key and no secret on a disk or a command line."""
        source = bench.folder / "rows.txt"
        source.write_text("some rows")
        secret = "a password that nobody else has 4712"
        monkeypatch.setenv("PROBE_TOKEN", secret)
        gate = bench.folder / "gate"
        first = Stage(
            "first",
            [
                replace(do("a", ["read", "seen"], ["secret", "digest"]), inputs=(InputRef("rows", str(source)),)),
                do("b", ["random", "numbers"], ["print", "said on the host"]),
                do("c", ["touch", str(bench.folder / "begun")], ["wait", str(gate)]),
            ],
        )
        stages = (first, Stage("second", after="first"))
        settings = {"token": "env:PROBE_TOKEN"}
        going = bench.follow(bench.request(*stages, settings=settings))
        going.wait_for((bench.folder / "begun").exists)
        run = going.run
        pids = processes_marked(run.run_id)
        assert there(run, host)
        assert listening(pids) == {"0100007F"}
        lines = command_lines()
        folder = results(host) / run.run_id
        kept = [path for path in folder.rglob("*") if path.is_file()]
        assert not any(b"PRIVATE KEY" in path.read_bytes() or secret.encode() in path.read_bytes() for path in kept)
        assert all(word not in lines for word in (b"PRIVATE KEY", secret.encode()))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        keys = bench.env.home.tls / run.run_id
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}
        gate.touch()
        run = going.result().check()

        local = AGI.run(
            bench.env, replace(bench, backend="local", cluster={}).request(*stages, settings=settings)
        ).check()
        assert not any(b"PRIVATE KEY" in path.read_bytes() for path in run.paths.root.rglob("*") if path.is_file())
        assert content(run) == content(local)
        assert manifest.verify(run.paths).ok
        assert {record["host"] for record in run.records()} == {HOST}
        assert run.manifest["backend"]["workers"] == [f"{HOST}-0", f"{HOST}-1"]
        [cluster] = events(run, "cluster")
        assert cluster["scheduler"].startswith("tls://127.0.0.1:")
        assert [(one["name"], one["slots"]) for one in cluster["hosts"]] == [(HOST, 2)]
        assert "said on the host" in run.logs(next(one["worker"] for one in run.records() if one["partition"] == "b"))
        assert not folder.exists()
        assert not keys.exists()
        assert processes_marked(run.run_id) == []

    def test_a_killed_supervisor_leaves_nothing_on_the_host_and_the_run_goes_on(
        self, bench: Bench, host: SshServer
    ) -> None:
        """F4."""
        hold = do(
            "hold", ["touch", str(bench.folder / "begun")], ["wait", str(bench.folder / "gate")], ["write", "x", 1]
        )
        stage = Stage("first", [replace(do("good", ["random", "numbers"]), weight=9.0), hold])
        with bench.elsewhere(bench.request(stage)) as process:
            wait_until((bench.folder / "begun").exists)
            run = bench.env.runs.get("last")
            wait_until(lambda: [one["partition"] for one in run.records()] == ["good"])
            assert there(run, host)
            os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not processes_marked(run.run_id), GONE_S)
        assert run.state == "lost"
        (bench.folder / "gate").touch()
        assert AGI.resume(bench.env, run.run_id).check() == run
        assert [one["partition"] for one in events(run, "dispatched")].count("good") == 1
        assert manifest.verify(run.paths).ok
        assert not (results(host) / run.run_id).exists()

    def test_a_dask_worker_that_is_killed_is_started_again(self, bench: Bench, host: SshServer) -> None:
        going = self.held(bench)
        [worker] = [pid for pid in there(going.run, host) if b"daskworker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(worker, signal.SIGKILL)
        going.until("failed", "hold")
        (bench.folder / "gate").touch()
        run = going.result().check()
        [failed] = events(run, "failed")
        assert (failed["reason"], failed["retry"]) == ("died", True)
        assert any("was ended by signal 9" in one["text"] for one in events(run, "note"))
        assert processes_marked(run.run_id) == []

    def test_a_scheduler_that_is_killed_is_started_again_with_the_workers(self, bench: Bench, host: SshServer) -> None:
        """F3."""
        going = self.held(bench)
        of_host = set(there(going.run, host))
        [scheduler] = [
            pid
            for pid in processes_marked(going.run.run_id)
            if pid not in of_host and b"agilab.backends.dask.host" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(scheduler, signal.SIGKILL)
        going.until("failed", "hold")
        (bench.folder / "gate").touch()
        run = going.result().check()
        assert "scheduler lost; it is started once more" in [one["text"] for one in events(run, "note")]
        assert len(events(run, "cluster")) == 2
        assert processes_marked(run.run_id) == []

    def test_a_host_that_is_gone_for_good_fails_the_run_in_one_line(self, bench: Bench, host: SshServer) -> None:
        """F9: its sshd is killed with every session."""
        going = self.held(bench)
        host.stop()
        try:
            run = going.result()
        finally:
            host.start()
        assert run.state == "failed"
        assert str(run.error).startswith(f"no host is left: host {HOST}: connection: nothing listens at 127.0.0.1 port")
        assert "\n" not in str(run.error)
        assert not any("worker code" in one["text"] for one in events(run, "note")), "which is not to blame"
        assert [one["reason"] for one in events(run, "failed")] == ["died"]
        wait_until(lambda: not processes_marked(run.run_id), GONE_S)

    def test_a_host_that_is_not_ready_keeps_the_run_from_starting_unless_others_may_go_on(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """F11."""
        config = Path.home() / ".ssh" / "config"
        config.write_text(f"{config.read_text()}Host shut\n  HostName 127.0.0.1\n  Port {free_port()}\n")
        hosts = {"shut": 1, HOST: 1}
        stage = Stage("first", [do(name) for name in "ab"])
        run = AGI.run(bench.env, bench.request(stage, cluster={"workers": hosts}))
        assert run.state == "failed"
        assert "1 of 2 hosts not ready (or go on without, with allow_partial_hosts): shut: connection" in str(run.error)
        assert "start sshd there" in str(run.error)
        assert events(run, "dispatched") == []
        partial = {"workers": hosts, "allow_partial_hosts": True}
        stage = Stage("first", [do("a"), replace(do("b", ["environment", "seen"]), resources={"gpu": 1})])
        monkeypatch.setenv("AGILAB_RESOURCES", "gpu=0")
        run = AGI.run(bench.env, bench.request(stage, cluster=partial)).check()
        assert json.loads(run.artifact("first/b/seen").read_text())["variables"]["CUDA_VISIBLE_DEVICES"] == "0"
        [cluster] = events(run, "cluster")
        assert cluster["hosts"][0]["resources"] == {"gpu": 1}, "the host's own count, not this machine's"
        assert cluster["hosts"][0]["memory_bytes"] > 2**20
        assert run.manifest["backend"]["workers"] == [f"{HOST}-0"]
        assert any("shut" in one["text"] and "goes on without" in one["text"] for one in events(run, "note"))

    @pytest.mark.parametrize("allowed", ["no", "remote"])
    def test_a_host_that_forwards_no_ports_is_told_with_the_fix(
        self, bench: Bench, host: SshServer, allowed: str
    ) -> None:
        host.stop()
        host.options.append(f"AllowTcpForwarding {allowed}")
        host.start()
        try:
            run = bench.run(Stage("first", [do("a")]))
        finally:
            host.stop()
            host.options.pop()
            host.start()
        assert str(run.error).startswith(f"no host is left: host {HOST}: link: a port cannot be forwarded: ")
        assert "AllowTcpForwarding yes" in str(run.error)

    def test_a_host_that_forges_a_record_fails_the_run(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """T32."""
        take = HostLeases._take

        def forged(self: HostLeases, slot: Any, said: Any) -> None:
            for record in [one[1] for one in said if one[0] == "committed"]:
                record["artifacts"][0]["name"] = "../x"
            take(self, slot, said)

        monkeypatch.setattr(HostLeases, "_take", forged)
        run = bench.run(Stage("first", [do("a", ["write", "x", 1])]))
        assert run.state == "failed"
        assert re.match(
            rf"a wrong record: host {HOST} said .* which makes no sense; nothing was written", str(run.error)
        )
        assert run.artifacts() == ()

    def test_a_host_that_forges_results_fails_the_run(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """T34."""
        collect = Collector.collect

        async def forged(self: Collector, record: Any, task: Any, there: Any) -> list[dict[str, Any]]:
            for item in record["artifacts"]:
                (there.root / item["path"]).write_text("2\n")
            return await collect(self, record, task, there)

        monkeypatch.setattr(Collector, "collect", forged)
        run = bench.run(Stage("first", [do("a", ["write", "x", 1])]))
        assert run.state == "failed"
        assert str(run.error).startswith(f"a wrong record: host {HOST} sent ")
        assert run.artifacts() == ()

    @pytest.mark.parametrize(
        ("cluster", "sentence"),
        [
            ({"workers": 2}, "needs the hosts and how many workers each may run; write --workers alpha=2,beta=4"),
            ({"workers": {"a@b": 1, "a:b": 1}}, "names hosts that only differ in signs"),
            (
                {"workers": {"a": 1}, "scheduler": "tcp://head:1"},
                "one that runs already is for backend 'dask'",
            ),
            (
                {"workers": 1, "backend": "dask", "collect": "none"},
                "collect is 'none', and backend 'dask' does not go to",
            ),
            ({"workers": 1, "backend": "local", "share": "/mnt/lab"}, "share is '/mnt/lab', and .* leave share out"),
            ({"workers": {"a": 1}, "backend": "local"}, "workers names hosts, and backend 'local' does not go to any"),
        ],
    )
    def test_options_that_do_not_fit_are_refused_before_there_is_a_run(
        self, bench: Bench, cluster: dict[str, Any], sentence: str
    ) -> None:
        request = bench.env.request({"plan": {"stages": []}}, cluster={"backend": "ssh", **cluster})
        with pytest.raises(BackendRefusedError, match=sentence):
            AGI.run(bench.env, request)
        assert bench.env.runs.list() == []


def test_few_workers_are_spread_over_all_hosts() -> None:
    assert list(on_hosts({"alpha": 2, "me@beta": 3}).items())[:3] == [
        ("alpha-0", "alpha"),
        ("me-beta-0", "me@beta"),
        ("alpha-1", "alpha"),
    ]
