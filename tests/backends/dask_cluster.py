"""A Dask cluster that somebody else has started: other packages than ours, no AGILAB, perhaps with certificates."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROGRAM = """
import json, sys
site, security = json.loads(sys.argv[1])
sys.path.append(site)
from distributed import LocalCluster, Security
options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
options |= {"security": Security(**security), "protocol": "tls"} if security else {"protocol": "tcp"}
with LocalCluster(processes=False, **options) as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


def packages(folder: Path, versions: Mapping[str, str] | None = None) -> Path:
    """Make a folder with the packages of this environment but AGILAB, and with other versions on their labels."""
    site = folder / "site"
    site.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "agilab" not in path.name:
            (site / path.name).symlink_to(path)
    for name, version in (versions or {}).items():
        [label] = site.glob(f"{name}-*.dist-info")
        text = (label / "METADATA").read_text()
        label.unlink()
        label.mkdir()
        (label / "METADATA").write_text(text.replace("\nVersion: ", f"\nVersion: {version}\nX-Was: ", 1))
    return site


@contextmanager
def scheduler(site: Path, folder: Path, *, security: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Run two Dask workers of one thread each until the context ends; give the scheduler's address."""
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps([str(site), security])]
    with open(folder / "foreign.log", "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=folder)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().decode().strip()
        assert address, (folder / "foreign.log").read_text()
        yield address
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(20)
        shutil.rmtree(folder / "dask-scratch-space", ignore_errors=True)
