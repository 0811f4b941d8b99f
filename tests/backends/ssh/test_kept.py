"""A service on a host: its workers stay there, and nothing of it when it has ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agilab import AGI, Stage, manifest, service
from agilab.testing.probe import do, events, hashes, processes_marked, wait_until
from tests.hosts import SshServer
from tests.served import Served, serving_probe

HOST = "warm"


@pytest.fixture(scope="module")
def served(run_host: SshServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with serving_probe(folder, folder / "wenv", "ssh", {HOST: 2}) as made:
        yield made


def name_of(served: Served) -> str:
    return service.marker_of(served.env.home.service("probe"))


def marked(served: Served) -> list[int]:
    return processes_marked(name_of(served))


def there(served: Served, host: SshServer) -> set[str]:
    """Name the folders that the service and its requests have on the host; other tests may use it too."""
    [line] = [line for line in host.options if line.startswith("SetEnv ")]
    [wenv] = [word.partition("=")[2] for word in line.split() if word.startswith("AGILAB_WENV=")]
    own = {name_of(served), *(run.run_id for run in served.env.runs.list())}
    return own & {path.name for path in Path(wenv, ".runs").iterdir()}


def dask_worker(served: Served) -> int:
    [pid] = [pid for pid in marked(served) if b"daskworker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def wait_until_idle(served: Served) -> None:
    wait_until(lambda: {one["state"] for one in served.status.workers} == {"idle"})


def test_requests_are_ordinary_runs_on_workers_that_stay_on_the_host(served: Served, run_host: SshServer) -> None:
    stage = Stage("first", [do("a", ["random", "numbers"]), do("b", ["random", "numbers"], ["print", "said there"])])
    first, pids = served.run(stage).check(), served.pids()
    second = served.run(stage).check()
    assert served.pids() == pids
    assert 0 not in pids
    assert [one["worker"] for one in served.status.workers] == [f"{HOST}-0", f"{HOST}-1"]
    local = replace(served.bench, backend="local", cluster={}).run(stage).check()
    assert hashes(first) == hashes(second) == hashes(local)
    assert manifest.verify(second.paths).ok
    assert {one["host"] for one in second.records()} == {HOST}
    assert [one["name"] for one in events(second, "cluster")[0]["hosts"]] == [HOST]
    speaker = next(one["worker"] for one in second.records() if one["partition"] == "b")
    assert second.logs(speaker).splitlines()[-2:] == ["said there", "torn down after 1 partitions"]
    assert there(served, run_host) == {name_of(served)}
    assert json.loads(served.run(Stage("first", [do("a", ["count"])])).artifact("first/a/count").read_text()) == 1


def test_a_worker_that_is_stopped_on_the_host_counts_as_one_that_cannot_work(served: Served) -> None:
    pid = served.pids()[0]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: AGI.service(served.env, "health").verdict == "unhealthy")
    assert f"{HOST}-0: its process {pid} is stopped" in AGI.service(served.env, "health").reason
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: AGI.service(served.env, "health").verdict == "ok")


def test_what_dies_on_the_host_is_started_again(served: Served) -> None:
    pids = served.pids()
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: served.pids()[0] not in (0, pids[0]))
    wait_until_idle(served)
    os.kill(dask_worker(served), signal.SIGKILL)
    wait_until(lambda: not {*pids} & {*served.pids()} and 0 not in served.pids())
    gate, begun = served.bench.folder / "gate", served.bench.folder / "begun"
    run = served.submit(Stage("first", [do("a", ["touch", str(begun)], ["wait", str(gate)])]))
    wait_until(begun.exists)
    os.kill(dask_worker(served), signal.SIGKILL)
    wait_until(lambda: events(run, "failed"))
    gate.touch()
    run.wait(30).check()
    assert [one["attempt"] for one in run.records()] == [2]
    wait_until_idle(served)


def test_a_host_that_was_lost_is_taken_back(served: Served, run_host: SshServer) -> None:
    """F9: its sshd is killed with every session."""
    run_host.stop()
    try:
        wait_until(lambda: "nothing listens" in AGI.service(served.env, "health").reason)
        assert {one["state"] for one in served.status.workers} == {"broken"}
        assert str(served.run(Stage("first", [do("a")])).error).startswith(f"no host is left: host {HOST}: connection:")
    finally:
        run_host.start()
    wait_until_idle(served)
    served.run(Stage("first", [do("a")])).check()


def test_changed_code_is_deployed_and_loaded(served: Served) -> None:
    init = served.env.project.worker / "__init__.py"
    init.write_text(init.read_text().replace('part.write("count", "json", self', 'part.write("count", "json", -self'))
    run = served.run(Stage("first", [do("a", ["count"])])).check()
    assert json.loads(run.artifact("first/a/count").read_text()) == -1
    assert run.manifest["code"]["worker_digest"] == served.status.record["worker_digest"]


def test_nothing_is_left_when_it_stops_or_is_killed(served: Served, run_host: SshServer) -> None:
    assert AGI.service(served.env, "stop").state == "stopped"
    assert marked(served) == []
    assert there(served, run_host) == set()
    init = served.env.project.worker / "__init__.py"
    init.write_text(f"{init.read_text()}\n# code that is not there yet\n")
    told: list[str] = []
    cluster = {"backend": "ssh", "workers": {HOST: 1}}
    assert AGI.service(served.env, "start", cluster=cluster, report=told.append).state == "running"
    assert any(line.startswith(f"{HOST}: sending probe_worker/") for line in told), told
    os.kill(served.status.record["pid"], signal.SIGKILL)
    wait_until(lambda: not marked(served) and not there(served, run_host))
    assert served.status.state == "lost"
