"""Notebooks that come in: ten of different style give as apps what they gave in Jupyter; hostile ones stay data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, Run, contract, digest, trust
from agilab.errors import ProjectError, TrustError
from agilab.notebook import text
from agilab.notebook.document import Cell, read_cells, write_text
from agilab.notebook.export import export
from agilab.notebook.importing import Imported, import_notebook
from agilab.notebook.returning import returned
from agilab.notebook.standalone import cells
from agilab.notebook.subject import of_app
from agilab.paths import NAME_PATTERN, HomePaths
from agilab.template import create

NOTEBOOKS = Path(__file__).resolve().parent.parent / "data" / "notebooks"
WITHOUT_MAGICS = ("weather", "primes", "sales", "simulate", "objects", "texts", "pipeline", "frames")
STAGES = {
    "weather": ["read_the_station", "summary"],
    "primes": ["find_them", "gaps"],
    "sales": ["stage_1", "per_month", "together"],
    "simulate": ["random_walk"],
    "objects": ["stage_1"],
    "texts": ["unicode_quotes_script_alert_1_script"],
    "pipeline": ["clean", "count", "report"],
    "frames": ["frames", "check"],
    "messy": ["stage_1"],
    "letters": ["count_letters", "say_it"],
}


def brought(notebook: str, folder: Path, **options: Any) -> Imported:
    """Import one of the ten."""
    AgiEnv().prepare()
    file = NOTEBOOKS / (f"{notebook}.py" if notebook == "letters" else f"{notebook}.ipynb")
    return import_notebook(file, folder, home=HomePaths.chosen(), **options)


def written(tmp_path: Path, *sources: str, name: str = "made.ipynb") -> Path:
    """Write a notebook of code cells; one that begins with ``#m`` is Markdown."""
    cells = [Cell("markdown", one[2:]) if one.startswith("#m") else Cell("code", one) for one in sources]
    file = tmp_path / name
    file.write_text(write_text(cells, script=name.endswith(".py")))
    return file


def decoded(name: str) -> str:
    """Return the path that the name of an artifact stands for."""
    space: dict[str, Any] = {}
    exec(text.OUTPUTS, space)  # what every imported project has
    found: str = space["_path"](name)
    return found


