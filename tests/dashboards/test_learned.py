"""Views of what was learned: forecasts, training and models say what their artifacts hold, and only read them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
from agilab_dashboards import views
from agilab_dashboards.datasets import Dataset, datasets
from agilab_dashboards.views.forecast import Rows
from PIL import Image

from agilab.errors import ArtifactNotFoundError
from agilab.run import Run
from tests.dashboards.seen_run import table_bytes
from tests.run_folder import RunFolder

HOURS = 6
START = pd.Timestamp("2026-01-01", tz="UTC")


def forecasts() -> pd.DataFrame:
    """Return two forecasts of two places by two methods; the second one reaches beyond what is known."""
    rows = []
    for place in ("here", "there"):
        for issued in (0, HOURS):
            for method, error in (("naive", 2.0), ("model", 1.0)):
                for hour in range(HOURS):
                    known = issued + hour < HOURS + 2
                    told = 10.0 + hour
                    rows.append(
                        {
                            "place": place,
                            "method": method,
                            "issued": START + pd.Timedelta(hours=issued),
                            "time": START + pd.Timedelta(hours=issued + hour),
                            "horizon_h": hour + 1,
                            "forecast": told + error * (-1) ** hour,
                            "low": told - 3 if method == "model" else np.nan,
                            "high": told + 3 if method == "model" else np.nan,
                            "observed": told if known else np.nan,
                        }
                    )
    return pd.DataFrame(rows)


def node(kind: str, loader: str = "ObjectNode", module: str = "somewhere._hidden", **members: Any) -> dict[str, Any]:
    """Return an object as skops writes it down."""
    content = {"__class__": "dict", "__module__": "builtins", "__loader__": "DictNode", "content": members}
    return {"__class__": kind, "__module__": module, "__loader__": loader, "content": content}


def plain(value: Any) -> dict[str, Any]:
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value)}


def listed(*inner: Any) -> dict[str, Any]:
    return {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": list(inner)}


def model_bytes(schema: str | None = None) -> bytes:
    """Return a model of one step, or a file that says something else of itself."""
    learned = {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode", "file": "0.npy"}
    step = node("Line", alpha=plain(0.5), memory=plain(None), coef_=learned, _cache=plain(1), names=listed(plain("a")))
    whole = node("Pipeline", "ObjectNode", "somewhere", steps=listed(listed(plain("line <b>"), step)))
    out, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros((2, 3)))
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("0.npy", array.getvalue())
        archive.writestr("schema.json", json.dumps(whole) if schema is None else schema)
    return out.getvalue()


def learned_run(home: Path, model: bytes, *, rows: int = 3) -> Run:
    """Return a run of two partitions with curves, and of one with forecasts and a model."""
    made = RunFolder(home, partitions=2)
    for number, name in enumerate(made.tracks):
        curve = pd.DataFrame({"step": [3, 1, 2], "loss": [1.0 + number, 3.0 + number, 2.0 + number]}).head(rows)
        made.commit("tracks", name, files={"curve": table_bytes(curve)}, kinds={"curve": "training"})
    made.plan()
    made.prepare()
    files = {"told": table_bytes(forecasts() if rows else forecasts().head(0)), "model": model}
    made.commit("summary", "summary", files=files, kinds={"told": "forecast", "model": "model"})
    return Run(made.seal())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learned_run(tmp_path_factory.mktemp("learned"), model_bytes())


def of_kind(run: Run, kind: str) -> Dataset:
    return next(source for source in datasets(run) if source.kind == kind)


def test_each_is_shown_by_its_own_view_first(run: Run) -> None:
    found = {source.kind: views.SHIPPED.fitting(source)[0] for source in views.SHIPPED.shown(run)}
    assert found == {"forecast": "forecast", "training": "training", "model": "model"}
    for kind, element in (("forecast", hv.Layout), ("training", hv.Overlay), ("model", hv.Table)):
        made = views.SHIPPED.make(kind, of_kind(run, kind))
        plot = made.plot(run)
        assert isinstance(plot, element)
        assert hv.render(plot) is not None
        assert Image.open(io.BytesIO(made.picture(run, 640))).width == 640


def test_a_forecast_stands_beside_what_came_and_errors_by_horizon_are_those_of_all(run: Run) -> None:
    source = of_kind(run, "forecast")
    made = views.SHIPPED.make("forecast", source)
    assert (made.series, made.issued) == ("here", "2026-01-01T06:00:00")
    above, below = made.element(source, made.whole(source))
    assert [one.label for one in above] == ["model: interval", "model", "naive", "observed"]
    assert len(above.get(3)) == 2, "of six hours two are known"
    rows = Rows.of(source)
    assert {name: some.errors("mae")[1].tolist() for name, some in rows.by_method()} == {
        "model": [1.0] * HOURS,
        "naive": [2.0] * HOURS,
    }
    bias = dict(rows.by_method())["naive"].errors("bias")[1]
    assert bias.tolist() == [2.0, -2.0] * 3
    assert [len(one) for one in below] == [HOURS, HOURS]
    first = views.SHIPPED.make("forecast", source, {"series": "there", "issued": "2026-01-01T00:00:00"})
    assert len(first.element(source, first.whole(source))[0].get(3)) == HOURS


def test_training_is_a_line_for_each_partition_and_their_mean(run: Run) -> None:
    source = of_kind(run, "training")
    made = views.SHIPPED.make("training", source)
    lines = list(made.element(source, made.whole(source)))
    assert [line.dimension_values(1).tolist() for line in lines] == [[3, 2, 1], [4, 3, 2], [3.5, 2.5, 1.5]]
    assert lines[-1].label == "loss"
    alone = views.SHIPPED.make("training", source, {"each": False})
    assert len(alone.element(source, alone.whole(source))) == 1


def test_a_model_is_listed_step_by_step_without_running_it(run: Run) -> None:
    source = of_kind(run, "model")
    rows = views.SHIPPED.make("model", source).frame_of_rows(source).to_numpy().tolist()
    assert rows == [
        ["", "somewhere.Pipeline", "", ""],
        ["line <b>", "somewhere.Line", "", ""],
        ["", "", "alpha", "0.5"],
        ["", "", "coef_", "float64 2 x 3"],
        ["", "", "names", "a"],
    ]
    settings = views.SHIPPED.make("model", source, {"learned": False}).frame_of_rows(source)
    assert settings["name"].tolist() == ["", "", "alpha", "names"]


@pytest.mark.parametrize("kind", ["forecast", "training"])
def test_without_a_row_there_is_nothing_to_draw(tmp_path: Path, kind: str) -> None:
    run = learned_run(tmp_path, model_bytes(), rows=0)
    source = of_kind(run, kind)
    with pytest.raises(ArtifactNotFoundError, match="has no rows"):
        views.SHIPPED.make(kind, source).plot(run)


@pytest.mark.parametrize("schema", ["[1]", "{", "[" * 100_000, '{"content": {"content": {"a": {"file": "../x.npy"}}}}'])
def test_a_damaged_model_is_said_in_a_line(tmp_path: Path, schema: str) -> None:
    source = of_kind(learned_run(tmp_path, model_bytes(schema)), "model")
    with pytest.raises(ArtifactNotFoundError, match="no file of skops that can be read") as said:
        views.SHIPPED.make("model", source).frame_of_rows(source)
    assert "\n" not in str(said.value)
