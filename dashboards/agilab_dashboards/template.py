"""The frame around every page: name, site map, light and dark; it is given the site map and knows no page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param
from panel.util import edit_readonly

from agilab_dashboards import markup
from agilab_dashboards.markup import element, link
from agilab_dashboards.session import Session

WIDTH = 1240
"""How wide pages get [px]."""
COOKIE = "agilab-theme"
"""Keeps whether a browser wants dark pages; without it the browser's own preference counts."""

_REMEMBER = (
    f"document.cookie = '{COOKIE}=' + (cb_obj.dark_theme ? 'dark' : 'light')"
    " + ';path=/;SameSite=Strict;max-age=31536000'"
)
_PRIMARY = {"light": "#0b5cad", "dark": "#7fb4f0"}
_MAIN = {
    "width": "100%",
    "margin": "12px auto",
    "padding": "0 16px",
    "box-sizing": "border-box",
    "max-height": "none",  # Panel's is that of the window for each column inside too, and what comes next lay over it
}
_BACK = "<script>window.addEventListener('popstate', () => window.location.reload())</script>"
"""What a page keeps in its URL it reads when it is loaded: the back button loads it again."""
_NAV = """
:host { width: 100%; color: #fff; }
nav { display: flex; gap: 4px; align-items: center; flex-wrap: wrap; }
nav a { color: #fff; padding: 6px 12px; border-radius: 6px; text-decoration: none; font-size: 14.5px; }
nav a:hover, nav a:focus-visible { background: rgba(255, 255, 255, .14); text-decoration: none; }
nav a[aria-current] { background: rgba(255, 255, 255, .2); font-weight: 600; }
"""


class _Idle(param.Parameterized):
    busy = param.Boolean(False)


def frame(session: Session, site: Mapping[str, str], main: list[Any]) -> pmui.Page:
    """Return a document with the page in it.

    Parameters
    ----------
    session
        Whose page it is.
    site
        Name -> title of every page.
    main
        What the page shows.
    """
    links = [
        element("a", title, {"href": session.href(name), **({"aria-current": "page"} if name == session.page else {})})
        for name, title in site.items()
    ]
    nav = pn.pane.HTML(
        str(element("nav", markup.join(links), {"aria-label": "Pages"})) + _BACK,
        stylesheets=[_NAV],
        sizing_mode="stretch_width",
    )
    dark = pn.state.cookies.get(COOKIE) == "dark"
    page = pmui.Page(
        title="AGILAB",
        site_url=session.href("home"),
        header=[nav],
        main=[pn.Column(*main, sizing_mode="stretch_width", max_width=WIDTH, styles=_MAIN)],
        app_bar_width=WIDTH,
        dark_theme=dark,
        sx={
            ".MuiAppBar-root": {"backgroundColor": "#0a4a8c", "color": "#fff", "boxShadow": "none"},
            ".MuiToolbar-root": {"padding": "0 16px"},  # what the page has beside it
        },
        theme_toggle=True,
        busy_indicator=None,
        meta_viewport="width=device-width, initial-scale=1",
        meta_description="AGILAB: reproducible runs",
        favicon=None,
        template=Path(__file__).with_name("page.html"),
        theme_config={
            mode: {
                "palette": {"primary": {"main": _PRIMARY[mode]}},
                "typography": {"fontFamily": "system-ui, sans-serif"},
            }
            for mode in ("light", "dark")
        },
    )
    with edit_readonly(page):  # else it follows, and is kept alive by, whether any session of the server is busy
        page.busy = _Idle().param.busy
    page.jscallback(dark_theme=_REMEMBER)
    return page


def heading(title: str, about: object = "", *, crumbs: tuple[tuple[str, str], ...] = ()) -> pn.pane.HTML:
    """Return the first lines of a page: where one is, its title, one sentence."""
    path = markup.join([link(href, label) for href, label in crumbs], " / ")
    parts = [element("div", path, {"class": "soft small"})] if crumbs else []
    parts.append(element("h1", title))
    if about:
        parts.append(element("p", about, {"class": "soft"}))
    text = str(markup.join(parts))
    return pn.pane.HTML(text, stylesheets=[markup.style()], sizing_mode="stretch_width", margin=(5, 0))
