"""`Run` and `RunStore`: what readers see of a run folder in every state, and who owns it."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab.digest import of_bytes
from agilab.errors import (
    AgilabError,
    ArtifactNotFoundError,
    EvidenceError,
    RequestError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    RunStateError,
)
from agilab.manifest import record_line
from agilab.owner import hold_owner, probe_owner, read_owner
from agilab.paths import HomePaths, RunPaths, make_folder
from agilab.run import LOG_LIMIT, Run, RunStore, new_run_id
from tests.run_folder import MOMENT, RunFolder, sealed_run

WaitFor = Callable[[Callable[[], object], float], object]

HOLD = """
import sys
from pathlib import Path
from agilab.owner import hold_owner
from agilab.paths import RunPaths
owner = hold_owner(RunPaths(Path(sys.argv[1])), fd=int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def start_owner(paths: RunPaths, fd: int = -1) -> subprocess.Popen[str]:
    """Start a process that owns a run until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, paths.root, str(fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[fd] if fd >= 0 else [],
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(sealed_run(tmp_path))


# --- state and owner ---------------------------------------------------------


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_sealed_run_has_the_state_of_its_manifest_whoever_holds_the_lock(folder: RunFolder, state: str) -> None:
    run = Run(folder.commit_all().seal(state, "no reason" if state == "failed" else None))
    assert run.state == state
    with hold_owner(run.paths):
        assert Run(run.paths).state == state
    assert repr(run) == f"<Run {run.run_id} of flights: {state}>"


def test_a_run_with_an_owner_has_the_last_state_of_its_log(folder: RunFolder) -> None:
    run = Run(folder.paths)
    with hold_owner(folder.paths):
        assert run.state == "running"
        folder.log.append("log", {"text": '","event":"state","state":"spoofed"'})
        folder.log.append("state", {"state": "sealing", "outcome": "succeeded", "error": None})
        folder.log.append("note", {"text": "after"})
        folder.log.sync()
        assert run.state == "sealing"
        assert Run(folder.paths).state == "sealing"


def test_a_run_without_events_is_queued(tmp_path: Path) -> None:
    paths = RunStore(HomePaths(tmp_path)).create("flights")
    with hold_owner(paths):
        assert Run(paths).state == "queued"


def test_a_run_whose_owner_was_killed_is_lost_at_once(folder: RunFolder) -> None:
    process = start_owner(folder.paths)
    run = Run(folder.paths)
    assert run.state == "running"
    process.kill()
    process.communicate()
    assert run.state == "lost"
    assert run.wait(timeout_s=5).state == "lost"


def test_a_run_that_ends_while_it_is_looked_at_is_never_lost(tmp_path: Path) -> None:
    for number in range(20):
        folder = RunFolder(tmp_path, moment=MOMENT + number).commit_all()
        owner = hold_owner(folder.paths)
        seen: list[str] = []
        started = threading.Event()

        def look(run: Run, seen: list[str], started: threading.Event) -> None:
            while not seen or seen[-1] == "running" or seen[-1] == "sealing":
                seen.append(run.state)
                started.set()

        thread = threading.Thread(target=look, args=(Run(folder.paths), seen, started))
        thread.start()
        started.wait(10)
        folder.seal()
        owner.close()
        thread.join(10)
        assert set(seen) <= {"running", "sealing", "succeeded"}
        assert seen[-1] == "succeeded"


def test_a_seal_that_does_not_fit_is_damage_and_not_a_lost_run(run: Run) -> None:
    run.paths.manifest.write_text(run.paths.manifest.read_text().replace("succeeded", "failed"))
    fresh = Run(run.paths)
    assert fresh.state == "unreadable"
    with pytest.raises(EvidenceError, match="agilab verify"):
        _ = fresh.manifest
    with pytest.raises(EvidenceError, match="cannot be read"):
        fresh.check()


def test_a_run_of_another_host_is_unknown_unless_it_ran_on_the_same_kernel(folder: RunFolder) -> None:
    hold_owner(folder.paths).close()
    here = read_owner(folder.paths)
    assert here is not None
    assert here["pid"] == os.getpid()
    assert here["start_time"] > 0
    assert probe_owner(folder.paths) == "free"
    folder.paths.owner.write_text(json.dumps({**here, "host": "container-b"}))
    assert probe_owner(folder.paths) == "free"
    folder.paths.owner.write_text(json.dumps({**here, "boot_id": "before the reboot"}))
    assert probe_owner(folder.paths) == "free"
    folder.paths.owner.write_text(json.dumps({**here, "host": "host-b", "boot_id": "another"}))
    assert probe_owner(folder.paths) == "unknown"
    run = Run(folder.paths)
    assert run.state == "unknown"
    with pytest.raises(RunStateError, match="is unknown; ask on the host"):
        run.check()
    with pytest.raises(RunStateError, match=r"still unknown after 0\.05 s"):
        run.wait(timeout_s=0.05)


def test_a_filesystem_without_locks_says_unknown(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_owner(folder.paths).close()

    def no_locks(fd: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert probe_owner(folder.paths) == "unknown"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 100])
def test_an_owner_file_that_says_nothing_is_free_when_nobody_locks_it(folder: RunFolder, content: bytes) -> None:
    folder.paths.owner.write_bytes(content)
    assert probe_owner(folder.paths) == "free"
    assert read_owner(folder.paths) is None


def test_an_owner_file_that_is_a_link_or_a_pipe_is_not_opened(folder: RunFolder, tmp_path: Path) -> None:
    folder.paths.owner.symlink_to(tmp_path / "elsewhere")
    assert probe_owner(folder.paths) == "unknown"
    with pytest.raises(OSError, match="symbolic"):
        hold_owner(folder.paths)
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_has_one_owner(folder: RunFolder) -> None:
    process = start_owner(folder.paths)
    with pytest.raises(RunStateError, match=f"owned by process {process.pid} on {os.uname().nodename}; wait for it"):
        hold_owner(folder.paths)
    process.communicate("")
    with hold_owner(folder.paths):
        assert probe_owner(folder.paths) == "held"
    assert probe_owner(folder.paths) == "free"


def test_readers_that_probe_do_not_keep_an_owner_out(folder: RunFolder) -> None:
    hold_owner(folder.paths).close()
    stop = threading.Event()

    def probe() -> None:
        while not stop.is_set():
            probe_owner(folder.paths)

    threads = [threading.Thread(target=probe) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            hold_owner(folder.paths).close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_run(folder: RunFolder) -> None:
    owner = hold_owner(folder.paths)
    fork = multiprocessing.get_context("fork")
    forked, go = fork.Event(), fork.Event()

    def live() -> None:
        forked.set()
        go.wait()

    child = fork.Process(target=live)
    child.start()
    try:
        assert forked.wait(10)
        assert probe_owner(folder.paths) == "held"
        owner.close()
        assert probe_owner(folder.paths) == "free"
    finally:
        go.set()
        child.join()


def test_a_child_that_takes_over_owns_the_run_without_a_gap(folder: RunFolder) -> None:
    owner = hold_owner(folder.paths)
    process = start_owner(folder.paths, owner.fileno())
    owner.close()
    assert probe_owner(folder.paths) == "held"
    found = read_owner(folder.paths)
    assert found is not None
    assert found["pid"] == process.pid
    process.communicate("")
    assert probe_owner(folder.paths) == "free"


def test_probing_writes_nothing(folder: RunFolder) -> None:
    before = sorted(folder.paths.root.rglob("*"))
    assert probe_owner(folder.paths) == "free"
    assert Run(folder.paths).state == "lost"
    assert sorted(folder.paths.root.rglob("*")) == before


# --- waiting, cancelling, checking -------------------------------------------


def test_wait_returns_when_the_run_is_sealed(folder: RunFolder) -> None:
    folder.commit_all()
    run = Run(folder.paths)
    with hold_owner(folder.paths):
        with pytest.raises(RunStateError, match=r"is still running after 0\.03 s; wait longer, or cancel it with"):
            run.wait(timeout_s=0.03)
        timer = threading.Timer(0.05, folder.seal)
        timer.start()
        assert run.wait(timeout_s=10) is run
        timer.join()
    assert run.state == "succeeded"


def test_cancel_asks_the_owner_once_and_leaves_a_final_run_alone(folder: RunFolder) -> None:
    run = Run(folder.paths)
    with hold_owner(folder.paths):
        run.cancel()
        asked = json.loads(folder.paths.cancel_request.read_text())
        assert sorted(asked) == ["at", "by"]
        stamp = folder.paths.cancel_request.stat().st_mtime_ns
        run.cancel()
        assert folder.paths.cancel_request.stat().st_mtime_ns == stamp
    folder.paths.cancel_request.unlink()
    folder.commit_all().seal("cancelled")
    run.cancel()
    assert not folder.paths.cancel_request.exists()


def test_check_says_in_one_line_how_a_run_ended_and_where_it_is(tmp_path: Path) -> None:
    runs = {}
    for number, state in enumerate(("succeeded", "failed", "cancelled")):
        folder = RunFolder(tmp_path, moment=MOMENT + number).commit_all()
        runs[state] = Run(
            folder.seal(state, "partition 'p1' failed: \x1b[1mKeyError\nmore" if state == "failed" else None)
        )
    assert runs["succeeded"].check() is runs["succeeded"]
    with pytest.raises(RunFailedError) as failed:
        runs["failed"].check()
    assert str(failed.value) == (
        f"run {runs['failed'].run_id} failed: partition 'p1' failed: \\x1b[1mKeyError more; "
        f"its folder is {runs['failed'].paths.root}"
    )
    assert runs["failed"].error == "partition 'p1' failed: \x1b[1mKeyError\nmore"
    with pytest.raises(RunCancelledError, match="was cancelled; its folder is"):
        runs["cancelled"].check()


def test_check_of_a_run_that_has_not_ended(folder: RunFolder) -> None:
    run = Run(folder.paths)
    with pytest.raises(RunFailedError, match="was lost: the process that ran it has gone"):
        run.check()
    with hold_owner(folder.paths), pytest.raises(RunStateError, match=r"is running; wait for it with run\.wait\(\)"):
        run.check()
    with hold_owner(folder.paths), pytest.raises(RunStateError, match="is running and has no manifest; wait"):
        _ = run.manifest
    assert run.error is None


# --- what a run left ---------------------------------------------------------


def test_events_of_a_sealed_run_end_with_its_outcome(run: Run) -> None:
    found = list(run.events())
    assert found[0]["event"] == "created"
    assert found[-1]["outcome"] == "succeeded"
    assert list(run.events(follow=True)) == found


def test_following_a_run_yields_its_last_event_and_then_ends(folder: RunFolder) -> None:
    folder.commit_all()
    run = Run(folder.paths)
    owner = hold_owner(folder.paths)
    followed = run.events(follow=True)
    assert next(followed)["event"] == "created"
    folder.seal()
    owner.close()
    assert list(followed)[-1]["outcome"] == "succeeded"


def test_following_a_lost_run_ends(folder: RunFolder) -> None:
    folder.log.sync()
    assert [event["event"] for event in Run(folder.paths).events(follow=True)] == ["created", *["state"] * 3]


def test_artifacts_come_in_plan_order_whatever_order_they_were_committed_in(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, partitions=12)
    for name in reversed(folder.tracks):
        folder.commit("tracks", name, worker=f"local-{int(name[1:]) % 3}", files={"points": name.encode()})
    folder.plan()
    folder.commit("summary", "summary", files={"totals": b"{}"})
    expected = [*folder.tracks, "summary"]
    assert [item.partition for item in Run(folder.paths).artifacts()] == expected
    folder.records.sort(key=lambda record: expected.index(record["partition"]))
    run = Run(folder.seal())
    assert [item.partition for item in run.artifacts()] == expected
    assert [record["partition"] for record in run.records()] == expected


def test_a_running_run_shows_what_is_committed_and_ignores_a_torn_record(folder: RunFolder) -> None:
    run = Run(folder.paths)
    assert run.artifacts() == ()
    folder.commit("tracks", "p0", files={"points": b"1"})
    line = record_line({**folder.records[0], "partition": "p1"})
    with open(folder.paths.records("local-0"), "ab") as file:
        file.write(line[: len(line) // 2])
    assert [item.partition for item in run.artifacts()] == ["p0"]
    assert run.artifact("points").read_bytes() == b"1"
    assert run.metrics == {"rows": 3.0} or folder.log.sync() is None
    assert Run(folder.paths).metrics == {"rows": 3.0}


def test_a_run_of_more_records_than_the_manifest_repeats_lists_them_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, partitions=1005)
    folder.commit("tracks", "p0", files={})
    lines = [record_line({**folder.records[0], "partition": name}) for name in folder.tracks]
    folder.paths.records("local-0").write_bytes(b"".join(reversed(lines)))
    folder.records = [json.loads(line) for line in lines]
    folder.plan()
    folder.known.clear()
    run = Run(folder.seal("failed", "for once"))
    assert len(run.manifest["partitions"]["first"]) == 1000
    assert [record["partition"] for record in run.records()] == folder.tracks


def test_an_artifact_is_found_by_key_or_by_a_name_that_only_one_partition_used(run: Run) -> None:
    assert run.artifact("tracks/p1/points").read_bytes().startswith(b"points of p1")
    assert run.artifact("totals") == run.paths.root / "artifacts/summary/summary/totals.txt"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("points", "3 partitions left an artifact 'points'; name one: tracks/p0/points, tracks/p1/points, tracks/p2/"),
        ("tracks/p1/pionts", "has no artifact 'tracks/p1/pionts'; did you mean 'tracks/p1/points'?"),
        ("total", "did you mean 'totals'?"),
        ("../../request.json", "has no artifact '../../request.json'"),
        ("", "has no artifact ''; there are tracks/p0/points, "),
    ],
)
def test_an_artifact_that_is_not_there_is_said_with_what_is(run: Run, name: str, message: str) -> None:
    with pytest.raises(ArtifactNotFoundError, match=re.escape(message)):
        run.artifact(name)


def test_an_artifact_whose_file_went_or_became_a_link_is_not_handed_out(run: Run) -> None:
    path = run.artifact("totals")
    path.unlink()
    with pytest.raises(
        ArtifactNotFoundError, match=r"is no file any more; see what else has changed with: agilab verify"
    ):
        run.artifact("totals")
    path.symlink_to("/etc/passwd")
    with pytest.raises(ArtifactNotFoundError, match="no file any more"):
        run.artifact("totals")


@pytest.mark.parametrize("path", ["../../../../etc/passwd", "/etc/passwd", "request.json", "artifacts/../request.json"])
def test_an_artifact_recorded_outside_is_not_handed_out(folder: RunFolder, path: str) -> None:
    folder.commit("tracks", "p0", files={"points": b"1"})
    folder.records[0]["artifacts"][0]["path"] = path
    folder.paths.records("local-0").write_bytes(record_line(folder.records[0]))
    with pytest.raises(ArtifactNotFoundError, match="outside of the run folder"):
        Run(folder.paths).artifact("points")


def test_an_artifact_on_another_host_names_the_host(folder: RunFolder) -> None:
    folder.commit("tracks", "p0", files={"points": b"1"})
    folder.records[0]["artifacts"][0]["location"] = "host-b"
    folder.paths.records("local-0").write_bytes(record_line(folder.records[0]))
    with pytest.raises(ArtifactNotFoundError, match="lies on host host-b"):
        Run(folder.paths).artifact("points")


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[]\n", b'{"schema":"agilab.partition/1","partition":"p0","artifacts":[1]}\n']
)
def test_a_damaged_record_is_an_evidence_error(folder: RunFolder, line: bytes) -> None:
    folder.paths.records("local-0").write_bytes(line)
    with pytest.raises(EvidenceError, match="agilab verify"):
        Run(folder.paths).artifacts()


def test_metrics_are_those_of_the_manifest_once_final(run: Run) -> None:
    assert run.metrics == {"rows": 3.0}
    assert run.request["settings"]["token"] == "env:TOKEN"
    assert run.manifest["backend"]["name"] == "local"


def test_logs_show_control_characters_and_do_not_obey_them(run: Run) -> None:
    assert run.logs("local-0") == "hello \\x1b[31mred\\x1b[0m\n"
    assert run.logs() == "==> local-0 <==\nhello \\x1b[31mred\\x1b[0m\n\n==> supervisor <==\n"
    with pytest.raises(ArtifactNotFoundError, match=r"no log of worker 'local-1'; did you mean 'local-0'\?"):
        run.logs("local-1")
    with pytest.raises(ArtifactNotFoundError, match=r"no log of worker '\.\./request'"):
        run.logs("../request")


def test_a_log_that_is_huge_or_a_link_is_not_read_whole_or_followed(folder: RunFolder) -> None:
    with open(folder.paths.logs / "big.log", "wb") as file:
        file.write(b"x" * LOG_LIMIT)
        file.write(b"end\n")
    (folder.paths.logs / "link.log").symlink_to("/etc/passwd")
    run = Run(folder.paths)
    assert run.logs("big").startswith("... (4 bytes before this; the whole log is ")
    assert run.logs("big").endswith("end\n")
    assert "cannot be read" in run.logs("link")
    assert "root:" not in run.logs("link")


def test_runs_are_equal_when_they_are_the_same_folder(run: Run) -> None:
    assert run == Run(run.paths)
    assert len({run, Run(run.paths)}) == 1
    assert run != Run(RunPaths(run.paths.root.with_name("other")))


# --- the store ---------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(HomePaths(tmp_path))


def test_a_store_without_runs_lists_none_and_says_how_to_begin(store: RunStore) -> None:
    assert store.list() == []
    with pytest.raises(RunNotFoundError, match=r"no run 'last': there are none in .*; start one with: agilab run APP"):
        store.get("last")


def test_run_ids_sort_by_time() -> None:
    assert new_run_id(1_700_000_000.0) == "20231114-221320-0000"
    moments = [1_700_000_000 + number / 60_000 for number in range(1000)]
    ids = [new_run_id(moment) for moment in moments]
    assert sorted(set(ids)) == ids


def test_a_new_run_has_a_folder_of_its_own_that_only_its_owner_enters(store: RunStore) -> None:
    made = [store.create("flights", now=MOMENT) for _ in range(5)]
    assert len({paths.root for paths in made}) == 5
    assert [run.paths for run in store.list("flights")] == made[::-1]
    assert {oct(paths.root.stat().st_mode & 0o777) for paths in made} == {"0o700"}
    for app in ("../evil", "", "a/b", ".hidden"):
        with pytest.raises(RequestError, match="is not allowed"):
            store.create(app)


def test_runs_are_listed_newest_first_over_all_apps(store: RunStore) -> None:
    first = store.create("b", now=MOMENT)
    third = store.create("b", now=MOMENT + 2)
    second = store.create("a", now=MOMENT + 1)
    assert [run.paths for run in store.list()] == [third, second, first]
    assert [run.paths for run in store.list("b")] == [third, first]
    assert store.list("c") == []
    assert store.get("last").paths == third
    assert store.get("a/last").paths == second


def test_broken_folders_are_listed_and_do_not_hide_the_others(store: RunStore, tmp_path: Path) -> None:
    good = Run(sealed_run(tmp_path))
    runs = store.home.runs / "flights"
    damaged = Run(sealed_run(tmp_path, moment=MOMENT + 5))
    damaged.paths.manifest.write_bytes(b"{")
    empty = runs / "20240101-000000-0001"
    make_folder(empty)
    (empty / "run_manifest.json").write_text("{}")
    (empty / ".run_manifest.json.12.tmp").write_text("{")
    (empty / "manifest-sha256.txt").write_bytes(b"\xff\0")
    (runs / "20240101-000000-0002").write_text("a file")
    (runs / "20240101-000000-0003").symlink_to(good.paths.root)
    make_folder(runs / "notes of mine")
    (store.home.runs / "stray").write_text("")
    nonsense = make_folder(runs / "20240101-000000-0004")
    data = b'{"schema": "agilab.run/1", "state": "succeeded", "partitions": []}'
    (nonsense / "run_manifest.json").write_bytes(data)
    (nonsense / "manifest-sha256.txt").write_text(f"{of_bytes(data)}  run_manifest.json\n")
    found = {run.run_id: run.state for run in store.list()}
    assert found == {
        "20240101-000000-0004": "unreadable",
        "20240101-000000-0001": "unreadable",
        damaged.run_id: "unreadable",
        good.run_id: "succeeded",
    }
    for run in store.list():
        assert run.metrics is not None
        assert run.error is None


def test_a_run_is_found_by_id_and_by_a_prefix_that_only_it_has(store: RunStore) -> None:
    one, other = store.create("a", now=MOMENT), store.create("a", now=MOMENT + 86_400)
    assert store.get(one.run_id).paths == one
    assert store.get("20231115").paths == other
    assert store.get("a/20231114-22").paths == one
    with pytest.raises(
        RunNotFoundError, match=f"'2023' may be one of 2 runs; name one: a/{other.run_id}, a/{one.run_id}"
    ):
        store.get("2023")
    with pytest.raises(RunNotFoundError, match=f"no run '20231114-221321-0000'; did you mean '{one.run_id}'"):
        store.get("20231114-221321-0000")
    with pytest.raises(RunNotFoundError, match=r"no run 'zzz'; the newest are "):
        store.get("zzz")
    for name in ("", "/", "../a", f"../a/{one.run_id}", str(one.root)):
        with pytest.raises(RunNotFoundError):
            store.get(name)


def test_a_thousand_runs_are_listed_without_opening_one(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1000):
        store.create("a", now=MOMENT + number)
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("a run was opened"))
    assert len(store.list()) == 1000


def test_every_error_here_is_one_of_ours_and_one_line(store: RunStore, folder: RunFolder) -> None:
    run = Run(folder.paths)
    calls: list[Callable[[], object]] = [
        lambda: store.get("zzz"),
        lambda: run.artifact("x"),
        lambda: run.logs("x"),
        lambda: run.manifest,
        lambda: run.check(),
    ]
    for call in calls:
        with pytest.raises(AgilabError) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_importing_runs_is_cheap() -> None:
    heavy = ("param", "numpy", "pandas", "click", "rich", "asyncio", "subprocess", "concurrent", "difflib", "logging")
    code = f"import sys, agilab.run; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
