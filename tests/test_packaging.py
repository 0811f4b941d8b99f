"""What is declared, built and installed: dependencies in three files that agree, and a wheel with the right content."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import uv
import yaml
from packaging.requirements import Requirement

from agilab.digest import tree_files
from tests.checkout import CORE_LIMITS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = PROJECT["name"]
MISSION = {"panel", "holoviews", "bokeh", "param", "dask", "distributed", "datashader", "mlflow", "asyncssh", "pytest"}
CONDA_EXTRAS = ("ui", "mlflow", "notebook")


def requirements(extra: str = "") -> dict[str, Requirement]:
    """Return the requirements of the core or of an extra, by name, without those on ourselves."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {req.name: req for req in map(Requirement, lines) if req.name != OURS}


def every_requirement() -> dict[str, Requirement]:
    """Return every direct dependency, of the core and of all extras."""
    extras = (requirements(extra) for extra in PROJECT["optional-dependencies"])
    return {**requirements(), **{name: req for found in extras for name, req in found.items()}}


def conda_requirements() -> dict[str, Requirement]:
    """Return what environment.yml asks conda for, by name."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return {req.name: req for req in (Requirement(entry) for entry in entries if isinstance(entry, str))}


def test_the_ten_packages_stand_in_both_files() -> None:
    assert set(every_requirement()) >= MISSION
    assert set(conda_requirements()) >= MISSION


def test_conda_asks_for_the_same_versions_as_pip() -> None:
    declared, conda = every_requirement(), conda_requirements()
    conda.pop("pip")
    assert conda.pop("python").specifier == Requirement(f"python{PROJECT['requires-python']}").specifier
    assert {name: str(req.specifier) for name, req in conda.items()} == {
        name: str(declared[name].specifier) if name in declared else "not in pyproject.toml" for name in conda
    }


def test_conda_provides_the_core_and_the_large_extras() -> None:
    wanted = set(requirements()).union(*(requirements(extra) for extra in CONDA_EXTRAS))
    assert wanted - set(conda_requirements()) == set()


def test_conda_takes_the_rest_from_this_checkout() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert entries[-1] == {"pip": ["-e .[all,test]"]}


def test_one_name_has_one_range_in_every_extra() -> None:
    seen: dict[str, set[str]] = {}
    for extra in ("", *PROJECT["optional-dependencies"]):
        for name, req in requirements(extra).items():
            seen.setdefault(name, set()).add(str(req.specifier))
    assert {name: ranges for name, ranges in seen.items() if len(ranges) > 1} == {}


def test_every_dependency_is_explained() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    explained = re.findall(r"^\| `([\w-]+)` \| \S.* \| \S.* \|$", page, flags=re.MULTILINE)
    assert sorted(explained) == sorted(every_requirement())


@pytest.mark.parametrize("python", CORE_LIMITS)
def test_the_core_stays_small(python: str, environment: None) -> None:
    command = [
        uv.find_uv_bin(),
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--python-version",
        python,
    ]
    done = subprocess.run([*command, ROOT / "pyproject.toml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    resolved = [line for line in done.stdout.splitlines() if re.match(r"[\w.-]+==", line)]
    assert len(resolved) + 1 <= CORE_LIMITS[python], "\n".join(resolved)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, environment: None) -> Path:
    """Build the source distribution and, from it, the wheel; return their folder."""
    out = tmp_path_factory.mktemp("dist")
    command = [uv.find_uv_bin(), "build", "--quiet", "--out-dir", out, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def tracked(folder: str, *, below: str = "") -> set[str]:
    """List the files of a folder that belong to the project: no byte code, no caches."""
    return {f"{below}{name}" for name in tree_files(ROOT / folder)}


def test_the_wheel_holds_the_library_and_the_shipped_apps_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    apps = {name for name in tracked("apps", below="agilab/_apps/") if "_project/" in name}
    assert apps, "no app ships"
    pages = tracked("dashboards/agilab_dashboards", below="agilab_dashboards/")
    assert names == tracked("agilab", below="agilab/") | pages | apps


def test_the_source_distribution_holds_what_is_needed_to_build_and_test(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for folder in ("agilab", "apps", "docs", "tests"):
        assert tracked(folder, below=f"{folder}/") - names == set()
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "environment.yml"} <= names
