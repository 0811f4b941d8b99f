"""Pictures of tables that lie on hosts: what they show, and what happens when a host goes or lies."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from agilab import points
from agilab.backends.local import LocalBackend
from agilab.backends.ssh import rasterlink
from agilab.backends.ssh.deploy import Backplane
from agilab.backends.ssh.hosts import Hosts
from agilab.backends.ssh.rasterlink import RasterLink
from agilab.errors import HostError, QueryError, SupersededError
from agilab.paths import WenvPaths
from agilab.raster import Aggregation, Filter, Query, Source, aggregate
from agilab.raster.far import Far
from agilab.raster.grid import Grid
from agilab.raster.rows import facts, rows_of, values
from agilab.raster.scan import never
from agilab.raster.selection import select
from agilab.reach import Reach
from agilab.run import Run
from tests import hosts as real
from tests.checkout import ROOT
from tests.conftest import WaitFor
from tests.run_folder import RunFolder

pytestmark = pytest.mark.skipif(bool(real.why_no_namespaces()), reason=real.why_no_namespaces())
BOX: dict[str, Any] = {"x_range": (-3.0, 4.0), "y_range": (-2.0, 2.5)}
QUERIES = (
    Query("x", "y", 300, 200),
    Query("x", "y", 8, 6, **BOX),
    Query("x", "y", 300, 200, **BOX, reduction="mean", value="value"),
    Query("x", "y", 60, 40, **BOX, by="kind"),
    Query("x", "y", 60, 40, **BOX, by="kind", categories=("c", "a")),
    Query("x", "y", 60, 40, **BOX, filters=(Filter("kind", values=("a", "b")), Filter("time", low="2013-01-01T12:00"))),
    Query("x", "y", 60, 40, **BOX, mark="lines", track="track"),
    Query("x", "y", 60, 40, x_range=(50, 51), y_range=(0, 1)),
)


@pytest.fixture(scope="module")
def servers(shared_folder: Path) -> Iterator[list[real.SshServer]]:
    with real.warm_hosts("alpha", "beta", shared=shared_folder) as found:
        yield found


@pytest.fixture(scope="module")
def hosts(servers: list[real.SshServer], shared_folder: Path) -> Iterator[Hosts]:
    """Give hosts where the environment for pictures is ours; that one is deployed is tested in the benchmark."""

    async def ours(self: Hosts, host: str) -> Backplane:
        return Backplane(sys.executable, str(ROOT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hosts, "_deploy_raster", ours)
        with Hosts(WenvPaths(shared_folder / "backplane_wenv")) as found:
            yield found


def cloud(seed: int, count: int = 5_000) -> pa.Table:
    """Points with a value, a category that not every table meets first, a time, and some without a place."""
    rng = np.random.default_rng(seed)
    x = rng.normal(seed, 1.5, count)
    x[::97] = np.nan
    when = np.datetime64("2013-01-01", "ms") + rng.integers(0, 86_400_000, count)
    return pa.table(
        {
            "x": x,
            "y": rng.normal(0, 1, count),
            "value": np.where(rng.random(count) < 0.1, np.nan, rng.integers(0, 9, count) / 4),
            "kind": pa.array(rng.choice([*list("cba")[seed % 3 :], "d"], count)).dictionary_encode(),
            "time": pa.array(when, pa.timestamp("ms", "UTC")),
            "track": np.sort(rng.integers(0, 40, count)),
        }
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return three tables: points with a pyramid, a stranger's parquet, and points whose order was kept."""
    folder = tmp_path_factory.mktemp("tables")
    made = [folder / f"{number}.parquet" for number in range(3)]
    points.write(made[0], cloud(0), x="x", y="y", order=None, pyramid=folder / "0.npz")
    parquet.write_table(cloud(1), made[1], row_group_size=600)
    points.write(made[2], cloud(2), x="x", y="y", order=None)
    return made


def tables(files: list[Path], *hosts: Far | None) -> list[Source]:
    """Return the tables as they lie on hosts; None is here."""
    above = files[0].with_suffix(".npz")
    return [
        Source(path, str(number), above if number == 0 else None, sha256=str(number), far=far)
        for number, (path, far) in enumerate(zip(files, hosts, strict=True))
    ]


