"""What a picture of large data is made of, what it shall show and what it is then: three values; it makes none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agilab.errors import ArtifactNotFoundError, QueryError
from agilab.raster.filters import Filter, number
from agilab.raster.grid import Array, Box
from agilab.raster.shading import NEEDS

if TYPE_CHECKING:
    from agilab.raster.far import Far

MOST_CELLS = 1 << 25
"""Largest picture [cells]."""

Range = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A table that a picture is made of.

    Parameters
    ----------
    path
        A parquet, arrow or CSV file.
    key
        What it is called; empty for its path.
    pyramid
        Counts that were made of it before, as `agilab.points` writes them; None for none.
    index
        Its coordinates and row numbers sorted by place, as a points file; None for none.
    sha256
        Of the file; empty where nobody has recorded it.
    far
        The host where all of these lie, which is asked; None for this machine.
    """

    path: Path
    key: str = ""
    pyramid: Path | None = None
    index: Path | None = None
    sha256: str = ""
    far: Far | None = None

    @property
    def name(self) -> str:
        return self.key or str(self.path)


@dataclass(frozen=True, slots=True)
class Query:
    """What a picture shows; times count as nanoseconds since 1970.

    Parameters
    ----------
    x, y
        Columns of the coordinates.
    width, height
        Size of the screen [pixels].
    x_range, y_range
        What is shown, as two numbers or two times; None for everything there is.
    reduction
        ``"count"`` of rows, or ``"sum"``, ``"mean"``, ``"min"``, ``"max"`` of `value`; ``"envelope"`` is what
        `agilab.raster.series` asks for.
    value
        The column that is reduced.
    by
        A column of categories: one layer for each; None for a single layer.
    categories
        Those that have a layer of their own, the rest sharing one called ``"other"``; empty for all there are.
    filters
        Conditions that rows have to meet.
    mark
        ``"points"``, or ``"lines"`` through the rows in their order.
    track
        For lines: a line ends where this column changes; None for one line.
    period
        After how much x begins again, such as 360 for degrees of longitude; None where it does not.
    """

    x: str
    y: str
    width: int = 800
    height: int = 600
    x_range: Range | None = None
    y_range: Range | None = None
    reduction: str = "count"
    value: str | None = None
    by: str | None = None
    categories: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    mark: str = "points"
    track: str | None = None
    period: float | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.width * self.height > MOST_CELLS:
            raise QueryError(f"a picture of {self.width} x {self.height} pixels; allowed: 1 to {MOST_CELLS:,} in all")
        known = [name for name in NEEDS if name != "envelope"]
        if self.reduction not in NEEDS:
            raise QueryError(f"no reduction {self.reduction!r}; choose one of {', '.join(known)}")
        if (self.value is None) != (self.reduction == "count"):
            fault = "needs a column as value" if self.value is None else "takes no value"
            raise QueryError(f"reduction {self.reduction!r} {fault}")
        if self.mark not in ("points", "lines"):
            raise QueryError(f"no mark {self.mark!r}; choose 'points' or 'lines'")
        if self.mark == "lines" and self.by is not None:
            raise QueryError("lines have no layers by category; filter them by value instead")
        if self.track is not None and self.mark != "lines":
            raise QueryError("only lines have a track; choose mark 'lines'")
        for name, limits in (("x_range", self.x_range), ("y_range", self.y_range)):
            if limits is not None:
                object.__setattr__(self, name, _range(limits, name))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        some = (self.x, self.y, self.value, self.by, self.track, *(limit.column for limit in self.filters))
        return tuple(dict.fromkeys(name for name in some if name is not None))

    @property
    def counts_all(self) -> bool:
        """Whether it counts points whatever they are, as pyramids do."""
        plain = self.reduction == "count" and self.by is None and not self.filters
        return plain and self.mark == "points" and self.period is None


@dataclass(frozen=True, slots=True)
class Picture:
    """An aggregate, to be coloured.

    Parameters
    ----------
    values
        Shape (y, x), or (y, x, category) of a query by category; row 0 at the bottom. Counts are unsigned; other
        reductions are NaN where there is no value.
    bounds
        Left, bottom, right, top of the outer cells: what was asked for, or a little more where a pyramid was used.
    categories
        Their names, sorted.
    way
        ``"pyramid"``, ``"index"`` or ``"scan"``, or several joined by ``" + "``; empty where there was nothing to read.
    rows_read
        How many rows were looked at.
    sources
        How many tables are in it.
    missing
        What is not in it, and why: a sentence for each host that could not be asked.
    """

    values: Array
    bounds: Box
    categories: tuple[str, ...] = ()
    way: str = ""
    rows_read: int = 0
    sources: int = 0
    missing: tuple[str, ...] = ()

    def complete(self) -> Picture:
        """Return it, where nothing is missing; for what would mislead otherwise, such as a difference.

        Raises
        ------
        ArtifactNotFoundError
            Says what is missing.
        """
        if self.missing:
            raise ArtifactNotFoundError("; ".join(self.missing))
        return self


def _range(limits: Range, name: str) -> tuple[float, float]:
    low, high = (float(number(value)) for value in limits)
    if not (low < high and high - low < float("inf")):
        raise QueryError(f"{name} goes from {limits[0]} to {limits[1]}; allowed: two numbers, the smaller one first")
    return low, high
