"""A disk that is really full: a tmpfs of a few MiB in a mount namespace of its own (F14-F16)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, manifest
from agilab.paths import RunPaths
from agilab.testing import make_probe
from tests.checkout import ROOT

SMALL_BYTES = 3 << 20

SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
from agilab import AGI, AgiEnv, Stage, WorkPlan
from agilab.errors import NoSpaceError
from agilab.testing import do

project, home, wenv, outside, size = sys.argv[1:]
env = AgiEnv(project, home=home, wenv=wenv)
env.prepare()
gate = f"{outside}/gate"
then = [["big", "big", int(size)]] if int(size) else [["write", "small", 1]]
parts = [do("first", ["write", "small", 1]), *(do(f"p{number}", ["wait", gate], *then) for number in range(5))]
request = env.request({"plan": WorkPlan([Stage("first", parts)]).to_json()}, cluster={"workers": 1})
answer = {"reserve": os.stat(env.home.reserve).st_blocks}

def hear(event):
    if event["event"] != "committed" or os.path.exists(gate):
        return
    if not int(size):
        with open(f"{home}/ballast", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                answer["full"] = True
    Path(gate).touch()

run = AGI.run(env, request, on_event=hear)
answer |= {"state": run.state, "error": run.error, "committed": len(list(run.records()))}
answer["left"] = [str(path) for path in Path(home).rglob("*.tmp")]
shutil.copytree(run.paths.root, f"{outside}/kept")
Path(f"{home}/ballast").unlink(missing_ok=True)
answer["resumed"] = AGI.resume(env, run.run_id).state
answer["reserve again"] = os.stat(env.home.reserve).st_blocks
print(json.dumps(answer))
"""


@pytest.fixture
def probe(tmp_path: Path) -> AgiEnv:
    """Return an installed probe with a verb that writes many bytes."""
    project = make_probe(tmp_path)
    worker = project / "src" / "probe_worker" / "__init__.py"
    verb = '    def _big(self, part, name, size):\n        part.write(name, "file", b"x" * size)\n\n    def _scatter('
    worker.write_text(worker.read_text().replace("    def _scatter(", verb, 1))
    env = AgiEnv(project, home=tmp_path / "first home", wenv=tmp_path / "wenv")
    AGI.install(env)
    return env


def on_small_disk(probe: AgiEnv, folder: Path, artifact_bytes: int) -> dict[str, object]:
    """Run the script with AGILAB_HOME on a small disk of its own; return its answer."""
    disk, outside = folder / "disk", folder / "outside"
    disk.mkdir()
    outside.mkdir()
    mount = f'mount -t tmpfs -o size={SMALL_BYTES} agilab-test "$1" && shift && exec "$@"'
    python = [sys.executable, "-c", SCRIPT, str(probe.project.root), str(disk / "home"), str(probe.wenv.root)]
    words = [*python, str(outside), str(artifact_bytes)]
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", str(disk), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_run_on_a_disk_that_fills_up_says_so_keeps_what_it_has_and_goes_on(probe: AgiEnv, tmp_path: Path) -> None:
    found = on_small_disk(probe, tmp_path, 0)
    assert found["full"]
    assert found["state"] == "failed", found
    assert "no space on disk while " in str(found["error"])
    assert re.search(r"\d+ bytes free; make room and try again", str(found["error"])), found
    assert found["committed"] == 1
    assert found["left"] == []
    verified = manifest.verify(RunPaths(tmp_path / "outside" / "kept"))
    assert verified.ok, verified.problems
    assert found["resumed"] == "succeeded", found
    assert found["reserve"] == found["reserve again"] != 0


def test_an_artifact_too_large_for_the_disk_fails_its_partition_with_path_and_free_space(
    probe: AgiEnv, tmp_path: Path
) -> None:
    found = on_small_disk(probe, tmp_path, 2 * SMALL_BYTES)
    assert found["state"] == found["resumed"] == "failed", found
    # Either the worker says so first, or the supervisor, whose log has no room any more.
    said = r"no space on disk while writing .*/(big\.bin|events\.jsonl): \d+ bytes free; make room and try again"
    assert re.search(said, str(found["error"])), found
    assert found["committed"] == 1
    assert found["left"] == []
