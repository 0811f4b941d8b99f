"""Backend `dask` keeps the contract on a cluster of its own for each run; minutes, so only when this file is named."""

from __future__ import annotations

from agilab.testing import BackendTests


class TestDask(BackendTests):
    backend = "dask"
