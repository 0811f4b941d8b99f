"""Worker code, environment and runtime: made once, by content, isolated, quick when little changed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agilab import environment, package, uv
from agilab.errors import HomeError, InstallError
from agilab.package import Installed, WorkerSource
from agilab.paths import WenvPaths

PYPROJECT = '[project]\nname = "demo-worker"\nversion = "0.1.0"\nrequires-python = ">=3.11"\ndependencies = []\n'

WORKER = """\
from importlib.resources import files

from agilab import PartitionContext, Worker


class DemoWorker(Worker):
    def go(self, part: PartitionContext) -> None:
        part.write("answer", "json", files(__package__).joinpath("data/table.csv").read_text())
"""

BUILD = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
"""

SETUP = """\
from setuptools import Extension, setup

setup(ext_modules=[Extension("demo_worker._fast", ["demo_worker/_fast.c"])])
"""

FAST = """\
#include <Python.h>

static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fast", "", -1, methods};
PyMODINIT_FUNC PyInit__fast(void) { return PyModule_Create(&module); }
"""

INSTALLER = """
import sys
from pathlib import Path
from agilab.package import WorkerSource, install
from agilab.paths import WenvPaths

installed = install(WorkerSource("demo", Path(sys.argv[1]), True), wenv=WenvPaths(Path(sys.argv[2])), report=print)
print(installed.code)
"""


def silent(_: str) -> None:
    pass


@pytest.fixture
def wenv(tmp_path: Path) -> WenvPaths:
    return WenvPaths(tmp_path / "wenv")


@pytest.fixture
def source(tmp_path: Path) -> WorkerSource:
    folder = tmp_path / "demo_project" / "src" / "demo_worker"
    (folder / "data").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "__init__.py").write_text(WORKER)
    (folder / "data" / "table.csv").write_text("a,b\n")
    return WorkerSource("demo", folder, writable=True)


def install(source: WorkerSource, wenv: WenvPaths, report: uv.Report = silent) -> Installed:
    return package.install(source, wenv=wenv, report=report)


