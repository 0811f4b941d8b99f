"""Entry processes of the worker environment, driven over pipes on this machine; no Dask, no threads.

Backend `local` drives all workers of a run this way, a lease runner of
backend `dask` the one of its slot. One thread, one selector. A worker's
death, a timeout and a broken message are ordinary events here; what follows
from them is decided in `agilab.state`.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from agilab.backends.base import (
    Broken,
    Done,
    Event,
    Failed,
    Gone,
    Job,
    Pool,
    Report,
    Returned,
    Started,
    Told,
    Wanted,
)
from agilab.reaper import NAME, start_time

SHORT_S = 0.02
"""A partition shorter than this gets the next one sent ahead, so that the pipe's latency is hidden."""

_STARTS_WITHOUT_READY = 3
encode = json.JSONEncoder(separators=(",", ":")).encode
_SAMPLE_EVERY_S = 0.5
_SIGNALS = frozenset(signal.Signals)
"""Those that have a name of their own; a worker can be ended by others, the real-time signals."""
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "SSL_CERT_FILE", "LD_LIBRARY_PATH"),
    NAME,  # on a host, where the manager's own marker means nothing
)
_THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Launch:
    """What it takes to start an entry process, as plain data.

    Parameters
    ----------
    python, runtime
        The worker environment's interpreter, and what it starts.
    init
        The ``init`` message.
    environment
        Every variable the process gets.
    logs
        Folder of its log.
    memory_bytes
        What it may use before it is ended [bytes]; None for no limit but the machine's.
    """

    python: str
    runtime: str
    init: Mapping[str, Any]
    environment: Mapping[str, str]
    logs: str
    memory_bytes: int | None = None

    @classmethod
    def of(cls, job: Job) -> Launch:
        """Return how this machine starts an entry process of a job."""
        mib = job.cluster.get("memory_mib")
        return cls(
            python=str(job.installed.python),
            runtime=str(job.installed.runtime),
            init=job.init,
            environment=worker_environment(job.slots, job.environment),
            logs=str(job.paths.logs),
            memory_bytes=mib << 20 if mib else None,
        )


@dataclass(slots=True)
class _Sent:
    """A task that a worker holds; its clock runs from when it becomes the worker's first."""

    partition: str
    timeout_s: float | None
    deadline: float | None = None


