"""Which files an `Input` setting means: regular files inside the data root; it reads none of them.

Patterns are matched as a shell does it: ``*`` and ``?`` stay within one name
and leave out names that begin with a dot, ``**`` stands for any folders. A
link is followed where its target lies inside the root. A linked folder is
entered only by its name, not by a wildcard, so that a circle of links has an end.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from agilab.errors import SettingError

_MAGIC = re.compile(r"[*?\[]")


def matches(name: str, text: str, *, kind: str, root: Path) -> list[str]:
    """Return the files that one input stands for.

    Parameters
    ----------
    name
        The setting, for the message.
    text
        Path or pattern, relative to the root, or absolute and inside it.
    kind
        ``"file"``, ``"folder"`` (every file in it that is not hidden) or ``"glob"``.
    root
        The data root.

    Returns
    -------
    list of str
        Sorted POSIX paths relative to the root; of a pattern maybe none.

    Raises
    ------
    SettingError
        The root, the file or the folder does not exist or leads out of the root.
    """
    if not root.is_dir():
        raise SettingError(f"the data root {root} is not a folder; install the app's data or name another data root")
    parts = _parts(name, text, root)
    base = os.path.realpath(root)
    inside = os.path.join(base, "")
    if kind == "glob":
        found = set(_Walk(name, base).files(parts))
    else:
        target = os.path.join(base, *parts)
        real = os.path.realpath(target)
        if real != base and not real.startswith(inside):
            raise SettingError(f"setting {name!r} is {text[:80]!r}, which leads out of {root}; name a {kind} inside it")
        path = Path(target)
        if not (path.is_file() if kind == "file" else path.is_dir()):
            raise SettingError(f"setting {name!r} is {text[:80]!r}, but there is no such {kind} in {root}")
        found = {target} if kind == "file" else set(_Walk(name, base, linked=real != target).files([*parts, "**"]))
    return sorted(_relative(name, path, inside) for path in found)


def _parts(name: str, text: str, root: Path) -> list[str]:
    path = PurePosixPath(text)
    if path.is_absolute():
        for known in (root.absolute(), root.resolve()):
            if path.is_relative_to(known.as_posix()):
                path = path.relative_to(known.as_posix())
                break
        else:
            raise SettingError(f"setting {name!r} is {text[:80]!r}; allowed: a path inside {root}")
    if ".." in path.parts:
        raise SettingError(f"setting {name!r} is {text[:80]!r}; allowed: a path without '..'")
    return list(path.parts)


def _relative(name: str, path: str, inside: str) -> str:
    relative = path.removeprefix(inside)
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise SettingError(
            f"setting {name!r} finds the file {relative!r}, whose name is not UTF-8; rename it"
        ) from None
    return relative


class _Walk:
    """One search below a folder; remembers where it has been, so that ``**`` twice costs once."""

    def __init__(self, name: str, base: str, *, linked: bool = False) -> None:
        self.name, self.base, self.inside, self.linked = name, base, os.path.join(base, ""), linked
        self._seen: set[tuple[str, int]] = set()

    def files(self, parts: list[str]) -> Iterator[str]:
        """Yield the paths of regular files inside the base."""
        plain = [part for part, before in zip(parts, ["", *parts], strict=False) if (part, before) != ("**", "**")]
        if plain and plain[-1] == "**":
            plain.append("*")
        return self._below(self.base, plain, linked=self.linked)

    def _below(self, folder: str, parts: list[str], *, linked: bool) -> Iterator[str]:
        if not parts or (folder, len(parts)) in self._seen:
            return
        self._seen.add((folder, len(parts)))
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self._below(folder, rest, linked=linked)
            for entry in self._entries(folder):
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    yield from self._below(entry.path, parts, linked=linked)
        elif _MAGIC.search(part):
            match = re.compile(fnmatch.translate(part)).match
            for entry in self._entries(folder):
                if rest and entry.is_symlink():
                    continue
                if match(entry.name) and (part.startswith(".") or not entry.name.startswith(".")):
                    yield from self._one(entry.path, rest, linked=linked or entry.is_symlink())
        else:
            path = os.path.join(folder, part)
            yield from self._one(path, rest, linked=linked or Path(path).is_symlink())

    def _one(self, path: str, rest: list[str], *, linked: bool) -> Iterator[str]:
        try:
            mode = Path(path).stat().st_mode
        except OSError:  # not there, or a link that leads nowhere
            return
        if linked and not os.path.realpath(path).startswith(self.inside):
            return
        if rest and stat.S_ISDIR(mode):
            yield from self._below(path, rest, linked=linked)
        elif not rest and stat.S_ISREG(mode):
            yield path

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as err:
            raise SettingError(f"setting {self.name!r} needs the folder {folder}, which cannot be read: {err}") from err
