"""What differs between runs: their facts side by side, and two of them looked into; it runs nothing of an app.

What is compared is what the records say. Whether the folders still hold what
was recorded is `verification`'s question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agilab import sums
from agilab.artifact import KINDS, Kind
from agilab.contents import ArtifactChange, FileChange, Held, artifact_change, source_changes
from agilab.differences import EXACT, Tolerance, json_changes
from agilab.env import AgiEnv
from agilab.errors import AgilabError
from agilab.events import plain
from agilab.facts import SECTIONS, Cell, Facts, read_facts, read_plan
from agilab.paths import NAME_PATTERN
from agilab.run import Run
from agilab.tables import WITHOUT_PYARROW, Budget

SCHEMA = "agilab.comparison/1"
INFORMATION = frozenset({"machine", "costs"})
"""Sections that say how it went, and never count as a difference."""
READ_BYTES = 64 << 20
"""How much of changed artifacts is read, decoded, unless all of it is asked for [bytes]."""


@dataclass(frozen=True, slots=True)
class Row:
    """One name in every run.

    Parameters
    ----------
    section, name
        One of `SECTIONS`, and what it is called there.
    cells
        One per run; None where the run has no such thing.
    same
        Whether all say the same, numbers within the tolerance.
    """

    section: str
    name: str
    cells: tuple[Cell | None, ...]
    same: bool

    def to_json(self) -> dict[str, Any]:
        cells = [None if cell is None else {"value": plain(cell.value), "source": cell.source} for cell in self.cells]
        return {"section": self.section, "name": self.name, "cells": cells, "same": self.same}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between runs, and what is the same.

    Parameters
    ----------
    runs
        What each says, in the order they were named.
    tolerance
        What numbers were compared with.
    rows
        Every name of every section, also where all runs say the same.
    sources
        Source files that differ, between two runs.
    artifacts
        What differs inside artifacts that both of two runs have, by name.
    notes
        What could not be compared, and why.
    """

    runs: tuple[Facts, ...]
    tolerance: Tolerance
    rows: tuple[Row, ...]
    sources: tuple[FileChange, ...] = ()
    artifacts: Mapping[str, ArtifactChange] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def differences(self) -> tuple[Row, ...]:
        """The rows that differ and are more than information."""
        return tuple(row for row in self.rows if not row.same and row.section not in INFORMATION)

    def to_json(self, *, everything: bool = False) -> dict[str, Any]:
        """Return it as JSON, schema ``agilab.comparison/1``.

        Parameters
        ----------
        everything
            Whether to list what is the same too.
        """
        return {
            "schema": SCHEMA,
            "runs": [facts.to_json() for facts in self.runs],
            "differ": bool(self.differences),
            "rtol": self.tolerance.rtol,
            "atol": self.tolerance.atol,
            "rows": [row.to_json() for row in self.rows if everything or not row.same],
            "sources": [change.to_json() for change in self.sources],
            "artifacts": [plain(change.to_json()) for change in self.artifacts.values()],
            "notes": list(self.notes),
        }


def compare(env: AgiEnv, runs: Sequence[Run], *, tolerance: Tolerance = EXACT, full: bool = False) -> Comparison:
    """Compare runs; of two, look into sources and artifacts that differ.

    Parameters
    ----------
    env
        Where packages of code lie, and apps with kinds of their own.
    runs
        Two or more.
    tolerance
        For numbers in metrics and artifacts.
    full
        Whether to read changed artifacts to their end, however long that takes.

    Raises
    ------
    EvidenceError
        The record of one of them cannot be read.
    """
    told = tuple(map(read_facts, runs))
    notes = [
        f"{facts.run.run_id} is {facts.state} and has no manifest: compared is what it has left so far"
        for facts in told
        if not facts.sealed
    ]
    sources: tuple[FileChange, ...] = ()
    artifacts: dict[str, ArtifactChange] = {}
    if len(told) == 2:
        sources, said = _sources(env, *told)
        artifacts = dict(_artifacts(env, *told, tolerance=tolerance, full=full))
        lacking = any(change.note == WITHOUT_PYARROW for change in artifacts.values())
        notes += [*said, *([WITHOUT_PYARROW] if lacking else ())]
    same_values = {name for name, change in artifacts.items() if change.same}
    rows = tuple(_rows(told, tolerance, same_values))
    return Comparison(told, tolerance, rows, sources, artifacts, tuple(notes))


def _rows(told: Sequence[Facts], tolerance: Tolerance, same_values: set[str]) -> Iterator[Row]:
    for section in SECTIONS:
        every = [facts.sections[section] for facts in told]
        for name in _names(every):
            cells = tuple(cells.get(name) for cells in every)
            if section == "artifacts":
                digests = {cell and cell.value["sha256"] for cell in cells}
                yield Row(section, name, cells, name in same_values or len(digests) == 1)
            elif name == "cpu features":
                yield Row(section, name, _not_shared(cells), _agree(cells, EXACT))
            else:
                yield Row(section, name, cells, _agree(cells, tolerance if section == "metrics" else EXACT))
        if section == "plan":
            yield from _plan_rows(told)


