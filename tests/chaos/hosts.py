"""Cuts links to hosts, for good or for 3 s, resets them, or cancels runs, at random moments; checks what is left.

Two hosts as network namespaces, each with an sshd, a user and a home of its
own; both may be hit at once. By hand, as root::

    python -m tests.chaos.hosts cut reset blink cancel --times 50 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from agilab import AGI, AgiEnv, ArtifactRef, Run, RunRequest, Stage, WorkPlan
from agilab.run import FINAL_STATES
from agilab.testing import do, make_probe, processes_marked
from agilab.testing.probe import events, hashes, wait_until
from tests.chaos.damage import check_honest, check_resumed
from tests.hosts import SshServer, introduce, namespace_hosts

COMMAND = (sys.executable, "-m", "agilab")
HOW = ("cut", "reset", "blink", "cancel")
NOTICED_S = 20.0
"""How long it may take until the loss of a link is noticed [s]."""
CANCELLED_S = 10.0
"""How long a cancelled run may take until nothing of it is left, here and on hosts [s]."""
ALONE_S = 30.0
"""How long what runs on a host may live on when its link is cut: it hears nothing, and ends by itself [s]."""
BLINK_S = 3.0
"""How long a link may be silent without anything being disturbed [s]."""
ENDS_S = 120.0
HIDE = """\
    def _hide(self, part):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={}, start_new_session=True)

    def _orphans("""
"""A verb for the probe's worker: start a process that carries no marker and is in no group of the run."""


@dataclass(slots=True)
class Hits:
    """A run on hosts to be hit, what it leaves when nobody does, and what came of each hit.

    Parameters
    ----------
    folder
        Where everything lies; users of hosts have to reach it.
    servers
        The hosts.
    command
        What ``agilab`` is started with; a variant with a known fault shows that the checks see it.
    hides
        Whether worker code hides a process from whoever ends what a run has started: likewise.
    """

    folder: Path
    servers: Sequence[SshServer]
    command: Sequence[str] = COMMAND
    hides: bool = False
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: {how: Counter() for how in HOW})
    expected: dict[str, str] = field(default_factory=dict)
    takes_s: float = 0.0
    longest_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(HOW, 0.0))
    env: AgiEnv = field(init=False)

    def prepare(self, wenv: Path | None = None) -> None:
        """Install the probe and deploy it, learn what the run leaves here, and how long it takes there."""
        project = make_probe(self.folder)
        worker = project / "src" / "probe_worker" / "__init__.py"
        worker.write_text(worker.read_text().replace("    def _orphans(", HIDE, 1))
        self.env = AgiEnv(project, home=self.folder / "home", wenv=wenv or self.folder / "wenv")
        AGI.install(self.env)
        self.gate.touch()
        self.expected = hashes(AGI.run(self.env, self.request(backend="inline")).check())
        begun = time.monotonic()
        check_resumed(AGI.run(self.env, self.request()), self.expected)
        self.takes_s = time.monotonic() - begun

    @property
    def gate(self) -> Path:
        """What the partitions that keep every worker busy wait for."""
        return self.folder / "gate"

    def request(self, *, backend: str = "ssh", hang: bool = False) -> RunRequest:
        """Return a request for short partitions, long ones, and one that reads what others have written."""
        hold = []
        for number in range(2):
            verbs = [["hide"]] if self.hides else []
            verbs += [["hang", str(self.folder / f"pids{number}")] if hang else ["wait", str(self.gate), 2 * ENDS_S]]
            hold.append(replace(do(f"hold{number}", ["random", "numbers"], *verbs), weight=0.1))  # the last ones
        parts = [do(f"p{number}", ["random", "numbers"], ["metric", "rows", number]) for number in range(30)]
        inputs = [ArtifactRef("first", part.id, "numbers") for part in parts[:2]]
        reads = replace(do("last", ["random", "numbers"]), inputs=inputs)
        plan = WorkPlan([Stage("first", [*parts, *hold]), Stage("second", [reads], after="first")])
        workers = {server.name: 1 for server in self.servers} if backend == "ssh" else 2
        return self.env.request({"plan": plan.to_json()}, cluster={"backend": backend, "workers": workers})

    def hit(self, how: str, chance: random.Random, *, once: Callable[[Run], object] | None = None) -> Run:
        """Start the run, hit it at some moment, or `once` it has come so far, and see that it ends as it should."""
        moment = once or self._moment(chance)
        try:
            if how == "cancel":
                return self._cancel(moment)
            if how == "blink":
                return self._blink(moment)
            return self._break(how, chance, moment)
        except AssertionError as err:
            err.add_note("\n".join(map(str, self.env.runs.get("last").events())))
            raise

    def _break(self, how: str, chance: random.Random, moment: Callable[[Run], object]) -> Run:
        """Break the link to a host, or to both; the run goes on elsewhere, or fails and can be resumed."""
        held = chance.random() < 0.7
        self.gate.unlink(missing_ok=True) if held else self.gate.touch()
        process, run = self._start(self.request())
        wait_until(lambda: moment(run) or process.poll() is not None, ENDS_S)
        doomed = chance.sample(self.servers, 1 if chance.random() < 0.8 else len(self.servers))
        known = len(list(run.events()))
        for server in doomed:
            server.cut() if how == "cut" else server.drop_sessions()
        broken = time.monotonic()
        try:
            if how == "cut":  # a reset is seen at once, and where nothing was under way nobody has to be told
                wait_until(lambda: _tells(run, doomed, known) or (not held and process.poll() is not None), NOTICED_S)
                self._took(how, time.monotonic() - broken)
            if chance.random() < 0.5:
                _mend(doomed)  # what it still does there comes late
            self.gate.touch()
            wait_until(lambda: process.poll() is not None, ENDS_S)
            wait_until(lambda: not self._left(run), broken + ALONE_S - time.monotonic())
        finally:
            _mend(doomed)
            self._end(process)
        state = check_honest(run)
        assert state in FINAL_STATES, state
        self.outcomes[how][state] += 1
        if state != "succeeded":
            assert "\n" not in str(run.error)
            wait_until(lambda: all(server.answers() for server in self.servers))
            AGI.resume(self.env, run.run_id)
        check_resumed(run, self.expected)
        return run

    def _blink(self, moment: Callable[[Run], object]) -> Run:
        """Let both links fall silent for a moment: nothing is disturbed, and nothing started twice."""
        self.gate.unlink(missing_ok=True)
        process, run = self._start(self.request())
        wait_until(lambda: moment(run), ENDS_S)
        for server in self.servers:
            server.cut()
        back = time.monotonic() + BLINK_S
        wait_until(lambda: time.monotonic() > back)
        _mend(self.servers)
        self.gate.touch()
        wait_until(lambda: process.poll() is not None, ENDS_S)
        check_resumed(run, self.expected)
        assert {one["attempt"] for one in events(run, "dispatched")} == {1}
        assert [len(events(run, name)) for name in ("failed", "cluster")] == [0, 1]
        self.outcomes["blink"]["undisturbed"] += 1
        return run

    def _cancel(self, moment: Callable[[Run], object]) -> Run:
        """Cancel a run whose partitions ignore every signal; all of it is gone in time."""
        process, run = self._start(self.request(hang=True))
        try:
            wait_until(lambda: moment(run), ENDS_S)
            begun = time.monotonic()
            AGI.cancel(self.env, run.run_id)
            run.cancel()
            wait_until(lambda: not self._left(run), ALONE_S)
            self._took("cancel", time.monotonic() - begun)
            assert self.longest_s["cancel"] < CANCELLED_S, self.longest_s
            wait_until(lambda: process.poll() is not None)
        finally:
            self._end(process)
        assert check_honest(run) == "cancelled"
        assert [one["outcome"] for one in events(run, "state") if one["state"] == "sealing"] == ["cancelled"]
        self.outcomes["cancel"]["cancelled"] += 1
        return run

    def _start(self, request: RunRequest) -> tuple[subprocess.Popen[bytes], Run]:
        known = {run.run_id for run in self.env.runs.list()}
        file = self.folder / "request.json"
        file.write_text(json.dumps(request.to_json()))
        home = {"AGILAB_HOME": str(self.env.home.root), "AGILAB_WENV": str(self.env.wenv.root)}
        process = subprocess.Popen(
            [*self.command, "run", str(self.env.project.root), "--request", str(file)],
            env={**os.environ, **home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: {run.run_id for run in self.env.runs.list()} - known)
        run = self.env.runs.get("last")
        wait_until(lambda: run.state in FINAL_STATES | {"running", "installing"})
        return process, run

    def _moment(self, chance: random.Random) -> Callable[[Run], object]:
        after_s = chance.random() * self.takes_s

        def come(run: Run) -> bool:
            first = next(iter(run.events()))
            return time.time() > datetime.fromisoformat(first["t"]).timestamp() + after_s

        return come

    def _left(self, run: Run) -> list[int]:
        """List what there still is of a run, here and on the hosts."""
        return [*processes_marked(run.run_id), *(pid for server in self.servers for pid in server.busy())]

    def _took(self, how: str, time_s: float) -> None:
        self.longest_s[how] = max(self.longest_s[how], time_s)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()


def _tells(run: Run, doomed: Sequence[SshServer], known: int) -> bool:
    """Whether a run has said since that every one of some hosts was lost, or has ended."""
    if run.state in FINAL_STATES:
        return True
    said = [event["text"] for event in list(run.events())[known:] if event["event"] == "note"]
    return all(any(text.startswith(f"host {server.name}: ") for text in said) for server in doomed)


def _mend(servers: Sequence[SshServer]) -> None:
    for server in servers:
        server.mend()


def main() -> int:
    """Hit runs as often as asked, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=HOW, nargs="+")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    os.environ.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    with tempfile.TemporaryDirectory(prefix="agilab-hosts-") as name, namespace_hosts("alpha", "beta") as servers:
        folder = Path(name)
        folder.chmod(0o777)
        os.environ["HOME"] = str(folder)
        introduce(*servers)
        hits = Hits(folder, servers)
        hits.prepare()
        hits.prepare()  # the first one deployed
        for number in range(given.times):
            for how in given.how:
                hits.hit(how, chance)
            print(f"\r{number + 1} of {given.times}", end="", file=sys.stderr, flush=True)
    print(f"\n{given.times} times each, seed {given.seed}, all honest, same hashes in the end")
    for how in given.how:
        after = f", noticed or gone after {hits.longest_s[how]:.1f} s at most" if hits.longest_s[how] else ""
        print(f"{how}: {dict(hits.outcomes[how])}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
