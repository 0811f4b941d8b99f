"""Backend `ssh` keeps the contract of backends, on a host on loopback; minutes, so only when this file is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from agilab.testing import BackendTests

HOST = "contract"


@pytest.mark.usefixtures("run_host")
class TestSsh(BackendTests):
    backend = "ssh"
    cluster: ClassVar[Mapping[str, Any]] = {"workers": {HOST: 2}}
