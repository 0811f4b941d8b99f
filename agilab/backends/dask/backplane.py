"""What a scheduler that we did not start must have: versions compared before the start, the lease runner sent."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.diagnostics.plugin import SchedulerUploadFile, UploadFile

from agilab import __version__
from agilab.backends.dask import lease
from agilab.errors import BackendRefusedError

DISTRIBUTION = "agilab-holoviz"

MUST_AGREE = ("python", "distributed", "dask", "msgpack", "cloudpickle", "tornado")
"""What runs at both ends of a connection; of Python, major and minor version."""

_ROOT = Path(__file__).resolve().parents[3]


async def check(client: Client, folder: Path) -> None:
    """Compare versions with scheduler and workers, and send the lease runner where it is missing.

    Parameters
    ----------
    client
        Connected to them.
    folder
        Where the file that is sent may be written.

    Raises
    ------
    BackendRefusedError
        Versions differ; the message names place, package and both versions.
    """
    found: Any = await client.get_versions(check=False, packages=[DISTRIBUTION])  # type: ignore[misc]
    here = versions(found["client"])
    places = {"the scheduler": versions(found["scheduler"])}
    places |= {f"worker {at}": versions(one) for at, one in found["workers"].items()}
    for place, there in places.items():
        compare(place, there, here)
    if await _is_missing(client):
        await _send(client, folder)
    mine = lease.code()
    for at, theirs in (await client.run(lease.code)).items():
        if theirs != mine:
            raise BackendRefusedError(
                f"worker {at} runs AGILAB of code {theirs[:12]}, this manager of code {mine[:12]}; "
                "restart that worker, or install there what runs here"
            )


def compare(place: str, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Compare the versions of one place with those of the manager; BackendRefusedError names both."""
    for name in MUST_AGREE:
        if there.get(name) != here[name]:
            raise BackendRefusedError(
                f"{place} runs {name} {there.get(name, 'unknown')}, this manager {here[name]}; "
                f"make both the same: {name} {here[name]} there, or {there.get(name, 'another')} here"
            )
    if there.get(DISTRIBUTION) not in (None, __version__):
        raise BackendRefusedError(
            f"{place} has AGILAB {there[DISTRIBUTION]}, this manager {__version__}; install "
            f"{DISTRIBUTION}=={__version__} there, or remove it there: what is needed is sent"
        )


def versions(found: Mapping[str, Any] | None) -> dict[str, str]:
    """Return package -> version of one place in what `Client.get_versions` returned; of Python, major and minor."""
    packages = {name: version for name, version in ((found or {}).get("packages") or {}).items() if version}
    if "python" in packages:
        packages["python"] = ".".join(str(packages["python"]).split(".")[:2])
    return packages


def pack(folder: Path) -> Path:
    """Write the modules of a lease runner as a zip that can be imported, named by its code; return it."""
    path = folder / f"agilab-{lease.code()[:12]}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in lease.MODULES:
            archive.write(_ROOT / name, name)
    return path


async def _is_missing(client: Client) -> bool:
    """Say whether a place has no lease runner, installed or sent there by an earlier run."""
    answers = await client.run(lease.code, on_error="return")
    try:
        await client.run_on_scheduler(lease.code)
    except ModuleNotFoundError:
        return True
    return any(isinstance(answer, ModuleNotFoundError) for answer in answers.values())


async def _send(client: Client, folder: Path) -> None:
    path = str(pack(folder))
    # The scheduler needs it as well: it reads the tasks that it passes on.
    await client.register_plugin(SchedulerUploadFile(path), name=f"{Path(path).name}-scheduler")
    await client.register_plugin(UploadFile(path), name=Path(path).name)
