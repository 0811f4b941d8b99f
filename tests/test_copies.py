"""A clone is an app of its own that does the same; rename keeps who it is; an interruption leaves nothing half."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, archive, contract, copies, trust
from agilab.errors import ProjectError, RunStateError
from agilab.owner import hold_owner
from agilab.paths import HomePaths
from agilab.project import Project, find_all, read
from agilab.template import create
from agilab.testing.probe import hashes
from tests.run_folder import UUID, RunFolder


@pytest.fixture
def folders(home: Path) -> HomePaths:
    """Return the folders of the test's home."""
    env = AgiEnv()
    env.prepare()
    return env.home


def texts(root: Path) -> dict[str, str]:
    """Return the text of every file of a project."""
    return {name: (root / name).read_text() for name in trust.files(root)}


# --- clone ---------------------------------------------------------------------------


def test_a_clone_runs_and_leaves_the_same_artifacts(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    clone = copies.clone(made, "cubes_too", tmp_path, home=folders)
    assert (clone.app_class, clone.worker_class) == ("cubes_too:CubesToo", "cubes_too_worker:CubesTooWorker")
    assert clone.uuid != made.uuid
    runs = []
    for one in (made, clone):
        env = AgiEnv(one.root)
        plan = AGI.get_distrib(env, env.request()).plan
        assert contract.check(env.project, fields=env.fields(), stages=[stage.name for stage in plan.stages]) == ()
        runs.append(AGI.run(env, env.request({"count": 50})).check())
    assert hashes(runs[0]) == hashes(runs[1])
    assert runs[0].metrics == runs[1].metrics


def test_the_shipped_app_can_be_cloned_with_its_lock_and_its_data_set(tmp_path: Path, folders: HomePaths) -> None:
    shipped = AgiEnv("flight_telemetry").project
    clone = copies.clone(shipped, "trips", tmp_path, home=folders)
    assert contract.check(clone) == ()
    assert clone.writable
    assert (clone.data, clone.license) == (shipped.data, shipped.license)
    assert clone.kinds == {name.replace("flight_telemetry.", "trips."): kind for name, kind in shipped.kinds.items()}
    lock = "requirements.lock"
    assert (clone.worker / lock).read_bytes() == (shipped.worker / lock).read_bytes()
    assert (clone.root / "tests" / "test_trips_geometry.py").is_file()
    left = {
        name: [line for line in text.splitlines() if "flight_telemetry" in line or "FlightTelemetry" in line]
        for name, text in texts(clone.root).items()
    }
    assert {name: lines for name, lines in left.items() if lines} == {}
    assert (clone.root / "README.md").read_text().startswith("# trips\n")
    assert read(shipped.root).uuid == shipped.uuid


def test_a_clone_of_the_shipped_app_leaves_the_same_artifacts(
    tmp_path: Path, shared_wenv: Path, home: Path, folders: HomePaths
) -> None:
    values = {"dates": ["2013-01-01", "2013-01-01"], "sample_s": 600, "partitions": 1}
    shipped = AgiEnv("flight_telemetry", wenv=shared_wenv)
    clone = AgiEnv(copies.clone(shipped.project, "trips", tmp_path, home=folders).root, wenv=shared_wenv)
    runs = [AGI.run(env, env.request(values)).check() for env in (shipped, clone)]
    assert hashes(runs[0]) == hashes(runs[1])


def test_its_own_tests_pass_in_the_clone(tmp_path: Path, folders: HomePaths) -> None:
    clone = copies.clone(AgiEnv("flight_telemetry").project, "trips", tmp_path, home=folders)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, clone.root / "tests"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_installed_app_can_be_cloned(tmp_path: Path, folders: HomePaths) -> None:
    made, site = create("squares", tmp_path), tmp_path / "site"
    for name in ("squares", "squares_worker"):
        shutil.copytree(made.root / "src" / name, site / name)
    for name in ("pyproject.toml", "README.md"):
        (site / "squares" / "_project").mkdir(exist_ok=True)
        shutil.copy(made.root / name, site / "squares" / "_project")
    installed = read(site / "squares" / "_project", source="installed")
    assert installed.breaches == ()
    (tmp_path / "there").mkdir()
    clone = copies.clone(installed, "cubes", tmp_path / "there", home=folders)
    assert set(texts(clone.root)) == {name.replace("squares", "cubes") for name in texts(made.root)}
    with pytest.raises(ProjectError, match="is installed and cannot be deleted; clone it"):
        copies.delete(installed, home=folders)


def test_a_worker_that_is_built_can_be_cloned(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    text = made.worker_pyproject.read_text()
    made.worker_pyproject.write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n\n'
        f'{text}\n[tool.hatch.build.targets.wheel]\npackages = ["squares_worker"]\n'
    )
    clone = copies.clone(made, "cubes", tmp_path, home=folders)
    assert 'packages = ["cubes_worker"]' in clone.worker_pyproject.read_text()
    assert 'name = "cubes-worker"' in clone.worker_pyproject.read_text()


def test_bytes_modes_and_inner_links_stay_as_they_are(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    (made.root / "data").mkdir()
    (made.root / "data" / "squares.csv").write_bytes(b"squares,src/squares\n")
    (made.root / "data" / "x.bin").write_bytes(bytes(range(256)))
    (made.root / "tool.sh").write_text("true\n")
    (made.root / "tool.sh").chmod(0o755)
    (made.root / "more.md").symlink_to("README.md")
    (made.root / "README.md").write_bytes(b"# squares\r\n\r\nkeeps its line ends\r\n")
    clone = copies.clone(made, "cubes", tmp_path, home=folders)
    assert (clone.root / "data" / "squares.csv").read_bytes() == b"squares,src/squares\n"
    assert (clone.root / "data" / "x.bin").read_bytes() == bytes(range(256))
    assert os.access(clone.root / "tool.sh", os.X_OK)
    assert (clone.root / "more.md").readlink() == Path("README.md")
    assert (clone.root / "README.md").read_bytes() == b"# cubes\r\n\r\nkeeps its line ends\r\n"


REFUSED: dict[str, Callable[[Project], object]] = {
    "a link out": lambda made: (made.root / "x").symlink_to("/etc/passwd"),
    "a link up": lambda made: (made.root / "x").symlink_to("../../x"),
    "a pipe": lambda made: os.mkfifo(made.root / "x"),
    "a broken one": lambda made: (made.manager / "__init__.py").write_text("class ("),
    "a uuid written otherwise": lambda made: made.pyproject.write_text(
        made.pyproject.read_text().replace(made.uuid, "".join(f"\\u{ord(char):04x}" for char in made.uuid))
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_followed_is_refused_and_nothing_is_left(tmp_path: Path, folders: HomePaths, what: str) -> None:
    made = create("squares", tmp_path)
    REFUSED[what](made)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ProjectError) as caught:
        copies.clone(read(made.root), "cubes", tmp_path, home=folders)
    assert str(caught.value).isprintable()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["squares", "Cubes", "json", "pytest", "../up", "cubes_worker", "there"])
def test_a_name_that_is_wrong_or_taken_is_refused(tmp_path: Path, folders: HomePaths, name: str) -> None:
    made = create("squares", tmp_path)
    (tmp_path / "there_project").mkdir()
    for act in (copies.clone, copies.rename):
        arguments = (made, name, tmp_path) if act is copies.clone else (made, name)
        with pytest.raises(ProjectError):
            act(*arguments, home=folders)  # type: ignore[operator]
    assert {path.name for path in tmp_path.iterdir()} == {"squares_project", "there_project", "home"}


# --- rename --------------------------------------------------------------------------


def test_a_renamed_app_is_the_same_one(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    env = AgiEnv(made.root)
    env.save_settings({"count": 77})
    before = AGI.run(env, env.request()).check()
    subprocess.run(["git", "init", "-q", made.root], check=True)
    renamed = copies.rename(made, "cubes", home=folders)
    assert renamed.uuid == made.uuid
    assert not made.root.exists()
    assert (renamed.root / ".git" / "config").is_file()
    env = AgiEnv(renamed.root)
    request = env.request()
    assert request.settings["count"] == 77
    after = AGI.run(env, request).check()
    assert hashes(before) == hashes(after)
    assert env.runs.get(before.run_id).paths.root == folders.runs / "squares" / before.run_id
    assert not folders.app_settings("squares").exists()


def test_settings_of_the_new_name_are_not_overwritten(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    AgiEnv(made.root).save_settings({"count": 77})
    kept = folders.app_settings("cubes")
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    copies.rename(made, "cubes", home=folders)
    assert kept.read_text() == "mine"
    assert folders.app_settings("squares").exists()


# --- delete --------------------------------------------------------------------------


def test_delete_keeps_runs_and_everything_beside(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    env = AgiEnv(made.root)
    run = AGI.run(env, env.request()).check()
    (tmp_path / "beside").touch()
    copies.delete(made, home=folders)
    assert {path.name for path in tmp_path.iterdir()} == {"beside", "home"}
    assert env.runs.get(run.run_id).state == "succeeded"


def test_a_broken_project_can_be_deleted(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    made.pyproject.write_text("[")
    copies.delete(read(made.root), home=folders)
    assert not made.root.exists()


def test_the_shipped_app_is_neither_renamed_nor_deleted(folders: HomePaths) -> None:
    shipped = AgiEnv("flight_telemetry").project
    with pytest.raises(ProjectError, match="is shipped and cannot be renamed; clone it: agilab apps clone"):
        copies.rename(shipped, "trips", home=folders)
    with pytest.raises(ProjectError, match="cannot be deleted"):
        copies.delete(shipped, home=folders)
    assert shipped.pyproject.is_file()


def test_nothing_is_deleted_through_a_link(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / made.root.name
    link.symlink_to(made.root)
    with pytest.raises(ProjectError, match="is a link to"):
        copies.delete(read(link), home=folders)
    assert link.is_symlink()
    assert made.pyproject.is_file()


def test_while_a_run_of_it_is_going_on_it_stays(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    made.pyproject.write_text(made.pyproject.read_text().replace(made.uuid, UUID))
    made = read(made.root)
    run = RunFolder(folders.root, app="squares")
    with hold_owner(run.paths):
        for act in (lambda: copies.delete(made, home=folders), lambda: copies.rename(made, "cubes", home=folders)):
            with pytest.raises(RunStateError, match=f"agilab cancel {run.paths.run_id}"):
                act()
    copies.delete(made, home=folders)
    assert not made.root.exists()


def test_a_run_of_another_app_of_that_name_is_not_in_the_way(tmp_path: Path, folders: HomePaths) -> None:
    made = create("squares", tmp_path)
    with hold_owner(RunFolder(folders.root, app="squares").paths):
        copies.delete(made, home=folders)


# --- interrupted -----------------------------------------------------------------------

STEPS = """
import json, os, shutil, sys
from pathlib import Path
from agilab import archive, copies, trust
from agilab.paths import HomePaths
from agilab.project import find_all, read

verb, folder, home, stride = sys.argv[1], Path(sys.argv[2]), HomePaths(Path(sys.argv[3])), int(sys.argv[4])
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile", "os.link"}


def act(here):
    if verb == "import":
        archive.import_zip(folder / "x.zip", here, home=home)
    elif verb == "clone":
        copies.clone(read(here / "squares_project"), "cubes", here, home=home)
    elif verb == "rename":
        copies.rename(read(here / "squares_project"), "cubes", home=home)
    else:
        copies.delete(read(here / "squares_project"), home=home)


def killed_at(step, here):
    pid = os.fork()
    if pid == 0:
        seen = [0]

        def count(event, arguments):
            if event in EVENTS:
                seen[0] += 1
                if seen[0] == step:
                    os._exit(9)

        sys.addaudithook(count)
        act(here)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


step, killed = 1, True
while killed:
    here = folder / f"here{step}"
    here.mkdir()
    if verb != "import":
        shutil.copytree(folder / "squares_project", here / "squares_project")
    killed = killed_at(step, here)
    seen = {path.name: trust.digest_of(path) for path in here.glob("*_project")}
    held = [path.name for path in here.glob("*_project") if trust.untrusted(path, home)]
    left = [path.name for path in here.iterdir() if path.name not in seen]
    print(json.dumps({"killed": killed, "seen": seen, "held": held, "left": left}), flush=True)
    step += stride
"""


@pytest.mark.parametrize("verb", ["clone", "rename", "delete", "import"])
def test_a_kill_at_any_moment_leaves_nothing_half(tmp_path: Path, folders: HomePaths, verb: str) -> None:
    made = create("squares", tmp_path)
    exported = archive.export_zip(made, tmp_path / "x.zip")
    whole = {"squares_project": exported.digest}
    (tmp_path / "whole").mkdir()
    renamed = shutil.copytree(made.root, tmp_path / "whole" / made.root.name)
    after = copies.rename(read(renamed), "cubes", home=folders)
    whole["cubes_project"] = trust.digest_of(after.root)
    shutil.rmtree(tmp_path / "whole")
    if verb == "import":
        shutil.rmtree(made.root)
    script = tmp_path / "steps.py"
    stride = {"delete": "5", "import": "11"}.get(verb, "211")  # of a few dozen steps, some hundred, some thousand
    script.write_text(STEPS)
    command = [sys.executable, script, verb, tmp_path, folders.root, stride]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=170)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(steps) > 5
    for step in steps:
        assert all(name.startswith(copies.ASIDE) for name in step["left"])
        if verb != "clone":  # whose uuid is new every time
            assert all(whole[name] == found for name, found in step["seen"].items())
        assert verb in ("delete", "import") or step["seen"]
        assert "squares_project" in step["seen"] or verb != "clone"
        assert verb != "import" or step["held"] == list(step["seen"])
    assert (steps[-1]["killed"], steps[-1]["left"]) == (False, [])
    final = {"clone": {"squares_project", "cubes_project"}, "rename": {"cubes_project"}, "delete": set()}
    assert set(steps[-1]["seen"]) == final.get(verb, {"squares_project"})


def test_what_a_killed_process_left_is_swept_later(tmp_path: Path, folders: HomePaths) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old, young = (tmp_path / f"{copies.ASIDE}{name}.{dead.pid}.tmp" for name in ("old", "young"))
    for path in (old, young, tmp_path / ".other.1.tmp"):
        path.mkdir()
        (path / "x").touch()
    for path in (old, tmp_path / ".other.1.tmp"):
        os.utime(path, (0, 0))
    made = create("squares", tmp_path)
    assert [item.name for item in find_all(cwd=tmp_path, environ={}) if item.source == "current"] == ["squares"]
    copies.clone(made, "cubes", tmp_path, home=folders)
    assert not old.exists()
    assert young.exists()
    assert (tmp_path / ".other.1.tmp").exists()


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, folders: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create("squares", tmp_path)

    def denied(*arguments: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(copies.tempfile, "mkdtemp", denied)
    with pytest.raises(ProjectError, match="Permission denied"):
        copies.delete(made, home=folders)
    assert made.pyproject.is_file()