def test_pictures_show_the_same_wherever_tables_lie(hosts: Hosts, files: list[Path]) -> None:
    here = tables(files, None, None, None)
    there = tables(files, hosts.far("alpha"), hosts.far("beta"), None)
    for query in QUERIES:
        picture, wanted = aggregate(there, query), aggregate(here, query)
        np.testing.assert_array_equal(picture.values, wanted.values)
        assert (picture.bounds, picture.categories, picture.way) == (wanted.bounds, wanted.categories, wanted.way)
        assert (picture.rows_read, picture.sources, picture.missing) == (wanted.rows_read, 3, ())
    growing = Aggregation(QUERIES[0])
    assert [growing.add(there[:count]) for count in (1, 2, 3, 3)] == [1, 1, 1, 0]
    assert growing.picture().values.sum() == aggregate(here, QUERIES[0]).values.sum()
    with pytest.raises(QueryError, match=r"host alpha: 0\.parquet has no column 'z'; there are x, y"):
        aggregate(there[:1], Query("x", "z"))


def test_rows_statistics_and_columns_are_the_same_wherever_tables_lie(hosts: Hosts, files: list[Path]) -> None:
    here = tables(files, None, None, None)
    there = tables(files, hosts.far("alpha"), hosts.far("alpha"), hosts.far("beta"))
    chosen, wanted = (select(some, Query("x", "y", x_range=(0, 1), y_range=(0, 1)), most=700) for some in (there, here))
    assert (chosen.count, chosen.statistics.keys()) == (wanted.count, wanted.statistics.keys())
    assert repr(chosen.rows.to_pylist()) == repr(wanted.rows.to_pylist())  # with NaN
    for name, known in chosen.statistics.items():
        assert known.count == wanted.statistics[name].count
        assert known.mean == pytest.approx(wanted.statistics[name].mean)
    assert values(there, "kind") == values(here, "kind")
    assert facts(there) == facts(here)
    for first in (0, 4_999):
        (rows, known), (want, _) = (rows_of(some[1], ["x", "kind"], first, 2) for some in (there, here))
        assert repr(rows.to_pydict()) == repr(want.to_pydict())
        assert known <= 5_000


