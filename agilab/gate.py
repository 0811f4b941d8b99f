"""A gate: thresholds on what a candidate run says, held against a baseline run; the decision is a record.

Both runs must have succeeded and be as they were recorded, or nothing is
decided. The gate file is data: rules by section and name, and nothing that is
not known is passed over.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab import __version__, digest, manifest, sums
from agilab.compare import INFORMATION, Comparison
from agilab.differences import EXACT, as_number, json_changes, percent, step
from agilab.dispatch import now
from agilab.errors import EvidenceError, SettingError
from agilab.events import plain
from agilab.facts import SECTIONS, Cell, Facts
from agilab.paths import RunPaths, make_folder, write_json
from agilab.toml import load

SCHEMA = "agilab.gate/1"
NUMBERS = ("min", "max", "max_increase", "max_decrease")
RULES: Mapping[str, tuple[str, ...]] = {
    "metrics": NUMBERS,
    "costs": NUMBERS,
    "settings": ("min", "max", "equals", "one_of", "same"),
}
"""Table of a gate file -> what a rule in it may say."""
SAME = tuple(section for section in SECTIONS if section not in INFORMATION and section != "run")
"""Sections that ``same`` may list."""
EXIT = {"promote": 0, "block": 1, "undecided": 2}
"""Decision -> exit code."""

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True, slots=True)
class Rule:
    """One threshold.

    Parameters
    ----------
    section, name
        What is looked at: a metric, a cost, a setting; or ``same`` and a section.
    check
        What must hold.
    limit
        The threshold; a text such as ``5%`` is relative to the baseline.
    line
        Where it stands in the gate file.
    """

    section: str
    name: str
    check: str
    limit: Any
    line: int

    @property
    def title(self) -> str:
        """The rule as the gate file spells it."""
        return f"same {self.name}" if self.section == "same" else f"{self.section}.{self.name}.{self.check}"


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate file as it was read."""

    path: Path
    sha256: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule, or one condition that comes before all rules, came to.

    Parameters
    ----------
    title
        The rule.
    line
        Where it stands; 0 for a condition.
    limit, baseline, candidate
        Threshold, and what the runs say; None where they say nothing.
    verdict
        ``"pass"``, ``"block"`` or ``"undecided"``.
    reason
        Why; empty when it passed.
    """

    title: str
    line: int
    limit: Any
    baseline: Any
    candidate: Any
    verdict: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.title,
            "line": self.line,
            "limit": plain(self.limit),
            "baseline": plain(self.baseline),
            "candidate": plain(self.candidate),
            "verdict": self.verdict,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """What a gate decided."""

    gate: Gate
    baseline: Facts
    candidate: Facts
    conditions: tuple[Verdict, ...]
    rules: tuple[Verdict, ...]
    decided: str

    @property
    def decision(self) -> str:
        """``"promote"``, ``"block"`` or ``"undecided"``."""
        if any(item.verdict != "pass" for item in self.conditions):
            return "undecided"
        found = {item.verdict for item in self.rules}
        return next((word for word in ("block", "undecided") if word in found), "promote")

    def to_json(self) -> dict[str, Any]:
        """Return the record, schema ``agilab.gate/1``."""
        return {
            "schema": SCHEMA,
            "decision": self.decision,
            "decided": self.decided,
            "agilab": __version__,
            "gate": {"path": str(self.gate.path), "sha256": self.gate.sha256},
            "baseline": _identity(self.baseline),
            "candidate": _identity(self.candidate),
            "conditions": [item.to_json() for item in self.conditions],
            "rules": [item.to_json() for item in self.rules],
        }


def read_gate(path: Path) -> Gate:
    """Read a gate file.

    Raises
    ------
    SettingError
        It is missing, is no TOML, has no rule, or one that is not known or has a wrong limit; the message names the
        line.
    """
    try:
        text, content, lines = load(path)
    except FileNotFoundError:
        raise SettingError(f"no gate file {path}; write one, such as: [metrics.NAME] with min = 0.9") from None
    rules: list[Rule] = []
    for table, value in content.items():
        line = _line(lines, table)
        at = f"{path}:{line}"
        if table == "schema":
            if value != SCHEMA:
                raise SettingError(f"schema is {value!r:.80}; this version of AGILAB reads {SCHEMA!r} ({at})")
        elif table == "same":
            rules += _same_rules(value, line, at)
        elif table in RULES:
            rules += _table_rules(path, table, value, lines)
        else:
            raise SettingError(f"unknown table or key {table!r:.80}{_near(table, ('same', 'schema', *RULES))} ({at})")
    if not rules:
        raise SettingError(f"{path} has no rule, so it would promote anything; write one, such as [metrics.NAME]")
    return Gate(path, digest.of_bytes(text.encode()), tuple(rules))


def _same_rules(value: Any, line: int, at: str) -> Iterator[Rule]:
    if not isinstance(value, list) or not value:
        raise SettingError(f"same is {value!r:.80}; allowed: a list of {', '.join(SAME)} ({at})")
    for name in value:
        if name not in SAME:
            raise SettingError(f"same lists {name!r:.80}{_near(str(name), SAME)} ({at})")
        yield Rule("same", name, "same", True, line)


def _table_rules(path: Path, table: str, value: Any, lines: Mapping[str, int]) -> Iterator[Rule]:
    for name, checks in value.items() if isinstance(value, dict) else ((table, value),):
        line = _line(lines, f"{table}.{name}" if isinstance(value, dict) else table)
        if not isinstance(checks, dict) or not checks:
            known = ", ".join(RULES[table])
            raise SettingError(
                f"{name!r:.80} is {checks!r:.80}; write [{table}.NAME] and below it any of {known} ({path}:{line})"
            )
        for check, limit in checks.items():
            at = lines.get(f"{table}.{name}.{check}", line)
            if check not in RULES[table]:
                raise SettingError(f"unknown rule {check!r:.80}{_near(check, RULES[table])} ({path}:{at})")
            yield Rule(table, name, check, _limit(check, limit, f"{path}:{at}"), at)


def _line(lines: Mapping[str, int], name: str) -> int:
    """Return the first line on which a name or something below it stands."""
    return next((line for known, line in lines.items() if known == name or known.startswith(f"{name}.")), 1)


def _limit(check: str, limit: Any, at: str) -> Any:
    """Return a limit in the form that is compared; SettingError says what is allowed."""
    if check == "equals":
        return _json(limit)
    if check == "one_of":
        if isinstance(limit, list) and limit:
            return _json(limit)
        raise SettingError(f"one_of is {limit!r:.80}; allowed: a list of values ({at})")
    if check == "same":
        if limit is True:
            return True
        raise SettingError(f"same is {limit!r:.80}; allowed: true, or leave the rule out ({at})")
    relative = check in ("max_increase", "max_decrease")
    if relative and isinstance(limit, str) and _PERCENT.fullmatch(limit):
        return limit
    number = None if isinstance(limit, str) else as_number(limit)
    if number is None or math.isnan(number) or (relative and number < 0):
        allowed = "a number >= 0 or a text such as '5%' of the baseline" if relative else "a number"
        raise SettingError(f"{check} is {limit!r:.80}; allowed: {allowed} ({at})")
    return number


def _json(value: Any) -> Any:
    """Write what TOML has and JSON lacks the way settings are recorded."""
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else value


def _near(name: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name[:100], known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def decide(gate: Gate, comparison: Comparison) -> Decision:
    """Hold the second run of a comparison against the first.

    Parameters
    ----------
    gate
        The rules.
    comparison
        Of baseline and candidate, in this order. Both folders are hashed again.
    """
    baseline, candidate = comparison.runs
    conditions = [*_conditions("baseline", baseline), *_conditions("candidate", candidate)]
    if baseline.app_uuid != candidate.app_uuid:
        reason = f"{baseline.app} is not {candidate.app}"
        conditions.append(Verdict("same app", 0, None, baseline.app, candidate.app, "undecided", reason))
    rules = [_judge(rule, comparison) for rule in gate.rules]
    return Decision(gate, baseline, candidate, tuple(conditions), tuple(rules), now())


def _conditions(role: str, facts: Facts) -> Iterator[Verdict]:
    found: dict[str, Any] = {"baseline": None, "candidate": None}
    ended = facts.state == "succeeded"
    why = "" if ended else f"run {facts.run.run_id} is {facts.state}"
    said = found | {role: facts.state}
    yield Verdict(f"{role} succeeded", 0, "succeeded", **said, verdict="pass" if ended else "undecided", reason=why)
    verified = manifest.verify(facts.run.paths)
    first = verified.problems[0] if verified.problems else None
    why = f"{first.problem}: {first.path}: see agilab verify {facts.run.run_id}" if first else ""
    said = found | {role: "as recorded" if verified.ok else "not as recorded"}
    yield Verdict(f"{role} verified", 0, "as recorded", **said, verdict="undecided" if first else "pass", reason=why)


def _judge(rule: Rule, comparison: Comparison) -> Verdict:
    if rule.section == "same":
        names = [row.name or row.section for row in comparison.differences if row.section == rule.name]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        reason = f"{rule.name} differ in {', '.join(names[:3])}{more}" if names else ""
        return Verdict(rule.title, rule.line, "same", None, None, "block" if names else "pass", reason)
    cells = [facts.sections[rule.section].get(rule.name) for facts in comparison.runs]
    verdict, reason = _held(rule, *cells)
    old, new = (None if cell is None else cell.value for cell in cells)
    return Verdict(rule.title, rule.line, rule.limit, old, new, verdict, reason)


def _held(rule: Rule, baseline: Cell | None, candidate: Cell | None) -> tuple[str, str]:
    """Return verdict and reason of a rule on one value."""
    what = {"metrics": "metric", "costs": "cost", "settings": "setting"}[rule.section]
    against = rule.check in ("same", "max_increase", "max_decrease")
    for role, cell in (("candidate", candidate), *((("baseline", baseline),) if against else ())):
        if cell is None:
            return "undecided", f"the {role} has no {what} {rule.name!r}"
    old, new = baseline.value if baseline else None, candidate.value if candidate else None
    if rule.check in ("equals", "same"):
        wanted = old if rule.check == "same" else rule.limit
        return ("pass", "") if _equal(new, wanted) else ("block", f"{new!r:.80} is not {wanted!r:.80}")
    if rule.check == "one_of":
        held = any(_equal(new, item) for item in rule.limit)
        return ("pass", "") if held else ("block", f"{new!r:.80} is none of {rule.limit!r:.80}")
    if rule.check in ("min", "max"):
        number = as_number(new)
        if number is None or math.isnan(number):
            return "undecided", f"{what} {rule.name!r} of the candidate is {new!r:.80}, not a number"
        held = number >= rule.limit if rule.check == "min" else number <= rule.limit
        side = "below" if rule.check == "min" else "above"
        return ("pass", "") if held else ("block", f"{number:g} is {side} {rule.limit:g}")
    return _moved(rule, old, new)


def _moved(rule: Rule, old: Any, new: Any) -> tuple[str, str]:
    """Judge how far the candidate is from the baseline."""
    way = step(old, new)
    if way is None:
        return "undecided", f"from {old!r:.80} to {new!r:.80} there is no finite difference"
    change = way[0] if rule.check == "max_increase" else -way[0]
    share = _PERCENT.fullmatch(rule.limit) if isinstance(rule.limit, str) else None
    allowed = float(share[1]) / 100 * abs(as_number(old) or 0.0) if share else float(rule.limit)
    if change <= allowed or math.isclose(change, allowed, rel_tol=1e-9):
        return "pass", ""
    word = "more" if rule.check == "max_increase" else "less"
    said = percent(way[1]) if share and way[1] else f"{change:g}"
    return "block", f"{said} {word} than the baseline; allowed: {rule.limit}"


def _equal(a: Any, b: Any) -> bool:
    return next(json_changes(a, b, EXACT), None) is None


def _identity(facts: Facts) -> dict[str, Any]:
    try:
        seal: str | None = sums.hash_file(str(facts.run.paths.sums))[0]
    except (OSError, EvidenceError):
        seal = None
    return {"run_id": facts.run.run_id, "app": facts.app, "state": facts.state, "seal_sha256": seal}


def keep(decision: Decision, paths: RunPaths) -> Path:
    """Write a decision to ``sidecar/gates/<n>.json`` of a run, outside of its seal; return the file.

    Raises
    ------
    EvidenceError
        A folder on the way is a link.
    """
    folder = paths.sidecar / "gates"
    for place in (paths.sidecar, folder):
        if place.is_symlink():
            raise EvidenceError(f"{place} is a link, so nothing is written there; remove it")
    make_folder(folder)
    aside = folder / f".new-{os.getpid()}-{os.urandom(4).hex()}.json"
    write_json(aside, decision.to_json())
    target = folder / "1.json"
    try:
        while not _linked(aside, target):
            target = folder / f"{int(target.stem) + 1}.json"
    finally:
        aside.unlink()
    return target


def _linked(source: Path, target: Path) -> bool:
    """Give a file its name; False when the name is taken."""
    try:
        os.link(source, target)  # replaces nothing
    except FileExistsError:
        return False
    return True
