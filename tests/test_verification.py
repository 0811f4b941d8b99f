"""`verify`: no change of a sealed folder goes unnoticed, and every problem is named."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agilab import manifest, records, recovery, sums, verification
from agilab.digest import of_bytes
from agilab.events import EventLog
from agilab.paths import RunPaths, write_json
from tests.run_folder import RunFolder, conform, sealed_run


def problems(paths: RunPaths) -> set[tuple[str, str]]:
    """Return path and kind of everything that `verify` finds."""
    found = manifest.verify(paths)
    conform(found.to_json(), "agilab.verification/1")
    return {(problem.path, problem.problem) for problem in found.problems}


def reseal(paths: RunPaths) -> None:
    """Write the list of sums anew, as somebody would who hides what was changed."""
    files, _ = sums.walk(str(paths.root))
    listed = {path: sums.hash_file(f"{paths.root}/{path}")[0] for path in files}
    paths.sums.write_bytes(sums.to_text(listed))


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return sealed_run(tmp_path)


def test_a_sealed_run_verifies_and_names_nothing(run: RunPaths) -> None:
    found = manifest.verify(run)
    assert found.ok
    assert found.problems == ()
    assert found.checked == len([path for path in run.root.rglob("*") if path.is_file()]) - 1


def test_every_kind_of_change_is_named_with_both_digests(run: RunPaths) -> None:
    points = run.partition("tracks", "p0") / "points.txt"
    before = of_bytes(points.read_bytes())
    points.write_bytes(b"other")
    (run.logs / "local-0.log").unlink()
    (run.logs / "new.log").write_text("new")
    found = manifest.verify(run)
    assert not found.ok
    assert found.problems == (
        verification.Problem("artifacts/tracks/p0/points.txt", "changed", before, of_bytes(b"other")),
        verification.Problem("logs/local-0.log", "missing", of_bytes(b"hello \x1b[31mred\x1b[0m\n"), "no file"),
        verification.Problem("logs/new.log", "unlisted", "no file", "a file that the seal does not list"),
    )


def test_links_are_named_and_never_followed(run: RunPaths, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    points = run.partition("tracks", "p0") / "points.txt"
    points.rename(outside)
    points.symlink_to(outside)
    (run.root / "seals").symlink_to("/")
    (run.root / "sidecar").symlink_to(tmp_path)
    os.mkfifo(run.logs / "pipe")
    assert problems(run) == {
        ("artifacts/tracks/p0/points.txt", "link"),
        ("seals", "link"),
        ("sidecar", "link"),
        ("logs/pipe", "odd"),
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0" * 64 + "  ../../outside", "unsafe"),
        ("0" * 64 + "  /etc/passwd", "unsafe"),
        ("0" * 64 + "  a//b", "unsafe"),
        ("0" * 64 + "  .owner", "unsafe"),
        ("0" * 64 + "  sidecar/tags.json", "unsafe"),
        ("0" * 64 + "  manifest-sha256.txt", "unsafe"),
        ("0" * 64 + "  request.json", "duplicate"),
        ("0" * 63 + "  request.json", "bad line"),
        ("A" * 64 + "  request.json", "bad line"),
        ("0" * 64 + " *request.json", "bad line"),
        ("  request.json", "bad line"),
        ("", "bad line"),
    ],
)
def test_a_bad_line_in_the_seal_is_a_problem(run: RunPaths, line: str, problem: str) -> None:
    run.sums.write_text(run.sums.read_text() + line + "\n")
    assert problem in {kind for _, kind in problems(run)}


def test_the_seal_has_one_way_to_be_written(run: RunPaths) -> None:
    text = run.sums.read_text()
    lines = text.splitlines(keepends=True)
    for other in (text[:-1], text + "\n", "".join(reversed(lines)), text.replace("\n", "\r\n"), "\n" + text, ""):
        run.sums.write_text(other, newline="")
        assert problems(run)


def test_a_run_without_a_seal_is_unsealed_and_its_artifacts_are_checked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).commit_all()
    folder.log.close()
    assert problems(folder.paths) == {("manifest-sha256.txt", "unsealed")}
    (folder.paths.partition("tracks", "p0") / "points.txt").write_text("other")
    (folder.paths.partition("tracks", "p1") / "points.txt").unlink()
    assert problems(folder.paths) == {
        ("manifest-sha256.txt", "unsealed"),
        ("artifacts/tracks/p0/points.txt", "mismatch"),
        ("artifacts/tracks/p1/points.txt", "missing"),
    }


def test_an_empty_or_missing_folder_is_a_problem_and_no_error(tmp_path: Path) -> None:
    assert not manifest.verify(RunPaths(tmp_path)).ok
    assert not manifest.verify(RunPaths(tmp_path / "missing")).ok


def test_a_run_copied_over_another_id_is_noticed_and_one_taken_away_verifies(run: RunPaths, tmp_path: Path) -> None:
    replayed = run.root.with_name("20240101-000000-abcd")
    shutil.copytree(run.root, replayed)
    assert problems(RunPaths(replayed)) == {("run_manifest.json", "mismatch")}
    taken = tmp_path / "evidence"
    shutil.copytree(run.root, taken)
    assert manifest.verify(RunPaths(taken)).ok


def test_artifacts_on_another_host_are_named_and_not_missed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, partitions=1)
    folder.away = frozenset({"note"})
    found = manifest.verify(folder.commit_all().seal())
    assert found.ok
    assert found.elsewhere == (("artifacts/tracks/p0/note.txt", "alpha"),)


def test_a_file_that_should_lie_on_another_host_is_no_part_of_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, partitions=1)
    folder.away = frozenset({"note"})
    folder.commit_all()
    (folder.paths.root / "artifacts/tracks/p0/note.txt").write_text("mine")
    assert problems(folder.seal()) == {("artifacts/tracks/p0/note.txt", "mismatch")}


Edit = Callable[[RunPaths], None]


def edit_json(path: Path, *steps: str | int, value: object) -> None:
    """Change one value of a JSON file."""
    data = json.loads(path.read_text())
    place = data
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    write_json(path, data)


def edit_record(paths: RunPaths, change: dict[str, Any], *, line: bool, copy: bool, first: bool, total: bool) -> None:
    """Change the record of partition p0 in some of the places that hold it."""
    lines = []
    for record in records.read_records(paths):
        if record["partition"] == "p0":
            changed = manifest.record_line({**record, **change})
            if copy:
                (paths.partition("tracks", "p0") / "partition.json").write_bytes(changed)
        lines.append((record["worker"], manifest.record_line(record), record["partition"]))
    new = {name: [changed if ident == "p0" else old for who, old, ident in lines if who == name] for name, *_ in lines}
    if line:
        for name, kept in new.items():
            paths.records(name).write_bytes(b"".join(kept))
    if first:
        edit_json(paths.manifest, "partitions", "first", 0, value=json.loads(changed))
    if total:
        digest = records.records_digest([item for kept in new.values() for item in kept])
        edit_json(paths.manifest, "partitions", "digest", value=digest)


def changed_artifact(paths: RunPaths) -> None:
    (paths.partition("tracks", "p0") / "points.txt").write_bytes(b"false\n")


def changed_setting(paths: RunPaths) -> None:
    edit_json(paths.request, "settings", "sample_s", value=61)


def changed_setting_everywhere_but_the_digest(paths: RunPaths) -> None:
    changed_setting(paths)
    edit_json(paths.manifest, "request", "settings", "sample_s", value=61)


def changed_plan(paths: RunPaths) -> None:
    edit_json(paths.plan("tracks"), "partitions", 0, "params", "number", value=2)


def changed_input(paths: RunPaths) -> None:
    edit_json(paths.manifest, "inputs", 0, "sha256", value="0" * 64)


def second_record(paths: RunPaths) -> None:
    with open(paths.records("local-0"), "ab") as file:
        file.write(paths.records("local-1").read_bytes())


def record_that_names_a_path_outside(paths: RunPaths) -> None:
    record = next(item for item in records.read_records(paths) if item["partition"] == "p0")
    artifacts = [{**record["artifacts"][0], "path": "../../../../etc/passwd"}, record["artifacts"][1]]
    edit_record(paths, {"artifacts": artifacts}, line=True, copy=True, first=True, total=True)


def record_with_a_weak_hash(paths: RunPaths) -> None:
    record = next(item for item in records.read_records(paths) if item["partition"] == "p0")
    artifacts = [{**record["artifacts"][0], "sha256": "d41d8cd98f00b204e9800998ecf8427e"}, record["artifacts"][1]]
    edit_record(paths, {"artifacts": artifacts}, line=True, copy=True, first=True, total=True)


def record_of_another_input(paths: RunPaths) -> None:
    inputs = [{"name": "flights", "sha256": "1" * 64, "size_bytes": 6}]
    edit_record(paths, {"inputs": inputs}, line=True, copy=True, first=True, total=True)


def record_nobody_planned(paths: RunPaths) -> None:
    edit_json(paths.plan("tracks"), "partitions", 0, "id", value="p9")
    edit_json(paths.manifest, "stages", 0, "plan_sha256", value=of_bytes(paths.plan("tracks").read_bytes()))


def artifact_nobody_recorded(paths: RunPaths) -> None:
    (paths.partition("tracks", "p0") / "more.txt").write_text("more")


def worker_that_hashed_itself(paths: RunPaths) -> None:
    record = next(item for item in records.read_records(paths) if item["partition"] == "p0")
    artifacts = [{**item, "hashed_by": "worker"} for item in record["artifacts"]]
    edit_record(paths, {"artifacts": artifacts}, line=True, copy=True, first=True, total=True)


def fewer_partitions(paths: RunPaths) -> None:
    shutil.rmtree(paths.partition("tracks", "p1"))
    paths.records("local-1").unlink()


def failure_called_success(paths: RunPaths) -> None:
    text = paths.events.read_text().replace('"outcome":"succeeded"', '"outcome":"failed"')
    paths.events.write_text(text)


def other_lock(paths: RunPaths) -> None:
    edit_json(paths.manifest, "environment", "lock", value="pyarrow==16\n")


def other_app(paths: RunPaths) -> None:
    edit_json(paths.manifest, "app", "uuid", value="another")


def manifest_that_is_a_list(paths: RunPaths) -> None:
    paths.manifest.write_text("[]\n")


def manifest_without_fields(paths: RunPaths) -> None:
    paths.manifest.write_text('{"schema": "agilab.run/1"}\n')


def manifest_nested_without_end(paths: RunPaths) -> None:
    paths.manifest.write_text("[" * 100_000)


def records_that_are_no_objects(paths: RunPaths) -> None:
    paths.records("local-0").write_bytes(b'{"schema": "agilab.partition/1", "partition": [], "stage": {}}\n[]\n')


@pytest.mark.parametrize(
    "edit",
    [
        changed_artifact,
        changed_setting,
        changed_setting_everywhere_but_the_digest,
        changed_plan,
        changed_input,
        second_record,
        record_that_names_a_path_outside,
        record_with_a_weak_hash,
        record_of_another_input,
        record_nobody_planned,
        artifact_nobody_recorded,
        worker_that_hashed_itself,
        fewer_partitions,
        failure_called_success,
        other_lock,
        other_app,
        manifest_that_is_a_list,
        manifest_without_fields,
        manifest_nested_without_end,
        records_that_are_no_objects,
    ],
)
def test_records_that_contradict_each_other_are_noticed_although_the_seal_was_rewritten(
    run: RunPaths, edit: Edit
) -> None:
    edit(run)
    reseal(run)
    assert problems(run)


@pytest.mark.parametrize("left_out", ["line", "copy", "first", "total"])
def test_a_record_edited_everywhere_but_in_one_place_is_noticed(run: RunPaths, left_out: str) -> None:
    places = {name: name != left_out for name in ("line", "copy", "first", "total")}
    edit_record(run, {"wall_s": 0.5}, **places)
    reseal(run)
    assert problems(run)


def test_what_needs_a_signature_is_stated_by_a_test(run: RunPaths) -> None:
    edit_record(run, {"wall_s": 0.5}, line=True, copy=True, first=True, total=True)
    reseal(run)
    assert manifest.verify(run).ok, "a folder that was rewritten as a whole cannot be told from a true one"


def random_change(paths: RunPaths, random_: random.Random) -> str:
    """Change something in a run folder and say what."""
    files = sorted(path for path in paths.root.rglob("*") if path.is_file() and path != paths.owner)
    path = random_.choice([item for item in files if item.stat().st_size])
    data = path.read_bytes()
    place = random_.randrange(len(data))
    kind = random_.choice(["flip", "cut", "grow", "insert", "delete", "add", "swap", "link", "rename", "hard link"])
    if kind == "flip":
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << random_.randrange(8))]) + data[place + 1 :])
    elif kind == "cut":
        path.write_bytes(data[:place])
    elif kind == "grow":
        path.write_bytes(data + random_.choice([b"\n", b" ", b"\0", b"{}\n", data]))
    elif kind == "insert":
        path.write_bytes(data[:place] + random_.choice([b"\n", b" ", b"0"]) + data[place:])
    elif kind == "delete":
        path.unlink()
    elif kind == "add":
        random_.choice([path.with_name("new"), path.with_name(".new.1.tmp"), paths.root / "ro-crate.json"]).write_text(
            ""
        )
    elif kind == "swap":
        other = random_.choice([item for item in files if item.read_bytes() != data])
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif kind == "link":
        target = paths.root.parent / "target"
        path.replace(target)
        path.symlink_to(target)
    elif kind == "rename":
        path.rename(path.with_name(path.name + "x"))
    else:
        path.with_name("twin").hardlink_to(path)
    return f"{kind} {path.relative_to(paths.root)} at {place}"


def test_no_random_change_of_a_sealed_folder_goes_unnoticed(run: RunPaths, tmp_path: Path) -> None:
    missed = []
    for seed in range(150):
        folder = tmp_path / "copies" / str(seed) / run.run_id
        shutil.copytree(run.root, folder)
        change = random_change(RunPaths(folder), random.Random(seed))
        if manifest.verify(RunPaths(folder)).ok:
            missed.append((seed, change))
        shutil.rmtree(folder.parent)
    assert missed == []


# --- what was prepared, superseded, added --------------------------------------------


def resumed(home: Path) -> RunPaths:
    """Return a run that was cancelled, taken up again and sealed."""
    folder = RunFolder(home).commit_all()
    paths = folder.seal("cancelled")
    recovery.take_up(paths, resumes=True)
    folder.log = EventLog(paths.events)
    folder.log.append("resumed", {"attempt": 2, "committed": 4})
    folder.log.append("state", {"state": "sealing", "outcome": "succeeded", "error": None})
    folder.log.close()
    manifest.seal(paths, manifest.build({**folder.facts(), "attempt": 2}, folder.records), folder.known)
    return paths


def test_a_run_that_was_taken_up_verifies_with_its_earlier_seal(tmp_path: Path) -> None:
    found = manifest.verify(resumed(tmp_path))
    assert found.ok, found.problems
    assert found.superseded == (1,)
    conform(found.to_json(), "agilab.verification/1")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("seals/1/run_manifest.json", "seals/1/manifest-sha256.txt"),
        ("seals/1/events.jsonl", "seals/1/manifest-sha256.txt"),
        ("seals/1/plan/tracks.json", "seals/1/manifest-sha256.txt"),
        ("artifacts/tracks/p0/points.txt", "artifacts/tracks/p0/points.txt"),
    ],
)
def test_an_earlier_seal_that_does_not_hold_is_named_even_when_the_last_one_was_rewritten(
    tmp_path: Path, path: str, problem: str
) -> None:
    paths = resumed(tmp_path)
    with open(paths.root / path, "ab") as file:
        file.write(b"\n")
    assert (path, "changed") in problems(paths)
    reseal(paths)
    assert (problem, "mismatch") in problems(paths)


def test_earlier_seals_are_whole_or_named(tmp_path: Path) -> None:
    paths = resumed(tmp_path)
    (paths.seals / "1" / "manifest-sha256.txt").unlink()
    (paths.seals / "notes").mkdir()
    (paths.seals / "notes" / "extra.txt").write_text("not a seal")
    reseal(paths)
    assert {("seals/1", "mismatch"), ("seals/notes", "mismatch")} <= problems(paths)


def test_the_number_of_attempts_is_that_of_the_log(tmp_path: Path) -> None:
    paths = resumed(tmp_path)
    value = json.loads(paths.manifest.read_bytes())
    write_json(paths.manifest, {**value, "attempt": 3})
    reseal(paths)
    assert ("events.jsonl", "mismatch") in problems(paths)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", {"code_digest": of_bytes(b"other code")}),
        ("stages", [{"stage": "other", "after": [], "retries": 0}]),
        ("inputs", [{"path": "other.csv", "size_bytes": 1, "sha256": of_bytes(b"x")}]),
        ("schema", "agilab.prepared/9"),
    ],
)
def test_what_was_prepared_has_to_agree_with_the_manifest(run: RunPaths, field: str, value: object) -> None:
    write_json(run.prepared, {**json.loads(run.prepared.read_bytes()), field: value})
    assert ("prepared.json", "changed") in problems(run)
    reseal(run)
    found = problems(run)
    assert ("prepared.json", "mismatch") in found or ("run_manifest.json", "unreadable") in found


def test_what_was_added_later_is_reported_apart(run: RunPaths) -> None:
    (run.sidecar / "deep").mkdir(parents=True)
    (run.sidecar / "tags.json").write_text("{}")
    (run.sidecar / "deep" / "note.txt").write_text("a note")
    found = manifest.verify(run)
    assert found.ok
    assert dict(found.sidecar) == {
        "sidecar/tags.json": of_bytes(b"{}"),
        "sidecar/deep/note.txt": of_bytes(b"a note"),
    }
    (run.sidecar / "out").symlink_to("/etc")
    assert problems(run) == {("sidecar/out", "link")}
