"""`agilab service`: what it prints, and what it tells the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agilab import AgiEnv
from agilab.paths import make_folder, write_json
from tests.cli.conftest import Cli
from tests.run_folder import conform


def test_a_service_from_its_start_to_its_end(cli: Cli) -> None:
    assert cli("service", "status").stdout == "no services; start one with: agilab service start APP\n"
    assert cli("service", "health", "trouble").returncode == 2
    try:
        started = cli("service", "start", "trouble", "--workers", "1")
        assert started.stdout.startswith("the service of trouble runs with 1 worker\nnext\n"), started.stderr
        again = cli("service", "start", "trouble")
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)
        done = cli("service", "submit", "trouble", "--parts", "2", "--json")
        assert json.loads(done.stdout)["state"] == "succeeded"
        assert cli("service", "submit", "trouble", "--how", "raise").returncode == 1
        detached = cli("service", "submit", "trouble", "--detach").stdout
        assert " is on its way\n" in detached
        AgiEnv().runs.get(detached.split()[0]).wait(30)
        shown = json.loads(cli("service", "status", "--json").stdout)["services"]
        assert [(one["app"], one["state"]) for one in shown] == [("trouble", "running")]
        conform(shown[0]["service"], "agilab.service/1")
        assert "1 failed, 2 succeeded" in cli("service", "status", "trouble").stdout
        assert cli("service", "health", "trouble").stdout == "ok: trouble: 1 of 1 workers can work\n"
        idle = cli("service", "health", "trouble", "--no-service-health.allow-idle", "--json")
        assert (idle.returncode, json.loads(idle.stdout)["verdict"]) == (5, "idle")
        metrics = cli("service", "health", "trouble", "--prometheus").stdout
        assert 'agilab_service_runs_total{app="trouble",outcome="succeeded"} 2\n' in metrics
    finally:
        stopped = cli("service", "stop", "trouble")
    assert stopped.stdout == "stopped: the service of trouble\n"
    assert cli("service", "stop", "trouble").returncode == 1


@pytest.mark.parametrize(
    "words", [(), ("nothing",), ("trouble", "--bad"), ("trouble", "--service-health.max-unhealthy", "many")]
)
def test_wrong_use_of_health_is_not_taken_for_a_service_that_is_unreachable(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli("service", "health", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_a_service_whose_process_has_gone_is_lost(cli: Cli, home: Path) -> None:
    paths = AgiEnv().home.service("gone")
    make_folder(paths.root)
    runs = {"going": [], "ended": {}, "last": None}
    record = {"schema": "agilab.service/1", "state": "running", "cluster": {"backend": "local"}, "runs": runs}
    write_json(paths.request, record)
    assert "state    lost\n" in cli("service", "status", "gone").stdout
    assert "gone  lost" in cli("service", "status").stdout
