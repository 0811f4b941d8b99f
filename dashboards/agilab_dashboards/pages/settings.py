"""Page settings."""

from __future__ import annotations

import panel as pn
from panel.viewable import Viewable

from agilab_dashboards.session import Session


async def page(session: Session) -> Viewable:
    """Return the page."""
    return pn.Column("settings")
