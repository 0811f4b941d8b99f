"""The seal: what it writes, and that no change of a sealed folder goes unnoticed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource
from run_folder import RunFolder, sealed_run

from agilab import artifact, manifest, paths, records, sums, verification, worker
from agilab.digest import of_bytes, of_json
from agilab.errors import EvidenceError, NoSpaceError, RunStateError
from agilab.paths import RunPaths, write_json
from agilab.request import RunRequest

SCHEMAS = {
    path.stem: json.loads(path.read_text()) for path in Path(manifest.__file__).with_name("schemas").glob("*.json")
}
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)


def conform(value: object, schema: str) -> None:
    """Fail unless a value is what a shipped schema says."""
    validator = jsonschema.Draft202012Validator(SCHEMAS[schema.replace("/", "-")], registry=REGISTRY)
    validator.validate(value)


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


def test_sha256sum_agrees_with_the_seal(run: RunPaths) -> None:
    command = ["sha256sum", "--check", "--strict", "--quiet", "manifest-sha256.txt"]
    assert subprocess.run(command, cwd=run.root, capture_output=True).returncode == 0


def test_the_seal_lists_every_file_but_lock_staging_sidecar_and_itself(run: RunPaths, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, app="other").commit_all()
    for path in (folder.paths.owner, folder.paths.staging / "p9.1" / "half", folder.paths.sidecar / "tags.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("outside")
    folder.seal()
    listed = {line.split("  ")[1] for line in folder.paths.sums.read_text().splitlines()}
    assert not [path for path in listed if path.startswith((".owner", ".staging", "sidecar", "manifest-sha256"))]
    assert {"request.json", "events.jsonl", "run_manifest.json", "partitions/local-1.jsonl"} < listed
    assert manifest.verify(folder.paths).ok


def test_records_of_a_run_conform_to_the_shipped_schemas(run: RunPaths) -> None:
    conform(json.loads(run.manifest.read_text()), "agilab.run/1")
    conform(json.loads(run.request.read_text()), "agilab.request/1")
    for path in run.plans.iterdir():
        conform(json.loads(path.read_text()), "agilab.stage/1")
    for record in records.read_records(run):
        conform(record, "agilab.partition/1")
    for line in run.events.read_text().splitlines():
        conform(json.loads(line), "agilab.events/1")


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_shipped_schema_is_a_schema_that_refuses_unknown_fields(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    for kind in schema.get("oneOf", [schema]):
        assert kind["additionalProperties"] is False
        assert set(kind["required"]) <= set(kind["properties"])


def test_a_record_with_an_unsafe_path_does_not_conform(run: RunPaths) -> None:
    record = next(iter(records.read_records(run)))
    for path in ("/etc/passwd", "artifacts/../../x", "a//b", "./a", "a/", "", "a\\b", "a\nb"):
        record["artifacts"][0]["path"] = path
        with pytest.raises(jsonschema.ValidationError):
            conform(record, "agilab.partition/1")
        assert not sums.safe_path(path)


def test_the_request_digest_is_the_one_that_requests_are_made_with() -> None:
    request = RunRequest("flights", "uuid", of_bytes(b"code"), {"a": [1]}, {"backend": "local"}, seed=3)
    assert records.request_digest(request.to_json()) == request.digest


def test_names_that_two_modules_know_are_the_same(run: RunPaths) -> None:
    assert records.COPY == worker.RECORD_NAME
    assert artifact.Artifact.from_json(next(iter(records.read_records(run)))["artifacts"][0]).name == "points"


def test_the_digest_of_the_records_is_what_sort_and_sha256sum_print(run: RunPaths) -> None:
    command = "cat partitions/*.jsonl | LC_ALL=C sort | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=run.root, capture_output=True, text=True).stdout.split()[0]
    assert json.loads(run.manifest.read_text())["partitions"]["digest"] == printed


def test_the_manifest_repeats_the_first_thousand_records_and_covers_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.commit("tracks", "p0", files={"points": b"1"})
    many = [{**folder.records[0], "partition": f"p{number}"} for number in range(1200)]
    built = manifest.build(folder.facts(), many)
    assert [record["partition"] for record in built["partitions"]["first"]] == [f"p{number}" for number in range(1000)]
    assert built["partitions"]["committed"] == 1200
    lines = [manifest.record_line(record) for record in many]
    assert built["partitions"]["digest"] == of_bytes(b"".join(sorted(lines)))
    assert manifest.build(folder.facts(), many, lines=lines) == built


def test_a_manifest_with_missing_or_unknown_facts_is_refused(tmp_path: Path) -> None:
    facts = RunFolder(tmp_path).facts()
    del facts["reproduce"]
    with pytest.raises(EvidenceError, match="reproduce, surprise"):
        manifest.build({**facts, "surprise": 1}, [])


def test_numbers_and_texts_that_json_lacks_do_not_stop_the_seal(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.commit("tracks", "p0", files={"points": b"1"})
    record = {**folder.records[0], "metrics": [{"name": "loss", "value": float("nan"), "step": 1}]}
    assert json.loads(manifest.record_line(record))["metrics"][0]["value"] == "NaN"
    built = manifest.build({**folder.facts(), "metrics": {"loss": float("-inf")}, "error": "lone \ud800"}, [record])
    folder.log.close()
    manifest.seal(folder.paths, built, {})
    written = json.loads(folder.paths.manifest.read_text())
    assert written["metrics"] == {"loss": "-Infinity"}
    assert written["error"] == "lone ?"


def test_a_run_that_failed_before_it_was_planned_is_sealed_and_verifies(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log.append("state", {"state": "sealing", "outcome": "failed", "error": "no uv"})
    folder.log.close()
    facts = {**folder.facts("failed", "no uv"), "started": None, "code": None, "environment": None}
    built = manifest.build(facts, [])
    conform(built, "agilab.run/1")
    manifest.seal(folder.paths, built, {})
    assert manifest.verify(folder.paths).problems == ()


def test_a_seal_is_never_written_over(run: RunPaths) -> None:
    before = run.sums.read_bytes()
    with pytest.raises(RunStateError, match="has a seal already"):
        manifest.seal(run, {}, {})
    assert run.sums.read_bytes() == before


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "odd name"])
def test_a_folder_with_anything_but_files_is_not_sealed_until_that_is_set_aside(tmp_path: Path, kind: str) -> None:
    folder = RunFolder(tmp_path).commit_all()
    odd = folder.paths.logs / ("new\nline" if kind == "odd name" else "odd")
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "odd name":
        odd.write_text("x")
    else:
        odd.symlink_to(folder.paths.request if kind == "link" else "/nowhere")
    with pytest.raises(EvidenceError, match="cannot be sealed: logs/"):
        folder.seal()
    assert not folder.paths.manifest.exists()
    moved = manifest.set_aside(folder.paths, {(item["stage"], item["partition"]) for item in folder.records})
    assert list(moved) == [f"logs/{odd.name}"]
    folder.log = type(folder.log)(folder.paths.events)
    assert manifest.verify(folder.seal()).ok


def test_a_file_that_went_after_it_was_hashed_keeps_the_run_from_being_sealed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).commit_all()
    (folder.paths.partition("tracks", "p1") / "points.txt").unlink()
    with pytest.raises(EvidenceError, match=r"lost artifacts/tracks/p1/points\.txt"):
        folder.seal()
    assert not folder.paths.sums.exists()


def test_partition_folders_without_a_record_are_set_aside(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).commit_all()
    late = paths.make_folder(folder.paths.partition("tracks", "late"))
    (late / "points.txt").write_text("late")
    committed = {(item["stage"], item["partition"]) for item in folder.records}
    assert manifest.set_aside(folder.paths, committed) == {"artifacts/tracks/late": "uncommitted"}
    assert not late.exists()
    assert manifest.set_aside(folder.paths, committed) == {}
    assert manifest.verify(folder.seal()).ok


def test_leftovers_of_interrupted_writes_are_swept_by_the_seal(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).commit_all()
    for name in (".run_manifest.json.4711.tmp", "plan/.tracks.json.4711.tmp"):
        (folder.paths.root / name).write_text("half")
    run = folder.seal()
    assert not list(run.root.rglob("*.tmp"))
    assert manifest.verify(run).ok


def test_a_full_disk_leaves_no_seal_and_no_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path).commit_all()
    folder.log.append("state", {"state": "sealing", "outcome": "succeeded", "error": None})
    folder.log.close()
    built = manifest.build(folder.facts(), folder.records)
    real = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "manifest-sha256.txt":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(NoSpaceError, match="no space on disk while writing"):
        manifest.seal(folder.paths, built, folder.known)
    assert not manifest.is_sealed(folder.paths)
    assert not list(folder.paths.root.rglob("*.tmp"))
    monkeypatch.undo()
    manifest.seal(folder.paths, built, folder.known)
    assert manifest.verify(folder.paths).ok


def test_a_run_is_sealed_only_while_its_seal_names_its_manifest(run: RunPaths) -> None:
    assert manifest.is_sealed(run)
    data = run.manifest.read_bytes()
    run.manifest.write_bytes(data + b" ")
    assert not manifest.is_sealed(run)
    run.manifest.write_bytes(data)
    assert manifest.is_sealed(run)
    text = run.sums.read_bytes()
    run.sums.write_bytes(b"".join(text.splitlines(keepends=True)[:-1]))
    assert not manifest.is_sealed(run)
    run.sums.unlink()
    assert not manifest.is_sealed(run)


def test_the_line_of_the_manifest_is_found_in_a_long_list(run: RunPaths) -> None:
    late = [f"{'0' * 64}  seals/1/{number:06d}\n" for number in range(3000)]
    run.sums.write_text(run.sums.read_text() + "".join(late))
    assert manifest.is_sealed(run)


def test_twenty_thousand_known_files_are_sealed_in_a_blink(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for number in range(20):
        made = paths.make_folder(folder.paths.artifacts / "s" / f"p{number}")
        for item in range(1000):
            os.close(os.open(f"{made}/{item}", os.O_CREAT | os.O_WRONLY))
            folder.known[f"artifacts/s/p{number}/{item}"] = "0" * 64
    folder.log.close()
    built = manifest.build(folder.facts(), [])
    before = time.process_time()
    manifest.seal(folder.paths, built, folder.known)
    assert time.process_time() - before < 0.3
    assert len(folder.paths.sums.read_text().splitlines()) == 20_003


# --- tampering ---------------------------------------------------------------


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
    folder.commit("tracks", "p0", files={"points": b"1", "far": b"2"})
    record = folder.records[0]
    record["artifacts"][1] |= {"location": "host-b", "hashed_by": "worker"}
    line = manifest.record_line(record)
    folder.paths.records("local-0").write_bytes(line)
    (folder.paths.partition("tracks", "p0") / "partition.json").write_bytes(line)
    (folder.paths.partition("tracks", "p0") / "far.txt").unlink()
    folder.known.clear()
    folder.plan()
    folder.commit("summary", "summary", files={})
    found = manifest.verify(folder.seal())
    assert found.ok
    assert found.elsewhere == (("artifacts/tracks/p0/far.txt", "host-b"),)


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


def test_the_digest_of_a_manifest_names_its_run(run: RunPaths) -> None:
    value = json.loads(run.manifest.read_text())
    assert of_json(value["request"]) == of_json(json.loads(run.request.read_text()))
