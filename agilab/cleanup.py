"""What nothing needs any more: found, and removed if it is to be; how something is removed is `disk`'s to know.

In use, and never removed, are: a run that has an owner or may have one; of
every app that is installed the current worker package with its environment
and runtime; and what a run that could be resumed was recorded to use. Where a
run has not recorded it, everything stays that it may be. Installations are
kept waiting meanwhile, so that none begins to use what is about to go.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agilab import frozen, prepared
from agilab.disk import Size, measure, remove, remove_run
from agilab.env import AgiEnv
from agilab.errors import AgilabError, RunNotFoundError, RunStateError
from agilab.history import Query, find, moment
from agilab.home import check_owner
from agilab.package import MANIFEST_NAME, SCHEMA, runtime_digest, runtime_files
from agilab.paths import RunPaths, WenvPaths, read_json
from agilab.request import code_digest
from agilab.rows import NONSENSE, Row
from agilab.run import FINAL_STATES, Run, new_run_id

KINDS = ("run", "worker package", "environment", "runtime", "snapshot", "cache", "temporary file", "data set")
"""What an `Item` can be. Data sets always stay: apps share them, and they may be long to fetch."""

_NAME = re.compile(r"([0-9a-f]{64})(?:-.*)?")
_HOUR_S = 3600
_DAY_S = 86400


@dataclass(frozen=True, slots=True)
class Item:
    """Something that could go.

    Parameters
    ----------
    kind
        One of `KINDS`.
    name
        ``APP/RUN_ID``, ``APP/DIGEST``, a digest or the name of a file.
    path
        Where it is.
    size
        What it takes.
    kept
        Why it stays; empty when it goes.
    """

    kind: str
    name: str
    path: Path
    size: Size
    kept: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "path": str(self.path),
            "size_bytes": self.size.used_bytes,
            "freed_bytes": self.size.freed_bytes,
            "kept": self.kept,
        }


@dataclass(slots=True)
class _Needs:
    """Why something stays, by name: what runs and installed apps use."""

    packages: dict[tuple[str, str], str] = field(default_factory=dict)
    environments: dict[str, str] = field(default_factory=dict)
    runtimes: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, str] = field(default_factory=dict)
    every_package: dict[str, str] = field(default_factory=dict)
    """App -> why all of its packages stay."""
    every_environment: str = ""
    """Why all environments and runtimes stay."""
    every_snapshot: str = ""


def clean(
    env: AgiEnv, *, older_than: str = "", keep_last: int | None = None, dry_run: bool = False
) -> tuple[Item, ...]:
    """Remove what nothing needs, and old runs if that is asked for.

    Parameters
    ----------
    env
        Its folders, and the app projects that are found from here.
    older_than
        Runs may go that were made before a date, a time or an age (`agilab.history.moment`).
    keep_last
        Runs may go, but not the newest so many of each app. With neither of both no run goes, with both the ones
        that both let go. A run with a tag or a note stays.
    dry_run
        Whether all is left as it is.

    Returns
    -------
    tuple of Item
        What has gone, or would have to, and what stays, each with its reason. Runs are listed only if any may go.

    Raises
    ------
    QueryError
        There is no such time.
    HomeError
        AGILAB_HOME or AGILAB_WENV is another program's, or something cannot be removed.
    """
    before = new_run_id(moment(older_than)) if older_than else ""
    check_owner(env.home.root, env.home.marker, "AGILAB_HOME")
    check_owner(env.wenv.root, env.wenv.marker, "AGILAB_WENV")
    items: list[Item] = []
    with ExitStack() as stack:
        busy = () if dry_run else tuple(_hold_installations(env.wenv, stack))
        rows = find(env.home, Query(sort="-started")).rows
        if older_than or keep_last is not None:
            for item in _runs(rows, before, keep_last):
                items.append(_settle(item, dry_run=dry_run))
        gone = {item.path for item in items if not item.kept}
        needs = _needs(env, [row for row in rows if Path(row.folder) not in gone], busy)
        for item in _others(env, needs):
            items.append(_settle(item, dry_run=dry_run))
        if not dry_run:
            made_once = (env.wenv.runtimes, env.home.data, *env.home.runs.glob("*"), *env.wenv.root.glob("*_worker"))
            for folder in made_once:
                frozen.sweep(folder)
    return tuple(items)


def _settle(item: Item, *, dry_run: bool) -> Item:
    """Remove an item unless it stays; return it, with the reason if it stays after all."""
    if item.kept or dry_run:
        return item
    with ExitStack() as stack:
        try:
            if item.kind == "run":
                remove_run(Run(RunPaths(item.path)))
                return item
            if item.kind == "environment" and not _held(item.path.with_name(f"{item.path.name}.lock"), stack):
                return replace(item, kept="it is being built")
            remove(item.path)
        except RunStateError as err:
            return replace(item, kept=str(err))
        except (FileNotFoundError, RunNotFoundError):
            pass  # somebody else was faster
    return item


def _runs(rows: Iterable[Row], before: str, keep_last: int | None) -> Iterator[Item]:
    """Yield every run and whether it may go."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.app] += 1
        kept = ""
        if row.state not in FINAL_STATES and row.state != "lost":
            kept = f"it is {row.state}"
        elif row.tags or row.note:
            kept = "it has tags or a note"
        elif keep_last is not None and seen[row.app] <= keep_last:
            kept = f"it is one of the last {keep_last} of its app"
        elif before and row.run_id >= before:
            kept = "it is not old enough"
        path = Path(row.folder)
        yield Item("run", f"{row.app}/{row.run_id}", path, measure(path), kept)


