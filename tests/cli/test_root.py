"""Errors on the way out: one line on stderr, an exit code that is never 0, no traceback unless asked for."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agilab import cli, errors
from agilab.cli import root


def test_an_unknown_command_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rnu"]) == 2
    assert capsys.readouterr() == ("", "agilab: error: no command 'rnu'; did you mean 'run'? see agilab --help\n")


def test_an_unknown_option_names_the_command_that_explains(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--nonsense"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "agilab: error: no option '--nonsense'; see agilab runs --help\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.SettingError("setting 'x' is 1\n2"), 2, "setting 'x' is 1 2"),
        (errors.InstallError("no"), 3, "no"),
        (errors.NoSpaceError("full"), 4, "full"),
        (errors.RunCancelledError("gone"), 130, "gone"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 4, "No space left on device: /x"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "Permission denied: /x"),
        (errors.AgilabError("\x1b[31mred\u202e"), 1, "\\x1b[31mred\\u202e"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert root.complain(error) == code
    assert capsys.readouterr() == ("", f"agilab: error: {line}\n")


def test_a_fault_of_ours_says_so_and_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGILAB_TRACEBACK", raising=False)
    assert root.complain(KeyError("oops")) == 70
    err = capsys.readouterr().err
    assert err.startswith("agilab: error: a fault in AGILAB itself: KeyError: 'oops'; set AGILAB_TRACEBACK=1")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line", "code"),
    [
        (("show", "2001", "--json"), "no run '2001'", 2),
        (("rnu", "--json"), "no command 'rnu'", 2),
        (("runs", "--limit", "--json"), "", 2),
    ],
)
def test_with_json_an_error_is_a_document_too(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str, code: int
) -> None:
    assert cli.main(list(words)) == code
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["schema"], found["exit_code"]) == ("agilab.cli.error/1", code)
    assert err == f"agilab: error: {found['error']}\n"
    assert found["error"].startswith(line)


def test_a_traceback_comes_when_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGILAB_TRACEBACK", "1")
    with pytest.raises(errors.PlanError) as caught:
        raise errors.PlanError("no plan")
    assert root.complain(caught.value) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "agilab: error: no plan"


def test_a_remote_traceback_comes_before_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert root.complain(errors.WorkerError("it broke", "Traceback ...\nValueError: \x07")) == 1
    assert capsys.readouterr().err == "Traceback ...\nValueError: \\x07\nagilab: error: it broke\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_an_interruption_is_no_success(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**options: object) -> None:
        raise error

    monkeypatch.setattr(root.GROUP, "main", interrupted)
    assert root.call(["runs"]) == 130
    assert capsys.readouterr().err == "agilab: cancelled\n"


def test_windows_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert root.call(["runs"]) == 2
    assert capsys.readouterr().err == (
        "agilab: error: Windows is not supported; use Linux or macOS, for instance under WSL 2\n"
    )


def test_a_reader_that_has_gone_is_no_fault(home: Path) -> None:
    command = [sys.executable, "-m", "agilab", "env", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (1, b"")


def test_an_answer_that_could_not_be_written_is_no_success(home: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "agilab", "env"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 4
    assert done.stderr.splitlines()[0] == "agilab: error: No space left on device"
