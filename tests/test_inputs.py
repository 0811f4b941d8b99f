"""Inputs are hashed once, remembered while they do not change, and noticed when they do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab import digest
from agilab.digest import of_bytes
from agilab.errors import DataError, EvidenceError
from agilab.inputs import InputHasher
from agilab.plan import InputRef


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of files that have really been read."""
    files: list[str] = []
    real: Callable[[Path | str], str] = digest.of_file

    def counting(path: Path | str) -> str:
        files.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(digest, "of_file", counting)
    return files


def old(path: Path, text: str) -> Path:
    """Write a file that has not changed for a while."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (1.0e9, 1.0e9))
    return path


def test_a_relative_input_lies_in_the_data_root_and_an_absolute_one_where_it_says(tmp_path: Path) -> None:
    old(tmp_path / "root" / "a" / "rows.csv", "rows")
    other = old(tmp_path / "other.csv", "other")
    refs = [InputRef("one", "a/rows.csv"), InputRef("two", str(other))]
    found = InputHasher(tmp_path / "cache.json").hash(refs, tmp_path / "root")
    assert {path: (item.sha256, item.size_bytes) for path, item in found.items()} == {
        "a/rows.csv": (of_bytes(b"rows"), 4),
        str(other): (of_bytes(b"other"), 5),
    }
    assert Path(found["a/rows.csv"].file).read_text() == "rows"


def test_a_file_is_read_once_however_often_it_is_named(tmp_path: Path, hashed: list[str]) -> None:
    old(tmp_path / "rows", "rows")
    for _ in range(3):
        refs = [InputRef("one", "rows"), InputRef("two", "rows")]
        InputHasher(tmp_path / "cache" / "hashes.json").hash(refs, tmp_path)
    assert hashed == ["rows"]


@pytest.mark.parametrize("what", ["content", "time", "file"])
def test_a_file_that_has_changed_is_read_again(tmp_path: Path, hashed: list[str], what: str) -> None:
    path, cache = old(tmp_path / "rows", "rows"), tmp_path / "hashes.json"
    InputHasher(cache).hash([InputRef("rows", "rows")], tmp_path)
    if what == "content":
        old(path, "longer rows")
    elif what == "time":
        path.write_text("ROWS")
        os.utime(path, (1.1e9, 1.1e9))
    else:
        old(tmp_path / "new", "ROWS").replace(path)
    found = InputHasher(cache).hash([InputRef("rows", "rows")], tmp_path)
    assert found["rows"].sha256 == of_bytes(path.read_bytes())
    assert hashed == ["rows", "rows"]


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path: Path, hashed: list[str]) -> None:
    (tmp_path / "rows").write_text("rows")
    for _ in range(2):
        InputHasher(tmp_path / "hashes.json").hash([InputRef("rows", "rows")], tmp_path)
    assert hashed == ["rows", "rows"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"hashes": 3}', '{"hashes": {"x": 1}}', '{"hashes": {"FILE": [1]}}'])
def test_a_damaged_cache_is_an_empty_one(tmp_path: Path, text: str) -> None:
    path = old(tmp_path / "rows", "rows")
    (tmp_path / "hashes.json").write_text(text.replace("FILE", str(path)))
    found = InputHasher(tmp_path / "hashes.json").hash([InputRef("rows", "rows")], tmp_path)
    assert found["rows"].sha256 == of_bytes(b"rows")
    json.loads((tmp_path / "hashes.json").read_text())


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    old(tmp_path / "rows", "rows")
    (tmp_path / "hashes.json").mkdir()
    assert InputHasher(tmp_path / "hashes.json").hash([InputRef("rows", "rows")], tmp_path)["rows"].size_bytes == 4


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing", "input missing cannot be read in .*: No such file or directory; check setting and data"),
        ("folder", "input folder in .* is not a file; name the files of a folder one by one"),
        ("pipe", "input pipe in .* is not a file"),
        ("rows/x", "input rows/x cannot be read in .*: Not a directory"),
    ],
)
def test_what_is_not_a_file_is_refused_in_one_line(tmp_path: Path, path: str, said: str) -> None:
    old(tmp_path / "rows", "rows")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=said):
        InputHasher(tmp_path / "hashes.json").hash([InputRef("x", path)], tmp_path)


def test_a_digest_in_the_plan_has_to_fit(tmp_path: Path) -> None:
    old(tmp_path / "rows", "rows")
    hasher = InputHasher(tmp_path / "hashes.json")
    hasher.hash([InputRef("rows", "rows", sha256=of_bytes(b"rows"))], tmp_path)
    with pytest.raises(DataError, match=f"has sha256 {of_bytes(b'rows')}, but the plan says 0000"):
        hasher.hash([InputRef("rows", "rows", sha256="0" * 64)], tmp_path)


@pytest.mark.parametrize("how", ["written", "replaced", "touched", "removed"])
def test_an_input_that_changes_during_the_run_is_noticed(tmp_path: Path, how: str) -> None:
    path = old(tmp_path / "rows", "rows")
    item = InputHasher(tmp_path / "hashes.json").hash([InputRef("rows", "rows")], tmp_path)["rows"]
    item.check()
    if how == "written":
        path.write_text("ROWS")
    elif how == "replaced":
        old(tmp_path / "new", "rows").replace(path)
    elif how == "touched":
        os.utime(path)
    else:
        path.unlink()
    with pytest.raises(EvidenceError, match=r"since the run began.*run again"):
        item.check()
