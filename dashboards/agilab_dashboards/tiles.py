"""How many points lie in each cell, at several levels of detail, packed for a page without a server; it draws nothing.

Cells are those of pyramids (`agilab.points`): between multiples of powers of
two, so that a level is the sum of the one below it. A packed level is a zlib
stream, in base64, of little-endian numbers, one kind after the other::

    uint32  number of each tile, row * columns + column, ascending; empty ones are left out
    uint32  how many cells it has that are not empty
    uint16  place of each of these in its tile, row * 256 + column, ascending
    uint8, uint16 or uint32   how many points lie in it
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agilab.raster.blocks import numbers, open_table
from agilab.raster.grid import Box, Lattice
from agilab.raster.picture import Source
from agilab.raster.pyramids import Pyramid, coarser
from agilab_dashboards.outlines import LINES

TILE = 256
"""Columns and rows of a tile."""
FINEST = 4
"""How many levels lie below the one that shows everything: cells of a 16th of the width."""
MOST_ROWS = 4_000_000
"""Of more points than that only the pyramids are read."""

_Counts = tuple[Any, Any, Any]
"""Row, column and number of points of each cell that has any, by row and column."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of detail.

    Parameters
    ----------
    lattice
        Its cells.
    tiles, cells, width_bytes
        How many tiles and cells are packed, and how large each count is [bytes].
    most
        The largest count.
    data
        As the module says.
    """

    lattice: Lattice
    tiles: int
    cells: int
    width_bytes: int
    most: int
    data: str

    def to_json(self) -> dict[str, Any]:
        """Return all but the data."""
        (kx, ky), (left, bottom) = self.lattice.exponents, self.lattice.origin
        size = {"columns": self.lattice.columns, "rows": self.lattice.rows, "most": self.most}
        packed = {"tiles": self.tiles, "cells": self.cells, "width": self.width_bytes}
        return {"kx": kx, "ky": ky, "left": left, "bottom": bottom, **size, **packed}


@dataclass(frozen=True, slots=True)
class Counted:
    """Points of a dataset, counted for a viewer.

    Parameters
    ----------
    box
        Left, bottom, right, top of all of them.
    labels
        Of both axes.
    levels
        The coarsest first.
    equal
        Whether a unit is as long on both axes.
    lines
        Coasts and borders, shape (point, 2), with a row of NaN after each.
    """

    box: Box
    labels: tuple[str, str]
    levels: tuple[Level, ...]
    equal: bool
    lines: Any = field(default_factory=lambda: np.empty((0, 2)))

    @property
    def sharp(self) -> int:
        """How far one can zoom in before cells are larger than at the beginning."""
        return 1 << (len(self.levels) - 1)

    def to_json(self) -> dict[str, Any]:
        """Return all but the data."""
        digits = 4 - math.floor(math.log10(self.box[2] - self.box[0] or 1))  # a ten-thousandth of what is shown
        lines = [None if math.isnan(one) else round(one, digits) for one in self.lines.ravel().tolist()]
        levels = [level.to_json() for level in self.levels]
        shape = {"box": _widened(self.box), "equal": self.equal, "labels": self.labels}
        return {**shape, "levels": levels, "lines": lines}

    def picture(self) -> bytes:
        """Return the coarsest level as a PNG with axes and a colour bar."""
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure

        level = self.levels[0]
        counts = _dense(level)
        figure = Figure(figsize=(10, 4.8), dpi=100, layout="constrained")
        axes = figure.add_subplot()
        axes.plot(*self.lines.T, color=LINES, linewidth=0.6)
        (kx, ky), (left, bottom) = level.lattice.exponents, level.lattice.origin
        ends = [np.ldexp(left, kx), np.ldexp(left + level.lattice.columns, kx)]
        ends += [np.ldexp(bottom, ky), np.ldexp(bottom + level.lattice.rows, ky)]
        shown = axes.imshow(
            np.where(counts > 0, counts, np.nan),
            origin="lower",
            extent=tuple(map(float, ends)),
            aspect="equal" if self.equal else "auto",
            norm=LogNorm(1, max(level.most, 2)),
            interpolation="nearest",
        )
        axes.set(xlabel=self.labels[0], ylabel=self.labels[1], xlim=ends[:2], ylim=ends[2:])
        figure.colorbar(shown, label="points per cell")
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
        return out.getvalue()


def bounds(sources: Sequence[Source], places: tuple[str, str]) -> Box | None:
    """Return left, bottom, right and top of all points, as their files have recorded them here; None else."""
    if any(source.far is not None for source in sources):
        return None
    found = [[open_table(source.path).bounds(name) for source in sources] for name in places]
    if not sources or any(one is None or np.isnan(one[:, 0]).all() for column in found for one in column):
        return None
    ends = [(float(np.nanmin(low)), float(np.nanmax(high))) for low, high in (_ends(column) for column in found)]
    box = ends[0][0], ends[1][0], ends[0][1], ends[1][1]
    return box if np.isfinite(box).all() else None


def _ends(column: Sequence[Any]) -> tuple[Any, Any]:
    every = np.concatenate(column)
    every = every[np.isfinite(every).all(axis=1)]
    return (every[:, 0], every[:, 1]) if len(every) else (np.array([np.nan]), np.array([np.nan]))


def levels(
    sources: Sequence[Source], places: tuple[str, str], *, box: Box, size: tuple[int, int], limit_bytes: int
) -> tuple[Level, ...]:
    """Count points on a lattice for a view, and on ever finer ones as far as the points and the limit allow.

    Parameters
    ----------
    sources
        The tables, with their pyramids.
    places
        Names of the coordinate columns.
    box
        Left, bottom, right, top of what is shown.
    size
        Columns and rows of the view at its coarsest [px].
    limit_bytes
        How large all levels may be together [bytes]; the coarsest is kept in any case.

    Returns
    -------
    tuple of Level
        The coarsest first; empty where there is no point, or nothing to count fast.
    """
    base = Lattice.over(box, *size)
    wanted = Lattice.over(box, size[0] << FINEST, size[1] << FINEST)
    tables = [open_table(source.path) for source in sources]
    rows = sum(int(table.rows.sum()) if table.rows is not None else MOST_ROWS + 1 for table in tables)
    if rows <= MOST_ROWS:
        parts = _counted(tables, places, wanted)
    else:
        pyramids = [Pyramid(source.pyramid) for source in sources if source.pyramid is not None]
        if len(pyramids) < len(sources):
            return ()
        reach = [pyramid.finest.exponents for pyramid in pyramids if pyramid.finest is not None]
        least = max(x for x, _ in reach), max(y for _, y in reach)
        wanted = Lattice.over(box, size[0] << FINEST, size[1] << FINEST, least=least)
        parts = (_filled(pyramid.counts(wanted)) for pyramid in pyramids)
    counts = _sum(parts, wanted)
    made: list[Level] = []
    lattice = wanted
    while len(counts[0]):
        made.append(_packed(counts, lattice))
        if lattice.exponents[0] >= base.exponents[0] and lattice.exponents[1] >= base.exponents[1]:
            break
        lattice = coarser(lattice)
        counts = _coarser(counts, made[-1].lattice, lattice)
    while len(made) > 1 and sum(len(level.data) for level in made) > limit_bytes:
        del made[0]
    return tuple(reversed(made))


def _counted(tables: Sequence[Any], places: tuple[str, str], lattice: Lattice) -> Iterator[_Counts]:
    """Yield the counts of every block of some tables."""
    for table in tables:
        for load in table.loads(places):
            columns = load()
            found = [numbers(columns[name]).astype(np.float64) for name in places]
            known = np.isfinite(found[0]) & np.isfinite(found[1])
            column, row = (
                np.floor(np.ldexp(place[known], -lattice.exponents[which])).astype(np.int64) - lattice.origin[which]
                for which, place in enumerate(found)
            )
            inside = (row >= 0) & (row < lattice.rows) & (column >= 0) & (column < lattice.columns)
            cells, count = np.unique(row[inside] * lattice.columns + column[inside], return_counts=True)
            yield (*np.divmod(cells, lattice.columns), count)


def _filled(counts: Any) -> _Counts:
    rows, columns = np.nonzero(counts)
    return rows, columns, counts[rows, columns].astype(np.int64)


def _sum(parts: Iterator[_Counts], lattice: Lattice) -> _Counts:
    found = list(parts)
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    row, column, count = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    cells, place = np.unique(row * lattice.columns + column, return_inverse=True)
    return (*np.divmod(cells, lattice.columns), np.bincount(place, count, len(cells)).astype(np.int64))


def _coarser(counts: _Counts, old: Lattice, new: Lattice) -> _Counts:
    row, column, count = counts
    shift = [b - a for a, b in zip(old.exponents, new.exponents, strict=True)]
    column = ((column + old.origin[0]) >> shift[0]) - new.origin[0]
    row = ((row + old.origin[1]) >> shift[1]) - new.origin[1]
    return _sum(iter([(row, column, count)]), new)


def _packed(counts: _Counts, lattice: Lattice) -> Level:
    row, column, count = counts
    across = -(-lattice.columns // TILE)
    tile = (row // TILE) * across + column // TILE
    place = (row % TILE) * TILE + column % TILE
    order = np.lexsort((place, tile))
    tiles, sizes = np.unique(tile, return_counts=True)
    most = int(count.max())
    width = 1 if most < 1 << 8 else 2 if most < 1 << 16 else 4
    data = b"".join(
        (
            tiles.astype("<u4").tobytes(),
            sizes.astype("<u4").tobytes(),
            place[order].astype("<u2").tobytes(),
            count[order].astype(f"<u{width}").tobytes(),
        )
    )
    return Level(lattice, len(tiles), len(row), width, most, base64.b64encode(zlib.compress(data, 6)).decode())


def _dense(level: Level) -> Any:
    """Return the counts of a level, shape (y, x)."""
    data = zlib.decompress(base64.b64decode(level.data))
    ends = np.cumsum([0, 4 * level.tiles, 4 * level.tiles, 2 * level.cells, level.width_bytes * level.cells])
    kinds = ("<u4", "<u4", "<u2", f"<u{level.width_bytes}")
    tiles, sizes, place, count = (
        np.frombuffer(data[a:b], kind).astype(np.int64) for a, b, kind in zip(ends, ends[1:], kinds, strict=False)
    )
    tile = np.repeat(tiles, sizes)
    across = -(-level.lattice.columns // TILE)
    found = np.zeros((level.lattice.rows, level.lattice.columns), np.int64)
    found[tile // across * TILE + place // TILE, tile % across * TILE + place % TILE] = count
    return found


def _widened(box: Box) -> Box:
    """Return a box that is not flat."""
    left, bottom, right, top = box
    wide, high = (right - left) or abs(left) or 1.0, (top - bottom) or abs(bottom) or 1.0
    flat, low = right == left, top == bottom
    return (
        *(left - wide / 2 * flat, bottom - high / 2 * low),
        *(right + wide / 2 * flat, top + high / 2 * low),
    )
