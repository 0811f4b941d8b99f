"""The hosts that this process asks for pictures of what lies there, and what they have last said of getting ready."""

from __future__ import annotations

import logging
from functools import cache

from agilab.paths import WenvPaths
from agilab.reach import Reach

_log = logging.getLogger(__name__)


@cache
def reach() -> Reach:
    """Return the hosts, for all who look."""
    return Reach(WenvPaths.chosen(), _log.info)
