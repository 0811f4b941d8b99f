"""Conditions on rows as somebody writes them, ``carrier = UA, DL; height >= 100``, and back; it reads no table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from agilab.errors import QueryError
from agilab.raster import Filter
from agilab_dashboards.datasets import Column, Dataset

_CONDITION = re.compile(r"(?s)\s*(?P<column>.+?)\s*(?P<sign>>=|<=|=)\s*(?P<value>.*?)\s*")
_ADVICE = "write carrier = UA, DL or height >= 100 or height = 100..200, with ';' between several"


def parsed(text: str, source: Dataset) -> tuple[Filter, ...]:
    """Return the conditions in a text.

    Parameters
    ----------
    text
        ``column = value, value``, ``column = low..high``, ``column >= low`` or ``column <= high``, with ``;`` between
        several; times in ISO 8601. Empty for none.
    source
        Whose columns they are about.

    Raises
    ------
    QueryError
        It cannot be read, or a value does not suit its column.
    ArtifactNotFoundError
        There is no such column.
    """
    return tuple(_filter(part, source) for part in text.split(";") if part.strip())


def written(filters: Iterable[Filter], source: Dataset) -> str:
    """Return conditions as `parsed` reads them."""
    return "; ".join(_text(each, source.column(each.column)) for each in filters)


def value_text(value: float, column: Column) -> str:
    """Return a value of a column as a person reads it: a time in ISO 8601, UTC."""
    if column.type != "time":
        return f"{value:.7g}"
    moment = datetime.fromtimestamp(value / 1e9, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")


def _filter(part: str, source: Dataset) -> Filter:
    found = _CONDITION.fullmatch(part)
    if not found or not found["value"]:
        raise QueryError(f"condition {part.strip()!r:.80} cannot be read; {_ADVICE}")
    column, sign, value = source.column(found["column"]), found["sign"], found["value"]
    if sign == ">=":
        return Filter(column.name, low=_value(value, column))
    if sign == "<=":
        return Filter(column.name, high=_value(value, column))
    low, dots, high = value.partition("..")
    if dots and column.type in ("number", "time"):
        return Filter(column.name, low=_value(low, column), high=_value(high, column))
    return Filter(column.name, values=tuple(_value(each, column) for each in value.split(",") if each.strip()))


def _value(text: str, column: Column) -> Any:
    text = text.strip()
    if column.type == "number":
        try:
            return float(text)
        except ValueError:
            raise QueryError(f"column {column.name!r} has numbers, and {text!r:.60} is none; {_ADVICE}") from None
    if column.type == "time":
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise QueryError(f"{text!r:.60} is no time; write 2013-01-31 or 2013-01-31T12:00:00") from None
    return text


def _text(given: Filter, column: Column) -> str:
    if given.values is not None:
        return f"{given.column} = {', '.join(map(str, given.values))}"
    low, high = (None if end is None else end if isinstance(end, str) else value_text(end, column)
                 for end in (given.low, given.high))  # fmt: skip
    if low is None or high is None:
        return f"{given.column} <= {high}" if low is None else f"{given.column} >= {low}"
    return f"{given.column} = {low}..{high}"
