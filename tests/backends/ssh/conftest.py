"""Hosts for the tests of this folder."""

from __future__ import annotations

import os
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


@pytest.fixture(scope="module")
def run_host(request: pytest.FixtureRequest, shared_folder: Path) -> Iterator[real.SshServer]:
    """Give a module a host on loopback for runs; the backplane is deployed there once for all modules."""
    variables = {
        "AGILAB_WENV": str(shared_folder / "host_wenv"),
        "AGILAB_RESOURCES": "gpu=1",
        "UV_CACHE_DIR": os.environ["UV_CACHE_DIR"],
    }
    with real.loopback_host(request.module.HOST, **variables) as server:
        real.introduce(server)
        with Hosts(WenvPaths(shared_folder / "backplane_wenv")) as found:
            found.deploy_backplane([server.name])
        yield server
