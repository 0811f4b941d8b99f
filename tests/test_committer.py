"""A partition is committed when its record is durable; whatever goes wrong before that leaves nothing of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agilab import committer as module
from agilab.committer import Commit, Committer, Finished
from agilab.digest import of_bytes
from agilab.errors import EvidenceError, NoSpaceError
from agilab.paths import RunPaths, make_folder
from agilab.records import read_records


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(make_folder(tmp_path / "20260101-000000-0000"))


@pytest.fixture
def committer(paths: RunPaths) -> Iterator[Committer]:
    made = Committer(paths)
    yield made
    made.close()


def finished(
    paths: RunPaths, partition: str, files: Mapping[str, bytes], *, worker: str = "w0", attempt: int = 1
) -> Finished:
    """Write an attempt's files, as an entry process does, and return what is handed to the committer."""
    folder = make_folder(paths.attempt(partition, attempt))
    artifacts = []
    for name, data in files.items():
        (folder / name).write_bytes(data)
        item = {"stage": "one", "partition": partition, "name": name, "kind": "file", "size_bytes": len(data)}
        path = f"artifacts/one/{partition}/{name}"
        artifacts.append({**item, "path": path, "sha256": "", "hashed_by": "manager", "location": ""})
    record = {"schema": "agilab.partition/1", "partition": partition, "stage": "one", "worker": worker}
    return Finished(str(folder), {**record, "attempt": attempt, "artifacts": artifacts, "metrics": [], "inputs": []})


def outcome(committer: Committer, *items: Finished) -> list[Commit]:
    for item in items:
        committer.put(item)
    found: list[Commit] = []
    while len(found) < len(items):
        new = committer.take(20.0)
        assert new, "nothing came back"
        found += new
    return found


def located(paths: RunPaths, **said: Any) -> Finished:
    """Return a partition that has left ``x.bin`` on host alpha, which says something of it, and ``y.bin`` here."""
    done = finished(paths, "a", {"y.bin": b"12345"})
    there = {**done.record["artifacts"][0], "name": "x.bin", "path": "artifacts/one/a/x.bin", "size_bytes": 9}
    there |= {"sha256": of_bytes(b"far away!"), "hashed_by": "worker", "location": "alpha", **said}
    return Finished(done.folder, {**done.record, "artifacts": [there, *done.record["artifacts"]], "folder": "/far"})


def test_what_stayed_on_a_host_is_recorded_as_that_host_says_and_what_is_here_is_hashed(
    paths: RunPaths, committer: Committer
) -> None:
    [commit] = outcome(committer, located(paths))
    assert commit.error is None
    [record] = read_records(paths)
    assert [(item["name"], item["sha256"], item["hashed_by"], item["location"]) for item in record["artifacts"]] == [
        ("x.bin", of_bytes(b"far away!"), "worker", "alpha"),
        ("y.bin", of_bytes(b"12345"), "manager", ""),
    ]
    assert record["folder"] == "/far"
    assert set(committer.hashes) == {"artifacts/one/a/y.bin", "artifacts/one/a/partition.json"}


@pytest.mark.parametrize(
    "said",
    [
        {"sha256": "0" * 63},
        {"sha256": None},
        {"size_bytes": -1},
        {"size_bytes": "9"},
        {"path": "artifacts/one/a/../../../x.bin"},
        {"path": "artifacts/one/a/partition.json"},
        {"path": "artifacts/one/a/b/x.bin"},
    ],
    ids=str,
)
def test_a_host_that_says_what_cannot_be_is_refused(
    paths: RunPaths, committer: Committer, said: dict[str, Any]
) -> None:
    [commit] = outcome(committer, located(paths, **said))
    assert isinstance(commit.error, EvidenceError)
    assert "host alpha says of artifact 'x.bin'" in str(commit.error)
    assert not paths.partition("one", "a").exists()


