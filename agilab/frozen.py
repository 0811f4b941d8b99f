"""Folders that are made once and never change: filled aside, byte-compiled, read only, renamed into place.

It does not know what is in them.
"""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agilab.errors import InstallError
from agilab.paths import make_folder
from agilab.uv import Interpreter, current_interpreter, uv_environment

_OLD_S = 3600

# What compile_modules does itself for its own Python, in the words of another one.
_COMPILE_ELSEWHERE = """
import json, py_compile, sys, warnings
warnings.simplefilter("ignore")
failed = []
for name, path, final in json.load(sys.stdin):
    try:
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(path, dfile=final, doraise=True, invalidation_mode=mode)
    except py_compile.PyCompileError as err:
        failed.append([name, getattr(err.exc_value, "lineno", None), getattr(err.exc_value, "msg", str(err.exc_value))])
print(json.dumps(failed))
"""


@dataclass(frozen=True, slots=True)
class NotCompiled:
    """A module that is not valid Python for the worker's interpreter.

    Parameters
    ----------
    name
        POSIX path relative to the folder.
    line
        Where, None when not known.
    message
        What the compiler said.
    """

    name: str
    line: int | None
    message: str


def make_once(target: Path, fill: Callable[[Path], None], *, is_complete: Callable[[Path], bool]) -> None:
    """Make a folder unless it is there whole; no other process ever sees a part of it.

    Parameters
    ----------
    target
        The folder.
    fill
        Writes its content into an empty folder on the same filesystem.
    is_complete
        Whether a folder is whole; one that is not is replaced.
    """
    if is_complete(target):
        return
    import tempfile

    make_folder(target.parent)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name[:16]}.", suffix=f".{os.getpid()}.tmp", dir=target.parent))
    old = aside.with_suffix(".old.tmp")
    try:
        fill(aside)
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            if not is_complete(target):  # damaged; else another process was first and made the same
                target.rename(old)
                aside.rename(target)
    finally:
        remove(aside)
        remove(old)


def remove(folder: Path) -> None:
    """Remove a folder with everything in it, or whatever else has its name."""
    import shutil

    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def freeze(folder: Path) -> None:
    """Make every file read only, keeping who may execute it; folders stay the owner's to delete."""
    for path, _, names in os.walk(folder):
        Path(path).chmod(0o700)
        for name in names:
            file = Path(path, name)
            if not file.is_symlink():
                file.chmod(0o555 if file.stat().st_mode & 0o100 else 0o444)


def has_files(folder: Path, sizes: Mapping[str, int]) -> bool:
    """Whether every file is there with its size [bytes]; names are POSIX paths relative to the folder."""
    try:
        return bool(sizes) and all(os.lstat(f"{folder}/{name}").st_size == size for name, size in sizes.items())
    except OSError:
        return False


def modules(names: Collection[str]) -> list[str]:
    """Pick from file names those that can be imported as part of a package; other files may hold anything."""
    known = set(names)
    return sorted(name for name in known if name.endswith(".py") and "/" in name and _in_package(name, known))


def _in_package(name: str, known: set[str]) -> bool:
    *folders, file = name.split("/")
    parents = ("/".join(folders[:depth]) for depth in range(1, len(folders) + 1))
    return file[:-3].isidentifier() and all(f"{parent}/__init__.py" in known for parent in parents)


def is_compiled(folder: Path, names: Iterable[str], abi: str) -> bool:
    """Whether the byte code of modules is there for a Python."""
    return all(os.path.lexists(f"{folder}/{byte_code_name(name, abi)}") for name in modules(list(names)))


def byte_code_name(name: str, abi: str) -> str:
    """Return where Python looks for the byte code of a module: ``a/b.py`` -> ``a/__pycache__/b.cpython-313.pyc``."""
    parent, _, file = name.rpartition("/")
    tag = re.match(r"[a-z]+-?\d+", abi)
    return f"{parent}/__pycache__/{file[:-3]}.{tag[0] if tag else abi}.pyc"


def compile_modules(folder: Path, names: Iterable[str], python: Interpreter, *, final: Path) -> list[NotCompiled]:
    """Write the byte code of modules for a Python; return those that it does not take.

    The byte code is marked as never to be compared with its source, since
    neither changes, so that times of copies do not matter.

    Parameters
    ----------
    folder
        Where they are.
    names
        Files, of which modules are compiled.
    python
        Whose byte code; a process of it is started when it is not of this Python's kind.
    final
        Where the folder is going to be, for tracebacks.

    Raises
    ------
    InstallError
        The other Python does not start.
    """
    wanted = modules(list(names))
    if python.abi != current_interpreter().abi:
        return _compile_elsewhere([(name, f"{folder}/{name}", f"{final}/{name}") for name in wanted], python)
    import py_compile

    failed = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a worker's warnings belong to its author's tools
        for name in wanted:
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            try:
                py_compile.compile(f"{folder}/{name}", dfile=f"{final}/{name}", doraise=True, invalidation_mode=mode)
            except py_compile.PyCompileError as err:
                reason = err.exc_value
                failed.append(NotCompiled(name, getattr(reason, "lineno", None), getattr(reason, "msg", str(reason))))
    return failed


def _compile_elsewhere(jobs: list[tuple[str, str, str]], python: Interpreter) -> list[NotCompiled]:
    import subprocess

    if not jobs:
        return []
    try:
        done = subprocess.run(
            [python.path, "-I", "-c", _COMPILE_ELSEWHERE],
            input=json.dumps(jobs),
            capture_output=True,
            text=True,
            check=True,
            env=uv_environment(),
        )
    except (OSError, subprocess.CalledProcessError) as err:
        reason = err.stderr.strip().splitlines()[-1:] if isinstance(err, subprocess.CalledProcessError) else [str(err)]
        raise InstallError(
            f"{python.path} cannot compile worker code: {' '.join(reason)}; delete its environment"
        ) from err
    return [NotCompiled(*item) for item in json.loads(done.stdout)]


def sweep(parent: Path, *, prefix: str = ".") -> None:
    """Remove what processes that are gone left unfinished beside the folders of `parent`.

    Only what is older than an hour: the process may live on another host that shares the folder.

    Parameters
    ----------
    parent
        The folder.
    prefix
        How the names of what may be removed begin, in a folder that is not all ours.
    """
    for path in parent.glob(f"{prefix}*.tmp"):
        owner = re.search(r"\.(\d+)\.(old\.)?tmp$", path.name)
        with suppress(OSError):
            if owner and not Path("/proc", owner[1]).exists() and time.time() - os.lstat(path).st_mtime > _OLD_S:
                remove(path)
