"""`Hosts`: everything the manager does with hosts over SSH, synchronous, also in a notebook; the loop stays inside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agilab.backends.base import Keeper, Remote
from agilab.backends.ssh import collect, preflight, transfer
from agilab.backends.ssh.connection import Connections
from agilab.backends.ssh.deploy import RASTER_ROOTS, Backplane, Deployment, backplane_lock
from agilab.backends.ssh.link import Command, Link, OnLine, Running
from agilab.backends.ssh.loop import LoopThread
from agilab.package import Installed
from agilab.paths import WenvPaths
from agilab.uv import Report

if TYPE_CHECKING:
    from agilab.raster.far import Far

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended.

    Parameters
    ----------
    code
        Its exit code, 128 + n when signal n ended it.
    stdout, stderr
        What it wrote.
    """

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a clean-up of a host did.

    Parameters
    ----------
    wenv
        The folder on the host.
    removed_bytes
        What it freed [bytes].
    results
        Runs whose results lay there.
    kept
        Those of them that lie there still.
    """

    wenv: str
    removed_bytes: int
    results: tuple[str, ...]
    kept: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Process:
    """A command that runs on a host.

    Parameters
    ----------
    host
        Name of the host.
    """

    host: str
    _loop: LoopThread = field(repr=False)
    _running: Running = field(repr=False)

    def wait(self, timeout_s: float | None = None) -> int:
        """Return its exit code, 128 + n when signal n ended it.

        Parameters
        ----------
        timeout_s
            How long to wait [s]; TimeoutError when it still runs then.

        Raises
        ------
        HostError
            The link was lost, at the latest 20 s ago: the attempt has failed, whatever the command did.
        """

        async def ended() -> int:
            async with asyncio.timeout(timeout_s):
                return await self._running.wait()

        return self._loop.run(ended())

    def tell(self, signal: str) -> None:
        """Send a signal, such as ``"SIGINT"``, to its process group."""

        async def told() -> None:
            self._running.tell(signal)

        self._loop.run(told())

    def end(self) -> int:
        """End it and everything it started, politely at first; return its exit code."""
        return self._loop.run(self._running.end())


class Hosts(Keeper):
    """Hosts by their names in ssh_config, one connection for each; a context manager.

    What was started on them ends when it is closed, or when this process ends in whatever way.

    Parameters
    ----------
    wenv
        AGILAB_WENV here.
    report
        Receives progress, line by line, from the thread of the event loop.
    """

    def __init__(self, wenv: WenvPaths, report: Report = lambda line: None) -> None:
        self._wenv, self._report = wenv, report
        self._loop = LoopThread()
        self._connections = Connections()
        self._links: dict[str, Link] = {}
        self._far: dict[str, Far] = {}

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. Idempotent."""
        if not self._loop.closed:
            self._loop.run(self._connections.close())
            self._loop.close()

    def preflight(self, names: Sequence[str]) -> tuple[preflight.HostCheck, ...]:
        """Check hosts, all at once and in ten seconds at most; nothing is raised and nothing written there."""
        return self._loop.run(preflight.check_all([self._link(name) for name in names]))

    def deploy_worker(
        self, names: Sequence[str], installed: Installed, requires_python: str = ""
    ) -> Mapping[str, Installed]:
        """Give hosts what a worker needs, unless they have it, all hosts at the same time.

        Parameters
        ----------
        names
            The hosts.
        installed
            What is installed here.
        requires_python
            Version specifiers of the worker; empty for any.

        Returns
        -------
        mapping
            Host -> the same with the paths of the host.
        """
        return self._on_all(names, lambda host: host.worker(installed, requires_python))

    def deploy_backplane(self, names: Sequence[str]) -> Mapping[str, Backplane]:
        """Give hosts AGILAB and Dask at the versions that run here; return host -> what starts them."""
        lock = backplane_lock(self._wenv, self._report)
        return self._on_all(names, lambda host: host.backplane(lock))

    def start(self, name: str, command: Command, on_line: OnLine) -> Process:
        """Start a command on a host; `on_line` gets its output in the thread of the event loop."""
        return Process(name, self._loop, self._loop.run(self._link(name).start(command, on_line)))

    def run(self, name: str, command: Command, *, timeout_s: float | None = None) -> Finished:
        """Run a command on a host to its end; TimeoutError after `timeout_s` [s], when it has been ended."""
        said: dict[str, list[str]] = {"stdout": [], "stderr": []}
        process = self.start(name, command, lambda stream, line: said[stream].append(line))
        try:
            code = process.wait(timeout_s)
        except TimeoutError:
            process.end()
            raise
        return Finished(code, *("".join(f"{line}\n" for line in lines) for lines in said.values()))

    def put(self, name: str, file: Path, sha256: str) -> tuple[str, bool]:
        """Give a host the bytes of a file, unless it has them; return their path there, and whether they were sent."""
        parcels = [transfer.Parcel(file, sha256)]
        return self._loop.run(transfer.put(self._link(name), parcels, report=self._report))[0]

    def fetch(self, name: str, folder: str, file: str, *, into: Path, sha256: str = "") -> tuple[Path, str]:
        """Copy a file from a host; see `agilab.backends.ssh.transfer.fetch`."""
        return self._loop.run(transfer.fetch(self._link(name), folder, Remote(file, sha256), into=into))

    def bring(self, host: str, folder: str, files: Sequence[Remote], *, into: Path) -> None:
        self._report(f"{host}: fetching {len(files)} files ({sum(file.size_bytes for file in files) / 2**20:.1f}MiB)")
        self._loop.run(collect.bring(self._link(host), folder, files, into=into))

    def far(self, host: str) -> Far:
        if host not in self._far:
            from agilab.backends.ssh.rasterlink import RasterLink  # with NumPy and pyarrow, which a run needs not
            from agilab.raster.far import Far

            self._far[host] = Far(RasterLink(self._link(host), self._loop, lambda: self._deploy_raster(host)))
        return self._far[host]

    async def _deploy_raster(self, host: str) -> Backplane:
        lock = await asyncio.to_thread(backplane_lock, self._wenv, self._report, RASTER_ROOTS)
        return await Deployment(self._link(host), self._wenv, self._report).backplane(lock)

    def clean(self, name: str, *, results: bool = False) -> Cleaned:
        """Remove everything that was deployed to a host.

        Parameters
        ----------
        name
            The host.
        results
            Whether results that nobody has collected go too.
        """
        done = self._loop.run(self._link(name).ask("clean", {"results": results}))
        return Cleaned(done["wenv"], done["removed_bytes"], tuple(done["results"]), tuple(done["kept"]))

    def _on_all(self, names: Sequence[str], step: Callable[[Deployment], Awaitable[T]]) -> dict[str, T]:
        async def each() -> list[T]:
            hosts = [Deployment(self._link(name), self._wenv, self._report) for name in names]
            answers = await asyncio.gather(*map(step, hosts), return_exceptions=True)
            for answer in answers:  # every host was given its time, so that none is left half way
                if isinstance(answer, BaseException):
                    raise answer
            return [answer for answer in answers if not isinstance(answer, BaseException)]

        return dict(zip(names, self._loop.run(each()), strict=True))

    def _link(self, name: str) -> Link:
        return self._links.setdefault(name, Link(name, self._connections))
