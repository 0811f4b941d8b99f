"""Inputs: which files a setting means, and that none of them lies outside the root."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agilab.errors import SettingError
from agilab.settings import Input, Settings
from tests.every_setting import message


class Reads(Settings):
    tracks = Input("tracks/*.csv", allow_empty=True)
    one = Input(None, kind="file", allow_None=True)
    all_of = Input(None, kind="folder", allow_None=True)


class Needs(Settings):
    tracks = Input("tracks/*.csv")
    all_of = Input(None, kind="folder", allow_None=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in (
        "tracks/b.csv",
        "tracks/a.csv",
        "tracks/.hidden.csv",
        "tracks/deep/c.csv",
        "tracks/deep/d.txt",
        "e.csv",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "outside.csv").write_text("no")
    (root / "tracks" / "out.csv").symlink_to(tmp_path / "outside.csv")
    (root / "tracks" / "in.csv").symlink_to(root / "e.csv")
    (root / "tracks" / "gone.csv").symlink_to(root / "none.csv")
    (root / "tracks" / "folder.csv").mkdir()
    (root / "tracks" / "round").symlink_to(root / "tracks")
    (root / "away").symlink_to(tmp_path)
    os.mkfifo(root / "tracks" / "pipe.csv")
    return root


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("tracks/*.csv", ["tracks/a.csv", "tracks/b.csv", "tracks/in.csv"]),
        ("tracks/[ab].csv", ["tracks/a.csv", "tracks/b.csv"]),
        ("tracks/.h*", ["tracks/.hidden.csv"]),
        ("**/c.csv", ["tracks/deep/c.csv"]),
        ("**/**/?.csv", ["e.csv", "tracks/a.csv", "tracks/b.csv", "tracks/deep/c.csv"]),
        ("tracks/**", ["tracks/a.csv", "tracks/b.csv", "tracks/deep/c.csv", "tracks/deep/d.txt", "tracks/in.csv"]),
        ("./tracks//a.csv", ["tracks/a.csv"]),
        ("away/*", []),
        ("away/outside.csv", []),
        ("tracks/round/a.csv", ["tracks/round/a.csv"]),
        ("nothing/*", []),
        ("tracks", []),
    ],
)
def test_a_pattern_matches_regular_files_inside_the_root(data: Path, pattern: str, found: list[str]) -> None:
    assert Reads(tracks=pattern).input_matches(data) == {"tracks": found}
    absolute = f"{data}/{pattern}"
    assert Reads(tracks=absolute).input_matches(data) == {"tracks": found}


def test_a_file_and_a_folder_are_found(data: Path) -> None:
    found = Reads(tracks="none", one="e.csv", all_of="tracks/deep/").input_matches(data)
    assert found == {"tracks": [], "one": ["e.csv"], "all_of": ["tracks/deep/c.csv", "tracks/deep/d.txt"]}


def test_a_data_root_may_be_a_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    assert Reads(tracks=f"{tmp_path}/link/e.csv").input_matches(tmp_path / "link") == {"tracks": ["e.csv"]}
    assert Reads(tracks=f"{data}/e.csv").input_matches(tmp_path / "link") == {"tracks": ["e.csv"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"one": "away/outside.csv"}, "which leads out of"),
        ({"all_of": "away"}, "which leads out of"),
        ({"one": "tracks/out.csv"}, "which leads out of"),
        ({"one": "tracks"}, "there is no such file in"),
        ({"all_of": "e.csv"}, "there is no such folder in"),
        ({"tracks": "/etc/*"}, "allowed: a path inside"),
    ],
)
def test_an_input_outside_the_root_or_missing_is_named(data: Path, values: dict[str, str], words: str) -> None:
    said = message(Reads(**values).input_matches, data)
    assert words in said
    assert next(iter(values)) in said


def test_an_input_cannot_climb_out_and_has_a_known_kind(tmp_path: Path) -> None:
    for text in ("../a", "a/../../b", "", "/"):
        with pytest.raises(ValueError, match="inside the data root"):
            Reads(tracks=text)
    with pytest.raises(SettingError, match="'file', 'folder', 'glob'"):
        Input(kind="url")
    assert "is not a folder" in message(Reads().input_matches, tmp_path / "none")


def test_many_wildcards_take_bounded_time(data: Path) -> None:
    begin = time.process_time()
    for number in range(10):
        (data / f"round{number}").symlink_to(data)
    assert Reads(tracks="/".join(["**", "*"] * 20)).input_matches(data) == {"tracks": []}
    assert Reads(tracks="*a" * 200).input_matches(data) == {"tracks": []}
    assert time.process_time() - begin < 1


def test_an_input_that_matches_nothing_is_refused_unless_it_is_said_to_be_fine(data: Path) -> None:
    said = message(Needs(tracks="track/*.csv").input_matches, data)
    assert said.startswith(f"setting 'tracks' is 'track/*.csv', which matches no file below {data}; correct it or ")
    assert "allow_empty=True" in said
    (data / "empty").mkdir()
    assert "setting 'all_of' is 'empty', which matches no file" in message(Needs(all_of="empty").input_matches, data)
    assert Needs().input_matches(data)["tracks"]
    assert Needs(tracks="e.csv").input_matches(data) == {"tracks": ["e.csv"]}


def test_what_may_be_empty_stands_in_the_declaration() -> None:
    assert Needs.fields()[0].constraints == {"kind": "glob"}
    assert Reads.fields()[0].constraints == {"kind": "glob", "allow_empty": True}


def test_a_class_that_derives_keeps_what_may_be_empty() -> None:
    class Derived(Reads):
        tracks = Input("other/*.csv")

    assert Derived.fields()[0].constraints["allow_empty"] is True
