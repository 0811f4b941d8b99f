"""What may be edited in a plan, and that nothing else may."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agilab import Partition, Stage, WorkPlan, edits
from agilab.errors import PlanError, RequestError

PLAN = WorkPlan(
    [Stage("one", [Partition("a", params={"n": 1}), Partition("b", weight=2.0)]), Stage("two", after="one", retries=1)]
)


def edited(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the plan as JSON with a change."""
    value: dict[str, Any] = json.loads(json.dumps(PLAN.to_json()))
    change(value)
    return value


def first(value: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = value["stages"][0]["partitions"][0]
    return part


def test_weights_and_pins_are_read_where_they_differ() -> None:
    value = edited(lambda value: first(value).update(weight=5, pin="local-1"))
    found = edits.read(PLAN, value)
    assert found == {"a": {"weight": 5.0, "pin": "local-1"}}
    assert edits.read(PLAN, PLAN.to_json()) == {}
    plan = edits.apply(PLAN, found)
    assert [(part.id, part.weight, part.pin) for part in plan.partitions] == [("a", 5.0, "local-1"), ("b", 2.0, "")]
    assert edits.apply(PLAN, {}) is PLAN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda value: first(value)["params"].update(n=2),
            "params of partition 'a' is {'n': 2}, in the app's own",
        ),
        (lambda value: first(value).update(timeout_s=3), "timeout_s of partition 'a' is 3"),
        (lambda value: first(value).update(more=3), "more of partition 'a' is 3"),
        (lambda value: first(value).update(id="c"), "the partitions of stage 'one' are not those"),
        (lambda value: value["stages"][0]["partitions"].pop(), "the partitions of stage 'one' are not those"),
        (lambda value: value["stages"].pop(), "the stages are not those of the app's own plan ('two')"),
        (lambda value: value["stages"][1].update(retries=2), "retries of stage 'two' is 2"),
        (lambda value: value["stages"][1].update(partitions=[]), "planned later in only one of both plans"),
        (lambda value: value["stages"][0].pop("partitions"), "cannot be read (KeyError: 'partitions')"),
        (lambda value: value.update(stages=3), "cannot be read"),
    ],
)
def test_anything_else_that_differs_is_refused_in_one_line(change: Callable[[Any], object], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        edits.read(PLAN, edited(change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [0, -1, True, "2", float("inf"), float("nan")])
def test_a_weight_is_a_number_above_zero(weight: object) -> None:
    with pytest.raises(RequestError, match=r"the weight of partition 'a' is .*; allowed: a number above 0"):
        edits.checked({"a": {"weight": weight}})


@pytest.mark.parametrize("value", [[], {"a": {}}, {"a": {"timeout_s": 3}}, {"a": 3}, {"a": {"pin": 3}}])
def test_what_is_no_edit_is_refused(value: object) -> None:
    with pytest.raises(RequestError, match="allowed: "):
        edits.checked(value)


def test_an_edit_of_a_partition_that_is_not_there_is_refused() -> None:
    for call in (edits.apply, edits.differing):
        with pytest.raises(PlanError, match="an edit names partition 'c', which the plan does not have"):
            call(PLAN, {"c": {"pin": "local-0"}})
