"""The tables of the manual are complete: errors, exit codes, environment variables, commands."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from agilab import AgiEnv, cli, env, errors

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
