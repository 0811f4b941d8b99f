"""Every path on disk as a property, and how a file is written so that no reader sees half of it.

It creates nothing until asked: paths are computed, `write_file` and
`make_folder` touch the disk.
"""

from __future__ import annotations

import json
import os
import re
from _thread import get_native_id
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab.errors import AgilabError, NoSpaceError

NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""What stages, partitions, workers and artifacts may be called: one path segment, no tricks."""


@dataclass(frozen=True, slots=True)
class HomePaths:
    """The folders of AGILAB_HOME: the user's workspace and every run."""

    root: Path

    @classmethod
    def chosen(cls, given: str | Path | None = None) -> HomePaths:
        """Return the folders of a given AGILAB_HOME, else of the environment's, else of ``~/.agilab``."""
        return cls(_chosen(given, "AGILAB_HOME", ".agilab"))

    @property
    def apps(self) -> Path:
        return self.root / "apps"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def shelf(self) -> Path:
        """Pyramids and indexes of tables, made later; rebuildable."""
        return self.cache / "shelf"

    @property
    def slots(self) -> Path:
        return self.root / "slots"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def tls(self) -> Path:
        """One folder per run that is going on: the keys of its cluster."""
        return self.root / "tls"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def index(self) -> Path:
        """A cache over the run folders, which may be deleted at any time."""
        return self.root / "index.sqlite"

    @property
    def server(self) -> Path:
        """What the Panel server keeps: the secret of its cookies and its log."""
        return self.root / "server"

    @property
    def services(self) -> Path:
        """What kept-alive services of apps have: a folder each."""
        return self.root / "services"

    def service(self, app: str) -> ServicePaths:
        return ServicePaths(self.services / app)

    @property
    def marker(self) -> Path:
        """The file that says whose folder this is (schema ``agilab.home/1``)."""
        return self.root / "home.json"

    @property
    def reserve(self) -> Path:
        """Space kept so that a run can be sealed when the disk is full."""
        return self.root / "reserve"

    @property
    def trust(self) -> Path:
        """What was imported, and whether it may run (schema ``agilab.trust/1``)."""
        return self.root / "trust.json"

    def app_settings(self, app: str) -> Path:
        """The user's workspace copy of an app's settings."""
        return self.apps / app / "app_settings.toml"

    def run(self, app: str, run_id: str) -> RunPaths:
        return RunPaths(self.runs / app / run_id)


@dataclass(frozen=True, slots=True)
class WenvPaths:
    """The folders of AGILAB_WENV: worker packages, environments, runtime and input cache."""

    root: Path

    @classmethod
    def chosen(cls, given: str | Path | None = None) -> WenvPaths:
        """Return the folders of a given AGILAB_WENV, else of the environment's, else of ``~/wenv``."""
        return cls(_chosen(given, "AGILAB_WENV", "wenv"))

    @property
    def marker(self) -> Path:
        """The file that says whose folder this is (schema ``agilab.home/1``)."""
        return self.root / "wenv.json"

    def package(self, app: str) -> Path:
        """``<app>_worker/``: one folder per code digest, ``current`` and ``worker_manifest.json``."""
        return self.root / f"{app}_worker"

    def code(self, app: str, digest: str) -> Path:
        return self.package(app) / digest

    @property
    def environments(self) -> Path:
        return self.root / ".env"

    @property
    def locks(self) -> Path:
        """Lock texts of worker projects that cannot hold their own (read-only ones)."""
        return self.root / ".locks"

    @property
    def runtimes(self) -> Path:
        return self.root / ".runtime"

    @property
    def data(self) -> Path:
        """Files by sha256 that were sent to this host."""
        return self.root / ".data"

    @property
    def tools(self) -> Path:
        """Programs that were sent to this host, by sha256."""
        return self.root / ".tools"

    @property
    def backplanes(self) -> Path:
        """AGILAB itself, as sent to this host, by digest."""
        return self.root / ".agilab"

    @property
    def shelf(self) -> Path:
        """Pyramids and indexes of tables that lie here, made later; rebuildable."""
        return self.root / ".shelf"

    @property
    def results(self) -> Path:
        """Results of runs that lie on this host until they are collected."""
        return self.root / ".runs"

    @property
    def tmp(self) -> Path:
        return self.root / ".tmp"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run folder."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def app(self) -> str:
        return self.root.parent.name

    @property
    def request(self) -> Path:
        return self.root / "request.json"

    @property
    def prepared(self) -> Path:
        """What the run is about to run; there once something may have been dispatched."""
        return self.root / "prepared.json"

    def plan(self, stage: str) -> Path:
        return self.root / "plan" / f"{stage}.json"

    @property
    def plans(self) -> Path:
        return self.root / "plan"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def partitions(self) -> Path:
        return self.root / "partitions"

    def records(self, worker: str) -> Path:
        return self.partitions / f"{worker}.jsonl"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def partition(self, stage: str, partition: str) -> Path:
        """The folder of one committed partition."""
        return self.artifacts / stage / partition

    @property
    def manifest(self) -> Path:
        return self.root / "run_manifest.json"

    @property
    def sums(self) -> Path:
        """``manifest-sha256.txt``: the seal; ``sha256sum -c`` reads it."""
        return self.root / "manifest-sha256.txt"

    @property
    def seals(self) -> Path:
        return self.root / "seals"

    @property
    def owner(self) -> Path:
        return self.root / ".owner"

    @property
    def staging(self) -> Path:
        return self.root / ".staging"

    @property
    def superseded(self) -> Path:
        """A seal on its way into `seals`."""
        return self.staging / "seal"

    @property
    def fetched(self) -> Path:
        """Artifacts on their way here from hosts, laid out as in the run folder."""
        return self.staging / "fetched"

    @property
    def fetch_journal(self) -> Path:
        """Exists when artifacts have arrived in `fetched` and the record has to say so."""
        return self.staging / "fetch.json"

    def attempt(self, partition: str, attempt: int) -> Path:
        """Where one attempt at a partition may write, and nowhere else."""
        return self.staging / f"{partition}.{attempt}"

    @property
    def cancel_request(self) -> Path:
        """Exists when somebody asked the run's owner to cancel it."""
        return self.staging / "cancel.json"

    @property
    def sidecar(self) -> Path:
        """What is added to a run, outside of its seal."""
        return self.root / "sidecar"

    @property
    def tags(self) -> Path:
        """The run's tags and note (schema ``agilab.tags/1``)."""
        return self.sidecar / "tags.json"

    @property
    def tracking(self) -> Path:
        """Where the run is tracked, and under which ids (schema ``agilab.tracking/1``)."""
        return self.sidecar / "tracking.json"


