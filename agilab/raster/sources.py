"""The tables of a run that pictures are made of, with the pyramid and the index of each; it draws none.

A worker leaves a pyramid beside its points. What is made later lies in the
run's sidecar, outside of the seal, under the digest of the artifact it was
made of: it can be removed at any time, and never belongs to other bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

from agilab import points, sums
from agilab.artifact import Artifact
from agilab.errors import ArtifactNotFoundError, QueryError
from agilab.paths import disk_errors, make_folder
from agilab.raster.blocks import Table, numbers, open_table
from agilab.raster.picture import Source
from agilab.raster.scan import Cancelled, check, never
from agilab.run import Run

if TYPE_CHECKING:
    from agilab.reach import Reach

SUFFIXES = (".parquet", ".arrow", ".feather", ".csv")
PYRAMID, INDEX = ".pyramid.npz", ".index.parquet"


def sources(run: Run, name: str, *, reach: Reach | None = None) -> tuple[Source, ...]:
    """Return what is there of a table by now: one source for each committed partition that left it.

    Parameters
    ----------
    run
        The run; it may still go on.
    name
        ``stage/partition/name`` of an artifact; ``stage/name``, or the name alone, for those of all partitions.
    reach
        What reaches the hosts that hold some of them; None for those that lie here.

    Raises
    ------
    ArtifactNotFoundError
        The run has no such table, or it lies elsewhere and nothing reaches it.
    """
    artifacts = run.artifacts()
    pyramids = pyramids_in(artifacts)
    away = folders(run, artifacts)
    found = [
        far_source_of(run, item, pyramids.get(f"{item.key}.pyramid"), folder=away[item.key], reach=reach)
        if item.location and reach is not None
        else source_of(run, item, pyramids.get(f"{item.key}.pyramid"))
        for item in _tables(artifacts, name)
    ]
    if not found and run.state != "running":
        tables = sorted({item.name for item in artifacts if _is_table(item)})
        there = f"it has {', '.join(tables[:5])}" if tables else "it has none"
        raise ArtifactNotFoundError(f"run {run.run_id} has no table {name!r}; {there}")
    return tuple(found)


def source_of(run: Run, item: Artifact, pyramid: Artifact | None = None) -> Source:
    """Return one table with what belongs to it.

    Parameters
    ----------
    run
        Whose it is.
    item
        The table.
    pyramid
        What its worker left beside it; None to look in the sidecar.

    Raises
    ------
    ArtifactNotFoundError
        It does not lie here.
    """
    above = run.file_of(pyramid) if pyramid is not None else _late(run, item, PYRAMID)
    return Source(run.file_of(item), item.key, above, _late(run, item, INDEX), item.sha256)


def far_source_of(run: Run, item: Artifact, pyramid: Artifact | None = None, *, folder: str, reach: Reach) -> Source:
    """Return one table on a host with what belongs to it there.

    Parameters
    ----------
    run, item, pyramid
        As for `source_of`.
    folder
        Of the run on that host.
    reach
        What reaches it.

    Raises
    ------
    ArtifactNotFoundError
        It is recorded outside of that folder.
    """
    for one in (item, pyramid):
        if one is not None and (not sums.safe_path(one.path) or not one.path.startswith("artifacts/")):
            raise ArtifactNotFoundError(f"artifact {one.key!r} is recorded at {one.path!r}, outside of the run folder")
    above = Path(folder, pyramid.path) if pyramid is not None and pyramid.location == item.location else None
    return Source(Path(folder, item.path), item.key, above, sha256=item.sha256, far=reach.far(run, item.location))


def folders(run: Run, artifacts: Iterable[Artifact]) -> dict[str, str]:
    """Return key of each artifact that lies on a host -> the run's folder there."""
    if not any(item.location for item in artifacts):
        return {}
    return {
        Artifact.from_json(item).key: record["folder"]
        for record in run.records()
        for item in record["artifacts"]
        if item["location"]
    }


def pyramids_in(artifacts: Iterable[Artifact]) -> dict[str, Artifact]:
    """Return the pyramids among artifacts, by their keys: ``stage/partition/name.pyramid``."""
    return {item.key: item for item in artifacts if item.name.endswith(".pyramid")}


def prepare(run: Run, name: str, *, x: str = "", y: str = "", cancelled: Cancelled = never) -> int:
    """Make pyramid and index of the tables that lack them, so that pictures come fast; return how many.

    Parameters
    ----------
    run
        The run; what is made goes to its sidecar.
    name
        As for `sources`.
    x, y
        Columns of the coordinates; empty for those that a points file names.
    cancelled
        Asked between two blocks: whether to stop. What is finished by then stays.

    Raises
    ------
    SupersededError
        `cancelled` said yes.
    QueryError
        No coordinates are named, or they are no numbers.
    """
    made = 0
    for item, source in zip(_tables(run.artifacts(), name), sources(run, name), strict=False):
        table = open_table(source.path)
        coordinates = (x, y) if x and y else table.coordinates
        if coordinates is None:
            raise QueryError(f"{item.key} does not say which columns are its coordinates; name them: x=..., y=...")
        table.check(coordinates, numeric=True)
        wants_index = source.index is None and not table.sorted_by_place
        if item.sha256 and (wants_index or source.pyramid is None):
            _make(run, item, table, coordinates, pyramid=source.pyramid is None, cancelled=cancelled)
            made += 1
    return made


def _make(
    run: Run, item: Artifact, table: Table, coordinates: tuple[str, str], *, pyramid: bool, cancelled: Cancelled
) -> None:
    index = run.paths.late(item.sha256, INDEX)
    make_folder(run.paths.sidecar)
    make_folder(index.parent)
    # Another process may be at the same; whoever is last wins, with the same bytes.
    temporary = index.with_name(f".{os.getpid()}.{index.name}")
    above = temporary.with_suffix(".npz") if pyramid else None
    x, y = coordinates
    try:
        with disk_errors(temporary, "writing"):
            points.write(temporary, _located(table, x, y, cancelled), x=x, y=y, pyramid=above)
            for made, target in ((above, run.paths.late(item.sha256, PYRAMID)), (temporary, index)):
                if made is not None:
                    made.chmod(0o600)
                    made.replace(target)
    finally:
        for path in (temporary, above):
            if path is not None:
                path.unlink(missing_ok=True)


def _located(table: Table, x: str, y: str, cancelled: Cancelled) -> Iterator[pa.RecordBatch]:
    """Yield coordinates and row numbers, block by block."""
    row = 0
    for load in table.loads((x, y)):
        check(cancelled)
        columns = load()
        places = [pa.array(numbers(columns[name])) for name in (x, y)]
        count = len(places[0])
        yield pa.record_batch([*places, pa.array(np.arange(row, row + count))], names=[x, y, "row"])
        row += count


def _tables(artifacts: tuple[Artifact, ...], name: str) -> list[Artifact]:
    return [
        item for item in artifacts if name in (item.key, item.name, f"{item.stage}/{item.name}") and _is_table(item)
    ]


def _is_table(item: Artifact) -> bool:
    return item.kind in ("points", "table") or item.path.endswith(SUFFIXES)


def _late(run: Run, item: Artifact, suffix: str) -> Path | None:
    path = run.paths.late(item.sha256, suffix)
    return path if item.sha256 and path.is_file() else None
