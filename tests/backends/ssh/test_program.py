"""What is sent to hosts runs there with a bare Python, from any login shell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agilab.backends.ssh.program import MODULES, command, program
from agilab.errors import InstallError


def test_the_program_imports_where_nothing_is_installed(tmp_path: Path) -> None:
    for name, text in json.loads(program().data).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = [f"agilab.{name}".replace("/", ".").removesuffix(".__init__") for name in MODULES]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_host_that_has_another_program_is_told_so(tmp_path: Path) -> None:
    line = command("boot", "0" * 64, "survey")
    data = program().data
    done = subprocess.run(
        ["sh", "-c", line],
        input=b"%d\n" % len(data) + data,
        capture_output=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert json.loads(done.stdout) == {"status": "absent"}
    assert b"not the one that was announced" in done.stderr
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize("shell", [name for name in ("sh", "bash", "dash", "zsh", "fish", "csh") if shutil.which(name)])
def test_every_login_shell_can_read_the_command_line(shell: str, tmp_path: Path) -> None:
    line = command("probe")
    assert "\n" not in line
    assert "!" not in line
    variables = {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run([shell, "-c", line], capture_output=True, text=True, env=variables, check=True)
    assert json.loads(done.stdout)["wenv"] == f"{tmp_path}/wenv"


def test_an_incomplete_installation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agilab.backends.ssh.program.MODULES", ("nowhere",))
    with pytest.raises(InstallError, match="install AGILAB again"):
        program()
