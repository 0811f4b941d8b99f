"""Sizes as the disk has them, and runs that go whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agilab.disk import by_app, measure, remove, remove_run, shared
from agilab.errors import RunNotFoundError, RunStateError
from agilab.owner import hold_owner
from agilab.paths import HomePaths, WenvPaths
from agilab.run import Run, RunStore
from tests.run_folder import MOMENT, RunFolder, sealed_run


def test_a_file_with_several_names_counts_once_and_is_freed_with_the_last(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    empty = measure(one, two).used_bytes
    (one / "a").write_bytes(b"x" * 100_000)
    (one / "b").hardlink_to(one / "a")
    (two / "c").hardlink_to(one / "a")
    (one / "link").symlink_to("/etc")
    file = (one / "a").stat().st_blocks * 512
    both = measure(one, two)
    assert both.used_bytes == both.freed_bytes == empty + file + (one / "link").lstat().st_blocks * 512
    alone = measure(one)
    assert alone.used_bytes - alone.freed_bytes == file


def test_what_is_not_there_takes_nothing(tmp_path: Path) -> None:
    assert measure(tmp_path / "no").used_bytes == 0
    assert by_app(HomePaths(tmp_path / "h"), WenvPaths(tmp_path / "w")) == ()


def test_each_app_has_its_runs_and_packages(home: Path, tmp_path: Path) -> None:
    sealed_run(home)
    sealed_run(home, moment=MOMENT + 1)
    wenv = WenvPaths(tmp_path / "w")
    wenv.code("ocean", "0" * 64).mkdir(parents=True)
    flights, ocean = by_app(HomePaths(home), wenv)
    assert (flights.app, flights.runs, flights.package_size.used_bytes) == ("flights", 2, 0)
    assert (ocean.app, ocean.runs, ocean.run_size.used_bytes) == ("ocean", 0, 0)
    assert flights.run_size == measure(home / "runs" / "flights")
    assert set(shared(HomePaths(home), wenv)) >= {"worker environments", "data sets", "caches"}


def test_a_run_is_removed_whole_also_folders_that_an_app_has_closed(home: Path) -> None:
    paths = sealed_run(home)
    closed = paths.artifacts / "closed"
    (closed / "in").mkdir(parents=True)
    closed.chmod(0)
    remove_run(Run(paths))
    assert list(paths.root.parent.iterdir()) == []
    with pytest.raises(RunNotFoundError, match="is not there any more"):
        remove_run(Run(paths))


def test_a_run_in_use_stays(home: Path) -> None:
    paths = RunFolder(home).paths
    with hold_owner(paths), pytest.raises(RunStateError, match="cancel it with: agilab cancel"):
        remove_run(Run(paths))
    assert paths.request.exists()
    remove_run(Run(paths))
    assert not paths.root.exists()


def test_a_run_whose_owner_was_another_host_stays(home: Path) -> None:
    paths = RunFolder(home).paths
    paths.owner.write_text(json.dumps({"host": "elsewhere", "boot_id": "x", "pid": 1, "start_time": 1}))
    with pytest.raises(RunStateError, match="may be in use on elsewhere"):
        remove_run(Run(paths))
    assert paths.request.exists()


def test_a_run_that_is_just_being_made_stays(home: Path) -> None:
    paths = RunStore(HomePaths(home)).create("flights")
    with pytest.raises(RunStateError, match="is just being made"):
        remove_run(Run(paths))
    os.utime(paths.root, (1, 1))
    remove_run(Run(paths))
    assert not paths.root.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    link = tmp_path / "link"
    link.symlink_to(target)
    remove(link)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "kept").exists()
