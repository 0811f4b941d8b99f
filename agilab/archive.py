"""App projects as one zip file, out and in; what comes in is data: it is checked, written down, and nothing of it runs.

A file that is hostile, damaged or odd is refused whole. Every byte of it is
accounted for: entries lie one behind the other and say the same in their own
header and in the directory, so that no two programs can see different files
in it. Limits hold while it is read, whatever it says about itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import struct
import tempfile
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from uuid import uuid4
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from agilab import copies, digest, trust
from agilab.errors import NoSpaceError, ProjectError
from agilab.paths import HomePaths, disk_errors
from agilab.project import Project, find_all, read
from agilab.template import require_free

MOST_FILES = 10_000
LARGEST_BYTES = 1 << 30
"""Most that a project's files may have together, and a zip file [bytes]."""
MOST_TIMES = 100
"""How many times larger than the zip file its content may be, above `SMALL_BYTES`."""
SMALL_BYTES = 64 << 20
LONGEST_NAME = 255
"""Longest name of a file or folder [bytes]."""
LONGEST_PATH = 1000
"""Longest path of a file [bytes]."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK_BYTES = 1 << 16
_END = struct.Struct("<4s4H2LH")
_LOCAL = struct.Struct("<4s5H3L2H")
_LARGEST_DIRECTORY_BYTES = 16 << 20
_DESCRIBED, _ENCRYPTED, _UTF8 = 0x8, 0x2041, 0x800
_DESCRIPTOR_BYTES = (12, 16, 20, 24)
_WORKER = re.compile(r"src/(\w+)_worker/__init__\.py")
_SECRET = frozenset({".env", ".netrc", ".pypirc"})
"""Files that hold what is nobody else's."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A zip file that was written.

    Parameters
    ----------
    file
        Where it is.
    sha256
        Of the file.
    size_bytes
        Its size [bytes].
    digest
        Of the project, which whoever imports it sees too.
    files
        What is in it, by path.
    left_out
        Files of the project that usually hold secrets and are not in it.
    """

    file: Path
    sha256: str
    size_bytes: int
    digest: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """A project that was imported; it is not trusted.

    Parameters
    ----------
    project
        As it lies there.
    origin
        What is remembered of it.
    left_out
        How many entries were left out since they do not count in a project: byte code, caches, version control.
    """

    project: Project
    origin: trust.Import
    left_out: int


def export_zip(project: Project, file: Path) -> Exported:
    """Write a project into a zip file: only files that count, with the same bytes every time.

    Parameters
    ----------
    project
        Any, also a shipped, an installed or a broken one.
    file
        Must not be there yet.

    Raises
    ------
    ProjectError
        A file of it could not be imported again, or the zip file cannot be written.
    """
    file = file.absolute()
    if os.path.lexists(file):
        raise ProjectError(f"{file} already exists; choose another name, or remove it first")
    if file.resolve().is_relative_to(project.root.resolve()):
        raise ProjectError(f"{file} would lie inside the project; choose another folder")
    every = copies.sources(project)
    left_out = tuple(name for _, name in every if name.rpartition("/")[2] in _SECRET)
    found = [(path, name) for path, name in every if name not in left_out]
    for path, name in found:
        problem = "it is a link" if path.is_symlink() else name_problem(f"{project.name}_project/{name}")
        if problem:
            raise ProjectError(f"{path} cannot be exported: {problem}")
    if len(found) > MOST_FILES:
        raise ProjectError(f"{project.root} has {len(found)} files; a zip file takes {MOST_FILES}: keep data elsewhere")
    aside = Path(tempfile.mkdtemp(prefix=copies.ASIDE, suffix=f".{os.getpid()}.tmp", dir=_folder_of(file))) / file.name
    try:
        with disk_errors(file.parent, "writing"):
            _write(aside, found, f"{project.name}_project")
            total, size_bytes = sum(path.stat().st_size for path, _ in found), aside.stat().st_size
            if total > _allowed(size_bytes):
                raise ProjectError(f"{project.root} has {total} bytes, too much for a zip file; keep data elsewhere")
            sha256, aside_digest = digest.of_file(aside), digest.of_files(found)
            os.link(aside, file)
    except NoSpaceError:
        raise
    except OSError as err:
        raise ProjectError(f"{file} cannot be written ({err.strerror or err}); choose another folder") from err
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)
    return Exported(file, sha256, size_bytes, aside_digest, tuple(name for _, name in found), left_out)


def import_zip(file: Path, folder: Path, *, home: HomePaths, name: str = "") -> Imported:
    """Put the project that a zip file holds into a folder, or refuse it whole; it is not trusted yet.

    Parameters
    ----------
    file
        The zip file.
    folder
        Where the project's folder goes; it must exist.
    home
        Where the import is remembered.
    name
        What the project is called here; it then gets a uuid of its own, as a clone has. By default it keeps both.

    Raises
    ------
    ProjectError
        Why it is refused; the folder is as it was.
    TrustError
        ``trust.json`` is damaged.
    """
    trust.imports(home)
    try:
        with open(file, "rb") as opened:
            sha256, entries = hashlib.file_digest(opened, "sha256").hexdigest(), _entry_count(opened)
            archive = ZipFile(opened)
            members = _members(archive, opened, entries)
            own_name, counting = _project_files(members)
            target = require_free(name, folder) if name else folder.absolute() / f"{own_name}_project"
            with copies.aside(folder) as place:
                root = place / f"{own_name}_project"
                _extract(archive, counting, root, _allowed(os.fstat(opened.fileno()).st_size))
                made = _read(root)
                if name:
                    made = _private(copies.copied(made, name, place / target.name, uuid=str(uuid4())))
                else:
                    _require_new(made, folder)
                    require_free(own_name, folder)
                origin = trust.record(made.root, home, root=target, origin=str(file.absolute()), origin_sha256=sha256)
                made.root.rename(target)
    except OSError as err:
        if isinstance(err, NoSpaceError):
            raise
        raise ProjectError(f"{file} cannot be read ({err.strerror or err}); name a zip file") from err
    except _REFUSED as err:
        said = " ".join(str(err).split())[:300] or type(err).__name__
        raise ProjectError(f"{file} is refused, and nothing of it was kept: {said}") from err
    return Imported(read(target), origin, len(members) - len(counting))


def name_problem(name: str) -> str:
    """Return why a file of a zip may not have that path; empty when it may."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or ":" in name:
        return "a name holds a control character, a backslash or a colon"
    if name.startswith("/") or not {"", ".", ".."}.isdisjoint(parts):
        return "a name leads out of the archive, or is no plain path"
    if len(name.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in parts):
        return "a name is too long"
    if any(_plain(part) == trust.MARKER for part in parts):
        return f"{trust.MARKER} is AGILAB's own"
    return ""