def _needs(env: AgiEnv, rows: Iterable[Row], busy: Iterable[str]) -> _Needs:
    """Gather what is in use by installed apps and by runs that go on or could be resumed."""
    needs = _Needs()
    for app in busy:
        needs.every_package[app] = needs.every_environment = f"{app} is being installed or cleaned"
    needs.runtimes[runtime_digest(runtime_files())] = "it is that of this installation"
    for folder in env.wenv.root.glob("*_worker"):
        _add_installed(needs, folder)
    for project in env.apps():
        with suppress(AgilabError, OSError):
            needs.snapshots[project.manager_digest()] = f"it is the code of {project.name}"
    for row in rows:
        if row.state in ("succeeded", "unreadable") or _add_recorded(needs, row):
            continue
        if row.state not in FINAL_STATES:
            _add_unrecorded(needs, row, env)
    return needs


def _add_installed(needs: _Needs, folder: Path) -> None:
    """Add the current package of an app, and what it was installed with."""
    app = folder.name.removesuffix("_worker")
    reason = f"{app} is installed with it"
    try:
        needs.packages[app, folder.joinpath("current").readlink().name] = reason
    except OSError:
        return  # nothing is installed: there is no way in
    try:
        record = read_json(folder / MANIFEST_NAME, SCHEMA)
        needs.environments[str(record["environment_digest"])] = reason
        needs.runtimes[str(record["runtime_digest"])] = reason
    except (OSError, AgilabError, *NONSENSE):
        needs.every_environment = f"{folder / MANIFEST_NAME} cannot be read; run agilab install {app}"


def _add_recorded(needs: _Needs, row: Row) -> bool:
    """Add what a run that can go on has recorded to use; False when it has recorded nothing yet."""
    run = Run(RunPaths(Path(row.folder)))
    reason = f"run {row.run_id} is {row.state} and can go on"
    with suppress(AgilabError, OSError, *NONSENSE):
        recorded = prepared.read(run.paths) or run.manifest
        code, environment = recorded["code"], recorded["environment"]
        if code and environment:
            needs.packages[row.app, str(code["worker_digest"])] = reason
            needs.snapshots[str(code["manager_digest"])] = reason
            needs.runtimes[str(code["runtime_digest"])] = reason
            needs.environments[str(environment["digest"])] = reason
        return True
    return False


def _add_unrecorded(needs: _Needs, row: Row, env: AgiEnv) -> None:
    """Add what a run may use that has recorded nothing yet: the code that its request names; any environment."""
    reason = f"run {row.run_id} is {row.state}"
    needs.every_environment = reason
    wanted = ""
    with suppress(AgilabError, OSError, *NONSENSE):
        wanted = str(Run(RunPaths(Path(row.folder))).request["code_digest"])
    packages = {match[1] for path in _folders(env.wenv.package(row.app)) if (match := _NAME.fullmatch(path.name))}
    for manager in (path.name for path in _folders(env.home.snapshots)):
        for worker in packages:
            if code_digest(manager, worker) == wanted:
                needs.snapshots[manager] = needs.packages[row.app, worker] = reason
                return
    needs.every_package[row.app] = needs.every_snapshot = reason


def _others(env: AgiEnv, needs: _Needs) -> Iterator[Item]:
    """Yield everything but runs, with the reason why it stays."""
    home, wenv = env.home, env.wenv
    for package in sorted(wenv.root.glob("*_worker")):
        app = package.name.removesuffix("_worker")
        for path in _folders(package):
            match = _NAME.fullmatch(path.name)
            if match is not None:
                kept = needs.every_package.get(app) or needs.packages.get((app, path.name))
                kept = kept or needs.packages.get((app, match[1]), "")
                yield Item("worker package", f"{app}/{path.name}", path, measure(path), kept)
    for kind, parent, known, otherwise in (
        ("environment", wenv.environments, needs.environments, needs.every_environment),
        ("runtime", wenv.runtimes, needs.runtimes, needs.every_environment),
        ("snapshot", home.snapshots, needs.snapshots, needs.every_snapshot),
    ):
        for path in _folders(parent):
            if _NAME.fullmatch(path.name):
                kept = known.get(path.name) or otherwise or ("it was just made" if _age_s(path) < _HOUR_S else "")
                yield Item(kind, path.name, path, measure(path), kept)
            elif path.name.startswith(".new-") and _age_s(path) > _HOUR_S:
                yield Item("temporary file", path.name, path, measure(path))
    for path in _entries(home.cache):
        yield Item("cache", path.name, path, measure(path))
    for path in _entries(home.tmp):
        kept = "it is younger than a day" if _age_s(path) < _DAY_S else ""
        yield Item("temporary file", path.name, path, measure(path), kept)
    for path in _folders(home.data):
        if _NAME.fullmatch(path.name):
            kept = "data sets stay; delete its folder, and agilab install fetches it again"
            yield Item("data set", path.name, path, measure(path), kept)


def _hold_installations(wenv: WenvPaths, stack: ExitStack) -> Iterator[str]:
    """Keep installations waiting; yield the apps that are being installed just now."""
    for package in wenv.root.glob("*_worker"):
        if not _held(package / ".lock", stack):
            yield package.name.removesuffix("_worker")


def _held(lock: Path, stack: ExitStack) -> bool:
    """Take a lock file until the stack ends, without waiting; False when somebody has it."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _folders(parent: Path) -> list[Path]:
    return [path for path in _entries(parent) if path.is_dir() and not path.is_symlink()]


def _entries(parent: Path) -> list[Path]:
    try:
        return sorted(parent.iterdir())
    except OSError:
        return []


def _age_s(path: Path) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0
