"""`Dataset`, the artifacts of one stage and name over all partitions, with their columns; it draws nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from agilab.artifact import Artifact
from agilab.errors import ArtifactNotFoundError
from agilab.raster import Source
from agilab.raster.far import Facts
from agilab.raster.rows import facts, rows_of, values
from agilab.raster.scan import Cancelled, never
from agilab.raster.sources import SUFFIXES, folders, pyramids_in, source_of
from agilab.run import Run
from agilab_dashboards.reach import reach

_PLACE_OR_NAME = re.compile(r"(?i:(.+_)?(id|track|x|y|lon|lat|longitude|latitude|index))")


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
    crs
        Coordinate system of places on the earth, such as ``"EPSG:3857"``; empty where the file does not say.
    """

    name: str
    type: str
    unit: str = ""
    crs: str = ""

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
    pyramids
        Those that workers left beside points of the run, by their keys.
    folders
        Key of each that lies on a host -> the run's folder there.
    """

    run: Run
    key: str
    kind: str
    artifacts: tuple[Artifact, ...] = field(repr=False)
    pyramids: Mapping[str, Artifact] = field(default_factory=dict, repr=False)
    folders: Mapping[str, str] = field(default_factory=dict, repr=False)

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
        return Path(self.artifacts[0].path).suffix in SUFFIXES

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What the first table has; empty for files without columns."""
        return tuple(map(_column, self._first.schema)) if self.is_table else ()

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
    def sources(self) -> tuple[Source, ...]:
        """The tables, here and on hosts, as pictures are made of them."""
        return tuple(self._source(item, self.pyramids.get(f"{item.key}.pyramid")) for item in self.artifacts)

    def _source(self, item: Artifact, pyramid: Artifact | None) -> Source:
        hosts = reach() if item.location else None
        return source_of(self.run, item, pyramid, folder=self.folders.get(item.key, ""), reach=hosts)

    def slice(self, first: int, count: int, names: Sequence[str]) -> Any:
        """Return some rows as a pyarrow table, reading no further than these."""
        import pyarrow as pa

        found: list[Any] = []
        for source in self.sources:
            rows, known = rows_of(source, names, first, count)
            found.append(rows)
            first, count = max(0, first - known), count - rows.num_rows
            if not count:
                break
        return pa.concat_tables(found, promote_options="permissive")

    def parts(self, names: Sequence[str], most_rows: int) -> Iterator[Any]:
        """Yield some columns of each partition as a pyarrow table, of no more rows than that in each."""
        for source in self.sources:
            yield rows_of(source, names, 0, most_rows)[0]

    def readable(self, rows: Any) -> Any:
        """Return some rows as a pandas DataFrame for people: times as text, columns with their units."""
        found = rows.to_pandas()
        for name in self.named("time", "other"):
            if name in found:
                zoned = getattr(found[name].dtype, "tz", None) is not None  # which zone stands above the column
                found[name] = (found[name].dt.tz_localize(None) if zoned else found[name]).astype(str)
        return found.rename(columns={name: self.column(name).label for name in found.columns})

    def frequent(self, name: str, most: int, cancelled: Cancelled = never) -> tuple[str, ...]:
        """Return the values of a column that most rows have, sorted; one fewer than `most` where there are others.

        They are looked for once, so that each keeps its colour while somebody zooms.
        """
        if name not in self._frequent:
            counts = values(self.sources, name, cancelled=cancelled)
            kept = counts.most_common(most if len(counts) <= most else most - 1)
            self._frequent[name] = tuple(sorted(value for value, _ in kept))
        return self._frequent[name]

    @property
    def in_order(self) -> bool:
        """Whether rows stand in the order they were made in, as lines need it."""
        return not self._first.sorted_by_place

    @cached_property
    def _frequent(self) -> dict[str, tuple[str, ...]]:
        return {}

    @cached_property
    def _first(self) -> Facts:
        return facts(self.sources)


def datasets(run: Run) -> tuple[Dataset, ...]:
    """Return what a run has left so far, partitions put together, in plan order."""
    found: dict[tuple[str, str, str], list[Artifact]] = {}
    artifacts = run.artifacts()
    for item in artifacts:
        found.setdefault((f"{item.stage}/{item.name}", item.kind, Path(item.path).suffix), []).append(item)
    pyramids, away = pyramids_in(artifacts), folders(run, artifacts)
    return tuple(Dataset(run, key, kind, tuple(items), pyramids, away) for (key, kind, _), items in found.items())


def asks_hosts(run: Run) -> bool:
    """Say whether what a run has left can be told only by hosts, which may take a while."""
    return any(item.location and Path(item.path).suffix in SUFFIXES for item in run.artifacts())


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
    unit, crs = (_told(given, key) for key in ("unit", "crs"))
    return Column(given.name, name, unit or (str(getattr(kind, "tz", None) or "")), crs)


def _told(given: Any, key: str) -> str:
    """Return what the metadata of a column say."""
    return ((given.metadata or {}).get(key.encode()) or b"").decode("utf-8", "replace")
