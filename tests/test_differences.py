"""Values compared: nothing differs from itself, what differs does so both ways, and a tolerance is symmetric."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agilab.differences import EXACT, Change, Tolerance, json_changes, step, text_changes

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
)
TOLERANCES = st.builds(Tolerance, st.floats(0, 1), st.floats(0, 10))


def changes(old: Any, new: Any, tolerance: Tolerance = EXACT) -> list[Change]:
    """Return all changes."""
    return list(json_changes(old, new, tolerance))


@given(VALUES)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert changes(value, json.loads(json.dumps(value))) == []


@given(VALUES, VALUES, TOLERANCES)
def test_what_differs_does_so_both_ways(old: Any, new: Any, tolerance: Tolerance) -> None:
    turned = {"old": "new", "new": "old", "": ""}
    back = {(found.path, turned[found.only]) for found in changes(new, old, tolerance)}
    assert {(found.path, found.only) for found in changes(old, new, tolerance)} == back


@given(VALUES, VALUES)
def test_values_without_a_change_are_equal_json(old: Any, new: Any) -> None:
    def spelled(value: Any) -> Any:
        if isinstance(value, list):
            return [spelled(item) for item in value]
        if isinstance(value, dict):
            return {key: spelled(item) for key, item in value.items()}
        return "a NaN" if value != value else value if not isinstance(value, bool) else f"a {value}"

    assert (changes(old, new) == []) is (spelled(old) == spelled(new))


@given(st.floats() | st.integers(), st.floats() | st.integers(), TOLERANCES)
def test_a_tolerance_is_symmetric_and_never_stricter_than_none(a: float, b: float, tolerance: Tolerance) -> None:
    assert tolerance.same(a, b) is tolerance.same(b, a)
    assert tolerance.same(a, b) or not EXACT.same(a, b)


def test_changes_are_named_by_json_pointer() -> None:
    old = {"a/b": {"~": [1, 2, 3]}, "gone": None, "same": {"deep": [{"x": "y"}]}}
    new = {"a/b": {"~": [1, 9]}, "same": {"deep": [{"x": "y"}]}, "more": False}
    assert changes(old, new) == [
        Change("/a~1b/~0/1", 2, 9),
        Change("/a~1b/~0/2", 3, None, "old"),
        Change("/gone", None, None, "old"),
        Change("/more", None, False, "new"),
    ]
    assert changes([1], {"0": 1}) == [Change("", [1], {"0": 1})]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [(1, 1.0, True), (True, 1, False), ("1", 1, False), (math.nan, math.nan, True), (None, 0, False)],
)
def test_what_counts_as_the_same(a: object, b: object, same: bool) -> None:
    assert EXACT.same(a, b) is same
    assert (changes(a, b) == []) is same


def test_numbers_within_a_tolerance_are_the_same() -> None:
    assert changes({"x": 100.0}, {"x": 100.9}, Tolerance(rtol=0.01)) == []
    assert changes({"x": 100.0}, {"x": 101.1}, Tolerance(rtol=0.01)) != []
    assert changes([0.0], [1e-9], Tolerance(atol=1e-8)) == []
    assert not Tolerance(rtol=0.5).same(math.inf, 1.0)
    assert not Tolerance(rtol=0.5, atol=1e9).same(math.nan, 1.0)
    assert not Tolerance(rtol=0.1).same(10**400, 1.5)


def test_a_value_of_any_depth_is_compared() -> None:
    old: Any = 1
    new: Any = 2
    for _ in range(5000):
        old, new = [old], [new]
    [found] = json_changes(old, new)
    assert (found.old, found.new) == (1, 2)
    assert found.path == "/0" * 5000


def test_a_step_is_absolute_and_relative_to_the_first() -> None:
    assert step(100, 150) == (50, 0.5)
    assert step(-100, -150) == (-50, -0.5)
    assert step(0, 3) == (3, None)
    assert step("NaN", 3) is None
    assert step(1, "Infinity") is None
    assert step("three", 3) is None
    assert step(True, 3) is None
    assert step(10**400, 1.5) is None


def test_text_is_compared_by_lines() -> None:
    found = text_changes(b"one\ntwo\n", b"one\n2\n", names=("old.py", "new.py"))
    assert found is not None
    assert found[:2] == ("--- old.py", "+++ new.py")
    assert {"-two", "+2", " one"} <= set(found)
    assert text_changes(b"same\n", b"same\n") == ()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a\0b", b"line\n" * 6000])
def test_what_is_no_text_is_not_compared_by_lines(data: bytes) -> None:
    assert text_changes(data, b"text\n") is None
    assert text_changes(b"text\n", data) is None
