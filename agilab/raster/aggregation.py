"""The picture of some tables, by the cheapest way there is; and one that grows while tables are added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agilab.errors import HostError, QueryError
from agilab.raster import shading
from agilab.raster.blocks import Cache, Table, open_table
from agilab.raster.categories import Categories
from agilab.raster.far import Made, answered, asked, by_host
from agilab.raster.filters import wanted_blocks
from agilab.raster.grid import Box, Grid, Lattice
from agilab.raster.picture import Picture, Query, Source
from agilab.raster.pyramids import Pyramid
from agilab.raster.scan import Cancelled, Scan, around, check, never, threads
from agilab.raster.scan import extent as scanned_extent

PYRAMID_CELLS_PER_ROW = 4
"""A cell of a pyramid is read this much faster than a row of a table."""


def aggregate(
    sources: Iterable[Source], query: Query, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> Picture:
    """Return the picture of some tables.

    Parameters
    ----------
    sources
        The tables.
    query
        What to show.
    cache
        Where decoded columns are kept for the next picture; None to keep none.
    cancelled
        Asked between two pieces of work, from any thread: whether nobody waits for the picture any more.

    Raises
    ------
    SupersededError
        `cancelled` said yes.
    QueryError
        A table has no such column, or what it holds cannot be shown so.
    EvidenceError
        A table cannot be read.
    InstallError
        Datashader is not installed.
    HostError
        Every host that holds the tables is lost; of only some, the picture says so.
    """
    return alike([tuple(sources)], query, cache=cache, cancelled=cancelled)[0]


def alike(
    several: Iterable[Sequence[Source]], query: Query, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> tuple[Picture, ...]:
    """Return a picture of each of several sets of tables, in the same cells, so that one can be taken from the other.

    Parameters
    ----------
    several
        The sets.
    query, cache, cancelled
        As for `aggregate`.
    """
    found = [tuple(sources) for sources in several]
    every = [source for sources in found for source in sources]
    if query.x_range is None or query.y_range is None:
        box = extent(every, query.x, query.y, cache=cache, cancelled=cancelled)
        left, bottom, right, top = padded(box or (0.0, 0.0, 1.0, 1.0))
        query = replace(query, x_range=query.x_range or (left, right), y_range=query.y_range or (bottom, top))
    grid = _grid(query, every, cache, cancelled)
    pictures = []
    for sources in found:
        made = Aggregation(query, cache=cache, grid=grid)
        made.add(sources, cancelled=cancelled)
        pictures.append(made.picture())
    return tuple(pictures)


def extent(
    sources: Iterable[Source], x: str, y: str, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> Box | None:
    """Return left, bottom, right, top of all points that have a place; None when there is none.

    Parameters
    ----------
    sources
        The tables.
    x, y
        Columns of the coordinates.
    cache, cancelled
        As for `aggregate`; used where nobody has recorded it, so that the columns have to be read.
    """
    hosts = by_host(sources)
    boxes = answered(hosts, lambda far, some: far.extent(some, x, y, cancelled))
    for source in hosts.get(None, ()):
        table = _opened(source.path, cache)
        table.check((x, y), numeric=True)
        box = _recorded(table, x, y)
        boxes.append(scanned_extent(table, x, y, cancelled=cancelled) if box is None else box)
    return around([box for box in boxes if box is not None and box[0] <= box[2]])


def weigh(
    sources: Iterable[Source], query: Query, *, cache: Cache | None = None, cancelled: Cancelled = never
) -> tuple[int, int]:
    """Return how many rows pyramids spare a query with ranges, and how many rows' work they cost instead.

    Parameters
    ----------
    sources, query, cache, cancelled
        As for `aggregate`.
    """
    if not query.counts_all:
        return 0, 0
    hosts = by_host(sources)
    answers, _ = asked(hosts, lambda far, some: far.weigh(some, query, cancelled))
    spared, cost = (sum(numbers) for numbers in zip((0, 0), *answers.values(), strict=True))
    (left, right), (bottom, top) = _ranges(query)
    lattice = Lattice.over((left, bottom, right, top), query.width, query.height)
    for source in _dressed(hosts.get(None, ()), query, cache):
        if _pyramid(source, query, lattice, cache) is not None:
            table = _placed(source, _opened(source.path, cache), query, cache)
            blocks = wanted_blocks(table, {query.x: (left, right), query.y: (bottom, top)})
            spared += int(table.rows[blocks].sum()) if table.rows is not None else 1 << 40
            cost += lattice.columns * lattice.rows // PYRAMID_CELLS_PER_ROW
    return spared, cost


def padded(box: Box) -> Box:
    """Return a box that has an extent: where all lies on one line, half a unit is added on both sides."""
    left, bottom, right, top = box
    if left == right:
        pad = max(0.5, abs(left) * 2**-20)
        left, right = left - pad, right + pad
    if bottom == top:
        pad = max(0.5, abs(bottom) * 2**-20)
        bottom, top = bottom - pad, top + pad
    return left, bottom, right, top


class Aggregation:
    """A picture that grows: tables are added as they come, and none is read twice.

    Without a range in the query it shows everything there is so far: its bounds
    grow, and its cells with them, so that they never are larger than a pixel.

    Parameters
    ----------
    query
        What to show.
    cache
        Where decoded columns are kept for the next picture; None to keep none.
    grid
        Its cells, where they are known; only for a query with ranges.
    """

    def __init__(self, query: Query, *, cache: Cache | None = None, grid: Grid | None = None) -> None:
        self.query = query
        self._cache = cache
        self._grid: Grid | None = None
        self._box: Box | None = None
        self._parts: shading.Parts = {}
        self._categories = Categories(query.by, chosen=query.categories) if query.by is not None else None
        self._added: set[str] = set()
        self._ways: set[str] = set()
        self._rows_read = 0
        self._lost: dict[str, str] = {}
        if grid is not None:
            self._start(grid)

    def add(self, sources: Iterable[Source], *, cancelled: Cancelled = never) -> int:
        """Add the tables that are not in it yet and return how many; each is added whole or not at all.

        Parameters
        ----------
        sources
            All tables there are, or those that have come since.
        cancelled
            As for `aggregate`.
        """
        new = [source for source in sources if source.name not in self._added]
        hosts = by_host(new)
        for source in hosts.get(None, ()):
            self._checked(source)
        self._settle(new, cancelled)
        grid = self._grid
        if grid is None:
            self._added |= {source.name for source in hosts.get(None, ())}  # they have no point at all
            return len(hosts.get(None, ()))
        before = len(self._added)
        with ThreadPoolExecutor(threads() + len(hosts), "agilab-raster") as pool:
            waiting: list[tuple[Sequence[Source], Future[Made]]] = [
                (some, pool.submit(far.parts, some, self.query, grid, cancelled))
                for far, some in hosts.items()
                if far is not None
            ]
            here = _dressed(hosts.get(None, ()), self.query, self._cache)
            waiting += [([one], pool.submit(self._made, one, grid, cancelled)) for one in here]
            try:
                for some, future in waiting:
                    self._take(some, future)
            finally:
                for _, future in waiting:
                    future.cancel()
        return len(self._added) - before

    def partial(self) -> Made:
        """Return what is in it as it stands, to be added to others."""
        names = self._categories.names if self._categories is not None else []
        layers = next(iter(self._parts.values())).shape[2] if self._categories is not None else 0
        return Made(self._parts, tuple(names[:layers]), frozenset(self._ways), self._rows_read)

    def picture(self) -> Picture:
        """Return the picture as it is now; what is added later does not change it."""
        grid = self._grid or Grid((0.0, 0.0, 1.0, 1.0), self.query.width, self.query.height)
        names = list(self._categories.names) if self._categories is not None else []
        parts = self._parts or shading.empty(self.query.reduction, grid, 0 if self._categories else None)
        values = np.array(shading.result(parts, self.query.reduction))
        if self._categories is not None:
            names = names[: values.shape[2]]
            order = sorted(range(len(names)), key=names.__getitem__)
            values, names = values[:, :, order], [names[place] for place in order]
        way = " + ".join(sorted(self._ways - {""}))
        return Picture(
            values,
            grid.bounds,
            tuple(names),
            way=way,
            rows_read=self._rows_read,
            sources=len(self._added),
            missing=tuple(self._lost.values()),
        )

    def _take(self, some: Sequence[Source], future: Future[Made]) -> None:
        """Add the partial aggregate of some tables of one host, or remember that it is lost."""
        far = some[0].far
        try:
            made = future.result()
        except HostError as err:
            assert far is not None
            tables = "1 table is" if len(some) == 1 else f"{len(some)} tables are"
            self._lost[far.name] = f"{tables} not in the picture: {err}"
            return
        if far is not None:
            self._lost.pop(far.name, None)
        parts = made.parts
        if far is not None and self._categories is not None:
            parts = shading.laid(parts, self._categories.places(made.names), self.query.reduction)
        shading.merge(self._parts, parts)
        self._ways |= made.ways
        self._rows_read += made.rows_read
        self._added |= {source.name for source in some}

    def _checked(self, source: Source) -> Table:
        table = _opened(source.path, self._cache)
        query = self.query
        table.check(query.columns)
        table.check([name for name in (query.x, query.y, query.value) if name is not None], numeric=True)
        if query.mark == "lines" and table.sorted_by_place:
            raise QueryError(f"the rows of {source.name} are sorted by place, so its lines are gone; use order=None")
        return table

    def _made(self, source: Source, grid: Grid, cancelled: Cancelled) -> Made:
        """Return the partial aggregate of a table that lies here."""
        check(cancelled)
        query = self.query
        pyramid = _pyramid(source, query, grid.lattice, self._cache)
        if pyramid is not None and grid.lattice is not None:
            return Made({"count": pyramid.counts(grid.lattice)}, (), frozenset(("pyramid",)), 0)
        table = self._checked(source)
        box = extent([source], query.x, query.y, cache=self._cache, cancelled=cancelled) if query.period else None
        scan = Scan(query, grid, categories=self._categories, cancelled=cancelled)
        parts = scan.run(_placed(source, table, query, self._cache), box)
        if scan.way == "scan" and self._cache is not None and self._cache.shelf is not None:
            self._cache.shelf.want([source], query)
        return Made(parts, (), frozenset((scan.way,)), scan.rows_read)

    def _settle(self, new: Sequence[Source], cancelled: Cancelled) -> None:
        """Choose the cells, or enlarge them; there are none before there is a point to show."""
        query = self.query
        if query.x_range is not None and query.y_range is not None:
            if self._grid is None:
                self._start(_grid(query, new, self._cache, cancelled))
            return
        found = extent(new, query.x, query.y, cache=self._cache, cancelled=cancelled)
        box = around([box for box in (self._box, found) if box is not None])
        if box is None:
            return
        (left, right), (bottom, top) = query.x_range or box[::2], query.y_range or box[1::2]
        old = self._grid.lattice if self._grid is not None else None
        least = old.exponents if old is not None else None
        lattice = Lattice.over((left, bottom, right, top), query.width, query.height, least=least)
        if old is None:
            self._start(lattice.grid)
        elif lattice != old:
            self._parts, self._grid = shading.move(self._parts, old, lattice), lattice.grid
        self._box = box

    def _start(self, grid: Grid) -> None:
        self._grid = grid
        self._parts = shading.empty(self.query.reduction, grid, 0 if self._categories is not None else None)


def _grid(query: Query, sources: Sequence[Source], cache: Cache | None, cancelled: Cancelled) -> Grid:
    """Choose the lattice of the pyramids where that is less work, else the cells that were asked for."""
    (left, right), (bottom, top) = _ranges(query)
    exact = Grid((left, bottom, right, top), query.width, query.height)
    spared, cost = weigh(sources, query, cache=cache, cancelled=cancelled)
    return Lattice.over(exact.bounds, query.width, query.height).grid if spared > cost else exact


def _ranges(query: Query) -> tuple[tuple[float, float], tuple[float, float]]:
    assert query.x_range is not None
    assert query.y_range is not None
    return query.x_range, query.y_range


def _pyramid(source: Source, query: Query, lattice: Lattice | None, cache: Cache | None) -> Pyramid | None:
    """Return the pyramid of a table where it has the answer."""
    if source.pyramid is None or lattice is None or not query.counts_all:
        return None
    found: Pyramid = _kept(source.pyramid, cache, Pyramid)
    return found if found.columns == (query.x, query.y) and found.reaches(lattice) else None


def _dressed(sources: Sequence[Source], query: Query, cache: Cache | None) -> Sequence[Source]:
    """Return tables that lie here with what was made of them since they were written."""
    if cache is None or cache.shelf is None:
        return sources
    return [cache.shelf.dressed(source, query) for source in sources]


def _placed(source: Source, table: Table, query: Query, cache: Cache | None) -> Table:
    """Return the index of a table where only places matter, else the table itself."""
    if source.index is None or query.mark == "lines":
        return table
    index = _opened(source.index, cache)
    return index if index.coordinates == query.columns else table


def _recorded(table: Table, x: str, y: str) -> Box | None:
    """Return the extent that is recorded; one whose left is right of its right where no point has a place."""
    wide, high = table.bounds(x), table.bounds(y)
    if wide is None or high is None or not len(wide):
        return None
    left, bottom = float(wide[:, 0].min()), float(high[:, 0].min())
    right, top = float(wide[:, 1].max()), float(high[:, 1].max())
    known = bool(np.isfinite((left, bottom, right, top)).all()) or left > right
    return (left, bottom, right, top) if known else None


def _opened(path: Path, cache: Cache | None) -> Table:
    found: Table = _kept(path, cache, lambda path: open_table(path, cache))
    return found


def _kept(path: Path, cache: Cache | None, read: Callable[[Path], Any]) -> Any:
    """Open a file, or find it open; what its footer says is read once."""
    if cache is None or not path.exists():
        return read(path)
    stat = path.stat()
    key = ("open", str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)
    found = cache.get(key)
    if found is None:
        found = read(path)
        cache.put(key, found, 1 << 16)
    return found
