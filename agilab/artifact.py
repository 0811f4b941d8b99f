"""What a run leaves: `Artifact`, the registry of kinds, and how references become files; it hashes nothing itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agilab.errors import AgilabError


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of artifact: what its file is, and how two of them are compared.

    Parameters
    ----------
    name
        What `PartitionContext.write` is called with.
    suffix
        Ending of the file when a value is written; a file that is handed over keeps its own.
    doc
        One line.
    columns
        Columns a table of this kind must have, name -> unit; empty for any.
    comparison
        ``"bytes"``, ``"json"`` or ``"table"``.
    """

    name: str
    suffix: str
    doc: str
    columns: Mapping[str, str] | None = None
    comparison: str = "bytes"

    @classmethod
    def from_json(cls, name: str, value: Mapping[str, Any]) -> Kind:
        """Read a kind of an app's own, as ``[tool.agilab.kinds]`` declares it."""
        comparison = value.get("comparison", "bytes")
        suffix = value.get("suffix", SUFFIXES.get(comparison, ".bin"))
        return cls(name, suffix, value.get("doc", ""), value.get("columns"), comparison)


SUFFIXES: Mapping[str, str] = {"json": ".json", "table": ".parquet"}
"""Comparison -> ending of the file, where an app's own kind names none."""


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("table", ".parquet", "columns of equal length, as parquet", comparison="table"),
        Kind("points", ".parquet", "large point data with x and y columns, as parquet", comparison="table"),
        Kind(
            "tracks",
            ".parquet",
            "positions in order, a column telling tracks apart, as parquet",
            comparison="table",
        ),
        Kind("timeseries", ".parquet", "numbers beside a column of times, as parquet", comparison="table"),
        Kind("field", ".parquet", "numbers on a regular grid of x and y, a row per cell", comparison="table"),
        Kind(
            "forecast",
            ".parquet",
            "what was forecast for which time, from when on, with intervals",
            {"issued": "", "time": "", "horizon_h": "h", "forecast": "", "low": "", "high": ""},
            "table",
        ),
        Kind("training", ".parquet", "numbers beside a column of steps, as parquet", comparison="table"),
        Kind("model", ".skops", "a fitted model, in a format that runs no code when it is read"),
        Kind("json", ".json", "one JSON value", comparison="json"),
        Kind("text", ".txt", "UTF-8 text"),
        Kind("image", ".png", "a picture"),
        Kind("file", ".bin", "bytes that only the app understands"),
    )
}
"""The kinds that ship; an app adds its own as data under ``[tool.agilab.kinds]``."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A named, hashed output of one partition.

    Parameters
    ----------
    stage, partition, name
        Where it comes from.
    kind
        One of `KINDS` or of the app's own kinds.
    path
        POSIX path relative to the run folder.
    size_bytes
        Size [bytes].
    sha256
        Digest of its bytes.
    hashed_by
        ``"manager"`` or ``"worker"``: who computed the digest.
    location
        Host that holds the bytes; empty for the run folder itself.
    """

    stage: str
    partition: str
    name: str
    kind: str
    path: str
    size_bytes: int
    sha256: str
    hashed_by: str = "manager"
    location: str = ""

    @property
    def key(self) -> str:
        """``stage/partition/name``: what `Run.artifact` takes, and what a stage method finds it under."""
        return f"{self.stage}/{self.partition}/{self.name}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Artifact:
        return cls(**value)


def matches(pattern: str, key: str) -> bool:
    """Say whether an artifact is meant by ``"all"``, by ``"none"``, or by a pattern as of a shell.

    Parameters
    ----------
    pattern
        ``*`` stands for any text, ``/`` included, ``?`` for a character, ``[abc]`` for one of some.
    key
        ``stage/partition/name``.
    """
    from fnmatch import fnmatchcase

    return pattern == "all" or (pattern != "none" and fnmatchcase(key, pattern))


def require_file(source: Path) -> None:
    """See that something can be handed to a worker.

    Raises
    ------
    AgilabError
        It is not a regular file.
    """
    if not source.is_file():
        raise AgilabError(f"{source} is not a file that can be handed to a worker; check that it still exists")


def link(source: Path, target: Path) -> None:
    """Give a file a second name without copying it where the filesystem can, else copy it.

    Raises
    ------
    AgilabError
        The source is not a regular file.
    """
    require_file(source)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another filesystem, a filesystem without links, or a file that is somebody else's
        shutil.copyfile(source, target)