@pytest.fixture(scope="module")
def in_jupyter(tmp_path_factory: pytest.TempPathFactory, environment: None) -> dict[str, dict[str, Any]]:
    """Return what the notebooks print and write in Jupyter."""
    folder = tmp_path_factory.mktemp("jupyter")
    for name in WITHOUT_MAGICS:
        shutil.copytree(NOTEBOOKS, folder / name)
    command = [sys.executable, Path(__file__).with_name("jupyter.py"), folder, *WITHOUT_MAGICS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def as_apps(tmp_path_factory: pytest.TempPathFactory, environment: None) -> dict[str, dict[str, Any]]:
    """Return what the stages of the same notebooks print and write, as apps, in this Python."""
    folder = tmp_path_factory.mktemp("apps")
    home = HomePaths(folder / "home")
    roots = {
        name: import_notebook(NOTEBOOKS / f"{name}.ipynb", folder, home=home).project.root for name in WITHOUT_MAGICS
    }
    command = [sys.executable, Path(__file__).with_name("stages.py"), folder / "left", *roots.values()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = {}
    for name, left in zip(WITHOUT_MAGICS, json.loads(done.stdout).values(), strict=True):
        files = {key: Path(path) for key, path in left.items()}
        said = [path.read_text() for key, path in files.items() if key.endswith("/printed.txt")]
        others = {key: path for key, path in files.items() if not key.endswith("/printed.txt")}
        written = {decoded(key.split("/")[2]): digest.of_file(path) for key, path in others.items()}
        found[name] = {"printed": "".join(said), "written": written}
    return found


def test_a_notebook_gives_as_an_app_what_it_gave_in_jupyter(
    in_jupyter: dict[str, dict[str, Any]], as_apps: dict[str, dict[str, Any]]
) -> None:
    for name in WITHOUT_MAGICS:
        assert as_apps[name] == in_jupyter[name], name
        assert in_jupyter[name]["written"]


def test_the_cut_is_where_nothing_in_memory_is_needed_further_on(home: Path, tmp_path: Path) -> None:
    found = {name: [stage.name for stage in brought(name, tmp_path).decisions.stages] for name in STAGES}
    assert found == STAGES


def test_an_imported_notebook_runs_once_it_is_trusted(home: Path, tmp_path: Path) -> None:
    made = brought("primes", tmp_path)
    env = AgiEnv(made.project.root)
    with pytest.raises(TrustError, match="was imported and is not trusted"):
        env.request()
    trust.trust(made.project.root, env.home, seen=trust.digest_of(made.project.root))
    assert not contract.check(env.project)
    run = AGI.run(env, env.request({"limit": 10})).check()
    assert run.artifact("find_them/find_them/primes.txt").read_text().split() == ["2", "3", "5", "7"]
    assert made.project.root.joinpath("REVIEW.md").is_file()


@pytest.mark.parametrize(
    ("file", "name"),
    [("queue", "notebook_queue"), ("2024 Отчёт", "notebook_2024"), ("отчёт", "notebook"), ("A b", "a_b")],
)
def test_a_file_gives_an_app_a_name_that_it_may_have(home: Path, tmp_path: Path, file: str, name: str) -> None:
    AgiEnv().prepare()
    made = import_notebook(written(tmp_path, "print(1)", name=f"{file}.ipynb"), tmp_path, home=HomePaths.chosen())
    assert made.project.name == name


@pytest.mark.parametrize(
    "path", ["plain.csv", "a/b c.txt", "фев.txt", ".hidden", "-x", "_a.txt", "данные/отчёт за год.csv"]
)
def test_every_file_has_a_name_as_an_artifact_that_leads_back(path: str) -> None:
    space: dict[str, Any] = {}
    exec(text.OUTPUTS, space)
    assert NAME_PATTERN.fullmatch(space["_name"](path))
    assert space["_path"](space["_name"](path)) == path


@pytest.mark.parametrize(
    ("first", "needs"),
    [
        ("x = [1]", ()),
        ("from IPython.display import display\nx = [1]", ()),
        ("from IPython.display import HTML, display\nx = HTML('a')", ("ipython",)),
    ],
)
def test_what_is_displayed_is_printed(home: Path, tmp_path: Path, first: str, needs: tuple[str, ...]) -> None:
    AgiEnv().prepare()
    file = written(tmp_path, first, "def seen(y):\n    display(y)", "seen(x)\nOut[1]", "display(x)")
    made = import_notebook(file, tmp_path, home=HomePaths.chosen())
    assert made.requirements == needs
    assert "Out is Jupyter's own" in {note.what for note in made.notes}
    code = "".join(path.read_text() for path in sorted((made.project.root / "src" / "made_worker").glob("[_d]*.py")))
    assert code.count("from made_worker.outputs import display\n") == 2, "by stages, and by what cells define"


def test_names_of_ours_make_way_for_those_of_the_notebook(home: Path, tmp_path: Path) -> None:
    AgiEnv().prepare()
    file = written(tmp_path, "show = show_ = outputs = [1]", "show + show_ + outputs")
    made = import_notebook(file, tmp_path, home=HomePaths.chosen())
    worker = (made.project.root / "src" / "made_worker" / "__init__.py").read_text()
    assert "import outputs as outputs_, show as show__\n" in worker
    assert "show__(show + show_ + outputs)" in worker


def test_one_stage_when_asked(home: Path, tmp_path: Path) -> None:
    made = brought("pipeline", tmp_path, name="whole", one_stage=True)
    assert [stage.name for stage in made.decisions.stages] == ["clean"]


def test_settings_come_from_constants_with_their_comments(home: Path, tmp_path: Path) -> None:
    settings = {one.name: (one.type, one.default, one.doc) for one in brought("weather", tmp_path).decisions.settings}
    assert settings == {
        "threshold_mm": ("Number", 1.5, "below this a day counts as dry [mm]"),
        "station": ("String", "north", "Which station to look at"),
        "months": ("Integer", 3, ""),
        "keep": ("Boolean", True, ""),
    }


def test_what_only_ipython_understands_is_said(home: Path, tmp_path: Path) -> None:
    made = brought("messy", tmp_path)
    assert made.requirements == ("idna>=3", "requests")
    said = {note.what: note.why for note in made.notes}
    assert said["left out: !ls -l"] == "a shell line; use subprocess.run([...]), or do it before the run"
    assert said["left out: %%bash"].startswith("the whole cell is not Python; ")
    assert said["left out: files = !ls *.csv"].startswith("files is what a shell or IPython says; ")
    review = (made.project.root / "REVIEW.md").read_text()
    assert all(re.sub(r"([<>&\[\]`])", r"\\\1", what).replace("|", "\\|") in review for what in said)


@pytest.mark.parametrize(
    ("sources", "stages"),
    [
        (("x = 1\ny = [x]", "y.append(2)", "print(3)"), 2),
        (("a, (b, *c) = 1, 'two'", "d[0], e = c", "print(a, b)"), 1),
        (("import numpy as np\nnp.random.seed(1)", "print(1)", "print(2)"), 1),
        (("import numpy as np\nnp.save('a.npy', [1])", "print(np.load('a.npy'))"), 2),
        (("import decimal\ndecimal.getcontext().prec = 3", "print(1)"), 1),
        (("for i in range(3):\n    print(i)", "for i in range(2):\n    print(i)"), 2),
        (("df = 1\nprint(df)", "df = 2\nprint(df)", "if df:\n    df = 3"), 2),
        (("def f():\n    return late\nlate = 1", "print(f())"), 1),
        (("class A:\n    seen = []\nA.seen.append(1)", "print(A.seen)"), 1),
        (("def f(x, seen=[]):\n    seen.append(x)\n    return seen\nf(1)", "print(f(2))"), 1),
    ],
)
def test_what_is_shared_in_memory_is_not_cut(home: Path, tmp_path: Path, sources: tuple[str, ...], stages: int) -> None:
    made = import_notebook(written(tmp_path, *sources), tmp_path, home=HomePaths.chosen())
    assert len(made.decisions.stages) == stages


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1", "made.ipynb:1:3: not a notebook: "),
        ("[" * 100_000, "nested too deeply"),
        ('{"nbformat": 3, "cells": []}', "is not a notebook of format 4"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": 1}]}', "cell 1 has no text as its source"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": "x = ("}]}', "code cell 1 is not Python: line 1"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": "await x"}]}', "works in Jupyter only"),
        ('{"nbformat": 4, "cells": []}', "has no cell that does something"),
        ('{"nbformat": 4, "cells": [], "metadata": {"kernelspec": {"language": "R"}}}', "a notebook in 'R'"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": "x = ' + "-" * 5000 + '1"}]}', "nested too deeply"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": "' + "+1" * 9000 + '"}]}', "nested too deeply"),
    ],
)
def test_a_damaged_or_hostile_notebook_is_refused_in_one_line(
    home: Path, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "made.ipynb"
    file.write_text(content)
    with pytest.raises(ProjectError, match=re.escape(said)) as refused:
        import_notebook(file, tmp_path, home=HomePaths.chosen())
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["made.ipynb"]


def test_nothing_of_a_hostile_notebook_runs_or_becomes_markup(home: Path, tmp_path: Path) -> None:
    song = tmp_path / "song"
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "link.txt").symlink_to(secret)
    sources = (
        f"open({str(song)!r}, 'w')",
        f"!touch {song} <img src=x>",
        "open('../secret.txt').read(); open('link.txt').read()",
        '#m# """ + open("song") + """ <script>\n```\nsong',
        f'TITLE = "\\"\\"\\" + __import__(\'os\').system(\'touch {song}\') + \\"\\"\\""  # [x](javascript:1) \x1b[31m',
        "def f(x=__import__('os')):\n    pass",
    )
    made = import_notebook(written(folder, *sources), tmp_path, home=HomePaths.chosen())
    assert not song.exists()
    assert made.inputs == ()
    assert trust.untrusted(made.project.root, HomePaths.chosen()) is not None
    review = (made.project.root / "REVIEW.md").read_text()
    assert "<img" not in review.replace("\\<", "")
    assert "\x1b" not in review
    for path in (made.project.root / "src").rglob("*.py"):
        compile(path.read_text(), path, "exec")


