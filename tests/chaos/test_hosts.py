"""Whatever happens to the links of a run on hosts, it is honest and leaves nothing (F8, F9, F27)."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agilab import Run
from agilab.testing import processes_marked
from agilab.testing.probe import events, hashes, wait_until
from tests.chaos.hosts import COMMAND, Hits
from tests.hosts import warm_hosts

SOON = "from agilab.backends.ssh import connection; connection.KEEPALIVE_S = 1\n"

LIE = """
from pathlib import Path
from agilab.backends.base import Done, Gone
from agilab.backends.ssh import slots
from agilab.paths import make_folder

async def bury(self, slot, message):
    record = {"started": "2026-11-27T00:00:00+00:00", "wall_s": 0.0, "cpu_s": 0.0, "peak_rss_bytes": 0, "metrics": []}
    done = []
    for name, task in slot.tasks.items():
        make_folder(Path(task["folder"]))
        said = slots.done({**record, "partition": name}, [], self._stay_of[slot.name])
        done.append(Done(slot.name, name, said))
    return [Gone(slot.name, message), *done]

slots.HostLeases.bury = bury
"""
"""A known fault: what a lost host had begun counts as done."""


class Steady(random.Random):
    """No chance: one of the links breaks, and stays broken until the run has ended."""

    def random(self) -> float:
        return 0.65


def variant(text: str) -> tuple[str, ...]:
    """Return an `agilab` that does something else first."""
    return (sys.executable, "-c", f"import sys\n{text}\nfrom agilab.cli import main\nsys.exit(main())")


@pytest.fixture(scope="module")
def hits(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hits]:
    with warm_hosts("north", "south", shared=shared_folder) as servers:
        found = Hits(tmp_path_factory.mktemp("hits"), servers, variant(SOON))
        found.prepare()
        found.takes_s = min(found.takes_s, 5.0)  # it may have deployed
        yield found


def busy(run: Run) -> bool:
    """Whether every worker has come to the partition that keeps it, and what the next stage reads is here."""
    committed = {event["partition"] for event in events(run, "committed")}
    return {"p0", "p1"} <= committed and {"hold0", "hold1"} <= {one["partition"] for one in events(run, "dispatched")}


def test_a_run_on_hosts_is_honest_when_a_link_falls_silent(hits: Hits) -> None:
    hits.hit("cut", random.Random(3))


def test_a_link_that_is_down_for_three_seconds_disturbs_no_run(hits: Hits, monkeypatch: pytest.MonkeyPatch) -> None:
    """F10."""
    monkeypatch.setattr(hits, "command", COMMAND)
    hits.hit("blink", Steady(), once=busy)


def test_the_checks_see_a_false_success(hits: Hits, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost with the link is a partition that had begun there, since each host has to keep one."""
    monkeypatch.setattr(hits, "pinned", True)
    for path in (hits.held(0), hits.held(1)):
        path.unlink(missing_ok=True)
    monkeypatch.setattr(hits, "command", variant(SOON + LIE))
    with pytest.raises(AssertionError):
        hits.hit("reset", Steady(), once=lambda run: hits.held(0).exists() and hits.held(1).exists())
    run = hits.env.runs.get("last")
    assert run.state == "succeeded"
    assert hits.expected.keys() > hashes(run).keys()


def test_the_checks_see_what_a_cancelled_run_leaves_on_a_host(hits: Hits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits, "hides", True)
    monkeypatch.setattr("tests.chaos.hosts.ALONE_S", 1.0)
    with pytest.raises(AssertionError, match="is not true after"):
        hits.hit(
            "cancel", Steady(), once=lambda run: list(hits.folder.glob("pids?"))
        )  # which come after it has hidden one
    run = hits.env.runs.get("last")
    wait_until(lambda: run.state == "cancelled" and not processes_marked(run.run_id))
    assert any(server.busy() for server in hits.servers)
