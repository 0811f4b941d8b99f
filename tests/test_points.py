"""Point data on disk: order, row groups, recorded bounds, pyramids, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from agilab import points
from agilab.errors import WorkerError
from agilab.worker import PartitionContext


def cloud(count: int, seed: int = 1, kind: str = "float64") -> pa.Table:
    """Points on two continents, with a row number and a name."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(count) < 0.5, -9e6, 2e6) + rng.normal(0, 8e5, count)
    y = 5e6 + rng.normal(0, 6e5, count)
    names = pa.array(rng.choice(["a", "b", "c"], count)).dictionary_encode()
    return pa.table({"x": x.astype(kind), "y": y.astype(kind), "row": np.arange(count), "name": names})


def grid_counts(x: Any, y: Any, grid: Any, level: int) -> dict[tuple[int, int], int]:
    """Count points by row and column between multiples of powers of two, one point at a time."""
    kx, ky, left, bottom, _, _ = (int(value) for value in grid)
    size_x, size_y = 2.0 ** (kx + level), 2.0 ** (ky + level)
    cells = (
        (math.floor(py / size_y) - (bottom >> level), math.floor(px / size_x) - (left >> level))
        for px, py in zip(x.tolist(), y.tolist(), strict=True)
    )
    return dict(Counter(cells))


def level_counts(pyramid: Any, level: int) -> dict[tuple[int, int], int]:
    """Return the cells of a level that are not empty, by row and column."""
    counts, (_, _, left, _, columns, _) = pyramid[f"count_{level}"], (int(value) for value in pyramid["grid"])
    if counts.ndim == 2:
        rows, places = np.nonzero(counts)
        counts = counts[rows, places]
    else:
        rows, places = np.divmod(pyramid[f"cells_{level}"], (left + columns - 1 >> level) - (left >> level) + 1)
    return {(int(r), int(c)): int(n) for r, c, n in zip(rows, places, counts, strict=True)}


def group_bounds(table: pa.Table) -> list[float]:
    """Return (left, bottom, right, top) of a table."""
    x, y = pc.min_max(table["x"]).as_py(), pc.min_max(table["y"]).as_py()
    return [x["min"], y["min"], x["max"], y["max"]]


# --- the parquet file ------------------------------------------------------------


def test_without_an_order_rows_stay_as_they_came(tmp_path: Path) -> None:
    table = cloud(5_000)
    points.write(tmp_path / "p.parquet", table.to_batches(max_chunksize=700), x="x", y="y", order=None)
    assert parquet.read_table(tmp_path / "p.parquet")["row"].to_pylist() == list(range(5_000))


def test_morton_order_keeps_every_row_whole(tmp_path: Path) -> None:
    table = cloud(5_000)
    points.write(tmp_path / "p.parquet", table, x="x", y="y")
    found = parquet.read_table(tmp_path / "p.parquet")
    assert found["row"].to_pylist() != table["row"].to_pylist()
    back = found.sort_by("row")
    for name in ("x", "y", "row"):
        assert back[name].equals(table[name])
    assert back["name"].to_pylist() == table["name"].to_pylist()


def test_morton_order_lets_a_zoom_read_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "MORTON_ROW_GROUP_ROWS", 500)
    points.write(tmp_path / "p.parquet", cloud(50_000), x="x", y="y")
    groups = points.read_metadata(tmp_path / "p.parquet")["row_groups"]
    assert len(groups) == 100
    left, bottom, right, top = -9.1e6, 4.9e6, -8.9e6, 5.1e6
    seen = [g for g in groups if g[0] <= right and g[2] >= left and g[1] <= top and g[3] >= bottom]
    assert 0 < len(seen) <= 10


def test_morton_order_is_that_of_interleaved_bits(tmp_path: Path) -> None:
    side = np.arange(4.0)
    x, y = (grid.ravel() for grid in np.meshgrid(side, side))
    points.write(tmp_path / "p.parquet", pa.table({"x": x, "y": y}), x="x", y="y")
    found = parquet.read_table(tmp_path / "p.parquet")
    keys = [
        sum((int(px) >> bit & 1) << 2 * bit | (int(py) >> bit & 1) << 2 * bit + 1 for bit in (0, 1))
        for px, py in zip(found["x"].to_pylist(), found["y"].to_pylist(), strict=True)
    ]
    assert keys == list(range(16))


