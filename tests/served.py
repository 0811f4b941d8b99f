"""A probe app whose service runs, for tests of services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab import AGI, AgiEnv, Run, Stage
from agilab.errors import ServiceError
from agilab.service import Status
from agilab.testing.probe import Bench, make_probe


@dataclass(frozen=True)
class Served:
    """A bench whose app has a service."""

    bench: Bench

    @property
    def env(self) -> AgiEnv:
        return self.bench.env

    @property
    def status(self) -> Status:
        return AGI.service(self.env, "status")

    def pids(self) -> list[int]:
        return [one["pid"] for one in self.status.workers]

    def submit(self, *stages: Stage, **settings: Any) -> Run:
        return AGI.service(self.env, "submit", self.bench.request(*stages, settings=settings))

    def run(self, *stages: Stage, **settings: Any) -> Run:
        return self.submit(*stages, **settings).wait(30)


@contextmanager
def serving_probe(
    folder: Path, wenv: Path, backend: str = "local", workers: int | Mapping[str, int] = 2
) -> Iterator[Served]:
    """Start the service of a probe of its own, in a home of its own; end it whatever happens."""
    env = AgiEnv(make_probe(folder), home=folder / "home", wenv=wenv)
    served = Served(Bench(env, backend, folder, {"workers": workers}))
    try:
        assert AGI.service(env, "start", cluster={"backend": backend, "workers": workers}).state == "running"
        yield served
    finally:
        with suppress(ServiceError):
            AGI.service(env, "stop")
