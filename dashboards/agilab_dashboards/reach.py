"""The hosts that this process asks for pictures of what lies there, and what they have last said of getting ready."""

from __future__ import annotations

from collections import deque
from functools import cache

from agilab.paths import WenvPaths
from agilab.reach import Reach


@cache
def reach() -> Reach:
    """Return the hosts, for all who look."""
    return Reach(WenvPaths.chosen(), _lines().append)


def last_word() -> str:
    """Return the last line about a host that is being made ready; empty when there was none."""
    return _lines()[-1] if _lines() else ""


@cache
def _lines() -> deque[str]:
    return deque(maxlen=1)
