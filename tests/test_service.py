"""Services: requests to warm workers are ordinary runs, and whatever dies, nothing is left and nothing is claimed."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from agilab import AGI, AgiEnv, Stage, manifest, service, serving
from agilab.errors import AgilabError, RequestError, ServiceError
from agilab.kept import Kept
from agilab.service import Health, Status
from agilab.testing.probe import do, events, hashes, is_alive, make_probe, processes_marked, wait_until
from tests.run_folder import conform
from tests.served import Served, serving_probe

ALLOWED = {"allow_idle": True, "max_unhealthy": 0, "max_restart_rate": 6.0}


@pytest.fixture(scope="module")
def two_slots() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGILAB_SLOTS", "2")
        yield


@pytest.fixture(scope="module")
def wenv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service_wenv")


@pytest.fixture(scope="module")
def shared(two_slots: None, wenv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a service for tests that leave it as it was."""
    with serving_probe(tmp_path_factory.mktemp("service"), wenv) as served:
        yield served


@pytest.fixture
def own(two_slots: None, wenv: Path, tmp_path: Path) -> Iterator[Served]:
    """Return a service that the test may break."""
    with serving_probe(tmp_path, wenv) as served:
        yield served


def refusal(kind: type[AgilabError], *words: Any, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        AGI.service(*words, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def steps(*names: str) -> Stage:
    return Stage("first", [do(name, ["random", "numbers"], ["metric", "rows", 2], ["count"]) for name in names])


# --- a request is a run ---


def test_a_request_is_an_ordinary_run_with_the_hashes_of_one(shared: Served) -> None:
    stage = Stage("first", [do(name, ["random", "numbers"], ["metric", "rows", 2]) for name in "ab"])
    run, alone = shared.run(stage).check(), shared.bench.run(stage).check()
    assert hashes(run) == hashes(alone)
    assert run.request["digest"] == alone.request["digest"]
    assert run.metrics == alone.metrics
    assert {event["event"] for event in run.events()} == {event["event"] for event in alone.events()}
    assert manifest.verify(run.paths).ok
    assert run.run_id in [one.run_id for one in shared.env.runs.list()]
    assert stat.S_IMODE(run.paths.root.stat().st_mode) == 0o700


def test_workers_are_kept_and_what_one_request_leaves_is_not(shared: Served) -> None:
    before = shared.pids()
    first = shared.run(Stage("first", [do("a", ["print", "said aloud"], ["count"], ["bloat", 10])]))
    second = shared.run(Stage("first", [do("b", ["count"], ["environment", "seen"])]))
    assert json.loads(second.artifact("first/b/count").read_text()) == 1
    assert shared.pids() == before
    assert shared.status.record["restarts_per_hour"] == 0
    log = (first.paths.logs / "local-0.log").read_text().splitlines()
    assert (log.count("said aloud"), log[-1]) == (2, "torn down after 1 partitions")
    assert "said aloud" not in (second.paths.logs / "local-0.log").read_text()
    assert manifest.verify(first.paths).ok
    variables = json.loads(second.artifact("first/b/seen").read_text())["variables"]
    assert not {name for name in variables if name.startswith("AGILAB_")} - {"AGILAB_RUN"}


def test_a_request_that_fails_harms_no_later_one(shared: Served) -> None:
    assert "setup was told to fail" in str(shared.run(steps("a"), setup="raise").error)
    assert "ValueError: first line" in str(shared.run(Stage("first", [do("a", ["raise", "value"])])).error)
    assert "exit code 5" in str(shared.run(steps("a"), setup="exit").error)
    assert shared.run(steps("a")).state == "succeeded"
    wait_until(lambda: {one["state"] for one in shared.status.workers} == {"idle"})


def test_requests_run_one_after_the_other_and_a_waiting_one_can_be_cancelled(shared: Served) -> None:
    gate = shared.bench.folder / "gate"
    first = shared.submit(Stage("first", [do("a", ["wait", str(gate)])]))
    second, third = shared.submit(steps("b")), shared.submit(steps("c"))
    assert [one.state for one in (second, third)] == ["queued", "queued"]
    assert shared.status.going == (first.run_id, second.run_id, third.run_id)
    assert AGI.cancel(shared.env, second.run_id).state == "cancelled"
    assert first.state == "running"
    gate.touch()
    assert [one.wait(30).state for one in (first, third)] == ["succeeded", "succeeded"]
    assert manifest.verify(second.paths).ok


def test_the_running_request_can_be_cancelled(shared: Served) -> None:
    seen = shared.bench.folder / "cancelled"
    run = shared.submit(Stage("first", [do("a", ["touch", f"{seen}.begun"], ["until_cancelled", str(seen)])]))
    wait_until(Path(f"{seen}.begun").exists)
    assert AGI.cancel(shared.env, run.run_id).state == "cancelled"
    assert shared.run(steps("a")).state == "succeeded"


def test_a_request_that_does_not_fit_is_refused(shared: Served) -> None:
    env, request = shared.env, shared.bench.request(steps("a"), cluster={"workers": 1})
    assert "asks for workers 1, its service runs with 2" in refusal(RequestError, env, "submit", request)
    assert "unknown" in refusal(AgilabError, env, "submit", {"unknown": 1})
    assert "cannot 'begin'" in refusal(RequestError, env, "begin")
    other = {**shared.bench.request(steps("a")).to_json(), "digest": "0" * 64}
    with pytest.raises(RequestError, match="has digest"):
        service._ask(env.home.service("probe"), {"op": "submit", "request": other})
    with pytest.raises(ServiceError, match="not 'dance'"):
        service._ask(env.home.service("probe"), {"op": "dance"})


def test_more_than_may_wait_is_refused(shared: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_WAITING", 1)
    env = AgiEnv(shared.env.project.root, home=tmp_path / "home", wenv=shared.env.wenv.root)
    options = env.cluster({"workers": 2}).values
    me = serving.Service(env.home, env.wenv, env.project, cluster=options, kept=cast(Kept, None))
    request = shared.bench.request(steps("a")).to_json()
    assert me.take(request).state == "queued"
    with pytest.raises(ServiceError, match="1 requests wait for the service of probe, and no more may"):
        me.take(request)
    me.stop()
    with pytest.raises(ServiceError, match="is stopping"):
        me.take(request)


def test_its_folder_is_for_its_owner_and_its_record_is_what_the_schema_says(shared: Served) -> None:
    paths = shared.env.home.service("probe")
    assert stat.S_IMODE(paths.root.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in (paths.request, paths.log, paths.owner))
    conform(json.loads(paths.request.read_text()), "agilab.service/1")
    conform(shared.status.record, "agilab.service/1")
    assert [one.to_json() for one in service.services(shared.env.home)] == [shared.status.to_json()]


def test_a_second_start_is_refused(shared: Served) -> None:
    pid = shared.status.record["pid"]
    assert f"runs already, as process {pid}" in refusal(ServiceError, shared.env, "start", cluster={"workers": 2})


# --- new code ---


def test_changed_code_is_loaded_for_the_next_request_and_its_manifest_says_so(own: Served) -> None:
    project, pids = own.env.project, own.pids()
    told = own.bench.folder / "planner.pids"
    before = own.run(steps("a"))
    worker, manager = project.worker / "__init__.py", project.manager / "__init__.py"
    worker.write_text(
        worker.read_text().replace('part.write("count", "json", self', 'part.write("count", "json", -self')
    )
    tell = f"        open({str(told)!r}, 'a').write(f'{{__import__(\"os\").getpid()}} ')\n"
    manager.write_text(manager.read_text().replace("    def plan(self):\n", f"    def plan(self):\n{tell}"))
    after, again = own.run(steps("a")).check(), own.run(steps("a")).check()
    assert json.loads(after.artifact("first/a/count").read_text()) == -1
    code = [run.manifest["code"] for run in (before, after)]
    assert code[0]["worker_digest"] != code[1]["worker_digest"] == own.status.record["worker_digest"]
    assert code[0]["manager_digest"] != code[1]["manager_digest"]
    assert not {*pids} & {*own.pids()}
    assert not any(is_alive(pid) for pid in pids)
    planners = told.read_text().split()
    assert len(planners) == 2
    assert len({*planners} - {str(own.status.record["pid"]), str(os.getpid())}) == 1
    assert again.manifest["code"] == code[1]


# --- what dies ---


def test_a_worker_that_dies_is_replaced_and_its_partition_tried_again(own: Served) -> None:
    tries = own.bench.folder / "tries"
    tries.mkdir()
    run = own.run(Stage("first", [do("a", ["die_times", str(tries), 1], ["count"])])).check()
    assert [one["attempt"] for one in run.records()] == [2]
    pid = own.pids()[1]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in own.pids() and {one["state"] for one in own.status.workers} == {"idle"})
    assert own.run(steps("a", "b", "c")).state == "succeeded"
    ill = AGI.service(own.env, "health", cluster={"service_health": {"max_restart_rate": 1}})
    assert (ill.verdict, ill.exit_code) == ("restarting", 4)
    assert AGI.service(own.env, "health").exit_code == 0


def test_what_worker_code_leaves_behind_is_ended_with_its_request(own: Served) -> None:
    [before, _] = own.pids()
    own.run(Stage("first", [do("a", ["orphans", str(own.bench.folder / "orphans")])])).check()
    assert not any(map(is_alive, own.bench.pids("orphans")))
    wait_until(lambda: own.pids()[0] not in (0, before))
    hang = replace(do("a", ["hang", str(own.bench.folder / "hanging")]), timeout_s=1.0)
    assert "timeout after 1 s" in str(own.run(Stage("first", [hang])).error)
    assert not any(map(is_alive, own.bench.pids("hanging")))
    assert own.run(steps("a")).state == "succeeded"
    assert own.status.record["restarts_per_hour"] == 0


def test_stop_cancels_what_goes_on_and_leaves_nothing(own: Served) -> None:
    begun = own.bench.folder / "begun"
    first = own.submit(Stage("first", [do("a", ["touch", str(begun)], ["hang", str(own.bench.folder / "pids")])]))
    second = own.submit(steps("b"))
    pids = own.bench.pids("pids")
    assert AGI.service(own.env, "stop").state == "stopped"
    assert (first.state, second.state) == ("cancelled", "cancelled")
    assert not any(map(is_alive, pids))
    assert not processes_marked(service.marker_of(own.env.home.service("probe")))
    assert not own.env.home.service("probe").socket.exists()
    assert "no service of probe runs" in refusal(ServiceError, own.env, "stop")
    assert "no service of probe runs" in refusal(ServiceError, own.env, "submit", {})
    assert AGI.service(own.env, "health").exit_code == 2


def test_a_killed_service_leaves_nothing_running_and_its_runs_can_go_on(own: Served) -> None:
    pids, gate = own.bench.folder / "pids", own.bench.folder / "gate"
    stage = Stage("first", [do("a", ["count"]), do("b", ["orphans", str(pids)], ["wait", str(gate)])])
    first, second = own.submit(stage), own.submit(steps("c"))
    left = [*own.bench.pids("pids"), *own.pids()]
    wait_until(lambda: events(first, "committed"))
    os.kill(own.status.record["pid"], signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, left)))
    wait_until(lambda: own.status.state == "lost")
    assert (first.state, second.state) == ("lost", "lost")
    assert own.env.home.service("probe").socket.exists()
    gate.touch()
    assert [AGI.resume(own.env, run.run_id).state for run in (first, second)] == ["succeeded", "succeeded"]
    assert [(one["partition"], one["attempt"]) for one in first.records()] == [("a", 1), ("b", 2)]
    assert AGI.service(own.env, "start", cluster={"workers": 2}).state == "running"
    assert own.run(steps("a")).state == "succeeded"


