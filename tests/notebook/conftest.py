"""Where exported notebooks are run: an environment with what they say they need, and nothing of AGILAB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uv

from agilab.notebook.document import Cell

Ran = subprocess.CompletedProcess[str]

OFFLINE = """
import runpy, socket, sys

class Offline(socket.socket):
    def connect(self, *place):
        raise OSError(f"the network is off: {place}")

socket.socket = Offline
try:
    import agilab
except ImportError:
    runpy.run_path(sys.argv[1], run_name="__main__")
else:
    sys.exit("agilab is installed here")
"""


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory, environment: None) -> Callable[[tuple[str, ...]], Path]:
    """Return ``bare_python(requirements)``: the interpreter of a new environment with these alone."""
    made: dict[tuple[str, ...], Path] = {}

    def make(requirements: tuple[str, ...]) -> Path:
        if requirements not in made:
            folder = tmp_path_factory.mktemp("bare")
            command = [uv.find_uv_bin(), "venv", "--quiet", "--clear", "--python", sys.executable, folder]
            subprocess.run(command, check=True)
            if requirements:
                command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", folder, *requirements]
                subprocess.run(command, check=True)
            made[requirements] = folder / "bin" / "python"
        return made[requirements]

    return make


def run_script(python: Path, script: Path) -> Ran:
    """Run a script in its folder, with the network off, where ``import agilab`` fails."""
    command = [python, "-I", "-c", OFFLINE, script]
    return subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=100)


def run_notebook(python: Path, notebook: Path, **variables: str) -> list[dict[str, Any]]:
    """Run a notebook with nbclient and a kernel of that Python; return its cells, with their outputs."""
    kernels = notebook.parent / "jupyter"
    spec = kernels / "kernels" / "bare" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "bare", "language": "python"}))
    executed = notebook.with_name("executed.ipynb")
    command = [Path(sys.executable).with_name("jupyter-execute"), "--kernel_name", "bare"]
    done = subprocess.run(
        [*command, "--output", executed, notebook],
        cwd=notebook.parent,
        env={**os.environ, "JUPYTER_PATH": str(kernels), **variables},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(executed.read_text())["cells"]
    return found


def printed(cells: list[dict[str, Any]]) -> str:
    """Return all that the cells of an executed notebook have printed."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join("".join(output.get("text", "")) for output in outputs)


def our_lines(cells: list[Cell], worker: Path) -> list[str]:
    """Return the lines of code that are not the worker's own: no blank lines, no comments."""
    own = {line.strip() for path in worker.rglob("*.py") for line in path.read_text().splitlines()}
    lines = [line for cell in cells if cell.kind == "code" for line in cell.source.splitlines()]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#") and line.strip() not in own]
