"""How fast each host was in the runs of an app, relative to an average one; read from run folders, no result needs it.

What was read is kept in ``AGILAB_HOME/cache/throughput/<app>.json`` and made
again when it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agilab.backends.base import Backend
from agilab.errors import AgilabError
from agilab.paths import HomePaths, make_folder, read_json, write_json
from agilab.run import FINAL_STATES, Run, RunStore

LATEST = 20
"""How many runs of an app are looked at."""

SCHEMA = "agilab.throughput/1"

Measured = dict[str, dict[str, dict[str, float]]]
"""Stage -> worker -> ``weight`` that it has done, and ``busy_s``, how long that took [s]."""


def capacities(
    home: HomePaths, app: str, backend: Backend, *, workers: Sequence[str], cluster: Mapping[str, Any]
) -> dict[str, float]:
    """Return worker -> relative speed: that of its host in the latest runs of the app where hosts are named, else 1.

    Parameters
    ----------
    home
        Where runs and cache lie.
    app, backend
        Whose runs count.
    workers, cluster
        Those of the run that is planned, and its cluster options.
    """
    if not backend.capabilities.needs_hosts:
        return dict.fromkeys(workers, 1.0)

    def host_of(worker: str) -> str:
        return backend.host_of(worker, cluster)

    speeds = relative_speeds(by_host(found, host_of) for found in measured(home, app, backend.name))
    return {worker: speeds.get(host_of(worker), 1.0) for worker in workers}


def measured(home: HomePaths, app: str, backend: str) -> list[Measured]:
    """Return what the latest runs of an app on one backend tell, newest first."""
    file = home.cache / "throughput" / f"{app}.json"
    known: dict[str, Any] = {}
    with suppress(AgilabError, OSError, LookupError, TypeError):  # it is made again
        known = dict(read_json(file, SCHEMA)["runs"])
    found: dict[str, Any] = {}
    for run_id, name, _ in RunStore(home).folders(app)[:LATEST]:
        run = Run(home.run(name, run_id))
        if run_id in known:
            found[run_id] = known[run_id]
        elif run.state in FINAL_STATES:
            with suppress(AgilabError, LookupError, TypeError):  # a damaged run tells nothing
                found[run_id] = {"backend": run.request["cluster"]["backend"], "stages": measure(run)}
    if found != known:
        make_folder(file.parent)
        write_json(file, {"schema": SCHEMA, "runs": found}, durable=False)
    return [one["stages"] for one in found.values() if one["backend"] == backend]


def measure(run: Run) -> Measured:
    """Add up, for each stage and worker, the weight of what was committed and how long that took [s]."""
    weights: dict[str, float] = {}
    found: Measured = {}
    for record in run.records():
        stage = record["stage"]
        if stage not in found:
            found[stage] = {}
            weights |= _weights(run.paths.plan(stage))
        share = found[stage].setdefault(record["worker"], {"weight": 0.0, "busy_s": 0.0})
        share["weight"] += weights[record["partition"]]
        share["busy_s"] += record["wall_s"]
    return found


def by_host(found: Measured, host_of: Callable[[str], str]) -> Measured:
    """Return stage -> host -> what its workers have done together."""
    answer: Measured = {}
    for stage, shares in found.items():
        hosts = answer.setdefault(stage, {})
        for worker, share in shares.items():
            host = hosts.setdefault(host_of(worker), {"weight": 0.0, "busy_s": 0.0})
            for name, value in share.items():
                host[name] += value
    return answer


def relative_speeds(runs: Iterable[Measured]) -> dict[str, float]:
    """Return host -> how many seconds of an average host's work it does in a second.

    A stage's partitions are only ever compared with others of that stage, and
    of that run: weights have a unit of their own in each.
    """
    work: dict[str, float] = {}
    busy: dict[str, float] = {}
    for stages in runs:
        for shares in stages.values():
            weight, busy_s = (sum(share[name] for share in shares.values()) for name in ("weight", "busy_s"))
            if len(shares) < 2 or not weight or not busy_s:
                continue  # nothing to compare
            for host, share in shares.items():
                work[host] = work.get(host, 0.0) + share["weight"] * busy_s / weight
                busy[host] = busy.get(host, 0.0) + share["busy_s"]
    return {host: max(0.001, round(work[host] / busy[host], 3)) for host in sorted(work) if busy[host]}


def _weights(plan: Path) -> dict[str, float]:
    return {part["id"]: float(part["weight"]) for part in read_json(plan, "agilab.stage/1")["partitions"]}
