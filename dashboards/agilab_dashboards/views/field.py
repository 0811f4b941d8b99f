"""The view of fields: a number for each cell of a regular grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import param

from agilab.errors import ArtifactNotFoundError
from agilab.raster.blocks import numbers, open_table
from agilab.raster.grid import Array
from agilab.raster.scan import Columns, each
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.views.base import COLOUR_MAPS, View, column
from agilab_dashboards.views.raster import image

MOST_CELLS = 4_000_000
"""Largest grid of a field [cells]."""
_WANTED = {"mean": ("sum", "count")}
_AGAIN = {"count": "sum"}


class Field(View):
    """A field on a grid, cells of several rows put together."""

    x = column("Column along the horizontal axis.")
    y = column("Column along the vertical axis.")
    value = column("Column of the numbers.")
    how = param.Selector(
        default="mean", objects=["mean", "sum", "min", "max", "count"], doc="How several rows of a cell become one."
    )
    scale = param.Selector(
        default="linear", objects=["linear", "log", "eq_hist"], doc="How numbers become colours; eq_hist shows most."
    )
    colours = param.Selector(default="viridis", objects=list(COLOUR_MAPS), doc="Colours from least to greatest.")

    kinds = ("field",)
    needs = {"x": ("number",), "y": ("number",), "value": ("number",)}  # noqa: RUF012, as View declares it

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        numbers = set(source.named("number"))
        return source.kind in cls.kinds or (source.kind == "table" and {"x", "y"} <= numbers and len(numbers) > 2)

    @classmethod
    def suggested(cls, source: Dataset) -> dict[str, Any]:
        return {**super().suggested(source), "value": next(iter(source.measures()), None)}

    def draw(self, source: Dataset, frame: Frame) -> Any:
        places = self.column_of(source, "x"), self.column_of(source, "y")
        value = self.column_of(source, "value")
        found = grid(source, places, value, how=self.how, frame=frame)
        bounds = *(axis[0] - step / 2 for axis, step in found.axes), *(axis[-1] + step / 2 for axis, step in found.axes)
        labels = [*(source.column(name).label for name in places), f"{self.how} of {source.column(value).label}"]
        return image(found.values, bounds, labels, scale=self.scale, colours=self.colours)


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid.

    Parameters
    ----------
    x, y
        Middles of columns and rows.
    values
        Shape (y, x); NaN where there is none.
    """

    x: Array
    y: Array
    values: Array

    @property
    def axes(self) -> tuple[tuple[Array, float], ...]:
        """Middles and size of the cells, of x and y."""
        return tuple((axis, float(axis[1] - axis[0]) if len(axis) > 1 else 1.0) for axis in (self.x, self.y))


def grid(source: Dataset, places: tuple[str, str], value: str, *, how: str, frame: Frame) -> Grid:
    """Return a field of rows that are its cells.

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
    frame
        Who waits for it.

    Raises
    ------
    ArtifactNotFoundError
        The cells are not on a grid that can be shown.
    """
    import pyarrow as pa

    wanted = _WANTED.get(how, (how,))

    def work(columns: Columns) -> Any:
        plain = {name: numbers(columns[name]).astype(np.float64) for name in (*places, value)}
        cells = pa.table([plain[places[0]], plain[places[1]], plain[value]], ["x", "y", "value"])
        return _grouped(cells, [("value", one) for one in wanted])

    names = list(dict.fromkeys((*places, value)))
    parts: list[Any] = []
    for file in source.sources:
        table = open_table(file.path)
        table.check(names, numeric=True)
        parts += each(table, names, None, work=work, cancelled=frame.cancelled)
    whole = _grouped(pa.concat_tables(parts), [(one, _AGAIN.get(one, one)) for one in wanted]) if parts else None
    if whole is None or not whole.num_rows:
        return Grid(np.zeros(1), np.zeros(1), np.full((1, 1), np.nan))
    (xs, across), (ys, up) = (_axis(whole.column(name).to_numpy()) for name in "xy")
    if len(xs) * len(ys) > MOST_CELLS:
        raise ArtifactNotFoundError(
            f"{places[0]} and {places[1]} of {source.key} make a grid of {len(xs):,} x {len(ys):,} cells; "
            f"at most {MOST_CELLS:,} are shown: choose other columns, or the view points"
        )
    found = whole.column(wanted[0]).to_numpy().astype(np.float64)
    if how == "mean":
        found = found / whole.column("count").to_numpy()
    values = np.full((len(ys), len(xs)), np.nan)
    values[up, across] = found
    return Grid(xs, ys, values)


def _grouped(table: Any, wanted: Sequence[tuple[str, str]]) -> Any:
    """Return one row per place, of rows that have one; `wanted` holds columns and functions."""
    made = table.group_by(["x", "y"]).aggregate(list(wanted))
    names = {f"{column}_{function}": function if column == "value" else column for column, function in wanted}
    made = made.rename_columns([names.get(name, name) for name in made.column_names])
    placed = np.isfinite(made.column("x").to_numpy()) & np.isfinite(made.column("y").to_numpy())
    return made.filter(placed)


def _axis(values: Array) -> tuple[Array, Array]:
    """Return the positions of a regular axis, and which of them each value has."""
    known = np.unique(values)
    if len(known) < 2:
        return known, np.zeros(len(values), dtype=np.int64)
    steps = np.diff(known)
    step = steps[steps > 1e-6 * (known[-1] - known[0])].min()
    count = round((known[-1] - known[0]) / step) + 1
    place = np.rint((values - known[0]) / step).astype(np.int64)
    return known[0] + step * np.arange(min(count, MOST_CELLS + 1)), place
