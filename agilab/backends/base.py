"""What every backend promises, and how one is found by its name; it runs nothing.

A backend opens a `Pool` of workers for one run. The supervisor pulls: it
hands a worker a task only when the pool reported `Wanted` for it, so that
balancing, retries and order stay in `agilab.state`, the same everywhere.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from agilab.errors import BackendRefusedError
from agilab.paths import HomePaths, RunPaths, WenvPaths
from agilab.plan import Partition, WorkPlan

if TYPE_CHECKING:
    from agilab.package import Installed  # a lease runner, which imports this too, has no use for either
    from agilab.raster.far import Far

BACKENDS: Mapping[str, str] = {
    "dask": "agilab.backends.dask.backend:DaskBackend",
    "inline": "agilab.backends.inline:InlineBackend",
    "local": "agilab.backends.local:LocalBackend",
    "ssh": "agilab.backends.ssh.backend:SshBackend",
}
"""Name -> where its class lives; imported only when it is chosen."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can promise; a request that needs more is refused before it starts.

    Parameters
    ----------
    isolated
        Worker code runs in its own environment and cannot see the manager's.
    timeouts
        A partition that takes too long is ended.
    survives_worker_death
        A worker that dies costs an attempt, not the run.
    parallel
        More than one partition runs at a time.
    needs_hosts
        It runs on other machines, which have to be named.
    """

    isolated: bool = True
    timeouts: bool = True
    survives_worker_death: bool = True
    parallel: bool = True
    needs_hosts: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What a backend needs to know of a run.

    Parameters
    ----------
    paths
        The run folder.
    installed
        Worker package and environment.
    init
        The ``init`` message of `agilab.entry`, secrets included; never written to disk.
    slots
        How many slots of the machine the run holds; workers share its cores evenly.
    environment
        Variables that worker processes get, beyond the allowed ones of the manager.
    cluster
        The request's cluster options.
    home, wenv
        The user's folders, for what does not lie in the run folder; None where a backend has no need of them.
    idle_logs
        Where workers that are kept log between runs; None for workers of this run alone.
    """

    paths: RunPaths
    installed: Installed
    init: Mapping[str, Any]
    slots: int
    environment: Mapping[str, str] = field(default_factory=dict)
    cluster: Mapping[str, Any] = field(default_factory=dict)
    home: HomePaths | None = None
    wenv: WenvPaths | None = None
    idle_logs: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A process that may outlive us has begun: process group and start time [clock ticks since boot]."""

    worker: str
    pgid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A worker can take `count` more partitions."""

    worker: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """A ``progress``, ``metric`` or ``log`` message of a partition."""

    worker: str
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """A partition's method has returned; what it wrote lies in its attempt folder."""

    worker: str
    partition: str
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Committed:
    """A partition's record is durable already: its worker has committed it (`Pool.commits`).

    Parameters
    ----------
    record
        Its record.
    hashes
        Path relative to the run folder -> sha256, of every file that the seal need not read again.
    """

    worker: str
    partition: str
    record: Mapping[str, Any]
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt came to nothing."""

    worker: str
    partition: str
    reason: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """A partition that was sent ahead and never begun."""

    worker: str
    partition: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker takes nothing for now: it has ended, or is held up; when it can again, it reports `Wanted`."""

    worker: str
    message: str


CANNOT_START = "the worker cannot start"
"""What is broken when that is the app's: its code, or what its worker environment lacks."""


@dataclass(frozen=True, slots=True)
class Broken:
    """No worker can be had: the run cannot go on."""

    message: str
    traceback: str = ""
    what: str = CANNOT_START


@dataclass(frozen=True, slots=True)
class Told:
    """Something about the pool itself that belongs in the event log."""

    event: str
    fields: Mapping[str, Any]


Event = Started | Wanted | Report | Done | Committed | Failed | Returned | Gone | Broken | Told


