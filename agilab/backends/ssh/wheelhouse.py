"""The wheels of a lock for the Python and platform of a host that reaches no index; fetched once, kept by sha256."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agilab import digest, package_index
from agilab.environment import holding, pins
from agilab.errors import InstallError
from agilab.package_index import IndexFile
from agilab.paths import WenvPaths, make_folder
from agilab.uv import Interpreter, Report


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that lies here.

    Parameters
    ----------
    name
        Its file name, which says what it is for.
    sha256
        Its digest, which the lock holds too.
    path
        Where its bytes are.
    """

    name: str
    sha256: str
    path: Path


def gather(lock: str, python: Interpreter, libc: str, *, wenv: WenvPaths, report: Report) -> tuple[Wheel, ...]:
    """Have every wheel that a lock needs on a host.

    Parameters
    ----------
    lock
        Requirements text with hashes.
    python
        The host's Python.
    libc
        Its C library, such as ``glibc 2.36``.
    wenv
        Where wheels are kept.
    report
        Receives progress.

    Raises
    ------
    InstallError
        There is no wheel that fits, none whose digest the lock holds, or no index can be reached from here either.
    """
    make_folder(wenv.tmp)
    guard = make_folder(wenv.data) / ".wheels.lock"  # hosts that need the same are served at the same time
    with (
        holding(guard, waiting="waiting for wheels that another host needs too", report=lambda line: None),
        tempfile.TemporaryDirectory(prefix="wheels-", dir=wenv.tmp) as name,
    ):
        log = make_folder(wenv.locks) / "wheels.log"
        files = package_index.offered(pins(lock), work=Path(name), log=log, task="find the wheels of a lock")
        chosen = choose(files, lock, python, libc)
        return tuple(_kept(file, wenv, Path(name), report) for file in chosen)


def choose(files: Iterable[IndexFile], lock: str, python: Interpreter, libc: str) -> list[IndexFile]:
    """Pick one wheel for each distribution that a host needs, the most specific one that runs there.

    Parameters
    ----------
    files
        What the index offers.
    lock, python, libc
        As in `gather`.
    """
    from packaging.markers import Marker
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    allowed = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock))
    ranks = {tag: rank for rank, tag in enumerate(_tags(python, libc))}
    best: dict[str, tuple[int, IndexFile]] = {}
    needed: dict[str, str] = {}
    for file in files:
        if file.marker and not Marker(file.marker).evaluate(_variables(python)):
            continue
        needed[file.distribution] = file.version
        try:
            tags = parse_wheel_filename(file.name)[3]
        except InvalidWheelFilename:
            continue
        rank = min((ranks[str(tag)] for tag in tags if str(tag) in ranks), default=-1)
        known = best.get(file.distribution)
        if rank >= 0 and file.sha256 in allowed and (known is None or rank < known[0]):
            best[file.distribution] = rank, file
    missing = [f"{name} {version}" for name, version in needed.items() if name not in best]
    if missing:
        raise InstallError(
            f"no wheel of {', '.join(missing)} with a digest of the lock runs on Python {python.version} "
            f"({python.platform}, {libc or 'no glibc'}); let the host reach an index, so that it can build one"
        )
    return [file for _, file in best.values()]


def _kept(file: IndexFile, wenv: WenvPaths, work: Path, report: Report) -> Wheel:
    path = make_folder(wenv.data) / file.sha256
    if not path.is_file() or digest.of_file(path) != file.sha256:
        report(f"Downloading {file.name}" + (f" ({file.size_bytes / 2**20:.1f}MiB)" if file.size_bytes else ""))
        found = package_index.fetch(file, work / file.sha256, task=f"download {file.name}")
        if found != file.sha256:
            raise InstallError(f"the file downloaded from {file.url} has sha256 {found} instead of {file.sha256}")
        os.replace(work / file.sha256, path)
    return Wheel(file.name, file.sha256, path)


def _tags(python: Interpreter, libc: str) -> list[str]:
    """List the tags of wheels that a Python takes, best first. Source: PEP 425, PEP 600."""
    from packaging.tags import compatible_tags, cpython_tags

    version = tuple(int(part) for part in python.version.split(".")[:2])
    machine = python.platform.partition("-")[2]
    platforms = [f"linux_{machine}"] if python.platform.startswith("linux-") else []
    newest = re.fullmatch(r"glibc 2\.(\d+)", libc)
    if newest:
        oldest = 5 if machine in ("x86_64", "i686") else 17
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        many: list[str] = []
        for minor in range(int(newest[1]), oldest - 1, -1):
            many += [f"manylinux_2_{minor}_{machine}"] + ([f"{legacy[minor]}_{machine}"] if minor in legacy else [])
        platforms = [*many, *platforms]
    found = [
        *cpython_tags(version, platforms=platforms),
        *compatible_tags(version, f"cp{version[0]}{version[1]}", platforms),
    ]
    return list(map(str, found))


def _variables(python: Interpreter) -> Mapping[str, str]:
    """Return what environment markers see on a host. Source: PEP 508."""
    system, _, machine = python.platform.partition("-")
    return {
        "implementation_name": python.implementation,
        "platform_python_implementation": "CPython" if python.implementation == "cpython" else python.implementation,
        "os_name": "posix",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}.get(system, system),
        "platform_machine": machine,
        "python_version": ".".join(python.version.split(".")[:2]),
        "python_full_version": python.version,
        "implementation_version": python.version,
        "extra": "",
    }