def test_a_request_outlives_whoever_sent_it(own: Served) -> None:
    gate = own.bench.folder / "gate"
    request = own.bench.request(Stage("first", [do("a", ["wait", str(gate)])]))
    child = os.fork()
    if not child:
        with suppress(BaseException):
            AGI.service(own.env, "submit", request)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    [run] = own.env.runs.list()
    gate.touch()
    assert run.wait(30).state == "succeeded"


def test_a_worker_that_cannot_load_keeps_a_service_from_starting(two_slots: None, wenv: Path, tmp_path: Path) -> None:
    env = AgiEnv(make_probe(tmp_path), home=tmp_path / "home", wenv=wenv)
    init = env.project.worker / "__init__.py"
    init.write_text(init.read_text() + "\nimport no_such_module\n")
    said = refusal(ServiceError, env, "start", cluster={"workers": 1})
    assert "worker local-0 of probe does not load: ModuleNotFoundError: No module named 'no_such_module'" in said
    assert AGI.service(env, "status").state == "stopped"
    assert "keeps no workers" in refusal(ServiceError, env, "start", cluster={"backend": "inline", "workers": 1})
    assert not processes_marked(service.marker_of(env.home.service("probe")))


# --- on a Dask cluster ---


def test_a_service_on_dask_keeps_its_workers_and_survives_the_death_of_any(
    two_slots: None, wenv: Path, tmp_path: Path
) -> None:
    stage = Stage("first", [do(name, ["random", "numbers"]) for name in "ab"])
    with serving_probe(tmp_path, wenv, "dask") as own:
        first, pids = own.run(stage).check(), own.pids()
        assert [one["worker"] for one in own.status.workers] == ["dask-0", "dask-1"]
        assert hashes(first) == hashes(replace(own.bench, backend="local").run(stage).check())
        assert json.loads(own.run(Stage("first", [do("a", ["count"])])).artifact("first/a/count").read_text()) == 1
        assert own.pids() == pids
        os.kill(pids[0], signal.SIGKILL)
        wait_until(
            lambda: own.pids()[0] not in (0, pids[0]) and {one["state"] for one in own.status.workers} == {"idle"}
        )
        worker = parent_of(own.pids()[1])
        os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: AGI.service(own.env, "health").verdict == "unhealthy")
        assert "dask-1: its Dask worker has not answered for" in AGI.service(own.env, "health").reason
        os.kill(worker, signal.SIGCONT)
        wait_until(lambda: AGI.service(own.env, "health").verdict == "ok")
        tries = tmp_path / "tries"
        tries.mkdir()
        gate = Stage("first", [do("a", ["raise_times", str(tries), 0, "value"], ["wait", str(tmp_path / "gate")])])
        run = own.submit(gate)
        wait_until(lambda: list(tries.iterdir()))
        os.kill(parent_of(own.pids()[0]), signal.SIGKILL)
        wait_until(lambda: events(run, "failed"))
        (tmp_path / "gate").touch()
        assert run.wait(30).check()
        assert [one["attempt"] for one in run.records()] == [2]
        init = own.env.project.worker / "__init__.py"
        init.write_text(init.read_text() + "\n# changed\n")
        assert own.run(stage).manifest["code"]["worker_digest"] != first.manifest["code"]["worker_digest"]
        os.kill(own.status.record["pid"], signal.SIGKILL)
        wait_until(lambda: not processes_marked(service.marker_of(own.env.home.service("probe"))))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# --- health ---


