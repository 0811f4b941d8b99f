"""What a run recorded before its first dispatch leads back to the code it was made with, or says what is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, Run, Stage, prepared
from agilab.errors import EvidenceError, RunStateError
from agilab.paths import read_json
from agilab.testing import Bench, do, make_probe
from tests.run_folder import RunFolder, conform


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[AgiEnv, Run]:
    """Return an environment and a run that failed in its only partition."""
    folder = tmp_path_factory.mktemp("prepared")
    env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
    AGI.install(env)
    with Bench(env, "local", folder) as bench:
        return env, bench.run(Stage("first", [do("bad", ["raise", "value"])], retries=0))


@pytest.fixture
def copied(made: tuple[AgiEnv, Run], tmp_path: Path) -> tuple[AgiEnv, Run]:
    """Return the same with folders of its own, which the test may damage."""
    env, run = made
    home, wenv = tmp_path / "home", tmp_path / "wenv"
    shutil.copytree(env.home.root, home)
    shutil.copytree(env.wenv.root, wenv, symlinks=True)
    own = AgiEnv(env.project.root, home=home, wenv=wenv)
    return own, own.runs.get(run.run_id)


def test_the_record_leads_back_to_code_environment_and_plan(made: tuple[AgiEnv, Run]) -> None:
    env, run = made
    value = prepared.read(run.paths)
    assert value is not None
    conform(value, "agilab.prepared/1")
    project = prepared.project_of(value, env.home)
    assert (project.name, project.uuid, project.worker_class) == ("probe", env.project.uuid, "probe_worker:ProbeWorker")
    assert project.manager_digest() == env.project.manager_digest()
    found = prepared.installation_of(value, project, home=env.home, wenv=env.wenv, report=lambda text: None)
    installed = AGI.install(env)
    assert found.worker.code == installed.worker.code
    assert found.worker.python == installed.worker.python
    assert found.worker.runtime == installed.worker.runtime
    plan = prepared.plan_of(value, {"first": run.paths.plan("first").read_bytes()})
    assert [(part.id, part.params) for part in plan.partitions] == [("bad", {"steps": [["raise", "value"]]})]


def test_what_is_gone_is_named(copied: tuple[AgiEnv, Run]) -> None:
    env, run = copied
    code = run.manifest["code"]
    places = {
        "manager package": env.home.snapshots / code["manager_digest"] / "probe",
        "worker package": env.wenv.code("probe", code["worker_digest"]) / "probe_worker" / "__init__.py",
        "runtime": env.wenv.runtimes / code["runtime_digest"] / "agilab" / "worker.py",
        "worker environment": env.wenv.environments / run.manifest["environment"]["digest"],
    }
    seal = run.paths.sums.read_bytes()
    for what, place in places.items():
        aside = place.with_name("aside")
        place.rename(aside)
        # An edit of the project meanwhile must not stand in for what is gone.
        with pytest.raises(RunStateError, match=f"the {what} that this run was made with is no longer whole in "):
            prepare_again(env, run)
        aside.rename(place)
        assert run.paths.sums.read_bytes() == seal
    assert prepare_again(env, run).state == "failed"


def prepare_again(env: AgiEnv, run: Run) -> Run:
    """Find everything that a run needs to go on, as resuming does."""
    value = prepared.read(run.paths)
    assert value is not None
    project = prepared.project_of(value, env.home)
    prepared.installation_of(value, project, home=env.home, wenv=env.wenv, report=lambda text: None)
    return run


def test_an_environment_that_was_damaged_is_made_whole(copied: tuple[AgiEnv, Run]) -> None:
    env, run = copied
    digest = run.manifest["environment"]["digest"]
    (env.wenv.environments / digest / "bin" / "python").unlink()
    AGI.resume(env, run.run_id)
    assert run.manifest["attempt"] == 2
    assert "ValueError" in str(run.error)


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda data: data.replace(b"prepared/1", b"prepared/9")])
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    paths = RunFolder(tmp_path).commit_all().paths
    paths.prepared.write_bytes(spoil(paths.prepared.read_bytes()))
    with pytest.raises(EvidenceError, match=r"prepared\.json is no record of schema 'agilab\.prepared/1'"):
        prepared.read(paths)


def test_a_run_of_an_earlier_release_has_no_such_record(root: Path) -> None:
    folder = min((root / "tests" / "data" / "runs" / "squares").iterdir())
    assert read_json(folder / "run_manifest.json", "agilab.run/1")["state"] == "succeeded"
    assert not (folder / "prepared.json").exists()
