"""Backend `inline` keeps the contract where it promises it, and refuses the rest in one line."""

from __future__ import annotations

from agilab.testing import BackendTests


class TestInline(BackendTests):
    backend = "inline"
