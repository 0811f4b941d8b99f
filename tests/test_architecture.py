"""The rules of the code's shape: who imports whom, how long a file may be, what must be documented."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "agilab"

LONGEST_FILE = 600
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 6
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "support", "common", "misc"}

RUNTIME = ("worker", "plan", "artifact", "codec", "values", "points", "errors", "digest", "paths", "entry")
"""What worker code may see: copied into worker environments, so standard library only."""
RUNTIME_LAZY = {"worker": {"pyarrow"}, "points": {"pyarrow", "numpy"}}
"""What a runtime module may import inside a function, where the worker's own environment provides it."""

MAY_CATCH_ALL = (
    "agilab/entry.py",  # worker code runs here,
    "agilab/backends/inline.py",  # and here
    "agilab/planner.py",  # manager code of apps runs here
    "agilab/supervisor.py",  # whatever happens, the run is sealed
    "agilab/tracker.py",  # MLflow raises what a server makes it raise
    "agilab/cli/",  # the last one who can say it in a line
    "agilab/errors.py",  # the __str__ of somebody else's exception
    "dashboards/agilab_dashboards/document.py",  # the one guard of every page
    "dashboards/agilab_dashboards/views/own.py",  # an app's views are imported and drawn here
    "agilab/testing/",  # hands what a run raised in its thread to the test
)


