"""An environment is a value: two live side by side, every setting says where it comes from, others' files are safe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv
from agilab.env import VARIABLES
from agilab.errors import HomeError, ProjectNotFoundError, RequestError, SettingError
from agilab.template import create


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return a project with the settings count = 1000, partitions = 4 (1 by its declaration)."""
    return create("my_app", tmp_path).root


@pytest.fixture
def env(app: Path, tmp_path: Path) -> AgiEnv:
    return AgiEnv(app, home=tmp_path / "home", wenv=tmp_path / "wenv")


# --- folders ---------------------------------------------------------------------


def test_two_environments_live_in_one_process(app: Path, tmp_path: Path) -> None:
    envs = [AgiEnv(app, home=tmp_path / name, wenv=tmp_path / "wenv") for name in ("one", "two")]
    for number, env in enumerate(envs):
        env.save_settings({"count": 10 + number})
    runs = [AGI.run(env, env.request(cluster={"backend": "inline"})).check() for env in envs]
    assert [run.request["settings"]["count"] for run in runs] == [10, 11]
    assert [[run.run_id for run in env.runs.list()] for env in envs] == [[run.run_id] for run in runs]
    assert [str(run.paths.root).startswith(str(env.home.root)) for run, env in zip(runs, envs, strict=True)] == [True] * 2


def test_folders_come_from_argument_environment_and_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def sources(env: AgiEnv) -> dict[str, tuple[str, str]]:
        return {one.name: (one.value, one.source) for one in env.variables() if one.name in ("AGILAB_HOME", "AGILAB_WENV")}

    assert sources(AgiEnv(home=tmp_path / "x", wenv="~/y")) == {
        "AGILAB_HOME": (str(tmp_path / "x"), "argument"),
        "AGILAB_WENV": (str(home.parent / "y"), "argument"),
    }
    assert sources(AgiEnv())["AGILAB_HOME"] == (str(home), "environment")
    monkeypatch.delenv("AGILAB_HOME")
    monkeypatch.setenv("AGILAB_WENV", "")
    assert sources(AgiEnv()) == {
        "AGILAB_HOME": (str(home.parent / ".agilab"), "default"),
        "AGILAB_WENV": (str(home.parent / "wenv"), "default"),
    }


def test_a_relative_folder_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = AgiEnv(home="here")
    monkeypatch.chdir("/")
    assert env.home.root == tmp_path / "here"


def test_looking_writes_nothing(env: AgiEnv, tmp_path: Path) -> None:
    env.describe()
    env.variables()
    assert env.runs.list() == []
    assert env.code_digest()
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "wenv").exists()


