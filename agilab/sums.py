"""The files of a run folder and their digests, as `sha256sum` writes them; what the files say it does not know.

A list of sums is ``<sha256>  <POSIX path>`` per line, sorted by path. There
is one way only to write down a set of files, so a list that was edited in
any way either says something else or is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence

from agilab.errors import EvidenceError

HASH = re.compile(r"[0-9a-f]{64}")
"""How a digest is spelled: lower case, nothing shorter."""

OUTSIDE = frozenset({".owner", ".staging", "sidecar"})
"""What the seal does not cover: the lock, unfinished work, and what is added to a finished run."""
NOT_LISTED = OUTSIDE | {"manifest-sha256.txt"}
"""What the list of sums leaves out: the same, and itself."""

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_ODD_NAME = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_BIG_FILE = 1 << 20
_LIST_LIMIT = 256 << 20


def walk(root: str) -> tuple[list[str], dict[str, str]]:
    """List what a run folder holds, all but `NOT_LISTED`, without following links or opening anything.

    Parameters
    ----------
    root
        The folder.

    Returns
    -------
    files : list of str
        POSIX paths of regular files.
    odd : dict
        POSIX path -> ``"link"`` or ``"odd"`` (a pipe, a socket, a device, a name with control characters).

    Raises
    ------
    OSError
        A folder cannot be read.
    """
    files: list[str] = []
    odd: dict[str, str] = {}
    folders = [("", root)]
    while folders:
        prefix, folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + entry.name
                if not prefix and path in NOT_LISTED:
                    continue
                if entry.is_symlink():
                    odd[path] = "link"
                elif _ODD_NAME.search(entry.name):
                    odd[path] = "odd"
                elif entry.is_dir(follow_symlinks=False):
                    folders.append((path + "/", entry.path))
                elif entry.is_file(follow_symlinks=False):
                    files.append(path)
                else:
                    odd[path] = "odd"
    return files, odd


def open_file(path: str) -> int:
    """Open a regular file for reading and return its descriptor; never through a link, never waiting.

    Raises
    ------
    OSError
        It cannot be read.
    EvidenceError
        It is not a regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise EvidenceError(f"{path} is not a regular file")
    return fd


def open_inside(root: str, path: str) -> int:
    """Open a regular file in a folder by its recorded path and return its descriptor; no step of it may be a link.

    Raises
    ------
    OSError
        It cannot be read.
    EvidenceError
        The path leads outside, or not to a regular file.
    """
    if not safe_path(path):
        raise EvidenceError(f"{path!r} is no path inside {root}")
    *folders, name = path.split("/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = inner
        fd = os.open(name, flags | os.O_NONBLOCK, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise EvidenceError(f"{root}/{path} is not a regular file")
    return fd


def read_file(path: str, limit: int = _LIST_LIMIT) -> bytes:
    """Return the bytes of a regular file.

    Raises
    ------
    OSError
        It cannot be read.
    EvidenceError
        It is not a regular file, or has more than `limit` bytes.
    """
    with open(open_file(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise EvidenceError(f"{path} has {size} bytes; a record of this kind has at most {limit}")
        return file.readall()


def hash_file(path: str, *, durable: bool = False) -> tuple[str, int]:
    """Return sha256 and size [bytes] of a regular file; with `durable`, its bytes are on the disk as well.

    Raises
    ------
    OSError
        It cannot be read.
    EvidenceError
        It is not a regular file.
    """
    fd = open_file(path)
    with open(fd, "rb", buffering=0) as file:
        if durable:
            os.fsync(fd)
        if os.fstat(fd).st_size > _BIG_FILE:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        data = file.readall()
    return hashlib.sha256(data).hexdigest(), len(data)


def hash_all(root: str, paths: Sequence[str], failed: Callable[[str, Exception], None]) -> dict[str, tuple[str, int]]:
    """Hash many files: big ones in threads, since hashing lets other threads run, small ones meanwhile.

    Parameters
    ----------
    root
        The folder that the paths are relative to.
    paths
        What `walk` found.
    failed
        Told the path and the reason of each file that cannot be read.

    Returns
    -------
    dict
        Path -> sha256 and size [bytes], of the files that could be read.
    """
    from concurrent.futures import ThreadPoolExecutor

    found: dict[str, tuple[str, int]] = {}

    def one(path: str) -> None:
        try:
            found[path] = hash_file(f"{root}/{path}")
        except (OSError, EvidenceError) as err:
            failed(path, err)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "agilab-hash") as pool:
        for path in paths:
            try:
                big = os.lstat(f"{root}/{path}").st_size > _BIG_FILE
            except OSError as err:
                failed(path, err)
                continue
            if big:
                pool.submit(one, path)
            else:
                one(path)
    return found


def to_text(sums: Mapping[str, str]) -> bytes:
    """Write path -> sha256 as a list that ``sha256sum -c`` reads."""
    return "".join([f"{sums[path]}  {path}\n" for path in sorted(sums)]).encode()


def from_text(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield number, sha256 and path of every line; a line that is not of this form has no sha256 and itself as path."""
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        match = _LINE.fullmatch(line)
        yield (number, match[1], match[2]) if match else (number, "", line)


def safe_path(path: object) -> bool:
    """Say whether a recorded path can only lead to something inside the folder it is relative to."""
    return (
        isinstance(path, str)
        and not _ODD_NAME.search(path)
        and not any(part in ("", ".", "..") for part in path.split("/"))
    )
