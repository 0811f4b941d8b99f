"""Progress of a run: what events add up to, and how it is shown."""

from __future__ import annotations

import io
from typing import Any

import pytest

from agilab.cli import progress
from agilab.cli.progress import PlainView, Tally

STORY: list[dict[str, Any]] = [
    {"event": "created", "run_id": "R", "app": "A", "t": "2025-01-01T00:00:00Z", "mono": 1.0},
    {"event": "state", "state": "installing", "mono": 1.0},
    {"event": "note", "text": "downloading \x1b[31m", "mono": 1.0},
    {"event": "state", "state": "running", "mono": 1.0},
    {"event": "planned", "stage": "work", "partitions": 2, "mono": 2.0},
    {"event": "stage", "stage": "work", "status": "started", "mono": 2.0},
    {"event": "dispatched", "partition": "p0", "stage": "work", "worker": "w0", "attempt": 1, "mono": 2.0},
    {"event": "dispatched", "partition": "p1", "stage": "work", "worker": "w1", "attempt": 1, "mono": 2.0},
    {"event": "progress", "partition": "p0", "done": 1, "total": 2, "mono": 2.1},
    {"event": "committed", "partition": "p0", "stage": "work", "worker": "w0", "attempt": 1, "mono": 3.0},
]


def failed(retry: bool) -> dict[str, Any]:
    """Return the event of a failed attempt at p1."""
    about = {"partition": "p1", "stage": "work", "worker": "w1", "attempt": 1, "mono": 4.0}
    return {"event": "failed", **about, "reason": "died", "message": "it died", "traceback": "", "retry": retry}


def tally(*more: dict[str, Any]) -> Tally:
    found = Tally()
    for event in [*STORY, *more]:
        found.apply(event)
    return found


def test_events_add_up() -> None:
    found = tally()
    stage = found.stages["work"]
    assert (found.run_id, found.app, found.state) == ("R", "A", "running")
    assert (stage.partitions, stage.committed, stage.running) == (2, 1, {"p1": 0.0})
    assert stage.elapsed_s(now=7.0) == 5.0


@pytest.mark.parametrize(("done", "total", "sum_"), [(1, 4, 1.25), (0, 0, 1.0), (9, 4, 2.0)])
def test_a_stage_counts_what_running_partitions_have_done(done: int, total: int, sum_: float) -> None:
    found = tally({"event": "progress", "partition": "p1", "done": done, "total": total})
    assert found.stages["work"].done == sum_
    assert tally(failed(retry=True)).stages["work"].done == 1.0


def test_the_last_metric_is_drawn_below_the_stages() -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    found = tally({"event": "metric", "partition": "p1", "name": "loss", "value": 0.5, "step": 3})
    console.print(progress._drawn(found, 7.0))
    assert console.export_text().splitlines()[-1].rstrip() == "loss 0.5 at step 3 (p1)"


def test_a_final_failure_is_told_when_it_happens() -> None:
    lines: list[str] = []
    PlainView(lines.append)(failed(retry=False))
    assert lines == ["partition p1 of stage work failed: it died"]


def test_an_attempt_that_is_repeated_is_no_failure() -> None:
    found = tally(failed(retry=True))
    assert found.failures == []
    assert found.stages["work"].retries == 1
    assert found.stages["work"].running == {}


def test_a_final_failure_is_kept() -> None:
    assert [event["partition"] for event in tally(failed(retry=False)).failures] == ["p1"]


def test_an_unknown_event_changes_nothing() -> None:
    assert tally({"event": "from-the-future", "stage": 3}) == tally()


def test_without_a_terminal_a_line_is_written_when_something_changes() -> None:
    lines: list[str] = []
    view = PlainView(lines.append)
    for event in [*STORY, failed(retry=True), {"event": "stage", "stage": "work", "status": "ended", "mono": 5.0}]:
        view(event)
    assert lines == [
        "run R of A",
        "installing",
        "downloading \x1b[31m",
        "running",
        "stage work: 2 partitions",
        "partition p1 of stage work failed on w1, attempt 1 (died): it died; trying again",
        "stage work: 1 of 2 committed in 3.00 s",
    ]


def test_notes_are_made_safe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.watch() as view:
        for event in STORY:
            view(event)
    assert "downloading \\x1b[31m" in capsys.readouterr().err
