"""What an app needs is made once, and named when it is not there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, installation
from agilab.errors import DataError, HomeError
from tests.survey import make_survey, tree

DATA = {"distribution": "demo-data", "version": "1.0", "sha256": "0" * 64, "root": "demo_data"}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
    folder = tmp_path_factory.mktemp("installation")
    return AgiEnv(make_survey(folder), home=folder / "home", wenv=folder / "wenv")


def test_an_installation_is_made_once_and_is_json(env: AgiEnv) -> None:
    said: list[str] = []
    assert not installation.has_worker(env.project, env.wenv)
    first = AGI.install(env, report=said.append)
    assert said
    before = tree(env.wenv.root)
    said.clear()
    again = AGI.install(env, report=said.append)
    assert (again, said) == (first, [])
    assert tree(env.wenv.root) == before
    assert installation.has_worker(env.project, env.wenv)
    shown = json.loads(json.dumps(again.to_json()))
    assert shown["data_root"] == str(env.project.root)
    assert shown["data"] is None
    assert Path(shown["code"]).is_dir()


def test_an_edit_of_worker_code_makes_new_code_and_keeps_the_environment(env: AgiEnv, tmp_path: Path) -> None:
    own = AgiEnv(make_survey(tmp_path), home=tmp_path / "home", wenv=env.wenv.root)
    first = AGI.install(own)
    source = own.project.worker / "__init__.py"
    source.write_text(source.read_text() + "# edited\n")
    assert not installation.has_worker(own.project, own.wenv)
    second = AGI.install(own)
    assert second.worker.environment == first.worker.environment
    assert second.worker.code != first.worker.code
    assert (own.wenv.package("survey") / "current").resolve() == second.worker.code.resolve()


def test_the_data_root_is_the_project_unless_it_names_a_data_set(env: AgiEnv) -> None:
    assert installation.data_root(env.project, env.home) == env.project.root
    assert installation.require_data(env.project, env.home) == env.project.root
    assert installation.fetch_data(env.project, env.home, print) == env.project.root
    project = replace(env.project, data=DATA)
    root = env.home.data / ("0" * 64)
    assert installation.data_root(project, env.home) == root
    with pytest.raises(DataError, match="the data set of survey is not on this machine yet; run agilab install survey"):
        installation.require_data(project, env.home)
    root.mkdir(parents=True)
    assert installation.require_data(project, env.home) == root


def test_nothing_is_installed_into_a_folder_of_another_product(tmp_path: Path) -> None:
    theirs = tmp_path / "wenv"
    theirs.mkdir()
    (theirs / "flight_worker").write_text("theirs")
    env = AgiEnv(make_survey(tmp_path), home=tmp_path / "home", wenv=theirs)
    with pytest.raises(HomeError, match="choose another folder with AGILAB_WENV=PATH"):
        AGI.install(env)
    assert tree(theirs) == {"flight_worker": b"theirs"}
