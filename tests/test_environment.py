"""Worker environments are built once, found whole or built again, and see nothing of the manager."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agilab import environment, uv
from agilab.environment import Requirements
from agilab.errors import InstallError
from agilab.paths import WenvPaths

SIX = """\
six==1.17.0 \\
    --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274 \\
    --hash=sha256:ff70335d468e7eb6ec65b95b99d3a2836546063f63acc5171de367e834932a81
"""

BUILDER = """
import signal, sys
from pathlib import Path
from agilab import environment, uv
from agilab.paths import WenvPaths

def report(text):
    print(text, flush=True)
    if len(sys.argv) > 3 and text.startswith(sys.argv[3]):
        signal.pause()

lock = Path(sys.argv[2]).read_text()
print(environment.ensure(lock, uv.current_interpreter(), wenv=WenvPaths(Path(sys.argv[1])), report=report))
"""

# Dies without a word at the first thing its uv reports.
HOLDER = """
import os, signal, sys
from pathlib import Path
from agilab import environment, uv

folder = Path(sys.argv[1])
uv.find_uv = lambda: str(folder / "uv")

def die(_):
    os.kill(os.getpid(), signal.SIGKILL)

with environment.holding(folder / "guard.lock", waiting="", report=die) as held:
    uv.run_uv([], task="", log=folder / "log", report=die, folder=folder, held=held)
"""


def silent(_: str) -> None:
    pass


@pytest.fixture
def wenv(tmp_path: Path) -> WenvPaths:
    return WenvPaths(tmp_path / "wenv")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that damage files: they are hard links into uv's cache."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))


def build(wenv: WenvPaths, lock: str = SIX, report: uv.Report = silent) -> Path:
    return environment.ensure(lock, uv.current_interpreter(), wenv=wenv, report=report)


def builder(tmp_path: Path, wenv: WenvPaths, *more: str) -> subprocess.Popen[str]:
    (tmp_path / "six.lock").write_text(SIX)
    command = [sys.executable, "-c", BUILDER, str(wenv.root), str(tmp_path / "six.lock"), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/*/site-packages"))


def times_built(folder: Path) -> int:
    return folder.with_name(f"{folder.name}.log").read_text().count("$ uv venv")


def write_pyproject(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_requirements_are_read_from_pyproject(tmp_path: Path) -> None:
    text = '[project]\nrequires-python = ">=3.12"\ndependencies = ["numpy>=2", "six"]\n'
    read = environment.read_requirements(write_pyproject(tmp_path / "pyproject.toml", text))
    assert read == Requirements(">=3.12", ("numpy>=2", "six"))
    assert read.digest == Requirements(">=3.12", ("six", "numpy>=2")).digest
    assert environment.read_requirements(write_pyproject(tmp_path / "p.toml", "[build-system]\n")).has_build_system


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[project", "not readable TOML"),
        ('[project]\ndependencies = "six"\n', "a list of texts; found '' and 'six'"),
        ("[project]\ndependencies = [1]\n", "1 is not a requirement"),
        ('[project]\ndependencies = ["--index-url=https://example.org"]\n', "'--index-url=https://example.org' is not"),
        ('[project]\ndependencies = ["six\\n--index-url=x"]\n', "is not a requirement; write it like 'numpy>=2'"),
    ],
)
def test_wrong_requirements_are_named_with_their_file(tmp_path: Path, text: str, said: str) -> None:
    pyproject = write_pyproject(tmp_path / "pyproject.toml", text)
    with pytest.raises(InstallError) as caught:
        environment.read_requirements(pyproject)
    assert str(pyproject) in str(caught.value)
    assert said in str(caught.value)


def test_a_missing_pyproject_is_named(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"pyproject\.toml is missing"):
        environment.read_requirements(tmp_path / "pyproject.toml")


def test_a_lock_has_hashes_names_its_requirements_and_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    asked = Requirements(">=3.11", ("six", "iniconfig>=2; python_version < '3.12'"))
    lock = environment.resolve(asked, uv.current_interpreter(), previous="", log=tmp_path / "log", report=silent)
    assert lock.startswith(f"# agilab-lock/1 {asked.digest}\n")
    assert "six==" in lock
    assert "iniconfig==" in lock
    assert "python_full_version < '3.12'" in lock
    assert lock.count("--hash=sha256:") >= 4
    assert "://" not in lock
    assert str(tmp_path) not in lock
    assert not environment.is_stale(lock, asked)
    assert environment.is_stale(lock, Requirements(">=3.11", ("six", "toolz")))
    assert not environment.is_stale(SIX, asked), "a lock that does not say what it was made from is taken as it is"


def test_a_new_lock_keeps_the_versions_of_the_one_before(tmp_path: Path) -> None:
    asked = Requirements(">=3.11", ("six", "toolz"))
    before = SIX.replace("1.17.0", "1.16.0")
    lock = environment.resolve(asked, uv.current_interpreter(), previous=before, log=tmp_path / "log", report=silent)
    assert "six==1.16.0" in lock
    assert "toolz==" in lock


def test_without_dependencies_nothing_is_asked_of_an_index(
    tmp_path: Path, wenv: WenvPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    asked = Requirements("", ())
    lock = environment.resolve(asked, uv.current_interpreter(), previous="", log=tmp_path / "log", report=silent)
    assert environment.pins(lock) == ""
    folder = build(wenv, lock)
    assert environment.verify_environment(folder) == ()
    assert "pip sync" not in folder.with_name(f"{folder.name}.log").read_text()


def test_the_name_of_an_environment_follows_pins_and_python_only() -> None:
    here = uv.current_interpreter()
    name = environment.environment_digest(SIX, here)
    assert name == environment.environment_digest(f"# made by somebody\n\n{SIX}", here)
    assert name != environment.environment_digest(SIX.replace("1.17.0", "1.16.0"), here)
    elsewhere = uv.Interpreter(Path("/other"), here.implementation, here.version, here.abi, here.platform)
    assert name == environment.environment_digest(SIX, elsewhere)
    newer = uv.Interpreter(here.path, here.implementation, "3.99.0", here.abi, here.platform)
    assert name != environment.environment_digest(SIX, newer)


def test_an_environment_is_built_once_stamped_and_compiled(wenv: WenvPaths) -> None:
    said: list[str] = []
    folder = build(wenv, report=said.append)
    assert folder.parent == wenv.environments
    assert any(line.startswith("Installed 1 package") for line in said)
    stamp = environment.read_stamp(folder)
    assert stamp["schema"] == "agilab.environment/1"
    assert stamp["digest"] == folder.name
    assert stamp["distributions"] == {"six": "1.17.0"}
    assert stamp["lock_sha256"] == environment.digest.of_file(folder / "requirements.lock")
    assert list(site_packages(folder).glob("__pycache__/six.*.pyc"))
    said.clear()
    assert build(wenv, f"# shared by another app\n{SIX}", said.append) == folder
    assert said == []
    assert times_built(folder) == 1
    assert environment.looks_sound(folder)
    assert environment.verify_environment(folder) == ()


def test_an_environment_sees_nothing_of_the_manager(
    wenv: WenvPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    python = environment.python_of(build(wenv))
    script = """