class _RefusedError(Exception):
    """What is wrong with a zip file."""


_REFUSED = (
    *(_RefusedError, BadZipFile, zlib.error, struct.error, EOFError),
    *(ValueError, NotImplementedError, RuntimeError, OverflowError),
)
"""What reading a damaged zip file may raise."""


@dataclass(frozen=True, slots=True)
class _Member:
    """An entry that is a file: where it goes, and how it is read."""

    info: ZipInfo
    name: str
    executable: bool


# --- out -------------------------------------------------------------------------


def _write(file: Path, found: Sequence[tuple[Path, str]], top: str) -> None:
    with ZipFile(file, "x", ZIP_DEFLATED) as archive:
        for path, name in found:
            info = ZipInfo(f"{top}/{name}", _EPOCH)
            mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
            info.create_system, info.external_attr = 3, (stat.S_IFREG | mode) << 16
            info.compress_type = ZIP_DEFLATED
            with open(path, "rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target)


def _folder_of(file: Path) -> Path:
    if not file.parent.is_dir():
        raise ProjectError(f"{file.parent} is not a folder; make it first, or choose another")
    return file.parent


# --- in: the directory of the zip file -----------------------------------------------


def _entry_count(file: IO[bytes]) -> int:
    """Return how many entries a zip file says it has, once its end is known to be one plain directory."""
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST_BYTES:
        raise _RefusedError(f"it has {size} bytes, more than {LARGEST_BYTES}")
    file.seek(max(0, size - _END.size - 0xFFFF))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise _RefusedError("it is no zip file, or not a whole one")
    _, disk, first_disk, here, entries, length, start, comment = _END.unpack_from(tail, at)
    end = size - len(tail) + at
    if end + _END.size + comment != size or start + length != end or (disk, first_disk) != (0, 0) or here != entries:
        raise _RefusedError("something lies before, between or behind its parts")
    if entries > MOST_FILES or length > _LARGEST_DIRECTORY_BYTES or tail[max(0, at - 20) : at].startswith(b"PK\6\7"):
        raise _RefusedError(f"it has more than {MOST_FILES} entries, or its directory is too large")
    return int(entries)


def _members(archive: ZipFile, file: IO[bytes], entries: int) -> list[_Member]:
    """Return the entries that are files, once every entry is known to be harmless by name, kind and place."""
    end, known, files = 0, dict[str, str](), set[str]()
    members = []
    for info in sorted(archive.infolist(), key=lambda item: item.header_offset):
        end = _require_plain(info, file, end, limit=archive.start_dir)
        is_folder = info.orig_filename.endswith("/")
        name = info.orig_filename[:-1] if is_folder else info.orig_filename
        if problem := name_problem(name):
            raise _RefusedError(f"{problem}: {name!a:.120}")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG) or (is_folder and info.file_size):
            raise _RefusedError(f"{name!a:.120} is a link or a special file")
        _require_single(name, known, files, is_folder=is_folder)
        if not is_folder:
            members.append(_Member(info, name, bool(info.external_attr >> 16 & stat.S_IXUSR)))
    if end != archive.start_dir or len(archive.infolist()) != entries:
        raise _RefusedError("something lies between its entries and its directory")
    return members


