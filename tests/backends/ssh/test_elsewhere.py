"""Artifacts that stay on hosts with filesystems of their own: read by later stages, fetched, forged, lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, ArtifactRef, Run, Stage, manifest
from agilab.errors import ArtifactNotFoundError, EvidenceError, HostError
from agilab.testing import Bench, do, make_probe
from agilab.testing.probe import events, hashes
from tests.hosts import SshServer, introduce, namespace_hosts


@pytest.fixture(scope="module")
def alpha_and_beta(shared_folder: Path) -> Iterator[list[SshServer]]:
    with namespace_hosts("alpha", "beta") as servers:
        introduce(*servers)
        yield servers
