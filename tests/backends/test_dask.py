"""Backend `dask` keeps the contract on a cluster of its own."""

from __future__ import annotations

from agilab.testing import BackendTests


class TestDask(BackendTests):
    backend = "dask"
