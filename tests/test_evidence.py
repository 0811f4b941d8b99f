"""Real runs of every outcome leave a folder whose files all conform to the shipped schemas and match the seal."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, Run, Stage, __version__, manifest
from agilab.digest import of_bytes, of_file
from agilab.paths import read_json
from agilab.testing.probe import Bench, do, hashes, make_probe
from agilab.uv import current_interpreter
from tests.run_folder import conform
from tests.survey import make_survey, tree

OUTCOMES = ("succeeded", "failed in the plan", "failed in a partition", "cancelled")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
    """Return an environment with an installed probe, for all runs of the module."""
    folder = tmp_path_factory.mktemp("evidence")
    env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
    AGI.install(env)
    return env


@pytest.fixture(scope="module")
def runs(env: AgiEnv, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """Return a run of each outcome."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch, Bench(env, "local", folder) as bench:
        patch.setenv("AGILAB_SLOTS", "2")
        first = Stage("first", [do("a", ["write", "x", 1], ["metric", "rows", 2], ["log", "a word"]), do("b")])
        two = (first, Stage("late", after="first"))
        found = {
            "succeeded": bench.run(*two),
            "failed in the plan": AGI.run(env, env.request({"plan": {}})),
            "failed in a partition": bench.run(
                Stage("first", [do("a", ["write", "x", 1]), do("bad", ["raise", "value"])])
            ),
        }
        going = bench.start(Stage("first", [do("a", ["write", "x", 1]), do("hang", ["hang", str(folder / "pids")])]))
        going.until("committed", "a")
        bench.pids("pids")
        going.run.cancel()
        return {**found, "cancelled": going.result()}


@pytest.fixture(params=OUTCOMES)
def run(runs: Mapping[str, Run], request: pytest.FixtureRequest) -> Run:
    found = runs[request.param]
    assert found.state == request.param.partition(" ")[0]
    return found


def schema_of(name: str) -> str:
    """Return the schema of a file of a run folder; empty for logs, for what the app wrote, and for the seal's text."""
    folder, _, file = name.rpartition("/")
    if folder == "plan":
        return "agilab.stage/1"
    if file == "partition.json" or folder == "partitions":
        return "agilab.partition/1"
    if folder.startswith("artifacts/") or folder == "logs" or name in (".owner", "manifest-sha256.txt"):
        return ""
    return {
        "request.json": "agilab.request/1",
        "prepared.json": "agilab.prepared/1",
        "run_manifest.json": "agilab.run/1",
        "events.jsonl": "agilab.events/1",
    }[name]


def test_every_file_conforms_to_its_shipped_schema(run: Run) -> None:
    seen = set()
    for name, data in tree(run.paths.root).items():
        schema = schema_of(name)
        lines = data.splitlines() if name.endswith(".jsonl") else [data]
        for line in lines if schema else []:
            conform(json.loads(line), schema)
            seen.add(schema)
    assert {"agilab.request/1", "agilab.run/1", "agilab.events/1"} <= seen
    conform(manifest.verify(run.paths).to_json(), "agilab.verification/1")


