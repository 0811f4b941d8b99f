"""Run folders of every released schema stay readable: `tests/data/runs` keeps one of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agilab import Run, manifest
from agilab.paths import RunPaths
from agilab.sidecar import read_tags
from agilab.verification import verify
from tests.checkout import ROOT
from tests.run_folder import SCHEMAS, conform

FOLDERS = sorted((ROOT / "tests" / "data" / "runs").glob("*/*"))
NOT_IN_A_FOLDER = {
    "agilab.data/1": "in AGILAB_HOME/data",
    "agilab.environment/1": "in a worker environment",
    "agilab.worker/1": "in AGILAB_WENV",
    "agilab.home/1": "in AGILAB_HOME",
    "agilab.trust/1": "in AGILAB_HOME",
    "agilab.service/1": "in AGILAB_HOME/services",
    "agilab.comparison/1": "what agilab compare --json prints",
    "agilab.gate/1": "where agilab compare --gate is told to keep it",
    "agilab.verification/1": "what agilab verify --json prints",
}
"""Schemas of records that no run folder holds, and where they lie."""


def records(folder: Path) -> list[dict[str, object]]:
    """Return every record of a run folder that names its schema, the lines of logs by lines."""
    found = []
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        if "artifacts" in path.parts and path.name != "partition.json":
            continue
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        found += [json.loads(line) for line in lines]
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_released_run_folder_is_read_and_verified(folder: Path) -> None:
    run = Run(RunPaths(folder))
    assert run.state == "succeeded"
    assert len(list(run.records())) == run.manifest["partitions"]["committed"]
    assert len(run.artifacts()) == run.manifest["artifacts"]["count"]
    assert run.metrics == run.manifest["metrics"]
    assert run.artifact("total").is_file()
    assert next(run.events())["event"] == "created"
    assert manifest.verify(run.paths).ok, manifest.verify(run.paths).problems
    for record in records(folder):
        if "schema" in record:
            conform(record, str(record["schema"]))


def test_tags_of_a_released_run_are_read() -> None:
    tags = read_tags(RunPaths(FOLDERS[-1]))
    assert (tags.tags, tags.note) == (("kept",), "resumed after a cancel")


def test_there_is_one_of_every_schema() -> None:
    seen = {record["schema"] for folder in FOLDERS for record in records(folder) if "schema" in record}
    assert {schema.replace("-", "/") for schema in SCHEMAS} == seen | set(NOT_IN_A_FOLDER)


def test_one_of_them_has_a_seal_that_was_superseded() -> None:
    assert [verify(RunPaths(folder)).superseded for folder in FOLDERS] == [(), (1,)]
