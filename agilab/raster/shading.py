"""Turns columns into partial aggregates on a grid with Datashader, and partial aggregates into one; it reads nothing.

A partial aggregate is a dictionary of arrays, which add up: ``count`` and
``sum`` by addition, ``min`` and ``max`` by the smaller and the larger value.
This is the only module that knows Datashader.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agilab.errors import InstallError
from agilab.raster.grid import Array, Grid, Lattice, regrid

Parts = dict[str, Array]
"""Name of a reduction -> shape (y, x), or (y, x, category)."""

NEEDS: Mapping[str, tuple[str, ...]] = {
    "count": ("count",),
    "sum": ("sum", "count"),
    "mean": ("sum", "count"),
    "min": ("min",),
    "max": ("max",),
    "envelope": ("min", "max", "sum", "count"),
}
"""Reduction -> the parts it is made of."""

_ADD: Mapping[str, Any] = {"count": np.add, "sum": np.add, "min": np.fmin, "max": np.fmax}
_FARTHEST = 2.0**36  # in widths of the picture: the error of a cut is 2 ** -17 of it
_EMPTY: Mapping[str, float] = {"count": 0, "sum": 0.0, "min": np.nan, "max": np.nan}
_known: set[tuple[Any, ...]] = set()
_compiling = threading.Lock()


@dataclass(frozen=True, slots=True)
class Rows:
    """What Datashader is given of some rows.

    Parameters
    ----------
    x, y
        Coordinates, both float32 or both float64.
    value
        What is summed or compared; None to count rows.
    codes
        Position in the list of categories, -1 for none; None without categories.
    """

    x: Array
    y: Array
    value: Array | None = None
    codes: Array | None = None


def empty(reduction: str, grid: Grid, categories: int | None = None) -> Parts:
    """Return the partial aggregate of no rows."""
    shape = (grid.rows, grid.columns) if categories is None else (grid.rows, grid.columns, categories)
    kinds = {"count": np.uint32}
    return {name: np.full(shape, _EMPTY[name], kinds.get(name, np.float64)) for name in NEEDS[reduction]}


def points(rows: Rows, grid: Grid, reduction: str, *, categories: Sequence[str] | None = None) -> Parts:
    """Return the partial aggregate of points.

    Parameters
    ----------
    rows
        The points.
    grid
        Where they go.
    reduction
        One of `NEEDS`.
    categories
        Names that the codes stand for; None without categories.

    Raises
    ------
    InstallError
        Datashader is not installed.
    """
    return _drawn("points", rows, grid, reduction, categories=categories)


def lines(rows: Rows, grid: Grid, reduction: str) -> Parts:
    """Return the partial aggregate of a line through points in their order; NaN and infinity interrupt it.

    Parameters
    ----------
    rows
        The points; one without a value takes part in nothing but the course of the line.
    grid
        Where they go.
    reduction
        One of `NEEDS`.
    """
    left, bottom, right, top = grid.bounds
    x, y = _near(rows.x, left, right), _near(rows.y, bottom, top)
    return _drawn("line", Rows(x, y, rows.value), grid, reduction, categories=None)


def merge(into: Parts, parts: Mapping[str, Array]) -> None:
    """Add a partial aggregate to another, which may have fewer categories."""
    for name, array in parts.items():
        known = into[name]
        if known.ndim == 3 and known.shape[2] < array.shape[2]:
            into[name] = known = _wider(known, array.shape[2], _EMPTY[name])
        target = known[:, :, : array.shape[2]] if known.ndim == 3 else known
        _ADD[name](target, array, out=target)


def move(parts: Parts, old: Lattice, new: Lattice) -> Parts:
    """Return a partial aggregate on a lattice that covers more and may be coarser."""
    return {name: regrid(array, old, new, add=_ADD[name], empty=_EMPTY[name]) for name, array in parts.items()}


def result(parts: Mapping[str, Array], reduction: str) -> Array:
    """Return what was asked for; NaN where there is no value, 0 where there is no row to count."""
    if reduction in ("sum", "mean"):
        total = parts["sum"].copy()
        total[parts["count"] == 0] = np.nan
        if reduction == "mean":
            np.divide(total, parts["count"], out=total, where=parts["count"] > 0)
        return total
    if reduction == "envelope":
        return np.stack([parts[name].astype(np.float64) for name in NEEDS["envelope"]], axis=-1)
    return parts[reduction]


def warm_up() -> None:
    """Import Datashader and let it compile what most pictures need; for the start of a process that stays."""
    grid = Grid((0.0, 0.0, 1.0, 1.0), 4, 4)
    for kind in (np.float32, np.float64):
        some = np.linspace(0, 1, 4, dtype=kind)
        points(Rows(some, some), grid, "count")
    points(Rows(some, some, some), grid, "mean")


def _drawn(glyph: str, rows: Rows, grid: Grid, reduction: str, *, categories: Sequence[str] | None) -> Parts:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

    datashader = _datashader()
    trimmed = grid.lattice is not None
    target = grid.lattice.open_grid if grid.lattice is not None else grid
    left, bottom, right, top = target.bounds
    canvas = datashader.Canvas(target.columns, target.rows, x_range=(left, right), y_range=(bottom, top))
    columns: dict[str, Any] = {"x": rows.x, "y": rows.y}
    if rows.value is not None:
        columns["value"] = rows.value
    if categories is not None:
        columns["category"] = pd.Categorical.from_codes(rows.codes, categories=list(categories))
    frame = pd.DataFrame(columns, copy=False)
    reductions = {}
    for name in NEEDS[reduction]:
        made = getattr(datashader, name)("value" if rows.value is not None else None)
        reductions[name] = datashader.by("category", made) if categories is not None else made
    # One reduction by itself is the kernel that everybody else uses too; each other one is compiled for seconds.
    whole = datashader.summary(**reductions) if len(reductions) > 1 else next(iter(reductions.values()))
    found = _bypixel(canvas, glyph, frame, whole, (reduction, *(categories or ())))
    drawn = found if len(reductions) > 1 else dict.fromkeys(reductions, found)
    parts: Parts = {}
    for name in reductions:
        array = drawn[name].values
        array = array[: grid.rows, : grid.columns] if trimmed else array
        if name == "sum":
            array = np.where(drawn["count"].values[: grid.rows, : grid.columns] > 0, array, 0.0)
        parts[name] = array.astype(np.uint32 if name == "count" else np.float64, copy=False)
    return parts


def _bypixel(canvas: Any, glyph: str, frame: Any, whole: Any, asked: tuple[str, ...]) -> Any:
    """Draw, one thread at a time where Datashader may have to write and compile a kernel first.

    Others would compile the same for seconds, and CPython before 3.11.8
    cannot parse in two threads at once (``AST constructor recursion depth
    mismatch``, python/cpython#106905).
    """
    kind = (glyph, asked, *map(str, frame.dtypes))
    if kind in _known:
        return getattr(canvas, glyph)(frame, "x", "y", whole)
    with _compiling:
        found = getattr(canvas, glyph)(frame, "x", "y", whole)
        _known.add(kind)
    return found


def _near(places: Array, low: float, high: float) -> Array:
    """Take away places so far outside that Datashader, when it cuts a line at the edge, would miss the picture."""
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(places - low) <= (high - low) * _FARTHEST, places, np.nan)


def _wider(array: Array, categories: int, empty_value: float) -> Array:
    wider = np.full((*array.shape[:2], categories), empty_value, array.dtype)
    wider[:, :, : array.shape[2]] = array
    return wider


def _datashader() -> Any:
    try:
        import datashader  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as err:
        raise InstallError(
            f"pictures of large data need Datashader, which cannot be imported ({err}); "
            "python -m pip install 'agilab-holoviz[ui]'"
        ) from err
    return datashader
