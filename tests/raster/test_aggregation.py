"""Pictures of large data: every way gives what Datashader gives, and adds up."""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path
from typing import Any

import datashader
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, feather, ipc, parquet

from agilab import points
from agilab.errors import QueryError, SupersededError
from agilab.raster import Aggregation, Filter, Picture, Query, Source, aggregate, alike
from agilab.raster.blocks import Cache
from agilab.raster.selection import select
from agilab.raster.series import envelope, histogram

BOX: dict[str, Any] = {"x_range": (-3.0, 4.0), "y_range": (-2.0, 2.5)}


def cloud(count: int, seed: int = 1, kind: str = "float64") -> pa.Table:
    """Points around the origin with a value, a category and a time; some have no place."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1.5, count), rng.normal(0, 1, count)
    x[::97], y[::89] = np.nan, np.inf
    when = np.datetime64("2013-01-01", "ms") + rng.integers(0, 86_400_000, count)
    return pa.table(
        {
            "x": x.astype(kind),
            "y": y.astype(kind),
            "value": np.where(rng.random(count) < 0.1, np.nan, rng.normal(5, 2, count)),
            "kind": pa.array(rng.choice(["a", "b", "c"], count)).dictionary_encode(),
            "time": pa.array(when, pa.timestamp("ms", "UTC")),
            "track": np.sort(rng.integers(0, max(count // 50, 1), count)),
        }
    )


def plain(table: pa.Table, query: Query, picture: Picture, *, mark: str = "points") -> Any:
    """Return what Datashader makes of all rows on the cells of a picture."""
    left, bottom, right, top = picture.bounds
    rows, columns = picture.values.shape[:2]
    if columns != query.width or rows != query.height:  # a lattice, which is open at the upper edge
        right, top = right + (right - left) / columns, top + (top - bottom) / rows
        columns, rows = columns + 1, rows + 1
    canvas = datashader.Canvas(columns, rows, x_range=(left, right), y_range=(bottom, top))
    frame = table.to_pandas()
    reduction = getattr(datashader, query.reduction)(query.value)
    if query.by is not None:
        frame[query.by] = frame[query.by].astype("str").astype("category")
        reduction = datashader.by(query.by, reduction)
    found = getattr(canvas, mark)(frame, query.x, query.y, reduction)
    return found.values[: picture.values.shape[0], : picture.values.shape[1]]


def assert_same(found: Any, wanted: Any) -> None:
    """Fail unless two aggregates are equal; sums of floating point numbers but for their rounding."""
    if found.dtype == np.uint32:
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def written(folder: Path, table: pa.Table, form: str) -> Source:
    """Write a table in one of the forms that a stranger or a worker leaves."""
    path = folder / f"{form}.{'csv' if form == 'csv' else 'data'}"
    if form == "parquet":
        parquet.write_table(table, path, row_group_size=300)
    elif form == "no statistics":
        parquet.write_table(table, path, row_group_size=300, write_statistics=False)
    elif form == "morton":
        points.write(path, table, x="x", y="y", pyramid=path.with_suffix(".npz"))
        return Source(path, pyramid=path.with_suffix(".npz"))
    elif form == "feather":
        feather.write_feather(table, path, chunksize=300)
    elif form == "stream":
        with ipc.new_stream(path, table.schema) as sink:
            sink.write_table(table, max_chunksize=300)
    else:
        csv.write_csv(table, path)
    return Source(path)


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "MORTON_ROW_GROUP_ROWS", 300)
    monkeypatch.setattr(points, "SORTED_ROWS", 12_000)
    monkeypatch.setattr("agilab.raster.scan.PIECE_ROWS", 700)


@pytest.mark.parametrize("form", ["parquet", "no statistics", "morton", "feather", "stream", "csv"])
def test_every_form_gives_what_datashader_gives(form: str, tmp_path: Path) -> None:
    table = cloud(5_000)
    source = written(tmp_path, table, form)
    cache = Cache()
    for query in (
        Query("x", "y", 40, 30, **BOX),
        Query("x", "y", 40, 30, x_range=(0.1, 0.3), y_range=(-0.2, 0.1)),
        Query("x", "y", 40, 30, **BOX, by="kind"),
    ):
        for _ in range(2):
            picture = aggregate([source], query, cache=cache)
            assert_same(picture.values, plain(table, query, picture))
            assert picture.categories == (("a", "b", "c") if query.by else ())


@pytest.mark.parametrize(("reduction", "by"), [("mean", None), ("max", None), ("mean", "kind")])
def test_values_are_reduced_as_datashader_does(reduction: str, by: str | None, tmp_path: Path) -> None:
    table = cloud(5_000)
    query = Query("x", "y", 40, 30, **BOX, reduction=reduction, value="value", by=by)
    picture = aggregate([written(tmp_path, table, "parquet")], query)
    assert_same(picture.values, plain(table, query, picture))


def test_a_pyramid_is_taken_where_it_is_less_work_and_says_the_same(tmp_path: Path) -> None:
    table = cloud(20_000)
    source = written(tmp_path, table, "morton")
    for limits in (BOX, {"x_range": (-8, 8), "y_range": (-8, 8)}, {}):
        query = Query("x", "y", 40, 30, **limits)
        picture = aggregate([source], query)
        assert picture.way == "pyramid"
        assert 40 < picture.values.shape[1] <= 81
        assert_same(picture.values, plain(table, query, picture))
    assert aggregate([source], Query("x", "y", 40, 30, **BOX, filters=(Filter("x", low=0),))).way == "index"
    other = aggregate([source], Query("y", "x", 40, 30))
    assert other.way == "scan"
    assert other.values.sum() == picture.values.sum()
    near = aggregate([source], Query("x", "y", 40, 30, x_range=(0.7, 0.71), y_range=(0.4, 0.41)))
    assert near.way == "index"
    assert near.rows_read <= 4_000


@pytest.mark.parametrize("limits", [{}, BOX])
def test_a_picture_fills_in_as_tables_come_and_is_right_at_every_moment(limits: Any, tmp_path: Path) -> None:
    tables = [cloud(800 * number, seed=number) for number in range(1, 5)]
    tables = [
        table.set_column(0, "x", pa.array(table["x"].to_numpy() * 3**number)) for number, table in enumerate(tables)
    ]
    for reduction, value in (("count", None), ("mean", "value")):
        query = Query("x", "y", 40, 30, **limits, reduction=reduction, value=value)
        growing = Aggregation(query)
        assert growing.picture().sources == 0
        sources: list[Source] = []
        for number, table in enumerate(tables):
            folder = tmp_path / f"{reduction}{number}"
            folder.mkdir()
            sources.append(written(folder, table, "morton" if number % 2 else "parquet"))
            assert growing.add(sources) == 1
            picture = growing.picture()
            whole = pa.concat_tables(tables[: number + 1])
            wanted = plain(whole, query, picture)
            assert_same(picture.values, wanted)
            if not limits and reduction == "count":
                assert picture.values.sum() == np.isfinite(whole["x"].to_numpy() + whole["y"].to_numpy()).sum()
        assert growing.add(sources) == 0


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("track", [None, "track"])
def test_lines_join_over_blocks(form: str, track: str | None, tmp_path: Path) -> None:
    table = cloud(2_000)
    table = table.set_column(1, "y", pa.array(np.where(np.isinf(table["y"]), np.nan, table["y"])))
    broken = table
    if track:
        frame = table.to_pandas()
        ends = np.flatnonzero(np.diff(frame["track"])) + 1
        broken = pa.Table.from_pandas(
            pd.concat(
                [
                    part
                    for a, b in itertools.pairwise([0, *ends, len(frame)])
                    for part in (frame[a:b], frame[:0].reindex([0]))
                ]
            )
        )
    source = written(tmp_path, table, form)
    for reduction, value in (("count", None), ("max", "value")):
        for limits in (BOX, {"x_range": (2.5, 3.0), "y_range": (1.0, 1.5)}):
            query = Query("x", "y", 40, 30, **limits, mark="lines", track=track, reduction=reduction, value=value)
            picture = aggregate([source], query)
            assert_same(picture.values, plain(broken, query, picture, mark="line"))


def test_a_line_crosses_a_view_that_none_of_its_blocks_touches(tmp_path: Path) -> None:
    x = np.repeat([-10.0, 10.0, -10.0], 300)
    table = pa.table({"x": x, "y": np.linspace(-1, 1, 900)})
    query = Query("x", "y", 40, 30, x_range=(-1, 1), y_range=(-1, 1), mark="lines")
    picture = aggregate([written(tmp_path, table, "parquet")], query)
    assert_same(picture.values, plain(table, query, picture, mark="line"))
    assert picture.values.sum() >= 80


def test_filters_keep_the_rows_that_are_meant(tmp_path: Path) -> None:
    table = cloud(5_000)
    frame = table.to_pandas()
    noon = pd.Timestamp("2013-01-01T12:00", tz="UTC")
    for form in ("parquet", "csv", "feather"):
        source = written(tmp_path, table, form)
        for limit, mask in (
            (Filter("kind", values=("a", "z")), frame["kind"] == "a"),
            (Filter("value", 4, 5), frame["value"].between(4, 5)),
            (Filter("time", low=datetime.datetime(2013, 1, 1, 12)), frame["time"] >= noon),
            (Filter("time", high="2013-01-01T12:00Z"), frame["time"] <= noon),
            (Filter("time", high=np.datetime64("2013-01-01T12:00")), frame["time"] <= noon),
            (Filter("time", high=noon), frame["time"] <= noon),
            (Filter("track", values=(3, 4)), frame["track"].isin([3, 4])),
        ):
            query = Query("x", "y", 40, 30, **BOX, filters=(limit,))
            picture = aggregate([source], query)
            assert_same(picture.values, plain(pa.Table.from_pandas(frame[mask]), query, picture))


def test_a_request_ends_between_two_pieces_and_leaves_the_picture_as_it_was(tmp_path: Path) -> None:
    first, second = written(tmp_path, cloud(500), "csv"), written(tmp_path, cloud(5_000), "parquet")
    growing = Aggregation(Query("x", "y", 40, 30, **BOX))
    growing.add([first])
    before = growing.picture()
    answers = iter([False] * 4 + [True] * 100)
    with pytest.raises(SupersededError, match="another request has taken its place"):
        growing.add([second], cancelled=lambda: next(answers))
    assert_same(growing.picture().values, before.values)
    assert growing.add([first, second]) == 1
    assert growing.picture().values.sum() > before.values.sum()


def test_an_envelope_is_exact_in_any_order(tmp_path: Path) -> None:
    table = cloud(4_000)
    frame = table.to_pandas()
    frame["ns"] = frame["time"].dt.tz_localize(None).astype("datetime64[ns]").astype("int64")
    limits = (np.datetime64("2013-01-01T06:00"), np.datetime64("2013-01-01T18:00"))
    found = envelope([written(tmp_path, table, "csv")], Query("time", "value", 50, x_range=limits))
    places = (frame["ns"] - found.x_range[0]) / (found.x_range[1] - found.x_range[0]) * 50
    inside = frame[places.between(0, 50)].groupby(places.clip(0, 49.9).astype(int))["value"]
    np.testing.assert_array_equal(found.minimum, inside.min())
    np.testing.assert_array_equal(found.maximum, inside.max())
    np.testing.assert_array_equal(found.count, inside.count())


def test_a_histogram_counts_every_value_once(tmp_path: Path) -> None:
    table = cloud(5_000)
    source = written(tmp_path, table, "parquet")
    for name in ("value", "time"):
        found = histogram([source], Query(name, name, 40))
        values = table[name].to_numpy().astype(float) if name == "value" else table[name].cast(pa.int64()).to_numpy()
        values = values[np.isfinite(values)] * (1 if name == "value" else 10**6)
        assert found.count.sum() == len(values)
        assert found.x_range == (values.min(), values.max())
    np.testing.assert_array_equal(
        histogram([source], Query("value", "value", 40)).count,
        np.histogram(values := table["value"].to_numpy(), 40, (np.nanmin(values), np.nanmax(values)))[0],
    )


def test_pictures_that_are_alike_have_the_same_cells_whatever_is_there_to_read(tmp_path: Path) -> None:
    tables = cloud(20_000), cloud(15_000, seed=2)
    sources = [[written(tmp_path, tables[0], "morton")], [written(tmp_path, tables[1], "parquet")]]
    for limits in (BOX, {}):
        query = Query("x", "y", 40, 30, **limits)
        pictures = alike(sources, query)
        assert pictures[0].bounds == pictures[1].bounds
        for table, picture in zip(tables, pictures, strict=True):
            assert_same(picture.values, plain(table, query, picture))


def test_a_box_selects_rows_with_their_statistics(tmp_path: Path) -> None:
    table = cloud(5_000)
    frame = table.to_pandas()
    inside = frame[frame["x"].between(-1, 0.5) & frame["y"].between(-1, 1) & (frame["kind"] == "b")]
    query = Query("x", "y", x_range=(-1, 0.5), y_range=(-1, 1), filters=(Filter("kind", values=("b",)),))
    (tmp_path / "more").mkdir()
    sources = [
        written(tmp_path, table.slice(0, 3_000), "parquet"),
        written(tmp_path / "more", table.slice(3_000), "csv"),
    ]
    found = select(sources, query, most=300)
    assert found.count == len(inside) > 300
    assert found.rows["track"].to_pylist() == inside["track"].tolist()[:300]
    for name in ("x", "value"):
        values, known = found.statistics[name], inside[name].dropna()
        assert (values.count, values.minimum, values.maximum) == (len(known), known.min(), known.max())
        assert values.mean == pytest.approx(known.mean())
        assert values.deviation == pytest.approx(known.std(ddof=0))
    with pytest.raises(QueryError, match="a selection needs a box"):
        select(sources, Query("x", "y"))


def test_data_appears_again_after_a_period(tmp_path: Path) -> None:
    table = cloud(3_000)
    x = table["x"].to_numpy() * 60
    x = (np.round(x * 64) / 64 + 180) % 360 - 180
    table = table.set_column(0, "x", pa.array(x))
    query = Query("x", "y", 64, 32, x_range=(148, 212), y_range=(-2, 2), period=360)
    picture = aggregate([written(tmp_path, table, "parquet")], query)
    twice = pa.concat_tables([table, table.set_column(0, "x", pa.array(x + 360))])
    assert_same(picture.values, plain(twice, query, picture))
    assert picture.values[:, 40:].sum() > 0


numbers = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, 3.4e38, float("nan"), float("inf"), float("-inf")])
)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_points_in_any_view_are_where_datashader_puts_them(data: st.DataObject, tmp_path: Path) -> None:
    size = data.draw(st.integers(0, 30))
    kind = data.draw(st.sampled_from(["float32", "float64", "int32", "int64", "uint8"]))
    value = numbers if kind.startswith("float") else st.integers(0, 200)
    columns = {
        name: np.array(data.draw(st.lists(value, min_size=size, max_size=size)), kind).astype(kind) for name in "xy"
    }
    table = pa.table(columns)
    ends = st.floats(-1e6, 1e6, width=32)
    ranges = {}
    for name in ("x_range", "y_range"):
        low, high = data.draw(st.tuples(ends, ends).filter(lambda pair: pair[1] - pair[0] > 1e-3))
        ranges[name] = (low, high)
    query = Query("x", "y", data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50)), **ranges)
    form = data.draw(st.sampled_from(["parquet", "feather", "csv", "morton"]))
    if form == "csv":  # text has no single precision
        table = table.cast(pa.schema([(name, "double") for name in "xy"]))
    source = written(tmp_path, table, form)
    if form == "morton":
        source = Source(source.path, index=source.path)
    picture = aggregate([source], query)
    assert_same(picture.values, plain(table, query, picture))
