"""`Run`, one run folder as its readers see it, and `RunStore`, all of them; they run nothing.

Reading changes nothing: the only file a reader ever makes is the request to
cancel. What the folder holds is written by the supervisor.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agilab import events, markup, records, sums
from agilab.artifact import Artifact
from agilab.errors import (
    AgilabError,
    ArtifactNotFoundError,
    EvidenceError,
    RequestError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    RunStateError,
)
from agilab.manifest import SCHEMA, sealed_manifest
from agilab.owner import Owner, hold_owner, probe_owner, read_owner
from agilab.paths import NAME_PATTERN, HomePaths, RunPaths, disk_errors, make_folder, read_json, write_json

__all__ = [
    "FINAL_STATES",
    "RESUMABLE",
    "Owner",
    "Run",
    "RunStore",
    "hold_owner",
    "new_run_id",
    "probe_owner",
    "read_owner",
]

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
RESUMABLE = frozenset({"failed", "cancelled", "lost"})
"""States of runs that can go on; a lost run has no seal."""
LOG_LIMIT = 16 << 20
"""How much of each log `Run.logs` returns, counted from the end [bytes]."""

_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
_TICKS = 65536
_NONE_TYPE = type(None)
_SHAPE: Mapping[str, type | tuple[type, ...]] = {
    "run_id": str,
    "error": (str, _NONE_TYPE),
    "request": dict,
    "partitions": dict,
    "stages": list,
    "metrics": dict,
}


class Run:
    """One execution and its record; every property looks at the folder again, until the run is final.

    Parameters
    ----------
    paths
        The run folder.
    """

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self._seal: tuple[int, int, int] | None = None
        self._manifest: dict[str, Any] = {}
        self._scanned = 0
        self._last_state = "queued"

    @property
    def run_id(self) -> str:
        return self.paths.run_id

    @property
    def app(self) -> str:
        return self.paths.app

    @property
    def state(self) -> str:
        """``queued``, ``installing``, ``running``, ``sealing`` while it has an owner, then one of `FINAL_STATES`.

        ``lost``: the owner has gone without a seal. ``unknown``: the owner is
        another host. ``unreadable``: folder, seal or manifest are damaged.
        """
        return self._settled() or self._live_state()

    @property
    def error(self) -> str | None:
        """Why the run failed, in one line; None unless it did."""
        found = (self._final() or {}).get("error")
        return found if found is None else str(found)

    @property
    def manifest(self) -> dict[str, Any]:
        """What ``run_manifest.json`` holds.

        Raises
        ------
        RunStateError
            The run is not final.
        EvidenceError
            The manifest cannot be read.
        """
        found = self._final()
        if found:
            return found
        state = self.state
        if state == "unreadable":
            raise EvidenceError(
                f"run {self.run_id} cannot be read; see what is wrong with: agilab verify {self.run_id}"
            )
        raise RunStateError(f"run {self.run_id} is {state} and has no manifest; {_ADVICE.get(state, _ADVICE_LIVE)}")

    @property
    def request(self) -> dict[str, Any]:
        """What ``request.json`` holds."""
        return read_json(self.paths.request, "agilab.request/1")

    @property
    def metrics(self) -> dict[str, Any]:
        """The run's metrics once it is final, until then the last value of each metric that partitions reported."""
        found = self._final()
        if found:
            return dict(found["metrics"])
        return {event["name"]: event["value"] for event in self.events() if event.get("event") == "metric"}

    def wait(self, timeout_s: float | None = None) -> Run:
        """Return this run when it is final, lost or unreadable.

        Parameters
        ----------
        timeout_s
            Longest time to wait [s]; None for no limit.

        Raises
        ------
        RunStateError
            It still goes on after that time.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        delay = 0.002
        while not self._ended():
            if end is not None and time.monotonic() >= end:
                raise RunStateError(
                    f"run {self.run_id} is still {self.state} after {timeout_s} s; wait longer, "
                    f"or cancel it with: agilab cancel {self.run_id}"
                )
            time.sleep(delay if end is None else max(0.0, min(delay, end - time.monotonic())))
            delay = min(delay * 1.1, 0.1)
        return self

    def cancel(self) -> None:
        """Ask the owner to cancel the run; on a run that is final, or asked before, this does nothing."""
        if self._final() is not None or os.path.lexists(self.paths.cancel_request):
            return
        make_folder(self.paths.staging)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_json(
            self.paths.cancel_request, {"at": at, "by": f"{_user()}@{os.uname().nodename}, process {os.getpid()}"}
        )

    def events(self, *, follow: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the events of the log.

        Parameters
        ----------
        follow
            Whether to wait for more until the run has ended.
        """
        return events.follow(self.paths.events, self._ended if follow else lambda: True)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the record of every committed partition, in plan order.

        Raises
        ------
        EvidenceError
            A record cannot be read.
        """
        partitions = (self._final() or {}).get("partitions", {})
        first = partitions.get("first")
        if isinstance(first, list) and len(first) == partitions.get("committed"):
            yield from first
            return
        order = self._plan_order()
        yield from sorted(
            records.read_records(self.paths), key=lambda record: order.get(record["partition"], (1 << 30,))
        )

    def artifacts(self) -> tuple[Artifact, ...]:
        """List what committed partitions left, in plan order; while the run goes on, what there is so far.

        Raises
        ------
        EvidenceError
            A record cannot be read.
        """
        try:
            return tuple(Artifact.from_json(item) for record in self.records() for item in record["artifacts"])
        except (TypeError, LookupError) as err:
            raise EvidenceError(
                f"a record of run {self.run_id} is not of schema {records.SCHEMA!r} ({err}); "
                f"see what is wrong with: agilab verify {self.run_id}"
            ) from err

    def artifact(self, name: str) -> Path:
        """Return the path of an artifact.

        Parameters
        ----------
        name
            ``stage/partition/name``, or the name alone where only one partition left it.

        Raises
        ------
        ArtifactNotFoundError
            No artifact, or more than one, is called so, or its file is not in the run folder.
        """
        found = {item.key: item for item in self.artifacts()}
        keys = [name] if name in found else [key for key, item in found.items() if item.name == name]
        if len(keys) > 1:
            raise ArtifactNotFoundError(f"{len(keys)} partitions left an artifact {name!r}; name one: {_some(keys)}")
        if not keys:
            names = [*found, *dict.fromkeys(item.name for item in found.values())]
            near = _near(name, names) or (f"; there are {_some(list(found))}" if found else "; it has none yet")
            raise ArtifactNotFoundError(f"run {self.run_id} has no artifact {name!r}{near}")
        return self.file_of(found[keys[0]])

    def file_of(self, item: Artifact) -> Path:
        """Return the path of one of this run's artifacts.

        Raises
        ------
        ArtifactNotFoundError
            Its file is not in the run folder.
        """
        if item.location:
            raise ArtifactNotFoundError(
                f"artifact {item.key!r} lies on host {item.location}; bring it here: "
                f"agilab fetch {self.run_id} {item.key}"
            )
        if not sums.safe_path(item.path) or not item.path.startswith("artifacts/"):
            raise ArtifactNotFoundError(
                f"artifact {item.key!r} is recorded at {item.path!r}, outside of the run folder"
            )
        path = self.paths.root / item.path
        if not path.is_file() or path.is_symlink():
            raise ArtifactNotFoundError(
                f"artifact {item.key!r} is recorded, but {path} is no file any more; "
                f"see what else has changed with: agilab verify {self.run_id}"
            )
        return path

    def logs(self, worker: str | None = None) -> str:
        """Return what workers and supervisor printed, control characters shown and not obeyed.

        Parameters
        ----------
        worker
            Whose log; None for all of them, each under its name.

        Raises
        ------
        ArtifactNotFoundError
            There is no such log.
        """
        try:
            found = {path.stem: path for path in sorted(self.paths.logs.iterdir()) if path.suffix == ".log"}
        except OSError:
            found = {}
        if worker is None:
            return "\n".join(f"==> {events.visible(name)} <==\n{_log_text(path)}" for name, path in found.items())
        if worker not in found:
            near = _near(worker, list(found)) or (f"; there are {_some(list(found))}" if found else "; it has none yet")
            raise ArtifactNotFoundError(f"run {self.run_id} has no log of worker {worker!r}{near}")
        return _log_text(found[worker])

    def check(self) -> Run:
        """Return this run when it succeeded.

        Raises
        ------
        RunFailedError
            It failed or was lost.
        RunCancelledError
            It was cancelled.
        RunStateError
            It has not ended, or its owner is on another host.
        EvidenceError
            Its record is damaged.
        """
        state = self.state
        folder = f"its folder is {self.paths.root}"
        if state == "succeeded":
            return self
        if state == "failed":
            why = " ".join(events.visible(self.error or "no reason recorded").split())
            raise RunFailedError(f"run {self.run_id} failed: {why}; {folder}")
        if state == "cancelled":
            raise RunCancelledError(f"run {self.run_id} was cancelled; {folder}")
        if state == "lost":
            raise RunFailedError(f"run {self.run_id} was lost: the process that ran it has gone; {folder}")
        if state == "unreadable":
            raise EvidenceError(f"run {self.run_id} cannot be read; {folder}")
        raise RunStateError(f"run {self.run_id} is {state}; {_ADVICE.get(state, _ADVICE_LIVE)}")

    def __repr__(self) -> str:
        return f"<Run {self.run_id} of {self.app}: {self.state}>"

    def _repr_html_(self) -> str:
        """Show the run at the end of a notebook cell."""
        final = self._final() or {}
        shares = [{**stage, **share} for stage in final.get("stages", ()) for share in stage.get("workers", ())]
        names = ("stage", "host", "worker", "planned", "committed", "busy_s")
        took = f" in {final['duration_s']:g} s" if final else ""
        return markup.frame(
            f"{self.state}: run {self.run_id} of {self.app}{took}",
            markup.line(events.visible(self.error or "")),
            markup.table([*names[:-1], "busy [s]"], ([share[name] for name in names] for share in shares)),
            markup.table(("metric", "value"), final.get("metrics", {}).items()),
            markup.line(str(self.paths.root)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.paths == self.paths

    def __hash__(self) -> int:
        return hash(self.paths)

    def _final(self) -> dict[str, Any] | None:
        """Return the manifest of a final run, {} when the seal holds but the manifest makes no sense, else None."""
        try:
            stat = os.lstat(self.paths.sums)
        except OSError:
            return None
        seal = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if seal != self._seal:
            data = sealed_manifest(self.paths)
            if data is None:
                return None
            value = records.parse(data) or {}
            fits = value.get("schema") == SCHEMA and str(value.get("state")) in FINAL_STATES
            fits = fits and all(isinstance(value.get(name), kind) for name, kind in _SHAPE.items())
            self._seal, self._manifest = seal, value if fits else {}
        return self._manifest

    def _settled(self) -> str:
        """Return the state of a run that has no owner on this machine; empty when it has one."""
        final = self._final()
        if final is None:
            owner = probe_owner(self.paths)
            if owner == "held":
                return ""
            final = self._final()  # it may have been sealed before its owner let go
            if final is None:
                if not os.access(self.paths.root, os.R_OK | os.X_OK):
                    return "unreadable"
                # A seal that does not fit is damage, and must not be sealed over as if the run had been lost.
                return "unknown" if owner == "unknown" else "unreadable" if os.path.lexists(self.paths.sums) else "lost"
        return str(final["state"]) if final else "unreadable"

    def _ended(self) -> bool:
        return self._settled() not in ("", "unknown")

    def _live_state(self) -> str:
        """Return the last state that the event log names; reads only what is new."""
        with suppress(OSError), open(self.paths.events, "rb") as file:
            file.seek(self._scanned)
            data = file.read()
            data = data[: data.rfind(b"\n") + 1]
            self._scanned += len(data)
            # Quotes inside texts are escaped, so this can only be the event's own name.
            place = data.rfind(b'"event":"state"')
            if place >= 0:
                line = data[data.rfind(b"\n", 0, place) + 1 : data.find(b"\n", place)]
                self._last_state = str((records.parse(line) or {}).get("state", self._last_state))
        return self._last_state

    def _plan_order(self) -> dict[str, tuple[int, ...]]:
        """Return partition id -> place: stages as the manifest lists them, else by depth; partitions as planned."""
        found: dict[str, dict[str, Any]] = {}
        with suppress(OSError):
            for path in sorted(self.paths.plans.glob("*.json")):
                with suppress(AgilabError):
                    found[path.stem] = read_json(path, "agilab.stage/1")
        listed = [stage["stage"] for stage in (self._final() or {}).get("stages", ())]
        depths: dict[str, int] = {}

        def depth(name: str) -> int:
            if name not in depths:
                depths[name] = 0  # a cycle in a damaged plan ends here
                depths[name] = 1 + max(map(depth, found.get(name, {}).get("after", ())), default=0)
            return depths[name]

        order = listed or sorted(found, key=lambda name: (depth(name), name))
        return {
            part["id"]: (rank, place)
            for rank, name in enumerate(order)
            for place, part in enumerate(found.get(name, {}).get("partitions", ()))
        }


class RunStore:
    """Every run below an AGILAB_HOME.

    Parameters
    ----------
    home
        Its folders.
    """

    def __init__(self, home: HomePaths) -> None:
        self.home = home

    def list(self, app: str | None = None) -> _Runs:
        """List runs, newest first, without opening one; folders that are damaged are listed too.

        Parameters
        ----------
        app
            Whose runs; None for all apps.
        """
        return [Run(RunPaths(Path(folder))) for _, _, folder in self.folders(app)]

    def folders(self, app: str | None = None) -> _Folders:
        """Return run id, app and folder of every run, newest first: all that can be told without opening one."""
        found = [
            (run_id, name, path)
            for name, folder in _folders(str(self.home.runs))
            if app in (None, name)
            for run_id, path in _folders(folder)
            if _RUN_ID.fullmatch(run_id)
        ]
        return sorted(found, reverse=True)

    def get(self, run_id: str) -> Run:
        """Return one run.

        Parameters
        ----------
        run_id
            Its id, the beginning of one, or ``"last"``; with ``APP/`` before it, of that app.

        Raises
        ------
        RunNotFoundError
            No run, or more than one, is meant.
        """
        app, _, wanted = run_id.rpartition("/")
        runs = self.folders(app or None)
        if not runs:
            where = self.home.runs / app if app else self.home.runs
            raise RunNotFoundError(f"no run {run_id!r}: there are none in {where}; start one with: agilab run APP")
        found = [run for run in runs if wanted and run[0].startswith(wanted)]
        found = runs[:1] if wanted == "last" else [run for run in found if run[0] == wanted] or found
        if len(found) == 1:
            return Run(RunPaths(Path(found[0][2])))
        if found:
            names = _some([f"{name}/{found_id}" for found_id, name, _ in found])
            raise RunNotFoundError(f"{run_id!r} may be one of {len(found)} runs; name one: {names}")
        ids = [found_id for found_id, _, _ in runs]
        raise RunNotFoundError(f"no run {run_id!r}{_near(wanted, ids) or f'; the newest are {_some(ids)}'}")

    def create(self, app: str, *, now: float | None = None) -> RunPaths:
        """Make the folder of a new run; only its owner may enter it.

        Parameters
        ----------
        app
            Name of the app.
        now
            Unix time [s]; None for the clock's.

        Raises
        ------
        RequestError
            The name of the app cannot be that of a folder.
        """
        if not NAME_PATTERN.fullmatch(app):
            raise RequestError(f"app name {app!r} is not allowed; use up to 100 of letters, digits, '_', '.', '-'")
        moment = time.time() if now is None else now
        folder = make_folder(self.home.runs / app)
        while True:
            paths = self.home.run(app, new_run_id(moment))
            try:
                with disk_errors(folder, "creating a run in"):
                    paths.root.mkdir(mode=0o700)
            except FileExistsError:
                moment += 1 / _TICKS
                continue
            return paths


_Runs = list[Run]  # inside the class, `list` is its method
_Folders = list[tuple[str, str, str]]


def new_run_id(now: float) -> str:
    """Return the run id of a moment: ``YYYYMMDD-HHMMSS-xxxx``, UTC.

    The last part counts 65,536ths of a second, so that ids sort by time.

    Parameters
    ----------
    now
        Unix time [s].
    """
    ticks = int(now * _TICKS)
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(ticks // _TICKS))}-{ticks % _TICKS:04x}"


_ADVICE_LIVE = "wait for it with run.wait()"
_ADVICE = {
    "lost": "the process that ran it has gone; agilab resume goes on with it, agilab seal closes its record",
    "unknown": "ask on the host that its .owner names",
}


def _folders(folder: str) -> list[tuple[str, str]]:
    """List name and path of the folders in a folder; one that cannot be read holds none."""
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _log_text(path: Path) -> str:
    try:
        with open(sums.open_file(str(path)), "rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_LIMIT))
            text = events.visible(file.readall().decode("utf-8", "replace"))
    except (OSError, EvidenceError) as err:
        return f"({path} cannot be read: {err})\n"
    skipped = size - LOG_LIMIT
    return f"... ({skipped} bytes before this; the whole log is {path})\n{text}" if skipped > 0 else text


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _near(name: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, names[:10_000], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
