"""A shipped app in the environments that a test run builds once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from agilab import AGI, AgiEnv


class InSharedEnvironment:
    """Comes before `AppTests` among the bases of a class of tests; apps whose worker locks are equal share one."""

    app: ClassVar[Path]

    @pytest.fixture(scope="class")
    @classmethod
    def env(cls, shared_wenv: Path, shared_folder: Path) -> AgiEnv:
        """Return the app, installed."""
        env = AgiEnv(cls.app, home=shared_folder / "shared_home", wenv=shared_wenv)
        AGI.install(env)
        return env
