"""`ServerOptions`, what `agilab serve` can be told: declared once, for its flags, its page and its checks."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import param

from agilab.errors import SettingError
from agilab.settings import Settings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine reaches."""


class ServerOptions(Settings):
    """Where the server listens, and who may use it."""

    port = param.Integer(5006, bounds=(0, 65535), doc="TCP port; 0 takes any that is free.")
    address = param.String(
        "127.0.0.1", regex=r"[A-Za-z0-9.:_-]{1,253}$", doc="Address to listen on; any but loopback needs basic_auth."
    )
    basic_auth = param.Filename(
        None, allow_None=True, doc='JSON file of users and passwords, {"ann": "..."}, that only you can read.'
    )
    hosts = param.List(
        [],
        item_type=str,
        doc="Names by which browsers reach the server, such as lab.example.org:5006; needed beyond loopback.",
    )


def is_loopback(address: str) -> bool:
    """Say whether only this machine reaches an address."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def require_safe(options: ServerOptions) -> None:
    """Refuse what would let strangers in.

    Raises
    ------
    SettingError
        Another bind than loopback without login or host names, a wildcard among those, or a password file that
        others can read.
    """
    wild = [host for host in options.hosts if "*" in host]
    if wild:
        raise SettingError(f"setting 'hosts' holds {wild[0]!r}; allowed: exact names with their port, no wildcard")
    if options.basic_auth is not None:
        _require_private(Path(str(options.basic_auth)))
    if is_loopback(options.address):
        return
    if options.basic_auth is None:
        raise SettingError(
            f"setting 'address' is {options.address!r}, which others can reach; without a login only loopback is "
            "allowed: add --basic-auth FILE, or leave --address out"
        )
    if not options.hosts:
        raise SettingError(
            f"setting 'address' is {options.address!r}; say by which name browsers reach it, such as "
            f"--hosts lab.example.org:{options.port}"
        )


def _require_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as err:
        raise SettingError(f"setting 'basic_auth' is {str(path)!r}, which cannot be read: {err.strerror}") from err
    if mode & 0o077:
        raise SettingError(f"setting 'basic_auth' is {str(path)!r}, which others can read; run chmod 600 {path}")
