"""Name bytes by sha256: of a file, a tree, a canonical JSON value; it caches nothing.

Canonical JSON is UTF-8, keys sorted, no spaces, no NaN or infinity: the same
value has the same bytes on every machine, so its digest can name it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

_IGNORED_FOLDERS = frozenset(
    {"__pycache__", ".git", ".hg", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints"}
)
_IGNORED_ENDINGS = (".pyc", ".pyo", "~", ".swp")


def canonical_json(value: Any) -> bytes:
    """Write a JSON value so that equal values have equal bytes.

    Raises
    ------
    ValueError
        The value holds NaN or infinity, which JSON has no words for.
    """
    return _encode(value).encode()


def of_json(value: Any) -> str:
    """Return the sha256 of a JSON value in canonical form, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def of_bytes(data: bytes) -> str:
    """Return the sha256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path | str) -> str:
    """Return the sha256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_files(root: Path, *, skip: str = "") -> list[str]:
    """List the files of a source tree that count, as sorted POSIX paths relative to it.

    Byte code, editor leftovers, tool caches and files that are just being
    written do not count; symbolic links count as files and are never followed
    into folders.

    Parameters
    ----------
    root
        The tree.
    skip
        Name of a folder directly in it that does not count.
    """
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _IGNORED_FOLDERS]
        base = Path(folder).relative_to(root).as_posix()
        prefix = "" if base == "." else f"{base}/"
        if not prefix and skip in folders:
            folders.remove(skip)
        found += [prefix + name for name in files if not _ignored(name)]
    return sorted(found)


def counts(name: str) -> bool:
    """Whether a file counts in a tree, by its POSIX path relative to it: the rule of `tree_files`."""
    *folders, file = name.split("/")
    return _IGNORED_FOLDERS.isdisjoint(folders) and not _ignored(file)


def _ignored(file: str) -> bool:
    """Whether a file is byte code, left by an editor, or just being written by `agilab.paths.write_file`."""
    return file.endswith(_IGNORED_ENDINGS) or (file.startswith(".") and file.endswith(".tmp"))


def of_tree(root: Path, *, skip: str = "") -> str:
    """Return the sha256 over names, executable bits and bytes of a source tree.

    Times, owners and the umask lie outside, so that a checkout and a copy of
    it have one digest.
    """
    return of_files((root / name, name) for name in tree_files(root, skip=skip))


def of_files(files: Iterable[tuple[Path, str]]) -> str:
    """Return the digest that `of_tree` gives a tree of some files, each with its name in the tree, in their order."""
    total = hashlib.sha256()
    for path, name in files:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            kind, content = "link", of_bytes(os.readlink(path).encode())
        else:
            kind, content = ("exec" if mode & stat.S_IXUSR else "file"), of_file(path)
        total.update(f"{kind} {content} {name}\n".encode())
    return total.hexdigest()