def test_a_picture_nobody_waits_for_is_given_up_on_the_host(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    path = tmp_path / "long.parquet"
    group = pa.table({"x": pa.array(np.zeros(1 << 20)), "y": pa.array(np.zeros(1 << 20))})
    with parquet.ParquetWriter(path, group.schema) as writer:
        for _ in range(100):
            writer.write_table(group)
    heard: list[dict[str, Any]] = []
    take = RasterLink._take
    monkeypatch.setattr(RasterLink, "_take", lambda self, head, blocks: (heard.append(head), take(self, head, blocks)))
    with pytest.raises(SupersededError):
        aggregate([Source(path, far=hosts.far("alpha"))], Query("x", "y", **BOX), cancelled=lambda: True)
    wait_for(lambda: any(head.get("failed", {}).get("kind") == "SupersededError" for head in heard), 10)


def test_when_a_host_goes_while_somebody_zooms_the_rest_goes_on(
    hosts: Hosts, servers: list[real.SshServer], files: list[Path], monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    here, beta = tables(files, None, None, None), servers[1]
    there = tables(files, None, hosts.far("beta"), hosts.far("alpha"))
    query = Query("x", "y", 60, 40, **BOX)
    assert aggregate(there, query).missing == ()
    pictures: list[Any] = []
    zoomed = threading.Thread(target=lambda: pictures.extend(aggregate(there, query) for _ in range(30)))
    zoomed.start()
    beta.stop()
    zoomed.join()
    with_all, without = aggregate(here, query).values, aggregate([here[0], here[2]], query).values
    for picture in pictures:
        np.testing.assert_array_equal(picture.values, without if picture.missing else with_all)
    (said,) = pictures[-1].missing
    assert said.startswith("1 table is not in the picture: host beta: ")
    assert "\n" not in said
    assert select(there, query).missing[0].startswith("host beta: ")
    with pytest.raises(HostError, match="host beta: "):
        aggregate(there[1:2], Query("x", "y"))
    monkeypatch.setattr(rasterlink, "RETRY_S", 0.0)
    beta.start()
    wait_for(lambda: not aggregate(there, query).missing, 30)
    np.testing.assert_array_equal(aggregate(there, query).values, with_all)


LIES = (
    "hello",
    '{"id": 1}',
    '{"id": 1, "done": {"box": [1, 0, 0, 0]}, "arrays": []}',
    '{"id": 1, "done": {"box": ["a", 0, 0, 0]}, "arrays": []}',
    '{"id": 1, "done": {"box": [0, 0, 1, NaN]}, "arrays": []}',
    '{"id": 1, "done": {}, "arrays": [{"name": "x", "kind": "u1", "shape": [1], "size_bytes": 9999999999}]}',
    '{"id": 1, "done": {}, "arrays": [{"name": "x", "kind": "u1", "shape": [1], "size_bytes": -1}]}',
    '["id"]',
)


def test_what_makes_no_sense_counts_as_a_lost_host(hosts: Hosts, tmp_path: Path) -> None:
    query = Query("x", "y", 60, 40, **BOX)
    words = [*LIES, *(json.dumps({"id": 1, "done": said, "arrays": arrays}) for said, arrays in lies_of_parts(query))]
    for number, word in enumerate(words):
        liar = tmp_path / f"liar{number}"
        liar.write_text(f"#!/bin/sh\necho '{{\"ready\": true}}'\nread line\nprintf '%s\\n' '{word}'\n")
        liar.chmod(0o755)

        async def lying(liar: Path = liar) -> Backplane:
            return Backplane(str(liar), "")

        far = Far(RasterLink(hosts._link("alpha"), hosts._loop, lying))
        ask: Callable[[], object] = partial(far.extent, [], "x", "y", never)
        if number >= len(LIES):
            ask = partial(far.parts, [], query, Grid((-3.0, -2.0, 4.0, 2.5), query.width, query.height), never)
        with pytest.raises(HostError, match=r"^host alpha: link: gave an answer that makes no sense") as caught:
            ask()
        assert "\n" not in str(caught.value)


def lies_of_parts(query: Query) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield answers to a request for parts that have another shape than they should."""
    said = {"names": [], "ways": ["scan"], "rows_read": 1}
    counts = {"name": "count", "kind": "u1", "shape": [query.height, query.width], "size_bytes": 0}
    yield said, []
    yield said, [counts]  # no bytes are not those of so many cells
    yield said, [{**counts, "shape": [1 << 20, 1 << 20]}]
    yield said, [{**counts, "kind": "f8"}]
    yield {**said, "ways": ["<b>"]}, [counts]
    yield {**said, "rows_read": -1}, [counts]
    yield {**said, "names": "ab"}, [counts]


def test_views_of_a_run_show_what_lies_on_hosts(
    hosts: Hosts, home: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agilab_dashboards import datasets
    from agilab_dashboards.views import SHIPPED

    monkeypatch.setattr(LocalBackend, "keeper", lambda self, wenv, report: hosts)
    monkeypatch.setattr(Hosts, "__exit__", lambda *_: None)  # others go on with them
    monkeypatch.setattr(datasets, "reach", lambda: reach)
    with Reach(WenvPaths.chosen()) as reach:
        folder = RunFolder(home)
        for number, path in enumerate(files):
            folder.away = frozenset({"cloud", "cloud.pyramid"} if number != 1 else ())
            left = {"cloud": path.read_bytes()}
            if number == 0:
                left["cloud.pyramid"] = path.with_suffix(".npz").read_bytes()
            folder.commit("tracks", f"p{number}", files=left, kinds={"cloud": "points", "cloud.pyramid": "file"})
        run = Run(folder.paths)
        (shown,) = SHIPPED.shown(run)
        assert (shown.elsewhere, shown.key) == (2, "tracks/cloud")
        view = SHIPPED.make("points", shown, {"colour": "kind"})
        picture = aggregate(shown.sources, view.query(shown, view.whole(shown)))
        assert picture.values.sum() == sum(int(np.isfinite(cloud(number)["x"]).sum()) for number in range(3))
        assert view.picture(run).startswith(b"\x89PNG")
        assert shown.slice(4_990, 20, ["x"]).num_rows == 20


def test_nothing_of_it_stays_on_a_host(hosts: Hosts, servers: list[real.SshServer], wait_for: WaitFor) -> None:
    def helpers() -> list[str]:
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in servers[0].busy()]
        return [one for one in commands if "rasterhost" in one]

    assert len(helpers()) == 1
    servers[0].drop_sessions()
    wait_for(lambda: not helpers(), 10)
