"""Views: numbers equal those computed in another way, and every one of them gives a plot and a picture."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import datashader as ds
import holoviews as hv
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from agilab_dashboards import aggregates, datasets, views
from agilab_dashboards.aggregates import Frame
from agilab_dashboards.datasets import Dataset
from PIL import Image
from pyarrow import ipc

from agilab.errors import AgilabError, SettingError
from agilab.run import Run
from tests.dashboards.seen_run import ROWS, grid, numbers, seen_run

FRAME = Frame((-2.0, 2.0), (-1.0, 3.0), 60, 40)
WHOLE = pd.concat([numbers(0), numbers(1)], ignore_index=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return seen_run(tmp_path_factory.mktemp("seen"))


@pytest.fixture
def points(run: Run, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Return the points, worked on in batches that are smaller than their files."""
    monkeypatch.setattr(datasets, "BATCH_ROWS", 1500)
    return next(source for source in datasets.datasets(run) if source.kind == "points")


def test_partitions_are_put_together(points: Dataset) -> None:
    assert (points.key, points.rows, len(points.files)) == ("tracks/points", 2 * ROWS, 2)
    assert [(c.name, c.type, c.unit) for c in points.columns if c.name in ("time", "height", "carrier")] == [
        ("time", "time", "UTC"),
        ("height", "number", "m"),
        ("carrier", "text", ""),
    ]
    some = points.slice(ROWS - 1, 2, ["x", "track"]).to_pandas()
    assert some["x"].tolist() == WHOLE["x"].iloc[ROWS - 1 : ROWS + 1].tolist()


@pytest.mark.parametrize("how", ["count", "sum", "mean", "min", "max"])
def test_a_raster_is_that_of_all_rows_at_once(points: Dataset, how: str) -> None:
    value = "" if how == "count" else "height"
    found = aggregates.raster(points, FRAME, ("x", "y"), how=how, value=value)
    canvas = ds.Canvas(60, 40, FRAME.x, FRAME.y)
    agg = ds.count() if how == "count" else getattr(ds, how)("height")
    wanted = canvas.points(WHOLE, "x", "y", agg=agg).to_numpy().astype(float)
    wanted[wanted == 0] = np.nan
    np.testing.assert_allclose(found, wanted)


def test_categories_add_up_to_the_count(points: Dataset) -> None:
    found = aggregates.categories(points, FRAME, ("x", "y"), "carrier")
    assert list(found) == ["AA", "BB", "CC"]
    inside = WHOLE[WHOLE.x.between(*FRAME.x) & WHOLE.y.between(*FRAME.y)]
    assert {name: int(part.sum()) for name, part in found.items()} == inside.carrier.value_counts().to_dict()


def test_lines_do_not_lead_from_one_track_to_the_next(points: Dataset) -> None:
    found = aggregates.raster(points, FRAME, ("x", "y"), track="track")
    pieces = [pd.concat([part, part.tail(1).assign(x=np.nan, y=np.nan)]) for _, part in WHOLE.groupby("track")]
    canvas = ds.Canvas(60, 40, FRAME.x, FRAME.y)
    wanted = canvas.line(pd.concat(pieces), "x", "y", agg=ds.count()).to_numpy()
    # A track that is cut by a batch lacks one of its 99 pieces.
    assert 0.97 * wanted.sum() < np.nansum(found) <= wanted.sum()


