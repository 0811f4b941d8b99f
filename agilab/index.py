"""``AGILAB_HOME/index.sqlite``: what the folders of final runs said, for as long as they have not changed since.

The folders are the truth. Whatever is wrong with the index costs time only:
one that is missing, locked, damaged or of another version is one that knows
nothing, and one that cannot be written is not written. Runs that are not
final are never in it.

A folder counts as unchanged while its own change time is the same, and that
of its tags. Before a row is shown, the seal and the manifest are looked at as
well (`Index.row`). A change within a tick of the file system's clock would
leave no trace, so that what changed within the last second is not kept.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any, NamedTuple

from agilab.paths import HomePaths
from agilab.rows import NONSENSE, Row
from agilab.run import FINAL_STATES

VERSION = 1
WAIT_S = 0.25
"""How long another process that writes is waited for [s]."""
SETTLED_NS = 1_000_000_000

_TABLE = """
create table if not exists run (
    key text primary key, changed integer, beside text, seal text,
    state text, duration_s real, tags text, settings text, metrics text, rest text
)
"""
_INSERT = f"insert or replace into run values ({', '.join('?' * 10)})"


_decode = json.JSONDecoder().raw_decode  # a third faster than json.loads, which counts ten thousand times


class Facts:
    """What a query looks at, with the names that a `Row` has; JSON texts are parsed when they are asked for."""

    __slots__ = ("_metrics", "_settings", "_tags", "duration_s", "state")

    def __init__(self, state: str, duration_s: float | None, *texts: str) -> None:
        self.state, self.duration_s = state, duration_s
        self._tags, self._settings, self._metrics = texts

    @property
    def tags(self) -> tuple[str, ...]:
        """The run's tags."""
        return tuple(json.loads(self._tags)) if self._tags else ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings as they are nested."""
        found: dict[str, Any] = _decode(self._settings)[0]
        return found

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The run's metrics."""
        found: dict[str, Any] = _decode(self._metrics)[0]
        return found


class Stamp(NamedTuple):
    """How one sees that a run folder has changed; made by `stamp_of`."""

    changed: int
    beside: str
    seal: str
    newest: int


