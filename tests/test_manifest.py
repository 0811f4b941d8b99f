"""The seal: what it writes, what it refuses, and when a run counts as sealed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest

from agilab import artifact, manifest, paths, records, sums, worker
from agilab.digest import of_bytes
from agilab.errors import EvidenceError, NoSpaceError, RunStateError
from agilab.paths import RunPaths
from agilab.request import RunRequest
from tests.run_folder import SCHEMAS, RunFolder, conform, sealed_run


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return sealed_run(tmp_path)


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