class Pool(ABC):
    """The workers of one run, from `Backend.open` until `close`.

    Attributes
    ----------
    commits
        Its workers commit partitions themselves and report `Committed` instead of `Done`; a task then carries what
        the record needs: ``read``, and ``files`` to look at before the commit.
    """

    commits: ClassVar[bool] = False

    @property
    @abstractmethod
    def workers(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def most(self) -> int:
        """How many workers it could have, where the slots of this machine do not decide that."""
        return 1

    def prepare(self) -> Iterator[str | None]:
        """Wait until `most` is known; yield what there is to tell meanwhile, and None now and then, to stop there."""
        return iter(())

    @property
    def hosts(self) -> Mapping[str, int] | None:
        """Host -> how many workers it could have there; None where hosts do not have names of ours."""
        return None

    @property
    def devices(self) -> Mapping[str, Mapping[str, Sequence[int]]] | None:
        """Host -> its countable resources, such as ``{"gpu": (0, 1)}``; None where workers use this machine's."""
        return None

    @abstractmethod
    def add(self, workers: Sequence[str]) -> None:
        """Start more workers, of these names."""

    @abstractmethod
    def submit(self, worker: str, task: Mapping[str, Any], *, timeout_s: float | None) -> None:
        """Hand a ``run`` task of `agilab.entry` to a worker that wanted one.

        Artifacts that have stayed on hosts have no file under their path in ``inputs``; ``away`` says where they are:
        name -> host, path there, and size [bytes].
        """

    @abstractmethod
    def wait(self, timeout_s: float) -> Sequence[Event]:
        """Return what has happened, waiting at most `timeout_s` [s] for the first event."""

    @abstractmethod
    def kill(self) -> None:
        """End every worker by force, now; also from a signal handler while `close` waits."""

    @abstractmethod
    def close(self, *, grace_s: float) -> None:
        """End every worker: politely first, by force after `grace_s` [s]. Idempotent."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on a host.

    Parameters
    ----------
    path
        Where it is, in a folder of that host.
    sha256
        What it must be; empty for anything.
    size_bytes
        How long it may be [bytes]; -1 for any size.
    """

    path: str
    sha256: str = ""
    size_bytes: int = -1


class Keeper(ABC):
    """Reaches what runs have left on hosts."""

    @abstractmethod
    def bring(self, host: str, folder: str, files: Sequence[Remote], *, into: Path) -> None:
        """Copy files from a host.

        Parameters
        ----------
        host
            Name of the host.
        folder
            Of the run there.
        files
            Which.
        into
            Folder here that gets them under the same paths, whole or not at all.

        Raises
        ------
        HostError
            It cannot be reached.
        ArtifactNotFoundError
            It does not have one of them.
        EvidenceError
            What it sent is something else.
        """

    @abstractmethod
    def far(self, host: str) -> Far:
        """Return what answers for tables that lie on a host; nothing is asked of it yet.

        Needs what pictures need here, NumPy and pyarrow.
        """


WORKER_STATES = ("starting", "idle", "busy", "broken")
"""How a worker of a kept pool can be."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """How a worker of a kept pool is between two runs, or during one.

    Parameters
    ----------
    worker
        Its name.
    pid
        Of its entry process, on the host where that is; 0 while it has none.
    state
        One of `WORKER_STATES`.
    problem
        Why it is broken; empty otherwise.
    """

    worker: str
    pid: int
    state: str
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"worker": self.worker, "pid": self.pid, "state": self.state, "problem": self.problem}


class KeptPool(Pool):
    """A pool that serves one run after the other: `begin` gives its workers to a run, `close` takes them back.

    Attributes
    ----------
    restarts
        Monotonic times at which a worker that had died was started again [s].
    """

    restarts: list[float]

    @property
    def lost(self) -> bool:
        """Whether it can serve no run any more."""
        return False

    def reload(self, job: Job) -> bool:
        """Let workers load other code, from the next run on; False where that takes another pool."""
        return False

    @abstractmethod
    def begin(self, job: Job) -> None:
        """Give the first worker to a run; what the pool was opened with must suit it."""

    @abstractmethod
    def look(self) -> Sequence[Event]:
        """Between runs: take in what has happened, and start again what has died. Waits for nothing."""

    @abstractmethod
    def states(self) -> Sequence[WorkerState]:
        """Say how each worker is; also from another thread."""

    @abstractmethod
    def end(self) -> None:
        """End every worker for good."""


class Backend(ABC):
    """Opens pools of workers."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @abstractmethod
    def open(self, job: Job) -> Pool:
        """Start the first worker of a run."""

    def keep(self, job: Job, report: Callable[[str], None]) -> KeptPool:
        """Start workers that are kept from run to run: as many as its slots.

        Parameters
        ----------
        job
            What they are to load; its ``init`` needs ``worker`` and ``code``, its folder is for what they say between
            runs.
        report
            Told what happens until there are workers, a line at a time.

        Raises
        ------
        BackendRefusedError
            This backend keeps none.
        """
        raise BackendRefusedError(
            f"backend {self.name!r} keeps no workers from run to run; choose 'local', 'dask' or 'ssh'"
        )

    def takes_slots(self, cluster: Mapping[str, Any]) -> bool:
        """Say whether a run with these cluster options uses the slots of this machine."""
        return self.capabilities.parallel

    def worker_names(
        self, count: int, plan: WorkPlan | None = None, *, hosts: Mapping[str, int] | None = None
    ) -> tuple[str, ...]:
        """Name the workers of a run.

        Parameters
        ----------
        count
            The most there can be.
        plan
            There are no more than its widest stage can use, and one without a plan.
        hosts
            Host -> how many can be there; few workers are spread over all hosts.
        """
        if plan is None:
            return (f"{self.name}-0",)
        width = max(len(stage.partitions) if stage.partitions is not None else count for stage in plan.stages)
        most = max(1, min(count if self.capabilities.parallel else 1, width))
        if hosts is not None:
            return tuple(on_hosts(hosts))[:most]
        return tuple(f"{self.name}-{number}" for number in range(most))

    def admit(self, cluster: Mapping[str, Any]) -> None:
        """Refuse cluster options that do not fit together here, before anything starts.

        Raises
        ------
        BackendRefusedError
            Names them, and what would do.
        """
        if self.capabilities.needs_hosts:
            return
        if isinstance(cluster["workers"], Mapping):
            raise BackendRefusedError(
                f"workers names hosts, and backend {self.name!r} does not go to any; choose backend 'ssh', or give "
                "workers as a number"
            )
        for name, without in (("collect", "all"), ("share", None), ("allow_partial_hosts", False)):
            if cluster.get(name, without) != without:
                raise BackendRefusedError(
                    f"{name} is {cluster[name]!r}, and backend {self.name!r} does not go to any hosts; choose backend "
                    f"'ssh', or leave {name} out"
                )

    def host_of(self, worker: str, cluster: Mapping[str, Any]) -> str:
        """Name the host of a worker: that in its own name, ``<host>-<n>``, where hosts are named, else this machine.

        Parameters
        ----------
        worker
            Its name.
        cluster
            The cluster options of its run.

        Returns
        -------
        str
            Empty where it cannot be known before the run.
        """
        if not self.capabilities.needs_hosts:
            return os.uname().nodename
        asked = cluster["workers"]
        named = on_hosts(asked) if isinstance(asked, Mapping) else {}
        return named.get(worker) or worker.rpartition("-")[0]  # a worker of an earlier run, which had other hosts

    def hosts(self, workers: Sequence[str], cluster: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Return host -> its slots: the workers on it, in their order."""
        found: dict[str, tuple[str, ...]] = {}
        for worker in workers:
            host = self.host_of(worker, cluster)
            found[host] = (*found.get(host, ()), worker)
        return found

    def keeper(self, wenv: WenvPaths, report: Callable[[str], None]) -> AbstractContextManager[Keeper]:
        """Return what reaches the hosts that its runs leave artifacts on, connected while it is entered."""
        raise BackendRefusedError(f"backend {self.name!r} leaves nothing on other hosts, so there is nothing to fetch")

    def check(self, partitions: Sequence[Partition], *, timeout_s: float | None) -> None:
        """Refuse partitions that ask for what this backend cannot promise.

        Parameters
        ----------
        partitions
            Those known before the start.
        timeout_s
            Limit for partitions that have none of their own [s].

        Raises
        ------
        BackendRefusedError
            Names the first partition, what it asks for and where it could run.
        """
        if self.capabilities.timeouts:
            return
        for part in partitions:
            limit = part.timeout_s if part.timeout_s is not None else timeout_s
            if limit is not None:
                raise BackendRefusedError(
                    f"backend {self.name!r} cannot end a partition after its timeout, and {part.id!r} "
                    f"has one of {limit:g} s; choose another backend, such as 'local'"
                )


def on_hosts(hosts: Mapping[str, int]) -> dict[str, str]:
    """Return name of a worker -> its host, hosts in turn."""
    turns = sorted((number, order) for order, slots in enumerate(hosts.values()) for number in range(slots))
    names = list(hosts)
    return {f"{re.sub('[^A-Za-z0-9_.-]', '-', names[order])}-{number}": names[order] for number, order in turns}


def backend(name: str) -> Backend:
    """Return the backend of that name; BackendRefusedError names the ones there are."""
    try:
        module, _, class_name = BACKENDS[name].partition(":")
    except KeyError:
        raise BackendRefusedError(f"no backend {name!r}; choose one of {', '.join(sorted(BACKENDS))}") from None
    made: Backend = getattr(import_module(module), class_name)()
    return made
