"""Makes finished partitions durable: hash, fsync, rename, record; it decides nothing about the run.

It works in a thread of its own, because fsync waits for the disk while
workers could be given the next partition; what is finished in the meantime
is committed together, with one durable append per worker.
"""

from __future__ import annotations

import os
import queue
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from agilab import digest, sums
from agilab.errors import EvidenceError
from agilab.events import cut_torn_line
from agilab.paths import RunPaths, disk_errors, make_folder, sync_folder, write_all
from agilab.records import record_line
from agilab.worker import RECORD_NAME

_BATCH = 256
_OPEN_FILES = 256
_PATIENCE_S = 0.005
_READ_BYTES = 1 << 20
_MANY_FILES = 8
"""From so many on, one call that writes out their filesystem costs less than waiting for each of them."""
_SLOW_S = 0.02
"""Once that call has taken longer per file [s], and a second, somebody else writes much to that filesystem."""
_SPARED = 16
"""For so many batches we then wait for our own files only."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A partition whose method has returned.

    Parameters
    ----------
    folder
        Its attempt folder.
    record
        Its record, but for the digests of its artifacts.
    """

    folder: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Commit:
    """A partition whose record is durable, or why it could not become so."""

    record: Mapping[str, Any]
    error: BaseException | None = None


@dataclass(slots=True)
class Committer:
    """Commits partitions in the background, in the order in which they finish.

    Attributes
    ----------
    hashes
        Path relative to the run folder -> sha256, of every file committed: the seal need not read them again.
    """

    paths: RunPaths
    hashes: dict[str, str] = field(default_factory=dict)
    _inbox: queue.SimpleQueue[Finished | None] = field(default_factory=queue.SimpleQueue)
    _outbox: queue.SimpleQueue[Commit] = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None
    _defect: BaseException | None = None
    _records: dict[str, int] = field(default_factory=dict)
    _folders: set[str] = field(default_factory=set)
    _disk: _Disk = field(default_factory=lambda: _Disk())

    def put(self, finished: Finished) -> None:
        """Hand over a finished partition."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="agilab-committer", daemon=True)
            self._thread.start()
        self._inbox.put(finished)

    def take(self, timeout_s: float = 0.0) -> list[Commit]:
        """Return what has been committed, waiting at most `timeout_s` [s] for the first."""
        found: list[Commit] = []
        if timeout_s and self._defect is None:
            with suppress(queue.Empty):
                found.append(self._outbox.get(timeout=timeout_s))
        while not self._outbox.empty():  # this thread is the only reader
            found.append(self._outbox.get())
        while self._defect is not None and not self._inbox.empty():  # nobody else reads them any more
            if (left := self._inbox.get()) is not None:
                found.append(Commit(left.record, self._defect))
        return found

    def close(self) -> list[Commit]:
        """Finish what was handed over, and return what `take` has not."""
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join()
            self._thread = None
        while self._records:
            os.close(self._records.popitem()[1])
        return self.take()

    def _serve(self) -> None:
        busy_until = 0.0
        open_ = True
        while open_:
            batch: list[Finished] = []
            item = self._inbox.get()
            # In a stream of short partitions a little patience saves most of the syncs.
            until = time.monotonic() + (_PATIENCE_S if time.monotonic() < busy_until else 0.0)
            while item is not None:
                batch.append(item)
                patience = until - time.monotonic()
                if len(batch) == _BATCH or (patience <= 0 and self._inbox.empty()):
                    break
                try:
                    item = self._inbox.get(timeout=max(0.0, patience))
                except queue.Empty:
                    break
            open_ = item is not None
            if batch:
                try:
                    self._commit(batch)
                except BaseException as err:  # a defect of ours: whoever waits for these must hear of it
                    self._defect = err
                    for finished in batch:
                        self._outbox.put(Commit(finished.record, err))
                    raise
                busy_until = time.monotonic() + 10 * _PATIENCE_S

    def _commit(self, batch: list[Finished]) -> None:
        """Take a batch through every step; one that fails drops out with its reason."""
        sealed: list[tuple[Finished, bytes]] = []
        for finished, outcome in zip(batch, _settle(batch, self._disk), strict=True):
            try:
                if isinstance(outcome, BaseException):
                    raise outcome
                self._publish(finished, outcome)
            except (OSError, EvidenceError) as err:
                self._outbox.put(Commit(finished.record, err))
                continue
            sealed.append((finished, outcome))
        failed = self._record(sealed)
        for finished, line in sealed:
            record = finished.record
            why = failed.get(record["worker"])
            if why is not None:
                with suppress(OSError):  # else it would fence the next attempt
                    os.rename(self.paths.partition(record["stage"], record["partition"]), finished.folder)
                self._outbox.put(Commit(record, why))
                continue
            base = f"artifacts/{record['stage']}/{record['partition']}/"
            self.hashes[base + RECORD_NAME] = sha256(line).hexdigest()
            self.hashes |= {item["path"]: item["sha256"] for item in record["artifacts"] if not item["location"]}
            self._outbox.put(Commit(record))

    def _publish(self, finished: Finished, line: bytes) -> None:
        record = finished.record
        stage = os.path.join(self.paths.artifacts, record["stage"])
        if stage not in self._folders:
            make_folder(self.paths.artifacts / record["stage"])
            sync_folder(self.paths.artifacts)
            self._folders.add(stage)
        # The folder holds at least its record, so a rename onto a committed one fails: late attempts are fenced.
        os.rename(finished.folder, os.path.join(stage, record["partition"]))

    def _record(self, sealed: list[tuple[Finished, bytes]]) -> dict[str, OSError]:
        """Make renames and record lines durable; return the workers whose lines could not become so, and why."""
        lines: dict[str, list[bytes]] = {}
        for finished, line in sealed:
            lines.setdefault(finished.record["worker"], []).append(line)
        failed: dict[str, OSError] = {}
        try:
            for stage in {finished.record["stage"] for finished, _ in sealed}:
                sync_folder(self.paths.artifacts / stage)
        except OSError as err:
            return dict.fromkeys(lines, err)
        for worker, found in lines.items():
            try:
                self._append(worker, b"".join(found))
            except OSError as err:
                failed[worker] = err
        return failed

    def _append(self, worker: str, data: bytes) -> None:
        path = self.paths.records(worker)
        with disk_errors(path, "recording partitions in"):
            if worker not in self._records:
                make_folder(self.paths.partitions)
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._records[worker] = os.open(path, flags, 0o600)
                cut_torn_line(self._records[worker])  # left by a predecessor that was killed while it wrote
                sync_folder(self.paths.partitions)
            fd = self._records[worker]
            end = os.fstat(fd).st_size
            try:
                write_all(fd, data)
                os.fdatasync(fd)
            except OSError:
                with suppress(OSError):  # half a line would spoil the next one, a whole one would count
                    os.ftruncate(fd, end)
                raise


def _settle(batch: list[Finished], disk: _Disk) -> list[bytes | BaseException]:
    """Hash and sync what partitions left; return the record line of each, or why it has none.

    All files are hashed first, and all are given to the disk before any is
    waited for; where they are many, together, which is ten times faster.
    """
    found: list[bytes | BaseException] = []
    opened: list[list[int]] = []
    for finished in batch:
        fds: list[int] = []
        opened.append(fds)
        try:
            for item in finished.record["artifacts"]:
                if item["location"]:
                    _check_located(item)
                    continue
                path = f"{finished.folder}/{item['path'].rpartition('/')[2]}"
                fds.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
                item["sha256"], item["size_bytes"] = _hash(fds[-1], path)
                os.posix_fadvise(fds[-1], 0, 0, os.POSIX_FADV_DONTNEED)  # starts the writing, waits for nothing
            found.append(record_line(finished.record))
        except (OSError, EvidenceError) as err:
            found.append(err)
        if sum(map(len, opened)) > _OPEN_FILES:
            _sync(batch, opened, found, disk=disk)
    _sync(batch, opened, found, disk=disk)
    return found


def _check_located(item: Mapping[str, Any]) -> None:
    """See that what a host says of an artifact which stays there can stand in a record; it is hashed when it comes."""
    size, sha256, path = item["size_bytes"], item["sha256"], item["path"]
    sound = isinstance(sha256, str) and sums.HASH.fullmatch(sha256) and isinstance(size, int) and size >= 0
    if not (sound and sums.safe_path(path) and path.count("/") == 3 and not path.endswith(f"/{RECORD_NAME}")):
        raise EvidenceError(
            f"host {item['location']} says of artifact {item['name']!r:.100} that it is {path!r:.200} with "
            f"{size!r:.30} bytes and sha256 {sha256!r:.80}, which cannot be; nothing of that partition was taken"
        )


def _sync(batch: list[Finished], opened: list[list[int]], found: list[bytes | BaseException], *, disk: _Disk) -> None:
    """Wait until files and folders are on the disk, close the files, and put records beside them."""
    together = disk.sync([fd for fds in opened for fd in fds])
    for index, fds in enumerate(opened):
        outcome = found[index]
        folder = batch[index].folder
        try:
            with disk_errors(Path(folder), "committing"):
                for fd in () if together else fds:  # on Linux's filesystems this also keeps the names of a new file
                    os.fsync(fd)
                # The copy need not be durable: what counts is the line in partitions/, and it can be restored.
                if isinstance(outcome, bytes):
                    _write_copy(f"{folder}/{RECORD_NAME}", outcome)
        except OSError as err:
            found[index] = err
        finally:
            while fds:
                os.close(fds.pop())


class _Disk:
    """Knows whether many files may be waited for together."""

    def __init__(self) -> None:
        self._spared = 0

    def sync(self, fds: Sequence[int]) -> bool:
        """Write out everything on the filesystems of many files; False when each has to be waited for instead."""
        syncfs = _syncfs() if len(fds) >= _MANY_FILES else None
        if syncfs is None or self._spared:
            self._spared = max(0, self._spared - 1)
            return False
        begun = time.monotonic()
        if any(syncfs(fd) for fd in {os.fstat(fd).st_dev: fd for fd in fds}.values()):
            return False  # it does not say which file it was about
        if time.monotonic() - begun > max(1.0, _SLOW_S * len(fds)):
            self._spared = _SPARED
        return True


@cache
def _syncfs() -> Callable[[int], int] | None:
    """Return the call of that name where it reports what could not be written. Source: syncfs(2), since Linux 5.8."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if sys.platform != "linux" or release is None or (int(release[1]), int(release[2])) < (5, 8):
        return None
    import ctypes

    call: Callable[[int], int] = ctypes.CDLL(None).syncfs
    return call


def _write_copy(path: str, line: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:  # written when the files of this batch were too many for one round
        return
    try:
        write_all(fd, line)
    finally:
        os.close(fd)


def _hash(fd: int, path: str) -> tuple[str, int]:
    """Return sha256 and size [bytes] of an artifact that nobody else can change.

    Raises
    ------
    EvidenceError
        It is not a regular file, or has a second name elsewhere.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise EvidenceError(f"{path} is not a regular file, so it cannot be an artifact")
    if found.st_nlink != 1:
        raise EvidenceError(f"{path} has a second name elsewhere and could change later; write a file of its own")
    if found.st_size <= _READ_BYTES:
        return digest.of_bytes(os.read(fd, _READ_BYTES)), found.st_size
    total = sha256()
    while data := os.read(fd, _READ_BYTES):
        total.update(data)
    return total.hexdigest(), found.st_size
