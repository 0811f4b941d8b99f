"""One request on several backends: what each run cost, and whether all left the same artifacts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agilab.agi import AGI
from agilab.backends.base import BACKENDS, backend
from agilab.env import AgiEnv
from agilab.request import RunRequest
from agilab.run import Run


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the request.

    Parameters
    ----------
    backend
        Where it ran.
    run
        The run, ended.
    state, error
        How it ended, and why, unless it succeeded.
    duration_s
        From start to seal [s].
    cpu_s
        Of all partitions [s].
    peak_rss_bytes
        Largest peak memory of a partition [bytes]; on ``inline`` that of this process so far.
    hashes
        Artifact -> sha256.
    """

    backend: str
    run: Run
    state: str
    error: str | None
    duration_s: float
    cpu_s: float
    peak_rss_bytes: int
    hashes: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        shown = ("backend", "state", "error", "duration_s", "cpu_s", "peak_rss_bytes")
        return {
            "run_id": self.run.run_id,
            **{name: getattr(self, name) for name in shown},
            "artifacts": len(self.hashes),
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """All runs of one request, in the order they were made."""

    trials: tuple[Trial, ...]

    @property
    def differing(self) -> dict[str, tuple[str, ...]]:
        """Artifact -> its sha256 in every trial that succeeded, empty where it left none; only those that differ."""
        good = [trial for trial in self.trials if trial.state == "succeeded"]
        names = dict.fromkeys(name for trial in good for name in trial.hashes)
        found = {name: tuple(trial.hashes.get(name, "") for trial in good) for name in names}
        return {name: hashes for name, hashes in found.items() if len(set(hashes)) > 1}

    @property
    def ok(self) -> bool:
        """Whether every run succeeded, and all left the same."""
        return all(trial.state == "succeeded" for trial in self.trials) and not self.differing

    def medians(self) -> dict[str, float]:
        """Return backend -> median duration of its runs that succeeded [s]."""
        times: dict[str, list[float]] = {}
        for trial in self.trials:
            if trial.state == "succeeded":
                times.setdefault(trial.backend, []).append(trial.duration_s)
        return {name: statistics.median(found) for name, found in times.items()}

    def to_json(self) -> dict[str, Any]:
        good = [trial.run.run_id for trial in self.trials if trial.state == "succeeded"]
        return {
            "ok": self.ok,
            "trials": [trial.to_json() for trial in self.trials],
            "median_duration_s": self.medians(),
            "differing": {name: dict(zip(good, hashes, strict=True)) for name, hashes in self.differing.items()},
        }


def default_backends() -> tuple[str, ...]:
    """Return the backends that need nothing but this machine."""
    return tuple(name for name in BACKENDS if not backend(name).capabilities.needs_hosts)


def bench(
    env: AgiEnv,
    requests: Mapping[str, RunRequest],
    *,
    repeat: int = 1,
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
) -> Bench:
    """Run one request on several backends; ordinary runs, one after the other.

    Parameters
    ----------
    env
        Where the app and the folders are.
    requests
        Backend -> the request for it.
    repeat
        How often; the backends take turns, so that a noisy neighbour disturbs all of them alike.
    on_event
        Told every event of every run.

    Returns
    -------
    Bench
        It ends early with a run that was cancelled.
    """
    trials: list[Trial] = []
    for name, request in (item for _ in range(repeat) for item in requests.items()):
        trials.append(_trial(name, AGI.run(env, request, on_event=on_event)))
        if trials[-1].state == "cancelled":
            break
    return Bench(tuple(trials))


def _trial(name: str, run: Run) -> Trial:
    done = list(run.records())
    return Trial(
        backend=name,
        run=run,
        state=run.state,
        error=run.error,
        duration_s=run.manifest["duration_s"],
        cpu_s=round(sum(record["cpu_s"] for record in done), 3),
        peak_rss_bytes=max((record["peak_rss_bytes"] for record in done), default=0),
        hashes={item.key: item.sha256 for item in run.artifacts()},
    )