class ServicePaths(RunPaths):
    """The files of a kept-alive service; its owner's lock and its workers' logs lie as those of a run do."""

    __slots__ = ()

    @property
    def socket(self) -> Path:
        return self.root / "socket"

    @property
    def request(self) -> Path:
        """What it was started with, and how it was."""
        return self.root / "service.json"

    @property
    def log(self) -> Path:
        return self.root / "service.log"


def _chosen(given: str | Path | None, variable: str, default: str) -> Path:
    text = given if given is not None else os.environ.get(variable) or Path.home() / default
    return Path(os.path.abspath(os.path.expanduser(text)))


@contextmanager
def disk_errors(path: Path, doing: str, size_bytes: int = 0) -> Iterator[None]:
    """Turn a full disk into one sentence with the path, the free space, and what was to be written [bytes] if known."""
    import errno

    try:
        yield
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT) or isinstance(err, AgilabError):
            raise
        free = "unknown"
        with suppress(OSError):
            stat = os.statvfs(path if path.is_dir() else path.parent)
            free = f"{stat.f_bavail * stat.f_frsize} bytes"
        need = f"{size_bytes} bytes to write, " if size_bytes else ""
        raise NoSpaceError(
            f"no space on disk while {doing} {path}: {need}{free} free; make room and try again"
        ) from err


def make_folder(path: Path) -> Path:
    """Create a folder that only its owner may enter, and so with the parents that are missing; return it."""
    with disk_errors(path, "creating"):
        missing = [path]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
    return path


RESERVE_BYTES = 4 << 20
"""How much space is kept for the last words of a run [bytes]; on a small disk a 32nd of it."""


def keep_reserve(home: HomePaths) -> None:
    """Set the reserve aside unless it is there; a disk without room for it is left as it is."""
    if home.reserve.exists():
        return
    with suppress(OSError):
        disk = os.statvfs(home.root)
        fd = os.open(home.reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 32))
        except OSError:
            home.reserve.unlink(missing_ok=True)
        finally:
            os.close(fd)


def free_reserve(home: HomePaths) -> None:
    """Give the reserve up; the next request sets it aside again."""
    with suppress(OSError):
        home.reserve.unlink(missing_ok=True)


def sync_folder(path: Path | str) -> None:
    """Make renames inside a folder durable."""
    with disk_errors(Path(path), "syncing"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file aside and rename it into place, so that readers see all of it or nothing.

    Parameters
    ----------
    path
        The file; its folder must exist.
    data
        Its whole content.
    durable
        Whether file and folder survive a power cut once this returns.

    Raises
    ------
    NoSpaceError
        The disk is full; the partial file has been removed.
    """
    aside = path.with_name(f".{path.name}.{get_native_id()}.tmp")
    with disk_errors(path, "writing", len(data)):
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                write_all(fd, data)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> bytes:
    """Write a JSON value for people and programs: sorted keys, two spaces; return its bytes."""
    data = (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    write_file(path, data, durable=durable)
    return data


def read_json(path: Path, schema: str) -> dict[str, Any]:
    """Read a JSON record that must carry a given ``schema``.

    Raises
    ------
    AgilabError
        The file is not JSON, or its ``schema`` is another one; the message names both.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as err:
        raise AgilabError(f"{path} is not readable JSON ({err}); it should hold {schema!r}") from err
    found = value.get("schema") if isinstance(value, dict) else None
    if found != schema:
        raise AgilabError(f"{path} holds schema {found!r}; this version of AGILAB reads {schema!r}")
    return dict(value)