def python_files(*folders: str) -> list[Path]:
    """List the Python files below some folders of the checkout."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not {".venv", "_build"} & set(path.parts))


EVERY_FILE = [*python_files("agilab", "apps", "dashboards", "docs", "tests"), ROOT / "hatch_build.py"]


# --- imports ---------------------------------------------------------------


def test_imports_follow_the_contracts_in_pyproject(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_stands_on_exactly_one_level() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    levels = next(contract for contract in contracts if contract["id"] == "levels")["layers"]
    listed = [name.strip() for level in levels for name in level.split("|")]
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(listed) == sorted(modules - {"__init__", "__main__"})


def test_a_sideways_import_breaks_the_contracts(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "agilab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "agilab" / "digest.py", "a") as file:
        file.write("\n\ndef bad():\n    import dask\n    from agilab import paths\n")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "agilab.digest -> agilab.paths" in done.stdout
    assert "agilab.digest -> dask" in done.stdout
    assert done.returncode == 1


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield what a module imports: ``agilab.<module>`` or the top-level name, and whether inside a function."""
    lazy = {id(node) for function in functions(tree) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "agilab":
            names = [f"agilab.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "(relative)"]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield (".".join(parts[:2]) if parts[0] == "agilab" else parts[0]), id(node) in lazy


def runtime_breaches(module: str, tree: ast.AST) -> list[str]:
    """List imports of a runtime module that a worker environment may not satisfy."""
    allowed = {*sys.stdlib_module_names, *(f"agilab.{name}" for name in RUNTIME)}
    return [
        name
        for name, lazy in imports(tree)
        if name not in allowed and not (lazy and name in RUNTIME_LAZY.get(module, ()))
    ]


# import-linter lists allowed external packages nowhere: a forbidden contract would have to name every other one.
@pytest.mark.parametrize("module", RUNTIME)
def test_a_runtime_module_needs_only_the_standard_library_and_other_runtime_modules(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    assert runtime_breaches(module, tree) == []


def test_the_runtime_rule_sees_what_breaks_it() -> None:
    bad = ast.parse(
        "import param\nfrom agilab import settings\nimport agilab.run\nimport numpy\ndef f():\n  import numpy"
    )
    assert runtime_breaches("points", bad) == ["param", "agilab.settings", "agilab.run", "numpy"]


def test_the_runtime_imports_where_nothing_is_installed(tmp_path: Path) -> None:
    folder = tmp_path / "agilab"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for module in RUNTIME:
        shutil.copy(PACKAGE / f"{module}.py", folder)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import " + ", ".join(f"agilab.{m}" for m in RUNTIME)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- shape -----------------------------------------------------------------


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a module, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the public functions of a module and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_"):
                    yield f"{node.name}.{item.name}", item


def long_functions(text: str) -> list[str]:
    """List functions that are longer than a reader can hold."""
    long = [(node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions(ast.parse(text))]
    return [f"{node.lineno}: {node.name} has {lines} lines" for node, lines in long if lines > LONGEST_FUNCTION]


def caught_everything(text: str) -> list[str]:
    """List handlers of `Exception`, `BaseException` or anything, and whether they give a reason.

    A handler that ends by raising the same again only tidies up, and is not meant.
    """
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler) or ast.unparse(node.body[-1]) == "raise":
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = [kind for kind in caught if kind is None or ast.unparse(kind) in ("Exception", "BaseException")]
        if broad:
            reason = "#" in lines[node.lineno - 1]
            found.append(f"{node.lineno}: {'with' if reason else 'without'} a reason")
    return found


def undocumented(text: str) -> list[str]:
    """List public modules, classes and functions without a docstring."""
    tree = ast.parse(text)
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    missing = [f"{node.lineno}: {node.name}" for node in public if not ast.get_docstring(node)]
    return missing if ast.get_docstring(tree) else ["1: the module", *missing]


def loose_signatures(text: str) -> list[str]:
    """List public functions that take ``**kwargs`` or more parameters than one can tell apart."""
    found = []
    for name, node in public_functions(ast.parse(text)):
        given = node.args
        parameters = [
            arg for arg in given.posonlyargs + given.args + given.kwonlyargs if arg.arg not in ("self", "cls")
        ]
        if given.kwarg:
            found.append(f"{node.lineno}: {name} takes **{given.kwarg.arg}")
        if len(parameters) > MOST_PARAMETERS:
            found.append(f"{node.lineno}: {name} takes {len(parameters)} parameters")
    return found


def breaches(check: Callable[[str], list[str]], files: list[Path]) -> list[str]:
    """Run a check over files; name file and line of whatever it finds."""
    return [f"{path.relative_to(ROOT)}:{found}" for path in files for found in check(path.read_text())]


def assert_none(found: list[str]) -> None:
    """Fail with every finding on a line of its own."""
    assert not found, "\n" + "\n".join(found)


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in EVERY_FILE}
    assert_none([f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in lengths.items() if lines > LONGEST_FILE])


def test_no_function_is_too_long() -> None:
    assert_none(breaches(long_functions, EVERY_FILE))


def test_no_file_or_folder_has_a_name_that_says_nothing() -> None:
    parts = {(path, part) for path in EVERY_FILE for part in path.relative_to(ROOT).with_suffix("").parts}
    assert_none([str(path) for path, part in parts if part.strip("_") in FORBIDDEN_NAMES])


def test_everything_is_caught_only_where_it_must_be_and_with_a_reason() -> None:
    found = breaches(caught_everything, python_files("agilab", "apps", "dashboards"))
    assert_none([line for line in found if not line.startswith(MAY_CATCH_ALL) or line.endswith("without a reason")])


def test_public_names_are_documented() -> None:
    files = [path for path in python_files("agilab", "apps", "dashboards") if "tests" not in path.parts]
    assert_none(breaches(undocumented, [*files, ROOT / "hatch_build.py"]))


def test_public_signatures_are_explicit_and_short() -> None:
    assert_none(breaches(loose_signatures, python_files("agilab", "dashboards")))


def test_the_shape_rules_see_what_breaks_them() -> None:
    bad = (
        "def long():\n" + "    pass\n" * LONGEST_FUNCTION + "def many(a, b, c, d, e, f, g): ...\ndef loose(**kw): ...\n"
    )
    assert long_functions(bad) == ["1: long has 61 lines"]
    assert undocumented(bad) == ["1: the module", "1: long", "62: many", "63: loose"]
    assert loose_signatures(bad) == ["62: many takes 7 parameters", "63: loose takes **kw"]
    swallow = "try:\n    f()\nexcept (OSError, Exception):\n    pass\ntry:\n    f()\nexcept:\n    g()\n    raise\n"
    assert caught_everything(swallow) == ["3: without a reason"]
    assert caught_everything("try: f()\nexcept BaseException as e:  # it prints it\n    pass") == ["2: with a reason"]
