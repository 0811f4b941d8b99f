"""`apps`, `new`, `check`, `install`, `settings` and `env`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]

SCHEMAS = {
    ("apps",): "agilab.cli.apps/1",
    ("check", "trouble"): "agilab.cli.check/1",
    ("env",): "agilab.env/1",
    ("settings", "trouble"): "agilab.cli.settings/1",
    ("plan", "trouble"): "agilab.cli.plan/1",
    ("runs",): "agilab.cli.runs/1",
    ("doctor",): "agilab.cli.doctor/1",
}


@pytest.mark.parametrize("words", SCHEMAS)
def test_json_is_one_document_with_its_schema(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words, "--json")
    assert json.loads(done.stdout)["schema"] == SCHEMAS[words]
    assert done.returncode == 0


def test_apps_are_listed_with_where_they_come_from(cli: Cli) -> None:
    lines = cli("apps").stdout.splitlines()
    assert "trouble           0.1.0    AGILAB_APPS  Goes wrong as it is told" in lines
    found = {app["name"]: app for app in json.loads(cli("apps", "--json").stdout)["apps"]}
    assert found["trouble"]["source"] == "AGILAB_APPS"


def test_a_broken_app_is_listed_with_the_command_that_says_why(cli: Cli, here: Path) -> None:
    broken = here / "broken_project"
    broken.mkdir()
    (broken / "pyproject.toml").write_text("[tool.agilab]\nuuid = 3\n")
    done = cli("apps")
    assert "broken: " in done.stdout
    assert f"broken: `agilab check {broken}` names what is wrong" in done.stderr
    checked = cli("check", broken)
    assert checked.returncode == 1
    assert all(line.startswith(f"{broken}") for line in checked.stdout.splitlines())
    assert checked.stderr.startswith("agilab: error: broken has ")


def test_a_new_app_keeps_the_contract_and_runs_at_once(cli: Cli, here: Path) -> None:
    made = cli("new", "squares_too")
    assert made.returncode == 0
    root = here / "squares_too_project"
    assert f"wrote {root}" in made.stdout
    assert made.stdout.splitlines()[-2] == "  agilab run squares_too"
    assert cli("check", root).stdout == "ok: squares_too keeps the app contract\n"
    assert json.loads(cli("run", root, "--json").stdout)["state"] == "succeeded"
    again = cli("new", "squares_too")
    assert (again.returncode, again.stdout) == (2, "")


def test_a_new_app_elsewhere_is_named_by_its_path(cli: Cli, here: Path) -> None:
    (here / "there").mkdir()
    made = cli("new", "squares_there", "--folder", "there")
    assert made.stdout.splitlines()[-2] == f"  agilab run {here / 'there' / 'squares_there_project'}"


def test_check_looks_at_the_project_here(cli: Cli, apps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(apps / "trouble_project")
    assert cli("check").stdout == "ok: trouble keeps the app contract\n"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("import param", "import param, there_is_no_such_package", "there_is_no_such_package"),
        ("return agilab.WorkPlan", "return 3 or agilab.WorkPlan", "plan returned int"),
        ("How many partitions", "", "parts"),
    ],
)
def test_check_finds_what_only_the_code_can_tell(
    cli: Cli, apps: Path, here: Path, before: str, after: str, message: str
) -> None:
    root = here / "trouble_project"
    shutil.copytree(apps / "trouble_project", root, ignore=shutil.ignore_patterns("__pycache__"))
    source = root / "src" / "trouble" / "__init__.py"
    source.write_text(source.read_text().replace(before, after))
    done = cli("check", root)
    assert done.returncode == 1
    assert message in done.stdout
    breaches = json.loads(cli("check", root, "--json").stdout)["breaches"]
    assert all(set(breach) == {"file", "line", "message", "fix"} and breach["fix"] for breach in breaches)


def copied(apps: Path, here: Path) -> Path:
    """Return a copy of the app that may be broken."""
    root = here / "trouble_project"
    shutil.copytree(apps / "trouble_project", root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_check_names_a_wrong_settings_file_once_and_at_its_line(cli: Cli, apps: Path, here: Path) -> None:
    root = copied(apps, here)
    (root / "src" / "trouble" / "app_settings.toml").write_text("[settings]\nprats = 4\n")
    breaches = json.loads(cli("check", root, "--json").stdout)["breaches"]
    assert [(Path(breach["file"]).name, breach["line"]) for breach in breaches] == [("app_settings.toml", 2)]


def test_check_names_the_line_of_the_plan_that_raised(cli: Cli, apps: Path, here: Path) -> None:
    root = copied(apps, here)
    source = root / "src" / "trouble" / "__init__.py"
    source.write_text(source.read_text().replace('print("planned aloud")', "1 / 0"))
    (breach,) = json.loads(cli("check", root, "--json").stdout)["breaches"]
    line = source.read_text().splitlines().index("        1 / 0") + 1
    assert (breach["file"], breach["line"]) == (str(source), line)
    assert "ZeroDivisionError" in breach["message"]


def test_install_says_where_everything_lies_and_does_nothing_twice(cli: Cli, cli_wenv: Path) -> None:
    cli("install", "trouble")
    done = cli("install", "trouble")
    assert done.stderr == ""
    assert f"code         {cli_wenv / 'trouble_worker'}" in done.stdout
    assert "lock_sha256" in json.loads(cli("install", "trouble", "--json").stdout)


def test_settings_show_value_source_and_what_is_allowed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGILAB_SETTING_PARTS", "5")
    line = next(line for line in cli("settings", "trouble").stdout.splitlines() if line.startswith("parts"))
    words = " ".join(line.split())
    assert words == "parts 5 environment AGILAB_SETTING_PARTS a whole number >= 1 and <= 1000"
    found = json.loads(cli("settings", "trouble", "--json").stdout)
    assert found["values"]["parts"] == 5
    rows = {row["name"]: row for row in found["settings"]}
    assert (rows["sleep_s"]["unit"], rows["sleep_s"]["source"]) == ("s", "default")
    assert rows["model.depth"]["value"] == 3


def test_settings_are_kept_in_the_workspace_file(cli: Cli, home: Path) -> None:
    done = cli("settings", "trouble", "set", "parts=7", "model.depth=2", "limit=none")
    assert done.returncode == 0
    file = home / "apps" / "trouble" / "app_settings.toml"
    found = json.loads(cli("settings", "trouble", "--json").stdout)
    assert (found["values"]["parts"], found["values"]["model"]["depth"]) == (7, 2)
    rows = {row["name"]: row for row in found["settings"]}
    assert rows["parts"]["source"] == "workspace file"
    assert rows["parts"]["where"].startswith(f"{file}:")


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        (("parts=0",), "setting 'parts' is 0; allowed: a whole number >= 1 and <= 1000"),
        (("prats=1",), "unknown setting 'prats'; did you mean 'parts'?"),
        ((), "nothing to set; write NAME=VALUE"),
    ],
)
def test_a_wrong_setting_is_not_kept(cli: Cli, home: Path, pairs: tuple[str, ...], line: str) -> None:
    done = cli("settings", "trouble", "set", *pairs)
    assert done.returncode == 2
    assert done.stderr.startswith(f"agilab: error: {line}")
    assert not (home / "apps").exists()


def test_the_schema_of_the_settings_is_a_json_schema(cli: Cli) -> None:
    schema = json.loads(cli("settings", "trouble", "--schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    values = json.loads(cli("settings", "trouble", "--json").stdout)["values"]
    jsonschema.validate(values, schema)


def test_env_prints_paths_and_variables_with_their_source(cli: Cli, home: Path) -> None:
    text = cli("env").stdout
    assert f"root          {home}" in text
    variables = {item["name"]: item for item in json.loads(cli("env", "--json").stdout)["variables"]}
    assert (variables["AGILAB_HOME"]["value"], variables["AGILAB_HOME"]["source"]) == (str(home), "environment")
    for name in variables:
        assert name in text


def test_reading_commands_write_nothing(cli: Cli, home: Path) -> None:
    for words in (("apps",), ("env",), ("runs",), ("doctor",)):
        cli(*words)
    assert not home.exists()
