"""What may be changed in a work plan before it runs: weight and pin of its partitions, and nothing else.

An edit is partition id -> ``weight``, ``pin`` or both, where they differ from
what the app planned. It is recorded with the request; results do not depend
on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from agilab.errors import PlanError, RequestError
from agilab.plan import WorkPlan

Edits = Mapping[str, Mapping[str, Any]]

EDITABLE = ("weight", "pin")

AGAIN = "make it again with: agilab plan APP --json"


def checked(value: Any) -> dict[str, dict[str, Any]]:
    """Return edits, as they are recorded.

    Raises
    ------
    RequestError
        They are no table of partitions with a weight above 0, a pin, or both.
    """
    if not isinstance(value, Mapping):
        raise RequestError(f"edits are {value!r:.80}; allowed: a table of partition ids with weight, pin or both")
    found = {}
    for ident, edit in value.items():
        if not isinstance(edit, Mapping) or not edit or edit.keys() - set(EDITABLE):
            raise RequestError(f"the edit of partition {ident!r:.120} is {edit!r:.80}; allowed: weight, pin or both")
        found[str(ident)] = {name: _value(str(ident), name, edit[name]) for name in EDITABLE if name in edit}
    return found


def apply(plan: WorkPlan, edits: Edits) -> WorkPlan:
    """Return a plan with its partitions edited; PlanError when one is not in it."""
    if not edits:
        return plan
    unknown = edits.keys() - {part.id for part in plan.partitions}
    if unknown:
        raise PlanError(f"an edit names partition {min(unknown)!r}, which the plan does not have; {AGAIN}")
    stages = [
        replace(stage, partitions=[replace(part, **edits.get(part.id, {})) for part in stage.partitions])
        if stage.partitions is not None
        else stage
        for stage in plan.stages
    ]
    return WorkPlan(stages)


def differing(own: WorkPlan, edited: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the edits that say something else than the app's own plan does; PlanError when one is not in it."""
    parts = {part.id: part for part in own.partitions}
    found: dict[str, dict[str, Any]] = {}
    for ident, edit in checked(edited).items():
        if ident not in parts:
            raise PlanError(f"an edit names partition {ident!r}, which the plan does not have; {AGAIN}")
        kept = {name: value for name, value in edit.items() if value != getattr(parts[ident], name)}
        if kept:
            found[ident] = kept
    return found


def read(own: WorkPlan, value: Any) -> dict[str, dict[str, Any]]:
    """Return what somebody has edited in a plan that `WorkPlan.to_json` wrote.

    Raises
    ------
    PlanError
        Something else than weights and pins differs from the app's own plan.
    """
    try:
        stages = {stage["name"]: stage for stage in value["stages"]}
        _same("the stages", [stage.name for stage in own.stages], [stage["name"] for stage in value["stages"]])
        edited: dict[str, dict[str, Any]] = {}
        for stage in own.to_json()["stages"]:
            other = stages[stage["name"]]
            mine, theirs = stage.pop("partitions"), other["partitions"]
            _table(f"stage {stage['name']!r}", stage, {name: other[name] for name in other if name != "partitions"})
            if (mine is None) != (theirs is None):
                raise PlanError(f"stage {stage['name']!r} is planned later in only one of both plans; {AGAIN}")
            _same(f"the partitions of stage {stage['name']!r}", _ids(mine or ()), _ids(theirs or ()))
            for one, two in zip(mine or (), theirs or (), strict=True):
                _table(f"partition {one['id']!r}", *({**part, "weight": 0, "pin": ""} for part in (one, two)))
                edited[one["id"]] = {name: two[name] for name in EDITABLE}
        return differing(own, edited)
    except (LookupError, TypeError, AttributeError) as err:
        raise PlanError(f"the edited plan cannot be read ({type(err).__name__}: {err}); {AGAIN}") from err


def _value(ident: str, name: str, value: Any) -> float | str:
    if name == "pin":
        if isinstance(value, str):
            return value
        raise RequestError(f"the pin of partition {ident!r} is {value!r:.80}; allowed: name of a worker or host, or ''")
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value):
        return float(value)
    raise RequestError(f"the weight of partition {ident!r} is {value!r:.80}; allowed: a number above 0")


def _ids(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    return [part["id"] for part in parts]


def _same(what: str, mine: list[str], theirs: list[str]) -> None:
    if mine != theirs:
        odd = [name for name in theirs if name not in mine] or [name for name in mine if name not in theirs]
        near = f" ({odd[0]!r})" if odd else ""
        raise PlanError(f"{what} are not those of the app's own plan{near}; only weight and pin can be edited")


def _table(what: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for name in [*mine, *theirs]:
        if mine.get(name, _table) != theirs.get(name, _table):
            raise PlanError(
                f"{name} of {what} is {theirs.get(name)!r:.80}, in the app's own plan {mine.get(name)!r:.80}; "
                "only weight and pin can be edited"
            )
