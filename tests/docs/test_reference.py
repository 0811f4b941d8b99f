"""The tables of the manual are complete: errors, exit codes, environment variables, commands."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from agilab import AgiEnv, cli, env, errors
from agilab.artifact import KINDS

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def rows(page: str, columns: int) -> list[tuple[str, ...]]:
    """Return the rows of a page's tables that have so many columns, without heads and rulers."""
    lines = re.findall(r"^\| (.*) \|$", (DOCS / page).read_text(), re.MULTILINE)
    cells = [tuple(cell.strip() for cell in line.split(" | ")) for line in lines]
    return [row for row in cells if len(row) == columns and not set(row[0]) <= {"-"}][1:]


def error_rows() -> list[tuple[str, ...]]:
    """Return what the table of errors has to say, in the order of the code."""
    found = []
    for name, error in vars(errors).items():
        if inspect.isclass(error) and issubclass(error, errors.AgilabError):
            builtins = [base.__name__ for base in error.__bases__ if base.__module__ == "builtins"]
            also = ", ".join(f"`{base}`" for base in builtins if base != "Exception")
            means = (inspect.getdoc(error) or "").splitlines()[0]
            found.append((f"`{name}`", also, str(error.exit_code), means))
    return found


def test_every_error_is_in_the_table_with_its_exit_code() -> None:
    assert rows("errors.md", 4) == error_rows()


def test_every_exit_code_is_in_the_table() -> None:
    codes = [row for row in rows("errors.md", 2) if row[0].isdigit()]
    assert codes == [(str(code), text) for code, text in cli.EXIT_CODES]


def test_every_environment_variable_is_in_the_table() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows("environment-variables.md", 3)}
    assert documented == dict(env.VARIABLES)
    assert set(documented) <= {variable.name for variable in AgiEnv().variables()}


def test_no_environment_variable_is_read_without_being_documented() -> None:
    package = DOCS.parent / "agilab"
    named = {name for path in package.rglob("*.py") for name in re.findall(r"[\"'](AGILAB_[A-Z]+)\b", path.read_text())}
    assert named - set(env.VARIABLES) == {"AGILAB_RUN"}, "AGILAB_RUN marks the processes of a run; nobody sets it"


def test_every_kind_of_artifact_is_in_the_table() -> None:
    documented = [(row[0], row[1], row[3], row[4]) for row in rows("app-contract.md", 5)]
    kinds = [(f"`{kind.name}`", kind.doc, f"`{kind.suffix}`", kind.comparison) for kind in KINDS.values()]
    assert documented == kinds


@pytest.fixture(scope="module")
def api() -> ModuleType:
    """Return the generator of the reference of the app API, which lies beside the pages."""
    spec = importlib.util.spec_from_file_location("api_reference", DOCS / "api_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_field_of_what_a_plan_is_made_of_is_described(api: ModuleType) -> None:
    for thing in filter(dataclasses.is_dataclass, api.MANAGER):
        _, sections = api.parse(inspect.getdoc(thing))
        described = [name for names, _ in sections["Parameters"] for name in names.split(", ")]
        assert described == [field.name for field in dataclasses.fields(thing)], thing
        assert all(text for _, text in sections["Parameters"]), thing


def test_every_public_member_of_what_apps_use_is_described(api: ModuleType) -> None:
    text = api.markdown()
    for thing in (*api.MANAGER, *api.WORKER):
        section = text.partition(f"### `{thing.__name__}")[2].partition("\n### ")[0]
        for name, member in vars(thing).items() if inspect.isclass(thing) else ():
            is_member = inspect.isfunction(member) or isinstance(member, property)
            if is_member and not name.startswith("_") and name not in ("to_json", "planned_later"):
                assert f"`{name}" in section, (thing, name)


def test_every_public_name_of_the_app_side_is_in_the_reference(api: ModuleType) -> None:
    import agilab

    control_path = {"AGI", "AgiEnv", "AgilabError", "Run", "RunRequest"}
    assert set(agilab.__all__) - control_path <= {thing.__name__ for thing in (*api.MANAGER, *api.WORKER)}