def test_it_describes_every_path_and_variable_as_json(env: AgiEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGILAB_SETTING_COUNT", "5")
    monkeypatch.setenv("AGILAB_CLUSTER_WORKERS", "1")
    found = json.loads(json.dumps(env.describe()))
    assert found["app"]["name"] == "my_app"
    assert found["paths"]["workspace_settings"] == str(env.home.root / "apps" / "my_app" / "app_settings.toml")
    names = {one["name"]: one for one in found["variables"]}
    assert set(names) == {*VARIABLES, "AGILAB_SETTING_COUNT", "AGILAB_CLUSTER_WORKERS"}
    assert (names["AGILAB_SETTING_COUNT"]["value"], names["AGILAB_SETTING_COUNT"]["source"]) == ("5", "environment")
    assert all(one["doc"] for one in names.values())
    assert AgiEnv().describe()["app"] is None


def test_without_an_app_it_says_how_to_choose_one() -> None:
    with pytest.raises(ProjectNotFoundError, match=r"no app is selected; choose one with select\(name\): .*flight"):
        AgiEnv().project  # noqa: B018 - asking is what fails


def test_selecting_an_app_keeps_the_folders(env: AgiEnv, tmp_path: Path) -> None:
    other = create("other_app", tmp_path)
    selected = env.select(other.root)
    assert (selected.project.name, env.project.name) == ("other_app", "my_app")
    assert (selected.home, selected.wenv) == (env.home, env.wenv)


# --- files of others -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["home", "wenv"])
@pytest.mark.parametrize("settings", ["apps/my_app/app_settings.toml", ".agilab_env"])
def test_a_folder_with_files_of_another_product_is_left_alone(
    env: AgiEnv, tmp_path: Path, name: str, settings: str
) -> None:
    file = tmp_path / name / settings
    file.parent.mkdir(parents=True)
    file.write_text("[args]\nnot = 'ours'\n")
    before = sorted(tmp_path.joinpath(name).rglob("*"))
    with pytest.raises(HomeError) as refused:
        env.save_settings({"count": 3})
    assert "holds files that are not AGILAB's" in str(refused.value)
    assert f"AGILAB_{name.upper()}={tmp_path / name}-holoviz" in str(refused.value)
    for act in (lambda: AGI.run(env, env.request()), lambda: AGI.install(env), env.fields):
        with pytest.raises(HomeError):
            act()
    assert sorted(tmp_path.joinpath(name).rglob("*")) == before
    assert file.read_text() == "[args]\nnot = 'ours'\n"


@pytest.mark.parametrize("text", ['{"schema": "agilab.home/99"}', "{}", "[]", "not JSON"])
def test_a_home_of_another_schema_is_left_alone(env: AgiEnv, tmp_path: Path, text: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "home.json").write_text(text)
    with pytest.raises(HomeError, match="this AGILAB reads 'agilab.home/1'; choose another folder with AGILAB_HOME=PATH"):
        env.fields()
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["home.json"]


def test_a_home_that_cannot_be_a_folder_is_refused_in_one_line(app: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="file/home cannot be used: Not a directory; choose another folder with AGILAB_HOME"):
        AgiEnv(app, home=tmp_path / "file" / "home", wenv=tmp_path / "wenv").fields()


def test_folders_are_for_their_owner_only(env: AgiEnv) -> None:
    env.save_settings({"count": 3})
    run = AGI.run(env, env.request(cluster={"backend": "inline"})).check()
    for path in (env.home.root, env.wenv.root, env.home.apps / "my_app", run.paths.root):
        assert path.stat().st_mode & 0o077 == 0, path


# --- settings ----------------------------------------------------------------------------


def test_every_layer_wins_over_those_below_and_is_named(env: AgiEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    def now(caller: dict[str, Any] | None = None) -> tuple[Any, str, str]:
        found = env.settings(caller)
        return found.values["partitions"], found.provenance["partitions"]["source"], found.provenance["partitions"]["where"]

    file = env.project.settings_file
    file.write_text("[settings]\n")
    assert now() == (1, "default", "")
    file.write_text("[settings]\npartitions = 4\n")
    assert now() == (4, "app file", f"{file}:2")
    saved = env.save_settings({"partitions": 5})
    value, source, where = now()
    assert (value, source) == (5, "workspace file")
    assert where.startswith(f"{saved}:")
    assert "partitions" in saved.read_text().splitlines()[int(where.rpartition(":")[2]) - 1]
    monkeypatch.setenv("AGILAB_SETTING_PARTITIONS", "6")
    assert now() == (6, "environment", "AGILAB_SETTING_PARTITIONS")
    assert now({"partitions": 7}) == (7, "caller", "")


def test_cluster_options_have_the_same_layers(env: AgiEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    assert env.cluster().provenance["workers"]["source"] == "default"
    with open(env.project.settings_file, "a") as file:
        file.write("[cluster]\nworkers = 3\n")
    assert (env.cluster().values["workers"], env.cluster().provenance["workers"]["source"]) == (3, "app file")
    monkeypatch.setenv("AGILAB_CLUSTER_WORKERS", "2")
    request = env.request(cluster={"timeout_s": 9})
    assert (request.cluster["workers"], request.cluster["timeout_s"]) == (2, 9)
    sources = {name: place["source"] for name, place in request.cluster_provenance.items()}
    assert (sources["workers"], sources["timeout_s"], sources["backend"]) == ("environment", "caller", "default")


def test_saving_settings_keeps_those_saved_before(env: AgiEnv) -> None:
    env.save_settings({"count": 11})
    env.save_settings({"partitions": 2})
    assert dict(env.settings().values) == {"count": 11, "partitions": 2}
    before = env.home.app_settings("my_app").read_bytes()
    with pytest.raises(SettingError):
        env.save_settings({"count": 0})
    assert env.home.app_settings("my_app").read_bytes() == before


@pytest.mark.parametrize("value", [-1, True, 1.5, "7", 2**63])
def test_a_seed_is_a_whole_number(env: AgiEnv, value: Any) -> None:
    with pytest.raises(RequestError, match=r"seed is .*; allowed: a whole number from 0 to 2\*\*63 - 1"):
        env.request(seed=value)
    assert env.request(seed=2**63 - 1).seed == 2**63 - 1


# --- one digest ----------------------------------------------------------------------------


def test_the_same_choices_have_one_digest_however_they_are_made(env: AgiEnv, tmp_path: Path) -> None:
    digests = {"python": env.request({"count": 77, "partitions": 3}, cluster={"workers": 2}, seed=5).digest}
    file = tmp_path / "choices.json"
    choices = {"settings": {"count": 77, "partitions": 3}, "cluster": {"workers": 2}, "seed": 5}
    file.write_text(json.dumps({"schema": "agilab.request/1", **choices}))
    digests["file"] = env.request(file=file).digest
    file.write_text(json.dumps(env.request(file=file).to_json()))
    digests["complete file"] = env.request(file=file).digest
    digests["file and arguments"] = env.request({"count": 77}, file=file).digest
    variables = {"AGILAB_HOME": str(env.home.root), "AGILAB_WENV": str(env.wenv.root)}
    command = [sys.executable, "-m", "agilab", "plan", str(env.project.root), "--json"]
    for name, arguments, more in (
        ("flags", ["--count", "77", "--partitions", "3", "--workers", "2", "--seed", "5"], {}),
        ("--set", ["--set", "count=77", "--set", "partitions=3", "--workers", "2", "--seed", "5"], {}),
        ("--request", ["--request", str(file)], {}),
        ("environment", ["--seed", "5", "--workers", "2"], {"COUNT": "77", "PARTITIONS": "3"}),
    ):
        chosen = {f"AGILAB_SETTING_{key}": value for key, value in more.items()}
        done = subprocess.run([*command, *arguments], env={**os.environ, **variables, **chosen}, capture_output=True)
        assert done.returncode == 0, done.stderr
        digests[name] = json.loads(done.stdout)["request"]["digest"]
    env.save_settings({"count": 77, "partitions": 3})
    digests["workspace file"] = env.request(cluster={"workers": 2}, seed=5).digest
    assert set(digests.values()) == {digests["python"]}, digests
    assert env.request(cluster={"workers": 2}, seed=6).digest != digests["python"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "is not a request that can be read"),
        ("[]", 'does not say "schema": "agilab.request/1"'),
        ('{"schema": "agilab.request/2"}', 'does not say "schema": "agilab.request/1"'),
        ('{"schema": "agilab.request/1", "seeds": 3}', "holds seeds; a request has "),
        ('{"schema": "agilab.request/1", "settings": [1]}', "settings in .* is .*; allowed: a table"),
        ('{"schema": "agilab.request/1", "cluster": 3}', "cluster in .* is 3; allowed: a table"),
        ('{"schema": "agilab.request/1", "seed": "x"}', "seed is 'x'"),
        ('{"schema": "agilab.request/1", "app": {"name": "x", "uuid": "y"}}', "is for app .*, not for my_app"),
        ('{"schema": "agilab.request/1", "app": 3}', "is for app 3, not for my_app"),
        ('{"schema": "agilab.request/1", "digest": "x"}', "cannot be used: the request is incomplete"),
        ('{"schema": "agilab.request/1", "code_digest": "0123456789abcdef"}', "was made for code 0123456789ab of my_app"),
    ],
)
def test_a_file_that_is_no_request_for_this_app_is_refused_in_one_line(
    env: AgiEnv, tmp_path: Path, value: str, said: str
) -> None:
    file = tmp_path / "request.json"
    file.write_text(value)
    with pytest.raises(RequestError, match=said) as refused:
        env.request(file=file)
    assert "\n" not in str(refused.value)


def test_a_wrong_value_in_a_file_names_setting_value_and_file(env: AgiEnv, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text('{"schema": "agilab.request/1", "settings": {"count": 0}}')
    with pytest.raises(SettingError, match=r"count.*0.*request\.json|request\.json.*count.*0"):
        env.request(file=file)


def test_a_request_file_made_for_other_code_is_refused_and_says_what_to_do(env: AgiEnv, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(env.request().to_json()))
    with open(env.project.worker / "__init__.py", "a") as code:
        code.write("# edited\n")
    with pytest.raises(RequestError, match="remove code_digest and digest from a copy of it to run the new code"):
        env.request(file=file)


def test_the_code_digest_follows_manager_and_worker_code_and_nothing_else(env: AgiEnv) -> None:
    first = env.code_digest()
    env.project.root.joinpath("README.md").write_text("other words")
    AGI.install(env)
    assert env.code_digest() == first
    digests = {first}
    for file in (env.project.worker / "__init__.py", env.project.manager / "__init__.py"):
        with open(file, "a") as code:
            code.write("# edited\n")
        digests.add(env.code_digest())
    assert len(digests) == 3
