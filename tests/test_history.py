"""The run history: which runs a query finds, in which order, and that the folders stay the truth."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from agilab import index
from agilab.errors import QueryError
from agilab.history import Condition, Query, condition, find, moment
from agilab.owner import hold_owner
from agilab.paths import HomePaths, RunPaths
from agilab.sidecar import change_tags
from tests.run_folder import MOMENT, RunFolder

HOUR = 3600.0


def made(home: Path, number: int, *, app: str = "flights", state: str = "succeeded", **metrics: object) -> RunPaths:
    """Return a sealed run, made so many hours after the first, with settings ``sample_s`` and ``model.depth``."""
    folder = RunFolder(home, app=app, moment=MOMENT + number * HOUR, partitions=1)
    folder.request["settings"] |= {"sample_s": number * 10, "model": {"depth": number}, "origins": ["EWR", "JFK"]}
    facts = folder.commit_all().facts
    folder.facts = lambda *given: {  # type: ignore[method-assign]
        **facts(*given),
        "metrics": {"rows": float(number), **metrics},
        "duration_s": 10.0 - number,
    }
    return folder.seal(state, "it broke" if state == "failed" else None)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the index keep folders that have changed just now, as the tests see to it that no change is missed."""
    monkeypatch.setattr(index, "SETTLED_NS", 0)


@pytest.fixture
def some(home: Path, settled: None) -> list[RunPaths]:
    """Return four runs of two apps, oldest first; the index has seen them."""
    runs = [
        made(home, 1, rmse=0.5),
        made(home, 2, rmse=0.25, state="failed"),
        made(home, 3, app="ocean", drift="NaN"),
        made(home, 4, state="cancelled"),
    ]
    change_tags(runs[0], add=["best", "paper"], note="keep")
    find(HomePaths(home))
    return runs


def ids(home: Path, query: Query | None = None) -> list[str]:
    """Return the run ids that a query finds."""
    return [row.run_id for row in find(HomePaths(home), query).rows]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), [3, 2, 1, 0]),
        (Query(sort="started"), [0, 1, 2, 3]),
        (Query(app="flights"), [3, 1, 0]),
        (Query(app="flight"), []),
        (Query(states=("failed", "cancelled")), [3, 1]),
        (Query(since=MOMENT + 2 * HOUR), [3, 2, 1]),
        (Query(until=MOMENT + 2 * HOUR), [0]),
        (Query(since=MOMENT + 2 * HOUR, until=MOMENT + 3 * HOUR), [1]),
        (Query(tags=("best",)), [0]),
        (Query(tags=("best", "other")), []),
        (Query(settings=(condition("sample_s>=20"), condition("model.depth < 4"))), [2, 1]),
        (Query(settings=(condition("origins=EWR,JFK"),)), [3, 2, 1, 0]),
        (Query(metrics=(condition("rmse<0.5"),)), [1]),
        (Query(metrics=(condition("rmse!=0.5"),)), [1]),
        (Query(metrics=(condition("drift<1"),)), []),
        (Query(sort="took"), [3, 2, 1, 0]),
        (Query(sort="-took"), [0, 1, 2, 3]),
        (Query(sort="state"), [3, 1, 2, 0]),
        (Query(sort="-app"), [2, 3, 1, 0]),
        (Query(sort="metric:rmse"), [1, 0, 3, 2]),
        (Query(sort="-metric:rmse"), [0, 1, 3, 2]),
        (Query(sort="-setting:model.depth", limit=2), [3, 2]),
        (Query(sort="metric:drift"), [3, 2, 1, 0]),
    ],
    ids=str,
)
def test_a_query_finds_runs_in_order_with_and_without_index(
    home: Path, some: list[RunPaths], query: Query, expected: list[int]
) -> None:
    wanted = [some[number].run_id for number in expected]
    assert ids(home, query) == wanted
    HomePaths(home).index.unlink()
    assert ids(home, query) == wanted
    assert ids(home, query) == wanted


def test_a_row_says_the_same_from_the_folder_and_from_the_index(home: Path, some: list[RunPaths]) -> None:
    warm = find(HomePaths(home))
    HomePaths(home).index.unlink()
    cold = find(HomePaths(home))
    assert warm == cold
    assert [(warm.count, warm.total), len(warm.rows)] == [(4, 4), 4]
    first = warm.rows[-1]
    assert (first.tags, first.note, first.metrics["rmse"], first.planned, first.artifacts) == (
        ("best", "paper"), "keep", 0.5, 2, 3,
    )  # fmt: skip
    assert json.dumps(first.to_json(), allow_nan=False)