def test_a_commit_hashes_moves_and_records(paths: RunPaths, committer: Committer) -> None:
    [commit] = outcome(committer, finished(paths, "a", {"x.bin": b"12345", "y.bin": b""}))
    assert commit.error is None
    folder = paths.partition("one", "a")
    assert sorted(path.name for path in folder.iterdir()) == ["partition.json", "x.bin", "y.bin"]
    [record] = read_records(paths)
    assert [(item["sha256"], item["size_bytes"]) for item in record["artifacts"]] == [
        (of_bytes(b"12345"), 5),
        (of_bytes(b""), 0),
    ]
    assert (folder / "partition.json").read_bytes() == paths.records("w0").read_bytes()
    assert committer.hashes == {
        path.relative_to(paths.root).as_posix(): of_bytes(path.read_bytes()) for path in folder.iterdir()
    }
    assert not paths.attempt("a", 1).exists()


def test_a_large_artifact_has_the_hash_of_all_its_bytes(paths: RunPaths, committer: Committer) -> None:
    data = bytes(range(256)) * 20_000
    [commit] = outcome(committer, finished(paths, "a", {"x.bin": data}))
    assert commit.record["artifacts"][0]["sha256"] == of_bytes(data)


def test_many_partitions_are_recorded_once_each_under_their_worker(paths: RunPaths, committer: Committer) -> None:
    items = [finished(paths, f"p{n}", {"x": str(n).encode()}, worker=f"w{n % 3}") for n in range(300)]
    commits = outcome(committer, *items)
    assert [commit.record["partition"] for commit in commits] == [f"p{number}" for number in range(300)]
    assert {commit.error for commit in commits} == {None}
    records = list(read_records(paths))
    assert sorted(record["partition"] for record in records) == sorted(f"p{number}" for number in range(300))
    assert {path.stem: len(path.read_text().splitlines()) for path in paths.partitions.iterdir()} == {
        "w0": 100,
        "w1": 100,
        "w2": 100,
    }


def test_many_artifacts_in_one_batch_are_all_hashed(paths: RunPaths, committer: Committer) -> None:
    items = [finished(paths, f"p{n}", {f"f{m}": f"{n} {m}".encode() for m in range(20)}) for n in range(40)]
    commits = outcome(committer, *items)
    assert {commit.error for commit in commits} == {None}
    found = {item["path"]: item["sha256"] for commit in commits for item in commit.record["artifacts"]}
    assert len(found) == 800
    assert all(of_bytes((paths.root / path).read_bytes()) == sha for path, sha in found.items())


def test_a_second_attempt_that_comes_late_is_fenced(paths: RunPaths, committer: Committer) -> None:
    outcome(committer, finished(paths, "a", {"x": b"first"}))
    [late] = outcome(committer, finished(paths, "a", {"x": b"second"}, attempt=2))
    assert isinstance(late.error, OSError)
    assert (paths.partition("one", "a") / "x").read_bytes() == b"first"
    assert [record["attempt"] for record in read_records(paths)] == [1]


def test_a_partition_without_artifacts_is_fenced_too(paths: RunPaths, committer: Committer) -> None:
    outcome(committer, finished(paths, "a", {}))
    [late] = outcome(committer, finished(paths, "a", {}, attempt=2))
    assert isinstance(late.error, OSError)
    assert json.loads((paths.partition("one", "a") / "partition.json").read_text())["attempt"] == 1


