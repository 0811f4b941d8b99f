"""Whenever a run is cancelled, everything of it is gone in two seconds, and it has one final state (F27)."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.cancels import GONE_S, cancel_many


def test_a_run_that_is_cancelled_at_any_moment_is_gone_in_time(tmp_path: Path) -> None:
    states, longest_s = cancel_many(tmp_path, 4, seed=1)
    assert states == {"cancelled": 4}
    assert longest_s < GONE_S