def _names(every: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of all runs, each once, in the order of the first that has it."""
    return list(dict.fromkeys(name for cells in every for name in cells))


def _agree(cells: Sequence[Cell | None], tolerance: Tolerance) -> bool:
    """Whether all runs say the same."""
    first = cells[0]
    return all(
        cell is not None and first is not None and next(json_changes(first.value, cell.value, tolerance), None) is None
        for cell in cells[1:]
    )


def _not_shared(cells: Sequence[Cell | None]) -> tuple[Cell | None, ...]:
    """Reduce long lists to the words that not all have."""
    shared = set.intersection(*(set(cell.value) for cell in cells if cell))
    return tuple(cell and Cell([word for word in cell.value if word not in shared]) for cell in cells)


def _plan_rows(told: Sequence[Facts]) -> Iterator[Row]:
    """Yield what differs between the plans of stages: partitions that not all have, and what was planned for the rest.

    That a stage is missing altogether, its number of partitions says already.
    """
    for stage in _names(facts.plans for facts in told):
        digests = {facts.plans.get(stage, "") for facts in told}
        if len(digests) == 1 or "" in digests:
            continue
        plans = [read_plan(facts, stage) for facts in told]
        for ident in _names(plans):
            parts = [plan.get(ident) for plan in plans]
            if any(part is None for part in parts):
                has = tuple(None if part is None else Cell("planned") for part in parts)
                yield Row("plan", f"{stage}/{ident}", has, same=False)
                continue
            for name in _names(part for part in parts if part):
                cells = tuple(part.get(name) for part in parts if part)
                if not _agree(cells, EXACT):
                    shown = _not_shared(cells) if name == "reads" else cells
                    yield Row("plan", f"{stage}/{ident} {name}", shown, same=False)


def _artifacts(
    env: AgiEnv, old: Facts, new: Facts, *, tolerance: Tolerance, full: bool
) -> Iterator[tuple[str, ArtifactChange]]:
    """Yield what differs inside artifacts that both runs have, the small ones first while the budget lasts."""
    pairs = [
        (Held(old.run.paths.root, item), Held(new.run.paths.root, new.artifacts[name]))
        for name, item in old.artifacts.items()
        if name in new.artifacts and new.artifacts[name].sha256 != item.sha256
    ]
    kinds = KINDS
    if any(held.artifact.kind not in KINDS for pair in pairs for held in pair):
        kinds = {**KINDS, **_own_kinds(env, old), **_own_kinds(env, new)}
    budget = Budget(float("inf") if full else READ_BYTES)
    by_size = sorted(pairs, key=lambda pair: sum(held.artifact.size_bytes for held in pair))
    found = {
        pair[0].artifact.key: artifact_change(*pair, kinds, tolerance=tolerance, budget=budget) for pair in by_size
    }
    yield from ((name, found[name]) for name in old.artifacts if name in found)


def _own_kinds(env: AgiEnv, facts: Facts) -> dict[str, Kind]:
    """Return the kinds that an app declares, as data, if the app is found here and is the same one."""
    try:
        project = env.select(facts.app).project
    except AgilabError:
        return {}
    if project.uuid != facts.app_uuid:
        return {}
    return {name: Kind.from_json(name, kind) for name, kind in project.kinds.items()}


def _sources(env: AgiEnv, old: Facts, new: Facts) -> tuple[tuple[FileChange, ...], list[str]]:
    """Compare the source files of two runs, and say why where that cannot be done."""
    changes: list[FileChange] = []
    notes: list[str] = []
    if old.app_uuid != new.app_uuid:
        return (), ["the runs are of different apps: their code is not compared"]
    for part in ("manager", "worker"):
        digests = [facts.value("code", part) for facts in (old, new)]
        if digests[0] == digests[1] or None in digests:
            continue
        folders = [_package(env, facts, part) for facts in (old, new)]
        for facts, folder in zip((old, new), folders, strict=True):
            if folder is None:
                where = env.home.snapshots if part == "manager" else env.wenv.root
                notes.append(f"no diff of the {part} code: that of {facts.run.run_id} is not in {where} any more")
        before, after = folders
        if before and after:
            changes += source_changes(before, after, label=after.name)
    return tuple(changes), notes


def _package(env: AgiEnv, facts: Facts, part: str) -> Path | None:
    """Return the folder of the code that a run recorded; None when it is not on this machine."""
    digest = str(facts.value("code", part))
    if not sums.HASH.fullmatch(digest) or not NAME_PATTERN.fullmatch(facts.app):
        return None
    if part == "manager":
        found = [env.home.snapshots / digest / facts.app]
    else:  # one that was built names Python and platform too
        package = env.wenv.package(facts.app)
        found = [path / package.name for path in (package / digest, *sorted(package.glob(f"{digest}-*")))]
    return next((folder for folder in found if folder.is_dir()), None)
