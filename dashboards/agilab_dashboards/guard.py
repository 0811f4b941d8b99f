"""Who may talk to the server: every request is denied unless host, origin and cookie say otherwise; it knows no page.

The rule stands before every route of the Tornado application, static files
and websockets included, so that a route added later is denied too. On
loopback, which other users of the machine share, a one-time token in the
printed URL becomes the cookie; elsewhere Panel's login sets its own.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from panel.auth import BasicAuthProvider, BasicLoginHandler
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.routing import Matcher, Rule
from tornado.web import Application, OutputTransform, RequestHandler, create_signed_value, decode_signed_value

LIVENESS = "/liveness"
LOGIN, LOGOUT = "/login", "/logout"
TOKEN = "token"
USER_COOKIE = "user"
"""The cookie that Panel's login sets."""
SAFE_METHODS = ("GET", "HEAD")
MOST_SESSIONS = 200
"""How many pages may be open at a time; each takes memory."""
MOST_TRIES = 5
"""How many wrong passwords of a user are looked at within `TRIES_S`."""
TRIES_S = 60.0
CROWDED = "too many pages are open; close some, or try again in a minute"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers post our own login form with Origin: null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "agilab",
}
"""What every answer says; nothing is loaded from anywhere but this server."""


@dataclass(slots=True)
class Guard:
    """Decides about one request after the other.

    Parameters
    ----------
    hosts
        Exact values of ``Host`` that are answered, such as ``localhost:5006``.
    secret
        What cookies are signed with.
    cookie
        Name of the cookie; on loopback one per port, since browsers share cookies between ports.
    announce
        Told a fresh token each time one has been used; None where a login takes its place.
    users
        Who of those that have logged in may enter; empty for all of them.
    frames
        Other sites that may show our pages inside of theirs, such as ``http://localhost:*``.
    sessions
        Says how many pages are open.
    """

    hosts: frozenset[str]
    secret: str
    cookie: str = USER_COOKIE
    announce: Callable[[str], None] | None = None
    users: frozenset[str] = frozenset()
    frames: tuple[str, ...] = ()
    sessions: Callable[[], int] = lambda: 0
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def has_login(self) -> bool:
        return self.announce is None

    def problem(self, request: HTTPServerRequest) -> str:
        """Return why a request is refused; empty when it is allowed."""
        if request.headers.get_list("Host") != [request.host] or request.host.lower() not in self.hosts:
            return "this server does not answer to that host name"
        origins = request.headers.get_list("Origin") + request.headers.get_list("Sec-WebSocket-Origin")
        upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        needed = upgrade or request.method not in SAFE_METHODS
        if (needed and not origins) or any(not self.is_ours(origin) for origin in origins):
            return "the request comes from another site"
        if "%00" in request.path:  # no file has such a name, and asking for it is an error of the system
            return "there is nothing of that name"
        if request.path == LIVENESS or (self.has_login and request.path in (LOGIN, LOGOUT)):
            return ""
        user = self.user(request)
        if user is None:
            return "log in first" if self.has_login else "open the link that `agilab serve` printed last"
        if self.users and user not in self.users:
            return f"{user} may not enter; ask whoever runs this server"
        opens = request.path in ("/", "/app") and not upgrade
        return CROWDED if opens and self.sessions() >= MOST_SESSIONS else ""

    def user(self, request: HTTPServerRequest) -> str | None:
        """Return whom our cookie in a request names; None without one that we have made."""
        morsel = request.cookies.get(self.cookie)
        value = decode_signed_value(self.secret, self.cookie, morsel.value) if morsel else None
        return None if value is None else value.decode("utf-8", "replace")

    def redeem(self, token: str) -> bytes | None:
        """Return a cookie for the token, which is then used up; None when it is not the one."""
        if self.announce is None or not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        self.token = secrets.token_urlsafe(24)
        self.announce(self.token)
        return create_signed_value(self.secret, self.cookie, "local")

    def install(self, application: Application) -> None:
        """Stand before every route of an application, and add the headers to its answers."""
        rules: list[Any] = [
            Rule(_Offers(self), _Redeemed, {"guard": self}),
            Rule(_Denied(self), _Refused, {"guard": self}),
        ]
        application.add_handlers(r".*", rules)
        application.add_transform(partial(_Secured, headers=self.headers))
        application.settings["log_function"] = _quiet
        contexts = getattr(application, "_applications", {})  # Bokeh's: path -> its sessions
        self.sessions = lambda: sum(len(list(context.sessions)) for context in contexts.values())

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says, with who may frame it."""
        if not self.frames:
            return dict(HEADERS)
        policy = HEADERS["Content-Security-Policy"].replace(
            "frame-ancestors 'self'", f"frame-ancestors 'self' {' '.join(self.frames)}"
        )
        # X-Frame-Options knows no other sites, and browsers prefer the policy anyway.
        return {**{k: v for k, v in HEADERS.items() if k != "X-Frame-Options"}, "Content-Security-Policy": policy}

    def is_ours(self, origin: str) -> bool:
        """Say whether an ``Origin`` is this server."""
        scheme, _, host = origin.lower().partition("://")
        return scheme in ("http", "https") and host in self.hosts


def names(address: str, port: int, more: Iterable[str] = ()) -> frozenset[str]:
    """Return the values of ``Host`` by which a server on loopback, or under further names, is reached."""
    own = {address, "localhost", "127.0.0.1", "[::1]"}
    return frozenset(name.lower() for name in [*(f"{host}:{port}" for host in own if host), *more])


class _Denied(Matcher):
    """Matches what is refused."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return {} if self.guard.problem(request) else None


