"""What takes how much disk, and how a run is removed; what nothing needs any more is `cleanup`'s to know."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from agilab.errors import AgilabError, HomeError, RunNotFoundError, RunStateError
from agilab.owner import hold_owner, probe_owner, read_owner
from agilab.paths import HomePaths, WenvPaths
from agilab.run import Run, RunStore

_BLOCK_BYTES = 512  # what st_blocks counts, whatever the blocks of the file system are
_JUST_MADE_S = 60


@dataclass(frozen=True, slots=True)
class Size:
    """How much disk something takes.

    Parameters
    ----------
    used_bytes
        What its files take [bytes]; a file with several names counts once.
    freed_bytes
        What removing it gives back [bytes]: not files that have a name elsewhere too, such as in uv's cache.
    """

    used_bytes: int = 0
    freed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class AppUse:
    """What one app takes.

    Parameters
    ----------
    app
        Its name.
    runs
        How many it has.
    run_size, package_size
        Its run folders, its worker packages.
    """

    app: str
    runs: int
    run_size: Size
    package_size: Size


def measure(*paths: Path) -> Size:
    """Return what files and folders take together; what cannot be read counts for nothing."""
    used = freed = 0
    names: dict[tuple[int, int], int] = {}
    folders: list[str] = []

    def add(state: os.stat_result, *, is_folder: bool) -> None:
        nonlocal used, freed
        size = state.st_blocks * _BLOCK_BYTES
        if is_folder or state.st_nlink == 1:
            used, freed = used + size, freed + size
            return
        key = (state.st_dev, state.st_ino)
        names[key] = names.get(key, 0) + 1
        used += size if names[key] == 1 else 0
        freed += size if names[key] == state.st_nlink else 0

    for path in paths:
        with suppress(OSError):
            is_folder = path.is_dir() and not path.is_symlink()
            add(os.lstat(path), is_folder=is_folder)
            folders += [str(path)] if is_folder else []
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                add(entry.stat(follow_symlinks=False), is_folder=is_folder)
                if is_folder:
                    folders.append(entry.path)
    return Size(used, freed)


def by_app(home: HomePaths, wenv: WenvPaths) -> tuple[AppUse, ...]:
    """Return what each app takes that has runs or worker packages here, by name."""
    runs: dict[str, int] = {}
    for _, app, _ in RunStore(home).folders():
        runs[app] = runs.get(app, 0) + 1
    packages = {path.name.removesuffix("_worker") for path in wenv.root.glob("*_worker") if path.is_dir()}
    return tuple(
        AppUse(app, runs.get(app, 0), measure(home.runs / app), measure(wenv.package(app)))
        for app in sorted(packages | runs.keys())
    )


def shared(home: HomePaths, wenv: WenvPaths) -> dict[str, Size]:
    """Return what all apps share, by what it is."""
    return {
        "worker environments": measure(wenv.environments),
        "runtimes": measure(wenv.runtimes),
        "data sets": measure(home.data),
        "snapshots": measure(home.snapshots),
        "caches": measure(home.cache, home.index),
    }


def remove_run(run: Run) -> None:
    """Remove a run with its folder.

    Raises
    ------
    RunStateError
        It is in use, or may be: its owner was another host.
    RunNotFoundError
        Somebody else has removed it.
    HomeError
        Its folder cannot be changed.
    """
    paths = run.paths
    if probe_owner(paths) == "unknown":
        host = (read_owner(paths) or {}).get("host", "another host")
        raise RunStateError(f"run {run.run_id} may be in use on {host}, where its owner was; remove it there")
    try:
        with ExitStack() as stack:
            if os.path.lexists(paths.owner):
                stack.enter_context(hold_owner(paths))
            elif not os.path.lexists(paths.sums) and time.time() - os.lstat(paths.root).st_mtime < _JUST_MADE_S:
                raise RunStateError(f"run {run.run_id} is just being made; wait for it")
            remove(paths.root)
    except FileNotFoundError as err:
        raise RunNotFoundError(f"run {run.run_id} is not there any more") from err


def remove(path: Path) -> None:
    """Remove a file, or a folder in two steps so that nobody finds half of it; `frozen.sweep` removes what is left.

    Raises
    ------
    FileNotFoundError
        It is not there.
    HomeError
        It cannot be removed.
    """
    aside = path.with_name(f".{path.name[:24]}.{os.getpid()}.tmp")
    try:
        path.rename(aside)
        if aside.is_symlink() or not aside.is_dir():
            aside.unlink()
            return
        try:
            shutil.rmtree(aside)
        except PermissionError:  # a folder that an app has closed
            _open(aside)
            shutil.rmtree(aside)
    except FileNotFoundError:
        raise
    except OSError as err:
        if isinstance(err, AgilabError):
            raise
        raise HomeError(f"{path} cannot be removed: {err.strerror}: {err.filename}; make it writable") from err


def _open(folder: Path) -> None:
    """Let the owner into a folder and all below."""
    folder.chmod(0o700)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _open(Path(entry.path))
