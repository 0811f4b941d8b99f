"""The shipped suites hold for what is right, and fail for what is wrong: each known-bad variant is caught."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, Run
from agilab.backends.base import BACKENDS, Job, Pool
from agilab.backends.entries import EntryPool, Launch
from agilab.backends.inline import forget
from agilab.backends.local import LocalBackend
from agilab.compare import compare
from agilab.template import create
from agilab.testing import AppTests, BackendTests, Bench, make_probe


def prepared(folder: Path, *, worker: str = "", manager: str = "", name: str = "my_app") -> AgiEnv:
    """Return an environment with a new app, some text of it replaced."""
    root = create(name, folder).root
    for part, change in (("worker", worker), ("manager", manager)):
        file = root / "src" / (f"{name}_worker" if part == "worker" else name) / "__init__.py"
        old, _, new = change.partition(" => ")
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    env = AgiEnv(root, home=folder / "home", wenv=folder / "wenv")
    AGI.install(env)
    return env


class TestNewApp(AppTests):
    """A new app keeps the contract of apps."""

    settings = {"count": 100}  # noqa: RUF012

    @pytest.fixture(scope="class")
    @classmethod
    def env(cls, tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
        return prepared(tmp_path_factory.mktemp("app"))


@pytest.fixture(autouse=True)
def fresh_app() -> Iterator[None]:
    yield
    forget("my_app", "")


def runs(env: AgiEnv) -> dict[str, Run]:
    return {name: AGI.run(env, env.request(cluster={"backend": name})) for name in ("local", "inline")}


def test_a_breach_of_the_contract_is_caught(tmp_path: Path) -> None:
    env = prepared(tmp_path, manager='doc="How many parts the work is cut into" => doc=""')
    with pytest.raises(AssertionError, match="partitions"):
        AppTests().test_it_keeps_the_contract(env)


def test_a_plan_that_differs_from_process_to_process_is_caught(tmp_path: Path) -> None:
    env = prepared(tmp_path, manager="weight=stop - start => weight=1.0 + __import__('os').getpid()")
    with pytest.raises(AssertionError):
        AppTests().test_the_plan_is_the_same_in_every_process(env)


def test_an_app_with_a_planted_random_is_caught_and_reported_as_differing(tmp_path: Path) -> None:
    env = prepared(tmp_path, worker="import json => import json\nimport random")
    file = env.project.worker / "__init__.py"
    file.write_text(file.read_text().replace("sum(number * number", "random.random() + sum(number * number"))
    both = runs(env)
    with pytest.raises(AssertionError):
        AppTests().test_it_leaves_equal_hashes_on_every_backend(both)
    found = compare(env, tuple(both.values()))
    assert "total" in {row.name.rpartition("/")[2] for row in found.differences if row.section == "artifacts"}


def test_a_run_that_was_changed_afterwards_is_caught(tmp_path: Path) -> None:
    both = runs(prepared(tmp_path))
    both["local"].artifact("total").write_text("0\n")
    with pytest.raises(AssertionError, match="total"):
        AppTests().test_it_runs_and_its_record_verifies(both)


# --- known-bad backends --------------------------------------------------------------


class Leaky(LocalBackend):
    """Gives workers everything that stands in the manager's environment."""

    def open(self, job: Job) -> Pool:
        import os

        return super().open(replace(job, environment={**os.environ, **job.environment}))


class Shared(LocalBackend):
    """Runs worker code in the manager's own Python."""

    def open(self, job: Job) -> Pool:
        return super().open(replace(job, installed=replace(job.installed, python=Path(sys.executable))))


class Blind(LocalBackend):
    """Forgets which devices a partition was given."""

    def open(self, job: Job) -> Pool:
        class Pool(EntryPool):
            def submit(self, worker: str, task: Mapping[str, Any], *, timeout_s: float | None) -> None:
                super().submit(worker, {**task, "resources": {}}, timeout_s=timeout_s)

        return Pool(Launch.of(job), self.worker_names(1))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    env = AgiEnv(make_probe(tmp_path), home=tmp_path / "home", wenv=tmp_path / "wenv")
    AGI.install(env)
    with Bench(env, "local", tmp_path) as made:
        yield made


class Suite(BackendTests):
    backend = "local"


def test_a_backend_that_leaks_the_environment_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "local", f"{__name__}:Leaky")  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        Suite().test_the_environment_of_a_worker_is_an_allowlist(bench, monkeypatch)


def test_a_backend_that_does_not_isolate_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "local", f"{__name__}:Shared")  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        Suite().test_worker_code_sees_neither_the_manager_package_nor_its_dependencies(bench, monkeypatch)


def test_a_backend_that_forgets_devices_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "local", f"{__name__}:Blind")  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        Suite().test_a_device_is_never_given_to_two_partitions_at_once(bench, monkeypatch)
