"""The same small jobs for the tools that users would pick instead, each in an environment of its own.

Nothing leaves the machine but package downloads; telemetry is off.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SETTINGS = 100
BLOBS = 10
BLOB_BYTES = 1 << 20

QUIET = {"DO_NOT_TRACK": "1", "KEDRO_DISABLE_TELEMETRY": "1", "METAFLOW_USER": "bench", "USERNAME": "bench"}


@dataclass(frozen=True)
class Peer:
    """A tool, ready to be timed.

    Parameters
    ----------
    name
        What it is called.
    python
        Interpreter of its environment.
    folder
        Where its project lies.
    """

    name: str
    python: Path
    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [str(self.python), *arguments]


def prepare(name: str, root: Path, *, python: str) -> Peer:
    """Make environment and project of a peer under `root`, unless they are there."""
    packages, files = _PEERS[name]
    environment = root / name / "venv"
    if not (environment / "ready").is_file():
        subprocess.run(["uv", "venv", "-q", "--clear", "-p", python, environment], check=True)
        install = ["uv", "pip", "install", "-q", "--compile-bytecode", "-p", environment / "bin" / "python"]
        subprocess.run([*install, *packages], check=True, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"})
        (environment / "ready").touch()
    folder = root / name / "project"
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return Peer(name, environment / "bin" / "python", folder)


_METAFLOW = """
from metaflow import FlowSpec, step

class One(FlowSpec):
    @step
    def start(self):
        self.value = 3 * 3
        self.next(self.end)

    @step
    def end(self):
        assert self.value == 9

if __name__ == "__main__":
    One()
"""

_KEDRO_PROJECT = """
[tool.kedro]
package_name = "bench"
project_name = "bench"
kedro_init_version = "1.0.0"
source_dir = "src"
"""

_KEDRO_REGISTRY = """
from kedro.pipeline import Pipeline, node

def square(value):
    return value * value

def register_pipelines():
    return {"__default__": Pipeline([node(square, "params:value", "squared", name="square")])}
"""

_DASK = """
import json, pathlib, sys, tempfile
from distributed import Client, LocalCluster

def work(i, folder):
    path = pathlib.Path(folder) / str(i)
    path.mkdir()
    (path / "v.json").write_text(json.dumps(i))
    return i

if __name__ == "__main__":
    count = int(sys.argv[1])
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with tempfile.TemporaryDirectory() as folder, cluster, Client(cluster) as client:
        found = client.gather(client.map(work, range(count), folder=folder, pure=False))
        assert sum(found) == count * (count - 1) // 2
"""

_PEERS: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "metaflow": (("metaflow", "setuptools<81"), {"one.py": _METAFLOW}),
    "kedro": (
        ("kedro",),
        {
            "pyproject.toml": _KEDRO_PROJECT,
            "src/bench/__init__.py": "",
            "src/bench/settings.py": "",
            "src/bench/pipeline_registry.py": _KEDRO_REGISTRY,
            "conf/base/parameters.yml": "value: 3\n",
            "conf/base/catalog.yml": "",
            "conf/local/.gitkeep": "",
        },
    ),
    "dask": (("dask", "distributed"), {"many.py": _DASK}),
}
