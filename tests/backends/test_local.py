"""Backend `local` keeps the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agilab import AGI, Stage
from agilab.backends import entries as module
from agilab.testing import BackendTests, Bench, do
from agilab.testing.probe import events

MIB = 1 << 20


class TestLocal(BackendTests):
    backend = "local"

    def test_a_worker_killed_with_much_memory_is_tried_once_more(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """F24, with a machine that has 100 MiB."""
        monkeypatch.setattr(module, "_memory_bytes", lambda: 100 * MIB)
        monkeypatch.setattr(module, "_SAMPLE_EVERY_S", 0.0)
        gate = bench.folder / "gate"

        def open_gate(event: Mapping[str, Any]) -> None:
            if event["event"] == "dispatched":  # told before the attempt begins
                gate.unlink(missing_ok=True)
            if event["event"] == "metric":  # by now the memory has been looked at
                gate.touch()

        steps: list[list[Any]] = [["bloat", 150 * MIB], ["metric", "full", 1], ["wait", str(gate)], ["die", 9]]
        run = AGI.run(bench.env, bench.request(Stage("first", [do("a", *steps)])), on_event=open_gate)
        assert run.state == "failed"
        assert "was killed, probably out of memory (last seen at 1" in str(run.error)
        assert "of 100 MiB) (attempt 2, on " in str(run.error)
        assert [one["reason"] for one in events(run, "failed")] == ["memory", "memory"]
