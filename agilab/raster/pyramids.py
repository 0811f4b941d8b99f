"""Reads pyramids of counts (`agilab.points`) onto a lattice; it makes none, and knows no run."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from agilab.errors import EvidenceError
from agilab.raster.grid import Array, Box, Lattice, regrid


class Pyramid:
    """The pyramid in an ``.npz`` file.

    Parameters
    ----------
    path
        The file; a level is read when it is asked for.

    Attributes
    ----------
    columns
        Names of the coordinates it counts by, x and y.
    finest
        The lattice of level 0; None without any point that has a place.
    bounds
        Left, bottom, right, top of the points; None like `finest`.

    Raises
    ------
    EvidenceError
        It cannot be read, or is no pyramid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finest: Lattice | None = None
        self.bounds: Box | None = None
        arrays = self._read("columns", "bounds", "grid")
        if len(arrays) != 3:
            raise EvidenceError(f"{path} is not a pyramid that can be read: it lacks columns, bounds or grid")
        self.columns = tuple(map(str, arrays["columns"]))
        kx, ky, left, bottom, columns, rows = map(int, arrays["grid"])
        if columns:
            self.finest = Lattice((kx, ky), (left, bottom), columns, rows)
            west, south, east, north = map(float, arrays["bounds"])
            self.bounds = west, south, east, north

    def reaches(self, wanted: Lattice) -> bool:
        """Say whether it is as fine as a lattice, so that it knows the counts of all its cells."""
        finest = self.finest
        return finest is None or all(a <= b for a, b in zip(finest.exponents, wanted.exponents, strict=True))

    def counts(self, wanted: Lattice) -> Array:
        """Return how many points lie in each cell of a lattice that it reaches.

        Parameters
        ----------
        wanted
            The lattice.

        Returns
        -------
        numpy.ndarray
            Shape (y, x), unsigned.
        """
        if self.finest is None:
            return np.zeros((wanted.rows, wanted.columns), np.uint32)
        lattice = self.finest
        level = 0
        last = self._levels() - 1
        while level < last and all(a < b for a, b in zip(lattice.exponents, wanted.exponents, strict=True)):
            lattice, level = coarser(lattice), level + 1
        arrays = self._read(f"count_{level}", f"cells_{level}")
        counts = arrays[f"count_{level}"]
        if counts.ndim == 2:
            return regrid(counts.astype(np.uint32), lattice, wanted, add=np.add, empty=0)
        rows, columns = np.divmod(arrays[f"cells_{level}"].astype(np.int64), lattice.columns)
        places = []
        for which, cells in ((0, columns), (1, rows)):
            shift = min(wanted.exponents[which] - lattice.exponents[which], 62)
            places.append(((cells + lattice.origin[which]) >> shift) - wanted.origin[which])
        inside = (places[0] >= 0) & (places[0] < wanted.columns) & (places[1] >= 0) & (places[1] < wanted.rows)
        out = np.zeros(wanted.rows * wanted.columns, np.uint32)
        np.add.at(out, places[1][inside] * wanted.columns + places[0][inside], counts[inside].astype(np.uint32))
        return out.reshape(wanted.rows, wanted.columns)

    def _levels(self) -> int:
        assert self.finest is not None
        lattice, count = self.finest, 1
        with zipfile.ZipFile(self.path) as archive:
            names = set(archive.namelist())
        while f"count_{count}.npy" in names:
            lattice, count = coarser(lattice), count + 1
        return count

    def _read(self, *names: str) -> dict[str, Array]:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return {name: archive[name] for name in names if name in archive.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as err:
            raise EvidenceError(f"{self.path} is not a pyramid that can be read: {err}") from err


def coarser(lattice: Lattice) -> Lattice:
    """Return the lattice with cells of twice the size that covers the same."""
    (kx, ky), (left, bottom) = lattice.exponents, lattice.origin
    columns = (left + lattice.columns - 1 >> 1) - (left >> 1) + 1
    rows = (bottom + lattice.rows - 1 >> 1) - (bottom >> 1) + 1
    return Lattice((kx + 1, ky + 1), (left >> 1, bottom >> 1), columns, rows)