def status_of(**record: Any) -> Status:
    worker = {"worker": "local-0", "pid": 1, "state": "idle", "problem": ""}
    going: Mapping[str, Any] = {"going": [], "ended": {"succeeded": 3}, "last": None}
    return Status("app", "running", {"workers": [worker], "restarts_per_hour": 0, "runs": going, **record})


BROKEN = {"worker": "local-1", "pid": 0, "state": "broken", "problem": "it does not start"}


@pytest.mark.parametrize(
    ("found", "allowed", "verdict", "code"),
    [
        (status_of(), {}, "ok", 0),
        (Status("app", "stopped", {}), {}, "unreachable", 2),
        (Status("app", "unreachable", {}), {}, "unreachable", 2),
        (status_of(workers=[BROKEN]), {}, "unhealthy", 3),
        (status_of(workers=[BROKEN]), {"max_unhealthy": 1}, "ok", 0),
        (status_of(restarts_per_hour=7), {}, "restarting", 4),
        (status_of(restarts_per_hour=7), {"max_restart_rate": 7}, "ok", 0),
        (status_of(), {"allow_idle": False}, "idle", 5),
        (status_of(runs={"going": ["x"], "ended": {}, "last": None}), {"allow_idle": False}, "ok", 0),
    ],
)
def test_health_compares_with_what_is_allowed(
    found: Status, allowed: Mapping[str, Any], verdict: str, code: int
) -> None:
    health = service.health(found, {**ALLOWED, **allowed})
    assert (health.verdict, health.exit_code) == (verdict, code)
    assert health.reason
    assert "\n" not in health.reason


def test_metrics_follow_the_prometheus_text_format() -> None:
    name, label = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
    sample = re.compile(rf"({name})\{{{label}(?:,{label})*\}} (-?[0-9.e+-]+|NaN|[+-]Inf)")
    for found in (status_of(workers=[BROKEN]), Status('odd "\\\n', "lost", {})):
        lines = service.prometheus(service.health(found, ALLOWED))
        described: dict[str, str] = {}
        current = ""
        for line in lines:
            if line.startswith("# HELP "):
                current = line.split()[2]
                assert current not in described, "the lines of a metric stand together"
            elif line.startswith("# TYPE "):
                assert line.split()[2] == current
                described[current] = line.split()[3]
            else:
                match = sample.fullmatch(line)
                assert match, line
                assert match[1] == current
        assert {*described.values()} == {"gauge", "counter"}
        assert all(kind == "gauge" or metric.endswith("_total") for metric, kind in described.items())
    assert 'agilab_service_health_code{app="app"} 3' in service.prometheus(Health(status_of(), "unhealthy", "because"))


def test_there_may_be_no_service_at_all(tmp_path: Path) -> None:
    assert service.services(AgiEnv(home=tmp_path).home) == []
