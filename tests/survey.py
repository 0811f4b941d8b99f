"""Writes the app project `survey` for tests: nested settings, input files, a stage that is planned later."""

from __future__ import annotations

from pathlib import Path

PYPROJECT = """\
[project]
name = "survey"
version = "1.2"
description = "Counts lines"
license = "BSD-3-Clause"
requires-python = ">=3.11"
dependencies = []

[tool.agilab]
uuid = "0e4b1c52-9d7a-4f1e-8a53-6f0b7c1d2e3f"
"""

MANAGER = '''\
"""Counts the lines of tables."""

import datetime as dt

import agilab
import param
from agilab.settings import Input


class Model(agilab.Settings):
    depth = param.Integer(3, bounds=(1, 9), doc="Layers")
    rate = param.Number(0.5, bounds=(0, 1), doc="Learning rate [1]")


class Survey(agilab.App):
    class Settings(agilab.Settings):
        count = param.Integer(100, bounds=(1, 1000), doc="How many [lines]")
        day = param.CalendarDate(dt.date(2013, 1, 1), doc="Which day")
        labels = param.Dict({}, doc="Names of things")
        model = param.ClassSelector(class_=Model, default=Model(), doc="The model")
        tables = Input("tables/*.csv", doc="What is counted")

    def plan(self):
        paths = self.settings.input_matches(self.data_root)["tables"]
        parts = [
            agilab.Partition(
                f"p{number}", params={"count": self.settings.count}, inputs=(agilab.InputRef("table", path),)
            )
            for number, path in enumerate(paths)
        ]
        return agilab.WorkPlan([agilab.Stage("lines", parts), agilab.Stage("total", after="lines")])
'''

SETTINGS = """\
[settings]
count = 50

[settings.model]
depth = 2

[cluster]
workers = 2
"""

WORKER = '''\
"""Counts the lines of one table."""

import json

import agilab


class SurveyWorker(agilab.Worker):
    def lines(self, part):
        lines = part.inputs["table"].read_text().splitlines()
        if "bad" in lines:
            raise ValueError(f"line {lines.index('bad')} of {part.id} is bad")
        part.write("lines", "json", len(lines))

    def total(self, part):
        counts = [json.loads(path.read_text()) for path in part.inputs.named("lines")]
        if sum(counts) > self.settings.count:
            raise ValueError(f"{sum(counts)} lines are too many, model depth {self.settings.model.depth}")
        part.write("total", "json", sum(counts))
        part.metric("total", sum(counts))
'''

WORKER_PYPROJECT = """\
[project]
name = "survey-worker"
version = "1.2"
requires-python = ">=3.11"
dependencies = []
"""


def make_survey(folder: Path, *, manager: str = MANAGER, pyproject: str = PYPROJECT) -> Path:
    """Write ``survey_project`` with two tables of two and three lines into a folder; return its root."""
    root = folder / "survey_project"
    for name, text in {
        "pyproject.toml": pyproject,
        "src/survey/__init__.py": manager,
        "src/survey/app_settings.toml": SETTINGS,
        "src/survey_worker/__init__.py": WORKER,
        "src/survey_worker/pyproject.toml": WORKER_PYPROJECT,
        "tables/a.csv": "1\n2\n",
        "tables/b.csv": "1\n2\n3\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
