"""What the processes of a run use of this machine just now: read from /proc, by the marker that all of them carry.

Source of the figures: proc(5), ``stat`` and ``statm``.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from agilab.reaper import NAME

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
EVERY_S = 1.0
"""How often it is looked [s]."""
KEPT = 600
"""How many samples are kept."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a run used at a moment.

    Parameters
    ----------
    at
        Unix time [s].
    processes
        How many it had.
    cores
        How many cores they kept busy since the sample before.
    memory_bytes
        What they held resident; pages that some of them share are counted once for each.
    """

    at: float
    processes: int
    cores: float
    memory_bytes: int


@dataclass(slots=True)
class Sampler:
    """Looks at the processes of one run, again and again.

    Parameters
    ----------
    run_id
        The run.

    Attributes
    ----------
    samples
        The last ones; none while no process of it was seen, as when it runs on another host.
    taken
        How many there were in all.
    """

    run_id: str
    samples: list[Sample] = field(default_factory=list)
    taken: int = 0
    _ticks: dict[int, int] = field(default_factory=dict)
    _strangers: set[int] = field(default_factory=set)
    _before: float = 0.0

    def look(self) -> None:
        """Take a sample, unless there is a fresh one."""
        now = time.monotonic()
        if now - self._before < EVERY_S:
            return
        ticks: dict[int, int] = {}
        pages = 0
        for pid in self._ours():
            try:
                ticks[pid], size = _use(pid)
            except (OSError, ValueError, IndexError):  # it has just ended
                continue
            pages += size
        spent = sum(max(0, count - self._ticks.get(pid, count)) for pid, count in ticks.items())
        if ticks:
            cores = spent / TICKS_PER_S / (now - self._before) if self._ticks else 0.0
            self.samples.append(Sample(time.time(), len(ticks), cores, pages * PAGE_BYTES))
            self.taken += 1
            del self.samples[:-KEPT]
        self._ticks, self._before = ticks, now

    def _ours(self) -> list[int]:
        """Return the run's processes; what was seen to be somebody else's is not looked at again."""
        marker = f"\0{NAME}={self.run_id}-".encode()
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._strangers &= there
        found = []
        for pid in there - self._strangers:
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    ours = marker in b"\0" + file.read()
            except OSError:
                ours = False
            if ours:
                found.append(pid)
            elif pid != os.getpid() and _settled(pid):
                self._strangers.add(pid)
        return found


def _settled(pid: int) -> bool:
    """Whether a process is older than a moment: one that was just forked has its parent's variables still."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            started = int(file.read().rpartition(b")")[2].split()[19]) / TICKS_PER_S
        with open("/proc/uptime", "rb") as file:
            return float(file.read().split()[0]) - started > 2.0
    except (OSError, ValueError, IndexError):
        return False


def _use(pid: int) -> tuple[int, int]:
    """Return the processor time of a process [ticks] and its resident pages."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(fields[11]) + int(fields[12]), int(file.read().split()[1])