def test_an_envelope_is_exact(points: Dataset) -> None:
    within = (WHOLE.time.min().timestamp(), WHOLE.time.min().timestamp() + 3600)
    found = aggregates.envelope(points, "time", "height", within=within, columns=36)
    seconds = WHOLE.time.map(pd.Timestamp.timestamp) - within[0]
    part = WHOLE[seconds <= 3600]
    columns = np.minimum(seconds[seconds <= 3600] // 100, 35)
    wanted = part.groupby(columns).height.agg(["min", "mean", "max"])
    np.testing.assert_allclose(np.c_[found.low, found.mean, found.high], wanted)


def test_a_grid_has_a_gap_where_no_cell_is(run: Run) -> None:
    source = next(source for source in datasets.datasets(run) if source.kind == "field")
    xs, ys, found = aggregates.grid(source, ("x", "y"), "height", "mean")
    wanted = grid().pivot(index="y", columns="x", values="height")
    np.testing.assert_array_equal(found, wanted)
    assert (list(xs), list(ys)) == (list(wanted.columns), list(wanted.index))


@pytest.mark.parametrize("suffix", [".csv", ".arrow"])
def test_other_files_with_columns_are_read_too(tmp_path: Path, suffix: str) -> None:
    run = seen_run(tmp_path)
    item = replace(run.artifacts()[0], kind="file", path=f"artifacts/tracks/p0/more{suffix}")
    path = run.paths.root / item.path
    if suffix == ".csv":
        WHOLE.to_csv(path, index=False)
    else:
        with ipc.new_file(path, pa.Schema.from_pandas(WHOLE)) as file:
            file.write_table(pa.Table.from_pandas(WHOLE))
    source = Dataset(run, "tracks/more", "file", (item,))
    assert views.fitting(source)[0] == "points"
    assert "timeseries" in views.fitting(source)
    assert np.nansum(aggregates.raster(source, FRAME, ("x", "y"))) > ROWS
    assert source.slice(3, 1, ["height"]).to_pandas().height[0] == pytest.approx(WHOLE.height[3])


def test_views_are_those_that_fit_the_kind_first(run: Run) -> None:
    assert {source.key: views.fitting(source) for source in views.shown(run)} == {
        "tracks/points": ("points", "tracks", "timeseries", "table"),
        "summary/grid": ("field", "points", "table"),
        "summary/chart": ("image",),
        "summary/rows": ("table", "points", "timeseries", "field"),
    }


@pytest.mark.parametrize(
    ("key", "name", "element"),
    [
        ("tracks/points", "points", hv.DynamicMap),
        ("tracks/points", "tracks", hv.DynamicMap),
        ("tracks/points", "timeseries", hv.DynamicMap),
        ("summary/grid", "field", hv.Image),
        ("summary/chart", "image", hv.RGB),
        ("summary/rows", "table", hv.Table),
    ],
)
def test_every_view_gives_a_plot_and_a_picture(run: Run, key: str, name: str, element: type) -> None:
    source = next(source for source in views.shown(run) if source.key == key)
    made = views.make(name, source)
    plot = made.plot(run)
    assert isinstance(plot, element)
    assert hv.render(plot) is not None
    opened = Image.open(io.BytesIO(made.picture(run, 640)))
    assert opened.format == "PNG"
    assert opened.width == (40 if name == "image" else 640)
    assert len(opened.convert("RGB").getcolors(1 << 24)) > (0 if name == "image" else 3)


def test_points_coloured_by_category_have_a_legend_with_counts(run: Run) -> None:
    source = next(source for source in views.shown(run) if source.key == "tracks/points")
    made = views.make("points", source, {"colour": "carrier"})
    found = made.element(source, made.frame(source))
    total = int(sum(int(part.label.split()[-1].replace(",", "")) for part in found.values() if part.label))
    assert total == 2 * ROWS


def test_a_zoom_draws_what_lies_inside(run: Run) -> None:
    source = next(source for source in views.shown(run) if source.key == "tracks/points")
    made = views.make("points", source)
    frame = made.frame(source).zoomed((0.0, 1.0), (0.0, 1.0))
    found = made.element(source, frame)
    assert np.nansum(found.dimension_values("z")) == (WHOLE.x.between(0, 1) & WHOLE.y.between(0, 1)).sum()
    assert made.frame(source).zoomed((1.0, 1.0), (None, 2)) == made.frame(source)


def test_what_cannot_be_shown_is_said(run: Run, tmp_path: Path) -> None:
    source = next(source for source in views.shown(run) if source.key == "tracks/points")
    with pytest.raises(SettingError, match="'how' is 'median'"):
        views.make("points", source, {"how": "median"})
    with pytest.raises(AgilabError, match="no column 'z'"):
        views.make("points", source, {"x": "z"}).picture(run)
    with pytest.raises(AgilabError, match="no view 'globe'"):
        views.view_class("globe")
    run.file_of(source.artifacts[0]).write_bytes(b"no parquet")
    broken = next(source for source in datasets.datasets(run) if source.key == "tracks/points")
    with pytest.raises(AgilabError, match="cannot be read as a table"):
        _ = broken.columns
