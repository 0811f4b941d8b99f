"""Artifacts come from hosts after their run, hashed here, and whatever happens meanwhile the record is honest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agilab import Run, fetching, manifest
from agilab.backends.base import Keeper, Remote
from agilab.errors import AgilabError, ArtifactNotFoundError, EvidenceError, HostError, NoSpaceError, RunStateError
from agilab.fetching import Fetched
from agilab.owner import hold_owner
from agilab.paths import HomePaths, RunPaths, WenvPaths
from agilab.raster.far import Far
from agilab.supervisor import sealing, supervise
from agilab.testing.probe import events
from tests.run_folder import RunFolder, conform, sealed_run

POINTS = [f"artifacts/tracks/p{number}/points.txt" for number in range(3)]


class Folders(Keeper):
    """Hosts whose disks can be read from here.

    Attributes
    ----------
    brought
        What was asked for.
    spoil
        Done to each file that has come.
    """

    def __init__(self) -> None:
        self.brought: list[str] = []
        self.spoil: Callable[[Path], object] = lambda path: None

    def bring(self, host: str, folder: str, files: Sequence[Remote], *, into: Path) -> None:
        for path in [file.path for file in files]:
            self.brought.append(path)
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(f"{folder}/{path}", target)
            except FileNotFoundError as err:
                raise ArtifactNotFoundError(f"host {host} has no file {path}; it may have been cleaned") from err
            self.spoil(target)

    def far(self, host: str) -> Far:
        raise HostError(host, "link", "is looked at by nobody")

    @contextmanager
    def reach(self) -> Iterator[Keeper]:
        yield self


@pytest.fixture
def hosts() -> Folders:
    return Folders()


def left(home: Path, *names: str, state: str = "succeeded") -> RunFolder:
    """Return a sealed run that has left the artifacts of some names on host alpha."""
    folder = RunFolder(home)
    folder.away = frozenset(names or ("points", "totals"))
    folder.commit_all().seal(state, None if state == "succeeded" else "it broke")
    return folder


def fetch(paths: RunPaths, hosts: Folders, pattern: str = "all") -> Fetched:
    return fetching.fetch(Run(paths), pattern, keeper=hosts.reach)


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a run but the lock and unfinished work."""
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {path: data for path, data in found.items() if not path.startswith((".owner", ".staging"))}


def test_a_run_whose_artifacts_lie_elsewhere_has_succeeded_and_says_where(tmp_path: Path) -> None:
    paths = left(tmp_path).paths
    run = Run(paths)
    there = run.manifest["artifacts"]["elsewhere"]
    assert there == {"alpha": {"count": 4, "size_bytes": 792, "folder": str(tmp_path / "alpha" / run.run_id)}}
    conform(run.manifest, "agilab.run/1")
    assert {item.location for item in run.artifacts()} == {"", "alpha"}
    with pytest.raises(ArtifactNotFoundError, match=f"lies on host alpha; bring it here: agilab fetch {run.run_id} "):
        run.artifact("summary/summary/totals")


def test_what_comes_is_hashed_here_and_the_new_seal_lists_it(tmp_path: Path, hosts: Folders) -> None:
    paths = left(tmp_path).paths
    before = Run(paths).manifest
    found = fetch(paths, hosts)
    assert sorted(item.path for item in found.artifacts) == ["artifacts/summary/summary/totals.txt", *POINTS]
    assert found.elsewhere == ()
    run = Run(paths)
    assert run.state == "succeeded"
    assert run.artifact("summary/summary/totals").read_bytes() == b'{"rows": 3}\n'
    assert {(item.hashed_by, item.location) for item in run.artifacts()} == {("manager", "")}
    verified = manifest.verify(paths)
    assert (verified.ok, verified.elsewhere, verified.superseded) == (True, (), (1,)), verified.problems
    now = run.manifest
    changed = {name for name in now if now[name] != before[name]}
    assert changed == {"artifacts", "partitions"}
    assert now["artifacts"] == {key: before["artifacts"][key] for key in ("count", "size_bytes")}
    last = list(run.events())[-2:]
    assert [(event["event"], event.get("artifacts"), event.get("hosts")) for event in last] == [
        ("fetched", 4, ["alpha"]),
        ("state", None, None),
    ]
    for event in last:
        conform(event, "agilab.events/1")
    assert not paths.staging.exists()


def test_a_pattern_brings_what_it_names_and_the_rest_comes_later(tmp_path: Path, hosts: Folders) -> None:
    paths = left(tmp_path).paths
    found = fetch(paths, hosts, "tracks/p[01]/*")
    assert [item.path for item in found.artifacts] == POINTS[:2]
    assert {item.key for item in found.elsewhere} == {"tracks/p2/points", "summary/summary/totals"}
    verified = manifest.verify(paths)
    assert verified.ok, verified.problems
    assert {path for path, _ in verified.elsewhere} == {POINTS[2], "artifacts/summary/summary/totals.txt"}
    fetch(paths, hosts)
    verified = manifest.verify(paths)
    assert (verified.ok, verified.elsewhere, verified.superseded) == (True, (), (1, 2)), verified.problems
    assert sorted(hosts.brought) == ["artifacts/summary/summary/totals.txt", *POINTS]


