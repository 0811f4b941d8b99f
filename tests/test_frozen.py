"""Folders that are made once appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agilab import frozen, uv


def has_file(folder: Path) -> bool:
    return (folder / "file").is_file()


def fill(folder: Path) -> None:
    (folder / "file").write_text("new")


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    for _ in range(2):
        frozen.make_once(tmp_path / "parent" / "made", fill, is_complete=has_file)
    assert [path.name for path in (tmp_path / "parent").iterdir()] == ["made"]
    (tmp_path / "parent" / "made" / "file").write_text("kept")
    frozen.make_once(tmp_path / "parent" / "made", fill, is_complete=has_file)
    assert (tmp_path / "parent" / "made" / "file").read_text() == "kept"


def test_a_folder_that_is_not_whole_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "half").write_text("")
    frozen.make_once(tmp_path / "made", fill, is_complete=has_file)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        frozen.make_once(tmp_path / "made", fail, is_complete=has_file)
    assert list(tmp_path.iterdir()) == []


def test_when_another_process_was_first_its_folder_stays(tmp_path: Path) -> None:
    def lose(folder: Path) -> None:
        fill(folder)
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "file").write_text("first")

    frozen.make_once(tmp_path / "made", lose, is_complete=has_file)
    assert (tmp_path / "made" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_frozen_files_are_read_only_and_stay_executable(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, mode in (("a", 0o644), ("sub/b", 0o700)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    frozen.freeze(tmp_path)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "sub", "sub/b")]
    assert modes == [0o444, 0o700, 0o555]


def test_modules_are_what_can_be_imported_from_a_package() -> None:
    names = ["p/__init__.py", "p/a.py", "p/data/t.py", "p/not-a-name.py", "p/s/__init__.py", "p/s/b.py", "top.py"]
    assert frozen.modules(names) == ["p/__init__.py", "p/a.py", "p/s/__init__.py", "p/s/b.py"]


def test_byte_code_is_looked_for_where_python_looks(tmp_path: Path) -> None:
    import importlib.util

    here = uv.current_interpreter().abi
    assert str(tmp_path / frozen.byte_code_name("p/a.py", here)) == importlib.util.cache_from_source(
        f"{tmp_path}/p/a.py"
    )
    assert frozen.byte_code_name("p/a.py", "cpython-313t") == "p/__pycache__/a.cpython-313.pyc"
    assert frozen.byte_code_name("p/a.py", "pypy311") == "p/__pycache__/a.pypy311.pyc"


def test_unfinished_folders_of_processes_that_are_gone_are_swept(tmp_path: Path) -> None:
    old, young, ours = (tmp_path / f".abc.x.{pid}.tmp" for pid in ("99999999", "99999998", str(os.getpid())))
    for folder in (old, young, ours):
        folder.mkdir()
        (folder / "file").write_text("")
    for folder in (old, ours):
        os.utime(folder, (0, 0))
    frozen.sweep(tmp_path)
    assert [folder.exists() for folder in (old, young, ours)] == [False, True, True]
