"""What lies beside the seal of a run, and the first of it, ``sidecar/tags.json``: tags and a note."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agilab import sums
from agilab.errors import AgilabError, EvidenceError, HomeError, QueryError, first_line
from agilab.paths import NAME_PATTERN, RunPaths, make_folder, read_json, write_json

SCHEMA = "agilab.tags/1"
MOST_TAGS = 100
LONGEST_NOTE = 10_000
"""How long a note may be [characters]."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tags:
    """What somebody has said about a run.

    Parameters
    ----------
    tags
        Short names, sorted.
    note
        Free text; empty when there is none.
    """

    tags: tuple[str, ...] = ()
    note: str = ""


def read_tags(paths: RunPaths) -> Tags:
    """Return the tags and the note of a run; neither when it has no such file.

    Raises
    ------
    EvidenceError
        The file cannot be read.
    """
    return read(paths.tags, SCHEMA, _parsed, f"the tags of run {paths.run_id}") or Tags()


def read(path: Path, schema: str, parse: Callable[[dict[str, Any]], T], what: str) -> T | None:
    """Read one of the files beside a seal; None when there is none.

    Parameters
    ----------
    path, schema
        The file, a plain one whatever somebody has put there, and what it says it is.
    parse
        Makes of its content what it stands for.
    what
        What cannot be read if it cannot, for the sentence that says so.

    Raises
    ------
    EvidenceError
        The file cannot be read.
    """
    try:
        os.close(sums.open_file(str(path)))
        return parse(read_json(path, schema))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (AgilabError, OSError, LookupError, TypeError) as err:
        raise EvidenceError(f"{what} cannot be read ({first_line(err)}); remove {path}") from err


def change_tags(
    paths: RunPaths, *, add: Iterable[str] = (), remove: Iterable[str] = (), note: str | None = None
) -> Tags:
    """Add and remove tags, write the note, and return what there is then; two who do so at once both count.

    Parameters
    ----------
    paths
        The run folder.
    add, remove
        Tags; one that is there already is added in vain.
    note
        The new note, empty to have none; None leaves it as it is.

    Raises
    ------
    QueryError
        A tag is not a name, the run lacks one that is to be removed, or there are too many.
    EvidenceError
        What is there cannot be read.
    HomeError
        The folder cannot be written.
    """
    added, removed = list(add), list(remove)
    for tag in added:
        if not NAME_PATTERN.fullmatch(tag):
            raise QueryError(f"tag {tag!r:.120} is not allowed; use up to 100 of letters, digits, '_', '.', '-'")
    if note is not None and len(note) > LONGEST_NOTE:
        raise QueryError(f"the note has {len(note):,} characters; allowed: up to {LONGEST_NOTE:,}")
    with alone(paths):
        before = read_tags(paths)
        missing = [tag for tag in removed if tag not in before.tags]
        if missing:
            there = f"it has {', '.join(before.tags)}" if before.tags else "it has none"
            raise QueryError(f"run {paths.run_id} has no tag {missing[0]!r:.120}; {there}")
        after = Tags(tuple(sorted({*before.tags, *added} - set(removed))), before.note if note is None else note)
        if len(after.tags) > MOST_TAGS:
            raise QueryError(f"run {paths.run_id} would have {len(after.tags)} tags; allowed: up to {MOST_TAGS}")
        if after != before:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_json(paths.tags, {"schema": SCHEMA, "tags": list(after.tags), "note": after.note, "changed": at})
    return after


@contextmanager
def alone(paths: RunPaths) -> Iterator[None]:
    """Hold the sidecar of a run while something in it changes; it is locked as a folder, so that no file is needed.

    Raises
    ------
    HomeError
        The folder cannot be written.
    """
    fd = -1
    try:
        make_folder(paths.sidecar)
        fd = os.open(paths.sidecar, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    except OSError as err:
        if isinstance(err, AgilabError):
            raise
        raise HomeError(f"{paths.sidecar} cannot be written: {err.strerror}; make it writable") from err
    finally:
        if fd >= 0:
            os.close(fd)


def _parsed(value: dict[str, Any]) -> Tags:
    tags, note = value["tags"], value["note"]
    if not isinstance(note, str) or not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError("tags are a list of texts, and note is one")
    return Tags(tuple(sorted(tags)), note)