def _require_plain(info: ZipInfo, file: IO[bytes], begin: int, *, limit: int) -> int:
    """Compare an entry's own header with the directory; return where the entry ends."""
    name = info.orig_filename
    file.seek(info.header_offset)
    mark, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
    own_name = file.read(name_length)
    if info.flag_bits & _ENCRYPTED:
        raise _RefusedError(f"{name!a:.120} is encrypted")
    if method not in (ZIP_STORED, ZIP_DEFLATED):
        raise _RefusedError(f"{name!a:.120} is packed in an unusual way ({method})")
    stated = (crc, packed, size) == (info.CRC, info.compress_size, info.file_size)
    described = bool(flags & _DESCRIBED)
    said_name = name.encode("utf-8" if flags & _UTF8 else "cp437")
    if (mark, flags, method, own_name) != (b"PK\3\4", info.flag_bits, info.compress_type, said_name) or not (
        stated or (described and (crc, packed, size) == (0, 0, 0))
    ):
        raise _RefusedError(f"{name!a:.120} is not the same in its own header and in the directory")
    if info.header_offset != begin:
        raise _RefusedError(f"something lies before {name!a:.120}, or entries overlap")
    end: int = begin + _LOCAL.size + name_length + extra_length + info.compress_size
    return end + (_descriptor(file, end, info) if described else 0) if end <= limit else end