def test_the_seal_holds_for_agilab_and_for_sha256sum(run: Run) -> None:
    verified = manifest.verify(run.paths)
    assert verified.ok, verified.problems
    words = ["sha256sum", "--check", "--strict", "--quiet", "manifest-sha256.txt"]
    done = subprocess.run(words, cwd=run.paths.root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    listed = [line.split("  ", 1)[1] for line in run.paths.sums.read_text().splitlines()]
    assert listed == sorted(tree(run.paths.root).keys() - {"manifest-sha256.txt", ".owner"})


def test_the_manifest_says_what_happened(run: Run) -> None:
    found = run.manifest
    events = list(run.events())
    assert events[0]["event"] == "created"
    assert events[0]["request_digest"] == found["request"]["digest"] == run.request["digest"]
    assert (events[-1]["state"], events[-1]["outcome"], events[-1]["error"]) == ("sealing", run.state, run.error)
    assert found["request"] == run.request
    assert (found["error"] is None) == (run.state in ("succeeded", "cancelled"))
    assert found["app"]["name"] == "probe"
    assert found["app"]["license"] == "BSD-3-Clause"
    assert found["created"] <= (found["started"] or found["ended"]) <= found["ended"]
    assert found["manager"]["agilab"] == __version__
    assert found["manager"]["host"] in found["backend"]["hosts"]
    for stage in found["stages"]:
        if stage["plan_sha256"]:
            assert stage["plan_sha256"] == of_file(run.paths.plan(stage["stage"]))
    records = list(run.records())
    assert found["partitions"]["committed"] == len(records)
    assert found["artifacts"]["count"] == len(run.artifacts())


def test_each_outcome_is_told_apart(runs: Mapping[str, Run]) -> None:
    done = {name: found.manifest for name, found in runs.items()}
    assert done["succeeded"]["partitions"]["count"] == 3
    assert done["succeeded"]["metrics"] == {"rows": 2.0}
    assert [stage["partitions"] for stage in done["succeeded"]["stages"]] == [2, 1]
    assert done["failed in the plan"]["partitions"]["count"] == 0
    assert done["failed in the plan"]["stages"] == []
    assert done["failed in the plan"]["started"] is None
    assert "probe:Probe.plan raised" in done["failed in the plan"]["error"]
    assert done["failed in a partition"]["error"].startswith("partition 'bad' of stage 'first' failed: ValueError: ")
    assert done["failed in a partition"]["metrics"] == {}
    assert done["cancelled"]["partitions"]["committed"] == 1
    assert [item.name for item in runs["cancelled"].artifacts()] == ["x"]


def test_code_and_environment_are_those_that_ran(runs: Mapping[str, Run], env: AgiEnv) -> None:
    found = runs["succeeded"].manifest
    installed = AGI.install(env).worker
    assert found["code"]["code_digest"] == found["request"]["code_digest"] == env.code_digest()
    assert found["code"]["manager_digest"] == env.project.manager_digest()
    assert found["code"]["worker_digest"] == installed.code_digest
    assert found["code"]["runtime_digest"] == installed.runtime_digest
    assert found["code"]["git"] is None
    assert found["environment"]["digest"] == installed.environment_digest
    assert (
        found["environment"]["lock_sha256"] == of_bytes(found["environment"]["lock"].encode()) == installed.lock_sha256
    )
    assert (found["environment"]["isolated"], found["environment"]["differences"]) == (True, [])
    assert found["environment"]["python"] == installed.python_version
    assert found["environment"]["cpu_features"]


def test_a_plan_that_fails_before_anything_was_built_leaves_a_record_without_code(env: AgiEnv, tmp_path: Path) -> None:
    own = AgiEnv(env.project.root, home=tmp_path / "home", wenv=tmp_path / "wenv")
    run = AGI.run(own, own.request({"plan": {}}))
    assert run.state == "failed"
    assert (run.manifest["code"], run.manifest["environment"]) == (None, None)
    conform(run.manifest, "agilab.run/1")
    assert manifest.verify(run.paths).ok
    assert not own.wenv.environments.exists()


def test_what_inline_runs_in_is_this_python_and_not_isolated(env: AgiEnv, tmp_path: Path) -> None:
    with Bench(env, "inline", tmp_path) as bench:
        run = bench.run(Stage("first", [do("a", ["write", "x", 1])])).check()
    found = run.manifest["environment"]
    assert (found["isolated"], found["python"]) == (False, current_interpreter().version)
    assert manifest.verify(run.paths).ok
    conform(run.manifest, "agilab.run/1")


def test_commit_and_changes_of_a_project_that_git_keeps_are_recorded(env: AgiEnv, tmp_path: Path) -> None:
    root = make_survey(tmp_path)
    own = AgiEnv(root, home=tmp_path / "home", wenv=env.wenv.root)

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *identity, *words], cwd=root, capture_output=True, text=True, check=True).stdout

    AGI.install(own)  # which writes the worker's lock
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = AGI.run(own, own.request()).check()
    assert clean.manifest["code"]["git"] == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    manager = root / "src/survey/__init__.py"
    manager.write_text(manager.read_text() + "# edited\n")
    edited = AGI.run(own, own.request()).check()
    assert edited.manifest["code"]["git"]["dirty"] is True
    assert edited.manifest["code"]["manager_digest"] != clean.manifest["code"]["manager_digest"]
    assert [(item["path"], item["size_bytes"]) for item in clean.manifest["inputs"]] == [
        ("tables/a.csv", 4),
        ("tables/b.csv", 6),
    ]
    conform(edited.manifest, "agilab.run/1")


def test_the_command_that_reproduces_a_run_does(env: AgiEnv, tmp_path: Path) -> None:
    root = make_survey(tmp_path)
    own = AgiEnv(root, home=tmp_path / "home", wenv=env.wenv.root)
    run = AGI.run(own, own.request({"model": {"depth": 7}}, seed=3)).check()
    _, *words = shlex.split(run.manifest["reproduce"])
    variables = {"AGILAB_APPS": str(tmp_path), "AGILAB_HOME": str(own.home.root), "AGILAB_WENV": str(own.wenv.root)}
    done = subprocess.run(
        [sys.executable, "-m", "agilab", *words, "--json"],
        cwd=run.paths.root,
        env={**os.environ, **variables},
        capture_output=True,
        check=True,
    )
    again = own.runs.get(json.loads(done.stdout)["run_id"])
    assert again.run_id != run.run_id
    assert again.request["digest"] == run.request["digest"]
    assert hashes(again) == hashes(run)
    assert manifest.verify(run.paths).ok


def test_records_outside_of_runs_conform_too(runs: Mapping[str, Run], env: AgiEnv) -> None:
    found: list[tuple[Path, str]] = [
        (env.home.marker, "agilab.home/1"),
        (env.wenv.marker, "agilab.home/1"),
        (env.wenv.package("probe") / "worker_manifest.json", "agilab.worker/1"),
        *((path, "agilab.environment/1") for path in env.wenv.environments.glob("*/agilab-environment.json")),
    ]
    for path, schema in found:
        conform(read_json(path, schema), schema)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run.paths.root / "added.txt").write_text("added"),
        lambda run: run.paths.events.write_bytes(run.paths.events.read_bytes() + b"\n"),
        lambda run: run.paths.request.write_text("{}"),
    ],
)
def test_a_change_to_a_real_run_is_found(env: AgiEnv, tmp_path: Path, damage: Callable[[Run], Any]) -> None:
    own = AgiEnv(env.project.root, home=tmp_path / "home", wenv=env.wenv.root)
    with Bench(own, "local", tmp_path) as bench:
        run = bench.run(Stage("first", [do("a", ["write", "x", 1])])).check()
    assert manifest.verify(run.paths).ok
    damage(run)
    assert not manifest.verify(run.paths).ok