def test_rows_at_one_place_keep_their_order(tmp_path: Path) -> None:
    table = pa.table({"x": np.ones(1_000), "y": np.zeros(1_000), "row": np.arange(1_000)})
    points.write(tmp_path / "p.parquet", table, x="x", y="y", pyramid=tmp_path / "p.npz")
    assert parquet.read_table(tmp_path / "p.parquet")["row"].to_pylist() == list(range(1_000))
    assert sum(level_counts(np.load(tmp_path / "p.npz"), 0).values()) == 1_000


@pytest.mark.parametrize("order", ["morton", None])
def test_the_bounds_of_every_row_group_are_recorded(
    order: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "MORTON_ROW_GROUP_ROWS", 900)
    monkeypatch.setattr(points, "ROW_GROUP_ROWS", 900)
    target = tmp_path / "p.parquet"
    points.write(target, cloud(4_000, kind="float32"), x="x", y="y", order=order)
    recorded = points.read_metadata(target)
    assert {key: recorded[key] for key in ("schema", "x", "y", "order", "count")} == {
        "schema": "agilab.points/1",
        "x": "x",
        "y": "y",
        "order": order,
        "count": 4_000,
    }
    with parquet.ParquetFile(target) as file:
        assert file.num_row_groups == len(recorded["row_groups"]) == 5
        assert [group_bounds(file.read_row_group(index)) for index in range(5)] == recorded["row_groups"]


def test_a_row_group_ends_between_batches_and_is_never_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "ROW_GROUP_ROWS", 1_000)
    table = cloud(5_000)
    sizes = [300, 300, 300, 300, 0, 2_500, 1_300]
    ends = np.cumsum(sizes)
    batches = [
        table.slice(end - size, size).combine_chunks().to_batches() for end, size in zip(ends, sizes, strict=True)
    ]
    points.write(tmp_path / "p.parquet", (batch for some in batches for batch in some), x="x", y="y", order=None)
    with parquet.ParquetFile(tmp_path / "p.parquet") as file:
        found = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        assert found == [900, 300, 1_000, 1_000, 500, 1_000, 300]
        assert file.read()["row"].to_pylist() == list(range(5_000))


def test_any_reader_of_parquet_finds_zstd_and_the_columns_as_they_were(tmp_path: Path) -> None:
    table = pa.table(
        {
            "x": np.arange(3.0),
            "y": np.arange(3),
            "when": pa.array([1, 2, None], pa.timestamp("ms", "UTC")),
            "flag": [True, None, False],
            "text": ["a", None, "c"],
            "list": [[1, 2], [], None],
            "half": np.arange(3, dtype=np.float16),
            "day": pa.array([1, 2, 3], pa.date32()),
            "small": pa.array([1, None, 3], pa.uint8()),
        }
    )
    points.write(tmp_path / "p.parquet", table, x="x", y="y", order=None)
    assert parquet.read_table(tmp_path / "p.parquet").equals(table)
    row_group = parquet.read_metadata(tmp_path / "p.parquet").row_group(0)
    assert {row_group.column(index).compression for index in range(row_group.num_columns)} == {"ZSTD"}


def test_metadata_of_columns_is_kept(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("x", pa.float32(), metadata={"unit": "m"}), pa.field("y", pa.float32())])
    points.write(tmp_path / "p.parquet", [pa.record_batch([[1.0], [2.0]], schema=schema)], x="x", y="y", order=None)
    assert parquet.read_schema(tmp_path / "p.parquet").field("x").metadata[b"unit"] == b"m"


@pytest.mark.parametrize("order", ["morton", None])
def test_the_same_data_gives_the_same_bytes_whatever_the_number_of_threads(order: str | None, tmp_path: Path) -> None:
    threads = pa.cpu_count()
    made = []
    for count in (1, threads + 3):
        pa.set_cpu_count(count)
        try:
            target, pyramid = tmp_path / f"{count}.parquet", tmp_path / f"{count}.npz"
            points.write(target, cloud(200_000), x="x", y="y", order=order, pyramid=pyramid)
        finally:
            pa.set_cpu_count(threads)
        made.append((target.read_bytes(), pyramid.read_bytes()))
    assert made[0] == made[1]


def test_streaming_holds_one_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "ROW_GROUP_ROWS", 1_000)
    monkeypatch.setattr(points, "KEPT_BYTES", 0)
    alive: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        before = pa.total_allocated_bytes()
        for _ in range(200):
            alive.append(pa.total_allocated_bytes() - before)
            values = pa.array(range(1_000), pa.float64())
            yield pa.record_batch([values, values], ["x", "y"])

    points.write(tmp_path / "p.parquet", batches(), x="x", y="y", order=None, pyramid=tmp_path / "p.npz")
    assert max(alive[100:]) < 2 * max(alive[:20])


