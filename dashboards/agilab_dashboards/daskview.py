"""Dask's dashboards inside a page, as long as the cluster of a run lives; `proxy` brings them through our port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.run import Run
from agilab_dashboards import markup
from agilab_dashboards.components import card, row
from agilab_dashboards.form import html
from agilab_dashboards.markup import Markup, code, element, link
from agilab_dashboards.proxy import DOCUMENTS, FIRST, path_of
from agilab_dashboards.session import PLUGIN_COMMAND, Session

HEIGHT = 460
"""How high a dashboard is shown [px]."""


class DaskView(Viewer):
    """The dashboards of a run's cluster.

    Parameters
    ----------
    session
        Who looks; which dashboard stands in the URL.
    run
        Whose cluster it is.
    """

    def __init__(self, session: Session, run: Run) -> None:
        super().__init__()
        self._session, self._run = session, run
        self._shown: Mapping[str, Any] = {}
        asked = session.query.get("dask", "")
        self._document = asked if asked in DOCUMENTS else next(iter(DOCUMENTS))
        self._first: Any = None
        self._more: Any = None
        self._frame = html(Markup(""))
        self._to_itself = pn.pane.HTML("", stylesheets=[markup.style()])
        self._view = pn.Column(sizing_mode="stretch_width", visible=False)

    def __panel__(self) -> Viewable:
        return self._view

    def show(self, cluster: Mapping[str, Any]) -> None:
        """Show the dashboards of a cluster; of none, nothing."""
        if cluster == self._shown:
            return
        self._shown = cluster
        if not self._view.objects:
            self._build()
        self._view.visible = bool(cluster)
        self._draw()

    def _build(self) -> None:
        titles = list(DOCUMENTS.items())
        first = {title: name for name, title in titles[:FIRST]}
        more = {title: name for name, title in titles[FIRST:]}
        self._first = pmui.RadioButtonGroup(
            options=first,
            value=self._document if self._document in first.values() else None,
            sx={".MuiToggleButton-root": {"textTransform": "none", "whiteSpace": "nowrap", "padding": "8px 14px"}},
        )
        self._more = pmui.Select(
            label="Another dashboard",
            options={"none": "", **more},
            value=self._document if self._document in more.values() else "",
            width=250,
            margin=(5, 0),
        )
        self._first.param.watch(self._chosen, "value")
        self._more.param.watch(self._chosen, "value")
        self._view.objects = [
            card("Dask dashboards", row(self._first, self._more, self._to_itself), self._frame),
        ]

    def _chosen(self, event: Any) -> None:
        if not event.new:
            return
        other = self._more if event.obj is self._first else self._first
        other.value = "" if other is self._more else None
        self._document = event.new
        self._session.remember("dask", event.new)
        self._draw()

    def _draw(self) -> None:
        there = self._session.guarded and bool(self._shown.get("dashboard"))
        self._first.visible = self._more.visible = self._to_itself.visible = there
        if not self._shown:
            self._frame.object = ""
        elif not there:
            self._frame.object = str(self._missing())
        else:
            path = pn.state.base_url + path_of(self._run, self._document)
            title = DOCUMENTS[self._document]
            self._to_itself.object = str(link(path, "by itself", new=True))
            attributes = {"src": path, "title": f"Dask: {title}", "style": _FRAME, "loading": "lazy"}
            self._frame.object = str(element("iframe", "", attributes))

    def _missing(self) -> Markup:
        if not self._shown.get("dashboard"):
            return markup.empty("This cluster has no dashboards", "Its scheduler shows them when Bokeh is installed.")
        advice = markup.join(
            ["They need routes and a guard that plain panel serve has not. Start it with ", code(PLUGIN_COMMAND), "."]
        )
        return markup.empty("The dashboards cannot be shown here", advice)


_FRAME = (
    f"width:100%;height:{HEIGHT}px;border:1px solid var(--mui-palette-divider, #ddd);border-radius:6px;background:#fff"
)