def _descriptor(file: IO[bytes], at: int, info: ZipInfo) -> int:
    """Return the length of what follows the data of an entry whose header came before its sizes were known."""
    file.seek(at)
    found = file.read(max(_DESCRIPTOR_BYTES))
    for sizes in ("<L2L", "<L2Q"):
        plain = struct.pack(sizes, info.CRC, info.compress_size, info.file_size)
        for whole in (b"PK\7\x08" + plain, plain):
            if found.startswith(whole):
                return len(whole)
    raise _RefusedError(f"{info.orig_filename!a:.120} is not described as it is in the directory")


def _plain(name: str) -> str:
    """Return what a name is on a filesystem that tells neither cases nor ways of writing a character apart."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _require_single(name: str, known: dict[str, str], files: set[str], *, is_folder: bool) -> None:
    """Remember a path and the folders above it; none may be there twice, however it is written."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        is_file = depth == len(parts) and not is_folder
        written = path if is_file else f"{path}/"
        before = known.setdefault(_plain(path), written)
        if before != written or (is_file and path in files):
            raise _RefusedError(f"{name!a:.120} is there twice, or beside something of the same name")
    files |= set() if is_folder else {name}


# --- in: the project ------------------------------------------------------------------


def _project_files(members: Sequence[_Member]) -> tuple[str, list[_Member]]:
    """Return the name of the one project, and its files that count with paths relative to it."""
    names = {member.name for member in members}
    tops = {name.partition("/")[0] for name in names}
    top = "" if "pyproject.toml" in names else f"{next(iter(tops))}/" if len(tops) == 1 else ""
    if f"{top}pyproject.toml" not in names:
        raise _RefusedError("it does not hold one app project: one folder with a pyproject.toml")
    found = [replace(member, name=member.name.removeprefix(top)) for member in members]
    workers = sorted({match[1] for member in found if (match := _WORKER.fullmatch(member.name))})
    if len(workers) != 1:
        said = ", ".join(workers[:5]) or "none"
        raise _RefusedError(f"it does not hold one app project: packages src/*_worker in it: {said}")
    counting = [member for member in found if digest.counts(member.name) and digest.counts(_plain(member.name))]
    return workers[0], counting


def _extract(archive: ZipFile, members: Iterable[_Member], root: Path, allowed: int) -> None:
    """Write files for their owner alone, and stop when there are more bytes than the archive may hold."""
    total = 0
    for member in members:
        before = total
        path = root
        for part in ("", *member.name.split("/")[:-1]):
            path = path / part
            path.mkdir(mode=0o700, exist_ok=True)
        mode = 0o700 if member.executable else 0o600
        fd = os.open(root / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(fd, "wb") as target, archive.open(member.info) as source:
            while chunk := source.read(_CHUNK_BYTES):
                total += len(chunk)
                if total > allowed:
                    raise _RefusedError(f"it holds more than {allowed} bytes, which is too much for its size")
                target.write(chunk)
        if total - before != member.info.file_size:
            raise _RefusedError(f"{member.name!a:.120} does not have the size that the directory says")


def _allowed(size_bytes: int) -> int:
    """Return how much a zip file of that size may hold [bytes]."""
    return min(LARGEST_BYTES, max(SMALL_BYTES, MOST_TIMES * size_bytes))


def _read(root: Path) -> Project:
    made = read(root)
    if made.breaches:
        raise _RefusedError(str(made.breaches[0]).replace(f"{root}{os.sep}", ""))
    return made


def _require_new(made: Project, folder: Path) -> None:
    """Refuse a second project of one name or uuid."""
    for other in (*find_all(), *find_all(cwd=folder)):
        if made.name == other.name or made.uuid == other.uuid:
            same = "name" if made.name == other.name else "uuid"
            raise _RefusedError(
                f"its app {made.name!r} ({made.uuid}) has the {same} of {other.name!r} ({other.uuid}) in {other.root}; "
                "import it under a name of its own: --name NAME"
            )


def _private(project: Project) -> Project:
    """Take everybody else's rights to a project away."""
    for folder, _, _ in os.walk(project.root):
        with suppress(OSError):
            os.chmod(folder, 0o700)
    return project
