"""Runs handed to MLflow, live or afterwards: what is asked for, who does it, and what a run remembers of it.

MLflow is imported by `agilab.tracker` alone, in a process of its own that reads
the run folder as anybody may. Nothing of a run waits for it, and nothing a
server does can reach the run. Requests, identities and errors go both ways as
JSON; the address goes through a pipe, since a password may be in it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from agilab import sidecar, sums
from agilab.errors import EvidenceError, TrackingError
from agilab.events import visible
from agilab.paths import RunPaths, write_json
from agilab.run import Run

SCHEMA = "agilab.tracking/1"
VARIABLE = "AGILAB_TRACK"
"""The environment variable that names where runs are tracked when nothing else is said."""
WAIT_S = 5.0
"""How long somebody who has waited for a run may wait for its last numbers to arrive [s]."""
PATIENCE_S = 30.0
"""How long nothing may arrive before an ended run is given up [s]."""
TIMEOUT_S = 5
"""How long one request to a server may take [s]."""

_POLL_S = 0.05
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True, slots=True)
class Store:
    """Where a run is to be tracked.

    Parameters
    ----------
    uri
        As MLflow takes it: ``http://host:5000``, ``sqlite:///file.db``.
    experiment
        Its name there; empty for that of the app.
    artifacts
        Which artifacts go along, ``"all"``, ``"none"``, or a pattern for ``stage/partition/name``.
    """

    uri: str
    experiment: str = ""
    artifacts: str = "none"

    @property
    def shown(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else self.uri


@dataclass(frozen=True, slots=True)
class Tracked:
    """What a run remembers of one store.

    Parameters
    ----------
    uri
        Its address, without user and password.
    experiment, experiment_id, run_id
        Where the run is there; ids are empty until they are known.
    stages
        Stage -> the nested run.
    seal
        sha256 of the ``manifest-sha256.txt`` that has arrived there; empty before.
    error
        Why not everything has arrived, in one line; empty when it has, or is on its way.
    """

    uri: str
    experiment: str
    experiment_id: str = ""
    run_id: str = ""
    stages: Mapping[str, str] = field(default_factory=dict)
    seal: str = ""
    error: str = ""

    @property
    def link(self) -> str:
        """The run's page where the store is a server; else empty."""
        if not self.uri.startswith(("http://", "https://")) or not self.run_id:
            return ""
        return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON value."""
        return asdict(self)


def chosen(uri: str | None, environ: Mapping[str, str]) -> Store | None:
    """Return where a new run is tracked, if anywhere.

    Parameters
    ----------
    uri
        What the caller says; None for what ``AGILAB_TRACK`` says, empty for nowhere.
    environ
        The environment.

    Raises
    ------
    TrackingError
        MLflow is not installed, or this is no address.
    """
    text = environ.get(VARIABLE, "") if uri is None else uri
    return checked(Store(text)) if text else None


def checked(store: Store) -> Store:
    """Return a store that can be asked for.

    Raises
    ------
    TrackingError
        MLflow is not installed, or address or name are none.
    """
    if not _NAME.fullmatch(store.uri) or not (store.experiment == "" or _NAME.fullmatch(store.experiment)):
        raise TrackingError(
            f"{store.shown!r:.120} and {store.experiment!r:.120} are no address and name of up to 200 characters; "
            "take http://127.0.0.1:5000 as an example"
        )
    if find_spec("mlflow") is None:
        raise TrackingError("mlflow is not installed here; install it with: pip install 'agilab-holoviz[mlflow]'")
    return store


def follow(run: Run, store: Store, *, resumes: bool = False) -> None:
    """Start to hand over a run while it goes on, and return at once.

    Parameters
    ----------
    run, store
        What goes where.
    resumes
        Whether the run has ended and is about to go on.
    """
    size = run.paths.events.stat().st_size if resumes and run.paths.events.exists() else 0
    process = _start(run, store, {"live": True, "seen_bytes": size}, stdout=subprocess.DEVNULL)
    process.wait()  # the tracker is a child of this process, which has gone: nobody has to wait for it


def export(run: Run, store: Store) -> Tracked:
    """Hand over a run as it is, and return once it has arrived; what is there already is not sent again.

    Raises
    ------
    TrackingError
        The store cannot be used, or has not answered for too long.
    """
    process = _start(run, checked(store), {"live": False, "seen_bytes": 0}, stdout=subprocess.PIPE)
    out, _ = process.communicate()
    try:
        return Tracked(**json.loads(out))
    except (ValueError, TypeError):
        why = next((item.error for item in read(run.paths) if item.uri == store.shown), "")
        raise TrackingError(
            f"run {run.run_id} was not handed to {visible(store.shown)}: {why or 'MLflow ended without a word'}"
        ) from None


def arrived(run: Run, store: Store) -> Tracked | None:
    """Return what a run remembers of a store once all has arrived or failed, or `WAIT_S` have passed."""
    end = time.monotonic() + WAIT_S
    while True:
        with suppress(EvidenceError):
            found = next((item for item in read(run.paths) if item.uri == store.shown), None)
            if time.monotonic() >= end or (found is not None and (found.error or found.seal == seal_of(run.paths))):
                return found
        time.sleep(_POLL_S)


def read(paths: RunPaths) -> tuple[Tracked, ...]:
    """Return where a run is tracked; nothing when it has no such file.

    Raises
    ------
    EvidenceError
        The file cannot be read.
    """
    return sidecar.read(paths.tracking, SCHEMA, _stores, f"where run {paths.run_id} is tracked") or ()


def remember(paths: RunPaths, tracked: Tracked) -> None:
    """Write what is known of a store, in the place of what was."""
    with sidecar.alone(paths):
        others = [item for item in read(paths) if item.uri != tracked.uri]
        stores = [item.to_json() for item in (*others, tracked)]
        write_json(paths.tracking, {"schema": SCHEMA, "stores": stores})


def remembered(paths: RunPaths, store: Store, app: str) -> Tracked:
    """Return what is known of a store, without an error of earlier tries."""
    known = next((item for item in read(paths) if item.uri == store.shown), Tracked(store.shown, ""))
    return replace(known, experiment=store.experiment or known.experiment or app, error="")


def seal_of(paths: RunPaths) -> str:
    """Return the sha256 of a run's seal; empty while it has none."""
    try:
        return sums.hash_file(str(paths.sums))[0]
    except (OSError, EvidenceError):
        return ""


def _start(run: Run, store: Store, order: Mapping[str, Any], *, stdout: int) -> subprocess.Popen[bytes]:
    given = {"run": str(run.paths.root), "store": asdict(store), "patience_s": PATIENCE_S, **order}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "agilab.tracker"],  # -P: no module of the current folder is meant
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **_MANNERS},
        start_new_session=bool(order["live"]),
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(given).encode())
    process.stdin = None
    return process


_MANNERS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the tracker tries again by itself
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""What MLflow is told in its process, whatever it was told before."""


def _stores(value: Mapping[str, Any]) -> tuple[Tracked, ...]:
    return tuple(_parsed(item) for item in value["stores"])


def _parsed(value: Mapping[str, Any]) -> Tracked:
    found = Tracked(**value)
    texts = (found.uri, found.experiment, found.experiment_id, found.run_id, found.seal, found.error)
    if not all(isinstance(text, str) for text in texts) or not isinstance(found.stages, dict):
        raise TypeError("a store has texts, and stages by name")
    return found
