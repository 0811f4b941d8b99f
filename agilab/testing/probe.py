"""The probe: a small app whose plan is a setting, so that one project serves every test; and the `Bench` it runs on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agilab import AGI, AgiEnv, Partition, Run, RunRequest, Stage, WorkPlan
from agilab.paths import write_json
from agilab.testing.worker_source import WORKER

DEADLINE_S = 30.0
"""Longest time that anything on a bench may take [s]; a loaded machine is slow."""
POLL_S = 0.005

_MANAGER = '''\
"""A plan that is a setting."""

import agilab
import param
from agilab.settings import Secret


class Probe(agilab.App):
    class Settings(agilab.Settings):
        plan = param.Dict({}, doc="The work plan, as JSON")
        later = param.Dict({}, doc="Partitions of stages that are planned later, as JSON, by stage")
        setup = param.Selector(default="", objects=["", "raise", "exit", "raise at the end"], doc="What setup does")
        token = Secret(None, allow_None=True, doc="A secret")

    def plan(self):
        return agilab.WorkPlan.from_json(self.settings.plan)

    def plan_stage(self, stage, artifacts):
        if stage in self.settings.later:
            return [agilab.Partition.from_json(part) for part in self.settings.later[stage]]
        [reduction] = super().plan_stage(stage, artifacts)
        return [agilab.Partition(reduction.id, inputs=reduction.inputs, params={"steps": [["read", "read"]]})]
'''

_PYPROJECT = """\
[project]
name = "probe"
version = "1.0"
description = "What the contract suite runs"
license = "BSD-3-Clause"
requires-python = ">=3.11"
dependencies = []

[tool.agilab]
uuid = "5b2f1d0e-6a55-4a39-9d0c-0f8d3c1f2a77"
"""

_WORKER_PYPROJECT = """\
[project]
name = "probe-worker"
version = "1.0"
requires-python = ">=3.11"
dependencies = []
"""

_ELSEWHERE = """\
import json, sys
from agilab import AGI, AgiEnv
order = json.load(sys.stdin)
env = AgiEnv(order["app"], home=order["home"], wenv=order["wenv"])
verb = getattr(AGI, order["verb"])
print(verb(env, env.request(file=order["request"])).run_id, flush=True)
"""


def make_probe(folder: Path) -> Path:
    """Write the project ``probe_project`` into a folder; return its root."""
    root = folder / "probe_project"
    for name, text in {
        "pyproject.toml": _PYPROJECT,
        "src/probe/__init__.py": _MANAGER,
        "src/probe_worker/__init__.py": WORKER,
        "src/probe_worker/pyproject.toml": _WORKER_PYPROJECT,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def do(ident: str, *steps: Sequence[Any]) -> Partition:
    """Return a partition that does some steps: a verb of the probe's worker and its arguments each."""
    return Partition(ident, params={"steps": [list(step) for step in steps]})


