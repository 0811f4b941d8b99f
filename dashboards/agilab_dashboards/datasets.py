"""`Dataset`, the artifacts of one stage and name over all partitions, read by column in batches; it draws nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from agilab.artifact import Artifact
from agilab.errors import ArtifactNotFoundError, first_line
from agilab.run import Run

FORMATS = {".parquet": "parquet", ".csv": "csv", ".arrow": "ipc", ".feather": "ipc"}
"""Ending of a file -> how it is read."""
BATCH_ROWS = 1 << 20
"""Rows that are worked on at a time."""
_PLACE_OR_NAME = re.compile(r"(?i:(.+_)?(id|x|y|lon|lat|longitude|latitude|index))")


@dataclass(frozen=True, slots=True)
class Column:
    """A column as views need to know it.

    Parameters
    ----------
    name
        Its name.
    type
        ``"number"``, ``"time"``, ``"text"`` or ``"other"``.
    unit
        Such as ``"m"``; empty where the file does not say.
    """

    name: str
    type: str
    unit: str = ""

    @property
    def label(self) -> str:
        """The name with its unit."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True)
class Dataset:
    """The artifacts of a run that belong together: one stage, one name, one kind.

    Parameters
    ----------
    run
        Whose they are.
    key
        ``stage/name``.
    kind
        Kind of each.
    artifacts
        In plan order.
    """

    run: Run
    key: str
    kind: str
    artifacts: tuple[Artifact, ...] = field(repr=False)

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.artifacts)

    @property
    def elsewhere(self) -> int:
        """How many of them lie on other hosts."""
        return sum(bool(item.location) for item in self.artifacts)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Where those lie that are in the run folder.

        Raises
        ------
        ArtifactNotFoundError
            There is none, or one has gone.
        """
        here = [item for item in self.artifacts if not item.location]
        return tuple(map(self.run.file_of, here or self.artifacts[:1]))

    @property
    def is_table(self) -> bool:
        """Whether the files have columns that can be read."""
        return Path(self.artifacts[0].path).suffix in FORMATS

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What the first file has; empty for files without columns."""
        return tuple(map(_column, self._opened.schema)) if self.is_table else ()

    def named(self, *types: str) -> list[str]:
        """Return the names of the columns of some types."""
        return [column.name for column in self.columns if column.type in types]

    def measures(self) -> list[str]:
        """Return the columns of numbers that look like something measured: no place, and nobody's name."""
        numbers = self.named("number")
        return [name for name in numbers if not _PLACE_OR_NAME.fullmatch(name)] or numbers

    def column(self, name: str) -> Column:
        """Return a column.

        Raises
        ------
        ArtifactNotFoundError
            There is none of that name.
        """
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in self.columns)
        raise ArtifactNotFoundError(f"{self.key} has no column {name!r:.100}; there are {known}")

    @cached_property
    def rows(self) -> int:
        """How many rows all files have together."""
        return int(self._opened.count_rows())

    def batches(self, names: Sequence[str], where: Any = None) -> Iterator[Any]:
        """Yield some columns as pyarrow tables of about `BATCH_ROWS` rows, in order.

        Parameters
        ----------
        names
            Of the columns.
        where
            A pyarrow expression; what cannot fit it is not read.
        """
        import pyarrow as pa

        held: list[Any] = []
        rows = 0
        for batch in self._opened.to_batches(columns=list(dict.fromkeys(names)), filter=where):
            held.append(batch)
            rows += batch.num_rows
            if rows >= BATCH_ROWS:
                yield pa.Table.from_batches(held)
                held, rows = [], 0
        if rows:
            yield pa.Table.from_batches(held)

    def slice(self, first: int, count: int, names: Sequence[str]) -> Any:
        """Return some rows as a pyarrow table, reading no further than these."""
        import pyarrow as pa

        found: list[Any] = []
        place = 0
        for batch in self._opened.to_batches(columns=list(names), batch_size=1 << 14, batch_readahead=1):
            piece = batch.slice(max(0, first - place), max(0, min(count, first + count - place)))
            found.append(piece)
            place += batch.num_rows
            if place >= first + count:
                break
        schema = pa.schema([self._opened.schema.field(name) for name in names])
        return pa.Table.from_batches(found, schema).slice(0, count)

    @cached_property
    def _opened(self) -> Any:
        import pyarrow as pa
        from pyarrow import dataset

        try:
            return dataset.dataset(list(map(str, self.files)), format=FORMATS[self.files[0].suffix])
        except (pa.ArrowException, OSError, ValueError) as err:
            raise ArtifactNotFoundError(f"{self.key} cannot be read as a table: {first_line(err)}") from err


def datasets(run: Run) -> tuple[Dataset, ...]:
    """Return what a run has left so far, partitions put together, in plan order."""
    found: dict[tuple[str, str, str], list[Artifact]] = {}
    for item in run.artifacts():
        found.setdefault((f"{item.stage}/{item.name}", item.kind, Path(item.path).suffix), []).append(item)
    return tuple(Dataset(run, key, kind, tuple(items)) for (key, kind, _), items in found.items())


def _column(given: Any) -> Column:
    from pyarrow import types

    kind = given.type.value_type if types.is_dictionary(given.type) else given.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        name = "number"
    elif types.is_timestamp(kind) or types.is_date(kind):
        name = "time"
    elif types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind):
        name = "text"
    else:
        name = "other"
    unit = ((given.metadata or {}).get(b"unit") or b"").decode("utf-8", "replace")
    return Column(given.name, name, unit or (str(getattr(kind, "tz", None) or "")))
