"""What a worker runs: its code by digest, the runtime by digest, `current`; its environment is built by `environment`.

On disk, made once and never changed::

    AGILAB_WENV/<app>_worker/<code digest>/<app>_worker/       the code: an unpacked wheel, read only, byte-compiled
    AGILAB_WENV/<app>_worker/<code digest>/<...>.dist-info/    its METADATA, WHEEL and RECORD
    AGILAB_WENV/<app>_worker/current                           leads to the code that was installed last
    AGILAB_WENV/<app>_worker/worker_manifest.json              names code, environment, lock and runtime
    AGILAB_WENV/.runtime/<digest>/agilab/                      the few modules of AGILAB that worker code sees

An edit of worker code gives new code beside the old one and leaves the
environment alone. Everything is written aside and renamed into place.
"""

from __future__ import annotations

import csv
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agilab import digest, environment, frozen
from agilab.environment import LOCK_NAME, Requirements, holding
from agilab.errors import AgilabError, HomeError, InstallError
from agilab.paths import WenvPaths, disk_errors, make_folder, read_json, write_file, write_json
from agilab.uv import Interpreter, Report, current_interpreter, find_interpreter, run_uv

SCHEMA = "agilab.worker/1"
MANIFEST_NAME = "worker_manifest.json"
RUNTIME_MODULES = ("worker", "plan", "artifact", "codec", "values", "points", "errors", "digest", "paths", "entry")
"""The modules of AGILAB that exist where worker code runs; standard library only."""

BUILD_FILES = frozenset(
    {"pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in", "meson.build", "meson_options.txt", "meson.options"}
    | {"CMakeLists.txt", LOCK_NAME}
)
"""Files of a worker folder that a build finds above the package instead of in it."""

_WHEEL = "Wheel-Version: 1.0\nGenerator: agilab\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

_RUNTIME_MAIN = b'''"""Start the entry process: ``python -I RUNTIME``."""

import sys
from os.path import dirname

if sys.path[:1] != [dirname(__file__)]:
    sys.path.insert(0, dirname(__file__))

from agilab.entry import main

sys.exit(main())
'''


@dataclass(frozen=True, slots=True)
class WorkerSource:
    """Where an app keeps its worker.

    Parameters
    ----------
    app
        Name of the app; its worker package is ``<app>_worker``.
    folder
        The folder that holds the package's files and its ``pyproject.toml``.
    writable
        Whether the lock may be written beside ``pyproject.toml``.
    """

    app: str
    folder: Path
    writable: bool

    @property
    def package(self) -> str:
        return f"{self.app}_worker"

    @property
    def pyproject(self) -> Path:
        return self.folder / "pyproject.toml"

    @property
    def lock(self) -> Path:
        return self.folder / LOCK_NAME


