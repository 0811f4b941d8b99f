"""`ServerOptions`, what `agilab serve` can be told: declared once, for its flags, its page and its checks."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import param

from agilab.errors import SettingError
from agilab.settings import Secret, Settings

_SITE = re.compile(r"https?://[A-Za-z0-9.-]{1,253}(:(\d{1,5}|\*))?")


class ServerOptions(Settings):
    """Where the server listens, and who may use it."""

    port = param.Integer(5006, bounds=(0, 65535), doc="TCP port; 0 takes any that is free.")
    address = param.String(
        "127.0.0.1", regex=r"[A-Za-z0-9.:_-]{1,253}$", doc="Address to listen on; any but loopback needs a login."
    )
    basic_auth = param.Filename(
        None, allow_None=True, doc='JSON file of users and passwords, {"ann": "..."}, that only you can read.'
    )
    hosts = param.List(
        [],
        item_type=str,
        doc="Names by which browsers reach the server, such as lab.example.org:5006; needed beyond loopback.",
    )
    frames = param.List(
        [],
        item_type=str,
        doc="Other sites whose pages may show ours inside of theirs, such as http://localhost:8888 of a notebook.",
    )
    readers = param.List([], item_type=str, doc="Users who may look and change nothing; with a login.")
    oauth_provider = param.Selector(
        default=None,
        objects=["auth0", "azure", "azurev2", "bitbucket", "generic", "github", "gitlab", "google", "okta"],
        allow_None=True,
        doc="Who logs users in instead of basic_auth: one of Panel's OAuth providers.",
    )
    users = param.List([], item_type=str, doc="With OAuth: who may enter, by the name or address the provider gives.")
    oauth_key = param.String("", doc="With OAuth: the client id that the provider has given this server.")
    oauth_secret = Secret(None, allow_None=True, doc="With OAuth: where the client secret is, env:NAME or file:PATH.")
    oauth_redirect_uri = param.String(
        "", doc="With OAuth: where the provider sends browsers back to; empty for /login of the first of hosts."
    )
    oauth_extra_params = param.Dict({}, doc="With OAuth: what else Panel's provider takes, such as AUTHORIZE_URL.")

    @property
    def has_login(self) -> bool:
        """Whether users log in."""
        return self.basic_auth is not None or self.oauth_provider is not None


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
        Another bind than loopback without login or host names, a wildcard among those, a login of which something
        is missing, or a password file that others can read.
    """
    wild = [host for host in options.hosts if "*" in host]
    if wild:
        raise SettingError(f"setting 'hosts' holds {wild[0]!r}; allowed: exact names with their port, no wildcard")
    for site in options.frames:
        if not _SITE.fullmatch(site):
            raise SettingError(f"setting 'frames' holds {site!r:.120}; allowed: such as http://localhost:8888")
    if options.basic_auth is not None:
        _require_private(Path(str(options.basic_auth)))
    _require_whole(options)
    if is_loopback(options.address):
        return
    if not options.has_login:
        raise SettingError(
            f"setting 'address' is {options.address!r}, which others can reach; without a login only loopback is "
            "allowed: add --basic-auth FILE or --oauth-provider NAME, or leave --address out"
        )
    if not options.hosts:
        raise SettingError(
            f"setting 'address' is {options.address!r}; say by which name browsers reach it, such as "
            f"--hosts lab.example.org:{options.port}"
        )


def _require_whole(options: ServerOptions) -> None:
    """Refuse a login of which something is missing."""
    if options.readers and not options.has_login:
        raise SettingError(
            f"setting 'readers' names {options.readers[0]!r}, and nobody logs in; add --basic-auth FILE or "
            "--oauth-provider NAME"
        )
    if options.oauth_provider is None:
        return
    if options.basic_auth is not None:
        raise SettingError("settings 'basic_auth' and 'oauth_provider' are both given; users log in by one of them")
    if not options.oauth_key or options.oauth_secret is None:
        raise SettingError(
            f"setting 'oauth_provider' is {options.oauth_provider!r} and needs the id and secret of this server there: "
            "--oauth-key ID --oauth-secret env:NAME"
        )
    if not options.users:
        raise SettingError(
            f"setting 'oauth_provider' is {options.oauth_provider!r}, where anybody may have an account; say who may "
            "enter: --users NAME"
        )


def _require_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as err:
        raise SettingError(f"setting 'basic_auth' is {str(path)!r}, which cannot be read: {err.strerror}") from err
    if mode & 0o077:
        raise SettingError(f"setting 'basic_auth' is {str(path)!r}, which others can read; run chmod 600 {path}")
