"""Every way in which an app project can break its contract is named with file, line and fix."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab.codec import Field
from agilab.contract import Breach, check, missing_dependencies, require_dependencies
from agilab.errors import ProjectError
from agilab.project import Project, locate
from agilab.template import create

MANAGER, WORKER = "src/demo_app/__init__.py", "src/demo_app_worker/__init__.py"
WORKER_TOML, SETTINGS = "src/demo_app_worker/pyproject.toml", "src/demo_app/app_settings.toml"


@pytest.fixture
def made(tmp_path: Path) -> Project:
    """Return a project that keeps the contract."""
    return create("demo_app", tmp_path)


def checked(made: Project) -> list[str]:
    """Check a project as its files are now; return its breaches below the project's root."""
    return [str(breach).removeprefix(f"{made.root}/") for breach in check(locate(made.root))]


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


def added(name: str, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        with open(root / name, "a") as file:
            file.write(text)

    return change


def together(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def test_a_new_project_keeps_it(made: Project) -> None:
    assert checked(made) == []


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    # the project's pyproject.toml
    "unknown key": (
        replaced("pyproject.toml", "[tool.agilab]", '[tool.agilab]\nworkr = "x:Y"'),
        "pyproject.toml:17: unknown key 'workr' in [tool.agilab]; did you mean 'worker'?",
    ),
    "no requires-python": (
        replaced("pyproject.toml", "requires-python", "# requires"),
        "pyproject.toml:5: no requires-python in [project]; write requires-python",
    ),
    "requires-python that is none": (
        replaced("pyproject.toml", '">=3.11"', '"3.11 or later"'),
        "pyproject.toml:10: requires-python '3.11 or later' is not a version specifier",
    ),
    "another Python": (
        replaced("pyproject.toml", '">=3.11"', '">=4"'),
        "and the project requires >=4; install AGILAB in a Python that fits",
    ),
    "no license": (replaced("pyproject.toml", "license = ", "# "), "pyproject.toml:5: no license in [project]"),
    "entry point": (
        replaced("pyproject.toml", '"demo_app:DemoApp"', '"demo_app:Demo"'),
        'pyproject.toml:14: the entry point does not name demo_app:DemoApp; write demo_app = "demo_app:DemoApp"',
    ),
    "wheel without project": (
        replaced("pyproject.toml", '"demo_app/_project/pyproject.toml"', '"demo_app/pyproject.toml"'),
        "pyproject.toml:13: the wheel would not carry this file",
    ),
    # manager dependencies
    "missing dependency": (
        replaced("pyproject.toml", "dependencies = []", 'dependencies = [\n  "no-such-thing>=2",\n  "click>99",\n]'),
        "pyproject.toml:12: manager dependency 'no-such-thing>=2' is not installed; "
        "run: pip install 'no-such-thing>=2' 'click>99'",
    ),
    "old dependency": (
        replaced("pyproject.toml", "dependencies = []", 'dependencies = [\n  "click>99",\n]'),
        "pyproject.toml:12: manager dependency 'click>99' is installed as ",
    ),
    "bad dependency": (
        replaced("pyproject.toml", "dependencies = []", 'dependencies = ["a b c"]'),
        "pyproject.toml:11: manager dependency 'a b c' is not a requirement; write it as 'numpy>=2'",
    ),
    # the worker's pyproject.toml
    "no worker manifest": (
        lambda root: (root / WORKER_TOML).unlink(),
        f"{WORKER_TOML}:1: no pyproject.toml in the worker package",
    ),
    "broken worker manifest": (added(WORKER_TOML, "x = ["), f"{WORKER_TOML}:6: not valid TOML"),
    "worker without Python": (
        replaced(WORKER_TOML, "requires-python", "# requires"),
        f"{WORKER_TOML}:1: no requires-python in [project]",
    ),
    "user interface in the worker": (
        replaced(WORKER_TOML, "[]", '[\n  "numpy",\n  "HoloViews>=1.21",\n]'),
        f"{WORKER_TOML}:7: worker dependency 'HoloViews>=1.21' is a user interface, and workers have none; leave",
    ),
    "agilab in the worker": (
        replaced(WORKER_TOML, "[]", '["agilab_holoviz"]'),
        f"{WORKER_TOML}:5: worker dependency 'agilab_holoviz': the runtime is put beside worker code",
    ),
    "bad worker dependency": (
        replaced(WORKER_TOML, "[]", '["a b"]'),
        f"{WORKER_TOML}:5: worker dependency 'a b' is not a requirement",
    ),
    "worker dependencies": (replaced(WORKER_TOML, "[]", "{}"), f"{WORKER_TOML}:5: dependencies is not a list"),
    # worker code
    "import": (
        replaced(WORKER, "import json", "import demo_app.sub"),
        f"{WORKER}:3: the worker imports its manager package demo_app, which is not there at run time; move",
    ),
    "import from": (replaced(WORKER, "import json", "from demo_app import x"), f"{WORKER}:3: the worker imports its"),
    "late import": (
        replaced(WORKER, "        numbers = range", "        import demo_app\n        numbers = range"),
        f"{WORKER}:10: the worker imports its manager package",
    ),
    "import by name": (
        replaced(WORKER, "import json", 'from importlib import import_module as load\nload("demo_app")'),
        f"{WORKER}:4: the worker imports its manager package",
    ),
    "import in another file": (
        added("src/demo_app_worker/sub/deep.py", "\n\nimport demo_app\n"),
        "src/demo_app_worker/sub/deep.py:3: the worker imports its manager package",
    ),
    "relative import out of the package": (
        added("src/demo_app_worker/sub/deep.py", "from . import a\nfrom .. import b\nfrom ...demo_app import c\n"),
        "src/demo_app_worker/sub/deep.py:3: the relative import of 'demo_app.c' leaves the worker package",
    ),
    "manager modules of agilab": (
        replaced(WORKER, "import json", "from agilab import AGI, Worker"),
        f"{WORKER}:3: the worker imports AGI of agilab, which stays with the manager; use Worker, and modules worker",
    ),
    "agilab.settings": (
        replaced(WORKER, "import json", "import agilab.settings"),
        f"{WORKER}:3: the worker imports settings of agilab",
    ),
    "other file that is no Python": (
        added("src/demo_app_worker/other.py", "def ("),
        "src/demo_app_worker/other.py:1: Python 3.",
    ),
    "class in no file": (
        replaced("pyproject.toml", "[tool.agilab]", '[tool.agilab]\nworker = "demo_app_worker.gone:Gone"'),
        "pyproject.toml:1: no module demo_app_worker.gone in the project",
    ),
    # stages
    "stage without method": (
        replaced(WORKER, "def squares", "def cubes"),
        f"{WORKER}:1: DemoAppWorker has no method for stage 'squares'; it has cubes, total; write `def squares(",
    ),
    "stage with underscore": (
        replaced(MANAGER, 'Stage("squares"', 'Stage("_squares"'),
        f"{MANAGER}:19: stage '_squares' has a name no stage method can have",
    ),
    "stage called setup": (
        replaced(MANAGER, '"squares", squares', 'name="setup", partitions=squares'),
        "stage 'setup' has a name",
    ),
    "method without part": (
        replaced(WORKER, "def squares(self, part)", "def squares(self)"),
        f"{WORKER}:9: stage method squares cannot be called with one partition; write `def squares(self, part)`",
    ),
    "async method": (replaced(WORKER, "def squares", "async def squares"), ":9: stage method squares cannot be called"),
    "property": (
        replaced(WORKER, "    def squares", "    @property\n    def squares"),
        "stage method squares cannot be called",
    ),
    "no stage method": (
        together(
            replaced(WORKER, "    def squares", "    def _squares"),
            replaced(WORKER, "    def total", "    def setup"),
            replaced(MANAGER, "agilab.Stage", "getattr(agilab, 'Stage')"),
        ),
        f"{WORKER}:1: DemoAppWorker has no stage method; write one",
    ),
    # settings
    "settings file": (replaced(SETTINGS, "[settings]", "[settings"), f"{SETTINGS}:1: is not valid TOML"),
    "settings table": (
        added(SETTINGS, "[veiws]\n"),
        f"{SETTINGS}:3: unknown table or key 'veiws'; did you mean [views]?",
    ),
}


@pytest.mark.parametrize("breach", BROKEN)
def test_a_breach_is_named_with_file_line_and_fix(made: Project, breach: str) -> None:
    change, expected = BROKEN[breach]
    change(made.root)
    lines = checked(made)
    assert any(expected in line for line in lines), lines
    assert all("; " in line and line.isprintable() for line in lines)
    assert len(lines) <= 2


def declare(*requirements: str) -> Callable[[Path], None]:
    return replaced(WORKER_TOML, "dependencies = []", f"dependencies = {list(requirements)!r}")


def test_imports_that_stay_in_the_worker_are_its_own_business(made: Project) -> None:
    declare("demo-app-2", "numpy>=2")(made.root)
    added("src/demo_app_worker/sub/__init__.py", "from .. import sub\nfrom . import deep\nfrom ..sub import deep\n")(
        made.root
    )
    added("src/demo_app_worker/sub/deep.py", "import demo_app_worker.sub\nimport demo_app_2\nimport numpy\n")(made.root)
    added(WORKER, "from agilab import Worker, errors, points\nfrom agilab.errors import WorkerError\n")(made.root)
    assert checked(made) == []


def test_methods_may_come_from_a_base_in_the_file_or_from_elsewhere(made: Project) -> None:
    path = made.root / WORKER
    text = path.read_text()
    path.write_text(text.replace("class DemoAppWorker", "class Base") + "\nclass Last(Base):\n    pass\n")
    assert checked(made) == []
    declare("elsewhere")(made.root)
    path.write_text("from agilab import Worker\nfrom elsewhere import Mixin\nclass Last(Mixin, Worker):\n    pass\n")
    assert checked(made) == []


def test_stages_of_the_plan_are_held_against_the_methods(made: Project) -> None:
    assert check(made, stages=["squares", "total"]) == ()
    (breach,) = check(made, stages=["squares", "sum_up"])
    assert breach.file == made.worker / "__init__.py"
    assert "no method for stage 'sum_up'; it has squares, total" in breach.message
    (breach,) = check(made, stages=["teardown"])
    assert "has a name no stage method can have" in breach.message


def test_settings_without_doc_or_bounds_are_named_where_they_are_declared(made: Project) -> None:
    fields = [
        Field("count", "integer", 1000, "How many"),
        Field("partitions", "number", 4.0, "", constraints={"min": 1}),
        Field("label", "string", "x", "What it is called"),
        Field("inner", "settings", {"depth": 1}, "", constraints={"fields": [Field("depth", "integer", 1).to_json()]}),
    ]
    found = [(breach.line, breach.message) for breach in check(made, fields=fields)]
    assert found == [
        (9, "setting 'count' has no bounds"),
        (10, "setting 'partitions' has no doc"),
        (1, "setting 'inner.depth' has no doc"),
        (1, "setting 'inner.depth' has no bounds"),
    ]


def test_every_wrong_value_of_the_settings_file_is_named(made: Project) -> None:
    fields = [Field("count", "integer", 1, "How many", constraints={"min": 1, "max": 9})]
    (made.root / SETTINGS).write_text("[settings]\ncount = 10\ncuont = 3\n")
    lines = [str(breach).removeprefix(f"{made.root}/") for breach in check(made, fields=fields)]
    assert lines == [
        f"{SETTINGS}:2: setting 'count' is 10; allowed: a whole number >= 1 and <= 9",
        f"{SETTINGS}:3: unknown setting 'cuont'; did you mean 'count'?",
    ]
    assert check(made) == ()
    (made.root / SETTINGS).unlink()
    assert check(made, fields=fields) == ()


def test_a_project_with_nothing_in_it_has_its_breaches_named_all_the_same(tmp_path: Path) -> None:
    root = tmp_path / "empty_app_project"
    root.mkdir()
    (root / "pyproject.toml").touch()
    found = check(locate(root))
    messages = [breach.message for breach in found]
    for expected in (
        "no uuid",
        "no name",
        "no version",
        "no manager package",
        "no worker package",
        "no requires-python",
    ):
        assert any(expected in message for message in messages), messages
    shutil.rmtree(root)
    root.mkdir()
    (root / "pyproject.toml").write_text("[project")
    assert any("not valid TOML" in breach.message for breach in check(locate(root)))


def test_dependencies_that_do_not_apply_or_are_there_are_not_missing(made: Project) -> None:
    change = replaced(
        "pyproject.toml",
        "dependencies = []",
        'dependencies = ["click", "no-such-thing; sys_platform == \'win32\'", "agilab-holoviz[test]>=0.1"]',
    )
    change(made.root)
    assert missing_dependencies(locate(made.root)) == ()
    require_dependencies(locate(made.root))


def test_extras_count_too(made: Project) -> None:
    replaced("pyproject.toml", "dependencies = []", 'dependencies = ["hypothesis[redis]"]')(made.root)
    with pytest.raises(ProjectError, match=r"'hypothesis\[redis\]' lacks 'redis.*pip install 'hypothesis\[redis\]'"):
        require_dependencies(locate(made.root))


def test_checking_runs_nothing_of_the_project(made: Project) -> None:
    marker = made.root.parent / "ran"
    for name in (MANAGER, WORKER):
        replaced(name, "import agilab\n", f"import agilab\nopen({str(marker)!r}, 'w')\n")(made.root)
    assert checked(made) == []
    assert not marker.exists()
    assert not {"demo_app", "demo_app_worker"} & sys.modules.keys()


def test_asking_for_missing_dependencies_costs_nothing_when_there_are_none(made: Project) -> None:
    code = (
        "import sys; from agilab import contract, project\n"
        f"contract.require_dependencies(project.find({str(made.root)!r}))\n"
        "print([name for name in ('packaging', 'importlib.metadata', 'param') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_breach_prints_as_path_line_message_and_fix() -> None:
    assert str(Breach(Path("/a/b.toml"), 3, "no uuid", "write one")) == "/a/b.toml:3: no uuid; write one"


# --- imports and what provides them ---


def test_an_import_without_a_dependency_is_named_once_with_what_provides_it(made: Project) -> None:
    added(WORKER, "import polars as pl\nimport polars.selectors\nfrom sklearn.svm import SVC\n")(made.root)
    line = (made.root / WORKER).read_text().splitlines().index("import polars as pl") + 1
    assert checked(made) == [
        f"{WORKER}:{line}: the worker imports polars, which none of its dependencies provides; "
        f'add "polars" to dependencies in {made.worker_pyproject}',
        f"{WORKER}:{line + 2}: the worker imports sklearn, which none of its dependencies provides; "
        f'add "scikit-learn" to dependencies in {made.worker_pyproject}',
    ]
    declare("polars[all]>=1", "scikit_learn; python_version >= '3'")(made.root)
    assert checked(made) == []


def test_the_manager_side_declares_what_it_imports(made: Project) -> None:
    added(MANAGER, "import click, pytest\nimport param\nfrom packaging.version import Version\n")(made.root)
    (said,) = checked(made)
    assert "the manager imports pytest, which none of its dependencies provides" in said
    assert said.endswith(f'add "pytest" to dependencies in {made.pyproject}')
    replaced("pyproject.toml", "dependencies = []", 'dependencies = ["pytest"]')(made.root)
    assert checked(made) == []


def test_dependencies_that_are_found_out_while_building_are_not_guessed(made: Project) -> None:
    added(WORKER, "import polars\n")(made.root)
    replaced(WORKER_TOML, "dependencies = []", 'dynamic = ["dependencies"]')(made.root)
    assert checked(made) == []
