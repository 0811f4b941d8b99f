"""`AgiEnv`: folders that are left alone, variables, settings with their sources, and what is saved."""

from __future__ import annotations

import datetime as dt
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agilab import AgiEnv
from agilab.env import VARIABLES
from agilab.errors import HomeError, ProjectNotFoundError, SettingError
from agilab.home import HOME_SCHEMA
from tests.checkout import ROOT
from tests.run_folder import conform
from tests.survey import make_survey, tree


@pytest.fixture
def env(home: Path, tmp_path: Path) -> AgiEnv:
    return AgiEnv(make_survey(tmp_path))


def refusal(call: Callable[[], Any], kind: type[Exception] = HomeError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- folders ---


@pytest.mark.parametrize("name", ["AGILAB_HOME", "AGILAB_WENV"])
def test_a_folder_of_another_product_is_refused_with_the_way_out_and_left_alone(
    tmp_path: Path, home: Path, name: str
) -> None:
    theirs = tmp_path / "theirs"
    for file in ("apps/flight/app_settings.toml", ".env", "cache/fields/x.json", "current"):
        (theirs / file).parent.mkdir(parents=True, exist_ok=True)
        (theirs / file).write_text("theirs")
    before = tree(theirs)
    env = AgiEnv(make_survey(tmp_path), **{"home" if name == "AGILAB_HOME" else "wenv": theirs})
    said = refusal(env.prepare)
    assert said.startswith(f"{theirs} holds files that are not AGILAB's (.env, apps, cache); they are left alone: ")
    assert said.endswith(f"choose another folder with {name}=PATH, for example {name}={theirs}-holoviz")
    for call in (env.fields, env.settings, env.request, lambda: env.save_settings({"count": 5})):
        assert refusal(call) == said
    assert tree(theirs) == before


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ('{"schema": "agilab.home/2"}', "'agilab.home/2'"),
        ('{"schema": ["x"]}', "['x']"),
        ("not JSON", "None"),
        ("[1]", "None"),
        ("\x00", "None"),
    ],
)
def test_a_home_of_an_unknown_schema_is_refused_and_left_alone(env: AgiEnv, text: str, schema: str) -> None:
    env.home.root.mkdir()
    env.home.marker.write_text(text)
    said = refusal(env.fields)
    assert said.startswith(f"{env.home.marker} says schema {schema}; this AGILAB reads 'agilab.home/1'; ")
    assert said.endswith("choose another folder with AGILAB_HOME=PATH")
    assert tree(env.home.root) == {"home.json": text.encode()}


def test_an_empty_folder_becomes_ours_and_says_so(env: AgiEnv) -> None:
    env.prepare()
    env.prepare()
    for marker, name in ((env.home.marker, "AGILAB_HOME"), (env.wenv.marker, "AGILAB_WENV")):
        assert json.loads(marker.read_text()) == {"schema": HOME_SCHEMA, "of": name}
        conform(json.loads(marker.read_text()), HOME_SCHEMA)
        assert marker.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_another_process_is_just_claiming_is_ours(env: AgiEnv) -> None:
    env.home.root.mkdir()
    (env.home.root / f".{env.home.marker.name}.4711.tmp").touch()
    env.prepare()
    assert env.home.marker.is_file()


def test_a_home_that_is_a_file_is_named(home: Path) -> None:
    home.write_text("a file")
    assert (
        refusal(AgiEnv().prepare) == f"{home} cannot be used: File exists; choose another folder with AGILAB_HOME=PATH"
    )
    below = AgiEnv(home=home / "below")
    assert refusal(below.prepare).startswith(f"{home}/below cannot be used: Not a directory; choose another folder")


def test_looking_writes_nothing(env: AgiEnv) -> None:
    env.describe()
    env.variables()
    env.apps()
    assert env.runs.list() == []
    assert not env.home.root.exists()
    assert not env.wenv.root.exists()


def test_two_environments_with_other_folders_and_apps_live_in_one_process(tmp_path: Path, home: Path) -> None:
    from agilab.template import create

    one = AgiEnv(make_survey(tmp_path), home=tmp_path / "one", wenv=tmp_path / "wenv one")
    create("squares", tmp_path)
    two = AgiEnv("squares", apps_path=tmp_path, home=tmp_path / "two", wenv=tmp_path / "wenv two")
    one.save_settings({"count": 7})
    two.save_settings({"count": 9})
    assert (one.request().settings["count"], two.request().settings["count"]) == (7, 9)
    assert (one.request().app, two.request().app) == ("survey", "squares")
    assert not home.exists()
    other = two.select(tmp_path / "survey_project")
    assert (other.project.name, other.home, other.wenv) == ("survey", two.home, two.wenv)
    assert (two.project.name, other.request().settings["count"]) == ("squares", 50)


