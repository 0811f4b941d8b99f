"""The tables of a run: what is there while it goes on, and what is made of them afterwards."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from agilab import points, raster
from agilab.errors import ArtifactNotFoundError
from agilab.raster import Aggregation, Cache, Filter, Query, Source, aggregate
from agilab.raster.shelf import Shelf
from agilab.raster.sources import sources
from agilab.run import Run
from tests.conftest import WaitFor
from tests.run_folder import RunFolder


def table(seed: int, count: int = 400) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({"x": rng.normal(seed, 1, count), "y": rng.normal(0, 1, count)})


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def commit(folder: RunFolder, number: int, tmp_path: Path, *, pyramid: bool) -> None:
    """Leave points as a worker does."""
    path, above = tmp_path / "p.parquet", tmp_path / "p.npz"
    points.write(path, table(number), x="x", y="y", order=None, pyramid=above if pyramid else None)
    files = {"cloud": path.read_bytes(), **({"cloud.pyramid": above.read_bytes()} if pyramid else {})}
    folder.commit("tracks", f"p{number}", files=files, kinds={"cloud": "points", "cloud.pyramid": "file"})


def test_a_picture_counts_what_has_been_committed_at_every_moment(home: Path, tmp_path: Path) -> None:
    folder = RunFolder(home)
    run = Run(folder.paths)
    growing = Aggregation(Query("x", "y", 20, 20))
    for number in range(3):
        commit(folder, number, tmp_path, pyramid=True)
        assert growing.add(sources(run, "cloud")) == 1
        assert growing.picture().values.sum() == 400 * (number + 1)
        assert growing.picture().way == "pyramid"
    assert [source.key for source in sources(run, "cloud")] == ["tracks/p0/cloud", "tracks/p1/cloud", "tracks/p2/cloud"]
    assert len(sources(run, "tracks/p1/cloud")) == 1


def test_what_a_table_lacks_is_made_in_the_background_and_shows_the_same(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    monkeypatch.setattr("agilab.raster.shelf.LEAST_ROWS", 100)
    folder = RunFolder(home)
    path = tmp_path / "stranger.parquet"
    parquet.write_table(table(1, 5_000), path)
    folder.commit("tracks", "p0", files={"cloud": path.read_bytes()}, kinds={"cloud": "table"})
    run = Run(folder.seal())
    before = contents(run.paths.root)
    shelf = tmp_path / "cache" / "shelf"
    cache = Cache(shelf=Shelf(shelf))
    query = Query("x", "y", 20, 20, x_range=(0.2, 1.1), y_range=(-0.5, 0.5))
    plain = aggregate(sources(run, "cloud"), query)
    assert aggregate(sources(run, "cloud"), query, cache=cache).way == "scan"
    wait_for(lambda: len(list(shelf.glob("[!.]*"))) == 2, 10)
    picture = aggregate(sources(run, "cloud"), query, cache=cache)
    assert (picture.way, aggregate(sources(run, "cloud"), Query("x", "y", 20, 20), cache=cache).way) == ("pyramid",) * 2
    exact = replace(query, width=60, height=60, filters=(Filter("x", low=0.5),))
    found, wanted = (aggregate(sources(run, "cloud"), exact, cache=one) for one in (cache, Cache()))
    np.testing.assert_array_equal(found.values, wanted.values)
    assert 0 <= picture.values.sum() - plain.values.sum() < 200  # its cells reach a little further
    assert contents(run.paths.root) == before
    assert {stat.S_IMODE(made.stat().st_mode) & 0o077 for made in [shelf, *shelf.iterdir()]} == {0}


def test_what_was_made_later_takes_no_more_room_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    monkeypatch.setattr("agilab.raster.shelf.LEAST_ROWS", 100)
    sizes = []
    for limit in (1 << 30, 500_000):
        shelf = Shelf(tmp_path / str(limit), limit)
        for number in range(3):
            path = tmp_path / f"{number}.parquet"
            parquet.write_table(table(number, 5_000), path)
            shelf.want([Source(path, sha256=str(number))], Query("x", "y"))
        last = Source(tmp_path / "2.parquet", sha256="2")
        wait_for(lambda shelf=shelf, last=last: shelf.dressed(last, Query("x", "y")).index, 10)
        wait_for(lambda shelf=shelf: not shelf.busy, 10)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / str(limit)).iterdir()))
    assert sizes[1] <= 500_000 < sizes[0]


def test_a_table_that_is_not_there_is_named_in_one_line(home: Path) -> None:
    folder = RunFolder(home)
    folder.commit("tracks", "p0", files={"sheet": b"a,b\n1,2\n"}, kinds={"sheet": "table"})
    run = Run(folder.seal())
    with pytest.raises(ArtifactNotFoundError, match="has no table 'cloud'; it has sheet"):
        sources(run, "cloud")
    picture = raster.aggregate(sources(run, "sheet"), Query("a", "b", 10, 10))
    assert picture.values.sum() == 1