@dataclass(slots=True)
class Slot:
    """One worker: the process that serves it now, and what it has been sent."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    sent: deque[_Sent] = field(default_factory=deque)
    ready: bool = False
    ahead: bool = False
    starts_without_ready: int = 0
    killed_for: tuple[str, str, str] | None = None
    """Partition, reason and message."""
    rss_bytes: int = 0
    stopped: bool = False


class EntryPool(Pool):
    """Entry processes on this machine, one per worker.

    Parameters
    ----------
    launch
        How each is started.
    workers
        Names of the first ones.
    """

    def __init__(self, launch: Launch, workers: Sequence[str]) -> None:
        self._launch = launch
        self._init = encode(launch.init).encode() + b"\n"
        self._selector = selectors.DefaultSelector()
        self._pending: list[Event] = []
        self._closing = self._broken = False
        self._next_sample = 0.0
        self._oom_kills = _oom_kills()
        self._slots: dict[str, Slot] = {}
        self.add(workers)

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._slots)

    def add(self, workers: Sequence[str]) -> None:
        for name in workers:
            self._slots[name] = Slot(name)
            self._start(self._slots[name])

    def submit(self, worker: str, task: Mapping[str, Any], *, timeout_s: float | None) -> None:
        slot = self._slots[worker]
        sent = _Sent(task["id"], timeout_s)
        if slot.process is None:  # it wanted work before it ended for good
            self._pending.append(Returned(worker, sent.partition))
            return
        if slot.ready and not slot.sent:
            _start_clock(sent)
        slot.sent.append(sent)
        self._write(slot, encode(task).encode() + b"\n")

    def wait(self, timeout_s: float) -> Sequence[Event]:
        self._expire()
        if not self._pending:
            deadlines = [slot.sent[0].deadline for slot in self._slots.values() if slot.sent]
            soonest = min((at for at in deadlines if at is not None), default=None)
            if soonest is not None:
                timeout_s = min(timeout_s, max(0.0, soonest - time.monotonic()))
            for key, mask in self._selector.select(timeout_s):
                self._attend(key, mask)
            self._sample()
        events, self._pending = self._pending, []
        return events

    def kill(self) -> None:
        for slot in self._slots.values():
            if slot.process is not None:
                signal_group(slot.process.pid, signal.SIGKILL)

    def close(self, *, grace_s: float) -> None:
        if self._closing:
            return
        self._closing = True
        begun = time.monotonic()
        alive = [slot for slot in self._slots.values() if slot.process is not None]
        for slot in alive:  # the end of its input tells a worker to go; a busy one may look at `part.cancelled`
            assert slot.process is not None
            assert slot.process.stdin is not None
            with suppress(OSError):
                slot.process.stdin.close()
        for share, number in ((0.5, signal.SIGTERM), (1.0, signal.SIGKILL)):
            ended = {slot.name: _ended(slot.pidfd, begun + share * grace_s) for slot in alive}
            for slot in alive:
                assert slot.process is not None
                if not ended[slot.name] or number == signal.SIGKILL:
                    signal_group(slot.process.pid, number)
        for slot in alive:
            assert slot.process is not None
            slot.process.wait()
            self._forget(slot)
        self._selector.close()

    def _start(self, slot: Slot) -> None:
        os.makedirs(self._launch.logs, mode=0o700, exist_ok=True)
        try:
            with open(self._log(slot), "ab") as log:
                process = subprocess.Popen(
                    [self._launch.python, "-I", self._launch.runtime],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment(slot),
                    cwd="/",
                    start_new_session=True,
                    bufsize=0,
                )
        except OSError as err:  # the environment was damaged since the run began
            self._break(slot, f"{err.filename} cannot be run: {err.strerror}; install the app again")
            return
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        slot.process, slot.pidfd, slot.ready, slot.ahead = process, os.pidfd_open(process.pid), False, False
        slot.incoming.clear()
        slot.outgoing.clear()
        slot.killed_for, slot.rss_bytes, slot.stopped = None, 0, False
        self._selector.register(process.stdout, selectors.EVENT_READ, (slot, "read"))
        self._selector.register(slot.pidfd, selectors.EVENT_READ, (slot, "end"))
        self._pending.append(Started(slot.name, process.pid, start_time(process.pid)))
        self._greet(slot)

    def _environment(self, slot: Slot) -> Mapping[str, str]:
        """Return the variables of a process that is about to begin."""
        return self._launch.environment

    def _greet(self, slot: Slot) -> None:
        """Tell a process that has just begun what it is for."""
        self._write(slot, self._init)

    def _log(self, slot: Slot) -> Path:
        return Path(self._launch.logs, f"{slot.name}.log")

    def _write(self, slot: Slot, data: bytes) -> None:
        """Write without ever blocking: a busy worker may not read while its pipe is full."""
        slot.outgoing += data
        self._flush(slot)

    def _flush(self, slot: Slot) -> None:
        assert slot.process is not None
        pipe = slot.process.stdin
        assert pipe is not None
        blocked = False
        while slot.outgoing and not blocked:
            try:
                del slot.outgoing[: os.write(pipe.fileno(), slot.outgoing)]
            except BlockingIOError:
                blocked = True
            except BrokenPipeError:  # it has died; its end arrives as an event of its own
                slot.outgoing.clear()
        registered = pipe in self._selector.get_map()
        if slot.outgoing and not registered:
            self._selector.register(pipe, selectors.EVENT_WRITE, (slot, "write"))
        elif registered and not slot.outgoing:
            self._selector.unregister(pipe)

    def _attend(self, key: selectors.SelectorKey, mask: int) -> None:
        slot, what = key.data
        if slot.process is None:  # its end was handled earlier in this round
            return
        if what == "write":
            self._flush(slot)
        elif what == "read":
            if not self._read(slot):
                self._selector.unregister(key.fileobj)
        else:
            self._end(slot)

    def _read(self, slot: Slot) -> bool:
        """Take in what a worker said; False at the end of its output."""
        assert slot.process is not None
        assert slot.process.stdout is not None
        try:
            data = os.read(slot.process.stdout.fileno(), 1 << 18)
        except BlockingIOError:
            return True
        slot.incoming += data
        if b"\n" in data:
            *lines, rest = slot.incoming.split(b"\n")
            slot.incoming = rest
            for line in lines:
                self._hear(slot, line)
        return bool(data)

    def _hear(self, slot: Slot, line: bytes | bytearray) -> None:
        try:
            message = json.loads(line)
            op, partition = message["op"], message.get("id")
        except (ValueError, KeyError, TypeError, RecursionError):
            self._kill(slot, "protocol", "the worker wrote something that is not a message of the protocol")
            return
        first = slot.sent[0].partition if slot.sent else None
        if op == "ready":
            slot.ready, slot.starts_without_ready = True, 0
            if slot.sent:  # its predecessor had wanted it
                _start_clock(slot.sent[0])
            else:
                self._pending.append(Wanted(slot.name))
        elif op in ("progress", "metric", "log") and partition == first:
            self._pending.append(Report(slot.name, message))
        elif op == "failed" and not slot.ready:
            self._break(slot, message["message"], message["traceback"])
        elif op == "done" and partition == first:
            self._pending.append(Done(slot.name, message["id"], message))
            self._after(slot, short=message["wall_s"] < SHORT_S)
        elif op == "failed" and partition == first:
            failed = Failed(slot.name, message["id"], message["reason"], message["message"], message["traceback"])
            self._pending.append(failed)
            self._after(slot, short=False)
        elif op not in ("progress", "metric", "log", "loaded", "pong"):
            self._kill(
                slot, "protocol", f"the worker answered {op!r} for partition {partition!r}, which it does not run"
            )

    def _after(self, slot: Slot, *, short: bool) -> None:
        """The first task of a worker has come back: the next one's clock starts, and there is room for more."""
        slot.sent.popleft()
        if slot.sent:
            _start_clock(slot.sent[0])
        wanted = 1
        if short and not slot.ahead:
            slot.ahead, wanted = True, 2
        elif slot.ahead and not short:
            slot.ahead, wanted = False, 0
        if wanted:
            self._pending.append(Wanted(slot.name, wanted))

    def _expire(self) -> None:
        now = time.monotonic()
        for slot in self._slots.values():
            first = slot.sent[0] if slot.sent else None
            if first is not None and first.deadline is not None and now >= first.deadline:
                first.deadline = None
                self._kill(slot, "timeout", f"timeout after {first.timeout_s:g} s")

    def _kill(self, slot: Slot, reason: str, message: str) -> None:
        if slot.process is not None and slot.killed_for is None:
            slot.killed_for = (slot.sent[0].partition if slot.sent else "", reason, message)
            signal_group(slot.process.pid, signal.SIGKILL)

    def _end(self, slot: Slot) -> None:
        """A worker process has ended: what it had said counts, what it was doing has failed."""
        process = slot.process
        assert process is not None
        while self._read_rest(slot):
            pass
        signal_group(process.pid, signal.SIGKILL)  # what it started and left behind
        code = process.wait()
        blamed, reason, message = slot.killed_for or ("", *self._reason(slot, code))
        if blamed and slot.sent and slot.sent[0].partition != blamed:  # that one had just come to its end
            reason = "died"
        ready = slot.ready
        self._forget(slot)
        self._pending.append(Gone(slot.name, message))  # first: what it held is not for this worker again
        tail = _tail(self._log(slot))
        if slot.sent:
            first = slot.sent.popleft()
            self._pending.append(Failed(slot.name, first.partition, reason, message, tail if reason == "died" else ""))
            self._pending += [Returned(slot.name, sent.partition) for sent in slot.sent]
            slot.sent.clear()
        slot.starts_without_ready += not ready
        if slot.starts_without_ready >= _STARTS_WITHOUT_READY:
            self._break(slot, f"worker {slot.name} does not start: {message}", tail)
        if self._restarts(slot):
            self._start(slot)

    def _restarts(self, slot: Slot) -> bool:
        """Whether a worker whose process has ended gets another one."""
        return not self._broken

    def _break(self, slot: Slot, message: str, traceback: str = "") -> None:
        self._broken = True
        self._pending.append(Broken(message, traceback))

    def _read_rest(self, slot: Slot) -> bool:
        assert slot.process is not None
        assert slot.process.stdout is not None
        before = len(slot.incoming)
        more = self._read(slot)
        return more and (len(slot.incoming) != before or _readable(slot.process.stdout))

    def _reason(self, slot: Slot, code: int) -> tuple[str, str]:
        if code >= 0:
            doing = "in the middle of a partition" if slot.ready else "before it was ready"
            return "died", f"worker {slot.name} ended with exit code {code} {doing}"
        name = signal.strsignal(-code) if -code not in _SIGNALS else signal.Signals(-code).name
        limit = self._launch.memory_bytes or _memory_bytes()
        if code == -signal.SIGKILL and (_oom_kills() > self._oom_kills or slot.rss_bytes > 0.8 * limit):
            self._oom_kills = _oom_kills()
            peak = f"{slot.rss_bytes / 2**20:.0f} of {limit / 2**20:.0f} MiB"
            return "memory", f"worker {slot.name} was killed, probably out of memory (last seen at {peak})"
        return "died", f"worker {slot.name} was killed by signal {-code} ({name})"

    def _forget(self, slot: Slot) -> None:
        process = slot.process
        if process is None:
            return
        for item in (process.stdin, process.stdout, slot.pidfd):
            with suppress(KeyError, ValueError):
                self._selector.unregister(item)  # type: ignore[arg-type]
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        os.close(slot.pidfd)
        slot.process, slot.pidfd = None, -1

    def _limit(self, slot: Slot) -> None:
        limit = self._launch.memory_bytes
        if limit is not None and slot.rss_bytes > limit:
            used = f"{slot.rss_bytes / 2**20:.0f} of {limit / 2**20:.0f} MiB"
            self._kill(slot, "memory", f"worker {slot.name} was ended, out of memory: it used {used} (memory_mib)")

    def _sample(self) -> None:
        now = time.monotonic()
        if now < self._next_sample:
            return
        self._next_sample = now + _SAMPLE_EVERY_S
        for slot in self._slots.values():
            if slot.process is not None:
                with suppress(OSError, ValueError, IndexError):
                    pages = int(Path(f"/proc/{slot.process.pid}/statm").read_text().split()[1])
                    if pages:  # one that has just been killed has none any more
                        slot.rss_bytes = pages * os.sysconf("SC_PAGE_SIZE")
                        self._limit(slot)
                self._tell_if_stopped(slot, slot.process.pid)

    def _tell_if_stopped(self, slot: Slot, pid: int) -> None:
        """Say once that a partition waits for a process that was stopped: whoever did that may want it to go on."""
        before, slot.stopped = slot.stopped, bool(slot.sent) and is_stopped(pid)
        if slot.stopped and not before:
            held = slot.sent[0].partition
            text = (
                f"worker {slot.name}: its process {pid} is stopped, and partition {held!r} with it; let it go on with: "
                f"kill -CONT {pid}, or have it tried again with: kill -KILL {pid}"
            )
            self._pending.append(Told("note", {"text": text}))