def test_without_an_app_the_ones_there_are_are_named(home: Path, tmp_path: Path) -> None:
    make_survey(tmp_path)
    env = AgiEnv(apps_path=tmp_path)
    said = refusal(lambda: env.project, ProjectNotFoundError)
    assert said.startswith("no app is selected; choose one with select(name): ")
    assert "survey" in said
    assert repr(env) == f"AgiEnv(home={str(env.home.root)!r}, wenv={str(env.wenv.root)!r})"
    assert repr(env.select("survey")).startswith("AgiEnv('survey', home=")


def test_paths_are_absolute_and_may_begin_with_the_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    assert AgiEnv(home="runs").home.root == home.parent / "runs"
    assert AgiEnv(home="~/mine/../ours").home.root == home.parent / "ours"
    monkeypatch.delenv("AGILAB_HOME")
    monkeypatch.setenv("AGILAB_WENV", "")
    assert (AgiEnv().home.root, AgiEnv().wenv.root) == (home.parent / ".agilab", home.parent / "wenv")


# --- variables ---


def test_variables_are_shown_with_value_and_source(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGILAB_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("AGILAB_RESOURCES", "gpu=2")
    monkeypatch.setenv("AGILAB_SETTING_COUNT", "5")
    monkeypatch.setenv("AGILAB_CLUSTER_WORKERS", "1")
    env = AgiEnv(wenv=tmp_path / "wenv")
    found = {variable.name: (variable.value, variable.source) for variable in env.variables()}
    assert found == {
        "AGILAB_HOME": (str(tmp_path / "other"), "environment"),
        "AGILAB_WENV": (str(tmp_path / "wenv"), "argument"),
        "AGILAB_APPS": ("", "default"),
        "AGILAB_SLOTS": (found["AGILAB_SLOTS"][0], "default"),
        "AGILAB_RESOURCES": ("gpu=2", "environment"),
        "AGILAB_TRACK": ("", "default"),
        "AGILAB_TRACEBACK": ("", "default"),
        "NO_COLOR": ("", "default"),
        "AGILAB_SETTING_COUNT": ("5", "environment"),
        "AGILAB_CLUSTER_WORKERS": ("1", "environment"),
    }
    assert int(found["AGILAB_SLOTS"][0]) > 0
    shown = env.describe()
    assert {item["name"]: (item["value"], item["source"]) for item in shown["variables"]} == found
    assert all(item["doc"] for item in shown["variables"])
    monkeypatch.setenv("AGILAB_HOME", str(tmp_path / "third"))
    given = AgiEnv(home=tmp_path / "given")
    assert (given.variables()[0].value, given.variables()[0].source) == (str(tmp_path / "given"), "argument")


def test_a_relative_folder_is_shown_as_it_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("AGILAB_HOME", "~/mine")
    [found] = [variable for variable in AgiEnv().variables() if variable.name == "AGILAB_HOME"]
    assert (found.value, found.source) == (str(home.parent / "mine"), "environment")


def test_the_description_is_json_and_names_every_path_of_the_app(env: AgiEnv) -> None:
    shown = json.loads(json.dumps(env.describe()))
    assert shown["schema"] == "agilab.env/1"
    assert shown["app"]["name"] == "survey"
    assert shown["paths"]["root"] == str(env.home.root)
    assert shown["paths"]["data_root"] == str(env.project.root)
    assert shown["paths"]["workspace_settings"] == str(env.home.root / "apps/survey/app_settings.toml")
    assert shown["paths"]["worker_package"] == str(env.wenv.root / "survey_worker")
    assert shown["paths"]["app_runs"] == str(env.home.root / "runs/survey")
    assert AgiEnv().describe()["app"] is None


def test_every_variable_is_documented_and_every_documented_one_is_read() -> None:
    text = (ROOT / "docs" / "environment-variables.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", text, re.MULTILINE))
    assert rows == dict(VARIABLES)
    assert re.findall(r"^\| `([A-Z_]+)<NAME>`", text, re.MULTILINE) == ["AGILAB_SETTING_", "AGILAB_CLUSTER_"]


def test_every_variable_that_the_code_reads_is_listed() -> None:
    named: set[str] = set()
    for path in (ROOT / "agilab").rglob("*.py"):
        if "testing" not in path.parts:
            named |= set(re.findall(r"""["'](AGILAB_[A-Z_]*[A-Z]|NO_COLOR)["']""", path.read_text()))
    assert named - {"AGILAB_RUN"} <= set(VARIABLES)  # AGILAB_RUN is written, to find the processes of a run again
    assert set(VARIABLES) <= named


# --- settings ---


def test_a_dotted_name_is_saved_and_requested_like_its_table(env: AgiEnv) -> None:
    env.save_settings({"model": {"rate": 0.25}})
    env.save_settings({"model.depth": 7})
    found = env.request({"model.rate": 0.75})
    assert found.settings["model"] == {"depth": 7, "rate": 0.75}
    assert found.provenance["model.rate"]["source"] == "caller"
    assert found.provenance["model.depth"]["source"] == "workspace file"
    assert found.digest == env.request({"model": {"rate": 0.75}}).digest


