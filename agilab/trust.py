"""What may run: nothing of an app project that came in through `agilab import`, until `agilab trust`.

Running an app runs its code as you. Projects that ship, that pip installed or
that were made here are trusted. What was imported is known twice::

    <project>/agilab-imported.json    written by the import, no archive can bring one; it goes where the folder goes
    AGILAB_HOME/trust.json            every import with root, uuid and digest, and since when it is trusted

The first keeps a project from running whatever becomes of the second, in any
AGILAB_HOME. The second knows a copy that was made without the first.
`Planner`, `installation` and `Execution` ask here before anything of an app
runs, and the server before it imports an app's views; no other module lets
app code run.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agilab import digest
from agilab.declaration import Pyproject, read_pyproject, uuid_of
from agilab.environment import holding
from agilab.errors import AgilabError, TrustError
from agilab.paths import HomePaths, make_folder, read_json, write_json

SCHEMA = "agilab.trust/1"
MARKER = "agilab-imported.json"
"""File in a project that was imported and is not trusted yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One project that was imported.

    Parameters
    ----------
    root
        Where it was put, links resolved.
    uuid
        Who it says it is.
    digest
        `digest_of` what was imported.
    origin, origin_sha256
        The file it came from and its digest.
    imported
        When, UTC.
    trusted
        Since when it is trusted; None while it is not.
    """

    root: str
    uuid: str
    digest: str
    origin: str
    origin_sha256: str
    imported: str
    trusted: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Import:
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


def files(root: Path) -> list[str]:
    """List the files of a project that count, without the marker, as sorted POSIX paths."""
    return [name for name in digest.tree_files(root) if name != MARKER]


def digest_of(root: Path) -> str:
    """Return the digest of a project as it would be exported."""
    return digest.of_files((root / name, name) for name in files(root))


def untrusted(root: Path, home: HomePaths) -> Import | None:
    """Return the import that a project is and that nobody has trusted; None when it may run.

    Parameters
    ----------
    root
        The project's folder; one inside an imported project is part of it.
    home
        Whose trust counts.
    """
    here = root.resolve()
    for folder in (root, here, *here.parents):
        if (folder / MARKER).exists():
            return _marked(folder / MARKER)
    with suppress(TrustError):  # damaged: what has its marker is held back all the same
        known = [item for item in imports(home) if item.trusted is None]
        return next(_same(known, here), None) if known else None
    return None


def require(root: Path, home: HomePaths) -> None:
    """Raise unless code of a project may run.

    Raises
    ------
    TrustError
        It was imported and is not trusted.
    """
    if untrusted(root, home) is not None:
        app = root.name.removesuffix("_project")
        raise TrustError(f"{app} was imported and is not trusted, so nothing of it runs; {advice(root)}")


def advice(root: Path) -> str:
    """Return what to do about a project that is not trusted."""
    return f"read it, then: agilab trust {shlex.quote(str(root))}"


def trust(root: Path, home: HomePaths, *, seen: str) -> Import:
    """Let a project run from now on; it is its owner's to edit.

    Parameters
    ----------
    root
        The project's folder.
    home
        Whose trust it gets.
    seen
        `digest_of` the project that was looked at.

    Raises
    ------
    TrustError
        It is part of another project, has changed since, or ``trust.json`` is damaged.
    """
    found, here = untrusted(root, home), root.resolve()
    if found is None:
        raise TrustError(f"{root} was not imported, so it may run already")
    if not (here / MARKER).exists() and any((folder / MARKER).exists() for folder in here.parents):
        raise TrustError(f"{root} is part of an imported project; trust that one, or move this one out of it")
    now_is = digest_of(here)
    if now_is != seen:
        raise TrustError(f"{root} has changed while it was looked at, digest {now_is[:12]}; look at it again")
    mine = replace(found, root=str(here), digest=now_is, trusted=_now())
    with _changing(home) as known:
        # What was looked at is trusted wherever it was put.
        same = list(_same(known, here))
        known[:] = [replace(item, trusted=mine.trusted) if item in same else item for item in known]
        _put(known, mine)
    (here / MARKER).unlink(missing_ok=True)
    return mine


def record(folder: Path, home: HomePaths, *, root: Path, origin: str, origin_sha256: str) -> Import:
    """Remember an import that is about to be put in place; it is not trusted, whatever was there before.

    Parameters
    ----------
    folder
        Where it lies now; gets the marker.
    home
        Where it is remembered.
    root
        Where it is going to be.
    origin, origin_sha256
        The file it comes from and its digest.

    Raises
    ------
    TrustError
        ``trust.json`` is damaged.
    """
    found = Import(
        root=str(root.resolve()),
        uuid=_uuid(folder),
        digest=digest_of(folder),
        origin=origin,
        origin_sha256=origin_sha256,
        imported=_now(),
    )
    with _changing(home) as known:
        _put(known, found)
    write_json(folder / MARKER, {"schema": SCHEMA, "imports": [found.to_json()]})
    return found


def forget(root: Path, home: HomePaths) -> None:
    """Drop what is remembered of a project that is gone."""
    here = str(root.resolve())
    with suppress(TrustError):
        if any(item.root == here for item in imports(home)):
            with _changing(home) as known:
                known[:] = [item for item in known if item.root != here]


def imports(home: HomePaths) -> tuple[Import, ...]:
    """Return every project that was imported, in no particular order.

    Raises
    ------
    TrustError
        ``trust.json`` is damaged.
    """
    if not home.trust.exists():
        return ()
    try:
        return tuple(Import.from_json(item) for item in read_json(home.trust, SCHEMA)["imports"])
    except (OSError, AgilabError, KeyError, TypeError) as err:
        raise TrustError(
            f"{home.trust} cannot be read ({err}); what was imported and not trusted stays so by its own {MARKER}: "
            "move the file away, and the rest goes on"
        ) from err


@contextmanager
def _changing(home: HomePaths) -> Iterator[list[Import]]:
    make_folder(home.root)
    lock = home.trust.with_name(".trust.lock")
    with holding(lock, waiting="", report=lambda text: None):
        known = list(imports(home))
        yield known
        write_json(home.trust, {"schema": SCHEMA, "imports": [item.to_json() for item in known]})


def _put(known: list[Import], found: Import) -> None:
    known[:] = [*(item for item in known if item.root != found.root), found]


def _marked(marker: Path) -> Import:
    """Return what a marker says; one that cannot be read says at least that its project was imported."""
    with suppress(OSError, AgilabError, LookupError, TypeError):
        return Import.from_json(read_json(marker, SCHEMA)["imports"][0])
    return Import(root=str(marker.parent), uuid="", digest="", origin="(unknown)", origin_sha256="", imported="")


def _same(known: list[Import], root: Path) -> Iterator[Import]:
    """Yield the imports that a project is, by its place or by all that is in it; the uuid saves most of the hashing."""
    uuid = _uuid(root)
    mine = [item for item in known if item.uuid == uuid]
    now_is = digest_of(root) if any(item.root != str(root) for item in mine) else ""
    yield from (item for item in mine if item.root == str(root) or item.digest == now_is)


def _uuid(root: Path) -> str:
    toml = read_pyproject(root / "pyproject.toml")
    return uuid_of(toml) if isinstance(toml, Pyproject) else ""


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