def worker_environment(slots: int, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables a worker process gets: an allowlist, and thread limits so that workers share the cores.

    A thread limit that the user has set is kept.
    """
    chosen = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    chosen |= {name: value for name, value in os.environ.items() if name.startswith("LC_")}
    threads = str(max(1, len(os.sched_getaffinity(0)) // max(1, slots)))
    chosen |= {name: os.environ.get(name, threads) for name in _THREAD_LIMITS}
    return {**chosen, **extra}


def _start_clock(sent: _Sent) -> None:
    if sent.timeout_s is not None:
        sent.deadline = time.monotonic() + sent.timeout_s


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal, or by a debugger. Source: proc(5), stat field 3."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def signal_group(pgid: int, number: int) -> None:
    """Send a signal to a process group, if there still is one."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def _ended(pidfd: int, deadline: float) -> bool:
    """Wait for a process to end, without the polling of `Popen.wait`."""
    return _readable(pidfd, max(0.0, deadline - time.monotonic()))


def _readable(file: BinaryIO | Any, timeout_s: float = 0.0) -> bool:
    import select

    poll = select.poll()  # select.select knows no descriptor above 1023
    poll.register(file, select.POLLIN)
    return bool(poll.poll(1000 * timeout_s))


def _tail(path: Path, size: int = 4000) -> str:
    """Return the last lines of a log, for a death that nobody else explains."""
    with suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        text = file.read().decode(errors="replace").strip()
        return f"{text}\n" if text else ""
    return ""


def _oom_kills() -> int:
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _memory_bytes() -> int:
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        limit = min(limit, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return limit
