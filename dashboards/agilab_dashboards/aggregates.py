"""Large tables as pictures' numbers: rasters, envelopes and grids, added up batch by batch in bounded memory.

The one seam between views and data: a view asks for the aggregate over a
`Frame`, and how that is computed is decided here. Datashader does the rasters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agilab.errors import AgilabError, WorkerError
from agilab.points import read_metadata
from agilab_dashboards.datasets import Dataset

MOST_CATEGORIES = 8
"""How many values of a text column have a colour of their own; the rest share one."""
OTHER = "other"
MOST_CELLS = 4_000_000
"""Largest grid of a field [cells]."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """What is looked at.

    Parameters
    ----------
    x, y
        Ranges of both axes; of a time, seconds since 1970.
    width_px, height_px
        On how many pixels [px].
    """

    x: Range
    y: Range
    width_px: int = 1000
    height_px: int = 480

    def zoomed(self, x: Sequence[Any] | None, y: Sequence[Any] | None) -> Frame:
        """Return the frame with other ranges; one that makes no sense leaves the range as it is."""
        return replace(self, x=_sane(x) or self.x, y=_sane(y) or self.y)

    def filled(self) -> Frame:
        """Return the frame made larger, so that a unit is as long on both axes."""
        per_px = max((self.x[1] - self.x[0]) / self.width_px, (self.y[1] - self.y[0]) / self.height_px)
        return replace(self, x=_about(self.x, per_px * self.width_px), y=_about(self.y, per_px * self.height_px))


def frame_of(source: Dataset, x: str, y: str, width_px: int, height_px: int) -> Frame:
    """Return the frame that shows every point that has a place."""
    box = _recorded_box(source, x, y) or _scanned_box(source, x, y)
    if box is None:
        return Frame((0.0, 1.0), (0.0, 1.0), width_px, height_px)
    left, bottom, right, top = box
    return Frame(_padded(left, right), _padded(bottom, top), width_px, height_px)


def raster(
    source: Dataset, frame: Frame, places: tuple[str, str], *, how: str = "count", value: str = "", track: str = ""
) -> Any:
    """Return one number per pixel, shape (y, x), row 0 at the bottom; NaN where there is nothing.

    Parameters
    ----------
    source
        A table.
    frame
        Ranges and pixels.
    places
        Names of the coordinate columns.
    how
        ``"count"``, or ``"sum"``, ``"mean"``, ``"min"`` or ``"max"`` of `value`.
    value
        Name of a column of numbers.
    track
        Column that tells tracks apart: lines are drawn instead of points.
    """
    import datashader as ds

    needs = {"mean": ("sum", "count")}.get(how, (how,))
    kinds = {"count": ds.count(), **({name: getattr(ds, name)(value) for name in needs if name != "count"})}
    canvas = _canvas(frame)
    totals: dict[str, Any] = {}
    names = [*places, *([value] if value else []), *([track] if track else [])]
    for table in _within(source, frame, places, names, whole=bool(track)):
        data = table.to_pandas()
        draw = canvas.points
        if track:
            data, draw = _broken(data, track, places), canvas.line
        for name in needs:
            found = draw(data, *places, agg=kinds[name]).to_numpy().astype("float64")
            totals[name] = found if name not in totals else _COMBINED[name](totals[name], found)
    if not totals:
        return np.full((frame.height_px, frame.width_px), np.nan)
    if how == "mean":
        with np.errstate(invalid="ignore", divide="ignore"):
            return totals["sum"] / np.where(totals["count"] > 0, totals["count"], np.nan)
    first = totals[how]
    return np.where(first > 0, first, np.nan) if how == "count" else first


def categories(source: Dataset, frame: Frame, places: tuple[str, str], by: str) -> dict[str, Any]:
    """Return counts per pixel, shape (y, x), of each frequent value of a text column; the rest together."""
    names = _frequent(source, by)
    canvas = _canvas(frame)
    found = {name: np.zeros((frame.height_px, frame.width_px)) for name in names}
    import datashader as ds

    for table in _within(source, frame, places, [*places, by]):
        data = table.to_pandas()
        said = data[by].astype("object").where(data[by].notna(), "").astype(str)
        data[by] = said.where(said.isin(names), OTHER)
        for name in names:
            part = data[data[by] == name]
            if len(part):
                found[name] += canvas.points(part, *places, agg=ds.count()).to_numpy()
    return found


@dataclass(frozen=True, slots=True)
class Envelope:
    """A number over time, a column of pixels each: least, mean and greatest; NaN where there is no row.

    Parameters
    ----------
    time
        Middle of each column, as numpy datetimes, shape (x,).
    low, mean, high
        Shape (x,).
    """

    time: Any
    low: Any
    mean: Any
    high: Any


def envelope(source: Dataset, time: str, value: str, *, within: Range, columns: int) -> Envelope:
    """Return least, mean and greatest value per column of pixels, exactly.

    Parameters
    ----------
    source
        A table.
    time, value
        Names of a column of times and one of numbers.
    within
        Seconds since 1970.
    columns
        How many columns of pixels.
    """
    start, end = within
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    total, count = np.zeros(columns), np.zeros(columns)
    for table in source.batches([time, value]):
        seconds, numbers = _seconds(table.column(time)), _floats(table.column(value))
        inside = (seconds >= start) & (seconds <= end) & np.isfinite(numbers)
        if not inside.any():
            continue
        numbers = numbers[inside]
        place = np.minimum(((seconds[inside] - start) / (end - start) * columns).astype(np.int64), columns - 1)
        np.minimum.at(low, place, numbers)
        np.maximum.at(high, place, numbers)
        total += np.bincount(place, numbers, columns)
        count += np.bincount(place, minlength=columns)
    none = count == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / np.where(none, np.nan, count)
    low[none], high[none] = np.nan, np.nan
    middle = start + (np.arange(columns) + 0.5) * (end - start) / columns
    return Envelope((middle * 1e9).astype("datetime64[ns]"), low, mean, high)


def span(source: Dataset, time: str) -> Range:
    """Return the first and last time, as seconds since 1970."""
    found = [_seconds(table.column(time)) for table in source.batches([time])]
    known = [part[np.isfinite(part)] for part in found]
    ends = [(part.min(), part.max()) for part in known if len(part)]
    if not ends:
        return 0.0, 1.0
    return _padded(float(min(a for a, _ in ends)), float(max(b for _, b in ends)))


def grid(source: Dataset, places: tuple[str, str], value: str, how: str) -> tuple[Any, Any, Any]:
    """Return the x and y of a regular grid's columns and rows, and its numbers, shape (y, x); NaN where there is none.

    Parameters
    ----------
    source
        A table with a row per cell, or several that are put together.
    places
        Names of the coordinate columns.
    value
        Name of the column of numbers.
    how
        ``"mean"``, ``"sum"``, ``"min"``, ``"max"`` or ``"count"`` of rows in one cell.

    Raises
    ------
    AgilabError
        The cells are not on a grid that can be shown.
    """
    import pyarrow as pa

    wanted = {"mean": ["sum", "count"]}.get(how, [how])
    columns = [(value, one, one) for one in wanted]
    parts = [_grouped(table, places, columns) for table in source.batches([*places, value])]
    if not parts:
        return np.zeros(0), np.zeros(0), np.zeros((0, 0))
    again = {"count": "sum"}
    whole = _grouped(pa.concat_tables(parts), places, [(one, again.get(one, one), one) for one in wanted])
    xs, across = _axis(_floats(whole.column(places[0])))
    ys, up = _axis(_floats(whole.column(places[1])))
    if len(xs) * len(ys) > MOST_CELLS:
        raise AgilabError(
            f"{places[0]} and {places[1]} of {source.key} make a grid of {len(xs):,} x {len(ys):,} cells; "
            f"at most {MOST_CELLS:,} are shown: choose other columns, or the view points"
        )
    numbers = _floats(whole.column(wanted[0]))
    if how == "mean":
        numbers = numbers / _floats(whole.column("count"))
    made = np.full((len(ys), len(xs)), np.nan)
    made[up, across] = numbers
    return xs, ys, made


def warm_up() -> None:
    """Load Datashader and compile what a first picture needs; takes seconds, once per process."""
    import datashader as ds
    import pandas as pd

    data = pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]}, dtype="float32")
    canvas = ds.Canvas(2, 2, (0.0, 1.0), (0.0, 1.0))
    canvas.points(data, "x", "y", agg=ds.count())


def _canvas(frame: Frame) -> Any:
    import datashader as ds

    return ds.Canvas(frame.width_px, frame.height_px, frame.x, frame.y)


def _within(
    source: Dataset, frame: Frame, places: tuple[str, str], names: list[str], *, whole: bool = False
) -> Iterator[Any]:
    """Yield the rows that a frame shows; all of them where lines come from outside."""
    from pyarrow import compute as pc

    where = None
    if not whole:
        x, y = (pc.field(name) for name in places)
        where = (x >= frame.x[0]) & (x <= frame.x[1]) & (y >= frame.y[0]) & (y <= frame.y[1])
    return source.batches(names, where)


def _broken(data: Any, track: str, places: tuple[str, str]) -> Any:
    """Return positions with a gap wherever another track begins."""
    ids = data[track].to_numpy()
    starts = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    index = np.insert(np.arange(len(data)), starts, -1)
    made = data.iloc[index].reset_index(drop=True)
    for name in places:
        made[name] = np.where(index < 0, np.nan, made[name].to_numpy().astype("float64"))
    return made


def _frequent(source: Dataset, by: str) -> list[str]:
    """Return the most frequent values of a text column, and whether there are others."""
    from collections import Counter

    counts: Counter[str] = Counter()
    for table in source.batches([by]):
        for pair in table.column(by).combine_chunks().value_counts().to_pylist():
            counts["" if pair["values"] is None else str(pair["values"])] += pair["counts"]
    names = sorted(name for name, _ in counts.most_common(MOST_CATEGORIES - (len(counts) > MOST_CATEGORIES)))
    return names if len(names) == len(counts) else [*names, OTHER]


def _recorded_box(source: Dataset, x: str, y: str) -> tuple[float, float, float, float] | None:
    """Return the bounds that the files of `agilab.points` say; None where one of them does not."""
    boxes: list[list[float]] = []
    for path in source.files:
        if path.suffix != ".parquet":
            return None
        try:
            found = read_metadata(path)
        except WorkerError:
            return None
        if (found.get("x"), found.get("y")) != (x, y):
            return None
        boxes += [box for box in found.get("row_groups", ()) if box]
    if not boxes:
        return None
    sides = list(zip(*boxes, strict=True))
    return min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3])


def _scanned_box(source: Dataset, x: str, y: str) -> tuple[float, float, float, float] | None:
    sides: list[tuple[float, float, float, float]] = []
    for table in source.batches([x, y]):
        xs, ys = _floats(table.column(x)), _floats(table.column(y))
        placed = np.isfinite(xs) & np.isfinite(ys)
        if placed.any():
            sides.append((xs[placed].min(), ys[placed].min(), xs[placed].max(), ys[placed].max()))
    if not sides:
        return None
    left, bottom, right, top = zip(*sides, strict=True)
    return float(min(left)), float(min(bottom)), float(max(right)), float(max(top))


def _grouped(table: Any, places: tuple[str, str], wanted: list[tuple[str, str, str]]) -> Any:
    """Return one row per place; `wanted` holds column, function and the new name."""
    made = table.group_by(list(places)).aggregate([(column, function) for column, function, _ in wanted])
    names = {f"{column}_{function}": name for column, function, name in wanted}
    return made.rename_columns([names.get(name, name) for name in made.column_names])


def _axis(values: Any) -> tuple[Any, Any]:
    """Return the positions of a regular axis, and which of them each value has."""
    known = np.unique(values[np.isfinite(values)])
    if len(known) < 2:
        return known, np.zeros(len(values), dtype=np.int64)
    steps = np.diff(known)
    step = steps[steps > 1e-6 * (known[-1] - known[0])].min()
    count = round((known[-1] - known[0]) / step) + 1
    place = np.rint((values - known[0]) / step).astype(np.int64)
    return known[0] + step * np.arange(min(count, MOST_CELLS + 1)), place


def _seconds(column: Any) -> Any:
    """Return times as seconds since 1970; NaN where there is none."""
    times = column.cast("timestamp[us]" if column.type.__class__.__name__ != "TimestampType" else column.type)
    values = times.to_numpy().astype("datetime64[us]")
    return np.where(np.isnat(values), np.nan, values.astype(np.int64) / 1e6)


def _floats(column: Any) -> Any:
    return column.cast("float64", safe=False).to_numpy().astype(np.float64)


def _added(a: Any, b: Any) -> Any:
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, a + b))


_COMBINED = {"count": _added, "sum": _added, "min": np.fmin, "max": np.fmax}


def _sane(given: Sequence[Any] | None) -> Range | None:
    if given is None or len(given) != 2 or any(item is None for item in given):
        return None
    low, high = (_number(item) for item in given)
    return (low, high) if math.isfinite(low) and math.isfinite(high) and high > low else None


def _number(value: Any) -> float:
    """Return an end of a range as a number: a time as seconds since 1970."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(np.datetime64(value, "us").astype(np.int64) / 1e6)
    except (TypeError, ValueError):
        return math.nan


def _about(given: Range, length: float) -> Range:
    middle = (given[0] + given[1]) / 2
    return middle - length / 2, middle + length / 2


def _padded(low: float, high: float) -> Range:
    """Return a range that is not empty."""
    if high > low:
        return low, high
    margin = abs(low) * 1e-6 or 0.5
    return low - margin, high + margin
