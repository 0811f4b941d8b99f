"""One request on several backends: cost of each run, and artifacts that are the same or named."""

from __future__ import annotations

from pathlib import Path

import pytest

from agilab import AgiEnv, RunRequest, Stage
from agilab.backends.base import BACKENDS
from agilab.bench import bench, default_backends
from agilab.testing.probe import Bench, do, make_probe


@pytest.fixture
def probe(home: Path, tmp_path: Path) -> Bench:
    """Return the probe with folders of its own."""
    return Bench(AgiEnv(make_probe(tmp_path / "apps")), "local", tmp_path)


def requests(probe: Bench, *steps: list[object]) -> dict[str, RunRequest]:
    """Return a request of one partition for each of two backends."""
    stage = Stage("first", [do("a", *steps)])
    return {name: probe.request(stage, cluster={"backend": name}) for name in ("inline", "local")}


def test_every_backend_that_needs_no_hosts_is_run() -> None:
    assert set(default_backends()) <= set(BACKENDS)
    assert {"inline", "local"} <= set(default_backends())


def test_the_same_artifacts_are_the_same_and_what_they_cost_is_told(probe: Bench) -> None:
    seen = []
    found = bench(probe.env, requests(probe, ["write", "x", 1]), repeat=2, on_event=seen.append)
    assert found.ok
    assert [trial.backend for trial in found.trials] == ["inline", "local"] * 2
    assert found.differing == {}
    assert set(found.medians()) == {"inline", "local"}
    assert all(trial.duration_s > 0 and trial.cpu_s >= 0 and trial.peak_rss_bytes > 1 << 20 for trial in found.trials)
    assert len({trial.run.run_id for trial in found.trials}) == 4
    assert sum(event["event"] == "created" for event in seen) == 4


def test_an_artifact_that_differs_is_named_with_every_hash(probe: Bench) -> None:
    found = bench(probe.env, requests(probe, ["environment", "where"], ["write", "x", 1]))
    assert not found.ok
    [(name, hashes)] = found.differing.items()
    assert name == "first/a/where"
    assert len(set(hashes)) == 2
    assert list(found.to_json()["differing"][name]) == [trial.run.run_id for trial in found.trials]


def test_a_run_that_fails_is_told_and_the_others_go_on(probe: Bench) -> None:
    found = bench(probe.env, requests(probe, ["raise", "ValueError"]))
    assert [trial.state for trial in found.trials] == ["failed", "failed"]
    assert not found.ok
    assert "a" in str(found.trials[0].error)
    assert found.differing == {}
