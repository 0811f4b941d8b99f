"""`App`: sizes of inputs, artifacts as files while a stage is planned, sums by default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import agilab
from agilab.app import PartitionResult
from agilab.backends.inline import forget
from agilab.errors import ArtifactNotFoundError, PlanError, SettingError
from agilab.paths import HomePaths
from agilab.planner import Planner
from agilab.project import read
from agilab.settings import Input
from tests.survey import MANAGER, make_survey

SCORE = agilab.Artifact("fit", "fit-0", "score", "json", "artifacts/fit/fit-0/score.json", 3, "0" * 64)


class Fits(agilab.App):
    class Settings(agilab.Settings):
        tables = Input("*.csv", doc="Files")


def make_app(root: Path) -> Fits:
    return Fits(Fits.Settings(), data_root=root)


def test_inputs_carry_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1234")
    (tmp_path / "b.csv").write_text("")
    inputs = make_app(tmp_path).inputs()
    assert [(ref.name, ref.path, ref.size_bytes) for ref in inputs] == [("a.csv", "a.csv", 4), ("b.csv", "b.csv", 0)]
    parts = [agilab.Partition(ref.name, inputs=[ref], weight=1 + ref.size_bytes) for ref in inputs]
    assert agilab.WorkPlan([agilab.Stage("read", parts)]).partitions[0].weight == 5


def test_an_artifact_has_a_path_in_its_run(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    with pytest.raises(PlanError, match="'fit/fit-0/score' has no path before there is a run; read it in plan_stage"):
        app.path(SCORE)
    app.run_folder = tmp_path
    with pytest.raises(ArtifactNotFoundError, match="'fit/fit-0/score' is not in "):
        app.path(SCORE)
    file = tmp_path / SCORE.path
    file.parent.mkdir(parents=True)
    file.write_text("0.5")
    assert app.path(SCORE).read_text() == "0.5"


def test_an_artifact_on_another_host_has_no_path(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    app.run_folder = tmp_path
    away = agilab.Artifact("fit", "fit-0", "score", "json", "score.json", 3, "0" * 64, location="node7")
    with pytest.raises(ArtifactNotFoundError, match="lies on node7"):
        app.path(away)


def test_a_stage_planned_later_reads_everything_by_default(tmp_path: Path) -> None:
    (part,) = make_app(tmp_path).plan_stage("total", [SCORE])
    assert (part.id, part.inputs) == ("total", (agilab.ArtifactRef("fit", "fit-0", "score"),))


def test_metrics_are_summed_by_name(tmp_path: Path) -> None:
    results = [PartitionResult(f"p{i}", "fit", {}, {"rows": 2.0, "loss": 0.5}, ()) for i in range(3)]
    assert make_app(tmp_path).summarize(results) == {"rows": 6.0, "loss": 1.5}


# --- as the planner asks ---

OVERRIDDEN = """
    def inputs(self):
        return []
"""
WITH_PATH = """
    def plan_stage(self, stage, artifacts):
        best = max(artifacts, key=lambda artifact: float(self.path(artifact).read_text()))
        return [agilab.Partition("refit", inputs=[best])]

    def summarize(self, results):
        return {"best": max(float(self.path(art).read_text()) for part in results for art in part.artifacts)}
"""
VALUES = {"count": 5}


@pytest.fixture(params=[True, False], ids=["here", "child"])
def in_process(request: pytest.FixtureRequest) -> Iterator[bool]:
    forget("survey", "")
    yield request.param
    forget("survey", "")


def make_planner(folder: Path, more: str, *, in_process: bool) -> Planner:
    root = make_survey(folder, manager=MANAGER + more)
    return Planner(read(root), HomePaths(folder / "home"), root, in_process=in_process)


@pytest.mark.parametrize("more", ["", OVERRIDDEN], ids=["default inputs", "own inputs"])
def test_a_plan_of_inputs_that_match_nothing_is_refused(tmp_path: Path, more: str, in_process: bool) -> None:
    planner = make_planner(tmp_path, more, in_process=in_process)
    planner.plan(VALUES)
    with pytest.raises(SettingError, match=r"setting 'tables' is 'tabels/\*\.csv', which matches no file below /"):
        planner.plan({**VALUES, "tables": "tabels/*.csv"})


def test_artifacts_are_read_while_a_stage_is_planned_and_summed_up(tmp_path: Path, in_process: bool) -> None:
    planner = make_planner(tmp_path, WITH_PATH, in_process=in_process)
    run_folder = tmp_path / "run"
    scores = []
    for number, score in enumerate((0.25, 0.75, 0.5)):
        path = f"artifacts/lines/p{number}/score.json"
        scores.append(agilab.Artifact("lines", f"p{number}", "score", "json", path, 4, "0" * 64))
        (run_folder / path).parent.mkdir(parents=True)
        (run_folder / path).write_text(f"{score}")
    (refit,) = planner.plan_stage(VALUES, "total", scores, run_folder=run_folder)
    assert refit.inputs == (agilab.ArtifactRef("lines", "p1", "score"),)
    parts = [agilab.Partition(f"p{number}", stage="lines") for number in range(3)]
    records = {part.id: {"metrics": [], "artifacts": [art.to_json()]} for part, art in zip(parts, scores, strict=True)}
    assert planner.summarize(VALUES, parts, records, run_folder=run_folder) == {"best": 0.75}
    with pytest.raises(PlanError, match="has no path before there is a run"):
        planner.plan_stage(VALUES, "total", scores)
