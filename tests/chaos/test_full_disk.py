"""A disk that is really full: a tmpfs of a few MiB in a mount namespace of its own (F14-F16)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, manifest
from agilab.testing import make_probe
from tests.checkout import ROOT

SMALL_BYTES = 3 << 20

SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
from agilab import AGI, AgiEnv, Stage, WorkPlan
from agilab.errors import AgilabError
from agilab.testing import do

project, home, wenv, kept, fill, size = sys.argv[1:]
env = AgiEnv(project, home=home, wenv=wenv)
env.prepare()
steps = [["write", "small", 1], *([["allocate", int(size)], ["big", "big", int(size)]] if int(size) else [])]
parts = [do(f"p{number}", *steps) for number in range(6)]
request = env.request({"plan": WorkPlan([Stage("first", parts)]).to_json()}, cluster={"workers": 1})
reserve = os.stat(f"{home}/reserve").st_blocks

def hear(event):
    if event["event"] == "committed" and not os.path.exists(f"{home}/ballast") and fill == "yes":
        with open(f"{home}/ballast", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

answer = {"reserve": reserve}
try:
    run = AGI.run(env, request, on_event=hear)
    answer |= {"state": run.state, "error": run.error, "folder": str(run.paths.root)}
    answer["committed"] = len(list(run.records()))
    answer["left"] = [str(path) for path in Path(home).rglob("*.tmp")]
    answer["reserve after"] = os.path.exists(f"{home}/reserve")
    shutil.copytree(run.paths.root, kept)
    os.unlink(f"{home}/ballast")
    if fill == "yes":
        answer["resumed"] = AGI.resume(env, run.run_id, on_event=None).state
except AgilabError as err:
    answer |= {"refused": str(err), "exit_code": err.exit_code}
except OSError as err:
    answer |= {"broken": str(err)}
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


def on_small_disk(probe: AgiEnv, folder: Path, *words: str) -> dict[str, object]:
    """Run the script with AGILAB_HOME on a small disk of its own; return its answer."""
    disk = folder / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={SMALL_BYTES} agilab-test "$1" && shift && exec "$@"'
    python = [sys.executable, "-c", SCRIPT, str(probe.project.root), str(disk / "home"), str(probe.wenv.root)]
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", str(disk), *python, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_run_on_a_disk_that_fills_up_says_so_keeps_what_it_has_and_goes_on(probe: AgiEnv, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    found = on_small_disk(probe, tmp_path, str(kept), "yes", "0")
    assert found["reserve"] != 0
    assert found["state"] == "failed", found
    assert "no space on disk while " in str(found["error"])
    assert "bytes free" in str(found["error"])
    assert found["committed"] != 0
    assert found["left"] == []
    assert found["reserve after"] is False
    assert found["resumed"] == "succeeded", found
    from agilab.paths import RunPaths

    verified = manifest.verify(RunPaths(kept))
    assert verified.ok, verified.problems


def test_an_artifact_too_large_for_the_disk_fails_its_partition_with_path_and_free_space(
    probe: AgiEnv, tmp_path: Path
) -> None:
    found = on_small_disk(probe, tmp_path, str(tmp_path / "kept"), "no", str(1 << 20))
    assert found["state"] == "failed", found
    assert "NoSpaceError: no space on disk while writing " in str(found["error"])
    assert "/big.bin" in str(found["error"])
    assert "bytes free" in str(found["error"])
    assert found["committed"] != 0
    assert found["left"] == []