def test_what_is_here_is_not_brought_again_and_no_seal_is_opened(tmp_path: Path, hosts: Folders) -> None:
    paths = sealed_run(tmp_path)
    before = contents(paths.root)
    assert fetch(paths, hosts).artifacts == ()
    assert contents(paths.root) == before
    assert hosts.brought == []
    with pytest.raises(ArtifactNotFoundError, match=r"no artifact of run .* matches 'tracks/q'"):
        fetch(paths, hosts, "tracks/q")


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_run_that_did_not_succeed_gets_its_artifacts_too(tmp_path: Path, hosts: Folders, state: str) -> None:
    paths = left(tmp_path, "note", state=state).paths
    fetch(paths, hosts)
    assert (Run(paths).state, Run(paths).error) == (state, "it broke")
    assert manifest.verify(paths).ok


# --- what goes wrong ----------------------------------------------------------------


def forge(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def lose(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder.there)


def no_space(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.statvfs(folder.paths.root)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*stat[:4], 0, *stat[5:]]))


def away(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def bring(*arguments: object, into: Path) -> None:
        raise HostError("alpha", "connection", "nothing answers", "start it")

    monkeypatch.setattr(Folders, "bring", bring)


def add_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.paths.root / "stray.txt").write_text("never sealed")


FAULTS: list[tuple[Callable[[RunFolder, pytest.MonkeyPatch], None], type[AgilabError], str]] = [
    (lambda folder, _: forge(folder.there / POINTS[1]), EvidenceError, f"host alpha sent {POINTS[1]} .* thrown away"),
    (lambda folder, _: grow(folder.there / POINTS[1]), EvidenceError, f"host alpha sent {POINTS[1]} .* thrown away"),
    (lose, ArtifactNotFoundError, "host alpha has no file .* may have been cleaned"),
    (no_space, NoSpaceError, "no space on disk for 780 bytes .* 0 free"),
    (away, HostError, "host alpha: connection: nothing answers"),
    (add_file, EvidenceError, "does not hold what was sealed, so nothing is added"),
]


@pytest.mark.parametrize(
    ("fault", "error", "message"), FAULTS, ids=["forged", "grown", "gone", "full", "away", "stray"]
)
def test_a_fetch_that_cannot_be_done_changes_nothing(
    tmp_path: Path, hosts: Folders, monkeypatch: pytest.MonkeyPatch, fault: Any, error: type[Exception], message: str
) -> None:
    folder = left(tmp_path, "points")
    fault(folder, monkeypatch)
    before = contents(folder.paths.root)
    with pytest.raises(error, match=message) as raised:
        fetch(folder.paths, hosts)
    assert "\n" not in str(raised.value)
    assert contents(folder.paths.root) == before
    assert Run(folder.paths).state == "succeeded"


def test_what_had_come_before_a_failure_is_not_asked_for_again(tmp_path: Path, hosts: Folders) -> None:
    folder = left(tmp_path, "points")
    good = (folder.there / POINTS[1]).read_bytes()
    forge(folder.there / POINTS[1])
    with pytest.raises(EvidenceError):
        fetch(folder.paths, hosts)
    hosts.brought.clear()
    (folder.there / POINTS[1]).write_bytes(good)
    fetch(folder.paths, hosts)
    assert hosts.brought == [POINTS[1]]
    assert manifest.verify(folder.paths).ok


def test_a_run_that_goes_on_or_was_lost_is_not_touched(tmp_path: Path, hosts: Folders) -> None:
    folder = RunFolder(tmp_path)
    folder.away = frozenset({"points"})
    folder.commit_all()
    with pytest.raises(RunStateError, match="was lost; close its record first: agilab seal"):
        fetch(folder.paths, hosts)
    with hold_owner(folder.paths), pytest.raises(RunStateError, match="is running; fetch when it has ended"):
        fetch(folder.paths, hosts)
    sealed = left(tmp_path / "other")
    with hold_owner(sealed.paths), pytest.raises(RunStateError, match="is owned by process"):
        fetch(sealed.paths, hosts)


class KilledError(BaseException):
    """The process ends here."""


def kill_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End at the n-th call that changes something; nothing waits for the disk."""
    done = 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done == number:
                raise KilledError
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", lambda fd: None)
    for name in ("rename", "replace", "fsync", "truncate"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))


def test_a_fetch_killed_at_any_step_is_finished_by_the_next(tmp_path: Path, hosts: Folders) -> None:
    folder = RunFolder(tmp_path, partitions=1)
    folder.away = frozenset({"points", "totals"})
    folder.commit_all().seal()
    states = set()
    for number in range(1, 1000, 2):
        paths = RunPaths(tmp_path / str(number) / "runs" / "flights" / folder.paths.run_id)
        shutil.copytree(folder.paths.root, paths.root)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(number, patch)
            try:
                fetch(paths, hosts)
                break
            except KilledError:
                pass
            states.add(Run(paths).state)
            if Run(paths).state == "succeeded":
                assert manifest.verify(paths).ok
            fetch(paths, hosts)
        verified = manifest.verify(paths)
        assert (verified.ok, verified.elsewhere, verified.superseded) == (True, (), (1,)), (number, verified.problems)
        assert len(events(Run(paths), "fetched")) == 1
        assert not paths.staging.exists() or not any(paths.staging.iterdir())
    assert number > 20, number
    assert states == {"succeeded", "lost"}


def test_whoever_owns_a_run_next_finishes_its_fetch(
    tmp_path: Path, hosts: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = left(tmp_path).paths
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_move", lambda *_: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            fetch(paths, hosts)
    assert Run(paths).state == "lost"
    with pytest.raises(RunStateError, match="has ended already"):
        supervise(sealing(HomePaths(tmp_path), WenvPaths(tmp_path / "wenv"), paths, outcome="failed", error="lost"))
    assert Run(paths).state == "succeeded"
    verified = manifest.verify(paths)
    assert (verified.ok, verified.elsewhere) == (True, ()), verified.problems