import importlib.util, sys
print([name for name in ("six", "agilab", "param", "uv", "planted", "pip") if importlib.util.find_spec(name)])
"""
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "['six']\n"


def test_two_processes_build_an_environment_once(tmp_path: Path, wenv: WenvPaths) -> None:
    processes = [builder(tmp_path, wenv), builder(tmp_path, wenv)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][-1] == said[1][-1]
    folder = Path(said[0][-1])
    assert times_built(folder) == 1
    assert environment.verify_environment(folder) == ()


def test_a_builder_killed_in_the_middle_leaves_nothing_that_counts(tmp_path: Path, wenv: WenvPaths) -> None:
    process = builder(tmp_path, wenv, "Installed")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Installed"):
            break
    folder = wenv.environments / environment.environment_digest(SIX, uv.current_interpreter())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert folder.is_dir()
    assert not environment.looks_sound(folder)
    assert environment.verify_environment(folder) != ()
    assert build(wenv) == folder
    assert times_built(folder) == 2
    assert environment.verify_environment(folder) == ()


def test_an_environment_without_its_stamp_is_half_built(wenv: WenvPaths) -> None:
    folder = build(wenv, "")
    (folder / "agilab-environment.json").unlink()
    assert not environment.looks_sound(folder)
    (problem,) = environment.verify_environment(folder)
    assert f"{folder} is not a finished worker environment" in problem
    build(wenv, "")
    assert times_built(folder) == 2


def test_a_lock_outlives_its_holder_while_uv_still_writes(tmp_path: Path) -> None:
    script = tmp_path / "uv"
    script.write_text("#!/bin/sh\necho 'Building x '\nread -r line < go\n")
    script.chmod(0o700)
    os.mkfifo(tmp_path / "go")
    holder = subprocess.run([sys.executable, "-c", HOLDER, str(tmp_path)], check=False)
    assert holder.returncode == -signal.SIGKILL
    with open(tmp_path / "guard.lock") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tmp_path / "go").write_text("on\n")  # uv ends
        fcntl.flock(file, fcntl.LOCK_EX)


@pytest.mark.usefixtures("own_cache")
def test_a_removed_file_is_seen_at_once_and_built_again(wenv: WenvPaths) -> None:
    folder = build(wenv)
    site_packages(folder).joinpath("six.py").unlink()
    assert not environment.looks_sound(folder)
    assert environment.verify_environment(folder) == ("six.py of six: missing",)
    said: list[str] = []
    build(wenv, report=said.append)
    assert f"{folder} is damaged (six.py of six: missing, 1 in all): building it again" in said
    assert environment.verify_environment(folder) == ()


@pytest.mark.usefixtures("own_cache")
def test_a_file_changed_in_place_is_found_and_fetched_again_since_the_cache_has_it_too(wenv: WenvPaths) -> None:
    folder = build(wenv)
    six = site_packages(folder) / "six.py"
    with open(six, "a") as file:
        file.write("# changed\n")
    (problem,) = environment.verify_environment(folder)
    assert problem.startswith("six.py of six: changed, sha256 ")
    shutil.rmtree(folder)  # as the repair line of `doctor` says; uv's cache still holds the changed file
    said: list[str] = []
    build(wenv, report=said.append)
    assert "uv's cache holds a damaged six: fetching again" in said
    assert "# changed" not in six.read_text()
    assert environment.verify_environment(folder) == ()
    assert environment.read_stamp(folder)["mismatches_as_shipped"] == []


def test_an_interpreter_that_went_away_is_noticed(wenv: WenvPaths) -> None:
    folder = build(wenv, "")
    python = environment.python_of(folder)
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert not environment.looks_sound(folder)
    assert environment.verify_environment(folder) == (f"{python}: the interpreter is gone or does not start",)
    build(wenv, "")
    assert times_built(folder) == 2


def test_a_distribution_added_by_hand_is_noticed(wenv: WenvPaths) -> None:
    folder = build(wenv)
    added = site_packages(folder) / "other-1.0.dist-info"
    added.mkdir()
    added.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    assert not environment.looks_sound(folder)
    assert environment.verify_environment(folder) == ("other: 1.0 instead of nothing",)


def test_a_copied_environment_is_checked_once_and_kept(wenv: WenvPaths) -> None:
    folder = build(wenv)
    os.utime(site_packages(folder))
    assert not environment.looks_sound(folder)
    assert build(wenv) == folder
    assert environment.looks_sound(folder)
    assert times_built(folder) == 1


def test_the_first_look_after_the_machine_started_is_a_full_one(wenv: WenvPaths) -> None:
    folder = build(wenv)
    noted = json.loads((folder / "agilab-folders.json").read_text())
    noted["boot"][1] = "another start of this machine"
    (folder / "agilab-folders.json").write_text(json.dumps(noted))
    assert not environment.looks_sound(folder)
    build(wenv)
    assert environment.looks_sound(folder)
    assert times_built(folder) == 1


def test_a_wrong_hash_in_a_lock_installs_nothing(wenv: WenvPaths, tmp_path: Path) -> None:
    wrong = "six==1.17.0 --hash=sha256:" + "0" * 64 + "\n"
    with pytest.raises(InstallError, match=r"cannot build the worker environment .*Hash mismatch for `six==1\.17\.0`"):
        build(wenv, wrong)
    folder = wenv.environments / environment.environment_digest(wrong, uv.current_interpreter())
    assert not environment.looks_sound(folder)


def test_two_distributions_that_ship_one_file_are_not_taken_for_damage(tmp_path: Path) -> None:
    for name, coded in (("one", "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"), ("two", "A" * 43)):
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        about.joinpath("RECORD").write_text(f"shared.py,sha256={coded},3\n{name}-1.0.dist-info/RECORD,,\n")
    (tmp_path / "shared.py").write_text("abc")
    assert environment.damages(tmp_path) == ()
    (tmp_path / "shared.py").write_text("abd")
    (damage,) = environment.damages(tmp_path)
    assert damage.path == "shared.py"


def test_capture_describes_this_process() -> None:
    captured = environment.capture()
    assert captured["python"] == sys.version.split()[0]
    assert captured["distributions"]["param"]
    assert captured["cpu_features"] == sorted(captured["cpu_features"])
    json.dumps(captured)


def test_pins_of_a_lock_are_named_with_their_markers() -> None:
    lock = (
        "# agilab-lock/1\nNum_Py==2.1 ; python_version < '3.12' \\\n    --hash=sha256:11\n"
        "numpy==2.2 ; python_version >= '3.12' \\\n    --hash=sha256:22\nlocal @ https://x.example/l.whl\n"
        "polars[async, all]==1.0 \\\n    --hash=sha256:33\n"
    )
    names = {
        "local": "https://x.example/l.whl",
        "num-py": "2.1 (python_version < '3.12')",
        "numpy": "2.2 (python_version >= '3.12')",
        "polars": "1.0",
    }
    assert environment.pinned(lock) == names
    assert environment.pinned("") == {}
    assert environment.pinned("a==1 ; x\na==2 ; y\n") == {"a": "1 (x), 2 (y)"}


def test_compare_names_what_differs_from_a_lock() -> None:
    lock = (
        f"# agilab-lock/1 {'0' * 64}\n{SIX}Num_Py==2.3.4 ; python_version >= '3.0' \\\n    --hash=sha256:{'1' * 64}\n"
        "gone==1.0 --hash=sha256:00\nelsewhere==1.0 ; sys_platform == 'win32' --hash=sha256:00\n"
        "old==1 ; python_version < '3'\n"
    )
    found = {"six": "1.17.0", "num-py": "2.1.0", "extra": "9"}
    assert environment.compare(lock, found) == ("Num_Py 2.1.0 instead of 2.3.4", "gone missing instead of 1.0")
    assert environment.compare(SIX, found) == ()
