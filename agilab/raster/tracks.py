"""Lines through rows in their order: where one track ends and the next begins, and how blocks join; it draws none."""

from __future__ import annotations

from typing import Any

import numpy as np

from agilab.raster.grid import Array
from agilab.raster.shading import Rows


class Track:
    """Joins blocks of rows to lines, one block after the other.

    Parameters
    ----------
    period
        After how much x begins again, such as 360 degrees: a step of more than half of it interrupts the line;
        None where x does not.
    """

    def __init__(self, period: float | None = None) -> None:
        self._period = period
        self._last: tuple[Any, ...] | None = None
        self._drawn_to_last = False

    def join(self, rows: Rows, tracks: Array | None) -> Rows:
        """Return what to draw of a block: with the end of the last one, and NaN where a line ends.

        A line that goes on begins with a step of no length and no value.
        Datashader draws the first point of a line, which the last block has
        drawn already; a point without a value changes nothing.

        Parameters
        ----------
        rows
            The block; without values every row counts 1.
        tracks
            Which track each row belongs to; None where all belong to one.
        """
        value = np.ones(len(rows.x)) if rows.value is None else rows.value
        track = np.zeros(len(rows.x)) if tracks is None else tracks
        columns = [rows.x.astype(np.float64), rows.y.astype(np.float64), value, track]
        if self._last is not None:
            columns = [np.concatenate(([last], column)) for last, column in zip(self._last, columns, strict=True)]
        x, y, value, track = columns
        breaks = track[1:] != track[:-1]
        if self._period is not None:
            breaks |= np.abs(np.diff(x)) > self._period / 2
        linked = ~breaks & np.isfinite(x[1:] - x[:-1]) & np.isfinite(y[1:] - y[:-1])
        goes_on = self._last is not None and self._drawn_to_last and bool(linked[:1].any())
        if len(rows.x):
            self._last = tuple(column[-1] for column in columns)
            self._drawn_to_last = bool(linked[-1:].any())
        places = np.flatnonzero(breaks) + 1
        x, y, value = (np.insert(column, places, np.nan) for column in (x, y, value))
        if goes_on:
            first = (x[0], y[0], np.nan)
            x, y, value = (np.concatenate(([at], column)) for at, column in zip(first, (x, y, value), strict=True))
        return Rows(x, y, value)
