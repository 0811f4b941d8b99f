"""What nothing needs goes, and what is in use stays, for every reason there is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab import cleanup
from agilab.cleanup import Item, clean
from agilab.digest import of_bytes
from agilab.env import AgiEnv
from agilab.errors import HomeError, QueryError
from agilab.owner import hold_owner
from agilab.package import MANIFEST_NAME, runtime_digest, runtime_files
from agilab.paths import make_folder, write_json
from agilab.request import code_digest
from agilab.sidecar import change_tags
from tests.run_folder import MOMENT, RunFolder, sealed_run

OLD = "0" * 64
NEW = "1" * 64
RECORDED = {name: of_bytes(name.encode()) for name in ("manager_digest", "worker_digest", "runtime_digest")}
"""What the manifest of a run folder of the tests names."""
ENVIRONMENT = of_bytes(b"environment")


@pytest.fixture
def env(home: Path) -> AgiEnv:
    """Return an environment with an app that is installed, and of everything one that nothing needs."""
    env = AgiEnv(apps_path=home.parent)
    env.prepare()
    for name in (OLD, NEW, RECORDED["worker_digest"]):
        make_folder(env.wenv.code("flights", name))
    package = env.wenv.package("flights")
    (package / "current").symlink_to(NEW)
    (package / ".lock").touch()
    installed = {"environment_digest": NEW, "runtime_digest": NEW}
    write_json(package / MANIFEST_NAME, {"schema": "agilab.worker/1", **installed})
    for name in (OLD, NEW, ENVIRONMENT):
        make_folder(env.wenv.environments / name)
    for name in (OLD, NEW, RECORDED["runtime_digest"], runtime_digest(runtime_files())):
        make_folder(env.wenv.runtimes / name)
    for name in (OLD, RECORDED["manager_digest"], ".new-abc"):
        make_folder(env.home.snapshots / name)
    make_folder(env.home.cache / "fields")
    make_folder(env.home.tmp / "debug")
    make_folder(env.home.data / OLD)
    for folder in (env.wenv.environments, env.wenv.runtimes, env.home.snapshots, env.home.tmp):
        for path in folder.iterdir():
            os.utime(path, (MOMENT, MOMENT))
    return env


def names(items: tuple[Item, ...], *, kept: bool = False) -> set[tuple[str, str]]:
    """Return kind and name of what goes, or of what stays."""
    return {(item.kind, item.name) for item in items if bool(item.kept) is kept}


UNUSED = {
    ("worker package", f"flights/{OLD}"),
    ("worker package", f"flights/{RECORDED['worker_digest']}"),
    ("environment", OLD),
    ("environment", ENVIRONMENT),
    ("runtime", OLD),
    ("runtime", RECORDED["runtime_digest"]),
    ("snapshot", OLD),
    ("snapshot", RECORDED["manager_digest"]),
    ("cache", "fields"),
    ("temporary file", "debug"),
    ("temporary file", ".new-abc"),
}
OF_A_RUN = {item for item in UNUSED if item[1].removeprefix("flights/") in {*RECORDED.values(), ENVIRONMENT}}


def test_what_nothing_needs_goes_and_what_is_installed_stays(env: AgiEnv) -> None:
    sealed_run(env.home.root)
    items = clean(env)
    assert names(items) == UNUSED
    assert not any(item.path.exists() for item in items if not item.kept)
    assert all(item.path.exists() for item in items if item.kept)
    assert names(items, kept=True) == {
        ("worker package", f"flights/{NEW}"),
        ("environment", NEW),
        ("runtime", NEW),
        ("runtime", runtime_digest(runtime_files())),
        ("data set", OLD),
    }
    assert names(clean(env)) == set()


def test_a_dry_run_says_the_same_and_removes_nothing(env: AgiEnv) -> None:
    sealed_run(env.home.root)
    planned = clean(env, keep_last=0, dry_run=True)
    assert all(item.path.exists() for item in planned)
    assert clean(env, keep_last=0) == planned


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_what_a_run_that_can_be_resumed_was_recorded_to_use_stays(env: AgiEnv, state: str) -> None:
    RunFolder(env.home.root).commit_all().seal(state)
    assert names(clean(env)) == UNUSED - OF_A_RUN


def test_once_that_run_has_gone_so_does_what_it_used(env: AgiEnv) -> None:
    paths = RunFolder(env.home.root).commit_all().seal("failed")
    assert names(clean(env, keep_last=0)) == UNUSED | {("run", f"flights/{paths.run_id}")}


def unsealed(env: AgiEnv, digest: str) -> RunFolder:
    """Return a run without a seal, whose request names some code."""
    folder = RunFolder(env.home.root)
    value = json.loads(folder.paths.request.read_text())
    write_json(folder.paths.request, {**value, "code_digest": digest})
    return folder


def test_the_code_of_a_run_without_a_seal_stays_and_every_environment(env: AgiEnv) -> None:
    unsealed(env, code_digest(OLD, OLD))
    gone = names(clean(env))
    assert {kind for kind, _ in gone} == {"worker package", "snapshot", "cache", "temporary file"}
    assert {name for kind, name in gone if kind in ("worker package", "snapshot")} == {
        f"flights/{RECORDED['worker_digest']}",
        RECORDED["manager_digest"],
    }


def test_where_its_code_cannot_be_told_all_code_stays(env: AgiEnv) -> None:
    unsealed(env, "f" * 64).paths.request.write_text("{")
    assert {kind for kind, _ in names(clean(env))} == {"cache", "temporary file"}


def test_while_an_app_is_being_installed_its_packages_and_every_environment_stay(env: AgiEnv) -> None:
    with open(env.wenv.package("flights") / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        items = clean(env)
    assert {kind for kind, _ in names(items)} == {"snapshot", "cache", "temporary file"}
    assert "flights is being installed or cleaned" in {item.kept for item in items}


def test_an_environment_that_is_being_built_stays(env: AgiEnv) -> None:
    with open(env.wenv.environments / f"{OLD}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert names(clean(env)) == UNUSED - {("environment", OLD)}


def test_what_was_just_made_stays(env: AgiEnv) -> None:
    for path in (env.wenv.environments / OLD, env.home.snapshots / OLD, env.home.tmp / "debug"):
        os.utime(path)
    assert names(clean(env)) == UNUSED - {("environment", OLD), ("snapshot", OLD), ("temporary file", "debug")}


@pytest.fixture
def runs(env: AgiEnv) -> list[str]:
    """Return the names of five runs of two apps, oldest first, one per day; the second has a tag."""
    found = [
        sealed_run(env.home.root, app=app, moment=MOMENT + day * 86400, partitions=1)
        for day, app in enumerate(["flights", "flights", "ocean", "flights", "flights"])
    ]
    change_tags(found[1], add=["best"])
    return [f"{paths.app}/{paths.run_id}" for paths in found]


@pytest.mark.parametrize(
    ("older_than", "keep_last", "expected"),
    [
        ("", None, []),
        ("2023-11-17", None, [0, 2]),
        ("", 1, [0, 3]),
        ("2023-11-17", 1, [0]),
        ("2023-11-17", 9, []),
        ("1h", 0, [0, 2, 3, 4]),
        ("", 0, [0, 2, 3, 4]),
    ],
)
def test_runs_go_by_age_and_number_and_tagged_ones_stay(
    env: AgiEnv, runs: list[str], older_than: str, keep_last: int | None, expected: list[int]
) -> None:
    items = clean(env, older_than=older_than, keep_last=keep_last)
    assert {name for kind, name in names(items) if kind == "run"} == {runs[number] for number in expected}
    left = {f"{run.app}/{run.run_id}" for run in env.runs.list()}
    assert left == set(runs) - {runs[number] for number in expected}


def test_a_run_in_use_and_one_that_cannot_be_read_stay(env: AgiEnv) -> None:
    live = RunFolder(env.home.root)
    broken = sealed_run(env.home.root, moment=MOMENT + 1)
    broken.manifest.write_text("{}")
    lost = RunFolder(env.home.root, moment=MOMENT + 2)
    hold_owner(lost.paths).close()
    with hold_owner(live.paths):
        items = clean(env, keep_last=0)
    assert {name for kind, name in names(items) if kind == "run"} == {f"flights/{lost.paths.run_id}"}
    assert {item.kept for item in items if item.kind == "run" and item.kept} == {"it is running", "it is unreadable"}


def test_a_run_that_somebody_takes_up_meanwhile_stays(env: AgiEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = RunFolder(env.home.root).paths
    measure, held = cleanup.measure, []
    monkeypatch.setattr(cleanup, "measure", lambda path: (held or held.append(hold_owner(paths)), measure(path))[1])
    (item,) = (item for item in clean(env, keep_last=0) if item.kind == "run")
    assert "is owned by process" in item.kept
    held[0].close()
    assert paths.request.exists()


def test_what_a_killed_process_left_of_a_run_is_swept(env: AgiEnv) -> None:
    paths = sealed_run(env.home.root)
    aside = paths.root.with_name(f".{paths.run_id}.999999999.tmp")
    paths.root.rename(aside)
    os.utime(aside, (MOMENT, MOMENT))
    clean(env)
    assert not aside.exists()


def _home(env: AgiEnv) -> Path:
    return env.home.marker


def _wenv(env: AgiEnv) -> Path:
    return env.wenv.marker


@pytest.mark.parametrize("marker", [_home, _wenv])
def test_a_folder_of_another_program_is_left_alone(env: AgiEnv, marker: Callable[[AgiEnv], Path]) -> None:
    marker(env).unlink()
    with pytest.raises(HomeError, match="holds files that are not AGILAB's"):
        clean(env, keep_last=0)
    assert env.wenv.code("flights", OLD).exists()


def test_a_time_that_is_none_is_refused(env: AgiEnv) -> None:
    with pytest.raises(QueryError, match="is no time"):
        clean(env, older_than="soon")
