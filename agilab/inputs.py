"""What a run reads: every input hashed once, and noticed when it changes under the run; it copies nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agilab import digest
from agilab.errors import DataError, EvidenceError
from agilab.paths import make_folder, write_file
from agilab.plan import InputRef

_SETTLED_S = 2.0
"""A file changed less than this long ago is not remembered: its times may not show the next change."""


@dataclass(frozen=True, slots=True)
class Input:
    """One file that a run reads, as it was when it was hashed.

    Parameters
    ----------
    path
        As planned: relative to the data root, or absolute.
    file
        Where it lies on this machine.
    sha256, size_bytes
        Digest and size [bytes].
    state
        Size, modification time [ns] and inode, to notice a change cheaply.
    """

    path: str
    file: str
    sha256: str
    size_bytes: int
    state: tuple[int, int, int]

    def check(self) -> None:
        """Make sure that the file is still the one that was hashed.

        Raises
        ------
        EvidenceError
            It has been changed or removed since the run began.
        """
        try:
            state = _state(self.file)
        except OSError as err:
            raise EvidenceError(f"input {self.path} has gone since the run began ({err.strerror}); run again") from err
        if state != self.state:
            raise EvidenceError(
                f"input {self.file} has changed since the run began; its sha256 was {self.sha256}; run again"
            )


@dataclass(slots=True)
class InputHasher:
    """Hashes inputs, and remembers digests by path, size, time and inode across runs.

    Parameters
    ----------
    cache
        File of the remembered digests; it can be deleted at any time.
    """

    cache: Path
    _known: dict[str, list[int | str]] | None = field(default=None)
    _changed: bool = False

    def hash(self, refs: Iterable[InputRef], root: Path) -> dict[str, Input]:
        """Return path -> `Input` for every file that is referred to.

        Raises
        ------
        DataError
            A file is missing, is not a regular file, or differs from the digest that its reference carries.
        """
        found: dict[str, Input] = {}
        for ref in refs:
            if ref.path not in found:
                found[ref.path] = self._one(ref, root)
            if ref.sha256 and ref.sha256 != found[ref.path].sha256:
                raise DataError(
                    f"input {ref.path} has sha256 {found[ref.path].sha256}, but the plan says {ref.sha256}; "
                    "restore the file or plan again"
                )
        self._save()
        return found

    def _one(self, ref: InputRef, root: Path) -> Input:
        file = os.path.join(root, ref.path)
        try:
            state = _state(file)
        except OSError as err:
            raise DataError(
                f"input {ref.path} cannot be read in {root}: {err.strerror}; check setting and data"
            ) from err
        if not os.path.isfile(file):
            raise DataError(f"input {ref.path} in {root} is not a file; name the files of a folder one by one")
        known = self._load().get(file)
        if known is not None and tuple(known[:3]) == state:
            sha256 = str(known[3])
        else:
            sha256 = digest.of_file(file)
            if _state(file) != state:
                raise DataError(f"input {file} is being written while it is read; wait for its writer and run again")
            if time.time() - state[1] / 1e9 > _SETTLED_S:
                self._load()[file] = [*state, sha256]
                self._changed = True
        return Input(ref.path, file, sha256, state[0], state)

    def _load(self) -> dict[str, list[int | str]]:
        if self._known is None:
            self._known = {}
            with suppress(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
                hashes = json.loads(self.cache.read_bytes())["hashes"]  # a cache that cannot be read is an empty one
                self._known = {file: item for file, item in hashes.items() if isinstance(item, list) and len(item) == 4}
        return self._known

    def _save(self) -> None:
        if self._changed and self._known is not None:
            kept = dict(list(self._known.items())[-50_000:])
            make_folder(self.cache.parent)
            text = json.dumps({"schema": "agilab.hashes/1", "hashes": kept})
            with suppress(OSError):  # a cache that cannot be written costs time, not the run
                write_file(self.cache, text.encode(), durable=False)
            self._changed = False


def _state(file: str) -> tuple[int, int, int]:
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
