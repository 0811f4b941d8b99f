"""Hosts for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agilab.backends.ssh.hosts import Hosts
from agilab.paths import WenvPaths
from tests import hosts as real

loop_host = real.loop_host

NEED_NAMESPACES = ["test_elsewhere.py", "test_links.py"]
collect_ignore = NEED_NAMESPACES if real.why_no_namespaces() else []


@pytest.fixture
def told() -> list[str]:
    """Return the progress that was reported."""
    return []


@pytest.fixture
def hosts(home: Path, told: list[str]) -> Iterator[Hosts]:
    """Return the manager's side, closed in the end."""
    with Hosts(WenvPaths(home.parent / "wenv"), told.append) as found:
        yield found
