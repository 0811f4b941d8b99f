"""What runs on a host for the manager: receive files by digest, build an environment, run a command, clean up.

One process for each operation, started by `boot` with the host's Python. The
first line on stdin is the request; later ones are words of the manager, and
empty ones its signs of life. Input that ends, or stays silent for `LOST_S`,
means that the manager has gone: then everything this process started ends.
Standard library only, and the modules that `program.MODULES` names.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agilab import digest, environment, frozen
from agilab.environment import holding
from agilab.errors import AgilabError, InstallError, NoSpaceError
from agilab.home import claim, is_ours
from agilab.paths import WenvPaths, disk_errors, make_folder
from agilab.uv import Interpreter, find_interpreters, find_uv

if TYPE_CHECKING:
    import subprocess

LOST_S = 20.0
"""How long the manager may be silent before it counts as gone [s]; it gives up on us earlier."""
GRACE_S = 5.0
"""How long a command may take to end after it was told to [s]."""
IN_USE = ".in-use"
"""Held (flock, shared) by everything that uses the caches, and alone by what removes them."""

ELSEWHERE = ".elsewhere"
"""File in the folder of a run here that names the one in which it works, on a share."""

INPUTS = ".inputs"
"""Folder in that of a run with what its partitions read."""

_STEP_S = 0.05


class ManagerGoneError(Exception):
    """The other end of stdin has ended, or says nothing any more."""


class Inbox:
    """Lines from the manager.

    Parameters
    ----------
    file
        Unbuffered stdin.
    """

    def __init__(self, file: FileIO) -> None:
        self._fd = file.fileno()
        self._text = b""
        self._heard = time.monotonic()

    def line(self, timeout_s: float, *, wake: int | None = None) -> str | None:
        """Return the next line that is not empty, None when none came in time; ManagerGoneError when none will.

        Parameters
        ----------
        timeout_s
            How long to wait [s].
        wake
            A descriptor that ends the waiting when it can be read.
        """
        watched = [self._fd] if wake is None else [self._fd, wake]
        deadline = time.monotonic() + timeout_s
        while True:
            while b"\n" in self._text:
                line, _, self._text = self._text.partition(b"\n")
                if line.strip():
                    return line.decode()
            left = deadline - time.monotonic()
            readable = select.select(watched, [], [], max(0.0, left))[0]
            if self._fd in readable:
                block = os.read(self._fd, 1 << 16)
                if not block:
                    raise ManagerGoneError
                self._text += block
                self._heard = time.monotonic()
            elif time.monotonic() - self._heard > LOST_S:
                raise ManagerGoneError
            if (left <= 0 or wake in readable) and b"\n" not in self._text:
                return None


class Words:
    """What the manager says during an operation, read by a thread that ends everything when the manager has gone."""

    def __init__(self, inbox: Inbox) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        with suppress(PermissionError):  # a session leader already, with OpenSSH
            os.setsid()
        signal.signal(signal.SIGTERM, _leave)
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()

    def next(self) -> str:
        """Wait for the next word."""
        return self._lines.get()

    def _listen(self, inbox: Inbox) -> None:
        try:
            while True:
                line = inbox.line(1.0)
                if line is not None:
                    self._lines.put(line)
        except ManagerGoneError:
            os.killpg(0, signal.SIGTERM)
            time.sleep(GRACE_S)
            os.killpg(0, signal.SIGKILL)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(operation: str, stdin: FileIO) -> int:
    """Do one operation; return its exit code.

    Parameters
    ----------
    operation
        ``run``, or one of `OPERATIONS`, which answer with a line ``{"done": ...}`` or ``{"failed": ...}``.
    stdin
        Unbuffered.
    """
    inbox = Inbox(stdin)
    first = inbox.line(LOST_S)
    if first is None:
        return 1
    request: dict[str, Any] = json.loads(first)
    wenv = WenvPaths(Path(os.environ.get("AGILAB_WENV") or Path.home() / "wenv"))
    try:
        if operation == "run":
            claim(wenv.root, wenv.marker, "AGILAB_WENV")
            with _using(wenv):
                return _run(request, inbox)
        done = OPERATIONS[operation](request, wenv, Words(inbox))
    except AgilabError as err:
        _say(failed={"kind": type(err).__name__, "message": str(err)})
    except OSError as err:
        kind = "NoSpaceError" if err.errno in (errno.ENOSPC, errno.EDQUOT) else "InstallError"
        where = f"{err.strerror}{f': {err.filename}' if err.filename else ''}"
        _say(failed={"kind": kind, "message": f"{where}; {_free(wenv.root)} bytes free"})
    else:
        _say(done=done)
        return 0
    return 1


def _say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _report(line: str) -> None:
    _say(report=line)


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


@contextmanager
def _using(wenv: WenvPaths, *, alone: bool = False) -> Iterator[None]:
    """Hold the caches against a clean-up, or against every use when `alone`.

    Raises
    ------
    InstallError
        Somebody else holds them in a way that excludes ours.
    """
    fd = os.open(wenv.root / IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        reason = "a run uses it; try again when it has ended" if alone else "it is just being cleaned; try again"
        raise InstallError(f"{wenv.root} is in use: {reason}") from None
    finally:
        os.close(fd)


# --- what there is -----------------------------------------------------------


def _survey(request: Mapping[str, Any], wenv: WenvPaths, words: Words) -> dict[str, Any]:
    """Say what the host has to offer to worker environments."""
    _find_tools("")
    try:
        uv = find_uv()
    except InstallError:
        uv = ""
    libc = ""
    with suppress(ValueError, OSError, AttributeError):
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    return {
        "wenv": str(wenv.root),
        "uv": uv,
        "libc": libc,
        "pythons": [{**asdict(item), "path": str(item.path)} for item in find_interpreters()],
    }


def _sees(request: Mapping[str, Any], wenv: WenvPaths, words: Words) -> dict[str, Any]:
    """Say what a small file of a shared folder holds here, and whether the folder can be written."""
    path, text = Path(request["path"]), ""
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        text = file.read(100)
    return {"text": text, "writable": os.access(path.parent, os.W_OK | os.X_OK)}


def _find_tools(uv: str) -> None:
    """Let programs be found where users put them, which the PATH of a command over SSH often leaves out."""
    home = Path.home()
    folders = [os.environ.get("PATH", os.defpath), str(home / ".local" / "bin"), str(home / ".cargo" / "bin")]
    os.environ["PATH"] = os.pathsep.join([*([str(Path(uv).parent)] if uv else []), *folders])


# --- bytes by digest ---------------------------------------------------------


def _receive(request: Mapping[str, Any], wenv: WenvPaths, words: Words) -> dict[str, Any]:
    """Take bytes by their digest, once: as files of the input cache, tools, or trees that are unpacked.

    Whoever sends holds a lock meanwhile; another one waits and finds them.
    """
    claim(wenv.root, wenv.marker, "AGILAB_WENV")
    with _using(wenv):
        frozen.sweep(wenv.data)
        items = [_receive_one(item, number, wenv, words) for number, item in enumerate(request["items"])]
    return {"items": items}


def _receive_one(item: Mapping[str, Any], number: int, wenv: WenvPaths, words: Words) -> dict[str, Any]:
    target = Target(item, wenv)
    if target.is_there():
        return {"path": str(target.path), "sent": False}
    if "at" in item:
        raise InstallError(
            f"{target.path} is not there, or not with the bytes that were recorded (sha256 {item['sha256']}); see that "
            "it was not removed or changed, and that all hosts mount the same folder there"
        )
    make_folder(target.path.parent)
    guard = wenv.data / f".{item['sha256']}.lock"
    with holding(guard, waiting=f"waiting for another transfer of {target.path.name}", report=_report):
        if target.is_there():
            return {"path": str(target.path), "sent": False}
        aside = wenv.data / f".{item['sha256'][:16]}.{os.getpid()}.tmp"
        try:
            _take(item, number, target, aside, words)
        finally:
            aside.unlink(missing_ok=True)
    return {"path": str(target.path), "sent": True}


def _take(item: Mapping[str, Any], number: int, target: Target, aside: Path, words: Words) -> None:
    """Let the manager send, check what came, and put it in place."""
    need, free = int(item["size_bytes"]), _free(aside.parent)
    full = f"no space on disk for {target.path}: {need} bytes needed, "
    if need > free:
        raise NoSpaceError(f"{full}{free} free; make room and try again")
    aside.touch(mode=0o600)
    _say(number=number, to=str(aside))
    if words.next() != "sent":
        left, free = need - aside.stat().st_size, _free(aside.parent)
        if left >= free:
            raise NoSpaceError(f"{full}{free + aside.stat().st_size} free; make room and try again")
        raise InstallError(f"{target.path} did not arrive whole; try again")
    found = digest.of_file(aside)
    if found != item["sha256"]:
        raise InstallError(
            f"what came for {target.path} has sha256 {found} instead of {item['sha256']}; it was thrown away"
        )
    with disk_errors(target.path, "writing"):
        target.place(aside)


class Target:
    """Where bytes go on this host.

    Parameters
    ----------
    request
        ``sha256`` of the bytes; ``at``, where they have to be already; ``tool``, a program's name; ``run`` and
        ``name``: the run that reads them, and how it calls them; or ``folder`` and ``tree``: where a tar archive is
        unpacked, relative to AGILAB_WENV, and the
        digest its tree must have; ``python`` compiles its modules.
    wenv
        AGILAB_WENV.
    """

    def __init__(self, request: Mapping[str, Any], wenv: WenvPaths) -> None:
        self._request = request
        self._sha256: str = request["sha256"]
        self._cached = wenv.data / self._sha256
        if "tree" in request:
            self.path = wenv.root / request["folder"]
        elif "at" in request:
            self.path = Path(request["at"])
        elif "tool" in request:
            self.path = wenv.tools / self._sha256 / request["tool"]
        elif "run" in request:
            self.path = wenv.results / request["run"] / INPUTS / self._sha256 / request["name"]
        else:
            self.path = self._cached

    def is_there(self) -> bool:
        """Whether it is here with the right bytes; they are hashed."""
        if "tree" in self._request:
            return self._is_whole(self.path)
        if "run" in self._request and self._cached.is_file() and digest.of_file(self._cached) == self._sha256:
            self._name()
            return True
        return self.path.is_file() and digest.of_file(self.path) == self._sha256

    def place(self, aside: Path) -> None:
        """Put received bytes in place, whole."""
        if "tree" in self._request:
            frozen.make_once(self.path, lambda folder: self._unpack(aside, folder), is_complete=self._is_whole)
            return
        aside.chmod(0o500 if "tool" in self._request else 0o400)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        if "run" in self._request:
            os.replace(aside, self._cached)
            self._name()
        else:
            os.replace(aside, self.path)

    def _name(self) -> None:
        """Give cached bytes the name that a run reads them by."""
        make_folder(self.path.parent)
        self.path.unlink(missing_ok=True)
        try:
            os.link(self._cached, self.path)
        except OSError as err:
            if err.errno != errno.EXDEV:
                raise
            _copy(self._cached, self.path)  # results lie on a disk of their own

    def _is_whole(self, folder: Path) -> bool:
        return folder.is_dir() and digest.of_tree(folder) == self._request["tree"]

    def _unpack(self, archive: Path, folder: Path) -> None:
        import shutil
        import tarfile

        with tarfile.open(archive) as tar:
            for member in tar:
                path = folder / member.name
                content = tar.extractfile(member) if member.isreg() else None
                if ".." in path.parts or member.name.startswith("/") or (content is None and not member.issym()):
                    raise InstallError(f"{member.name!r} does not belong into a package; nothing was unpacked")
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if content is None:
                    path.symlink_to(member.linkname)
                else:
                    with content, open(path, "xb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
                    path.chmod(0o700 if member.mode & 0o100 else 0o600)
        if not self._is_whole(folder):
            raise InstallError(f"the tree sent for {self.path} is not the one that was announced; it was thrown away")
        if self._request.get("python"):
            names = [name for name in digest.tree_files(folder) if not folder.joinpath(name).is_symlink()]
            python = Interpreter(**{**self._request["python"], "path": Path(self._request["python"]["path"])})
            for failed in frozen.compile_modules(folder, names, python, final=self.path)[:1]:
                raise InstallError(f"Python {python.version} does not take {failed.name}: {failed.message}")
        frozen.freeze(folder)


def _copy(source: Path, target: Path) -> None:
    """Copy a file; no part of it stays when the disk is full."""
    import shutil

    try:
        shutil.copyfile(source, target)
    except OSError:
        target.unlink(missing_ok=True)
        raise


def _have(request: Mapping[str, Any], wenv: WenvPaths, words: Words) -> dict[str, Any]:
    """Say which trees and environments are here and sound; empty where one is not."""
    trees = [Target(item, wenv) for item in request["trees"]]
    found = []
    for item in request["environments"]:
        python = Interpreter(**{**item["python"], "path": Path(item["python"]["path"])})
        folder = wenv.environments / environment.environment_digest(item["lock"], python)
        sound = environment.looks_sound(folder)
        found.append({"folder": str(folder) if sound else "", "python": str(environment.python_of(folder))})
    return {"trees": [str(tree.path) if tree.is_there() else "" for tree in trees], "environments": found}


# --- environments ------------------------------------------------------------


def _environment(request: Mapping[str, Any], wenv: WenvPaths, words: Words) -> dict[str, Any]:
    """Return the environment of a lock; build it when told, from an index or from wheels that were sent."""
    claim(wenv.root, wenv.marker, "AGILAB_WENV")
    _find_tools(request["uv"])
    os.environ.setdefault("UV_CACHE_DIR", str(wenv.root / ".uv"))  # goes when the host is cleaned
    wheels: list[dict[str, str]] = request["wheels"]
    python = Interpreter(**{**request["python"], "path": Path(request["python"]["path"])})
    with _using(wenv):
        frozen.sweep(wenv.tmp)
        folder = wenv.environments / environment.environment_digest(request["lock"], python)
        if not request["build"] and not environment.looks_sound(folder):
            return {"folder": ""}
        house = wenv.tmp / f".wheels.{os.getpid()}.tmp"
        try:
            if wheels:
                _open_wheelhouse(house, wheels, wenv)
            else:  # the manager sends wheels when the index does not answer
                os.environ.setdefault("UV_HTTP_RETRIES", "0")
                os.environ.setdefault("UV_HTTP_TIMEOUT", "10")
            folder = environment.ensure(request["lock"], python, wenv=wenv, report=_report)
        finally:
            if house.exists():
                frozen.remove(house)
    return {"folder": str(folder), "python": str(environment.python_of(folder))}


def _open_wheelhouse(house: Path, wheels: list[dict[str, str]], wenv: WenvPaths) -> None:
    """Give received wheels their names again, each after its digest was checked, and let uv look nowhere else."""
    make_folder(house)
    for wheel in wheels:
        source = wenv.data / wheel["sha256"]
        found = digest.of_file(source)
        if found != wheel["sha256"]:
            raise InstallError(
                f"{source} has sha256 {found}: it was changed on this host; clean the host and try again"
            )
        os.link(source, house / Path(wheel["name"]).name)
    settings = house / "uv.toml"  # offline alone is not enough: pages of an index may be cached, and name other files
    settings.write_text(f"no-index = true\noffline = true\nfind-links = [{json.dumps(str(house))}]\n")
    os.environ["UV_CONFIG_FILE"] = str(settings)


# --- commands ----------------------------------------------------------------


def _run(request: Mapping[str, Any], inbox: Inbox) -> int:
    """Run a command until it ends or the manager goes; return its exit code, 128 + n when signal n ended it."""
    from agilab.reaper import Watcher, start_time

    with Watcher.open(request["run_id"]) as watcher:
        _say(started=True)
        try:
            process = _start(request, watcher.marker)
        except OSError as err:
            sys.stderr.write(f"{request['argv'][0]} does not start: {err.strerror}\n")
            return 127
        watcher.watch(process.pid, start_time(process.pid))
        wake = os.pidfd_open(process.pid) if sys.platform == "linux" else None
        try:
            while process.poll() is None:
                word = inbox.line(_STEP_S if wake is None else 1.0, wake=wake)
                if word is not None:
                    _tell_group(process.pid, signal.Signals[word])
        except ManagerGoneError:
            _end(process, float(request["grace_s"]))
        code = process.wait()
    return code if code >= 0 else 128 - code


def _start(request: Mapping[str, Any], marker: str) -> subprocess.Popen[bytes]:
    import subprocess
    import tempfile

    name, _, value = marker.partition("=")
    variables = {key: text for key, text in os.environ.items() if not key.startswith("SSH_")}
    with tempfile.TemporaryFile() as stdin:
        stdin.write(request["input"].encode())
        stdin.seek(0)
        return subprocess.Popen(
            request["argv"],
            env={**variables, **request["environment"], name: value},
            stdin=stdin,
            cwd=request["folder"] or "/",
            start_new_session=True,
        )


def _tell_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a process group: politely, and by force when `grace_s` [s] are over."""
    import subprocess

    _tell_group(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    _tell_group(process.pid, signal.SIGKILL)


# --- leaving -----------------------------------------------------------------


def _clean(request: Mapping[str, Any], wenv: WenvPaths, words: Words) -> dict[str, Any]:
    """Remove what was deployed here; results that nobody has collected only when told."""
    results: list[str] = []
    removed = 0
    if is_ours(wenv.marker):
        with _using(wenv, alone=True):
            runs = sorted(wenv.results.iterdir()) if wenv.results.is_dir() else []
            shared = {run: folder for run in runs if (folder := _on_share(run)) is not None}
            for run in [run for run, folder in shared.items() if not folder.is_dir()]:  # the manager has removed it
                runs.remove(run)
                frozen.remove(run)
            results = [run.name for run in runs]
            for folder in shared.values() if request["results"] else ():
                if folder.is_dir():
                    removed += _size(folder)
                    frozen.remove(folder)
            keep = {wenv.marker.name, IN_USE} | ({wenv.results.name} if results and not request["results"] else set())
            for path in wenv.root.iterdir():
                if path.name not in keep:
                    removed += _size(path)
                    frozen.remove(path)
            if wenv.results.name not in keep:
                frozen.remove(wenv.root)
    program = Path(__file__).parents[3]
    removed += _size(program.parent)
    frozen.remove(program.parent)
    kept = [] if request["results"] else results
    return {"wenv": str(wenv.root), "removed_bytes": removed, "results": results, "kept": kept}


def _on_share(run: Path) -> Path | None:
    """Return the folder on a share in which a run has worked; None when it worked here."""
    with suppress(OSError, ValueError):
        found = Path((run / ELSEWHERE).read_text(encoding="utf-8"))
        if found.is_absolute() and found.name.startswith(f".agilab-{run.name}-"):
            return found
    return None


def _size(path: Path) -> int:
    """Return the space that a file or a tree takes [bytes]; what has several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in (
        os.walk(path) if path.is_dir() and not path.is_symlink() else [(path.parent, (), [path.name])]
    ):
        for name in names:
            stat = os.lstat(Path(folder, name))
            seen[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(seen.values())


OPERATIONS: Mapping[str, Callable[[Mapping[str, Any], WenvPaths, Words], dict[str, Any]]] = {
    "survey": _survey,
    "sees": _sees,
    "have": _have,
    "receive": _receive,
    "environment": _environment,
    "clean": _clean,
}
"""What the manager may ask for, besides ``run``."""
