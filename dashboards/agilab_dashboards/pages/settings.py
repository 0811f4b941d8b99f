"""Settings of this installation: server options, paths, variables with their source, versions; secrets stay hidden."""

from __future__ import annotations

import asyncio
import sys
from importlib import metadata
from typing import Any

import panel as pn
from panel.viewable import Viewable

from agilab import __version__
from agilab.env import AgiEnv
from agilab.layers import resolve
from agilab_dashboards import markup
from agilab_dashboards.components import card, copy_text
from agilab_dashboards.form import SettingsForm, html
from agilab_dashboards.markup import Markup, code, element
from agilab_dashboards.options import ServerOptions
from agilab_dashboards.session import PLUGIN_COMMAND, Session
from agilab_dashboards.snippets import options_command
from agilab_dashboards.template import heading

DISTRIBUTIONS = ("panel", "panel-material-ui", "bokeh", "param", "dask", "distributed", "holoviews", "datashader")
HIDDEN = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL")
"""A variable with one of these in its name shows that it is set, and not its value."""


async def page(session: Session) -> Viewable:
    """Return the page."""
    described, variables = await asyncio.to_thread(_described, session.env)
    fields = ServerOptions.fields()
    form = SettingsForm(fields, resolve(fields, []), session.remembered("server"))
    form.param.watch(lambda event: session.remember("server", event.new or None), "given")
    command = copy_text(lambda: {"Shell": options_command(fields, form.given) + "\n"}, form)
    note = element("p", "They hold from the next start on: copy the command below.", {"class": "soft"})
    return pn.Column(
        heading("This installation", "Where things are, what is set, and which versions work together."),
        card("How you are served", html(_served(session))),
        card("Paths", html(markup.facts((name, code(path)) for name, path in described["paths"].items()))),
        card("Environment variables", html(markup.table(("variable", "value", "source", "decides"), variables))),
        card("Server options", html(Markup(note)), form, command),
        card("Versions", html(markup.facts(_versions()))),
        sizing_mode="stretch_width",
    )


def _described(env: AgiEnv) -> tuple[dict[str, Any], list[tuple[object, ...]]]:
    rows = [(code(item.name), shown(item.name, item.value), item.source, item.doc) for item in env.variables()]
    return env.describe(), rows


def shown(name: str, value: str) -> Markup:
    """Return the value of a variable, hidden when its name says that it is a secret."""
    if value and any(word in name.upper() for word in HIDDEN):
        return element("span", "(hidden)", {"class": "soft"})
    return code(value) if value else element("span", "not set", {"class": "soft"})


def _served(session: Session) -> Markup:
    user = pn.state.user or "whoever has the link of this server"
    if session.guarded:
        rights = "may look and change nothing" if session.reads_only else "may change things"
        return markup.facts([("user", f"{user}, {rights}"), ("log", code(session.log))])
    advice = markup.join(
        [
            "panel serve answers this page without a login of ours; the Dask dashboards and other addresses than "
            "this machine's need our routes and guard: ",
            code(PLUGIN_COMMAND),
        ]
    )
    return markup.facts([("by", code("panel serve")), ("", advice), ("log", code(session.log))])


def _versions() -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [("AGILAB", __version__), ("Python", sys.version.split()[0])]
    for name in DISTRIBUTIONS:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return found
