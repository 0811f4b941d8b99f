"""Hosts with users, paths and links of their own: links that fall silent, disks that are full, clocks that are off.

Each host is a network namespace. Where those are not permitted this file is
not collected, and `test_namespaces` says why.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, ArtifactRef, InputRef, Stage, WorkPlan, digest, manifest
from agilab.backends.ssh import connection
from agilab.backends.ssh.hosts import Hosts
from agilab.backends.ssh.link import Command
from agilab.errors import HostError, NoSpaceError
from agilab.paths import WenvPaths
from agilab.testing import Bench, do
from agilab.testing.probe import events, make_probe
from tests.hosts import FAKETIME, SshServer, introduce, namespace_hosts, warm_hosts

WaitFor = Callable[..., object]
NOTICED_S = 20.0
PINNED = (("a", "alpha"), ("b", "beta"))


@pytest.fixture
def two(home: Path) -> Iterator[list[SshServer]]:
    """Return two hosts that do not see each other."""
    with namespace_hosts("alpha", "beta") as servers:
        introduce(*servers)
        yield servers


def test_hosts_have_users_and_paths_of_their_own(hosts: Hosts, two: list[SshServer], tmp_path: Path) -> None:
    who = {
        server.name: hosts.run(server.name, Command(("sh", "-c", "id -un; echo $HOME"), "run")).stdout.split()
        for server in two
    }
    assert who == {server.name: [server.user, str(server.home)] for server in two}
    path = tmp_path / "out.bin"
    path.write_bytes(b"x" * 1000)
    there = Path(hosts.put("alpha", path, digest.of_file(path))[0])
    got, sha256 = hosts.fetch("alpha", str(there.parent), there.name, into=tmp_path / "in")
    assert Path(hosts.put("beta", got, sha256)[0]).is_relative_to(two[1].home)


def test_a_link_that_falls_silent_is_noticed_and_what_ran_there_ends(
    hosts: Hosts, two: list[SshServer], wait_for: WaitFor
) -> None:
    alpha, _ = two
    lines: list[str] = []
    process = hosts.start(
        "alpha", Command(("sh", "-c", "echo up; sleep 600"), "run"), lambda stream, line: lines.append(line)
    )
    wait_for(lambda: lines == ["up"], 10)
    alpha.cut()
    begun = time.monotonic()
    with pytest.raises(HostError, match="the attempt has failed"):
        process.wait(60)
    assert time.monotonic() - begun < NOTICED_S
    assert hosts.preflight(["alpha", "beta"])[1].ok
    wait_for(lambda: not alpha.busy(), 30)  # though nobody could tell it
    alpha.mend()
    wait_for(lambda: hosts.preflight(["alpha"])[0].ok, 30)


def test_a_link_that_is_down_for_three_seconds_disturbs_nothing(
    hosts: Hosts, two: list[SshServer], wait_for: WaitFor
) -> None:
    alpha, _ = two
    lines: list[str] = []
    count = "i=0; while [ $i -lt 50 ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 5"
    process = hosts.start("alpha", Command(("sh", "-c", count), "run"), lambda stream, line: lines.append(line))
    wait_for(lambda: len(lines) > 3, 10)
    alpha.cut()
    back = time.monotonic() + 3
    wait_for(lambda: time.monotonic() > back, 10)
    alpha.mend()
    assert process.wait(40) == 5
    assert lines == [str(number) for number in range(50)]
    assert alpha.log.count("Accepted publickey") == 1


def test_a_link_that_is_down_for_three_seconds_keeps_no_host_from_being_ready(
    hosts: Hosts, two: list[SshServer], wait_for: WaitFor
) -> None:
    """F10: nor when it is down just as the host is asked."""
    alpha, _ = two
    alpha.cut()
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(hosts.preflight, ["alpha"])
        back = time.monotonic() + 3.2  # the kernel gives up after 3.1
        wait_for(lambda: time.monotonic() > back, 10)
        assert not asked.done()
        alpha.mend()
        (check,) = asked.result(20)
    assert check.ok, check


def test_hosts_out_of_reach_are_told_within_ten_seconds(hosts: Hosts, two: list[SshServer]) -> None:
    alpha, beta = two
    alpha.cut()
    beta.stop()
    begun = time.monotonic()
    cut, closed = hosts.preflight(["alpha", "beta"])
    assert time.monotonic() - begun < 10
    assert (cut.step, closed.step) == ("connection", "connection")
    assert "nothing listens" in closed.problem


SMALL = "mount -t tmpfs -o size=SIZE,mode=0700,uid={uid},gid={uid} none {home}"


def test_a_disk_that_fills_up_during_a_transfer_is_told_too(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(b"x" * 2_000_000)
    with namespace_hosts("full", mounts=(SMALL.replace("SIZE", "3m"),)) as (server,):
        introduce(server)

        def fill(line: str) -> None:  # the last word before the bytes go
            inside = Path(f"/proc/{server.pid}/root{server.home}/fill")
            with suppress(OSError), open(inside, "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)

        with Hosts(WenvPaths(home.parent / "wenv"), fill) as hosts:
            with pytest.raises(
                NoSpaceError, match=r"host full: no space on disk for .*: 2000000 bytes needed, \d+ free"
            ):
                hosts.put("full", path, digest.of_file(path))
            inside = Path(f"/proc/{server.pid}/root{server.home}/wenv/.data")
            assert [item.name for item in inside.iterdir()] == [f".{digest.of_file(path)}.lock"]


def test_a_full_disk_is_told_with_need_and_free_space(hosts: Hosts, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(b"x" * 2_000_000)
    with namespace_hosts("full", mounts=(SMALL.replace("SIZE", "1m"),)) as servers:
        introduce(*servers)
        (check,) = hosts.preflight(["full"])
        assert (check.step, "agilab cluster clean full" in check.fix) == ("disk", True)
        with pytest.raises(NoSpaceError, match=r"host full: no space on disk for .*: 2000000 bytes needed, \d+ free"):
            hosts.put("full", path, digest.of_file(path))
        fill = "rm -rf .cache; head -c 2000000 /dev/zero > fill 2>/dev/null; ls -A .cache wenv/.data"
        said = hosts.run("full", Command(("sh", "-c", fill), "run", folder=str(servers[0].home)))
        assert said.stdout.split() == ["wenv/.data:", f".{digest.of_file(path)}.lock"]
        with pytest.raises(
            NoSpaceError, match=r"host full: no space on disk for .*\.cache/agilab/host/.* needed, 0 free"
        ):
            hosts.run("full", Command(("true",), "run"))


def test_a_run_on_hosts_with_nothing_in_common_survives_the_loss_of_one(
    hosts: Hosts, two: list[SshServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F8: inputs and earlier artifacts go through the manager; what a silent host had is done by the other."""
    monkeypatch.setattr(connection, "KEEPALIVE_S", 0.5)
    source = tmp_path / "rows.txt"
    source.write_text("some rows")
    refs = (InputRef("rows", str(source)), ArtifactRef("first", "a", "x"), ArtifactRef("first", "b", "x"))
    env = AgiEnv(make_probe(tmp_path))
    env.prepare()
    hosts.deploy_backplane([server.name for server in two])
    with tempfile.TemporaryDirectory(prefix="agilab-gate-") as gate:
        os.chmod(gate, 0o777)
        hold = [["log", "begun"], ["wait", f"{gate}/open"]]
        plan = WorkPlan(
            (
                Stage("first", [replace(do(name, ["random", "x"]), pin=f"{host}-0") for name, host in PINNED]),
                Stage("second", [replace(do("c", *hold, ["read", "seen"]), inputs=refs)], after="first"),
            )
        )
        bench = Bench(env, "ssh", tmp_path, {"workers": {"alpha": 1, "beta": 1}})
        going = bench.start(*plan.stages)
        going.until("log", "c")
        busy = next(server for server in two if server.name == going.until("dispatched", "c")["worker"][:-2])
        busy.cut()
        failed = going.until("failed", "c")
        assert (failed["reason"], failed["retry"]) == ("died", True)
        Path(gate, "open").touch()
        run = going.result().check()
    ran = {record["partition"]: record["host"] for record in run.records()}
    assert ran == {"a": "alpha", "b": "beta", "c": next(server.name for server in two if server is not busy)}
    read = json.loads(run.artifact("second/c/seen").read_text())
    assert {name: sha for name, (sha, _) in read.items()} == {
        "rows": digest.of_file(source),
        **{f"first/{name}/x": digest.of_file(run.artifact(f"first/{name}/x")) for name in "ab"},
    }
    assert manifest.verify(run.paths).ok


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench whose hosts a test names."""
    env = AgiEnv(make_probe(tmp_path), home=tmp_path / "home", wenv=tmp_path / "wenv")
    env.prepare()
    return Bench(env, "ssh", tmp_path)


def test_a_run_on_a_host_whose_disk_is_full_says_so_and_keeps_what_it_has(
    home: Path, bench: Bench, shared_folder: Path
) -> None:
    """F16: the disk for results; what is there of a partition that had no room is removed."""
    with warm_hosts("small", shared=shared_folder, results="mode=700,size=4m") as (server,):
        parts = [replace(do("good", ["write", "x", 1]), weight=9.0), do("large", ["fill", "big", 6_000_000])]
        run = AGI.run(bench.env, bench.request(Stage("first", parts), cluster={"workers": {"small": 1}}))
        assert run.state == "failed"
        assert re.search(
            r"'large' of stage 'first' failed: .*no space on disk.*big\.txt.*\d+ bytes free", str(run.error)
        )
        assert [item.name for item in run.artifacts()] == ["x"]
        assert manifest.verify(run.paths).ok
        there = Path(f"/proc/{server.pid}/root{shared_folder}/host_wenv/.runs")
        assert list(there.iterdir()) == []


def test_a_clock_that_is_an_hour_off_is_told_and_shifts_nothing(home: Path, bench: Bench, shared_folder: Path) -> None:
    """F13: every process there is an hour behind, sshd's as well."""
    behind = (
        f"cp -a /etc {{home}} && echo {FAKETIME} > {{home}}/etc/ld.so.preload && echo -1h > {{home}}/etc/faketimerc"
    )
    with warm_hosts("late", shared=shared_folder, mounts=(behind, "mount --bind {home}/etc /etc")):
        run = AGI.run(bench.env, bench.request(Stage("first", [do("a")]), cluster={"workers": {"late": 1}})).check()
    [cluster] = events(run, "cluster")
    assert -3602 < cluster["hosts"][0]["skew_s"] <= -3598
    assert any("host late: its clock is 3600 s behind" in one["text"] for one in events(run, "note"))
    [record] = run.records()
    told = datetime.fromisoformat(events(run, "dispatched")[0]["t"])
    assert abs(datetime.fromisoformat(record["started"]) - told) < timedelta(minutes=1)
    assert record["wall_s"] < 60
