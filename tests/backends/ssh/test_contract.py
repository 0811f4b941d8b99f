"""A part of the contract of backends on a host, one test for each fault; `contract_on_a_host` keeps all of it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from agilab.testing import BackendTests, Bench
from tests.backends.part import only

HOST = "part"


@only(
    "test_a_run_leaves_artifacts_metrics_and_records_that_verify",
    "test_neither_order_nor_workers_nor_a_retry_change_what_a_run_leaves",
    "test_a_partition_whose_worker_is_killed_is_tried_again",
    "test_a_partition_that_kills_every_worker_fails_the_run_and_the_rest_is_kept",
    "test_a_worker_that_uses_more_memory_than_it_may_is_ended",
    "test_a_partition_that_waits_for_a_process_that_was_stopped_is_named",
    "test_a_cancelled_run_is_gone_in_time_however_often_it_is_asked",
    "test_a_second_signal_ends_it_at_once",
)
@pytest.mark.usefixtures("run_host")
class TestSsh(BackendTests):
    backend = "ssh"
    cluster: ClassVar[Mapping[str, Any]] = {"workers": {HOST: 2}}

    @pytest.mark.parametrize(("kind", "line"), [("local", "Local: <function raise_it.<locals>.<lambda>")])
    def test_what_a_partition_raises_is_named_with_its_traceback(self, bench: Bench, kind: str, line: str) -> None:
        """F22."""
        super().test_what_a_partition_raises_is_named_with_its_traceback(bench, kind, line)

    @pytest.mark.parametrize("retries", [0])
    def test_a_partition_that_ignores_signals_is_ended_by_its_timeout(self, bench: Bench, retries: int) -> None:
        """F23."""
        super().test_a_partition_that_ignores_signals_is_ended_by_its_timeout(bench, retries)

    @pytest.mark.parametrize("number", [signal.SIGTERM])
    def test_a_signal_cancels_the_run(self, bench: Bench, number: signal.Signals) -> None:
        """F5."""
        super().test_a_signal_cancels_the_run(bench, number)