def test_a_limit_counts_what_it_leaves_out(home: Path, some: list[RunPaths]) -> None:
    found = find(HomePaths(home), Query(metrics=(condition("rows>0"),), limit=1))
    assert (len(found.rows), found.count, found.total) == (1, 4, 4)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (Query(metrics=(condition("rsme<1"),)), "none of 4 runs has a metric 'rsme'; did you mean 'rmse'"),
        (Query(settings=(condition("depth=1"),)), "none of 4 runs has a setting 'depth'; did you mean 'model.depth'"),
        (Query(sort="metric:zzz", app="ocean"), "none of 1 runs has a metric 'zzz'; there are drift, rows"),
    ],
)
def test_a_name_that_no_run_has_is_an_error(home: Path, some: list[RunPaths], query: Query, words: str) -> None:
    with pytest.raises(QueryError, match=words):
        find(HomePaths(home), query)


def test_without_runs_nothing_is_found_and_nothing_is_made(home: Path) -> None:
    assert find(HomePaths(home), Query(metrics=(condition("x<1"),))).rows == ()
    assert not home.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rmse<0.5", Condition("rmse", "<", "0.5")),
        (" model.depth >= 3 ", Condition("model.depth", ">=", "3")),
        ("name!=a=b", Condition("name", "!=", "a=b")),
        ("name=", Condition("name", "=", "")),
    ],
)
def test_a_condition_is_name_operator_value(text: str, expected: Condition) -> None:
    assert condition(text) == expected


@pytest.mark.parametrize("text", ["", "rmse", "<3", "a==3", "=", "a b c"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="is no condition; write NAME OPERATOR VALUE"):
        condition(text)


@pytest.mark.parametrize(
    ("held", "text", "fits"),
    [
        (True, "x=true", True),
        (True, "x=1", False),
        (None, "x=none", True),
        (3, "x=3.0", True),
        (10, "x>9", True),
        ("10", "x>9", True),
        ("b", "x>a", True),
        ("2026-01-02", "x<2026-01-10", True),
        ("NaN", "x<1", False),
        ("Infinity", "x>1e300", True),
        ([1, 2.5], "x=1,2.5", True),
    ],
)
def test_numbers_compare_as_numbers_and_all_else_as_text(held: object, text: str, fits: bool) -> None:
    assert condition(text).fits({"x": held}) is fits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-14", 1_699_920_000.0),
        ("2023-11-14T22:13:20", MOMENT),
        ("2023-11-14T23:13:20+01:00", MOMENT),
        ("2h", MOMENT - 2 * HOUR),
        ("1.5d", MOMENT - 36 * HOUR),
        ("1w", MOMENT - 168 * HOUR),
    ],
)
def test_a_moment_is_a_date_a_time_or_an_age(text: str, expected: float) -> None:
    assert moment(text, MOMENT) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "3", "3m", "-2d", "999999999w", "2023-13-01"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="is no time; write a date such as"):
        moment(text, MOMENT)


@pytest.mark.parametrize("query", [{"states": ("done",)}, {"sort": "metric"}, {"sort": "rmse"}, {"sort": "metric:"}])
def test_an_impossible_query_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(QueryError, match="allowed: "):
        Query(**query)  # type: ignore[arg-type]


# --- the folders are the truth ----------------------------------------------

FAILED = Query(states=("failed",))


def test_a_run_that_was_added_or_removed_is_noticed(home: Path, some: list[RunPaths]) -> None:
    shutil.rmtree(some[1].root)
    assert ids(home, FAILED) == []
    added = made(home, 5, state="failed")
    assert ids(home, FAILED) == [added.run_id]
    with sqlite3.connect(HomePaths(home).index) as connection:
        keys = {key for (key,) in connection.execute("select key from run")}
    connection.close()
    assert f"flights/{some[1].run_id}" not in keys
    assert f"flights/{added.run_id}" in keys


def test_tags_that_change_are_noticed(home: Path, some: list[RunPaths]) -> None:
    best = Query(tags=("best",))
    change_tags(some[2], add=["best"])
    assert ids(home, best) == [some[2].run_id, some[0].run_id]
    change_tags(some[2], remove=["best"])
    change_tags(some[0], remove=["best"])
    assert ids(home, best) == []


def test_tags_in_a_sidecar_that_was_there_before_are_noticed(home: Path, some: list[RunPaths]) -> None:
    some[2].sidecar.mkdir()
    assert ids(home, Query(tags=("best",))) == [some[0].run_id]
    change_tags(some[2], add=["best"])
    assert ids(home, Query(tags=("best",))) == [some[2].run_id, some[0].run_id]


