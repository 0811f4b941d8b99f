"""The lock that says who owns a run: taking it, and asking whether somebody has it; it reads no other file of the run.

``.owner`` is locked as long as its owner lives, and the kernel lets go when
it dies. What the file says besides, host and process, is for people and for
other hosts.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from pathlib import Path
from typing import Any

from agilab import sums
from agilab.errors import EvidenceError, RunStateError
from agilab.paths import RunPaths, disk_errors

_OWNER_WAIT_S = 1.0
_LIMIT = 65536


class Owner:
    """The lock of a run, held by the process that may write its folder; made by `hold_owner`.

    It ends with the process, however that ends. Children made by a fork do
    not keep it; a child that is to take over inherits `fileno`.
    """

    def __init__(self, paths: RunPaths, fd: int) -> None:
        self.paths = paths
        self._fd = fd
        this = weakref.ref(self)

        def forget() -> None:
            owner = this()
            if owner is not None:
                owner.close()

        os.register_at_fork(after_in_child=forget)

    def fileno(self) -> int:
        """Return the descriptor, for ``pass_fds`` of a child that calls ``hold_owner(paths, fd=...)``."""
        return self._fd

    def close(self) -> None:
        """Let go of the run, unless a child has taken it over; closing twice does nothing."""
        if self._fd >= 0:
            # Closing and not unlocking: an unlock would take the lock from a parent or child as well.
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def hold_owner(paths: RunPaths, *, fd: int = -1) -> Owner:
    """Become the owner of a run, and say so in ``.owner``.

    Parameters
    ----------
    paths
        The run folder.
    fd
        The descriptor of the owner so far, inherited from it; -1 to take a free lock.

    Raises
    ------
    RunStateError
        Another process owns the run.
    """
    if fd < 0:
        with disk_errors(paths.owner, "writing"):
            fd = os.open(paths.owner, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.set_inheritable(fd, False)
    end = time.monotonic() + _OWNER_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # A reader that probes holds its shared lock for microseconds; an owner holds on.
            if time.monotonic() < end:
                time.sleep(0.005)
                continue
            os.close(fd)
            other = read_owner(paths) or {}
            who = f"process {other.get('pid', 'unknown')} on {other.get('host', 'an unknown host')}"
            raise RunStateError(
                f"run {paths.run_id} is owned by {who}; wait for it, or cancel it with: agilab cancel {paths.run_id}"
            ) from None
    value = {"host": os.uname().nodename, "boot_id": _boot_id(), "pid": os.getpid(), "start_time": _start_time()}
    data = json.dumps(value).encode() + b"\n"
    with disk_errors(paths.owner, "writing"):
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    return Owner(paths, fd)


def read_owner(paths: RunPaths) -> dict[str, Any] | None:
    """Return what ``.owner`` says: host, boot_id, pid, start_time; None when it says nothing."""
    try:
        return _parse(sums.read_file(str(paths.owner), _LIMIT))
    except (OSError, EvidenceError):
        return None


def probe_owner(paths: RunPaths) -> str:
    """Say whether a run has an owner; waits for nothing and writes nothing.

    Returns
    -------
    str
        ``"held"``, ``"free"``, or ``"unknown"`` where the lock says nothing: the owner was another host, or the
        filesystem has no locks.
    """
    try:
        fd = os.open(paths.owner, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "free"
    except OSError:
        return "unknown"
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        owner = _parse(os.pread(fd, _LIMIT, 0)) or {}
    except BlockingIOError:
        return "held"
    except OSError:
        return "unknown"
    finally:
        os.close(fd)
    # Containers on one machine differ in name and share the kernel, and with it the lock.
    here = not owner or owner.get("host") == os.uname().nodename or owner.get("boot_id") == (_boot_id() or None)
    return "free" if here else "unknown"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_time() -> int:
    """Return when this process started [clock ticks since boot]; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
