"""Check this machine and this installation, each finding with its fix; it changes nothing.

A check is a function from the `Machine` it looks at to findings; `CHECKS`
lists them in the order in which they are printed. Probe files are made inside
AGILAB_HOME and AGILAB_WENV, or inside the folder above one that does not exist
yet, and removed at once.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agilab import disk, slots
from agilab.errors import AgilabError, HomeError, InstallError
from agilab.home import LITTLE_SPACE_BYTES, NO_SPACE_BYTES, check_owner
from agilab.paths import HomePaths, WenvPaths
from agilab.uv import find_uv

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 13)
FEW_FILES = 1024
EXTRAS: Mapping[str, tuple[str, str]] = {
    "ui": ("panel", "pages in the browser"),
    "mlflow": ("mlflow", "hand runs to MLflow"),
    "notebook": ("nbclient", "notebooks in and out"),
    "crate": ("rocrate", "read crates with the reference library"),
    "docs": ("sphinx", "build the manual"),
}
"""Extra of the distribution -> (package that shows that it is installed, what it is for)."""

OPTIONAL_PROGRAMS: Mapping[str, tuple[str, str]] = {
    "git": ("commits in the record of a run", "install git with the system's package manager"),
    "ssh": ("hosts reached over SSH, tried by hand", "install openssh-client"),
    "sshd": ("only for the tests of SSH hosts", "install openssh-server"),
    "chromium": ("only for the tests of pages", "install chromium"),
}
TEST_ONLY = ("sshd", "chromium")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Parameters
    ----------
    name
        What was looked at.
    status
        ``"ok"``, ``"note"`` (optional and absent), ``"warn"`` (works, but not well) or ``"fail"``.
    detail
        What is there.
    fix
        What to do; empty when there is nothing to do.
    extra
        Whether runs of apps never need it.
    """

    name: str
    status: str
    detail: str
    fix: str = ""
    extra: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the checks look at."""

    home: HomePaths
    wenv: WenvPaths
    environ: Mapping[str, str]


def examine(home: HomePaths, wenv: WenvPaths, environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """Run every check.

    Parameters
    ----------
    home, wenv
        The two folders that runs write to.
    environ
        Environment variables.

    Returns
    -------
    tuple of Finding
        In the order of `CHECKS`; the machine can run apps when none has status ``fail``.
    """
    machine = Machine(home, wenv, environ)
    return tuple(finding for check in CHECKS for finding in check(machine))


def _python(machine: Machine) -> Iterable[Finding]:
    found = sys.version_info[:2]
    detail = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    allowed = f"{'.'.join(map(str, OLDEST_PYTHON))} to {'.'.join(map(str, NEWEST_PYTHON))}"
    if OLDEST_PYTHON <= found <= NEWEST_PYTHON:
        yield Finding("python", "ok", detail)
    else:
        yield Finding("python", "fail", detail, f"make a virtual environment with Python {allowed}")


def _platform(machine: Machine) -> Iterable[Finding]:
    detail = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform == "linux":
        yield Finding("platform", "ok", detail)
    elif sys.platform == "darwin":
        yield Finding("platform", "warn", f"{detail}: best effort", "use Linux for what has to be reliable")
    else:
        yield Finding("platform", "fail", f"{detail} is not supported", "use Linux or macOS, for instance under WSL 2")


def _byte_code(machine: Machine) -> Iterable[Finding]:
    spec = find_spec("click")
    if spec is None or spec.cached is None or spec.origin is None:
        return
    if Path(spec.cached).exists():
        yield Finding("byte code", "ok", "installed packages are compiled")
        return
    fix = f"{sys.executable} -m compileall -q {Path(spec.origin).parent.parent}"
    yield Finding("byte code", "warn", "installed packages are not compiled, so every start is slower", fix)


def _uv(machine: Machine) -> Iterable[Finding]:
    fix = "pip install --force-reinstall uv"
    try:
        program = find_uv()
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except InstallError as err:
        yield Finding("uv", "fail", str(err), fix)
    except (OSError, subprocess.SubprocessError) as err:
        yield Finding("uv", "fail", f"does not start: {err}", fix)
    else:
        yield Finding("uv", "ok", f"{answer.stdout.strip()} at {program}")


def _home(machine: Machine) -> Iterable[Finding]:
    yield from _folder("AGILAB_HOME", machine.home.root, machine.home.marker)


def _wenv(machine: Machine) -> Iterable[Finding]:
    yield from _folder("AGILAB_WENV", machine.wenv.root, machine.wenv.marker)


def _folder(variable: str, folder: Path, marker: Path) -> Iterable[Finding]:
    """Look at a folder that runs write to: exists or can be made, ours, closed to others, locks, links, space."""
    place = existing(folder)
    there = place == folder
    if there and not folder.is_dir():
        yield Finding(variable, "fail", f"{folder} is not a folder", f"move it away, or set {variable} to a folder")
        return
    owner = place.stat()
    if there and owner.st_uid != os.getuid():
        detail = f"{folder} belongs to user {owner.st_uid}, not to you ({os.getuid()})"
        yield Finding(variable, "fail", detail, f"set {variable} to a folder of your own")
        return
    try:
        check_owner(folder, marker, variable)
    except HomeError as err:
        detail, _, fix = str(err).partition("; ")
        yield Finding(variable, "fail", detail, fix)
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".agilab-doctor-", dir=place) as probe:
            locks, links = _locks(Path(probe)), _links(Path(probe))
    except OSError as err:
        detail = f"{place} cannot be written: {err.strerror}"
        yield Finding(variable, "fail", detail, f"make it writable, or set {variable} to a folder that is")
        return
    open_to_others = there and stat.S_IMODE(owner.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if open_to_others:
        yield Finding(variable, "warn", f"{folder} can be written by other users", f"chmod go-w {folder}")
    else:
        yield Finding(variable, "ok", str(folder) if there else f"{folder} (made when first needed)")
    yield from _filesystem(variable, place, locks=locks, links=links)


def _filesystem(variable: str, place: Path, *, locks: bool, links: bool) -> Iterable[Finding]:
    if locks:
        yield Finding(f"{variable} locks", "ok", "file locks hold between processes")
    else:
        fix = f"set {variable} to a folder on a local disk"
        yield Finding(f"{variable} locks", "fail", "file locks do not hold: a run's state could not be told", fix)
    if not links:
        fix = f"set {variable} to a folder on a disk with hard links"
        yield Finding(f"{variable} links", "warn", "no hard links here: inputs and artifacts are copied", fix)
    free = shutil.disk_usage(place).free
    detail = f"{free / 2**30:.1f} GiB free"
    if free < NO_SPACE_BYTES:
        yield Finding(f"{variable} space", "fail", detail, "free some space, or choose another disk")
    elif free < LITTLE_SPACE_BYTES:
        yield Finding(f"{variable} space", "warn", detail, "free some space; a worker environment takes about 0.3 GiB")
    else:
        yield Finding(f"{variable} space", "ok", detail)


def existing(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _locks(folder: Path) -> bool:
    """Whether a lock that is held keeps another holder out, and goes with its holder."""
    path = folder / "lock"
    first = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(first, fcntl.LOCK_UN)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
    except OSError:
        return False
    finally:
        os.close(first)
        os.close(second)


def _links(folder: Path) -> bool:
    source = folder / "file"
    source.write_bytes(b"")
    try:
        os.link(source, folder / "link")
    except OSError:
        return False
    return True


def _temporary(machine: Machine) -> Iterable[Finding]:
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        yield Finding("temporary folder", "fail", str(err), "set TMPDIR to a folder that can be written")
    else:
        yield Finding("temporary folder", "ok", folder)


def _limits(machine: Machine) -> Iterable[Finding]:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES and soft != resource.RLIM_INFINITY:
        yield Finding("open files", "warn", f"only {soft} allowed per process", f"ulimit -n {FEW_FILES}")
    else:
        yield Finding("open files", "ok", f"{soft} allowed per process")
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        yield Finding("file names", "warn", f"encoded as {encoding}", "set PYTHONUTF8=1 or a UTF-8 locale")


def _slots(machine: Machine) -> Iterable[Finding]:
    try:
        found = slots.machine(machine.environ)
    except AgilabError as err:
        yield Finding("slots", "fail", str(err), "correct or unset the variable")
    else:
        detail = ", ".join(f"{count} {kind}" for kind, count in found.items())
        yield Finding("slots", "ok", f"{detail} (AGILAB_SLOTS and AGILAB_RESOURCES change them)")


def _extras(machine: Machine) -> Iterable[Finding]:
    for extra, (package, purpose) in EXTRAS.items():
        if find_spec(package) is not None:
            yield Finding(f"extra {extra}", "ok", f"installed: {purpose}", extra=True)
        else:
            fix = f"pip install 'agilab-holoviz[{extra}]'"
            yield Finding(f"extra {extra}", "note", f"not installed: {purpose}", fix, extra=True)


def _programs(machine: Machine) -> Iterable[Finding]:
    path = machine.environ.get("PATH", os.defpath)
    for program, (purpose, fix) in OPTIONAL_PROGRAMS.items():
        # sshd lies where a user's PATH often does not lead.
        found = shutil.which(program, path=f"{path}{os.pathsep}/usr/sbin")
        if found:
            yield Finding(program, "ok", found, extra=program in TEST_ONLY)
        else:
            yield Finding(program, "note", f"not found: {purpose}", fix, extra=program in TEST_ONLY)


def _disk(machine: Machine) -> Iterable[Finding]:
    """Say what takes how much disk: each app's runs and worker packages, and what all share."""
    for use in disk.by_app(machine.home, machine.wenv):
        runs = f"{use.runs:,} run{'' if use.runs == 1 else 's'} {_mib(use.run_size)}"
        yield Finding(f"disk {use.app}", "ok", f"{runs}, worker packages {_mib(use.package_size)}")
    shared = disk.shared(machine.home, machine.wenv)
    parts = [f"{name} {_mib(size)}" for name, size in shared.items() if size.used_bytes]
    if parts:
        yield Finding("disk shared", "ok", ", ".join(parts))


def _mib(size: disk.Size) -> str:
    return f"{size.used_bytes / 2**20:,.1f} MiB"


CHECKS: tuple[Callable[[Machine], Iterable[Finding]], ...] = (
    _python,
    _platform,
    _byte_code,
    _uv,
    _home,
    _wenv,
    _temporary,
    _limits,
    _slots,
    _extras,
    _programs,
    _disk,
)


def to_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """Write findings as a JSON value, with the verdict in ``ok``."""
    found = list(findings)
    return {"ok": all(item.status != "fail" for item in found), "checks": [item.to_json() for item in found]}
