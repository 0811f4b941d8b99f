"""The tables of a run: what is there while it goes on, and what is made of them afterwards."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from agilab import points, raster
from agilab.errors import ArtifactNotFoundError, QueryError, SupersededError
from agilab.raster import Aggregation, Query
from agilab.raster.sources import prepare, sources
from agilab.run import Run
from tests.run_folder import RunFolder


def table(seed: int, count: int = 400) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({"x": rng.normal(seed, 1, count), "y": rng.normal(0, 1, count)})


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


def test_what_is_made_later_lies_in_the_sidecar_and_shows_the_same(home: Path, tmp_path: Path) -> None:
    folder = RunFolder(home)
    for number in range(2):
        commit(folder, number, tmp_path, pyramid=number == 0)
    run = Run(folder.seal())
    with pytest.raises(SupersededError):
        prepare(run, "cloud", cancelled=lambda: True)
    assert list((run.paths.sidecar / "points").iterdir()) == []
    assert prepare(run, "cloud") == 2
    assert prepare(run, "cloud") == 0
    made = sorted((run.paths.sidecar / "points").iterdir())
    assert [path.name.partition(".")[2] for path in made].count("index.parquet") == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    found = sources(run, "cloud")
    assert all(source.pyramid and source.index for source in found)
    picture = raster.aggregate(found, Query("x", "y", 20, 20))
    assert (picture.way, int(picture.values.sum())) == ("pyramid", 800)


def test_a_table_that_is_not_there_is_named_in_one_line(home: Path) -> None:
    folder = RunFolder(home)
    folder.commit("tracks", "p0", files={"sheet": b"a,b\n1,2\n"}, kinds={"sheet": "table"})
    run = Run(folder.seal())
    with pytest.raises(ArtifactNotFoundError, match="has no table 'cloud'; it has sheet"):
        sources(run, "cloud")
    with pytest.raises(QueryError, match=r"does not say which columns are its coordinates; name them: x=\.\.\., y="):
        prepare(run, "sheet")
    assert prepare(run, "sheet", x="a", y="b") == 1
    picture = raster.aggregate(sources(run, "sheet"), Query("a", "b", 10, 10))
    assert picture.values.sum() == 1