def test_each_setting_says_which_layer_it_came_from(env: AgiEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = env.save_settings({"model": {"rate": 0.25}, "labels": {"a": 1}})
    monkeypatch.setenv("AGILAB_SETTING_MODEL__DEPTH", "4")
    monkeypatch.setenv("AGILAB_SETTING_TABLES", "tables/a.csv")
    found = env.settings({"tables": "tables/b.csv"})
    assert found.values == {
        "count": 50,
        "day": "2013-01-01",
        "labels": {"a": 1},
        "model": {"depth": 4, "rate": 0.25},
        "tables": "tables/b.csv",
    }
    lines = [line.partition(" = ")[0] for line in saved.read_text().splitlines()]
    assert found.provenance == {
        "count": {"source": "app file", "where": f"{env.project.settings_file}:2"},
        "day": {"source": "default", "where": ""},
        "labels": {"source": "workspace file", "where": f"{saved}:{1 + lines.index('labels')}"},
        "model.depth": {"source": "environment", "where": "AGILAB_SETTING_MODEL__DEPTH"},
        "model.rate": {"source": "workspace file", "where": f"{saved}:{1 + lines.index('rate')}"},
        "tables": {"source": "caller", "where": ""},
    }
    request = env.request({"tables": "tables/b.csv"})
    assert (request.settings, request.provenance) == (found.values, found.provenance)


def test_each_cluster_option_says_which_layer_it_came_from(env: AgiEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    assert env.cluster().provenance["workers"] == {"source": "app file", "where": f"{env.project.settings_file}:8"}
    path = env.home.app_settings("survey")
    path.parent.mkdir(parents=True)
    path.write_text('schema = "agilab.settings/1"\n[cluster]\nworkers = 3\ntimeout_s = 9\n')
    monkeypatch.setenv("AGILAB_CLUSTER_TIMEOUT_S", "2.5")
    found = env.cluster({"backend": "inline"})
    assert found.values.items() >= {"backend": "inline", "workers": 3, "timeout_s": 2.5}.items()
    assert (
        found.provenance.items()
        >= {
            "backend": {"source": "caller", "where": ""},
            "workers": {"source": "workspace file", "where": f"{path}:3"},
            "timeout_s": {"source": "environment", "where": "AGILAB_CLUSTER_TIMEOUT_S"},
        }.items()
    )


def test_a_wrong_value_of_any_layer_says_where_it_stands(env: AgiEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = "a whole number >= 1 and <= 1000 [lines]"
    said = refusal(lambda: env.settings({"count": 0}), SettingError)
    assert said == f"setting 'count' is 0; allowed: {allowed}"
    monkeypatch.setenv("AGILAB_SETTING_COUNT", "many")
    assert refusal(env.settings, SettingError).endswith(f"allowed: {allowed} (AGILAB_SETTING_COUNT)")
    monkeypatch.setenv("AGILAB_SETTING_COUNTT", "1")
    monkeypatch.delenv("AGILAB_SETTING_COUNT")
    assert refusal(env.settings, SettingError).endswith("did you mean AGILAB_SETTING_COUNT?")
    monkeypatch.delenv("AGILAB_SETTING_COUNTT")
    monkeypatch.setenv("AGILAB_CLUSTER_WORKERS", "0")
    assert "setting 'workers' is " in refusal(env.cluster, SettingError)
    env.project.settings_file.write_text("[settings]\n\ncuont = 5\n")
    said = refusal(env.settings, SettingError)
    assert said == f"unknown setting 'cuont'; did you mean 'count'? ({env.project.settings_file}:3)"


# --- saving ---


def test_saving_keeps_other_values_and_nested_ones(env: AgiEnv) -> None:
    path = env.save_settings({"count": 5, "model": {"depth": 4}})
    path.write_text(path.read_text() + "\n[views]\nzoom = 3\n")
    assert env.save_settings({"day": dt.date(2014, 2, 3), "model": {"rate": 0.25}}) == path
    tables = tomllib.loads(path.read_text())
    assert tables["settings"] == {"count": 5, "day": dt.date(2014, 2, 3), "model": {"depth": 4, "rate": 0.25}}
    assert tables["views"] == {"zoom": 3}
    assert env.settings().values["model"] == {"depth": 4, "rate": 0.25}


def test_saving_a_dict_replaces_it(env: AgiEnv) -> None:
    env.save_settings({"labels": {"a": 1, "b": 2}})
    env.save_settings({"labels": {"c": 3}})
    assert env.settings().values["labels"] == {"c": 3}
    assert env.request({"labels": {"d": 4}}).settings["labels"] == {"d": 4}


def test_a_wrong_value_is_not_saved(env: AgiEnv) -> None:
    path = env.save_settings({"count": 5})
    before = path.read_bytes()
    refusal(lambda: env.save_settings({"count": 0}), SettingError)
    refusal(lambda: env.save_settings({"cuont": 1}), SettingError)
    assert path.read_bytes() == before
