"""`Shelf`, pyramids and indexes of tables that have none, made in the background once a picture had to read them whole.

They lie in a cache folder under the sha256 of their table and the names of its
coordinates: they never belong to other bytes, run folders are not touched, and
everything may be removed at any time. What was not used for longest goes when
they take more room than they may.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

from agilab import digest, points
from agilab.errors import AgilabError
from agilab.frozen import sweep
from agilab.paths import make_folder
from agilab.raster.blocks import Table, numbers, open_table
from agilab.raster.picture import Query, Source
from agilab.raster.scan import check

LIMIT_BYTES = 4 << 30
"""How much room pyramids and indexes may take together, unless told otherwise [bytes]."""
LEAST_ROWS = 1 << 20
"""Smaller tables are read as fast as an index of them."""
PYRAMID, INDEX = ".pyramid.npz", ".index.parquet"
_NICE = 10


class Shelf:
    """Makes what is missing, one table after the other, in a thread of low priority.

    Parameters
    ----------
    folder
        Where they lie; made when the first one comes.
    limit_bytes
        How much room they may take [bytes].
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._asked: set[Path] = set()
        self._made: set[Path] = set()
        self._turn = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Source, str, str]] = queue.SimpleQueue()
        self._maker: threading.Thread | None = None
        self._closed = threading.Event()

    def dressed(self, source: Source, query: Query) -> Source:
        """Return a table with the pyramid and the index that there are for the coordinates of a query."""
        if not source.sha256 or source.far is not None:
            return source
        pyramid, index = (_used(self._path(source, query.x, query.y, suffix)) for suffix in (PYRAMID, INDEX))
        return replace(source, pyramid=source.pyramid or pyramid, index=source.index or index)

    def want(self, sources: Iterable[Source], query: Query) -> None:
        """Make what these tables lack for the coordinates of a query, some time soon; asked for once."""
        if query.mark == "lines" or query.x == query.y or self._closed.is_set():
            return
        for source in sources:
            key = self._path(source, query.x, query.y, "")
            with self._turn:
                if not source.sha256 or source.far is not None or key in self._asked:
                    continue
                self._asked.add(key)
                if self._maker is None:
                    # A thread that does not keep the process from ending, whatever it is at.
                    self._maker = threading.Thread(target=self._make_all, name="agilab-shelf", daemon=True)
                    self._maker.start()
            self._waiting.put((source, query.x, query.y))

    @property
    def busy(self) -> bool:
        """Whether something that was asked for is not finished yet."""
        return self._asked != self._made

    def close(self) -> None:
        """Stop making, at the next block of rows. Idempotent."""
        self._closed.set()

    def _path(self, source: Source, x: str, y: str, suffix: str) -> Path:
        return self._folder / f"{source.sha256}.{digest.of_json([x, y])[:16]}{suffix}"

    def _make_all(self) -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # of this thread, on Linux
        while not self._closed.is_set():
            source, x, y = self._waiting.get()
            # A table that cannot be read or has no room here is drawn without, as before.
            with suppress(AgilabError, OSError, pa.ArrowException):
                self._make(source, x, y)
                self._tidy()
            self._made.add(self._path(source, x, y, ""))

    def _make(self, source: Source, x: str, y: str) -> None:
        table = open_table(source.path)
        if (table.rows is not None and table.rows.sum() < LEAST_ROWS) or source.path.stat().st_size < LEAST_ROWS:
            return
        table.check((x, y), numeric=True)
        make_folder(self._folder)
        sweep(self._folder)
        index = self._path(source, x, y, INDEX)
        # Another process may be at the same; whoever is last wins, with the same bytes.
        aside = index.with_name(f".{index.name}.{os.getpid()}.tmp")
        above = aside.with_name(f".{source.sha256}{PYRAMID}.{os.getpid()}.tmp")
        try:
            points.write(aside, self._located(table, x, y), x=x, y=y, pyramid=above)
            for path in (aside, above):
                path.chmod(0o600)
            above.replace(self._path(source, x, y, PYRAMID))
            if not (table.sorted_by_place and table.coordinates == (x, y)):
                aside.replace(index)
        finally:
            for path in (aside, above):
                path.unlink(missing_ok=True)

    def _located(self, table: Table, x: str, y: str) -> Iterator[pa.RecordBatch]:
        """Yield coordinates and row numbers, block by block."""
        row = 0
        for load in table.loads((x, y)):
            check(self._closed.is_set)
            columns = load()
            places = [pa.array(numbers(columns[name])) for name in (x, y)]
            count = len(places[0])
            yield pa.record_batch([*places, pa.array(np.arange(row, row + count))], names=[x, y, "row"])
            row += count

    def _tidy(self) -> None:
        """Remove what was not used for longest until the rest has room."""
        held = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._folder.iterdir())
        size = sum(size_bytes for _, size_bytes, _ in held)
        for _, size_bytes, path in held:
            if size <= self._limit:
                return
            path.unlink(missing_ok=True)
            size -= size_bytes


def _used(path: Path) -> Path | None:
    """Return a file that is there, marked as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return None
    return path
