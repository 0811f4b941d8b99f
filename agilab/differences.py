"""What differs between two values: numbers within a tolerance, JSON by structure, text by lines; it reads no file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TEXT_LINES = 5000
"""Longest text that is compared line by line [lines]."""

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two numbers may be and still count as the same, as in `math.isclose`.

    Parameters
    ----------
    rtol
        Relative to the larger of both magnitudes.
    atol
        Absolute, in the unit of the numbers.
    """

    rtol: float = 0.0
    atol: float = 0.0

    def same(self, a: object, b: object) -> bool:
        """Whether two JSON values are the same: numbers within the tolerance, NaN like NaN, all else exactly."""
        if not (is_number(a) and is_number(b)):
            return a == b and isinstance(a, bool) == isinstance(b, bool)
        if a == b or (a != a and b != b):
            return True
        if not self.rtol and not self.atol:
            return False
        try:
            return math.isclose(a, b, rel_tol=self.rtol, abs_tol=self.atol)  # type: ignore[arg-type]
        except OverflowError:  # a whole number that no float can hold
            return False


EXACT = Tolerance()


@dataclass(frozen=True, slots=True)
class Change:
    """One place in a JSON value where two of them differ.

    Parameters
    ----------
    path
        JSON Pointer (RFC 6901); empty for the whole value.
    old, new
        What stands there.
    only
        ``"old"`` or ``"new"`` where only one of them has the place; else empty.
    """

    path: str
    old: Any
    new: Any
    only: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "old": self.old, "new": self.new, "only": self.only}


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_number(value: object) -> float | None:
    """Return a metric as a number, those too that JSON has only words for; None for anything else."""
    if isinstance(value, str):
        return _WORDS.get(value)
    return value if is_number(value) else None  # type: ignore[return-value]


def step(old: object, new: object) -> tuple[float, float | None] | None:
    """Return how far it is from one number to another: absolute, and relative to the first.

    Returns
    -------
    tuple or None
        None unless both are finite numbers; the relative part is None where the first is 0.
    """
    a, b = as_number(old), as_number(new)
    if a is None or b is None:
        return None
    try:
        way = b - a
        relative = way / abs(a) if a else None
        finite = math.isfinite(way) and math.isfinite(relative or 0.0)
    except OverflowError:
        return None
    return (way, relative) if finite else None


def percent(relative: float) -> str:
    """Write a relative step for people, without its sign: ``5.25%``."""
    share = 100 * abs(relative)
    return f"{share:.3g}%" if share < 1000 else f"{share:,.0f}%"


def json_changes(old: Any, new: Any, tolerance: Tolerance = EXACT) -> Iterator[Change]:
    """Yield where two JSON values differ, in the order of the first; lists are compared item by item.

    Parameters
    ----------
    old, new
        The values, however deep.
    tolerance
        For numbers.
    """
    waiting: list[Change] = [Change("", old, new)]
    while waiting:
        at = waiting.pop()
        pair = (at.old, at.new)
        if at.only:
            yield at
        elif all(isinstance(value, Mapping) for value in pair):
            keys = [*at.old, *(key for key in at.new if key not in at.old)]
            waiting += [_below(at, key, key in at.old, key in at.new) for key in reversed(keys)]
        elif all(isinstance(value, list | tuple) for value in pair):
            lengths = len(at.old), len(at.new)
            places = range(max(lengths) - 1, -1, -1)
            waiting += [_below(at, place, place < lengths[0], place < lengths[1]) for place in places]
        elif not tolerance.same(*pair):
            yield at


def _below(at: Change, key: Any, in_old: object, in_new: object) -> Change:
    path = f"{at.path}/{str(key).replace('~', '~0').replace('/', '~1')}"
    if in_old and in_new:
        return Change(path, at.old[key], at.new[key])
    return Change(path, at.old[key], None, "old") if in_old else Change(path, None, at.new[key], "new")


def text_changes(old: bytes, new: bytes, *, names: tuple[str, str] = ("A", "B")) -> tuple[str, ...] | None:
    """Return the unified diff of two texts; None where one of them is not UTF-8 text, or too long for it.

    Parameters
    ----------
    old, new
        The texts.
    names
        What the head of the diff calls them.
    """
    from difflib import unified_diff

    if b"\0" in old or b"\0" in new:
        return None
    try:
        before, after = old.decode().split("\n"), new.decode().split("\n")
    except UnicodeDecodeError:
        return None
    if max(len(before), len(after)) > TEXT_LINES:
        return None
    return tuple(unified_diff(before, after, *names, lineterm=""))
