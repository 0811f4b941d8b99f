"""Which names of hosts, and which file names sent by hosts, are accepted: nothing that a shell or a path could obey."""

from __future__ import annotations

import re

from agilab.errors import EvidenceError, HostError

_HOST = re.compile(r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?(?P<host>[A-Za-z0-9:][A-Za-z0-9_.:-]{0,252})")
_SEGMENT = re.compile(r"[^/\x00-\x1f\x7f]{1,255}")


def split_host(name: str) -> tuple[str, str]:
    """Return user and host of ``[user@]host``; the user is empty when the name has none.

    Raises
    ------
    HostError
        It begins with ``-``, or holds what a shell would obey.
    """
    found = _HOST.fullmatch(name)
    if found is None:
        raise HostError(
            name,
            "name",
            "not a name a host can have",
            "write [user@]host with letters, digits, '.', '-', '_' and ':', not beginning with '-'; "
            "everything else belongs into ~/.ssh/config",
        )
    return found["user"] or "", found["host"]


def checked_file_name(name: object, *, host: str) -> str:
    """Return a relative POSIX path that a host has named, before anything is written under it.

    Raises
    ------
    EvidenceError
        It is absolute, leads out of its folder, or holds characters that a terminal would obey.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or not all(_SEGMENT.fullmatch(part) and part not in (".", "..") for part in parts):
        raise EvidenceError(
            f"host {host} names a file {name!r:.120}, which leads out of its folder or is no name; nothing was written"
        )
    return "/".join(parts)
