"""Views: numbers equal those computed in another way, and every one of them gives a plot and a picture."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import datashader as ds
import holoviews as hv
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from agilab_dashboards import datasets, views
from agilab_dashboards.conditions import parsed, written
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.linkedcard import linked
from agilab_dashboards.paircard import compared, pairs
from agilab_dashboards.paircard import whole as whole_of
from agilab_dashboards.views.raster import Counted
from PIL import Image
from pyarrow import ipc

from agilab import raster
from agilab.errors import AgilabError, EvidenceError, QueryError, SettingError, SupersededError
from agilab.raster.scan import never
from agilab.raster.series import Envelope
from agilab.run import Run
from tests.dashboards.seen_run import ROWS, grid, numbers, seen_run

FRAME = Frame((-2.0, 2.0), (-1.0, 3.0), 60, 40)
WHOLE = pd.concat([numbers(0), numbers(1)], ignore_index=True)
INSIDE = WHOLE[WHOLE.x.between(*FRAME.x) & WHOLE.y.between(*FRAME.y)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return seen_run(tmp_path_factory.mktemp("seen"))


@pytest.fixture(scope="module")
def points(run: Run) -> Dataset:
    return next(source for source in datasets.datasets(run) if source.kind == "points")


def picture(name: str, source: Dataset, frame: Frame = FRAME, **controls: Any) -> raster.Picture:
    """Return what a view is told when it asks."""
    view = views.SHIPPED.make(name, source, controls)
    assert isinstance(view, Counted)
    return raster.aggregate(source.sources, view.query(source, frame))


def test_partitions_are_put_together(points: Dataset) -> None:
    assert (points.key, len(points.sources)) == ("tracks/points", 2)
    assert [(c.name, c.type, c.unit) for c in points.columns if c.name in ("time", "height", "carrier")] == [
        ("time", "time", "UTC"),
        ("height", "number", "m"),
        ("carrier", "text", ""),
    ]
    for first in (0, 999, ROWS - 1, 2 * ROWS - 1):
        some = points.slice(first, 2, ["x", "carrier"]).to_pandas()
        assert some.to_dict("list") == WHOLE[["x", "carrier"]].iloc[first : first + 2].to_dict("list")
    assert points.slice(2 * ROWS, 5, ["x"]).num_rows == 0


@pytest.mark.parametrize("how", ["count", "mean"])
def test_a_raster_is_that_of_all_rows_at_once(points: Dataset, how: str) -> None:
    found = picture("points", points, **({} if how == "count" else {"colour": "height", "how": how}))
    canvas = ds.Canvas(60, 40, FRAME.x, FRAME.y)
    agg = ds.count() if how == "count" else getattr(ds, how)("height")
    np.testing.assert_allclose(found.values, canvas.points(WHOLE, "x", "y", agg=agg).to_numpy())


def test_categories_add_up_to_the_count_and_the_rest_share_a_layer(points: Dataset) -> None:
    assert points.frequent("carrier", 3) == ("AA", "BB", "CC")
    found = picture("points", points, colour="carrier")
    sums = dict(zip(found.categories, found.values.sum(axis=(0, 1)).tolist(), strict=True))
    wanted = INSIDE.carrier.value_counts().to_dict()
    assert sums == {**wanted, "other": 0}
    few = replace(views.SHIPPED.make("points", points).query(points, FRAME), by="carrier", categories=("BB",))
    found = raster.aggregate(points.sources, few)
    assert found.categories == ("BB", "other")
    assert found.values.sum(axis=(0, 1)).tolist() == [wanted["BB"], wanted["AA"] + wanted["CC"]]


def test_lines_do_not_lead_from_one_track_to_the_next(points: Dataset) -> None:
    found = picture("tracks", points).values
    pieces = [pd.concat([part, part.tail(1).assign(x=np.nan, y=np.nan)]) for _, part in WHOLE.groupby("track")]
    canvas = ds.Canvas(60, 40, FRAME.x, FRAME.y)
    np.testing.assert_array_equal(found, canvas.line(pd.concat(pieces), "x", "y", agg=ds.count()).to_numpy())


def test_an_envelope_is_exact(points: Dataset) -> None:
    start = WHOLE.time.min().value
    frame = replace(FRAME, x=(start, start + 3600e9), width_px=36)
    found = Envelope.of(picture("timeseries", points, frame, value="height"))
    seconds = (WHOLE.time - WHOLE.time.min()).dt.total_seconds()
    part = WHOLE[seconds <= 3600]
    wanted = part.groupby(np.minimum(seconds[seconds <= 3600] // 100, 35)).height.agg(["min", "mean", "max"])
    np.testing.assert_allclose(np.c_[found.minimum, found.mean, found.maximum], wanted)


def test_a_grid_has_a_gap_where_no_cell_is(run: Run) -> None:
    source = next(source for source in datasets.datasets(run) if source.kind == "field")
    view = views.SHIPPED.make("field", source)
    found = view.seen(source, view.whole(source))
    wanted = grid().pivot(index="y", columns="x", values="height")
    np.testing.assert_array_equal(found.values, wanted)
    (left, *_), (bottom, *_) = wanted.columns, wanted.index
    assert found.bounds[0] < left < found.bounds[0] + wanted.columns[1] - left
    assert found.bounds[1] < bottom < found.bounds[1] + wanted.index[1] - bottom


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
    assert views.SHIPPED.fitting(source)[0] == "points"
    assert "timeseries" in views.SHIPPED.fitting(source)
    assert picture("points", source).values.sum() == len(INSIDE)
    assert source.slice(3, 1, ["height"]).to_pandas().height[0] == pytest.approx(WHOLE.height[3])


def test_views_are_those_that_fit_the_kind_first(run: Run) -> None:
    assert {source.key: views.SHIPPED.fitting(source) for source in views.SHIPPED.shown(run)} == {
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
        ("summary/grid", "field", hv.DynamicMap),
        ("summary/chart", "image", hv.RGB),
        ("summary/rows", "table", hv.Table),
    ],
)
def test_every_view_gives_a_plot_and_a_picture(run: Run, key: str, name: str, element: type) -> None:
    source = next(source for source in views.SHIPPED.shown(run) if source.key == key)
    made = views.SHIPPED.make(name, source)
    plot = made.plot(run)
    assert isinstance(plot, element)
    assert hv.render(plot) is not None
    opened = Image.open(io.BytesIO(made.picture(run, 640)))
    assert opened.format == "PNG"
    assert opened.width == (40 if name == "image" else 640)
    assert len(opened.convert("RGB").getcolors(1 << 24)) > (0 if name == "image" else 3)


def test_points_coloured_by_category_have_a_legend_with_counts(points: Dataset) -> None:
    made = views.SHIPPED.make("points", points, {"colour": "carrier"})
    found = made.element(points, made.whole(points))
    total = int(sum(int(part.label.split()[-1].replace(",", "")) for part in found.values() if part.label))
    assert total == 2 * ROWS
    hovered = next(part for part in found.values() if type(part) is hv.Image)
    assert np.nansum(hovered.dimension_values("rows")) == 2 * ROWS


def test_a_zoom_draws_what_lies_inside_and_reads_what_touches_it(points: Dataset) -> None:
    made = views.SHIPPED.make("points", points)
    frame = made.whole(points).zoomed((0.0, 1.0), (0.0, 1.0))
    found = made.element(points, frame)
    assert np.nansum(found.dimension_values("z")) == (WHOLE.x.between(0, 1) & WHOLE.y.between(0, 1)).sum()
    assert made.whole(points).zoomed((1.0, 1.0), (None, 2)) == made.whole(points)
    day = WHOLE.time.dt.floor("D").max().value
    assert picture("timeseries", points, replace(FRAME, x=(day, day + 999e9))).rows_read == 1000
    with pytest.raises(SupersededError):
        made.element(points, replace(frame, cancelled=lambda: True))


def test_rows_are_filtered_by_category_time_and_value(points: Dataset) -> None:
    day = WHOLE.time.dt.floor("D").max()
    text = f"carrier = AA, CC; height >= 50; time = {day:%Y-%m-%d}..{day:%Y-%m-%dT00:30}"
    assert written(parsed(text, points), points) == text
    meant = INSIDE.carrier.isin(["AA", "CC"]) & (INSIDE.height >= 50)
    meant &= INSIDE.time.between(day, day + pd.Timedelta("30min"))
    assert picture("points", points, where=text).values.sum() == meant.sum() > 0
    for wrong, said in (
        ("carrier", "'carrier' cannot be read; write carrier = UA"),
        ("height >= tall", "has numbers, and 'tall' is none"),
        ("time <= noon", "'noon' is no time"),
        ("depth = 3", "no column 'depth'"),
    ):
        with pytest.raises(AgilabError, match=said):
            parsed(wrong, points)


def test_colours_can_be_held_so_that_pictures_compare(points: Dataset) -> None:
    made = views.SHIPPED.make("points", points, {"limits": [0, 7], "scale": "linear"})
    plot = hv.render(made.element(points, made.whole(points)))
    mapper = plot.renderers[0].glyph.color_mapper
    assert (mapper.low, mapper.high) == (0, 7)


def test_a_box_on_one_view_shows_its_rows_on_the_others(points: Dataset) -> None:
    made = linked(points, views.SHIPPED, "height", never)
    start = WHOLE.time.min().value
    brushes = {"map": (-1.0, -1.0, 1.0, 1.0), "value": (10.0, 60.0), "time": (start, start + 1e15)}
    meant = {
        "map": WHOLE.x.between(-1, 1) & WHOLE.y.between(-1, 1),
        "value": WHOLE.height.between(10, 60),
        "time": WHOLE.time <= WHOLE.time.min() + pd.Timedelta(1e15),
    }
    assert made.rows == 2 * ROWS == made.brushed({}, never)
    assert made.brushed(brushes, never) == (meant["map"] & meant["value"] & meant["time"]).sum()
    shown = made.picture("value", brushes, never).traverse(lambda one: one, [hv.Histogram])
    counts = [one.dimension_values("rows").sum() for one in shown]
    assert counts == [2 * ROWS, (meant["map"] & meant["time"]).sum()]
    for place in ("map", "time"):
        assert hv.render(made.picture(place, brushes, never)) is not None


def test_two_runs_are_drawn_in_the_same_cells_and_as_a_difference(
    run: Run, points: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = seen_run(tmp_path_factory.mktemp("other"), seed=1)
    pair, names = pairs(views.SHIPPED, (run, other))["tracks/points"]
    assert names == ("points", "tracks", "timeseries")
    view = views.SHIPPED.make("points", points)
    made = compared(view, pair, replace(FRAME, width_px=20, height_px=20))
    assert np.nansum(made.difference()) == sum(int(one.values.sum()) for one in made.pictures[1:]) - len(INSIDE)
    elements = made.elements(pair)
    assert list(elements) == ["A", "B", "B less A"]
    scales = [hv.render(elements[title]).renderers[0].glyph.color_mapper for title in "AB"]
    assert scales[0].low == scales[1].low
    assert scales[0].high == scales[1].high == max(one.values.max() for one in made.pictures)
    lines = views.SHIPPED.make("timeseries", points)
    frame = whole_of(lines, pair, FRAME)
    assert list(compared(lines, pair, frame).elements(pair)) == ["A and B", "B less A"]


def test_two_runs_are_drawn_over_the_coasts_of_places_on_earth(
    points: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Dataset.column
    monkeypatch.setattr(
        Dataset, "column", lambda self, name: replace(plain(self, name), crs="EPSG:4326" if name in "xy" else "")
    )
    view = views.SHIPPED.make("points", points)
    made = compared(view, (points, points), replace(FRAME, width_px=20, height_px=20)).elements((points, points))
    assert list(made) == ["A", "B", "B less A"]
    shown = hv.render(made["A"])
    assert [type(one.glyph).__name__ for one in shown.renderers] == ["MultiLine", "Image"]
    assert "x" in made["B less A"].kdims[0].label


def test_what_cannot_be_shown_is_said(run: Run) -> None:
    source = next(source for source in views.SHIPPED.shown(run) if source.key == "tracks/points")
    with pytest.raises(SettingError, match="'how' is 'median'"):
        views.SHIPPED.make("points", source, {"how": "median"})
    with pytest.raises(AgilabError, match="no column 'z'"):
        views.SHIPPED.make("points", source, {"x": "z"}).picture(run)
    with pytest.raises(AgilabError, match="no view 'globe'"):
        views.SHIPPED.view_class("globe")
    with pytest.raises(QueryError, match="which has no order"):
        picture("points", source, where="carrier >= 3")
    run.file_of(source.artifacts[0]).write_bytes(b"PAR1 no parquet")
    broken = next(source for source in datasets.datasets(run) if source.key == "tracks/points")
    with pytest.raises(EvidenceError, match="not a table that can be read"):
        _ = broken.columns
