"""Tags and notes: outside of the seal, lost by nobody, refused when they are not what they can be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agilab.errors import EvidenceError, HomeError, QueryError
from agilab.manifest import is_sealed, verify
from agilab.sidecar import LONGEST_NOTE, MOST_TAGS, Tags, change_tags, read_tags
from tests.run_folder import conform, sealed_run


def test_tags_and_note_are_kept_and_the_seal_holds(home: Path) -> None:
    paths = sealed_run(home)
    assert read_tags(paths) == Tags()
    assert change_tags(paths, add=["good", "best"], note="for the paper") == Tags(("best", "good"), "for the paper")
    assert change_tags(paths, add=["best"], remove=["good"]) == Tags(("best",), "for the paper")
    assert change_tags(paths, note="") == Tags(("best",))
    assert is_sealed(paths)
    assert verify(paths).ok
    conform(json.loads(paths.tags.read_text()), "agilab.tags/1")


def test_of_many_who_tag_at_once_nobody_is_lost(home: Path) -> None:
    paths = sealed_run(home)
    names = [f"t{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: change_tags(paths, add=[name]), names))
    assert set(read_tags(paths).tags) == set(names)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"add": ["a b"]}, "tag 'a b' is not allowed; use up to 100 of letters"),
        ({"add": ["\x1b[31m"]}, "is not allowed"),
        ({"remove": ["x"]}, "has no tag 'x'; it has none"),
        ({"note": "x" * (LONGEST_NOTE + 1)}, "the note has 10,001 characters; allowed: up to 10,000"),
        ({"add": [f"t{number}" for number in range(MOST_TAGS + 1)]}, "would have 101 tags; allowed: up to 100"),
    ],
)
def test_what_cannot_be_said_is_refused_and_changes_nothing(
    home: Path, change: dict[str, list[str]], words: str
) -> None:
    paths = sealed_run(home)
    with pytest.raises(QueryError, match=words):
        change_tags(paths, **change)  # type: ignore[arg-type]
    assert not paths.tags.exists()


def _text(path: Path) -> None:
    path.write_text("{")


def _other(path: Path) -> None:
    path.write_text('{"schema": "agilab.tags/1", "tags": [3], "note": ""}')


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_text, _other, _link, _pipe, Path.mkdir])
def test_a_damaged_file_is_named_and_not_written_over(home: Path, make: Callable[[Path], None]) -> None:
    paths = sealed_run(home)
    paths.sidecar.mkdir()
    make(paths.tags)
    with pytest.raises(EvidenceError, match=r"the tags of run .* cannot be read .*; remove "):
        read_tags(paths)
    with pytest.raises(EvidenceError):
        change_tags(paths, add=["x"])


def test_a_sidecar_that_is_a_link_is_not_written_through(home: Path, tmp_path: Path) -> None:
    paths = sealed_run(home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths.sidecar.symlink_to(elsewhere)
    with pytest.raises(HomeError, match="cannot be written"):
        change_tags(paths, add=["x"])
    assert list(elsewhere.iterdir()) == []
