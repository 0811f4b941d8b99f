"""uv runs quietly, says what it does as it does it, and fails in one line; Pythons are found and named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agilab import uv
from agilab.errors import InstallError, NoSpaceError


def silent(_: str) -> None:
    pass


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in the place of uv, for what the real one does not do on demand."""
    script = tmp_path / "stand-in"
    monkeypatch.setattr(uv, "find_uv", lambda: str(script))
    return script


def write_script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o700)


def run(tmp_path: Path, *arguments: str, report: uv.Report = silent) -> None:
    uv.run_uv(arguments, task="do it", log=tmp_path / "uv.log", report=report, folder=tmp_path)


def test_only_listed_variables_reach_uv() -> None:
    environ = {
        "PATH": "/bin",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_INDEX_OURS_PASSWORD": "p",
        "UV_PYTHON_DOWNLOADS": "automatic",
        "PYTHONPATH": "/somewhere",
        "VIRTUAL_ENV": "/venv",
        "MY_TOKEN": "secret",
    }
    passed = uv.uv_environment(environ)
    assert passed["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert passed["UV_INDEX_OURS_PASSWORD"] == "p"
    assert passed["UV_PYTHON_DOWNLOADS"] == "never"
    assert not passed.keys() & {"PYTHONPATH", "VIRTUAL_ENV", "MY_TOKEN"}


def test_progress_is_passed_on_as_it_comes_and_without_terminal_codes(stand_in: Path, tmp_path: Path) -> None:
    write_script(stand_in, r"printf '\033[1mDownloading\033[0m numpy (15.9MiB)\n'; read -r line < go; echo more")
    os.mkfifo(tmp_path / "go")
    seen: list[str] = []

    def let_it_go_on(text: str) -> None:
        seen.append(text)
        (tmp_path / "go").write_text("on\n")  # blocks for good if the line were held back until uv ends

    run(tmp_path, "sync", report=let_it_go_on)
    assert seen == ["Downloading numpy (15.9MiB)"]
    assert (tmp_path / "uv.log").read_text() == "$ uv sync\nDownloading numpy (15.9MiB)\nmore\nexit code 0\n"
    assert (tmp_path / "uv.log").stat().st_mode & 0o777 == 0o600


def test_a_report_that_raises_does_not_leave_uv_running(stand_in: Path, tmp_path: Path) -> None:
    write_script(stand_in, f"echo $$ > {tmp_path}/pid; echo 'Building x '; exec sleep 60")

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=interrupted)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_an_unknown_distribution_is_named_in_one_line_with_the_log(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "requirements.in").write_text("no-such-thing-anywhere==1\n")
    with pytest.raises(InstallError) as caught:
        run(tmp_path, "pip", "compile", "requirements.in", "--no-index", "--python", sys.executable)
    text = str(caught.value)
    assert text.startswith("cannot do it: No solution found")
    assert "no-such-thing-anywhere" in text
    assert "\n" not in text
    assert f"the full log is {tmp_path / 'uv.log'}" in text
    assert "exit code 1" in (tmp_path / "uv.log").read_text()


def test_an_index_out_of_reach_says_what_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    (tmp_path / "requirements.in").write_text("six\n")
    with pytest.raises(
        InstallError, match=r"127\.0\.0\.1:9.*check the network, or name an index with UV_DEFAULT_INDEX"
    ):
        run(tmp_path, "pip", "compile", "requirements.in", "--no-cache", "--python", sys.executable)


def test_a_full_disk_is_its_own_error(stand_in: Path, tmp_path: Path) -> None:
    write_script(stand_in, "echo 'error: failed to write: No space left on device (os error 28)'; exit 2")
    with pytest.raises(NoSpaceError, match=r"no space on disk, cannot do it: \d+ bytes free"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (["warning: x", "error: A", "  cause: B", "         goes on", "  cause: C", "", "hint: D"], "A: B goes on: C"),
        (
            ["  × No solution found when resolving dependencies:", "  ╰─▶ Because a", "      and b."],
            "No solution found when resolving dependencies: Because a and b.",
        ),
        (
            ["x.c:1:10: fatal error: no.h", "error: Failed to build `x`"],
            "Failed to build `x`: x.c:1:10: fatal error: no.h",
        ),
        (["something else", ""], "something else"),
        ([], "uv said nothing"),
    ],
)
def test_the_reason_is_picked_from_what_uv_said(said: list[str], reason: str) -> None:
    assert uv.first_reason(said) == reason


def test_this_python_is_taken_when_it_is_admitted() -> None:
    for requires in ("", ">=3.11", f"=={sys.version_info.major}.{sys.version_info.minor}.*"):
        assert uv.find_interpreter(requires, asked_by=Path("pyproject.toml")).path == Path(sys.executable)


def test_the_newest_admitted_python_on_path_is_taken(tmp_path: Path) -> None:
    for minor in (98, 97, 99):
        answer = f"/opt/python3.{minor}\\ncpython\\n3.{minor}.1\\ncpython-3{minor}\\nlinux-x86_64\\n"
        write_script(tmp_path / f"python3.{minor}", f"printf '{answer}'")
    write_script(tmp_path / "python3.96", "echo no version behind this shim >&2; exit 127")
    (tmp_path / "python3.99-config").write_text("not an interpreter")
    environ = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    found = uv.find_interpreter(">=3.90,<3.99", asked_by=Path("pyproject.toml"), environ=environ)
    assert found == uv.Interpreter(Path("/opt/python3.98"), "cpython", "3.98.1", "cpython-398", "linux-x86_64")


def test_pythons_of_pyenv_and_uv_are_found(tmp_path: Path) -> None:
    for folder in (".pyenv/versions/3.98.1", ".local/share/uv/python/cpython-3.97.0-linux", ".pyenv/versions/3.9.18"):
        (tmp_path / folder / "bin").mkdir(parents=True)
        version = folder.rpartition("/")[2].removeprefix("cpython-").removesuffix("-linux")
        answer = f"{folder}\\ncpython\\n{version}\\ncpython-3\\nlinux-x86_64\\n"
        write_script(tmp_path / folder / "bin" / "python3", f"printf '{answer}'")
    environ = {"PATH": "", "HOME": str(tmp_path)}
    for requires, version in ((">=3.90", "3.98.1"), (">=3.90,<3.98", "3.97.0")):
        assert uv.find_interpreter(requires, asked_by=Path("x"), environ=environ).version == version


def test_a_python_that_is_not_there_is_asked_for_with_what_is(tmp_path: Path) -> None:
    environ = {"PATH": "", "HOME": str(tmp_path)}
    with pytest.raises(InstallError) as caught:
        uv.find_interpreter(">=4", asked_by=Path("src/demo_worker/pyproject.toml"), environ=environ)
    text = str(caught.value)
    assert "src/demo_worker/pyproject.toml needs Python >=4" in text
    assert f"found {sys.version.split()[0]} ({sys.executable})" in text


def test_a_worker_may_not_ask_for_a_python_older_than_the_runtime(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"needs Python <3\.11 \(and at least 3\.11\)"):
        uv.find_interpreter("<3.11", asked_by=Path("x"), environ={"PATH": "", "HOME": str(tmp_path)})


def test_bad_version_specifiers_are_quoted() -> None:
    with pytest.raises(InstallError, match=r"requires-python 'three' is not valid"):
        uv.find_interpreter("three", asked_by=Path("x"))