@dataclass(frozen=True, slots=True)
class Installed:
    """What `install` made, or found unchanged.

    Parameters
    ----------
    app
        Name of the app.
    code_digest
        `code_digest` of its source.
    code
        Folder to put on ``sys.path``.
    environment_digest, environment
        Name and folder of the worker environment.
    python, python_version
        Its interpreter.
    lock, lock_sha256
        The lock it was made from.
    runtime, runtime_digest
        What ``python -I <runtime>`` starts.
    """

    app: str
    code_digest: str
    code: Path
    environment_digest: str
    environment: Path
    python: Path
    python_version: str
    lock: Path
    lock_sha256: str
    runtime: Path
    runtime_digest: str

    def to_json(self) -> dict[str, Any]:
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Installed:
        paths = ("code", "environment", "python", "lock", "runtime")
        fields: dict[str, Any] = {name: value[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {name: Path(value[name]) for name in paths})


def code_digest(source: WorkerSource) -> str:
    """Name the worker code of a source folder, without building it; the lock does not count.

    The lock is left out since `install` writes it: the same code has the same
    digest before and after, and the environment has its own.

    Raises
    ------
    InstallError
        There is no such folder.
    """
    if not source.folder.is_dir():
        raise InstallError(f"{source.folder} is missing; the worker of {source.app!r} has its code there")
    return _digest_of(_entries(source.folder))


def find(source: WorkerSource, *, wenv: WenvPaths) -> Installed | None:
    """Return what `install` made, if nothing of it would have to be made anew."""
    return _State(source, wenv, lambda text: None).unchanged()


def find_environment(source: WorkerSource, *, wenv: WenvPaths) -> Path | None:
    """Return the worker environment of the last installation, if what it was made from has not changed since."""
    before = _State(source, wenv, lambda text: None).previous()
    return before[0].environment if before else None


def install(source: WorkerSource, *, wenv: WenvPaths, report: Report) -> Installed:
    """Make everything the worker of an app needs to run: lock, environment, code, runtime.

    Costs milliseconds when nothing changed, tens of them when only code did;
    any number of processes may install at once.

    Parameters
    ----------
    source
        The app's worker.
    wenv
        Where it is installed.
    report
        Receives progress, with download sizes; nothing when nothing changed.

    Raises
    ------
    InstallError
        One line: what could not be made, why, and where the full log is.
    HomeError
        AGILAB_WENV cannot be written.
    NoSpaceError
        The disk is full.
    """
    state = _State(source, wenv, report)
    known = state.unchanged()
    if known is not None:
        return known
    doing = f"waiting for another process that installs {source.app}"
    try:
        make_folder(wenv.root)
        with (
            disk_errors(wenv.root, f"installing the worker of {source.app} in"),
            holding(wenv.package(source.app) / ".lock", waiting=doing, report=report),
        ):
            return state.unchanged() or state.install()
    except OSError as err:
        if isinstance(err, AgilabError):
            raise
        where = f"{err.strerror}: {err.filename}"
        if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HomeError(f"AGILAB_WENV {wenv.root} cannot be used ({where}); choose a folder you can write") from err
        raise InstallError(f"cannot install the worker of {source.app}: {where}") from err


class _State:
    """One installation: the source's digests, and what the last installation recorded."""

    def __init__(self, source: WorkerSource, wenv: WenvPaths, report: Report) -> None:
        self.source, self.wenv, self.report = source, wenv, report
        self.code_digest = code_digest(source)
        self.runtime_files = runtime_files()
        self.runtime_digest = runtime_digest(self.runtime_files)
        self.runtime = wenv.runtimes / self.runtime_digest
        self.package = wenv.package(source.app)

    def basis(self) -> dict[str, str]:
        """What decides on lock and environment."""
        here = current_interpreter()
        return {
            "folder": str(self.source.folder),
            "pyproject_sha256": _sha256_of(self.source.pyproject),
            "shipped_lock_sha256": _sha256_of(self.source.lock),
            "manager_python": f"{here.implementation} {here.version} {here.abi} {here.platform}",
        }

    def previous(self) -> tuple[Installed, Interpreter] | None:
        """Return the last installation and its Python if its environment still is the right one."""
        try:
            record = read_json(self.package / MANIFEST_NAME, SCHEMA)
            last = Installed.from_json(record)
            if record["made_from"] != self.basis() or _sha256_of(last.lock) != last.lock_sha256:
                return None
            python = Interpreter(last.python, **record["interpreter"])
        except (OSError, AgilabError, KeyError, TypeError):
            return None
        return (last, python) if environment.looks_sound(last.environment) else None

    def unchanged(self) -> Installed | None:
        """Return the last installation if nothing of it has to be made anew."""
        before = self.previous()
        if before is None:
            return None
        last, python = before
        if (last.code_digest, last.runtime) != (self.code_digest, self.runtime):
            return None
        with suppress(OSError):
            leads_there = self.package.joinpath("current").readlink() == Path(last.code.name)
            if leads_there and _is_whole(last.code, python.abi) and self._runtime_is_whole(python.abi):
                return last
        return None

    def install(self) -> Installed:
        """Make lock, environment, code, runtime, `current` and manifest, each unless it is there."""
        source = self.source
        requirements = environment.read_requirements(source.pyproject)
        before = self.previous()
        if before is not None:
            lock, folder, python = before[0].lock, before[0].environment, before[1]
        else:
            base = find_interpreter(requirements.requires_python, asked_by=source.pyproject)
            lock, text = self._lock(requirements, base)
            folder = environment.ensure(text, base, wenv=self.wenv, report=self.report)
            python = replace(base, path=environment.python_of(folder))
        frozen.sweep(self.package)
        code = self._built(python) if requirements.has_build_system else self._plain(python)
        self._place_runtime(python)
        _lead(self.package / "current", code.name)
        installed = Installed(
            app=source.app,
            code_digest=self.code_digest,
            code=code,
            environment_digest=folder.name,
            environment=folder,
            python=python.path,
            python_version=python.version,
            lock=lock,
            lock_sha256=_sha256_of(lock),
            runtime=self.runtime,
            runtime_digest=self.runtime_digest,
        )
        record = {
            **installed.to_json(),
            "schema": SCHEMA,
            "interpreter": {key: value for key, value in asdict(python).items() if key != "path"},
            "made_from": self.basis(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self.package / MANIFEST_NAME, record, durable=False)
        self.report(f"installed worker code {self.code_digest[:12]} of {source.app}")
        return installed

    def _lock(self, requirements: Requirements, python: Interpreter) -> tuple[Path, str]:
        """Return path and text of the lock in force, made first when there is none or a stale one."""
        source = self.source
        shipped = source.lock.read_text(encoding="utf-8") if source.lock.is_file() else ""
        if shipped and not environment.is_stale(shipped, requirements):
            return source.lock, shipped
        stored = make_folder(self.wenv.locks) / f"{requirements.digest}.lock"
        writable = source.writable and os.access(source.folder, os.W_OK)
        if not writable and stored.is_file():
            return stored, stored.read_text(encoding="utf-8")
        if shipped:
            then = "a new one is made" if writable else f"it cannot be written, so {stored} is used"
            self.report(f"{source.lock} was made from other requirements; {then}")
        log = stored.with_suffix(".log")
        text = environment.resolve(requirements, python, previous=shipped, log=log, report=self.report)
        lock = source.lock if writable else stored
        write_file(lock, text.encode())
        if writable:
            lock.chmod(0o644)  # part of the project, to be committed like its other files
        return lock, text

    def _plain(self, python: Interpreter) -> Path:
        """Write the code of a worker that has nothing to build, as an unpacked wheel."""
        source, version = self.source, f"0+{self.code_digest[:12]}"
        target = self.wenv.code(source.app, self.code_digest)

        def fill(aside: Path) -> None:
            _copy(source.folder, aside / source.package, digest.tree_files(source.folder))
            if _digest_of(_entries(aside / source.package)) != self.code_digest:
                raise InstallError(f"{source.folder} changed while it was being installed; install again")
            about = make_folder(aside / f"{source.package}-{version}.dist-info")
            head = f"Metadata-Version: 2.1\nName: {source.package}\nVersion: {version}\n"
            about.joinpath("METADATA").write_text(head, encoding="utf-8")
            about.joinpath("WHEEL").write_text(_WHEEL, encoding="utf-8")
            _write_record(aside, about / "RECORD")
            self._finish(aside, python, target)

        return self._make(target, fill, python)

    def _built(self, python: Interpreter) -> Path:
        """Build a worker that says how it is built, with its own Python, and unpack the wheel."""
        source = self.source
        target = self.package / f"{self.code_digest}-{python.abi}-{python.platform}"

        def fill(aside: Path) -> None:
            work = make_folder(aside / ".build")
            self._stage(make_folder(work / "source"))
            self.report(f"building {source.package}")
            run_uv(
                ["build", "--wheel", "--python", python.path, "--out-dir", work / "wheel", work / "source"],
                task=f"build the worker package {source.package}",
                log=self.package / "build.log",
                report=self.report,
                folder=work,
            )
            _unpack(next(work.glob("wheel/*.whl")), aside)
            frozen.remove(work)
            if not aside.joinpath(source.package, "__init__.py").is_file():
                raise InstallError(
                    f"the wheel built from {source.folder} holds no package {source.package}; "
                    f"let [build-system] in {source.pyproject} pack the folder {source.package}"
                )
            self._finish(aside, python, target)

        return self._make(target, fill, python)

    def _stage(self, stage: Path) -> None:
        """Lay the source out as a build wants it: build files above the package, everything else in it."""
        source = self.source
        names = digest.tree_files(source.folder)
        above = [name for name in names if name in BUILD_FILES - {LOCK_NAME}]
        about = [name for name in names if "/" not in name and name.startswith(("README", "LICENSE", "LICENCE"))]
        _copy(source.folder, stage, above + about)
        _copy(source.folder, stage / source.package, [name for name in names if name not in BUILD_FILES])
        if "MANIFEST.in" not in names:  # else setuptools leaves data files out
            stage.joinpath("MANIFEST.in").write_text(f"graft {source.package}\n", encoding="utf-8")

    def _make(self, target: Path, fill: Callable[[Path], None], python: Interpreter) -> Path:
        frozen.make_once(target, fill, is_complete=_has_recorded_files)
        if not _is_whole(target, python.abi):  # made earlier, for another Python
            self._compile(target, python, target)
        return target

    def _finish(self, aside: Path, python: Interpreter, target: Path) -> None:
        self._compile(aside, python, target)
        frozen.freeze(aside)

    def _compile(self, folder: Path, python: Interpreter, target: Path) -> None:
        failed = frozen.compile_modules(folder, _recorded_sizes(folder), python, final=target)
        if failed:
            first, source = failed[0], self.source
            file = source.folder / first.name.removeprefix(f"{source.package}/")
            line = "" if first.line is None else f", line {first.line}"
            raise InstallError(f"{file}{line}: {first.message} (Python {python.version}); correct it and install again")

    def _place_runtime(self, python: Interpreter) -> None:
        sizes = {name: len(data) for name, data in self.runtime_files.items()}

        def fill(aside: Path) -> None:
            make_folder(aside / "agilab")
            for name, data in self.runtime_files.items():
                aside.joinpath(name).write_bytes(data)
            compile_for(aside)
            frozen.freeze(aside)

        def compile_for(folder: Path) -> None:
            failed = frozen.compile_modules(folder, sizes, python, final=self.runtime)
            if failed:
                raise InstallError(
                    f"Python {python.version} does not take AGILAB's {failed[0].name} (line {failed[0].line}): "
                    f"{failed[0].message}; let the worker's requires-python admit another Python"
                )

        frozen.sweep(self.wenv.runtimes)
        frozen.make_once(self.runtime, fill, is_complete=lambda folder: frozen.has_files(folder, sizes))
        if not self._runtime_is_whole(python.abi):
            compile_for(self.runtime)

    def _runtime_is_whole(self, abi: str) -> bool:
        sizes = {name: len(data) for name, data in self.runtime_files.items()}
        return frozen.has_files(self.runtime, sizes) and frozen.is_compiled(self.runtime, sizes, abi)


def runtime_files() -> dict[str, bytes]:
    """Read what the runtime consists of from the running installation, by name in the runtime folder.

    The package's own ``__init__`` is part of it: it loads names when they are
    asked for, and those of modules that are not there raise ModuleNotFoundError.

    Raises
    ------
    InstallError
        The installation of AGILAB is incomplete.
    """
    here = Path(__file__).parent
    files = {"__main__.py": _RUNTIME_MAIN}
    try:
        for name in ("__init__", *RUNTIME_MODULES):
            files[f"agilab/{name}.py"] = here.joinpath(f"{name}.py").read_bytes()
    except OSError as err:
        raise InstallError(f"{err.filename} is missing from the installation of AGILAB; install AGILAB again") from err
    return files


def runtime_digest(files: Mapping[str, bytes]) -> str:
    """Return the digest that names a runtime of some files, such as `runtime_files`."""
    return digest.of_json({name: digest.of_bytes(data) for name, data in files.items()})


def runtime_digest_at(folder: Path) -> str:
    """Return the digest that the files of an installed runtime have now; of no files when it is not there."""
    return runtime_digest({name: folder.joinpath(name).read_bytes() for name in digest.tree_files(folder)})


def verify_code(folder: Path) -> tuple[str, ...]:
    """Compare every file of installed worker code with its RECORD; return what is wrong, empty when all is well."""
    if not any(folder.glob("*.dist-info/RECORD")):
        return (f"{folder} holds no installed worker code; run agilab install again",)
    return tuple(map(str, environment.damages(folder)))


def _entries(folder: Path) -> list[tuple[str, str, str]]:
    """List kind, digest and name of the files of a worker package that count."""
    found = []
    for name in digest.tree_files(folder):
        if name == LOCK_NAME:
            continue
        path = folder / name
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found.append(("link", digest.of_bytes(str(path.readlink()).encode()), name))
        elif stat.S_ISREG(mode):
            found.append(("exec" if mode & stat.S_IXUSR else "file", digest.of_file(path), name))
        else:
            raise InstallError(f"{path} is neither a file nor a link; take it out of the worker's folder")
    return found


def _digest_of(entries: Iterable[tuple[str, str, str]]) -> str:
    return digest.of_bytes("".join(f"{kind} {sha256} {name}\n" for kind, sha256, name in entries).encode())


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy files of a source tree; links stay links, and may not lead out of it."""
    import shutil

    make_folder(target)
    root = source.resolve()
    for name in names:
        if name == LOCK_NAME:
            continue
        origin, copy = source / name, target / name
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if origin.is_symlink():
            leads_to = origin.readlink()
            if leads_to.is_absolute() or not origin.parent.joinpath(leads_to).resolve().is_relative_to(root):
                raise InstallError(
                    f"{origin} is a link out of the worker's folder, to {leads_to}; put the file itself there"
                )
            copy.symlink_to(leads_to)
        else:
            shutil.copyfile(origin, copy)
            copy.chmod(0o700 if origin.stat().st_mode & stat.S_IXUSR else 0o600)


def _write_record(folder: Path, record: Path) -> None:
    """Write the RECORD of an unpacked wheel, of every file but itself."""
    import base64
    import io

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name in digest.tree_files(folder):
        path = folder / name
        if not path.is_symlink():
            coded = base64.urlsafe_b64encode(bytes.fromhex(digest.of_file(path))).rstrip(b"=").decode()
            rows.writerow((name, f"sha256={coded}", path.stat().st_size))
    rows.writerow((record.relative_to(folder).as_posix(), "", ""))
    record.write_text(text.getvalue(), encoding="utf-8")


def _recorded_sizes(folder: Path) -> dict[str, int]:
    """Return name -> size [bytes] of the files that the RECORD of installed code lists; empty when there is none."""
    record = next(folder.glob("*.dist-info/RECORD"), None)
    if record is None:
        return {}
    with open(record, encoding="utf-8", newline="") as file:
        return {row[0]: int(row[2]) for row in csv.reader(file) if len(row) > 2 and row[2]}


def _has_recorded_files(folder: Path) -> bool:
    return frozen.has_files(folder, _recorded_sizes(folder))


def _is_whole(folder: Path, abi: str) -> bool:
    """Whether installed code has all its files, with their sizes, and byte code for a Python."""
    sizes = _recorded_sizes(folder)
    return frozen.has_files(folder, sizes) and frozen.is_compiled(folder, sizes, abi)


def _unpack(wheel: Path, target: Path) -> None:
    """Unpack what a wheel puts on ``sys.path``; scripts and headers have no place in a worker package."""
    from zipfile import ZipFile

    with ZipFile(wheel) as archive:
        for member in archive.infolist():
            top, _, rest = member.filename.partition("/")
            if top.endswith(".data"):
                kind, _, rest = rest.partition("/")
                if kind not in ("purelib", "platlib"):
                    continue
                member.filename = rest
            if not member.filename.endswith("/"):
                file = Path(archive.extract(member, target))
                file.chmod(0o700 if member.external_attr >> 16 & stat.S_IXUSR else 0o600)


def _lead(link: Path, name: str) -> None:
    """Let a link lead to another folder beside it, in one step."""
    aside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    aside.unlink(missing_ok=True)
    aside.symlink_to(name)
    try:
        aside.replace(link)
    except IsADirectoryError as err:
        aside.unlink()
        raise InstallError(f"{link} is a folder, where a link to the newest code has to be; move it away") from err


def _sha256_of(path: Path) -> str:
    """Return the digest of a file, empty when there is none."""
    try:
        return digest.of_file(path)
    except FileNotFoundError:
        return ""
