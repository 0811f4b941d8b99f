"""Whatever happens to the links of a run on hosts, it is honest and leaves nothing (F8, F9, F27)."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agilab import Run
from agilab.testing import processes_marked
from agilab.testing.probe import events, wait_until
from tests.chaos.hosts import COMMAND, Hits
from tests.hosts import warm_hosts

SOON = "from agilab.backends.ssh import connection; connection.KEEPALIVE_S = 1\n"


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