class Index:
    """The index of a home, as a context manager: opened when it is entered, written when it is left.

    Parameters
    ----------
    home
        AGILAB_HOME; when it is not there it is not made.
    """

    def __init__(self, home: HomePaths) -> None:
        self._home = home
        self._runs = str(home.runs)
        self._connection: sqlite3.Connection | None = None
        self._new: list[tuple[Any, ...]] = []
        self._gone: list[str] = []

    def __enter__(self) -> Index:
        try:
            self._connection = _connect(self._home)
        except sqlite3.Error as err:
            self.distrust(err)
        return self

    def __exit__(self, *error: object) -> None:
        connection = self._connection
        if connection is None:
            return
        with closing(connection):
            if self._new or self._gone:
                try:
                    with connection:
                        connection.execute("begin immediate")
                        connection.executemany("delete from run where key = ?", [(key,) for key in self._gone])
                        connection.executemany(_INSERT, self._new)
                except sqlite3.Error as err:
                    self.distrust(err)

    def facts(self, wanted: Collection[str], *, app: str, complete: bool) -> Iterator[tuple[str, Facts]]:
        """Yield key and facts of runs that are known and whose folders have not changed.

        Parameters
        ----------
        wanted
            Keys, ``APP/RUN_ID``; others are passed over.
        app
            Whose runs these are; empty for those of all apps.
        complete
            Whether these are all runs that there are of the app, so that others can be forgotten.
        """
        columns = "key, changed, beside, state, duration_s, tags, settings, metrics"
        where, values = ("where key >= ? and key < ?", (f"{app}/", f"{app}0")) if app else ("", ())
        rows = self._select(f"{columns} from run {where}", values)
        lstat, root = os.lstat, self._runs
        # Row by row, and none is kept: ten thousand of them at once would keep Python's collector busy.
        for key, changed, beside, *said in rows:
            if key not in wanted:
                self._gone += [key] if complete else []
            else:
                folder = f"{root}/{key}"
                try:
                    same = lstat(folder).st_ctime_ns == changed and (not beside or _beside(folder) == beside)
                except OSError:
                    self._gone.append(key)
                    continue
                if same:
                    yield key, Facts(*said)

    def row(self, key: str) -> Row | None:
        """Return the row of a run, if nothing that it was made from has changed."""
        columns = "changed, beside, seal, state, duration_s, tags, settings, metrics, rest"
        for changed, beside, seal, state, duration_s, tags, settings, metrics, rest in self._select(
            f"{columns} from run where key = ?", (key,)
        ):
            folder = self.folder(key)
            stamp = stamp_of(folder)
            if stamp is None or stamp[:3] != (changed, beside, seal):
                return None
            app, _, run_id = key.partition("/")
            try:
                return Row(
                    run_id=run_id,
                    app=app,
                    state=state,
                    folder=folder,
                    duration_s=duration_s,
                    tags=tuple(json.loads(tags)) if tags else (),
                    settings=json.loads(settings),
                    metrics=json.loads(metrics),
                    **json.loads(rest),
                )
            except NONSENSE as err:
                self.distrust(err)
        return None

    def folder(self, key: str) -> str:
        """Return the path of a run folder."""
        return f"{self._runs}/{key}"

    def keep(self, key: str, row: Row, stamp: Stamp | None) -> None:
        """Note a row, as it was read after the stamp was taken; one that is not final, or too new, is not kept."""
        if stamp is None or row.state not in FINAL_STATES or time.time_ns() - stamp.newest < SETTLED_NS:
            return
        rest = {name: getattr(row, name) for name in _REST}
        tags = json.dumps(row.tags) if row.tags else ""
        texts = [json.dumps(value) for value in (row.settings, row.metrics, rest)]
        self._new.append((key, *stamp[:3], row.state, row.duration_s, tags, *texts))

    def _select(self, what: str, values: tuple[object, ...]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a selection; none any more once something is wrong."""
        if self._connection is not None:
            try:
                yield from self._connection.execute(f"select {what}", values)
            except sqlite3.Error as err:
                self.distrust(err)

    def distrust(self, error: Exception) -> None:
        """Go on without the index after an error, and remove one that is damaged."""
        connection, self._connection = self._connection, None
        self._new, self._gone = [], []
        if connection is not None:
            connection.close()
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code not in _NOT_DAMAGED:
            with suppress(OSError):
                self._home.index.unlink()


_NOT_DAMAGED = frozenset(
    (
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM),
    )
)
"""Errors that say nothing about the file: somebody else writes, it may not be written, the disk is full."""
_REST = (
    *("error", "created", "started", "ended", "planned", "committed"),
    *("artifacts", "artifact_bytes", "request_digest", "note"),
)


def stamp_of(folder: str) -> Stamp | None:
    """Return what shows that a run folder has not changed; None when it has no seal."""
    try:
        root = os.lstat(folder)
        found = [os.lstat(f"{folder}/{name}") for name in ("manifest-sha256.txt", "run_manifest.json")]
    except OSError:
        return None
    newest = [item.st_ctime_ns for item in (root, *found)]
    beside = _beside(folder)
    if beside:
        newest.append(int(beside.rpartition(":")[2] or 0))
    return Stamp(root.st_ctime_ns, beside, " ".join(map(_text, found)), max(newest))


def _beside(folder: str) -> str:
    """Return what shows that the tags have not changed; empty when the run has no sidecar."""
    try:
        return _text(os.lstat(f"{folder}/sidecar/tags.json"))
    except OSError:
        return ":" if os.path.lexists(f"{folder}/sidecar") else ""


def _text(state: os.stat_result) -> str:
    return f"{state.st_ino}:{state.st_size}:{state.st_ctime_ns}"


def _connect(home: HomePaths) -> sqlite3.Connection | None:
    path = str(home.index)
    with suppress(OSError):  # made here and not by SQLite, so that nobody else can read it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
    except OSError:
        return None
    mode = "rw" if os.access(path, os.W_OK) and os.access(home.root, os.W_OK) else "ro"
    uri = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{uri}?mode={mode}", uri=True, timeout=WAIT_S, isolation_level=None)
    try:
        (version,) = connection.execute("pragma user_version").fetchone()
        if version != VERSION:
            if mode == "ro":
                connection.close()
                return None
            connection.execute("begin immediate")
            connection.execute("drop table if exists run")
            connection.execute(_TABLE)
            connection.execute(f"pragma user_version = {VERSION}")
            connection.execute("commit")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
