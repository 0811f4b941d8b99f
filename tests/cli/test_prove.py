"""`verify`, `first-proof` and `doctor`: yes or no, with reasons."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]
MadeRun = Callable[..., dict[str, Any]]


def test_verify_says_ok_and_how_much_was_hashed(cli: Cli, made_run: MadeRun) -> None:
    run = made_run()
    done = cli("verify", "last")
    assert done.returncode == 0
    assert done.stdout.startswith(f"ok: {run['run_id']}: ")
    assert "hashed, all as recorded" in done.stdout
    assert json.loads(cli("verify", run["folder"], "--json").stdout)["ok"] is True


def test_verify_names_what_has_changed_with_both_hashes(cli: Cli, made_run: MadeRun) -> None:
    folder = Path(made_run()["folder"])
    path = folder / "artifacts" / "work" / "p0" / "out.json"
    path.chmod(0o600)
    path.write_text("5\n")
    (folder / "stray\x1b").touch()
    done = cli("verify", "last")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("changed: artifacts/work/p0/out.json"))
    assert "expected " in line
    assert ", found f0b5c2c2" in line
    assert "stray\\x1b" in done.stdout
    assert done.stderr.startswith("agilab: error: ")
    found = json.loads(cli("verify", "last", "--json").stdout)
    assert {problem["path"] for problem in found["problems"]} >= {"artifacts/work/p0/out.json", "stray\x1b"}


def test_a_first_proof_of_another_app_is_refused(cli: Cli, made_run: MadeRun) -> None:
    made_run()
    done = cli("first-proof", "--run", "last")
    assert (done.returncode, done.stdout) == (1, "")
    assert "trouble" in done.stderr


def test_doctor_says_what_is_there_and_how_to_mend_the_rest(cli: Cli, home: Path) -> None:
    done = cli("doctor")
    assert done.returncode == 0
    assert re.search(f"^ok    AGILAB_HOME +{re.escape(str(home))} .made when first needed.$", done.stdout, re.MULTILINE)
    assert re.search("^note  optional .* agilab doctor --all explains$", done.stdout, re.MULTILINE)
    assert "extra ui" not in re.sub("note  optional.*", "", done.stdout)
    assert "extra ui" in cli("doctor", "--all").stdout
    assert done.stdout.splitlines()[-1] == "this machine can run apps; `agilab first-proof` shows it"


def test_doctor_fails_with_the_fix(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file")
    monkeypatch.setenv("AGILAB_SLOTS", "many")
    done = cli("doctor")
    assert done.returncode == 1
    assert re.search(f"^FAIL  AGILAB_HOME +{re.escape(str(home))} is not a folder$", done.stdout, re.MULTILINE)
    assert "fix: move it away, or set AGILAB_HOME to a folder" in done.stdout
    assert done.stderr == "agilab: error: 2 checks failed: AGILAB_HOME, slots\n"
    assert json.loads(cli("doctor", "--json").stdout)["ok"] is False
