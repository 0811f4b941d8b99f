"""The contract suites, for whoever writes a backend or an app: derive, name yours, run pytest.

::

    from agilab.testing import AppTests, BackendTests

    class TestMyBackend(BackendTests):
        backend = "mine"

    class TestMyApp(AppTests):
        app = "my_app"

They need pytest, which AGILAB itself does not.
"""

from __future__ import annotations

import pytest

# Before the suites are imported: so that a failed assertion shows the values it compared.
pytest.register_assert_rewrite(*(f"agilab.testing.{name}" for name in ("backend", "faults", "resume", "app", "probe")))

from agilab.testing.app import AppTests  # noqa: E402
from agilab.testing.backend import BackendTests  # noqa: E402
from agilab.testing.probe import Bench, Going, do, is_alive, make_probe, processes_marked  # noqa: E402

__all__ = ["AppTests", "BackendTests", "Bench", "Going", "do", "is_alive", "make_probe", "processes_marked"]
