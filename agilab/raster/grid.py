"""The cells of a picture: any range cut into columns and rows, or lines that all pictures share; it fills none.

A `Grid` is what Datashader calls a canvas. A `Lattice` has its lines at
multiples of powers of two, as pyramids have (`agilab.points`), so that what was
counted on one can be added to another, or made coarser, without an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agilab.points import cell, exponent

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Grid:
    """Columns and rows of equal size.

    Parameters
    ----------
    bounds
        Left, bottom, right, top.
    columns, rows
        How many.
    lattice
        The lines it shares with others; None where it has lines of its own.
    """

    bounds: Box
    columns: int
    rows: int
    lattice: Lattice | None = None


@dataclass(frozen=True, slots=True)
class Lattice:
    """Cells between multiples of powers of two: ``2 ** exponents[0]`` wide, ``2 ** exponents[1]`` high.

    Parameters
    ----------
    exponents
        Of x and y.
    origin
        Which multiple the first column and the first row begin at.
    columns, rows
        How many.
    """

    exponents: tuple[int, int]
    origin: tuple[int, int]
    columns: int
    rows: int

    @classmethod
    def over(cls, box: Box, width: int, height: int, *, least: tuple[int, int] | None = None) -> Lattice:
        """Return the coarsest lattice whose cells over a box are no larger than those of so many columns and rows.

        Parameters
        ----------
        box
            Left, bottom, right, top; its edges lie inside.
        width, height
            Columns and rows of the screen.
        least
            Exponents to stay at or above; None for no such limit.
        """
        found = exponent(box[0], box[2], 2 * width), exponent(box[1], box[3], 2 * height)
        if least is not None:
            found = max(found[0], least[0]), max(found[1], least[1])
        left, bottom = cell(box[0], found[0]), cell(box[1], found[1])
        return cls(found, (left, bottom), cell(box[2], found[0]) - left + 1, cell(box[3], found[1]) - bottom + 1)

    @property
    def grid(self) -> Grid:
        """The same as a grid."""
        return self._grid(self.columns, self.rows)

    @property
    def open_grid(self) -> Grid:
        """One column and one row more: what lies on the upper edge belongs to them, as everywhere on the lattice."""
        return self._grid(self.columns + 1, self.rows + 1)

    def _grid(self, columns: int, rows: int) -> Grid:
        (kx, ky), (left, bottom) = self.exponents, self.origin
        corners = math.ldexp(left, kx), math.ldexp(bottom, ky), math.ldexp(left + columns, kx)
        return Grid((*corners, math.ldexp(bottom + rows, ky)), columns, rows, self)


def regrid(array: Array, old: Lattice, new: Lattice, *, add: Callable[..., Any], empty: float) -> Array:
    """Return what lies on a lattice on one that is as coarse or coarser; what lies outside of it is lost.

    Parameters
    ----------
    array
        Shape (y, x) or (y, x, category).
    old, new
        Where it lies, and where it shall.
    add
        The ufunc that makes one cell of several, such as ``numpy.add``.
    empty
        The value of a cell that nothing is known of.
    """
    out = np.full((new.rows, new.columns, *array.shape[2:]), empty, array.dtype)
    target: list[slice] = []
    for axis, (count, size) in ((0, (old.rows, new.rows)), (1, (old.columns, new.columns))):
        which = 1 - axis
        shift = min(new.exponents[which] - old.exponents[which], 62)
        places = ((old.origin[which] + np.arange(count)) >> shift) - new.origin[which]
        inside = np.flatnonzero((places >= 0) & (places < size))
        if not len(inside):
            return out
        first, last = inside[0], inside[-1] + 1
        array = array[first:last] if axis == 0 else array[:, first:last]
        places = places[first:last]
        starts = np.flatnonzero(np.concatenate(([True], places[1:] != places[:-1])))
        if len(starts) < len(places):
            array = add.reduceat(array, starts, axis=axis)  # type: ignore[attr-defined]
        target.append(slice(places[0], places[-1] + 1))
    out[target[0], target[1]] = array
    return out