def stripped(file: Path, target: Path) -> Path:
    """Write a notebook again as somebody's editor may: without tags, ids and metadata."""
    cells = [{"cell_type": cell.kind, "metadata": {}, "source": cell.source} for cell in read_cells(file)]
    made = [cell | ({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}) for cell in cells]
    target.parent.mkdir()
    target.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": made}))
    return target


def test_a_standalone_notebook_comes_back_as_the_project_that_it_was(home: Path, tmp_path: Path) -> None:
    first = brought("pipeline", tmp_path)
    trust.trust(first.project.root, HomePaths.chosen(), seen=trust.digest_of(first.project.root))
    env = AgiEnv(first.project.root)
    run = AGI.run(env, env.request()).check()
    made = export(env, run, tmp_path / "pipeline.ipynb", standalone=True, report=print)
    there = tmp_path / "elsewhere"
    file = stripped(made.file, there / "any_name.ipynb")
    shutil.copytree(first.project.root / "inputs", there / "inputs")
    moved = tmp_path / "moved" / first.project.root.name
    moved.parent.mkdir()
    first.project.root.rename(moved)
    again = import_notebook(file, there, home=HomePaths.chosen())
    assert again.inputs == tuple(f"inputs/{path}" for path in first.inputs)
    assert (again.project.name, again.project.app_class) == (first.project.name, first.project.app_class)
    with pytest.raises(TrustError, match="is not trusted"):
        AgiEnv(again.project.root).request()
    trust.trust(again.project.root, HomePaths.chosen(), seen=trust.digest_of(again.project.root))
    back = AgiEnv(again.project.root)
    assert [(field.name, field.type, field.default) for field in back.fields()] == [("OUT", "string", "out")]
    before = AgiEnv(moved)
    assert [str(one).partition(": ")[2] for one in contract.check(back.project)] == [
        str(one).partition(": ")[2] for one in contract.check(before.project)
    ]
    repeated = AGI.run(back, back.request()).check()
    assert [stage["stage"] for stage in repeated.manifest["stages"]] == ["clean", "count", "report"]
    assert {item.key: (item.kind, item.sha256) for item in repeated.artifacts()} == {
        item.key: (item.kind, item.sha256) for item in run.artifacts()
    }
    assert plans(repeated) == plans(run)


