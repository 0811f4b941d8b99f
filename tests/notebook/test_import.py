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

from agilab import AGI, AgiEnv, trust
from agilab.notebook.document import Cell, write_text
from agilab.notebook.importing import Imported, import_notebook
from agilab.paths import HomePaths
from agilab.run import Run

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


def brought(name: str, folder: Path, **options: Any) -> Imported:
    """Import one of the ten."""
    file = NOTEBOOKS / (f"{name}.py" if name == "letters" else f"{name}.ipynb")
    return import_notebook(file, folder, home=HomePaths.chosen(), **options)


def written(tmp_path: Path, *sources: str, name: str = "made.ipynb") -> Path:
    """Write a notebook of code cells; one that begins with ``#m`` is Markdown."""
    cells = [Cell("markdown", one[2:]) if one.startswith("#m") else Cell("code", one) for one in sources]
    file = tmp_path / name
    file.write_text(write_text(cells, script=name.endswith(".py")))
    return file


def ran(made: Imported, env: AgiEnv) -> Run:
    """Trust and run it."""
    root = made.project.root
    trust.trust(root, env.home, seen=trust.digest_of(root))
    mine = env.select(root)
    return AGI.run(mine, mine.request()).check()


def printed(run: Run) -> str:
    """Return what all stages printed."""
    return "".join(run.artifact(item.key).read_text() for item in run.artifacts() if item.name == "printed.txt")


def left(run: Run) -> dict[str, str]:
    """Return path -> sha256 of what the notebook's own code wrote; of what is written twice the last."""
    found = {item.name: item.sha256 for item in run.artifacts() if item.name != "printed.txt"}
    numbers = re.compile(r"-x([0-9a-f]+)-")
    return {
        numbers.sub(lambda code: chr(int(code[1], 16)), key).replace("--", "/"): value for key, value in found.items()
    }


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


@pytest.fixture
def imports_env(home: Path, shared_folder: Path) -> AgiEnv:
    """Return folders whose worker environments all tests share."""
    env = AgiEnv(home=home, wenv=shared_folder / "import_wenv")
    env.prepare()
    return env


@pytest.mark.parametrize("name", WITHOUT_MAGICS)
def test_a_notebook_gives_as_an_app_what_it_gave_in_jupyter(
    name: str, in_jupyter: dict[str, dict[str, Any]], imports_env: AgiEnv, tmp_path: Path
) -> None:
    run = ran(brought(name, tmp_path), imports_env)
    assert printed(run) == in_jupyter[name]["printed"]
    assert left(run) == in_jupyter[name]["written"]
