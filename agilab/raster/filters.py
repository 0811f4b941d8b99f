"""Which rows are meant: by a range of numbers or times, or by values; what is done with them it does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
from pyarrow import compute, types

from agilab.errors import QueryError
from agilab.raster.blocks import Bounds, Table, is_number, numbers

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one column; rows that miss the value never fulfil it.

    Parameters
    ----------
    column
        Its name.
    low, high
        Least and greatest value that is meant: numbers, or times as `datetime`, ``numpy.datetime64``, ISO 8601 text or
        nanoseconds since 1970; None for no limit.
    values
        The values that are meant, such as names of categories; None for all.

    Examples
    --------
    >>> Filter("altitude_m", low=10_000)
    >>> Filter("carrier", values=("UA", "DL"))
    """

    column: str
    low: Any = None
    high: Any = None
    values: tuple[Any, ...] | None = None

    def mask(self, array: Any) -> Mask:
        """Say of every row whether it is meant.

        Parameters
        ----------
        array
            The column's values, as a pyarrow array.
        """
        found = np.ones(len(array), bool)
        if self.low is not None or self.high is not None:
            if not is_number(array.type):
                raise QueryError(f"column {self.column!r} is {array.type}, which has no order; filter it by values")
            places = numbers(array)
            if self.low is not None:
                found &= places >= number(self.low)
            if self.high is not None:
                found &= places <= number(self.high)
        if self.values is not None:
            found &= _is_one_of(array, self.values)
        return found

    def may_meet(self, bounds: Bounds) -> Mask:
        """Say of every block whether a row in it may be meant, from its least and greatest value."""
        found = np.ones(len(bounds), bool)
        if self.low is not None:
            found &= ~(bounds[:, 1] < number(self.low))
        if self.high is not None:
            found &= ~(bounds[:, 0] > number(self.high))
        return found


def number(value: Any) -> float | int:
    """Return a number as it is, and a time as nanoseconds since 1970; a time without a zone is UTC.

    Raises
    ------
    QueryError
        It is neither.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise QueryError(f"{value!r:.60} is neither a number nor a time; write 2013-01-31T12:00:00") from None
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[ns]").astype(np.int64))
    if hasattr(value, "asm8"):  # pandas' times, which have nanoseconds
        return int(value.value)
    if isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    if isinstance(value, int | np.integer):
        return int(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise QueryError(f"{value!r:.60} is neither a number nor a time") from None


def wanted_blocks(
    table: Table, ranges: Mapping[str, tuple[float, float]], filters: Sequence[Filter] = ()
) -> list[int] | None:
    """Return which blocks of a table may hold rows that are meant; None where nothing is known of its blocks.

    Parameters
    ----------
    table
        The table.
    ranges
        Column -> least and greatest value.
    filters
        Further conditions.
    """
    if table.count is None:
        return None
    wanted = np.ones(table.count, bool)
    limits = [*(Filter(name, low, high) for name, (low, high) in ranges.items()), *filters]
    for limit in limits:
        bounds = table.bounds(limit.column) if limit.values is None else None
        if bounds is not None:
            wanted &= limit.may_meet(bounds)
    return np.flatnonzero(wanted).tolist()


def all_meant(filters: Sequence[Filter], columns: Mapping[str, Any]) -> Mask | None:
    """Say of every row whether it fulfils all conditions; None when there are none."""
    found: Mask | None = None
    for limit in filters:
        mask = limit.mask(columns[limit.column])
        found = mask if found is None else found & mask
    return found


def _is_one_of(array: Any, values: Sequence[Any]) -> Mask:
    if types.is_dictionary(array.type):
        known = _is_one_of(array.dictionary, values)
        codes = array.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)
        found: Mask = np.append(known, False)[codes]
        return found
    if is_number(array.type):
        return np.isin(numbers(array), [number(value) for value in values])
    wanted = pa.array([str(value) for value in values], array.type)
    return np.asarray(compute.is_in(array, value_set=wanted).to_numpy(zero_copy_only=False), bool)
