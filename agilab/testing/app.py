"""`AppTests`: what every app project must do; it knows none by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agilab import AGI, AgiEnv, Run, contract, manifest
from agilab.backends.base import backend as find_backend
from agilab.installation import data_root
from agilab.planner import Planner
from agilab.testing.probe import hashes


class AppTests:
    """The contract of an app project.

    Attributes
    ----------
    app
        Its name, or the path of its folder.
    settings
        What makes a run of it take a second or two.
    """

    app: ClassVar[str | Path]
    settings: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def env(cls, tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
        """Return an environment with the installed app, its folders made for the class."""
        folder = tmp_path_factory.mktemp("app")
        env = AgiEnv(cls.app, home=folder / "home", wenv=folder / "wenv")
        AGI.install(env)
        return env

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, env: AgiEnv) -> dict[str, Run]:
        """Return one run on every backend of this machine, by its name."""
        return {
            name: AGI.run(env, env.request(cls.settings, cluster={"backend": name})) for name in ("local", "inline")
        }

    def test_it_keeps_the_contract(self, env: AgiEnv) -> None:
        plan = AGI.get_distrib(env, env.request(self.settings)).plan
        breaches = contract.check(env.project, fields=env.fields(), stages=[stage.name for stage in plan.stages])
        assert breaches == ()

    def test_every_setting_survives_the_ways_it_is_written(self, env: AgiEnv) -> None:
        request = env.request(self.settings)
        assert env.request(request.settings).digest == request.digest
        env.save_settings(request.settings)
        try:
            assert env.request().digest == request.digest
        finally:
            env.home.app_settings(env.project.name).unlink()

    def test_the_plan_is_the_same_in_every_process(self, env: AgiEnv) -> None:
        request = env.request(self.settings)
        root = data_root(env.project, env.home)
        here = Planner(env.project, env.home, root).plan(request.settings)
        there = Planner(env.project, env.home, root, in_process=False).plan(request.settings)
        assert here == there

    def test_it_runs_and_its_record_verifies(self, runs: dict[str, Run]) -> None:
        run = runs["local"].check()
        verified = manifest.verify(run.paths)
        assert verified.ok, verified.problems
        assert run.manifest["partitions"]["committed"] == run.manifest["partitions"]["count"] > 0

    def test_it_leaves_equal_hashes_on_every_backend(self, runs: dict[str, Run]) -> None:
        run = runs["inline"]
        assert not find_backend("inline").capabilities.isolated
        if "which lacks what the worker needs" in str(run.error):  # the run says what is missing; nothing to compare
            return
        differences = run.check().manifest["environment"]["differences"]
        assert differences or hashes(run) == hashes(runs["local"])