class _Offers(Matcher):
    """Matches a visit with a token from our own host."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        offered = request.method == "GET" and request.path == "/" and TOKEN in request.query_arguments
        return {} if offered and not self.guard.has_login and request.host.lower() in self.guard.hosts else None


class _Refused(RequestHandler):
    """Says no, in the least words."""

    def initialize(self, guard: Guard) -> None:
        self.guard = guard

    def prepare(self) -> None:
        problem = self.guard.problem(self.request)
        path = self.request.path
        if problem == "log in first" and self.request.method == "GET" and path == "/":
            self.redirect(LOGIN)
            return
        status, title = (429, "Too many pages") if problem == CROWDED else (403, "Not allowed")
        self.set_status(status)
        self.finish(_PAGE.format(title=title, text=escape(f"{status}: {problem}.")))

    def check_xsrf_cookie(self) -> None:
        """Say nothing: the request is refused whatever it holds."""


class _Redeemed(RequestHandler):
    """Turns the token of a URL into the cookie, and sends the browser to the same page without it."""

    def initialize(self, guard: Guard) -> None:
        self.guard = guard

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        if self.guard.user(self.request) is None:
            cookie = self.guard.redeem(self.get_query_argument(TOKEN))
            if cookie is None:
                self.set_status(403)
                text = "This link has been used or is too old. Open the link that `agilab serve` printed last."
                self.finish(_PAGE.format(title="Link used", text=text))
                return
            self.set_cookie(self.guard.cookie, cookie.decode(), path="/", httponly=True, samesite="Strict")
        self.redirect(_without_token(self.request))


def _without_token(request: HTTPServerRequest) -> str:
    from urllib.parse import urlencode

    kept = [(name, value) for name, values in request.query_arguments.items() if name != TOKEN for value in values]
    return f"/?{urlencode(kept)}" if kept else "/"


class _Secured(OutputTransform):
    """Adds the security headers to every answer."""

    def __init__(self, request: HTTPServerRequest, headers: Mapping[str, str]) -> None:
        super().__init__(request)
        self._headers = headers

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        for name, value in self._headers.items():
            headers[name] = value
        return status_code, headers, chunk


def _quiet(handler: RequestHandler) -> None:
    """Log no request: a URL may hold a token."""


class _Login(BasicLoginHandler):
    """Panel's login, with a comparison that takes the same time for every password."""

    users: Path
    tries: dict[str, list[float]]

    def _validate(self, username: str, password: str) -> bool:
        now = time.monotonic()
        recent = [at for at in self.tries.get(username, ()) if now - at < TRIES_S]
        if len(recent) >= MOST_TRIES:
            return False
        good = self._matches(username, password)
        if not good and (username in self.tries or len(self.tries) < MOST_SESSIONS):
            self.tries[username] = [*recent, now]
        return good

    def _matches(self, username: str, password: str) -> bool:
        users = json.loads(self.users.read_text(encoding="utf-8"))
        wanted = users.get(username) if isinstance(users, dict) else None
        same = hmac.compare_digest(str(wanted).encode(), password.encode())
        return same and isinstance(wanted, str) and wanted != ""

    def set_current_user(self, user: str) -> None:
        """Set Panel's cookies, so that no other site's request carries them."""
        super().set_current_user(user)
        for cookie in self._new_cookie.values():
            cookie["samesite"], cookie["httponly"] = "Strict", True


class Login(BasicAuthProvider):
    """Panel's basic login over a file of users and passwords.

    Parameters
    ----------
    users
        JSON, user -> password; read again at every login.
    template
        The page, which loads nothing from elsewhere.
    """

    def __init__(self, users: Path, template: Path) -> None:
        self._users = users
        super().__init__(login_endpoint=LOGIN, logout_endpoint=LOGOUT, login_template=str(template))

    @property
    def login_handler(self) -> type[RequestHandler]:
        handler: type[RequestHandler] = type(
            "Login",
            (_Login,),
            {"users": self._users, "tries": {}, "_login_endpoint": LOGIN, "_login_template": self._login_template},
        )
        return handler


_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title} - AGILAB</title><style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;"
    'max-width:36rem;margin:20vh auto;padding:0 1rem}}</style><h1>{title}</h1><p role="alert">{text}</p></html>'
)
