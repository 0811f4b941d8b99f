"""The entry process: the only place where worker code runs; it opens no socket and writes only where it is told.

A backend starts it with the worker environment's interpreter on a copy of
the runtime (``python -I RUNTIME``) and speaks JSON lines over its standard
input and output. Worker code sees neither: its standard output goes to the
log, its standard input is empty. Standard library only.

Protocol, one JSON object per line::

    ->  {"op": "init", "protocol": 1, "worker": "pkg:Class", "code": FOLDER, "fields": ..., "values": ...,
         "secrets": ..., "seed": 0, "cancel_file": PATH, "kinds": {"name": {"suffix": ".ckpt", ...}}}
    <-  {"op": "ready", "pid": 1, "python": "3.13.0"}
    ->  {"op": "run", "id": "p1", "stage": "tracks", "attempt": 1, "params": {}, "inputs": {"name": [PATH, SHA256]},
         "resources": {}, "folder": FOLDER}
    <-  {"op": "progress" | "metric" | "log", "id": "p1", ...}
    <-  {"op": "done", "id": "p1", "cancelled": false, "artifacts": [...], "started": ...,
         "wall_s": ..., "cpu_s": ..., "peak_rss_bytes": ...}; cancelled: worker code was told so and may have left early
    <-  {"op": "failed", "id": "p1", "reason": "exception" | "memory", "message": ..., "traceback": ..., ...}

Partitions may be sent ahead; they run one at a time, in order. End of input
means: tear down and go.

A process that is kept from run to run (`agilab.kept`) also hears::

    ->  {"op": "load", "worker": "pkg:Class", "code": FOLDER}      first of all: import the worker, nothing more
    <-  {"op": "loaded"}
    ->  {"op": "init", ..., "log": PATH}                           begin a run: a new worker, its output goes to PATH
    ->  {"op": "rest", "log": PATH}                                end it: tear down, output goes elsewhere
    <-  {"op": "rested", "clean": true}                            clean: it may serve another run
    ->  {"op": "ping"}                                             between two runs: is it there?
    <-  {"op": "pong"}
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import index
from pathlib import Path
from typing import Any

from agilab import codec, digest
from agilab.artifact import Kind, link, require_file
from agilab.errors import AgilabError, ProtocolError, WorkerError, first_line
from agilab.worker import PartitionContext, Send, Worker

PROTOCOL = 1
"""Version of the protocol above; both ends must speak the same."""

PROGRESS_EVERY_S = 0.1
_OWN_FRAMES = (__file__, "<frozen importlib", os.path.join(os.path.dirname(os.__file__), "importlib"))
_LONGEST_TEXT = 48 * 1024  # with what the manager adds, less than the event log takes in one piece
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class WorkerSession:
    """One worker instance with its settings, for as long as its process lives.

    Parameters
    ----------
    init
        The ``init`` message.

    Raises
    ------
    ProtocolError
        The manager speaks another version of the protocol.
    SettingError
        The settings do not pass their declaration.
    WorkerError
        The worker class is not there or is not a `Worker`.
    """

    def __init__(self, init: Mapping[str, Any]) -> None:
        if init.get("protocol") != PROTOCOL:
            raise ProtocolError(
                f"the manager speaks protocol {init.get('protocol')!r}, this worker runtime {PROTOCOL}; "
                "install the app again so that both come from one AGILAB"
            )
        fields = codec.fields_from_json(init["fields"])
        values = codec.validate(fields, init["values"], where="the request")
        self._seed: int = init["seed"]
        self._cancelled = _CancelFile(init["cancel_file"])
        self._kinds = {name: Kind.from_json(name, kind) for name, kind in init.get("kinds", {}).items()}
        self.worker = load_worker(init["worker"], Path(init["code"]))
        self.worker.settings = codec.decode(fields, values, secrets=init["secrets"])
        self.worker.setup()

    def run(self, task: Mapping[str, Any], send: Send) -> dict[str, Any]:
        """Run one partition and return its ``done`` message; whatever its method raises passes through.

        Raises
        ------
        WorkerError
            The worker has no method for the stage.
        """
        method = stage_method(self.worker, task["stage"])
        folder = Path(task["folder"])
        folder.mkdir(mode=0o700, parents=True)
        inputs = materialise(task["inputs"], Path(f"{folder}.inputs"))
        known = {"inputs": inputs, "seed": self._seed, "kinds": self._kinds}
        part = PartitionContext({**task, **known}, folder, send=_Throttle(send), cancelled=self._cancelled)
        _reset_peak()
        os.chdir(folder)
        started, wall, cpu = time.time(), time.monotonic(), time.process_time()
        with _devices(task["resources"].get("gpu", ())), _same_process():
            method(part)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        artifacts = collect(part)
        return {
            "op": "done",
            "id": part.id,
            "cancelled": self._cancelled.answer,
            "artifacts": artifacts,
            "started": started,
            "wall_s": round(wall, 6),
            "cpu_s": round(cpu, 6),
            "peak_rss_bytes": _peak_rss_bytes(),
        }

    def close(self) -> None:
        """Tear the worker down."""
        self.worker.teardown()


def load_worker(name: str, code: Path) -> Worker:
    """Import a worker class as `worker_class` does, and make an instance of it."""
    return worker_class(name, code)()


def worker_class(name: str, code: Path) -> type[Worker]:
    """Import a worker class from packaged code.

    Parameters
    ----------
    name
        ``package:Class``.
    code
        Folder that holds the package.

    Raises
    ------
    WorkerError
        There is no such class, or it is not derived from `agilab.Worker`.
    """
    from importlib import import_module

    package, _, class_name = name.partition(":")
    if str(code) not in sys.path:
        sys.path.insert(0, str(code))
    found = getattr(import_module(package), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Worker)):
        raise WorkerError(f"{package} in {code} has no class {class_name} derived from agilab.Worker; define it there")
    return found


def stage_method(worker: Worker, stage: str) -> Callable[[PartitionContext], None]:
    """Return the method that runs a stage; WorkerError names the ones there are."""
    method = getattr(worker, stage, None)
    if method is None or stage.startswith("_") or hasattr(Worker, stage):
        known = [name for name in vars(type(worker)) if not name.startswith("_") and not hasattr(Worker, name)]
        raise WorkerError(
            f"{type(worker).__name__} has no method for stage {stage!r}; it has {', '.join(known) or 'none'}; "
            f"add `def {stage}(self, part)`"
        )
    return method  # type: ignore[no-any-return]


def materialise(inputs: Mapping[str, tuple[str, str]], folder: Path) -> dict[str, str]:
    """Give every input its own name inside `folder`; return name -> path.

    Hard links where the filesystem has them, so that an input of any size
    costs nothing and a later change of the original's name does not matter.

    Raises
    ------
    WorkerError
        What had to be copied is not what the manager has hashed.
    """
    paths: dict[str, str] = {}
    made = False
    for number, (name, (source, sha256)) in enumerate(inputs.items()):
        if not sha256:  # checked already, and to stay where it lies: in a folder that hosts share
            require_file(Path(source))
            paths[name] = source
            continue
        if not made:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = True
        target = folder / str(number) / os.path.basename(source)
        link(Path(source), target)
        if os.stat(target).st_nlink == 1 and digest.of_file(target) != sha256:
            raise WorkerError(
                f"input {source} has changed since it was hashed, when its sha256 was {sha256}; run again"
            )
        paths[name] = str(target)
    return paths


def collect(part: PartitionContext) -> list[dict[str, Any]]:
    """List what a partition wrote, and drop what lies beside it in its folder.

    Raises
    ------
    WorkerError
        An artifact that was announced is not there, or is not a regular file.
    """
    sizes: dict[str, int] = {}
    strangers: list[os.DirEntry[str]] = []
    wanted = {item["path"] for item in part.written.values()}
    with os.scandir(part.folder) as entries:
        for entry in entries:
            if entry.name not in wanted:
                strangers.append(entry)
            elif entry.is_file(follow_symlinks=False):
                sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    for item in part.written.values():
        if item["path"] not in sizes:
            raise WorkerError(f"artifact {item['name']!r} of {part.id!r} is not a regular file; write it again")
    for entry in strangers:
        if entry.is_dir(follow_symlinks=False):
            import shutil

            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    return [{**item, "size_bytes": sizes[item["path"]]} for item in part.written.values()]


def failure(partition: str, error: BaseException) -> dict[str, Any]:
    """Describe what a partition raised, whatever its class does when it is printed."""
    import traceback

    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename.startswith(_OWN_FRAMES):
        own = own.tb_next  # our frames tell a person nothing about the app's code
    try:
        text = "".join(traceback.format_exception(type(error), error, own or error.__traceback__))
    except BaseException as broken:  # an exception class may make its own printing raise
        text = f"(the traceback cannot be printed: {type(broken).__name__})"
    return {
        "op": "failed",
        "id": partition,
        "reason": "memory" if isinstance(error, MemoryError) else "exception",
        "message": first_line(error),
        "traceback": _cut(text),
    }


def main() -> int:
    """Serve one manager over standard input and output until it closes the pipe."""
    if sys.argv[1:2] == ["debug"]:
        return debug(Path(sys.argv[2]))
    incoming, send = _take_pipes()
    session: WorkerSession | None = None
    kept: _Kept | None = None
    for line in incoming:
        message = _load(line)
        if message["op"] in ("init", "load"):
            try:
                if message["op"] == "load":
                    kept = _Kept(message)
                    send({"op": "loaded"})
                    continue
                if "log" in message:
                    _print_to(message["log"])
                session = WorkerSession(message)
            except BaseException as err:  # worker code may raise anything at import, SystemExit included
                send({**failure("", err), "expected": isinstance(err, AgilabError)})
                return 1
            send({"op": "ready", "pid": os.getpid(), "python": ".".join(map(str, sys.version_info[:3]))})
        elif message["op"] == "rest" and kept is not None:
            send({"op": "rested", "clean": kept.rest(session, message["log"])})
            session = None
        elif message["op"] == "ping":
            send({"op": "pong"})
        elif session is not None:
            send(_attempt(session, message, send))
    if session is not None:
        session.close()
    return 0


def debug(order: Path) -> int:
    """Run one partition on the caller's terminal, and stop in a debugger where it raises.

    Parameters
    ----------
    order
        JSON file with the messages ``init`` and ``task``; removed at once, since it may hold secrets.
    """
    messages = _load(order.read_bytes())
    order.unlink()
    try:
        session = WorkerSession(messages["init"])
        session.run(messages["task"], lambda message: print(_dump(message).decode(), end="", file=sys.stderr))
        session.close()
    except Exception as err:  # what worker code raises is what the user wants to see
        print(failure("", err)["traceback"], end="", file=sys.stderr)
        if sys.stdin.isatty():
            import pdb

            pdb.post_mortem(err.__traceback__)
        return 1
    return 0


def _attempt(session: WorkerSession, task: Mapping[str, Any], send: Send) -> dict[str, Any]:
    try:
        return session.run(task, send)
    except BaseException as err:  # any exception of worker code is an answer, SystemExit and KeyboardInterrupt too
        return failure(task["id"], err)
    finally:
        sys.stdout.flush()
        os.chdir("/")


class _Kept:
    """What a process that serves run after run keeps: its imports, and the variables that it began with.

    Parameters
    ----------
    message
        The ``load`` message.
    """

    def __init__(self, message: Mapping[str, Any]) -> None:
        from threading import active_count

        _adopt_orphans()
        self._variables = dict(os.environ)
        worker_class(message["worker"], Path(message["code"]))
        self._threads = active_count()

    def rest(self, session: WorkerSession | None, log: str) -> bool:
        """End a run; return whether nothing that its worker began goes on: then this process may serve another."""
        from threading import active_count

        clean = True
        try:
            if session is not None:
                session.close()
        except BaseException:  # as at the end of a run that is alone: its log has it, its artifacts stand
            sys.excepthook(*sys.exc_info())
            clean = False
        sys.stdout.flush()
        _print_to(log)
        os.environ.clear()
        os.environ.update(self._variables)
        return not _end_children() and active_count() <= self._threads and clean


def _adopt_orphans() -> None:
    """Become the parent of whatever worker code leaves behind, daemons too (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def _end_children() -> int:
    """Kill every process below this one; return how many there were."""
    import signal

    found = 0
    while True:
        children: set[int] = set()
        for task in Path("/proc/self/task").glob("*/children"):
            with suppress(FileNotFoundError):  # a thread that has just ended
                children.update(map(int, task.read_text().split()))
        alive = 0
        for pid in children:
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                alive += 1
        found += alive
        if not children:
            return found


def _print_to(path: str) -> None:
    """Send what worker code prints to another file."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _take_pipes() -> tuple[Any, Send]:
    """Move the pipes out of worker code's reach: it gets an empty input, and its prints go to the log."""
    from threading import Lock

    incoming = open(os.dup(0), "rb")  # noqa: SIM115 - lives as long as the process
    outgoing = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    lock = Lock()  # worker threads may log while the method reports progress
    me = os.getpid()

    def send(message: dict[str, Any]) -> None:
        data = _dump(message)
        if os.getpid() != me:  # a forked child must not speak for its parent
            return
        with lock:
            view = memoryview(data)
            while view:
                view = view[os.write(outgoing, view) :]

    return incoming, send


class _Throttle:
    """Pass messages on, but progress at most every `PROGRESS_EVERY_S`, and no text without end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._next = 0.0

    def __call__(self, message: dict[str, Any]) -> None:
        if message["op"] == "progress":
            now = time.monotonic()
            if now < self._next and message["done"] < message["total"]:
                return
            self._next = now + PROGRESS_EVERY_S
            message = {**message, "done": _number(message["done"]), "total": _number(message["total"])}
        elif message["op"] == "metric" and message["step"] is not None:
            message = {**message, "step": _number(message["step"])}
        elif message["op"] == "log":
            message = {**message, "text": _cut(message["text"])}
        self._send(message)


def _number(value: Any) -> int | float:
    """Return a plain number: what numpy and others call one, JSON may not know."""
    try:
        return index(value)
    except TypeError:
        return float(value)


@contextmanager
def _devices(numbers: Sequence[int]) -> Iterator[None]:
    """Name the devices that a partition may use where CUDA reads them, when the method first touches one."""
    former = os.environ.get(_VISIBLE)
    if numbers:
        os.environ[_VISIBLE] = ",".join(map(str, numbers))
    try:
        yield
    finally:
        if former is not None:
            os.environ[_VISIBLE] = former
        elif numbers:
            os.environ.pop(_VISIBLE, None)


@contextmanager
def _same_process() -> Iterator[None]:
    """End a child that the method has forked, before it goes on as if it were the worker."""
    me, status = os.getpid(), 1
    try:
        yield
        status = 0
    finally:
        if os.getpid() != me:
            if status:
                sys.excepthook(*sys.exc_info())
            sys.stdout.flush()
            os._exit(status)


class _CancelFile:
    """Whether the file that asks for an end exists; looked up at most every 50 ms."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._next = 0.0
        self.answer = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.answer and now >= self._next:
            self._next = now + 0.05
            self.answer = os.path.exists(self._path)
        return self.answer


def _cut(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _reset_peak() -> None:
    # Linux only: elsewhere the peak is that of the process so far.
    try:
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(fd, b"5")
    finally:
        os.close(fd)


def _peak_rss_bytes() -> int:
    # Not from getrusage where it can be helped: that begins with the peak of the process that started this one.
    try:
        with open("/proc/self/status", "rb") as file:
            return int(file.read().partition(b"VmHWM:")[2].split(maxsplit=1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        from resource import RUSAGE_SELF, getrusage

        return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _dump(message: Mapping[str, Any]) -> bytes:
    from json import dumps

    return dumps(message, separators=(",", ":")).encode() + b"\n"


def _load(line: bytes) -> dict[str, Any]:
    from json import loads

    value: dict[str, Any] = loads(line)
    return value
