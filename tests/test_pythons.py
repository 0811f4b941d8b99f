"""What a user gets: the README's first command, the built wheel on every Python here, an app as a wheel of its own.

The whole suite runs on one Python, a smoke on every other one between 3.11 and
3.13 that is found; the summary at the end of the test run lists them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uv

from tests.checkout import CORE_LIMITS, ROOT, files

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def interpreters() -> dict[str, Path]:
    """Return the newest working interpreter of each supported version but ours, by version."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser()) / "versions"
    found: dict[str, Path] = {}
    for version in CORE_LIMITS:
        on_path = shutil.which(f"python{version}")
        candidates = [Path(on_path)] if on_path else []
        candidates += sorted(versions.glob(f"{version}.*/bin/python"), reverse=True)
        for candidate in candidates:
            told = subprocess.run(
                [candidate, "-c", "import venv, sys; print(sys.version)"], capture_output=True, text=True
            )
            if told.returncode == 0 and told.stdout.startswith(f"{version}."):
                found[version] = candidate
                break
    return {version: path for version, path in found.items() if version != HERE}


OTHERS = interpreters()
Run = Callable[..., str]


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    """Return a function that runs a command in the test's folder and HOME and returns what it prints."""

    def call(*command: object, **variables: str) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=tmp_path,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return call


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, environment: None) -> Path:
    """Build the wheel once."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([uv.find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", out, ROOT], check=True)
    return next(out.glob("*.whl"))


def new_environment(folder: Path, python: Path, run: Run, *what: object) -> Path:
    """Make a virtual environment with some wheels in it; return its ``bin`` folder."""
    run(uv.find_uv_bin(), "venv", "--quiet", "--python", python, folder)
    install = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", folder]
    run(*install, *what)
    return folder / "bin"


def run_and_verify(agilab: Path, run: Run, app: str) -> dict[str, str]:
    """Run an app, verify the run; return the digests of its artifacts by path."""
    run(agilab, "run", app)
    run(agilab, "verify", "last")
    shown = json.loads(run(agilab, "show", "last", "--json"))
    assert shown["state"] == "succeeded"
    records = shown["manifest"]["partitions"]["first"]
    return {artifact["path"]: artifact["sha256"] for record in records for artifact in record["artifacts"]}


def smoke(agilab: Path, run: Run) -> dict[str, str]:
    """Make an app, check it, run it, verify the run; return the digests of its artifacts by path."""
    run(agilab, "new", "smoke")
    run(agilab, "check", "smoke_project")
    return run_and_verify(agilab, run, "smoke_project")


@pytest.mark.parametrize("python", OTHERS)
def test_the_wheel_runs_on_another_python(
    python: str, wheel: Path, run: Run, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    bin_folder = new_environment(tmp_path / "env", OTHERS[python], run, wheel)
    installed = json.loads(run(uv.find_uv_bin(), "pip", "list", "--format", "json", "--python", tmp_path / "env"))
    assert len(installed) <= CORE_LIMITS[python], [entry["name"] for entry in installed]
    assert "agilab" in run(bin_folder / "agilab", "--version")
    run(bin_folder / "agilab", "doctor")
    smoke(bin_folder / "agilab", run)
    version = run(bin_folder / "python", "-c", "import platform; print(platform.python_version())").strip()
    record_property("python", f"{version} (wheel: doctor, new, check, run, verify)")


def test_the_first_command_of_the_readme_works_on_a_clean_checkout(
    run: Run, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    command = re.findall(r"^```bash ci\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    for name in files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    python3 = tmp_path / "bin" / "python3"
    python3.parent.mkdir()
    python3.symlink_to(Path(sys.base_prefix) / "bin" / f"python{HERE}")
    printed = run("bash", "-euc", command, PATH=f"{python3.parent}{os.pathsep}{os.environ['PATH']}")
    assert "336,776" in printed
    version = ".".join(map(str, sys.version_info[:3]))
    record_property("python", f"{version} (every test; first-proof from a clean checkout)")


def test_an_app_installed_from_its_wheel_gives_equal_hashes_and_is_never_written_to(
    wheel: Path, run: Run, tmp_path: Path
) -> None:
    bin_folder = new_environment(tmp_path / "env", Path(sys.executable), run, wheel)
    agilab = bin_folder / "agilab"
    from_folder = smoke(agilab, run)
    run(uv.find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist", tmp_path / "smoke_project")
    shutil.rmtree(tmp_path / "smoke_project")
    app = next((tmp_path / "dist").glob("*.whl"))
    run(uv.find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--python", tmp_path / "env", app)
    assert "installed" in run(agilab, "apps")
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    before = snapshot(site)
    assert run_and_verify(agilab, run, "smoke") == from_folder
    assert snapshot(site) == before


def snapshot(site: Path) -> dict[str, int]:
    """Return every file of the installed app with its time of change [ns]."""
    return {str(path): path.stat().st_mtime_ns for folder in site.glob("smoke*") for path in folder.rglob("*")}
