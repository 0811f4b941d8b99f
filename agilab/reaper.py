"""The supervisor's watcher: when the pipe to it ends, every process of the run is killed; it knows nothing else.

`Watcher` is the supervisor's end. The reaper itself is started by path, as
``python -I -S reaper.py MARKER``, so that it costs one bare interpreter.
Each line of its input is ``PGID START_TIME``. A parent-death signal would
follow a thread and miss grandchildren; a pipe ends with its last holder,
whatever killed it. Standard library only.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen

PATIENCE_S = 5.0
"""How long processes that carry the marker are looked for once more after they were killed [s]."""


NAME = "AGILAB_RUN"
"""Environment variable that every process of a run carries."""


class Watcher:
    """The supervisor's end of the pipe, used as a context manager.

    Attributes
    ----------
    marker
        ``NAME=VALUE`` that every process of the run carries in its environment.
    """

    def __init__(self, marker: str, process: Popen[bytes]) -> None:
        self.marker = marker
        self._process = process

    @classmethod
    def open(cls, run_id: str) -> Watcher:
        """Start a reaper for one run."""
        import secrets
        import subprocess
        import weakref

        marker = f"{NAME}={run_id}-{secrets.token_hex(8)}"
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, marker],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            bufsize=0,
        )
        found = cls(marker, process)
        myself = weakref.ref(found)

        def close_in_child() -> None:  # a child that the caller forks must not keep the pipe open
            watcher = myself()
            if watcher is not None and watcher._process.stdin is not None:
                watcher._process.stdin.close()

        os.register_at_fork(after_in_child=close_in_child)
        return found

    def watch(self, pgid: int, start_time: int) -> None:
        """Record a process group that must not outlive the run."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{pgid} {start_time}\n".encode())
        except BrokenPipeError:  # somebody killed the reaper; the run goes on without it
            return

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *error: object) -> None:
        """Let the reaper end whatever is left of the run, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def end_marked(run_id: str) -> None:
    """Kill every process that an attempt at a run has left: its reaper was killed as well."""
    _end(f"{NAME}={run_id}-".encode())


def end_carriers(value: str) -> None:
    """Kill every process that carries exactly this value of the marker."""
    _end(f"{NAME}={value}\0".encode())


def _end(marker: bytes) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while _kill_marked(marker) and time.monotonic() < deadline:
        time.sleep(0.02)


def main(marker: str) -> int:
    """Wait for the end of input, then kill recorded groups and every process that carries the marker."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, int] = {}
    for line in sys.stdin.buffer:
        pgid, started = line.split()
        groups[int(pgid)] = int(started)
    for pgid, started in groups.items():
        if start_time(pgid) in (started, 0):  # 0: the leader has gone, its group may live on
            _kill_group(pgid)
    _end(marker.encode())
    return 0


def _kill_group(pgid: int) -> None:
    try:
        os.killpg(pgid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _kill_marked(marker: bytes) -> int:
    """Kill every other process with a variable that begins with the marker; return how many there were."""
    found = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = (b"\0" + marker) in b"\0" + file.read()
            if marked:
                found += 1
                os.kill(int(name), signal.SIGKILL)
        except OSError:
            continue
    return found


def start_time(pid: int) -> int:
    """Return when a process started [clock ticks since boot]; 0 when it has gone. Source: proc(5), stat field 22."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
