"""Fields at screen resolution equal what Datashader makes of them."""

from __future__ import annotations

from pathlib import Path

import datashader
import numpy as np
import pyarrow as pa
import pytest
import xarray
from pyarrow import parquet

from agilab.errors import QueryError
from agilab.raster import Query, Source
from agilab.raster.fields import axes, field

COLUMNS, ROWS = 60, 40


@pytest.fixture(scope="module")
def cells() -> xarray.DataArray:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (ROWS, COLUMNS))
    values[rng.random(values.shape) < 0.1] = np.nan
    return xarray.DataArray(
        values, dims=("y", "x"), coords={"x": 5 + 0.1 * np.arange(COLUMNS), "y": 0.25 * np.arange(ROWS) - 3}
    )


@pytest.fixture
def source(cells: xarray.DataArray, tmp_path: Path) -> Source:
    x, y = np.meshgrid(cells.x, cells.y)
    table = pa.table({"x": x.ravel(), "y": y.ravel(), "value": cells.values.ravel()})
    parquet.write_table(table.take(np.random.default_rng(2).permutation(len(table))), tmp_path / "f.parquet")
    return Source(tmp_path / "f.parquet")


@pytest.mark.parametrize("reduction", ["mean", "min", "max"])
def test_a_field_equals_that_of_datashader(reduction: str, source: Source, cells: xarray.DataArray) -> None:
    across, up = axes([source], "x", "y")
    assert (across.count, up.count) == (COLUMNS, ROWS)
    for width, height in ((20, 10), (COLUMNS, ROWS)):
        found = field([source], Query("x", "y", width, height, reduction=reduction, value="value"))
        canvas = datashader.Canvas(width, height, x_range=across.ends, y_range=up.ends)
        wanted = canvas.raster(cells, agg=reduction, interpolate="nearest").values
        np.testing.assert_allclose(found.values, wanted, rtol=1e-12)


def test_a_zoom_shows_whole_cells_and_the_same_ones_while_somebody_pans(
    source: Source, cells: xarray.DataArray
) -> None:
    near = field([source], Query("x", "y", 800, 600, (6.0, 6.32), (-1.1, 0.1), reduction="sum", value="value"))
    np.testing.assert_array_equal(near.values, cells.values[8:13, 10:14])
    assert near.bounds == pytest.approx((5.95, -1.125, 6.35, 0.125))
    wide = [field([source], Query("x", "y", 10, 10, (at, at + 2.75), (-3, 7))).bounds[0] for at in (5.4, 5.5, 5.6)]
    assert {round((left - 4.95) / 0.1) % 3 for left in wide} == {0}


def test_points_without_a_grid_are_no_field(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agilab.raster.fields.MOST_PLACES", 50)
    with pytest.raises(QueryError, match=r"'x' has more than 50 different values, so it is no axis of a field; choose"):
        axes([source], "x", "y")
