"""The event log of a run, `events.jsonl`: writing it, reading it, following it; what the events mean stands elsewhere.

One JSON object per line, ``{"t": ISO UTC, "mono": seconds, "event": NAME, ...}``.
The log is derived: losing its last 50 ms loses no work, since commits are
recorded in ``partitions/``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from json.encoder import encode_basestring as _quote
from pathlib import Path
from typing import Any

from agilab.paths import disk_errors

SYNC_INTERVAL_S = 0.05
"""How long an event may wait for its fsync [s], as long as the owner's loop calls `EventLog.flush_due`."""
TEXT_LIMIT = 64 * 1024
"""Longest text of one field [bytes of UTF-8]; the rest is cut off with a note."""

SHORTEST_POLL_S = 0.002
"""How soon `follow` looks again when something has just come [s]."""

_PENDING_LIMIT = 1 << 20
_READ_CHUNK = 8 << 20
_NOTHING: Mapping[str, Any] = {}
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# fdatasync writes the data and the new length, and spares the journal entry for the times.
_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
_SHOWN = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (
        *(code for code in range(32) if code not in (9, 10)),
        *range(0x7F, 0xA0),
        *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    )
}


class EventLog:
    """The writing end of an event log; one per run, held by the owner of the run, used from one thread.

    A torn last line, left by a writer that was killed, is cut off when the
    log is opened again.

    Parameters
    ----------
    path
        The file; made when missing, its folder must exist.
    now, monotonic
        The clocks [s].

    Raises
    ------
    NoSpaceError
        From every method that writes: the disk is full. What was not written
        stays pending, so the call may be repeated.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._now = now
        self._monotonic = monotonic
        self._pending: list[str] = []
        self._pending_size = 0
        self._unwritten = b""
        self._written_since_sync = False
        self._synced_at = -math.inf
        self._second = -1
        self._second_text = ""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with disk_errors(path, "opening"):
            self._fd = os.open(path, flags, 0o600)
        cut_torn_line(self._fd)

    def append(self, event: str, fields: Mapping[str, Any] = _NOTHING) -> None:
        """Add an event; a ``state`` event is on the disk when this returns, any other one soon.

        Parameters
        ----------
        event
            Its name.
        fields
            JSON values under names other than ``t``, ``mono`` and ``event``.
            Texts over `TEXT_LIMIT` are cut, numbers that JSON lacks become
            texts (`plain`).
        """
        wall = self._now()
        second = int(wall)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        line = (
            f'{{"t":"{self._second_text}.{int((wall - second) * 1e6):06d}Z","mono":{self._monotonic():.6f},'
            f'"event":{_quote(event)}{_members(fields)}}}\n'
        )
        self._pending.append(line)
        self._pending_size += len(line)
        if event == "state":
            self.sync()
        elif self._pending_size > _PENDING_LIMIT:
            self._write()

    def flush_due(self, now: float) -> float | None:
        """Sync when an event is pending and the last sync is `SYNC_INTERVAL_S` ago.

        Parameters
        ----------
        now
            The monotonic clock [s].

        Returns
        -------
        float or None
            How long the caller may sleep before it must call again [s]; None when nothing is pending.
        """
        if not (self._pending or self._unwritten or self._written_since_sync):
            return None
        wait = self._synced_at + SYNC_INTERVAL_S - now
        if wait > 0:
            return wait
        self.sync()
        return None

    def sync(self) -> None:
        """Write what is pending and wait until it is on the disk."""
        self._write()
        if self._written_since_sync:
            with disk_errors(self.path, "writing"):
                _sync_data(self._fd)
            self._written_since_sync = False
        self._synced_at = self._monotonic()

    def close(self) -> None:
        """Sync and close; closing twice does nothing."""
        if self._fd < 0:
            return
        try:
            self.sync()
        finally:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self) -> None:
        if self._pending:
            # A text with a lone surrogate is no UTF-8; it gets a question mark rather than stop the run.
            self._unwritten += "".join(self._pending).encode("utf-8", "replace")
            self._pending.clear()
            self._pending_size = 0
        with disk_errors(self.path, "writing"):
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._fd, self._unwritten) :]
                self._written_since_sync = True


def read(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Read the events after an offset, at most a few MiB of them; call again until the offset stays.

    Parameters
    ----------
    path
        The log; one that does not exist yet is empty.
    offset
        Where to begin [bytes]: 0, or what the last call returned.

    Returns
    -------
    events : list of dict
        A torn last line is left for the next call; a line that is no JSON object is skipped.
    offset : int
        Where the next call begins [bytes].
    """
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(_READ_CHUNK)
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    events = []
    for line in data[:end].split(b"\n")[:-1]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # a block of zeros after a power cut
            continue
        if isinstance(event, dict):
            events.append(event)
    return events, offset + end


def follow(path: Path, stopped: Callable[[], bool], poll_s: float = 0.05) -> Iterator[dict[str, Any]]:
    """Yield every event from the first one on, waiting for more until the writer has stopped.

    Parameters
    ----------
    path
        The log.
    stopped
        Whether nothing is written any more; what was written before it said so is still yielded.
    poll_s
        How often to look for more when nothing has come for a while [s].
    """
    offset, delay = 0, SHORTEST_POLL_S
    while True:
        last = stopped()
        before = -1
        while before != offset:
            before = offset
            events, offset = read(path, offset)
            yield from events
            delay = SHORTEST_POLL_S if events else delay
        if last:
            return
        time.sleep(delay)
        delay = min(delay * 1.2, poll_s)


def plain(value: Any) -> Any:
    """Replace what JSON has no words for.

    Parameters
    ----------
    value
        A JSON value in which numbers may be NaN or infinite and texts may hold lone surrogates.

    Returns
    -------
    JSON value
        Such numbers as the texts ``"NaN"``, ``"Infinity"``, ``"-Infinity"``; surrogates as ``?``.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {plain(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def visible(text: str) -> str:
    r"""Show control characters instead of obeying them: ``\x1b[31m`` for a colour, ``\u202e`` for a turned line.

    Tabs and line ends stay. Whatever a worker wrote passes through here
    before it reaches a terminal.
    """
    return text.replace("\r\n", "\n").translate(_SHOWN)


def _members(fields: Mapping[str, Any]) -> str:
    """Encode the members of an object, each after a comma; texts and integers without the cost of an encoder."""
    parts = []
    for name, value in fields.items():
        kind = value.__class__
        if kind is str:
            text = _quote(value if len(value) <= TEXT_LIMIT // 4 else _cut(value))
        elif kind is int:
            text = str(value)
        else:
            try:
                text = _encode(value)
            except ValueError:
                text = _encode(plain(value))
        parts.append(f",{_quote(name)}:{text}")
    return "".join(parts)


def _cut(text: str) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= TEXT_LIMIT:
        return text
    return f"{data[:TEXT_LIMIT].decode('utf-8', 'ignore')}... (cut; it has {len(data)} bytes)"


def cut_torn_line(fd: int) -> None:
    """Shorten a log to its last complete line."""
    end = os.fstat(fd).st_size
    while end:
        start = max(0, end - 4096)
        line_end = os.pread(fd, end - start, start).rfind(b"\n")
        if line_end >= 0:
            end = start + line_end + 1
            break
        end = start
    if end != os.fstat(fd).st_size:
        os.ftruncate(fd, end)
        os.lseek(fd, 0, os.SEEK_END)
