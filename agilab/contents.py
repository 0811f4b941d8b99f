"""What differs inside changed files: artifacts by their kind, source trees by lines; which ones it is told.

Nothing of an app is imported and nothing is unpickled. Files are opened
through no link, and read up to a budget.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from agilab import digest, sums
from agilab.artifact import Artifact, Kind
from agilab.differences import Change, Tolerance, json_changes, text_changes
from agilab.errors import EvidenceError
from agilab.tables import WITHOUT_PYARROW, Budget, TableChange, table_changes

COSTS = {"table": 1 << 20, "json": 1 << 17, "bytes": 1 << 17}
"""Comparison -> what it takes from a budget beside the bytes that are read: opening files takes time too [bytes]."""
JSON_BYTES = 16 << 20
"""Largest JSON value that is compared by structure [bytes]."""
TEXT_BYTES = 256 << 10
"""Largest text that is compared by lines [bytes]."""
MOST_CHANGES = 1000
"""How many places of one JSON value are kept."""
MOST_FILES = 200
"""How many changed files of one source tree are compared by lines."""


@dataclass(frozen=True, slots=True)
class ArtifactChange:
    """What differs inside one artifact whose digests differ.

    Parameters
    ----------
    name
        ``stage/partition/name``.
    compared
        ``"table"``, ``"json"``, ``"text"`` or ``"bytes"``: how it was compared.
    same
        Whether other bytes hold the same values, within the tolerance.
    table
        What differs, of a table.
    changes, more_changes
        The first places that differ, of a JSON value, and how many more there are.
    text
        Unified diff, of a text.
    note
        Why it was compared in no better way; empty when it was.
    """

    name: str
    compared: str
    same: bool = False
    table: TableChange | None = None
    changes: tuple[Change, ...] = ()
    more_changes: int = 0
    text: tuple[str, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "compared": self.compared,
            "same": self.same,
            "table": None if self.table is None else self.table.to_json(),
            "changes": [change.to_json() for change in self.changes],
            "more_changes": self.more_changes,
            "text": list(self.text),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class FileChange:
    """One source file that differs.

    Parameters
    ----------
    path
        POSIX path, from the package's folder on.
    text
        Unified diff; empty where there is none.
    note
        Why there is no diff.
    """

    path: str
    text: tuple[str, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "text": list(self.text), "note": self.note}


@dataclass(frozen=True, slots=True)
class Held:
    """An artifact and the run folder that holds it."""

    root: Path
    artifact: Artifact

    def open(self) -> int:
        """Return a descriptor of its file.

        Raises
        ------
        OSError
            It cannot be read.
        EvidenceError
            Its path leads outside of the folder, or its size is not the recorded one.
        """
        path = self.artifact.path
        if not sums.safe_path(path) or not path.startswith("artifacts/"):
            raise EvidenceError(f"recorded at {path!r:.200}, outside of {self.root}")
        fd = sums.open_inside(str(self.root), path)
        if os.fstat(fd).st_size != self.artifact.size_bytes:
            os.close(fd)
            raise EvidenceError(f"not as recorded in {self.root}: agilab verify {self.root.name}")
        return fd

    def read(self) -> bytes:
        """Return its bytes, which have the recorded digest."""
        with open(self.open(), "rb", buffering=0) as file:
            data = file.readall()
        if digest.of_bytes(data) != self.artifact.sha256:
            raise EvidenceError(f"not as recorded in {self.root}: agilab verify {self.root.name}")
        return data


def artifact_change(
    old: Held, new: Held, kinds: Mapping[str, Kind], *, tolerance: Tolerance, budget: Budget
) -> ArtifactChange:
    """Compare two artifacts of one name whose digests differ.

    Parameters
    ----------
    old, new
        The artifacts.
    kinds
        What is known of kinds, by name.
    tolerance
        For numbers.
    budget
        How much may be read.
    """
    name = old.artifact.key
    for held in (old, new):
        if held.artifact.location:
            note = f"on host {held.artifact.location}: compared by digest; agilab fetch {held.root.name} brings it here"
            return ArtifactChange(name, "bytes", note=note)
    if old.artifact.kind != new.artifact.kind:
        note = f"kind {old.artifact.kind} became {new.artifact.kind}: compared by size and digest"
        return ArtifactChange(name, "bytes", note=note)
    kind = kinds.get(old.artifact.kind)
    unknown = "" if kind else f"kind {old.artifact.kind} is not known here: compared as bytes"
    compared = kind.comparison if kind else "bytes"
    if budget.left <= 0:
        return ArtifactChange(name, "bytes", note="left out, to be quick: --full compares it")
    budget.spend(COSTS[compared])
    try:
        if compared == "table":
            return _table(name, old, new, tolerance=tolerance, budget=budget)
        if compared == "json":
            return _json(name, old, new, tolerance=tolerance, budget=budget)
        return _bytes(name, old, new, unknown)
    except ImportError:
        return ArtifactChange(name, "bytes", note=WITHOUT_PYARROW)
    except (OSError, EvidenceError) as err:
        return ArtifactChange(name, "bytes", note=_reason(err))


def _table(name: str, old: Held, new: Held, *, tolerance: Tolerance, budget: Budget) -> ArtifactChange:
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401 - before files are open

    with open(old.open(), "rb") as before, open(new.open(), "rb") as after:
        table = table_changes(before, after, tolerance=tolerance, budget=budget)
    return ArtifactChange(name, "table", same=table.same and table.complete, table=table)


def _json(name: str, old: Held, new: Held, *, tolerance: Tolerance, budget: Budget) -> ArtifactChange:
    size_bytes = max(held.artifact.size_bytes for held in (old, new))
    if size_bytes > JSON_BYTES:
        return ArtifactChange(name, "bytes", note=f"larger than {JSON_BYTES} bytes: compared by size and digest")
    budget.spend(2 * size_bytes)
    try:
        before, after = (json.loads(held.read()) for held in (old, new))
    except (ValueError, RecursionError):
        return ArtifactChange(name, "bytes", note="not JSON that can be read: compared by size and digest")
    found = json_changes(before, after, tolerance)
    first = tuple(islice(found, MOST_CHANGES))
    return ArtifactChange(name, "json", same=not first, changes=first, more_changes=sum(1 for _ in found))


def _bytes(name: str, old: Held, new: Held, note: str) -> ArtifactChange:
    if max(held.artifact.size_bytes for held in (old, new)) <= TEXT_BYTES:
        text = text_changes(old.read(), new.read())
        if text is not None:
            return ArtifactChange(name, "text", text=text, note=note)
    return ArtifactChange(name, "bytes", note=note)


def source_changes(old: Path, new: Path, *, label: str) -> Iterator[FileChange]:
    """Yield the files of two source trees that differ, with a unified diff where both are text.

    Parameters
    ----------
    old, new
        The trees.
    label
        What both are called.
    """
    trees = [set(digest.tree_files(root)) for root in (old, new)]
    compared = 0
    for path in sorted(trees[0] | trees[1]):
        name = f"{label}/{path}"
        try:
            before, after = (
                _source(root / path) if path in tree else b"" for root, tree in zip((old, new), trees, strict=True)
            )
        except (OSError, EvidenceError) as err:
            yield FileChange(name, note=_reason(err))
            continue
        if before == after and (path in trees[0]) is (path in trees[1]):
            continue
        compared += 1
        heads = (
            f"a/{name}" if path in trees[0] else "/dev/null",
            f"b/{name}" if path in trees[1] else "/dev/null",
        )
        text = text_changes(before, after, names=heads) if compared <= MOST_FILES else None
        if text is None:
            yield FileChange(name, note=f"compared as bytes: {len(before)} became {len(after)}")
        else:
            yield FileChange(name, text or (f"--- {heads[0]}", f"+++ {heads[1]}"))  # an empty file was added


def _source(path: Path) -> bytes:
    """Return what counts of a source file: of a link, where it leads."""
    if path.is_symlink():
        return b"-> " + os.fsencode(os.readlink(path))
    return sums.read_file(str(path), JSON_BYTES)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}: compared by size and digest"
    return str(error)
