"""What an app needs before it can run: its data set, worker package and worker environment; each made once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab import data, package, trust
from agilab.data import DataSpec
from agilab.environment import Report
from agilab.errors import DataError, InstallError
from agilab.package import Installed, WorkerSource
from agilab.paths import HomePaths, WenvPaths
from agilab.project import Project, read


@dataclass(frozen=True, slots=True)
class Installation:
    """What `install` made or found.

    Parameters
    ----------
    worker
        Worker package, environment and runtime.
    data_root
        What the app's inputs are relative to.
    data
        The data set as the project names it; None when it names none.
    """

    worker: Installed
    data_root: Path
    data: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        return {**self.worker.to_json(), "data_root": str(self.data_root), "data": self.data and dict(self.data)}


def data_root(project: Project, home: HomePaths) -> Path:
    """Return what an app's inputs are relative to: its data set, else its own folder; it need not be there yet."""
    return home.data / str(project.data["sha256"]) if project.data else project.root


def require_data(project: Project, home: HomePaths) -> Path:
    """Return `data_root` when it is there.

    Raises
    ------
    DataError
        The app's data set has not been fetched yet.
    """
    root = data_root(project, home)
    if not root.is_dir():
        raise DataError(f"the data set of {project.name} is not on this machine yet; run agilab install {project.name}")
    return root


def fetch_data(project: Project, home: HomePaths, report: Report) -> Path:
    """Fetch the app's data set unless it is there; return `data_root`.

    Raises
    ------
    DataError
        It could not be fetched, or is not what it was.
    TrustError
        The app was imported and is not trusted.
    """
    trust.require(project.root, home)
    if project.data:
        return data.fetch(DataSpec.from_json(project.data), home=home, report=report)
    return data_root(project, home)


def code_digest(project: Project) -> str:
    """Return the sha256 over manager package and worker package as they are now."""
    from agilab.request import code_digest as over

    return over(project.manager_digest(), package.code_digest(_source(project)))


def code_digest_at(root: Path) -> str:
    """Return `code_digest` of the project in a folder; empty when there is none that can be run."""
    found = read(root)
    with suppress(InstallError, OSError):
        return "" if found.breaches else code_digest(found)
    return ""


def has_worker(project: Project, wenv: WenvPaths) -> bool:
    """Say whether worker package and environment are there already, as they must be."""
    return package.find(_source(project), wenv=wenv) is not None


def found(project: Project, *, home: HomePaths, wenv: WenvPaths) -> Installation | None:
    """Return what `install` made, if nothing of the worker has to be made anew; its data set is there."""
    worker = package.find(_source(project), wenv=wenv)
    return None if worker is None else Installation(worker, data_root(project, home), project.data)


def worker_environment(project: Project, wenv: WenvPaths) -> Path | None:
    """Return the app's worker environment, if it is there and is what its dependencies ask for now."""
    return package.find_environment(_source(project), wenv=wenv)


def install(project: Project, *, home: HomePaths, wenv: WenvPaths, report: Report) -> Installation:
    """Make what is missing; when nothing has changed this costs milliseconds.

    Raises
    ------
    InstallError
        Lock, environment or package could not be made.
    DataError
        The data set could not be fetched, or is not what it was.
    TrustError
        The app was imported and is not trusted: a build may run anything.
    """
    trust.require(project.root, home)
    worker = package.install(_source(project), wenv=wenv, report=report)
    return Installation(worker, fetch_data(project, home, report), project.data)


def _source(project: Project) -> WorkerSource:
    return WorkerSource(app=project.name, folder=project.worker, writable=project.writable)
