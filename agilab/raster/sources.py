"""The tables of a run that pictures are made of, with the pyramid and the index of each; it draws none.

A worker leaves a pyramid beside its points; what is made later is `shelf`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from agilab import sums
from agilab.artifact import Artifact
from agilab.errors import ArtifactNotFoundError
from agilab.raster.picture import Source
from agilab.run import Run

if TYPE_CHECKING:
    from agilab.reach import Reach

SUFFIXES = (".parquet", ".arrow", ".feather", ".csv")


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
        source_of(run, item, pyramids.get(f"{item.key}.pyramid"), folder=away.get(item.key, ""), reach=reach)
        for item in _tables(artifacts, name)
    ]
    if not found and run.state != "running":
        tables = sorted({item.name for item in artifacts if _is_table(item)})
        there = f"it has {', '.join(tables[:5])}" if tables else "it has none"
        raise ArtifactNotFoundError(f"run {run.run_id} has no table {name!r}; {there}")
    return tuple(found)


def source_of(
    run: Run, item: Artifact, pyramid: Artifact | None = None, *, folder: str = "", reach: Reach | None = None
) -> Source:
    """Return one table with what belongs to it.

    Parameters
    ----------
    run
        Whose it is.
    item
        The table.
    pyramid
        What its worker left beside it; None for none.
    folder
        Of the run on the host that holds it; see `folders`.
    reach
        What reaches that host; None for a table that lies here.

    Raises
    ------
    ArtifactNotFoundError
        It does not lie here and nothing reaches it, or it is recorded outside of that folder.
    """
    if item.location and reach is not None:
        return _far(run, item, pyramid, folder=folder, reach=reach)
    above = run.file_of(pyramid) if pyramid is not None else None
    return Source(run.file_of(item), item.key, above, sha256=item.sha256)


def _far(run: Run, item: Artifact, pyramid: Artifact | None, *, folder: str, reach: Reach) -> Source:
    """Return a table on a host with what belongs to it there; of a record nothing outside the run's folder is asked."""
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


def _tables(artifacts: tuple[Artifact, ...], name: str) -> list[Artifact]:
    return [
        item for item in artifacts if name in (item.key, item.name, f"{item.stage}/{item.name}") and _is_table(item)
    ]


def _is_table(item: Artifact) -> bool:
    return item.kind in ("points", "table") or item.path.endswith(SUFFIXES)