def test_settings_come_back_with_what_they_may_be(home: Path, tmp_path: Path) -> None:
    env = AgiEnv(create("squares", tmp_path).root)
    manager = env.project.manager / "__init__.py"
    declared = manager.read_text().replace("\n    def plan", f"{DECLARED}\n    def plan", 1)
    manager.write_text(f"import datetime\n{declared}")
    env.project.settings_file.unlink()
    text = write_text(cells(of_app(env, report=print)), script=True)
    assert "    share = 0.5  # How much (of it) (0.0 < share <= 1.0)\n" in text
    assert '    places = ("a",)  # Where ({*places} <= {"a", "b"})\n' in text
    file = written_as(tmp_path / "squares.py", text)
    back = import_notebook(file, tmp_path, home=HomePaths.chosen(), name="back")
    trust.trust(back.project.root, HomePaths.chosen(), seen=trust.digest_of(back.project.root))
    assert AgiEnv(back.project.root).fields() == AgiEnv(env.project.root).fields()


DECLARED = """\
        share = param.Number(0.5, bounds=(0, 1), inclusive_bounds=(False, True), doc="How much (of it)")
        least = param.Integer(3, bounds=(1, None), doc="At least [m]")
        colour = param.Selector(default="red", objects=["red", "it's (blue)"])
        places = param.ListSelector(default=["a"], objects=["a", "b"], doc="Where")
        day = param.CalendarDate(datetime.date(2020, 1, 2), bounds=(datetime.date(2020, 1, 1), None))
"""


def plans(run: Run) -> dict[str, Any]:
    """Return what was planned, by stage, but for how it was assigned."""
    found = {path.stem: json.loads(path.read_text()) for path in run.paths.plans.glob("*.json")}
    return {stage: (plan["after"], plan["partitions"]) for stage, plan in found.items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"squares": [', '"squares": [("../x", {}, {}, []), '),
        ('("from-0", {"start": 0', '("from-0", {"start": open("song", "w")'),
        ('Path("squares_results")', 'Path(__import__("os").getcwd())'),
        ("class Worker:", "class Other:"),
    ],
)
def test_one_that_was_changed_is_a_notebook_like_any_other(home: Path, tmp_path: Path, old: str, new: str) -> None:
    env = AgiEnv(create("squares", tmp_path).root)
    text = write_text(cells(of_app(env, report=print)), script=True)
    assert returned(read_cells(written_as(tmp_path / "same.py", text))) is not None
    assert text.count(old) == 1
    assert returned(read_cells(written_as(tmp_path / "changed.py", text.replace(old, new)))) is None


def written_as(path: Path, text: str) -> Path:
    """Write a file, and return where it is."""
    path.write_text(text)
    return path