# --- points without a place, no points ---------------------------------------------


@pytest.mark.parametrize("order", ["morton", None])
def test_points_without_a_place_are_kept_but_not_counted(order: str | None, tmp_path: Path) -> None:
    x = [0.0, 1.0, None, float("nan"), 2.0, float("inf"), 4.0]
    y = [0.0, 1.0, 5.0, 6.0, None, 7.0, 4.0]
    table = pa.table({"x": x, "y": y, "row": range(7)})
    points.write(tmp_path / "p.parquet", table, x="x", y="y", order=order, pyramid=tmp_path / "p.npz")
    assert points.read_metadata(tmp_path / "p.parquet")["row_groups"] == [[0.0, 0.0, 4.0, 4.0]]
    assert parquet.read_table(tmp_path / "p.parquet").num_rows == 7
    pyramid = np.load(tmp_path / "p.npz")
    assert pyramid["bounds"].tolist() == [0.0, 0.0, 4.0, 4.0]
    assert {int(pyramid[name].sum()) for name in pyramid.files if name.startswith("count_")} == {3}
    if order == "morton":
        assert parquet.read_table(tmp_path / "p.parquet")["row"].to_pylist() == [0, 1, 6, 2, 3, 4, 5]


def test_places_on_one_line_are_counted_beside_points_without_one(tmp_path: Path) -> None:
    table = pa.table({"x": [7.0, 7.0, float("inf"), 7.0], "y": [1.0, 2.0, 3.0, float("nan")]})
    points.write(tmp_path / "p.parquet", table, x="x", y="y", pyramid=tmp_path / "p.npz")
    assert np.load(tmp_path / "p.npz")["bounds"].tolist() == [7.0, 1.0, 7.0, 2.0]
    assert sum(level_counts(np.load(tmp_path / "p.npz"), 0).values()) == 2


@pytest.mark.parametrize("x", [[0.0, 5e-324], [-1.7e308, 1.7e308], [1e15, 1e15 + 1]])
@pytest.mark.parametrize("order", ["morton", None])
def test_places_that_numbers_hardly_tell_apart_are_counted_all_the_same(
    order: str | None, x: list[float], tmp_path: Path
) -> None:
    table = pa.table({"x": x, "y": [0.0, 1.0]})
    points.write(tmp_path / "p.parquet", table, x="x", y="y", order=order, pyramid=tmp_path / "p.npz")
    assert sum(level_counts(np.load(tmp_path / "p.npz"), 0).values()) == 2


def test_a_row_group_without_a_place_has_null_for_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "ROW_GROUP_ROWS", 2)
    table = pa.table({"x": [1.0, 2.0, None, None], "y": [1.0, 2.0, 3.0, 4.0]})
    points.write(tmp_path / "p.parquet", table, x="x", y="y", order=None)
    assert points.read_metadata(tmp_path / "p.parquet")["row_groups"] == [[1.0, 1.0, 2.0, 2.0], None]


@pytest.mark.parametrize("order", ["morton", None])
def test_no_points_are_a_file_with_columns_and_an_empty_pyramid(order: str | None, tmp_path: Path) -> None:
    points.write(tmp_path / "p.parquet", cloud(0), x="x", y="y", order=order, pyramid=tmp_path / "p.npz")
    assert parquet.read_table(tmp_path / "p.parquet").column_names == ["x", "y", "row", "name"]
    assert points.read_metadata(tmp_path / "p.parquet")["count"] == 0
    pyramid = np.load(tmp_path / "p.npz")
    assert np.isnan(pyramid["bounds"]).all()
    assert pyramid.files == ["columns", "bounds", "grid"]


# --- the pyramid -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_a_pyramid_counts_cells_as_datashader_does(kind: str, tmp_path: Path) -> None:
    table = cloud(3_000, kind=kind)
    points.write(tmp_path / "p.parquet", table, x="x", y="y", pyramid=tmp_path / "p.npz")
    pyramid = np.load(tmp_path / "p.npz")
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    assert pyramid["bounds"].tolist() == group_bounds(table)
    assert 2048 < pyramid["grid"][4] <= points.PYRAMID_SIZE
    levels = sum(name.startswith("count_") for name in pyramid.files)
    assert levels >= 7
    for level in range(levels):
        assert level_counts(pyramid, level) == grid_counts(x, y, pyramid["grid"], level)


