"""A folder whose supervisor has gone is brought back to its durable records, by one process only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, Run, manifest, recovery
from agilab.errors import EvidenceError, RunStateError
from agilab.owner import hold_owner
from agilab.paths import RunPaths
from agilab.records import record_line
from agilab.testing.probe import events
from tests.run_folder import RunFolder, sealed_run


def lost(home: Path) -> RunFolder:
    """Return a run that has committed everything and has no seal."""
    folder = RunFolder(home).commit_all()
    folder.log.close()
    return folder


def ours(folder: Path) -> AgiEnv:
    """Return an environment whose folders are AGILAB's own already."""
    env = AgiEnv(home=folder / "home", wenv=folder / "wenv")
    env.prepare()
    return env


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- what is taken up --------------------------------------------------------------


def test_what_lies_on_hosts_is_taken_up_by_its_record(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.away = frozenset({"points"})
    folder.commit_all().seal("failed", "it broke")
    past = recovery.take_up(folder.paths, resumes=True)
    assert set(past.records) == {"p0", "p1", "p2", "summary"}
    assert past.records["p0"]["artifacts"][0]["location"] == "alpha"
    assert not any(path.endswith("points.txt") for path in past.hashes)
    assert "artifacts/tracks/p0/note.txt" in past.hashes


def test_what_is_recorded_stays_and_what_is_not_makes_room(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    paths = folder.paths
    stray = paths.partition("tracks", "p9")
    stray.mkdir()
    (stray / "points.txt").write_text("never recorded")
    (paths.staging / "p8.1").mkdir()
    paths.cancel_request.write_text("{}")
    with open(paths.records("local-0"), "ab") as file:
        file.write(b'{"schema":"agilab.partition/1","partition":"p9","sta')

    past = recovery.take_up(paths, resumes=True)

    assert set(past.records) == {"p0", "p1", "p2", "summary"}
    assert past.told == set(past.records)
    assert past.attempts == dict.fromkeys(past.records, 1)
    assert (past.attempt, past.started) == (1, "2023-11-14T22:13:20.000000Z")
    assert set(past.plans) == {"tracks", "summary"}
    assert not stray.exists()
    assert not paths.staging.exists()
    assert paths.records("local-0").read_bytes().endswith(b"}\n")
    assert past.hashes == folder.known


def test_a_copy_that_a_power_cut_has_emptied_is_written_again(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    copies = [folder.paths.partition("tracks", name) / "partition.json" for name in ("p0", "p1")]
    copies[0].write_bytes(b"")
    copies[1].unlink()
    recovery.take_up(folder.paths, resumes=True)
    assert [copy.read_bytes() for copy in copies] == [record_line(record) for record in folder.records[:2]]


def test_plans_of_a_run_that_has_dispatched_nothing_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.plan()
    folder.log.close()
    past = recovery.take_up(folder.paths, resumes=True)
    assert (past.prepared, past.plans) == (None, {})
    assert not folder.paths.plans.exists()


@pytest.mark.parametrize("how", ["changed", "missing", "link"])
def test_a_run_whose_artifacts_are_not_what_was_recorded_does_not_go_on(tmp_path: Path, how: str) -> None:
    paths = RunFolder(tmp_path).commit_all().seal("failed", "some reason")
    points = paths.partition("tracks", "p1") / "points.txt"
    points.unlink()
    if how == "changed":
        points.write_text("other points")
    elif how == "link":
        points.symlink_to("/etc/hostname")
    before = contents(paths.root)
    with pytest.raises(EvidenceError, match=r"artifact artifacts/tracks/p1/points\.txt of run .*; run again"):
        recovery.take_up(paths, resumes=True)
    assert contents(paths.root) == before
    assert Run(paths).state == "failed"


def test_a_record_that_points_outside_is_not_followed(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    record = json.loads(record_line(folder.records[0]))
    record["artifacts"][0]["path"] = "../../outside"
    (folder.paths.partitions / "local-9.jsonl").write_bytes(record_line(record))
    with pytest.raises(EvidenceError, match="is recorded outside of the run folder"):
        recovery.take_up(folder.paths, resumes=True)


# --- seals ---------------------------------------------------------------------------


def test_a_superseded_seal_is_kept_with_what_is_going_to_change(tmp_path: Path) -> None:
    paths = RunFolder(tmp_path).commit_all().seal("cancelled")
    before = contents(paths.root)
    for number in (1, 2):
        recovery.take_up(paths, resumes=True)
        assert not paths.sums.exists()
        kept = paths.seals / str(number)
        names = {"manifest-sha256.txt", "run_manifest.json", "events.jsonl", "logs/local-0.log", "plan/tracks.json"}
        assert names <= set(contents(kept))
        assert {name: before[name] for name in names} == {name: contents(kept)[name] for name in names}
        (kept / "manifest-sha256.txt").rename(paths.sums)  # so that there is one to supersede again
        (kept / "run_manifest.json").rename(paths.manifest)


@pytest.mark.parametrize("moved", [("manifest-sha256.txt",), ("manifest-sha256.txt", "run_manifest.json")])
def test_a_seal_that_was_left_on_its_way_arrives(tmp_path: Path, moved: tuple[str, ...]) -> None:
    paths = RunFolder(tmp_path).commit_all().seal("failed", "some reason")
    seal = (paths.sums.read_bytes(), paths.manifest.read_bytes())
    paths.superseded.mkdir(parents=True)
    for name in moved:
        (paths.root / name).rename(paths.superseded / name)
    assert Run(paths).state == "lost"
    recovery.take_up(paths, resumes=False)
    assert [(paths.seals / "1" / name).read_bytes() for name in ("manifest-sha256.txt", "run_manifest.json")] == [*seal]


def test_a_copy_of_a_seal_that_never_left_its_place_is_forgotten(tmp_path: Path) -> None:
    paths = RunFolder(tmp_path).commit_all().seal("failed", "some reason")
    paths.superseded.mkdir(parents=True)
    (paths.superseded / "events.jsonl").write_text("half of it")
    assert Run(paths).state == "failed"
    recovery.take_up(paths, resumes=True)
    assert (paths.seals / "1" / "events.jsonl").read_bytes() == paths.events.read_bytes()


def test_only_what_has_not_succeeded_and_is_whole_may_go_on(tmp_path: Path) -> None:
    succeeded = sealed_run(tmp_path)
    with pytest.raises(RunStateError, match="has succeeded: there is nothing left to do"):
        recovery.require_resumable(succeeded)
    failed = RunFolder(tmp_path, moment=1_700_000_001.0).commit_all().seal("failed", "some reason")
    recovery.require_resumable(failed)
    failed.manifest.write_bytes(failed.manifest.read_bytes() + b" ")
    with pytest.raises(EvidenceError, match="cannot be read; see what is wrong with: agilab verify"):
        recovery.require_resumable(failed)


# --- sealing what was lost ---------------------------------------------------------------


def test_a_lost_run_is_sealed_without_its_project(tmp_path: Path) -> None:
    env = ours(tmp_path)
    folder = lost(env.home.root)
    run = AGI.seal(env, folder.paths.run_id)
    assert (run.state, run.error, run.manifest["attempt"]) == ("failed", "lost", 1)
    assert run.manifest["app"]["version"] == "1.0"
    assert run.manifest["stages"][0]["committed"] == 3
    assert manifest.verify(run.paths).ok, manifest.verify(run.paths).problems


def test_commits_that_a_crash_has_cost_the_log_are_told_again(tmp_path: Path) -> None:
    env = ours(tmp_path)
    folder = lost(env.home.root)
    lines = folder.paths.events.read_bytes().splitlines(keepends=True)
    folder.paths.events.write_bytes(b"".join(lines[:-2]) + lines[-1][:20])  # the commit of p2 and a torn line
    run = AGI.cancel(env, folder.paths.run_id)
    assert run.state == "cancelled"
    assert sorted(one["partition"] for one in events(run, "committed")) == ["p0", "p1", "p2", "summary"]


def test_a_run_that_never_got_a_request_says_so(tmp_path: Path) -> None:
    env = ours(tmp_path)
    folder = lost(env.home.root)
    folder.paths.request.unlink()
    for verb in (AGI.seal, AGI.cancel, AGI.resume):
        with pytest.raises(RunStateError, match="never got a request, so nothing was done; remove"):
            verb(env, folder.paths.run_id)


RACER = """
import sys
from agilab import AGI, AgiEnv
from agilab.errors import AgilabError
home, wenv, verb, run_id = sys.argv[1:]
env = AgiEnv(home=home, wenv=wenv)
print("ready", flush=True)
sys.stdin.readline()
try:
    print("state", getattr(AGI, verb)(env, run_id).state)
except AgilabError as err:
    print("error", err)
"""
"""Seals or cancels a run when it is told to."""


@pytest.mark.parametrize("round_", range(3))
def test_a_lost_run_is_sealed_once_however_many_try(tmp_path: Path, round_: int) -> None:
    """Each tries at the same moment; whoever comes second sees what the first has done."""
    env = ours(tmp_path)
    folder = lost(env.home.root)
    words = (str(env.home.root), str(env.wenv.root))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, *words, verb, folder.paths.run_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for verb in ("seal", "cancel") * 2
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = [racer.communicate(timeout=30)[0].partition(" ") for racer in racers]

    run = Run(folder.paths)
    assert run.state in ("failed", "cancelled")
    assert [one["outcome"] for one in events(run, "state") if one["state"] == "sealing"] == [run.state]
    assert not run.paths.seals.exists()
    assert manifest.verify(run.paths).ok, manifest.verify(run.paths).problems
    assert {said.strip() for what, _, said in told if what == "state"} == {run.state}
    refused = [said for what, _, said in told if what == "error"]
    assert all("only a lost run can be" in said or "ended already" in said or "owned by" in said for said in refused), (
        told
    )


# --- readers -----------------------------------------------------------------------------


def test_readers_write_nothing_whatever_a_run_is_like(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    with open(folder.paths.records("local-0"), "ab") as file:
        file.write(b"half a rec")
    (folder.paths.root / ".run_manifest.json.12.tmp").write_text("half")
    before = contents(folder.paths.root)
    run = Run(folder.paths)
    assert run.state == "lost"
    assert len(run.artifacts()) == 7
    assert list(run.events())
    assert run.logs() == ""
    manifest.verify(folder.paths)
    assert contents(folder.paths.root) == before


def test_a_run_that_is_held_is_not_taken_up(tmp_path: Path) -> None:
    env = ours(tmp_path)
    folder = lost(env.home.root)
    with hold_owner(folder.paths), pytest.raises(RunStateError, match="goes on: it is running"):
        AGI.resume(env, folder.paths.run_id)


def test_a_run_copied_elsewhere_is_read_as_it_is(tmp_path: Path) -> None:
    paths = sealed_run(tmp_path)
    shutil.copytree(paths.root, tmp_path / "elsewhere")
    assert Run(RunPaths(tmp_path / "elsewhere")).state == "succeeded"
