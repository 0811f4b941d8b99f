"""A recorded path is opened inside its folder or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agilab.errors import EvidenceError
from agilab.sums import open_inside


def read(root: Path, path: str) -> bytes:
    """Read a file by its recorded path."""
    with open(open_inside(str(root), path), "rb") as file:
        return file.read()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file, and beside it a secret that links in the folder lead to."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("secret")
    root = tmp_path / "run"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("inside")
    (root / "link").symlink_to(tmp_path / "elsewhere" / "secret")
    (root / "a" / "folder").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "pipe")
    return root


def test_a_file_inside_is_opened(folder: Path) -> None:
    assert read(folder, "a/b/file") == b"inside"


@pytest.mark.parametrize("path", ["link", "a/folder/secret", "nosuch", "a/nosuch/file"])
def test_no_link_is_followed_at_any_step(folder: Path, path: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - ELOOP, ENOTDIR or ENOENT
        read(folder, path)


@pytest.mark.parametrize("path", ["../elsewhere/secret", "/etc/passwd", "a//b", "", "a/../link", "a\nb", "pipe", "a"])
def test_what_is_no_file_inside_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(EvidenceError):
        read(folder, path)


def test_nothing_stays_open(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("a/b/file", "link", "a/folder/secret", "pipe", "nosuch"):
        try:
            read(folder, path)
        except (OSError, EvidenceError):
            continue
    assert len(os.listdir("/proc/self/fd")) == before
