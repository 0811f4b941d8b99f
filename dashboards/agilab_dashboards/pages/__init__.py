"""The site map: every page by the name that its URL has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from panel.viewable import Viewable

from agilab_dashboards.pages import analysis, home, orchestrate, project, settings, workflow
from agilab_dashboards.session import Session

PAGES: Mapping[str, Callable[[Session], Awaitable[Viewable]]] = {
    "home": home.page,
    "project": project.page,
    "orchestrate": orchestrate.page,
    "workflow": workflow.page,
    "analysis": analysis.page,
    "settings": settings.page,
}
TITLES: Mapping[str, str] = {name: name.capitalize() for name in PAGES}