@pytest.mark.parametrize("name", ["run_manifest.json", "manifest-sha256.txt"])
def test_a_record_that_was_edited_in_place_is_shown_as_unreadable(home: Path, some: list[RunPaths], name: str) -> None:
    path = some[1].root / name
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.truncate(10)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ids(home, FAILED) == []
    assert [row.state for row in find(HomePaths(home)).rows] == ["cancelled", "succeeded", "unreadable", "succeeded"]


def test_a_seal_that_is_gone_leaves_a_lost_run(home: Path, some: list[RunPaths]) -> None:
    some[1].sums.unlink()
    assert ids(home, Query(states=("lost",))) == [some[1].run_id]


def test_a_run_that_goes_on_is_probed_each_time(home: Path, settled: None) -> None:
    folder = RunFolder(home)
    folder.commit("tracks", "p0", files={"points": b"x"})
    folder.log.append("planned", {"stage": "tracks", "partitions": 3})
    folder.log.close()
    with hold_owner(folder.paths):
        row = find(HomePaths(home), Query(states=("running",))).rows[0]
        assert (row.planned, row.committed, row.metrics, row.duration_s) == (3, 1, {"rows": 3.0}, None)
    assert ids(home, Query(states=("running",))) == []
    assert ids(home, Query(states=("lost",))) == [folder.paths.run_id]


def test_a_folder_that_makes_no_sense_breaks_no_list(home: Path, some: list[RunPaths]) -> None:
    empty = HomePaths(home).run("flights", "20300101-000000-0000").root
    empty.mkdir()
    HomePaths(home).run("flights", "not-a-run").root.mkdir()
    assert [row.state for row in find(HomePaths(home), Query(limit=2)).rows] == ["lost", "cancelled"]


# --- the index is a cache ----------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def _overwritten(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)


def _cells(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("update run set metrics = '{', settings = '', rest = '[]'")
    connection.close()


def _another_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("drop table run")
        connection.execute("create table run (other text)")
        connection.execute("pragma user_version = 99")
    connection.close()


def _no_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("drop table run")
    connection.close()


@pytest.mark.parametrize("damage", [_garbage, _overwritten, _cells, _another_version, _no_table])
def test_a_damaged_index_costs_time_only_and_is_made_anew(home: Path, some: list[RunPaths], damage: object) -> None:
    path = HomePaths(home).index
    queries = (Query(metrics=(condition("rmse<0.5"),)), Query(), FAILED)
    for query in queries:
        expected = ids(home, query)
        damage(path)  # type: ignore[operator]
        assert ids(home, query) == expected
        assert ids(home, query) == expected
        find(HomePaths(home))
    with sqlite3.connect(path) as connection:
        assert connection.execute("select count(*) from run").fetchone() == (4,)
    connection.close()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nowhere")])
def test_what_is_no_file_in_its_place_is_left_alone(home: Path, some: list[RunPaths], make: object) -> None:
    path = HomePaths(home).index
    path.unlink()
    make(path)  # type: ignore[operator]
    assert ids(home, FAILED) == [some[1].run_id]
    assert os.path.lexists(path)


def test_an_index_that_somebody_else_writes_is_done_without(home: Path, some: list[RunPaths]) -> None:
    connection = sqlite3.connect(HomePaths(home).index)
    connection.execute("begin exclusive")
    added = made(home, 5, state="failed")
    assert ids(home, FAILED) == [added.run_id, some[1].run_id]
    connection.rollback()
    connection.close()
    assert HomePaths(home).index.exists()
    assert ids(home, FAILED) == [added.run_id, some[1].run_id]


def test_many_at_once_see_the_same(home: Path, some: list[RunPaths]) -> None:
    HomePaths(home).index.unlink()
    seen: list[list[str]] = []
    threads = [threading.Thread(target=lambda: seen.append(ids(home, FAILED))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[some[1].run_id]] * 8


def test_only_the_owner_can_read_the_index(home: Path, some: list[RunPaths]) -> None:
    assert HomePaths(home).index.stat().st_mode & 0o777 == 0o600


def test_what_changed_just_now_is_not_kept(home: Path) -> None:
    made(home, 1)
    find(HomePaths(home))
    with sqlite3.connect(HomePaths(home).index) as connection:
        assert connection.execute("select count(*) from run").fetchone() == (0,)
    connection.close()
