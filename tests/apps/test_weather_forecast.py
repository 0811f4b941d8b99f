"""weather_forecast keeps the contract, and is what its notebook became: names, code and numbers are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from agilab import AgiEnv, Run
from agilab.notebook.document import read_cells
from agilab.notebook.importing import import_notebook
from agilab.paths import HomePaths
from agilab.testing import AppTests
from tests.apps.shared import InSharedEnvironment

PROJECT = Path(__file__).resolve().parent.parent.parent / "apps" / "weather_forecast_project"
NOTEBOOK = PROJECT / "notebooks" / "weather_forecast.ipynb"
FEW = {"folds": 3, "train_days": 14, "horizon_h": 24}


class TestWeatherForecast(InSharedEnvironment, AppTests):
    app = PROJECT
    settings = FEW

    def test_its_numbers_are_those_of_the_notebook(
        self, runs: dict[str, Run], flights_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "weather.csv").symlink_to(flights_data / "weather.csv")
        monkeypatch.chdir(tmp_path)
        code = [cell for cell in read_cells(NOTEBOOK) if cell.kind == "code"]
        space: dict[str, Any] = {}
        for cell in code:
            exec(cell.source, space)
            if "parameters" in cell.tags:
                space |= {name.upper(): value for name, value in FEW.items()}
        run = runs["local"].check()
        found = json.loads(run.artifact("overall").read_text())
        told = space["overall"](json.loads((tmp_path / "scores.json").read_text()))
        assert flat(found) == pytest.approx(flat(told), rel=1e-6)
        assert run.metrics["mae_model"] == found["model"]["mae"] < found["persistence"]["mae"]
        wanted = parquet.read_table(tmp_path / "forecast.parquet")
        made = parquet.read_table(run.artifact("forecast/forecast/forecast"))
        np.testing.assert_allclose(made["forecast"].to_numpy(), wanted["forecast"].to_numpy(), rtol=1e-6)
        assert made.schema.field("forecast").metadata == {b"unit": b"degC"}

    def test_gaps_stay_gaps_and_the_past_is_all_that_a_forecast_knows(self, runs: dict[str, Run]) -> None:
        run = runs["local"].check()
        series = parquet.read_table(run.artifact("series"))
        gaps = {name: int(pc.sum(pc.is_nan(series[name])).as_py()) for name in ("EWR", "JFK", "LGA")}
        assert gaps == {"EWR": 28, "JFK": 24, "LGA": 24}
        table = parquet.read_table(run.artifact("backtest/EWR/forecasts"))
        ahead = pc.subtract(table["time"], table["issued"]).to_numpy().astype("timedelta64[h]").astype(int)
        assert (ahead == table["horizon_h"].to_numpy() - 1).all()
        held = pc.and_(pc.less_equal(table["low"], table["forecast"]), pc.less_equal(table["forecast"], table["high"]))
        assert pc.all(pc.or_kleene(pc.is_nan(table["low"]), held)).as_py()


def flat(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return nested numbers under one name each."""
    return {f"{outer}.{name}": value for outer, inner in values.items() for name, value in inner.items()}


def test_it_is_what_the_import_of_its_notebook_makes(home: Path, tmp_path: Path) -> None:
    env = AgiEnv(PROJECT)
    env.prepare()
    made = import_notebook(NOTEBOOK, tmp_path, home=HomePaths.chosen(), name="tomorrow")
    assert [stage.name for stage in made.decisions.stages] == ["backtest", "scores", "forecast"]
    fields = {field.name: (field.default, f"{field.doc} [{field.unit}]".removesuffix(" []")) for field in env.fields()}
    assert {one.name: (one.default, one.doc) for one in made.decisions.settings} == fields
    assert made.requirements == ("numpy", "pyarrow")
    theirs = (made.project.root / "src" / "tomorrow_worker" / "definitions.py").read_text()
    ours = (PROJECT / "src" / "weather_forecast_worker" / "definitions.py").read_text()
    assert re.sub("tomorrow", "weather_forecast", theirs) == ours
