"""For ``panel serve ... --plugins agilab_dashboards.plugin``: the routes of `agilab serve`, and its guard before all.

A plugin of Panel is asked for routes only, and those come after the pages. The
guard has to stand before everything, so Bokeh's server is given an application
class that installs it: with Panel's own login where that was asked for
(``--basic-auth``, ``--oauth-provider``), with a one-time link elsewhere.
"""

from __future__ import annotations

import sys
from typing import Any

import bokeh.server.server
import panel as pn
from bokeh.server.auth_provider import NullAuth
from bokeh.server.tornado import BokehTornado

from agilab.cli.screen import note, out
from agilab.env import AgiEnv
from agilab_dashboards import guard as guarding
from agilab_dashboards import proxy
from agilab_dashboards.document import log_to
from agilab_dashboards.guard import Guard
from agilab_dashboards.options import is_loopback
from agilab_dashboards.serve import cookie_secret


def _guard(env: AgiEnv) -> Guard:
    env.prepare()
    log_to(env.home.server / "server.log", "tornado", "bokeh", "panel")
    return Guard(frozenset(), pn.config.cookie_secret or cookie_secret(env.home.server))


_ENV = AgiEnv()
_GUARD = _guard(_ENV)

ROUTES = proxy.routes(_ENV.runs, _GUARD)
"""What Panel adds to the routes of its server."""


class _Guarded(BokehTornado):
    """Bokeh's application behind our guard."""

    def __init__(self, applications: Any, **options: Any) -> None:
        super().__init__(applications, **options)
        hosts = [host.lower() for host in options.get("extra_websocket_origins") or ()]
        first = hosts[0] if hosts else "localhost:5006"
        login = not isinstance(self.auth_provider, NullAuth)
        _require_safe(hosts, login=login)
        port = int(first.rpartition(":")[2])
        _GUARD.hosts = guarding.names("", port, hosts) if is_loopback(first.rpartition(":")[0]) else frozenset(hosts)
        self._websocket_origins = set(_GUARD.hosts)
        where = f"http://{first}/"
        if not login:
            _GUARD.cookie = f"agilab-{port}"
            _GUARD.announce = lambda token: note(f"link for another browser: {where}?token={token}")
        _GUARD.install(self)
        out(f"AGILAB is at {where}" + ("" if login else f"?token={_GUARD.token}"))
        sys.stdout.flush()


def _require_safe(hosts: list[str], *, login: bool) -> None:
    if any("*" in host for host in hosts):
        sys.exit("agilab: error: --allow-websocket-origin holds a wildcard; allowed: exact names with their port")
    beyond = [host for host in hosts if not is_loopback(host.rpartition(":")[0])]
    if beyond and not login:
        sys.exit(
            f"agilab: error: others reach this server as {beyond[0]}; without a login only loopback is allowed: add "
            "--basic-auth FILE --cookie-secret SECRET, or Panel's --oauth-... options"
        )


bokeh.server.server.BokehTornado = _Guarded  # type: ignore[misc]
