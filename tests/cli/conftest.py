"""An app that can go wrong in every way, and the command line as a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agilab.cli import main

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "trouble"
version = "0.1.0"
description = "Goes wrong as it is told"
license = "BSD-3-Clause"
requires-python = ">=3.11"
dependencies = []

[tool.agilab]
uuid = "7f0b3c64-5f0e-4d0e-9a55-0d6f7f1f2a10"
"""

WORKER_PYPROJECT = """\
[project]
name = "trouble-worker"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = []
"""

MANAGER = '''\
"""What there is to do."""

import agilab
import param


class Model(agilab.Settings):
    depth = param.Integer(3, bounds=(1, 9), doc="How deep [layers]")
    fast = param.Boolean(False, doc="Whether to hurry")


class Trouble(agilab.App):
    class Settings(agilab.Settings):
        sleep_s = param.Number(0.0, bounds=(0, 600), doc="How long each partition takes [s]")
        parts = param.Integer(3, bounds=(1, 1000), doc="How many partitions")
        how = param.Selector(default="no", objects=["no", "raise", "die", "escape", "hang"], doc="What goes wrong")
        origins = param.ListSelector(default=["EWR"], objects=["EWR", "JFK", "LGA"], doc="Airports")
        limit = param.Integer(None, bounds=(0, 9), allow_None=True, doc="A bound, or none")
        loud = param.Boolean(True, doc="Whether to log")
        json = param.String("x", doc="A setting that is called like a flag")
        model = param.ClassSelector(class_=Model, default=Model(), doc="A model")

    def plan(self):
        print("planned aloud")
        parts = [agilab.Partition(f"p{i}", params={"i": i}, weight=1 + i) for i in range(self.settings.parts)]
        return agilab.WorkPlan([agilab.Stage("work", parts), agilab.Stage("total", after="work")])
'''

WORKER = '''\
"""The work."""

import os
import time

import agilab


class TroubleWorker(agilab.Worker):
    def work(self, part):
        print("printed by", part.id, flush=True)
        if self.settings.loud:
            part.log.info("at work on %s", part.params["i"])
        end = time.monotonic() + self.settings.sleep_s
        while time.monotonic() < end:
            if part.cancelled and self.settings.how != "hang":
                return
            time.sleep(0.01)
        if part.params["i"] == 1:
            if self.settings.how == "raise":
                raise ValueError("wrong \\x1b[31mred\\x1b[0m")
            if self.settings.how == "die":
                os._exit(3)
            if self.settings.how == "escape":
                part.log.info("\\x1b]0;owned\\x07")
                print("\\x1b]0;printed\\x07", flush=True)
        part.metric("done", 1)
        part.write("out", "json", part.params["i"])

    def total(self, part):
        part.write("total", "json", len(part.inputs))
'''

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the app project ``trouble``."""
    folder = tmp_path_factory.mktemp("apps")
    files = {
        "pyproject.toml": PYPROJECT,
        "src/trouble/__init__.py": MANAGER,
        "src/trouble_worker/__init__.py": WORKER,
        "src/trouble_worker/pyproject.toml": WORKER_PYPROJECT,
    }
    for name, text in files.items():
        path = folder / "trouble_project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="session")
def cli_wenv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one AGILAB_WENV for all tests of the command line, so that one environment is built."""
    return tmp_path_factory.mktemp("cli_wenv")


@pytest.fixture
def here(home: Path, apps: Path, cli_wenv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty folder, from where the app is found; return the folder."""
    monkeypatch.setenv("AGILAB_APPS", str(apps))
    monkeypatch.setenv("AGILAB_WENV", str(cli_wenv))
    monkeypatch.delenv("AGILAB_TRACEBACK", raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cli(here: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return ``cli(*words)``: what the command line answers, called in this process, which is quick."""

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)

    return call


@pytest.fixture
def shell(here: Path) -> Cli:
    """Return ``shell(*words)``: what the command line answers as a process of its own."""

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agilab", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    return call


@pytest.fixture
def made_run(cli: Cli) -> Callable[..., dict[str, Any]]:
    """Return ``made_run(*flags)``: what ``agilab run trouble --json`` said."""

    def make(*flags: object) -> dict[str, Any]:
        done = cli("run", "trouble", "--json", *flags)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return make