@dataclass(slots=True)
class Going:
    """A run that goes on in a thread while the test looks at it.

    Attributes
    ----------
    seen
        The events so far, as `AGI.run` tells them.
    """

    bench: Bench
    seen: list[Mapping[str, Any]] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _outcome: list[Run | BaseException] = field(default_factory=list)

    def start(self, request: RunRequest) -> Going:
        """Start the thread."""

        def work() -> None:
            outcome: Run | BaseException
            try:
                outcome = AGI.run(self.bench.env, request, on_event=self._hear)
            except BaseException as err:  # noqa: BLE001 - raised again by `result`
                outcome = err
            with self._news:
                self._outcome.append(outcome)
                self._news.notify_all()

        self._thread = threading.Thread(target=work, name="agilab-probe", daemon=True)
        self._thread.start()
        return self

    def until(self, event: str, partition: str = "", *, count: int = 1) -> Mapping[str, Any]:
        """Return the `count`-th event of a name, of one partition if one is named, waiting for it."""

        def found() -> list[Mapping[str, Any]]:
            return [
                one
                for one in self.seen
                if one["event"] == event and (not partition or one.get("partition") == partition)
            ]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count or self._outcome, DEADLINE_S)
            assert len(found()) >= count, f"no {event} {partition} in {self.seen} ({self._outcome})"
            return found()[count - 1]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true; fail when the run ends before that."""
        wait_until(lambda: condition() or self._outcome)
        assert condition(), f"the run has ended: {self.seen} ({self._outcome})"

    @property
    def run(self) -> Run:
        """The run, as its readers see it."""
        return self.bench.env.runs.get(self.until("created")["run_id"])

    def result(self) -> Run:
        """Return the run once it has ended."""
        assert self._thread is not None
        self._thread.join(DEADLINE_S)
        assert self._outcome, f"it still goes on after {DEADLINE_S} s: {self.seen}"
        [outcome] = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def stop(self) -> None:
        """Cancel the run unless it has ended."""
        if not self._outcome:
            self.run.cancel()
            self.result()

    def _hear(self, event: Mapping[str, Any]) -> None:
        with self._news:
            self.seen.append(dict(event))
            self._news.notify_all()


@dataclass(frozen=True, slots=True)
class Bench:
    """An installed probe, a backend, and a folder for what tests and partitions tell each other by files.

    Parameters
    ----------
    env
        Environment with the probe.
    backend
        Name of the backend.
    folder
        Empty, of this test alone.
    cluster
        Cluster options that the backend needs besides.
    """

    env: AgiEnv
    backend: str
    folder: Path
    cluster: Mapping[str, Any] = field(default_factory=dict)
    _going: list[Going] = field(default_factory=list)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        """End what a test that failed has left going."""
        for going in self._going:
            going.stop()

    def request(
        self,
        *stages: Stage,
        settings: Mapping[str, Any] | None = None,
        cluster: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> RunRequest:
        """Return a request for some stages, on two workers unless `cluster` says otherwise; on hosts, on each."""
        options = {"backend": self.backend, "workers": 2, **self.cluster, **(cluster or {})}
        if isinstance(hosts := self.cluster.get("workers"), Mapping) and isinstance(options["workers"], int):
            options["workers"] = dict.fromkeys(hosts, options["workers"])
        values = {"plan": WorkPlan(stages).to_json(), **(settings or {})}
        return self.env.request(values, cluster=options, seed=seed)

    def run(self, *stages: Stage, on_event: Callable[[Mapping[str, Any]], None] | None = None) -> Run:
        """Run some stages to their end."""
        return AGI.run(self.env, self.request(*stages), on_event=on_event)

    def start(self, *stages: Stage) -> Going:
        """Run some stages in a thread."""
        return self.follow(self.request(*stages))

    def follow(self, request: RunRequest) -> Going:
        """Run a request in a thread."""
        going = Going(self)
        self._going.append(going)
        return going.start(request)

    def elsewhere(self, request: RunRequest, verb: str = "run") -> subprocess.Popen[bytes]:
        """Run or submit a request in a process of its own; it prints the run id when that returns."""
        file = self.folder / f"{request.digest}.request.json"
        write_json(file, request.to_json())
        order = {"app": str(self.env.project.root), "home": str(self.env.home.root), "wenv": str(self.env.wenv.root)}
        process = subprocess.Popen([sys.executable, "-c", _ELSEWHERE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(json.dumps({**order, "verb": verb, "request": str(file)}).encode())
        return process

    def pids(self, name: str) -> list[int]:
        """Return the process ids that a partition wrote to a file here, waiting for it."""
        path = self.folder / name
        wait_until(path.exists)
        return [int(pid) for pid in json.loads(path.read_text())]


def wait_until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> float:
    """Wait until a condition is true; return how long that took [s], fail after a deadline."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + deadline_s, f"{condition} is not true after {deadline_s} s"
        time.sleep(POLL_S)
    return time.monotonic() - begun


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def processes_marked(run_id: str) -> list[int]:
    """List the processes that a run has started, wherever they have gone since."""
    marker = f"AGILAB_RUN={run_id}-".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (process / "environ").read_bytes() and is_alive(int(process.name)):
                found.append(int(process.name))
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
    return [pid for pid in found if pid != os.getpid()]


def command_lines() -> bytes:
    """Return the command lines of every process of this machine that may be read."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return b"\n".join(found)


def hashes(run: Run) -> dict[str, str]:
    """Return ``stage/partition/name`` -> sha256 of everything a run left."""
    return {f"{item.stage}/{item.partition}/{item.name}": item.sha256 for item in run.artifacts()}


def events(run: Run, name: str) -> list[dict[str, Any]]:
    """Return the events of one name from the log of a run."""
    return [event for event in run.events() if event["event"] == name]