@pytest.mark.parametrize("count", [300, 5_000])
def test_a_pyramid_of_many_points_is_that_of_few(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "PYRAMID_SIZE", 128)
    table = cloud(count)
    points.write(tmp_path / "p.parquet", table, x="x", y="y", pyramid=tmp_path / "p.npz")
    pyramid = np.load(tmp_path / "p.npz")
    dense = [name for name in pyramid.files if name.startswith("count_") and pyramid[name].ndim == 2]
    assert ("count_0" in dense) == (count == 5_000)
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    for level in range(sum(name.startswith("count_") for name in pyramid.files)):
        assert level_counts(pyramid, level) == grid_counts(x, y, pyramid["grid"], level)


def test_whole_numbers_are_coordinates_too(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([0, 1, None, 3], pa.int16()), "y": pa.array([0, 0, 1, 3], pa.uint64())})
    points.write(tmp_path / "p.parquet", table, x="x", y="y", pyramid=tmp_path / "p.npz")
    assert points.read_metadata(tmp_path / "p.parquet")["row_groups"] == [[0.0, 0.0, 3.0, 3.0]]
    assert sum(level_counts(np.load(tmp_path / "p.npz"), 0).values()) == 3


def test_coordinates_that_memory_cannot_keep_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "ROW_GROUP_ROWS", 1_000)
    pyramids = []
    for kept in (points.KEPT_BYTES, 2 * 16_000, 0):
        monkeypatch.setattr(points, "KEPT_BYTES", kept)
        target, pyramid = tmp_path / f"{kept}.parquet", tmp_path / f"{kept}.npz"
        points.write(target, cloud(4_500), x="x", y="y", order=None, pyramid=pyramid)
        pyramids.append(pyramid.read_bytes())
    assert pyramids[0] == pyramids[1] == pyramids[2]


def test_a_pyramid_is_a_plain_npz_with_fixed_times(tmp_path: Path) -> None:
    points.write(tmp_path / "p.parquet", cloud(100), x="x", y="y", pyramid=tmp_path / "p.npz")
    with zipfile.ZipFile(tmp_path / "p.npz") as archive:
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist()[:5] == ["columns.npy", "bounds.npy", "grid.npy", "cells_0.npy", "count_0.npy"]
    assert np.load(tmp_path / "p.npz")["count_0"].dtype == np.uint8


# --- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"x": [1.0], "lat": [2.0]}), "points have no column 'y'; there are x, lat"),
        (pa.table({"x": [1.0], "y": ["2"]}), "column 'y' is string; coordinates are integers or floating point"),
        (pa.table({"x": [1.0], "y": [True]}), "column 'y' is bool"),
        (pa.table([[1.0], [1.0], [2.0]], ["x", "y", "y"]), "points have 2 columns 'y'"),
        ([], "no batch of points"),
        ([{"x": 1.0}], "not as dict"),
        (3, "not as int"),
        (
            [pa.record_batch({"x": [1.0], "y": [1.0]}), pa.record_batch({"x": [1.0], "z": [1.0]})],
            "batches of points differ in their columns",
        ),
    ],
)
def test_what_cannot_be_points_is_refused_in_one_line(table: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        points.write(tmp_path / "p.parquet", table, x="x", y="y", order=None)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="no order 'hilbert'; choose 'morton'"):
        points.write(tmp_path / "p.parquet", cloud(1), x="x", y="y", order="hilbert")


def test_another_parquet_file_is_not_a_points_file(tmp_path: Path) -> None:
    parquet.write_table(cloud(1), tmp_path / "p.parquet")
    with pytest.raises(WorkerError, match="is not a points file"):
        points.read_metadata(tmp_path / "p.parquet")


# --- in a worker ---------------------------------------------------------------------


def test_a_partition_leaves_points_and_pyramid(tmp_path: Path) -> None:
    task = {"id": "p", "stage": "s", "params": {}, "inputs": {}, "resources": {}, "seed": 0}
    part = PartitionContext(task, tmp_path, send=lambda message: None)
    part.write_points("cloud", cloud(10), x="x", y="y")
    assert {name: (item["kind"], item["path"]) for name, item in part.written.items()} == {
        "cloud": ("points", "cloud.parquet"),
        "cloud.pyramid": ("file", "cloud.pyramid.npz"),
    }
    assert all((tmp_path / item["path"]).is_file() for item in part.written.values())


def test_importing_the_module_loads_neither_numpy_nor_pyarrow() -> None:
    code = "import json, sys, agilab.points; print(json.dumps(sorted({'numpy', 'pyarrow'} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
