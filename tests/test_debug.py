"""`AGI.debug` repeats a partition in this process with what the run recorded, and changes no record."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, Run, environment, manifest
from agilab.backends.inline import forget
from agilab.errors import BackendRefusedError, EvidenceError, InstallError, RunNotFoundError, RunStateError
from tests.survey import MANAGER, WORKER, make_survey, tree


@pytest.fixture(scope="module")
def wenv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one AGILAB_WENV for the module; the environment of the worker is built once."""
    return tmp_path_factory.mktemp("debug") / "wenv"


@pytest.fixture
def env(wenv: Path, tmp_path: Path) -> Iterator[AgiEnv]:
    forget("survey", "")
    yield AgiEnv(make_survey(tmp_path), home=tmp_path / "home", wenv=wenv)
    forget("survey", "")


@pytest.fixture
def failed(env: AgiEnv) -> Run:
    """Return a run whose second table is bad."""
    (env.project.root / "tables/b.csv").write_text("1\nbad\n")
    run = AGI.run(env, env.request(cluster={"workers": 1}))
    assert run.state == "failed"
    return run


def record(run: Run) -> dict[str, bytes]:
    return {name: data for name, data in tree(run.paths.root).items() if name != ".owner"}


def test_what_a_partition_raises_passes_through_and_no_record_changes(env: AgiEnv, failed: Run) -> None:
    before, folder = record(failed), Path.cwd()
    with pytest.raises(ValueError, match="line 1 of p1 is bad") as caught:
        AGI.debug(env, failed.run_id, "p1")
    assert caught.traceback[-1].path.is_relative_to(env.wenv.package("survey"))
    assert record(failed) == before
    assert manifest.verify(failed.paths).ok
    assert Path.cwd() == folder
    assert "survey_worker" not in sys.modules
    assert not any("survey_worker" in path for path in sys.path)


def test_a_partition_that_succeeded_leaves_the_same_bytes_aside(env: AgiEnv, failed: Run) -> None:
    before, folder = record(failed), Path.cwd()
    found = AGI.debug(env, "last", "p0")
    assert [item["name"] for item in found["artifacts"]] == ["lines"]
    [left] = env.home.tmp.glob(f"{failed.run_id}-p0-*/partition/lines.json")
    assert left.read_bytes() == failed.artifact("lines/p0/lines").read_bytes()
    assert record(failed) == before
    assert Path.cwd() == folder


def test_the_recorded_code_and_settings_are_used_after_an_edit(env: AgiEnv, failed: Run) -> None:
    (env.project.worker / "__init__.py").write_text(WORKER.replace("raise ValueError", "print"))
    edited = MANAGER.replace("count =", "number =").replace("settings.count", "settings.number")
    (env.project.manager / "__init__.py").write_text(edited)
    env.project.settings_file.unlink()
    AGI.install(env)
    with pytest.raises(ValueError, match="line 1 of p1 is bad"):
        AGI.debug(env, failed.run_id, "p1")
    assert manifest.verify(failed.paths).ok


def test_a_later_stage_reads_its_inputs_from_the_run_folder(env: AgiEnv) -> None:
    run = AGI.run(env, env.request({"count": 4, "model": {"depth": 7}}))
    assert run.state == "failed"
    seen: list[Mapping[str, Any]] = []
    with pytest.raises(ValueError, match="5 lines are too many, model depth 7"):
        AGI.debug(env, run.run_id, "total", tell=seen.append)
    shutil.rmtree(env.project.root / "tables")  # the first stage's inputs, which this one does not read
    with pytest.raises(ValueError, match="5 lines are too many"):
        AGI.debug(env, run.run_id, "total")
    path = run.artifact("lines/p0/lines")
    path.chmod(0o600)
    path.write_text("9")
    with pytest.raises(EvidenceError, match=r"lines\.json has sha256 .*, the run read .*; restore it"):
        AGI.debug(env, run.run_id, "total")


def test_progress_metrics_and_log_are_told(env: AgiEnv) -> None:
    run = AGI.run(env, env.request()).check()
    seen: list[Mapping[str, Any]] = []
    AGI.debug(env, run.run_id, "total", tell=seen.append)
    assert [(item["op"], item["name"], item["value"]) for item in seen if item["op"] == "metric"] == [
        ("metric", "total", 5.0)
    ]


def test_an_input_that_is_not_what_the_run_read_is_refused(env: AgiEnv, failed: Run) -> None:
    (env.project.root / "tables/b.csv").write_text("1\n2\n")
    with pytest.raises(EvidenceError, match=r"tables/b\.csv has sha256 .*, the run read .*; restore it"):
        AGI.debug(env, failed.run_id, "p1")
    (env.project.root / "tables/b.csv").unlink()
    with pytest.raises(EvidenceError, match=r"tables/b\.csv cannot be read"):
        AGI.debug(env, failed.run_id, "p1")


def test_what_is_not_there_is_named(env: AgiEnv, failed: Run) -> None:
    with pytest.raises(RunNotFoundError, match="has no partition 'p7'; it has p0, p1"):
        AGI.debug(env, failed.run_id, "p7")
    with pytest.raises(RunNotFoundError):
        AGI.debug(env, "20200101-000000-0000", "p0")
    for folder in env.wenv.package("survey").glob(f"{failed.manifest['code']['worker_digest']}*"):
        shutil.rmtree(folder)
    (env.project.worker / "__init__.py").write_text(WORKER + "# edited\n")
    with pytest.raises(InstallError, match=f"of run {failed.run_id} is no longer in .*; run again"):
        AGI.debug(env, failed.run_id, "p1")


def test_a_snapshot_that_was_removed_is_named(env: AgiEnv, failed: Run) -> None:
    shutil.rmtree(env.home.snapshots)
    (env.project.manager / "__init__.py").write_text(MANAGER + "# edited\n")
    with pytest.raises(RunStateError, match=f"of run {failed.run_id} is no longer in .*snapshots; run again"):
        AGI.debug(env, failed.run_id, "p1")


def test_a_run_that_ended_before_it_was_planned_has_nothing_to_repeat(env: AgiEnv) -> None:
    manager = env.project.manager / "__init__.py"
    manager.write_text(MANAGER.replace("        paths =", "        raise ValueError\n        paths ="))
    run = AGI.run(env, env.request())
    with pytest.raises(RunNotFoundError, match="it has none: it ended before anything was planned"):
        AGI.debug(env, run.run_id, "p0")


def test_a_requirement_that_this_python_lacks_is_named(
    env: AgiEnv, failed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "pins", lambda text: {"no-such-thing": "3.0"})
    monkeypatch.setattr(environment, "compare", lambda one, other: ["no-such-thing missing instead of 3.0"])
    with pytest.raises(BackendRefusedError, match=r"-m pip install no-such-thing==3\.0"):
        AGI.debug(env, failed.run_id, "p1")


def test_an_app_is_found_by_the_name_that_the_run_has(
    env: AgiEnv, failed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGILAB_APPS", str(tmp_path))
    with pytest.raises(ValueError, match="line 1 of p1 is bad"):
        AGI.debug(AgiEnv(home=env.home.root, wenv=env.wenv.root), failed.run_id, "p1")
