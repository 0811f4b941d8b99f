"""Artifacts that stay on hosts with filesystems of their own: read by later stages, fetched, forged, out of reach."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, ArtifactRef, InputRef, Partition, Run, Stage, manifest
from agilab.errors import BackendRefusedError, EvidenceError, HostError
from agilab.testing import Bench, do, make_probe
from agilab.testing.probe import events, processes_marked, wait_until
from tests.hosts import SshServer, introduce, namespace_hosts

OWN_DISK = "mount -t tmpfs none {home}"
BIG = 60_000_000


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SshServer]]:
    """Return two hosts that see neither each other nor each other's disk, nor what tests write here."""
    hides_ours = f"mount -t tmpfs none {tmp_path_factory.getbasetemp()}"
    with namespace_hosts("alpha", "beta", mounts=(OWN_DISK, hides_ours), own_users=False) as made:
        introduce(*made)
        yield {server.name: server for server in made}


@pytest.fixture(scope="module")
def bench(servers: dict[str, SshServer], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("elsewhere")
    env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
    AGI.install(env)
    return Bench(env, "ssh", folder, {"workers": {"alpha": 1, "beta": 1}, "collect": "third/*"})


def on(host: str, ident: str, *steps: list[object], reads: tuple[str, ...] = ()) -> Partition:
    """Return a partition for a host that reads what partitions, as ``stage/id``, have written as ``value``."""
    refs = tuple(ArtifactRef(*name.split("/"), "value") for name in reads)
    return replace(do(ident, *steps), pin=f"{host}-0", inputs=refs)


def inside(server: SshServer, path: object) -> Path:
    """Return what a path of a host is from here."""
    return Path(f"/proc/{server.pid}/root{path}")


@pytest.fixture(scope="module")
def run(bench: Bench) -> Run:
    """Return a run of three stages, whose artifacts lie on both hosts but for those of the last."""
    write = ["write", "value"]
    return bench.run(
        Stage("first", [on("alpha", "a", [*write, "of a"]), on("beta", "b", ["fill", "big", BIG], [*write, "of b"])]),
        Stage("second", [on("beta", "c", [*write, "of c"], reads=("first/a", "first/b"))], after="first"),
        Stage(
            "third",
            [
                on("alpha", "d", ["read", "seen"], reads=("first/a", "second/c")),
                on("alpha", "e", ["read", "seen"], reads=("second/c",)),
            ],
            after="second",
        ),
    )


def lies_on(run: Run) -> dict[str, str]:
    return {item.key: item.location for item in run.artifacts()}


def test_stages_read_what_others_left_on_a_disk_they_do_not_see(run: Run, bench: Bench) -> None:
    run.check()
    assert lies_on(run) == {
        "first/a/value": "alpha",
        "first/b/big": "beta",
        "first/b/value": "beta",
        "second/c/value": "beta",
        "third/d/seen": "",
        "third/e/seen": "",
    }
    digests = {item.key: item.sha256 for item in run.artifacts()}
    for name, read in (("d", ("first/a/value", "second/c/value")), ("e", ("second/c/value",))):
        seen = json.loads(run.artifact(f"third/{name}/seen").read_text())
        assert {key: sha256 for key, (sha256, _) in seen.items()} == {key: digests[key] for key in read}
    sent = [event["text"] for event in events(run, "note") if ": sending value.json " in event["text"]]
    assert sorted(line.partition(":")[0] for line in sent) == ["alpha", "beta"], "each crossed once, to who lacked it"
    verified = manifest.verify(run.paths)
    assert verified.ok, verified.problems
    assert {host for _, host in verified.elsewhere} == {"alpha", "beta"}
    assert set(run.manifest["artifacts"]["elsewhere"]) == {"alpha", "beta"}
    assert {record["host"] for record in run.records()} == {"alpha", "beta"}
    local = replace(bench, backend="local", cluster={}).run(
        Stage("first", [do("a", ["write", "value", "of a"]), do("b", ["write", "value", "of b"])]),
        Stage("second", [do("c", ["write", "value", "of c"])], after="first"),
    )
    assert {item.key: item.sha256 for item in local.artifacts()}.items() <= digests.items()
    kept = {path.name for path in bench.env.wenv.data.iterdir()}
    assert not kept & set(digests.values()), "what passed through is not kept here"


def state_of(run: Run) -> tuple[str, str, dict[str, str]]:
    return run.state, run.manifest["partitions"]["digest"], lies_on(run)


def test_a_host_that_sends_something_else_is_refused_and_the_run_stays_as_it_was(
    run: Run, bench: Bench, servers: dict[str, SshServer]
) -> None:
    before = state_of(run)
    folder = run.manifest["artifacts"]["elsewhere"]["beta"]["folder"]
    path = inside(servers["beta"], f"{folder}/artifacts/second/c/value.json")
    good = path.read_bytes()
    for forged, message in ((good[:-1] + b"!", "instead of"), (good + b"more", "more than 7 bytes")):
        path.write_bytes(forged)
        with pytest.raises(
            EvidenceError, match=rf"host beta sent .*/second/c/value.json with .*{message}.*thrown away"
        ):
            AGI.fetch(bench.env, run.run_id, "second/*")
        assert state_of(run) == before
    path.write_bytes(good)
    AGI.fetch(bench.env, run.run_id, "second/*")
    assert run.artifact("second/c/value").read_bytes() == good
    assert manifest.verify(run.paths).ok


FETCH = """
import sys
import tempfile
from agilab import AGI, AgiEnv
AGI.fetch(AgiEnv(home=sys.argv[1], wenv=sys.argv[2]), sys.argv[3])
"""


def test_a_fetch_that_was_killed_while_bytes_came_is_done_again(run: Run, bench: Bench) -> None:
    before = state_of(run)
    words = [str(bench.env.home.root), str(bench.env.wenv.root), run.run_id]
    going = subprocess.Popen([sys.executable, "-c", FETCH, *words])
    wait_until(lambda: list(run.paths.fetched.rglob(".big.txt.*.tmp")) or going.poll() is not None)
    going.kill()
    assert going.wait() == -9
    assert state_of(run) == before
    assert manifest.verify(run.paths).ok
    told: list[str] = []
    found = AGI.fetch(bench.env, run.run_id, report=told.append)
    assert {item.key for item in found.artifacts} >= {"first/a/value", "first/b/big", "first/b/value"}
    assert sorted(line.partition(":")[0] for line in told)[-1] == "beta"
    assert run.artifact("first/b/big").stat().st_size == BIG
    assert (run.state, set(lies_on(run).values())) == ("succeeded", {""})
    verified = manifest.verify(run.paths)
    assert verified.ok, verified.problems


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder that both hosts see, with a file in it."""
    with tempfile.TemporaryDirectory(prefix="agilab-share-") as text:
        Path(text, "source.txt").write_text("some rows")
        yield Path(text)


def test_what_lies_in_a_folder_that_hosts_share_is_read_there_and_never_copied(
    run: Run, bench: Bench, shared: Path, servers: dict[str, SshServer]
) -> None:
    env = AgiEnv(bench.env.project.root, home=shared / "home", wenv=bench.env.wenv.root)
    source = InputRef("rows", str(shared / "source.txt"))
    read, write = ["read", "seen"], ["write", "value"]
    sharing = replace(bench, env=env, cluster={**bench.cluster, "share": str(shared), "collect": "second/*"})
    made = sharing.run(
        Stage("first", [replace(on("alpha", "a", read, [*write, "of a"]), inputs=(source,)), do("b")]),
        Stage("second", [on("beta", "c", read, [*write, "of c"], reads=("first/a",))], after="first"),
        Stage("third", [on("alpha", "d", read, reads=("second/c",))], after="second"),
    ).check()
    crossed = [event["text"] for event in events(made, "note") if ": sending " in event["text"]]
    assert not [line for line in crossed if "source.txt" in line or "value.json" in line]
    assert manifest.verify(made.paths).ok
    there = shared / f".agilab-{made.run_id}-alpha"
    assert [path.name for path in shared.glob(".agilab-*")] == [there.name], "no word, and nothing of beta"
    noted = inside(servers["alpha"], servers["alpha"].home / "wenv" / ".runs" / made.run_id)
    assert (noted / ".elsewhere").read_text() == str(there), "for `agilab cluster clean`"
    found = {}
    for key, folder in (("first/a", there), ("second/c", made.paths.root), ("third/d", there)):
        [(_, (_, path))] = json.loads(Path(folder, "artifacts", key, "seen.json").read_text()).items()
        found[key] = path
    assert found == {
        "first/a": str(shared / "source.txt"),
        "second/c": str(there / "artifacts/first/a/value.json"),
        "third/d": str(made.artifact("second/c/value")),
    }
    digests = [{item.key: item.sha256 for item in one.artifacts() if item.name == "value"} for one in (made, run)]
    assert digests[0].items() <= digests[1].items(), "with and without a share"


def test_the_scheduler_may_be_on_a_host_and_is_started_there_once_more(
    bench: Bench, servers: dict[str, SshServer], shared: Path
) -> None:
    """F3; hosts do not see each other, so that all they say passes through here."""
    hold = on("alpha", "a", ["touch", str(shared / "begun")], ["wait", str(shared / "gate")], ["write", "value", 1])
    options = {**bench.cluster, "collect": "all", "scheduler": "beta"}
    going = replace(bench, cluster=options).start(Stage("first", [hold, on("beta", "b", ["write", "value", 2])]))
    going.wait_for((shared / "begun").exists)
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_marked(going.run.run_id)}
    [scheduler] = [pid for pid, line in lines.items() if b"daskscheduler" in line]
    assert scheduler in servers["beta"].processes()
    assert not any(b"agilab.backends.dask.host" in line for line in lines.values()), "none is here"
    os.kill(scheduler, signal.SIGKILL)
    going.until("failed", "a")
    (shared / "gate").touch()
    run = going.result().check()
    assert "scheduler lost; it is started once more" in [one["text"] for one in events(run, "note")]
    assert processes_marked(run.run_id) == []
    with pytest.raises(BackendRefusedError, match="scheduler is 'beta', which is no address"):
        replace(bench, backend="dask", cluster={"scheduler": "beta"}).run(Stage("first", [do("a")]))


def test_hosts_that_do_not_see_the_folder_are_named_with_the_fix(bench: Bench, tmp_path: Path) -> None:
    blind = replace(bench, cluster={**bench.cluster, "share": str(tmp_path)}).run(Stage("first", [do("a")]))
    assert blind.state == "failed"
    assert f"share is {tmp_path}, and what is written there does not appear on alpha, beta" in str(blind.error)
    assert "mount the same folder there under that path, readable for you, or leave share out" in str(blind.error)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_is_gone_is_named_and_others_give_theirs(bench: Bench, servers: dict[str, SshServer]) -> None:
    left = bench.run(Stage("first", [on("alpha", "a", ["write", "value", 1]), on("beta", "b", ["write", "value", 2])]))
    before = state_of(left.check())
    servers["beta"].stop()
    with pytest.raises(HostError, match=r"host beta: connection: "):
        AGI.fetch(bench.env, left.run_id)
    assert state_of(left) == before
    AGI.fetch(bench.env, left.run_id, "first/a/*")
    assert lies_on(left) == {"first/a/value": "", "first/b/value": "beta"}