def run_python(installed: Installed, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as worker code is run: runtime and code on the path, and nothing else."""
    head = f"import sys; sys.path[:0] = [{str(installed.code)!r}, {str(installed.runtime)!r}]\n"
    return subprocess.run([installed.python, "-I", "-c", head + script], capture_output=True, text=True, check=False)


def speak(installed: Installed, folder: Path) -> list[dict[str, Any]]:
    """Let the entry process run one partition; return what it answers."""
    init = {"op": "init", "protocol": 1, "worker": "demo_worker:DemoWorker", "code": str(installed.code), "seed": 0}
    fields = {"fields": {"schema": "agilab.fields/1", "fields": []}, "values": {}, "secrets": {}}
    task = {"op": "run", "id": "p", "stage": "go", "attempt": 1, "params": {}, "inputs": {}, "resources": {}}
    messages = [{**init, **fields, "cancel_file": str(folder / "cancel")}, {**task, "folder": str(folder / "p.1")}]
    done = subprocess.run(
        [installed.python, "-I", installed.runtime],
        input="".join(json.dumps(message) + "\n" for message in messages),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_installed_code_runs_in_its_environment_through_the_entry_process(
    source: WorkerSource, wenv: WenvPaths, tmp_path: Path
) -> None:
    installed = install(source, wenv)
    answers = speak(installed, tmp_path)
    assert [answer["op"] for answer in answers] == ["ready", "done"], answers
    assert json.loads((tmp_path / "p.1" / "answer.json").read_text()) == "a,b\n"
    assert answers[0]["python"] == installed.python_version
    assert not list(installed.code.rglob("*.tmp"))


def test_code_is_an_unpacked_read_only_compiled_wheel(source: WorkerSource, wenv: WenvPaths) -> None:
    tool = source.folder / "data" / "tool.sh"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (source.folder / "data" / "link.csv").symlink_to("table.csv")
    installed = install(source, wenv)
    assert installed.code == wenv.code("demo", package.code_digest(source))
    files = {path.relative_to(installed.code).as_posix(): path for path in installed.code.rglob("*") if path.is_file()}
    assert not [name for name, path in files.items() if stat.S_IMODE(path.stat().st_mode) & 0o222]
    assert files["demo_worker/data/tool.sh"].stat().st_mode & 0o111
    assert files["demo_worker/data/link.csv"].readlink() == Path("table.csv")
    about = f"demo_worker-0+{installed.code_digest[:12]}.dist-info"
    assert {f"{about}/METADATA", f"{about}/WHEEL", f"{about}/RECORD"} <= files.keys()
    assert environment.distributions_of(installed.code) == {"demo-worker": f"0+{installed.code_digest[:12]}"}
    assert package.verify_code(installed.code) == ()
    (compiled,) = (path for name, path in files.items() if name.endswith(".pyc"))
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00", "byte code that is never compared with its source"
    shutil.rmtree(installed.code)


def test_current_and_manifest_lead_to_what_is_in_use(source: WorkerSource, wenv: WenvPaths) -> None:
    installed = install(source, wenv)
    folder = wenv.package("demo")
    assert (folder / "current").resolve() == installed.code
    record = json.loads((folder / "worker_manifest.json").read_text())
    assert record["schema"] == "agilab.worker/1"
    assert record["code_digest"] == package.code_digest(source)
    assert record["environment"] == str(installed.environment)
    assert record["lock_sha256"] == environment.digest.of_file(source.lock)
    assert Installed.from_json(record) == installed
    assert Installed.from_json(json.loads(json.dumps(installed.to_json()))) == installed


def test_the_code_digest_is_the_same_before_and_after_the_first_install(source: WorkerSource, wenv: WenvPaths) -> None:
    before = package.code_digest(source)
    install(source, wenv)
    assert source.lock.is_file()
    assert package.code_digest(source) == before
    (source.folder / "__init__.py").chmod(0o755)
    assert package.code_digest(source) != before


def test_nothing_changed_starts_no_process_and_says_nothing(
    source: WorkerSource, wenv: WenvPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = install(source, wenv)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    said: list[str] = []
    assert install(source, wenv, said.append) == installed
    os.utime(source.folder / "__init__.py")
    assert install(source, wenv, said.append) == installed
    assert said == []
    fastest = min(timed(source, wenv) for _ in range(5))
    assert fastest < 0.1


def timed(source: WorkerSource, wenv: WenvPaths) -> float:
    started = time.perf_counter()
    install(source, wenv)
    return time.perf_counter() - started


def test_an_edit_of_code_gives_new_code_and_leaves_the_environment_alone(
    source: WorkerSource, wenv: WenvPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = install(source, wenv)
    monkeypatch.setattr(uv, "find_uv", lambda: pytest.fail("uv was started"))
    times = []
    for number in range(3):
        (source.folder / "__init__.py").write_text(f"{WORKER}\nNUMBER = {number}\n")
        times.append(timed(source, wenv))
    second = install(source, wenv)
    assert min(times) < 0.3
    assert second.environment == first.environment
    assert second.code != first.code
    assert first.code.is_dir(), "a run may still use it"
    assert (wenv.package("demo") / "current").resolve() == second.code
    assert run_python(second, "import demo_worker; print(demo_worker.NUMBER)").stdout == "2\n"


def test_an_edit_undone_finds_the_code_that_is_there(source: WorkerSource, wenv: WenvPaths) -> None:
    first = install(source, wenv)
    inode = first.code.stat().st_ino
    (source.folder / "__init__.py").write_text("")
    install(source, wenv)
    (source.folder / "__init__.py").write_text(WORKER)
    assert install(source, wenv).code.stat().st_ino == inode
    assert (wenv.package("demo") / "current").resolve() == first.code


def test_the_environment_in_force_is_found_until_the_dependencies_change(source: WorkerSource, wenv: WenvPaths) -> None:
    assert package.find_environment(source, wenv=wenv) is None
    made = install(source, wenv)
    assert package.find_environment(source, wenv=wenv) == made.environment
    (source.folder / "more.py").write_text("import toolz\n")
    assert package.find_environment(source, wenv=wenv) == made.environment
    source.pyproject.write_text(PYPROJECT.replace("[]", '["toolz"]'))
    assert package.find_environment(source, wenv=wenv) is None


def test_a_new_dependency_gives_a_new_lock_and_environment(source: WorkerSource, wenv: WenvPaths) -> None:
    first = install(source, wenv)
    source.pyproject.write_text(PYPROJECT.replace("[]", '["toolz"]'))
    said: list[str] = []
    second = install(source, wenv, said.append)
    assert f"{source.lock} was made from other requirements; a new one is made" in said
    assert second.environment != first.environment
    assert second.lock_sha256 != first.lock_sha256
    assert run_python(second, "import toolz; print(toolz.__file__)").stdout.startswith(str(second.environment))
    assert stat.S_IMODE(source.lock.stat().st_mode) == 0o644


def test_apps_with_one_lock_share_an_environment(source: WorkerSource, wenv: WenvPaths, tmp_path: Path) -> None:
    other = WorkerSource("other", tmp_path / "other_worker", writable=True)
    shutil.copytree(source.folder, other.folder)
    first, second = install(source, wenv), install(other, wenv)
    assert first.environment == second.environment
    assert first.runtime == second.runtime
    assert run_python(second, "import other_worker").returncode == 0


def test_a_read_only_project_is_not_written_to(source: WorkerSource, wenv: WenvPaths) -> None:
    fixed = WorkerSource("demo", source.folder, writable=False)
    before = sorted(source.folder.rglob("*"))
    installed = install(fixed, wenv)
    assert sorted(source.folder.rglob("*")) == before
    assert installed.lock.parent == wenv.locks
    assert install(fixed, wenv) == installed


def test_a_shipped_lock_is_used_as_it_is(source: WorkerSource, wenv: WenvPaths) -> None:
    source.lock.write_text("# pinned by hand\n")
    installed = install(source, wenv)
    assert installed.lock == source.lock
    assert source.lock.read_text() == "# pinned by hand\n"


def test_a_stale_lock_that_cannot_be_written_is_replaced_in_wenv(source: WorkerSource, wenv: WenvPaths) -> None:
    stale = f"# agilab-lock/1 {'0' * 64}\n"
    source.lock.write_text(stale)
    said: list[str] = []
    installed = install(WorkerSource("demo", source.folder, writable=False), wenv, said.append)
    assert installed.lock.parent == wenv.locks
    assert source.lock.read_text() == stale
    assert any(
        line.startswith(f"{source.lock} was made from other requirements; it cannot be written") for line in said
    )


def test_two_processes_install_the_same_code_at_once(source: WorkerSource, wenv: WenvPaths) -> None:
    command = [sys.executable, "-c", INSTALLER, str(source.folder), str(wenv.root)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][-1] == said[1][-1]
    assert sum("installed worker code" in line for lines in said for line in lines) == 1
    assert package.verify_code(Path(said[0][-1])) == ()


def test_what_another_process_is_just_writing_is_no_part_of_the_code(source: WorkerSource) -> None:
    """As the lock, which whoever installs first writes beside the code."""
    before = package.code_digest(source)
    source.lock.with_name(f".{source.lock.name}.1234.tmp").write_text("numpy==")
    assert package.code_digest(source) == before
    (source.folder / "data.tmp").write_text("ours")
    assert package.code_digest(source) != before


def test_damaged_code_and_runtime_are_made_again(source: WorkerSource, wenv: WenvPaths) -> None:
    installed = install(source, wenv)
    table = installed.code / "demo_worker" / "data" / "table.csv"
    table.unlink()
    assert package.verify_code(installed.code) == ("demo_worker/data/table.csv of demo_worker: missing",)
    (installed.runtime / "agilab" / "entry.py").unlink()
    assert install(source, wenv) == installed
    assert table.read_text() == "a,b\n"
    assert package.verify_code(installed.code) == ()
    assert run_python(installed, "import agilab.entry").returncode == 0


def test_lost_byte_code_and_a_lost_link_are_made_again(source: WorkerSource, wenv: WenvPaths) -> None:
    installed = install(source, wenv)
    (wenv.package("demo") / "current").unlink()
    for folder in (installed.code / "demo_worker", installed.runtime / "agilab"):
        shutil.rmtree(folder / "__pycache__")
    assert install(source, wenv) == installed
    assert (wenv.package("demo") / "current").resolve() == installed.code
    for folder in (installed.code / "demo_worker", installed.runtime / "agilab"):
        assert list((folder / "__pycache__").glob("__init__.*.pyc"))


@pytest.mark.parametrize("text", ["x = = 1\n", "x = '\0'\n"])
def test_a_syntax_error_names_file_and_line_of_the_source(source: WorkerSource, wenv: WenvPaths, text: str) -> None:
    (source.folder / "sub").mkdir()
    (source.folder / "sub" / "__init__.py").write_text("")
    (source.folder / "sub" / "broken.py").write_text(f"\n{text}")
    (source.folder / "data" / "template.py").write_text("{{ not python }}")
    with pytest.raises(InstallError) as caught:
        install(source, wenv)
    assert str(source.folder / "sub" / "broken.py") in str(caught.value)
    assert "correct it and install again" in str(caught.value)
    assert not wenv.code("demo", package.code_digest(source)).exists()
    (source.folder / "sub" / "broken.py").write_text("x = 1\n")
    assert install(source, wenv).code.is_dir()


def test_a_link_out_of_the_source_is_refused(source: WorkerSource, wenv: WenvPaths) -> None:
    (source.folder / "secret.txt").symlink_to("/etc/hostname")
    with pytest.raises(InstallError, match=r"secret\.txt is a link out of the worker's folder, to /etc/hostname"):
        install(source, wenv)


def test_a_missing_worker_folder_is_named(wenv: WenvPaths, tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"gone_worker is missing; the worker of 'gone' has its code there"):
        install(WorkerSource("gone", tmp_path / "gone_worker", writable=True), wenv)


def test_a_folder_in_the_place_of_current_is_named(source: WorkerSource, wenv: WenvPaths) -> None:
    (wenv.package("demo") / "current").mkdir(parents=True)
    with pytest.raises(InstallError, match=r"current is a folder, where a link to the newest code has to be"):
        install(source, wenv)
    assert not list(wenv.package("demo").glob(".*.tmp"))


def test_a_wenv_that_cannot_be_used_is_named(source: WorkerSource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallError, match=r"cannot install the worker of demo: .*file"):
        install(source, WenvPaths(tmp_path / "file" / "wenv"))


def test_a_wenv_that_may_not_be_written_is_named(source: WorkerSource) -> None:
    with pytest.raises(HomeError, match=r"AGILAB_WENV /sys/wenv cannot be used .*; choose a folder you can write"):
        install(source, WenvPaths(Path("/sys/wenv")))  # where even root may not


def test_folders_are_for_their_owner_only(source: WorkerSource, wenv: WenvPaths) -> None:
    installed = install(source, wenv)
    for folder in (wenv.root, wenv.package("demo"), installed.code, installed.runtime):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_worker_sees_the_runtime_and_nothing_of_the_manager(source: WorkerSource, wenv: WenvPaths) -> None:
    manager = source.folder.parent / "demo"
    manager.mkdir()
    (manager / "__init__.py").write_text("")
    installed = install(source, wenv)
    assert (
        run_python(installed, "from agilab import AgilabError, Partition, PartitionContext, Stage, Worker").stderr == ""
    )
    for name in ("agilab.env", "agilab.settings", "agilab.cli", "param", "click", "demo"):
        assert f"ModuleNotFoundError: No module named '{name}'" in run_python(installed, f"import {name}").stderr
    assert "No module named 'agilab.env'" in run_python(installed, "from agilab import AgiEnv").stderr
    imported = run_python(installed, "import agilab.worker; print(agilab.worker.__file__)").stdout.strip()
    assert Path(imported).is_relative_to(installed.runtime)


def test_runtime_modules_import_the_standard_library_and_each_other_only() -> None:
    for name, text in package.runtime_files().items():
        for node in ast.parse(text).body:
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                imported = (
                    [f"agilab.{alias.name}" for alias in node.names] if node.module == "agilab" else [node.module]
                )
            for module in imported:
                top, _, rest = module.partition(".")
                known = rest in package.RUNTIME_MODULES if top == "agilab" else top in sys.stdlib_module_names
                assert known, f"{name} imports {module}"


def test_the_runtime_is_named_by_its_content(source: WorkerSource, wenv: WenvPaths, tmp_path: Path) -> None:
    installed = install(source, wenv)
    assert installed.runtime == wenv.runtimes / installed.runtime_digest
    for name, text in package.runtime_files().items():
        assert (installed.runtime / name).read_bytes() == text


def another_python() -> uv.Interpreter | None:
    here = uv.current_interpreter()
    found = [python for path in uv._candidates(None) if (python := uv.probe(path)) is not None]
    return next((python for python in found if python.abi != here.abi), None)


def test_a_worker_may_have_another_python_than_the_manager(
    source: WorkerSource, wenv: WenvPaths, tmp_path: Path
) -> None:
    other = another_python()
    if other is None:
        pytest.skip("there is one Python on this machine")
    with_this = install(source, wenv)
    source.pyproject.write_text(PYPROJECT.replace(">=3.11", f"=={other.version}"))
    installed = install(source, wenv)
    assert installed.python_version == other.version
    assert installed.runtime == with_this.runtime
    assert [answer["op"] for answer in speak(installed, tmp_path)] == ["ready", "done"]
    for folder in (installed.code / "demo_worker", installed.runtime / "agilab"):
        assert list(folder.glob(f"__pycache__/__init__.{other.abi}.pyc"))
    assert install(source, wenv) == installed
    (source.folder / "__init__.py").write_text(WORKER + "\nx = 1\n")
    assert timed(source, wenv) < 1
    (source.folder / "broken.py").write_text("x = = 1\n")
    with pytest.raises(InstallError, match=rf"broken\.py, line 1: invalid syntax \(Python {other.version}\)"):
        install(source, wenv)


def test_compiled_workers_are_built_with_their_data_and_kept(
    source: WorkerSource, wenv: WenvPaths, tmp_path: Path
) -> None:
    source.pyproject.write_text(PYPROJECT + BUILD)
    (source.folder / "setup.py").write_text(SETUP)
    (source.folder / "_fast.c").write_text(FAST)
    before = sorted(source.folder.rglob("*"))
    installed = install(source, wenv)
    assert sorted(path for path in source.folder.rglob("*") if path != source.lock) == before
    script = "import demo_worker._fast as f; print(f.answer(), f.__file__)"
    answer, _, file = run_python(installed, script).stdout.partition(" ")
    assert answer == "42"
    assert Path(file.strip()).parent == installed.code / "demo_worker"
    assert not (installed.code / "demo_worker" / "setup.py").exists()
    assert installed.code.name.startswith(f"{package.code_digest(source)}-cpython-")
    assert [answer["op"] for answer in speak(installed, tmp_path)] == ["ready", "done"]
    assert package.verify_code(installed.code) == ()
    assert install(source, wenv) == installed
    assert (wenv.package("demo") / "build.log").read_text().count("$ uv build") == 1

    (source.folder / "_fast.c").write_text("#include <no_such_header.h>\n")
    with pytest.raises(InstallError) as caught:
        install(source, wenv)
    assert "_fast.c:1:10: fatal error: no_such_header.h: No such file or directory" in str(caught.value)
    assert f"the full log is {wenv.package('demo') / 'build.log'}" in str(caught.value)
    assert (wenv.package("demo") / "current").resolve() == installed.code


def test_a_build_that_leaves_the_package_out_is_named(source: WorkerSource, wenv: WenvPaths) -> None:
    source.pyproject.write_text(PYPROJECT + BUILD + "[tool.setuptools]\npackages = []\n")
    with pytest.raises(InstallError, match=r"holds no package demo_worker; let \[build-system\] in .*pyproject\.toml"):
        install(source, wenv)
