"""`Frame`, what part of the data somebody looks at, on how many pixels, and whether they still wait for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agilab.raster.aggregation import padded
from agilab.raster.grid import Box
from agilab.raster.scan import Cancelled, never

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """What is looked at.

    Parameters
    ----------
    x, y
        Ranges of both axes; of a time, nanoseconds since 1970.
    width_px, height_px
        On how many pixels [px].
    cancelled
        Whether nobody waits for it any more; from any thread.
    """

    x: Range = (0.0, 1.0)
    y: Range = (0.0, 1.0)
    width_px: int = 1000
    height_px: int = 480
    cancelled: Cancelled = field(default=never, compare=False, repr=False)

    @property
    def time(self) -> tuple[Any, Any]:
        """The range of x as times."""
        low, high = np.array(self.x).astype("datetime64[ns]")
        return low, high

    def over(self, box: Box | None) -> Frame:
        """Return the frame around left, bottom, right, top; None leaves it as it is."""
        if box is None:
            return self
        left, bottom, right, top = padded(box)
        return replace(self, x=(left, right), y=(bottom, top))

    def zoomed(self, x: Sequence[Any] | None, y: Sequence[Any] | None) -> Frame:
        """Return the frame with other ranges; one that makes no sense leaves the range as it is."""
        return replace(self, x=_sane(x) or self.x, y=_sane(y) or self.y)

    def filled(self) -> Frame:
        """Return the frame made larger, so that a unit is as long on both axes."""
        per_px = max((self.x[1] - self.x[0]) / self.width_px, (self.y[1] - self.y[0]) / self.height_px)
        return replace(self, x=_about(self.x, per_px * self.width_px), y=_about(self.y, per_px * self.height_px))


def _sane(given: Sequence[Any] | None) -> Range | None:
    if given is None or len(given) != 2 or any(item is None for item in given):
        return None
    low, high = (_number(item) for item in given)
    return (low, high) if math.isfinite(low) and math.isfinite(high) and high > low else None


def _number(value: Any) -> float:
    """Return an end of a range as a number: a time as nanoseconds since 1970."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(np.datetime64(value, "ns").astype(np.int64))
    except (TypeError, ValueError):
        return math.nan


def _about(given: Range, length: float) -> Range:
    middle = (given[0] + given[1]) / 2
    return middle - length / 2, middle + length / 2
