"""The machine's queue: which run may use how many cores and devices at a time; it starts nothing.

A slot is a file that its holder keeps locked (`flock`), so that a holder's
death frees it at once, whatever killed it. A queue lock keeps two runs from
each waiting for what the other holds; cores and devices have one each, since
a run takes its devices while it holds cores, and must not stand behind one
that waits for those cores.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agilab.errors import RequestError
from agilab.paths import make_folder

POLL_S = 0.05


@dataclass(slots=True)
class Slots:
    """What one run holds; `release` gives it back.

    Attributes
    ----------
    numbers
        Kind (``"cpu"``, ``"gpu"``, ...) -> numbers of the slots held.
    """

    numbers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _files: dict[tuple[str, int], int] = field(default_factory=dict)

    def add(self, other: Slots) -> None:
        """Take over what another one holds, of other kinds."""
        self.numbers |= other.numbers
        self._files |= other._files
        other._files = {}

    def shrink(self, kind: str, count: int) -> None:
        """Keep only the first `count` of a kind."""
        numbers = self.numbers.get(kind, ())
        for number in numbers[count:]:
            os.close(self._files.pop((kind, number)))
        self.numbers[kind] = numbers[:count]

    def release(self) -> None:
        """Give everything back. Idempotent."""
        while self._files:
            os.close(self._files.popitem()[1])


def machine(environ: Mapping[str, str]) -> dict[str, int]:
    """Return how many of each kind this machine has.

    ``cpu`` is ``AGILAB_SLOTS``, by default the cores this process may use;
    the rest is ``AGILAB_RESOURCES``, such as ``gpu=2,licence=1``, by default
    the NVIDIA devices found.

    Raises
    ------
    RequestError
        One of the two variables cannot be read.
    """
    cores = environ.get("AGILAB_SLOTS", "")
    if cores and not (cores.isdecimal() and int(cores) > 0):
        raise RequestError(f"AGILAB_SLOTS is {cores!r}; allowed: a whole number above 0")
    found = {"cpu": int(cores) if cores else len(os.sched_getaffinity(0))}
    gpus = sum(1 for path in Path("/dev").glob("nvidia[0-9]*"))
    return {**found, **resources(environ.get("AGILAB_RESOURCES"), gpus)}


def resources(text: str | None, gpus: int) -> dict[str, int]:
    """Return the countable resources of a machine besides its cores.

    Parameters
    ----------
    text
        Its ``AGILAB_RESOURCES``; None where that is not set.
    gpus
        How many NVIDIA devices it has, which count where it is not.

    Raises
    ------
    RequestError
        The variable cannot be read.
    """
    if text is None:
        return {"gpu": gpus} if gpus else {}
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, count = item.partition("=")
        if not (name.isidentifier() and count.isdecimal()) or name == "cpu":
            raise RequestError(f"AGILAB_RESOURCES holds {item!r}; allowed: name=count, such as gpu=2,licence=1")
        found[name] = int(count)
    return found


def acquire(
    folder: Path,
    *,
    run_id: str,
    wanted: Mapping[str, int],
    available: Mapping[str, int],
    waiting: Callable[[str], None],
    stopped: Callable[[], bool],
) -> Slots | None:
    """Take slots, waiting until they are free.

    Parameters
    ----------
    folder
        Where the slot files lie; all runs that share it share the machine.
    run_id
        Written into the files, so that others can say who holds them.
    wanted
        Kind -> how many; more than there are counts as all of them.
    available
        Kind -> how many the machine has, from `machine`.
    waiting
        Told once, in one line, when the run has to wait.
    stopped
        Looked at while waiting.

    Returns
    -------
    Slots or None
        None when `stopped` became true first.
    """
    make_folder(folder)
    held = Slots()
    told = False
    queue = os.open(
        folder / ("queue.lock" if "cpu" in wanted else "devices.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        turn = False
        while True:
            turn = turn or _lock(queue)
            if turn and _take(folder, held, run_id=run_id, wanted=wanted, available=available):
                return held
            if stopped():
                held.release()
                return None
            if not told:
                told = True
                waiting(_who(folder, wanted))
            time.sleep(POLL_S)
    except BaseException:
        held.release()
        raise
    finally:
        os.close(queue)


def _take(folder: Path, held: Slots, *, run_id: str, wanted: Mapping[str, int], available: Mapping[str, int]) -> bool:
    """Lock what is still missing; True once everything is held."""
    complete = True
    for kind, count in wanted.items():
        total = available.get(kind, 0)
        need = min(count, total)
        have = list(held.numbers.get(kind, ()))
        for number in range(total):
            if len(have) >= need:
                break
            if number not in have and _hold(folder, (kind, number), held, run_id):
                have.append(number)
        held.numbers[kind] = tuple(sorted(have))
        complete = complete and len(have) >= need
    return complete


def _hold(folder: Path, slot: tuple[str, int], held: Slots, run_id: str) -> bool:
    fd = os.open(folder / f"{slot[0]}-{slot[1]}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _lock(fd):
        os.close(fd)
        return False
    os.ftruncate(fd, 0)
    os.pwrite(fd, run_id.encode(), 0)
    held._files[slot] = fd
    return True


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _who(folder: Path, wanted: Mapping[str, int]) -> str:
    holders: dict[str, None] = {}
    for kind in wanted:
        for path in sorted(folder.glob(f"{kind}-*")):
            with suppress(OSError):
                holders[path.read_text()] = None
    names = ", ".join(list(holders)[:3]) or "another run"
    asked = ", ".join(f"{count} {kind}" for kind, count in wanted.items())
    return f"waiting for {asked} slot(s) of this machine; held by {names}"
