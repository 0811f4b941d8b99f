"""The server process: one `Server` of Panel behind the guard, from its first line to a clean end; it knows no page."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import sys
import threading
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import panel as pn
from panel.io.server import get_server
from tornado.ioloop import IOLoop

from agilab import raster
from agilab.cli.screen import note, out
from agilab.env import AgiEnv
from agilab.errors import AgilabError
from agilab.layers import resolve_secrets
from agilab.paths import make_folder, write_file
from agilab_dashboards import guard as guarding
from agilab_dashboards import proxy
from agilab_dashboards.document import document, log_to
from agilab_dashboards.guard import LOGIN, LOGOUT, Guard, Login
from agilab_dashboards.options import ServerOptions, require_safe

IN_BACKGROUND = ("bokeh.plotting", "markdown_it")
"""What is heavy and not needed for a first page: imported by a thread once that has been answered."""
PATIENCE_S = 2.0
"""How long the first page has the processor for itself [s]."""
LARGEST_MESSAGE_BYTES = 8 << 20
"""Largest message that a browser may send; a longer one closes its connection."""


def serve(options: ServerOptions, *, opens: bool = False) -> int:
    """Serve the pages until SIGINT or SIGTERM; return the exit code.

    Raises
    ------
    SettingError
        The options would let strangers in.
    AgilabError
        The port is taken.
    """
    require_safe(options)
    # A browser sends back models that it was sent before; Bokeh takes note of it, a user need not.
    warnings.filterwarnings("ignore", message="reference already known")
    env = AgiEnv()
    env.prepare()
    log_to(env.home.server / "server.log", "tornado", "bokeh", "panel")
    secret = cookie_secret(env.home.server)
    guard = Guard(frozenset(), secret, users=frozenset(options.users), frames=tuple(options.frames))
    server = _listen(options, secret=secret, login=_login(options, secret), more=proxy.routes(env.runs, guard))
    where = f"http://{_shown(options.address)}:{server.port}/"
    guard.hosts = guarding.names(_shown(options.address), server.port, options.hosts)
    pn.config.oauth_redirect_uri = options.oauth_redirect_uri or (
        f"http://{options.hosts[0]}{LOGIN}" if options.hosts else where.removesuffix("/") + LOGIN
    )
    if not options.has_login:
        guard.cookie = f"agilab-{server.port}"
        guard.announce = lambda token: note(f"link for another browser: {where}?token={token}")
    application = server._tornado  # Bokeh's server has no other name for it
    application._websocket_origins = set(guard.hosts)
    guard.install(application)
    link = f"{where}?token={guard.token}" if not options.has_login else where
    out(f"AGILAB is at {link}", "Ctrl-C ends the server; runs go on.")
    sys.stdout.flush()
    later = threading.Timer(PATIENCE_S, _import_more)
    later.daemon = True
    pn.state.on_session_created(lambda context: None if later.ident else later.start())  # somebody looks at a page
    if opens:
        _open(link)
    return _loop(server)


def _listen(options: ServerOptions, *, secret: str, login: Mapping[str, Any], more: list[tuple[Any, ...]]) -> Any:
    """Bind the port; nothing is answered before the guard stands."""
    pn.config.cookie_secret = secret
    try:
        return get_server(
            {"/": document(guarded=True, readers=options.readers)},
            port=options.port,
            address=options.address,
            websocket_origin="localhost:0",  # nobody, until the port is known
            title="AGILAB",
            location=True,
            liveness=True,
            start=False,
            show=False,
            cookie_secret=secret,
            extra_patterns=more,
            sign_sessions=True,
            secret_key=secret,
            **login,
            websocket_max_message_size=LARGEST_MESSAGE_BYTES,
            http_server_kwargs={"max_header_size": 1 << 16, "max_body_size": 1 << 20},
            check_unused_sessions_milliseconds=5000,
            unused_session_lifetime_milliseconds=60000,
        )
    except OSError as err:
        raise AgilabError(
            f"port {options.port} of {options.address} cannot be used: {err.strerror}; "
            "is a server running there already? Take another with --port N, or --port 0 for any"
        ) from err


def _login(options: ServerOptions, secret: str) -> dict[str, Any]:
    """Return what `get_server` is told about the login of users."""
    if options.basic_auth is not None:
        template = Path(__file__).with_name("login.html")
        return {"auth_provider": Login(Path(str(options.basic_auth)), template)}
    if options.oauth_provider is None:
        return {}
    key = urlsafe_b64encode(sha256(f"cookies of {secret}".encode()).digest())
    return {
        "oauth_provider": options.oauth_provider,
        "oauth_key": options.oauth_key,
        "oauth_secret": resolve_secrets(options.fields(), options.to_json(), os.environ)["oauth_secret"],
        "oauth_extra_params": options.oauth_extra_params,
        "oauth_encryption_key": key,
        "login_endpoint": LOGIN,
        "logout_endpoint": LOGOUT,
    }


def _loop(server: Any) -> int:
    """Answer requests until a signal comes; then close every session and connection."""
    loop: IOLoop = server.io_loop

    def stop(number: int, frame: Any) -> None:
        loop.asyncio_loop.call_soon_threadsafe(loop.stop)  # type: ignore[attr-defined]

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    server.start()
    gc.freeze()  # what is imported by now is not looked through again for each session's garbage
    try:
        loop.start()
    finally:
        server.stop()
    note("the server has ended")
    return 0


def cookie_secret(folder: Path) -> str:
    """Return what cookies are signed with: the same after a restart, so that open pages stay logged in."""
    path = make_folder(folder) / "secret"
    with suppress(OSError):
        text = path.read_text(encoding="ascii").strip()
        if len(text) >= 32 and not path.stat().st_mode & 0o077:
            return text
    text = secrets.token_urlsafe(48)
    write_file(path, f"{text}\n".encode())
    return text


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _import_more() -> None:
    """Load what pages need later."""
    with suppress(ImportError):
        for name in IN_BACKGROUND:
            import_module(name)
        raster.warm_up()


def _open(link: str) -> None:
    import webbrowser

    opened: Callable[[str], bool] = webbrowser.open
    if not opened(link):
        note("no browser could be opened; open the link above yourself")