@pytest.mark.parametrize("trick", ["symlink", "hardlink", "fifo", "missing"])
def test_an_artifact_that_somebody_else_could_change_is_refused(
    paths: RunPaths, committer: Committer, tmp_path: Path, trick: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("outside")
    bad, good = finished(paths, "bad", {"x": b"x"}), finished(paths, "good", {"x": b"x"})
    file = Path(bad.folder) / "x"
    file.unlink()
    if trick == "symlink":
        file.symlink_to(outside)
    elif trick == "hardlink":
        os.link(outside, file)
    elif trick == "fifo":
        os.mkfifo(file)
    one, two = outcome(committer, bad, good)
    errors = {commit.record["partition"]: commit.error for commit in (one, two)}
    assert errors["bad"] is not None
    assert errors["good"] is None
    assert not paths.partition("one", "bad").exists()
    assert [record["partition"] for record in read_records(paths)] == ["good"]


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "fdatasync", "write"])
def test_a_full_disk_fails_the_commit_and_says_so(
    paths: RunPaths, committer: Committer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    item = finished(paths, "a", {"x": b"x"})
    monkeypatch.setattr(module.os, call, full)
    [commit] = outcome(committer, item)
    monkeypatch.undo()
    assert isinstance(commit.error, NoSpaceError)
    assert "no space on disk while" in str(commit.error)
    assert list(read_records(paths)) == []
    [again] = outcome(committer, finished(paths, "a", {"x": b"y"}, attempt=2))
    assert again.error is None
    assert [record["attempt"] for record in read_records(paths)] == [2]
    assert (paths.partition("one", "a") / "x").read_bytes() == b"y"


def test_half_a_record_line_does_not_spoil_the_next_one(
    paths: RunPaths, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome(committer, finished(paths, "a", {"x": b"x"}))
    writes: list[int] = []
    real = os.write

    def torn(fd: int, data: bytes) -> int:
        writes.append(fd)
        if len(writes) == 2:  # the first is the record's copy
            return real(fd, bytes(data)[:10])
        return full() if len(writes) == 3 else real(fd, data)

    item = finished(paths, "b", {"x": b"x"})
    monkeypatch.setattr(module.os, "write", torn)
    [commit] = outcome(committer, item)
    monkeypatch.undo()
    assert isinstance(commit.error, NoSpaceError)
    outcome(committer, finished(paths, "c", {"x": b"x"}))
    assert [record["partition"] for record in read_records(paths)] == ["a", "c"]


def test_a_record_file_that_cannot_be_written_costs_its_worker_only(paths: RunPaths, committer: Committer) -> None:
    make_folder(paths.records("w0"))  # a folder where the file should be
    items = [finished(paths, f"p{number}", {"x": b"x"}, worker=f"w{number % 2}") for number in range(4)]
    commits = {commit.record["partition"]: commit.error for commit in outcome(committer, *items)}
    assert {name for name, error in commits.items() if error is None} == {"p1", "p3"}
    assert sorted(path.name for path in (paths.artifacts / "one").iterdir()) == ["p1", "p3"]


def test_what_was_handed_over_is_finished_when_it_is_closed(paths: RunPaths) -> None:
    made = Committer(paths)
    for number in range(5):
        made.put(finished(paths, f"p{number}", {"x": b"x"}))
    assert len(made.close()) == 5
    assert made.close() == []
    made.put(finished(paths, "later", {"x": b"x"}))  # it opens again
    assert [commit.record["partition"] for commit in made.close()] == ["later"]


def test_nothing_is_committed_without_anything_to_commit(paths: RunPaths) -> None:
    made = Committer(paths)
    assert made.take() == []
    assert made.close() == []
    assert list(paths.root.iterdir()) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_the_background_is_told_to_whoever_waits(
    paths: RunPaths, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(record: Mapping[str, Any]) -> bytes:
        raise RuntimeError("a defect")

    monkeypatch.setattr(module, "record_line", broken)
    for number in range(3):
        [commit] = outcome(committer, finished(paths, f"p{number}", {"x": b"x"}))
        assert isinstance(commit.error, RuntimeError)


def test_a_line_that_a_killed_predecessor_left_half_written_is_cut_off(paths: RunPaths, committer: Committer) -> None:
    make_folder(paths.partitions)
    paths.records("w0").write_bytes(b'{"schema": "agilab.part')
    [commit] = outcome(committer, finished(paths, "a", {"x": b"1"}))
    assert commit.error is None
    assert [record["partition"] for record in read_records(paths)] == ["a"]
