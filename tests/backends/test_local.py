"""Backend `local` keeps the contract."""

from __future__ import annotations

from agilab.testing import BackendTests


class TestLocal(BackendTests):
    backend = "local"
