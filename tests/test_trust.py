"""Nothing of an imported app runs before it is trusted, whatever becomes of its folder or of the record."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, RunRequest, archive, copies, installation, trust
from agilab.errors import TrustError
from agilab.paths import HomePaths
from agilab.planner import Planner
from agilab.project import Project, read
from agilab.supervisor import Execution
from agilab.template import create
from tests import canary
from tests.run_folder import conform

PACKAGE = Path(trust.__file__).parent


@pytest.fixture
def folders(home: Path) -> HomePaths:
    """Return the folders of the test's home."""
    env = AgiEnv()
    env.prepare()
    return env.home


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """Return the file that is there once code of the canary has run."""
    return tmp_path / "song"


@pytest.fixture
def imported(tmp_path: Path, folders: HomePaths, song: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return the canary, imported into a folder of its own, which is the current one."""
    file, here = tmp_path / "canary.zip", tmp_path / "here"
    file.write_bytes(canary.zipped(canary.files(song)))
    here.mkdir()
    monkeypatch.chdir(here)
    return archive.import_zip(file, here, home=folders).project


def plain(folder: Path, folders: HomePaths) -> Project:
    """Return a small project that was imported, as one that may well be trusted."""
    made = create("small", folder)
    file = folder / "small.zip"
    archive.export_zip(made, file)
    shutil.rmtree(made.root)
    return archive.import_zip(file, folder, home=folders).project


def test_what_was_made_here_may_run(tmp_path: Path, folders: HomePaths) -> None:
    made = create("mine", tmp_path)
    assert trust.untrusted(made.root, folders) is None
    trust.require(made.root, folders)
    assert not folders.trust.exists()


def test_the_record_says_what_came_from_where(imported: Project, folders: HomePaths, tmp_path: Path) -> None:
    for file in (folders.trust, imported.root / trust.MARKER):
        value = json.loads(file.read_bytes())
        conform(value, "agilab.trust/1")
        [item] = value["imports"]
        assert (item["root"], item["uuid"], item["trusted"]) == (str(imported.root.resolve()), canary.UUID, None)
        assert item["origin"] == str(tmp_path / "canary.zip")
        assert item["digest"] == trust.digest_of(imported.root)
        assert file.stat().st_mode & 0o777 == 0o600


API: dict[str, Callable[[AgiEnv], object]] = {
    "fields": lambda env: env.fields(),
    "settings": lambda env: env.settings(),
    "save_settings": lambda env: env.save_settings({"count": 5}),
    "request": lambda env: env.request(),
    "planner": lambda env: env.planner,
    "planner in a child": lambda env: Planner(env.project, env.home, env.project.root, in_process=False),
    "planner of a snapshot": lambda env: Planner(env.project, env.home, env.project.root, source=env.project.root),
    "install": lambda env: AGI.install(env),
    "installation": lambda env: installation.install(env.project, home=env.home, wenv=env.wenv, report=print),
    "data": lambda env: installation.fetch_data(env.project, env.home, print),
    "get_distrib": lambda env: AGI.get_distrib(env, request_of(env)),
    "run": lambda env: AGI.run(env, request_of(env)),
    "run inline": lambda env: AGI.run(env, request_of(env, backend="inline")),
    "submit": lambda env: AGI.submit(env, request_of(env)),
    "supervise": lambda env: Execution(
        env.home, env.wenv, env.project, request_of(env), env.home.run("canary", "20260101-000000-0000")
    ),
}


def request_of(env: AgiEnv, backend: str = "local") -> RunRequest:
    """Return a request that was made somewhere else."""
    return RunRequest(
        app=env.project.name,
        app_uuid=env.project.uuid,
        code_digest=env.code_digest(),
        settings={"count": 3},
        cluster={**env.cluster().values, "backend": backend},
        seed=0,
        provenance={},
        cluster_provenance={},
    )


@pytest.mark.parametrize("way", API)
def test_no_way_in_python_runs_anything_of_it(imported: Project, song: Path, way: str) -> None:
    env = AgiEnv(imported.root)
    with pytest.raises(TrustError, match="canary was imported and is not trusted") as caught:
        API[way](env)
    assert f"agilab trust {imported.root}" in str(caught.value)
    assert not song.exists()
    assert not env.home.runs.exists()
    assert not {name for name in sys.modules if name.partition(".")[0] in ("canary", "canary_worker")}


def test_the_canary_does_sing_once_it_is_trusted(imported: Project, folders: HomePaths, song: Path) -> None:
    trust.trust(imported.root, folders, seen=trust.digest_of(imported.root))
    Planner(imported, folders, imported.root, in_process=False).fields()
    assert song.exists()


def test_what_was_cached_for_equal_code_is_not_shown_either(tmp_path: Path, folders: HomePaths) -> None:
    mine = create("small", tmp_path)
    AgiEnv(mine.root).fields()
    file, there = tmp_path / "small.zip", tmp_path / "there"
    archive.export_zip(mine, file)
    there.mkdir()
    shutil.rmtree(mine.root)
    found = archive.import_zip(file, there, home=folders).project
    with pytest.raises(TrustError):
        AgiEnv(found.root).fields()


def test_a_repository_inside_it_is_not_asked(imported: Project, song: Path) -> None:
    subprocess.run(["git", "init", "-q", imported.root], check=True)
    with open(imported.root / ".git" / "config", "a") as file:
        file.write(f'[core]\n\tfsmonitor = "touch {song}; false"\n\thooksPath = {imported.root}\n')
        file.write(f'[filter "sing"]\n\tclean = "touch {song}; cat"\n\tprocess = "touch {song}"\n')
    (imported.root / ".gitattributes").write_text("* filter=sing\n")
    for way in API:
        with pytest.raises(TrustError):
            API[way](AgiEnv(imported.root))
    assert not song.exists()


# --- moved, copied, edited ---------------------------------------------------------


def moved(root: Path) -> Path:
    return root.rename(root.parent.parent / root.name)


def copied(root: Path) -> Path:
    return shutil.copytree(root, root.parent.parent / root.name)


def copied_without_the_marker(root: Path) -> Path:
    return shutil.copytree(root, root.parent.parent / root.name, ignore=shutil.ignore_patterns(trust.MARKER))


def without_the_marker(root: Path) -> Path:
    (root / trust.MARKER).unlink()
    return root


def edited_without_the_marker(root: Path) -> Path:
    (root / "README.md").write_text("edited\n")
    return without_the_marker(root)


def edited(root: Path) -> Path:
    (root / "src" / "canary" / "__init__.py").write_text("print(1)\n")
    return root


def with_a_damaged_marker(root: Path) -> Path:
    (root / trust.MARKER).write_text("{")
    return root


def through_a_link(root: Path) -> Path:
    link = root.parent.parent / root.name
    link.symlink_to(root)
    return link


def inside_of_it(root: Path) -> Path:
    return shutil.copytree(
        root, root / "apps" / "canary_project", ignore=shutil.ignore_patterns(trust.MARKER, "apps", "README.md")
    )


@pytest.mark.parametrize(
    "change",
    [
        moved,
        copied,
        copied_without_the_marker,
        without_the_marker,
        edited_without_the_marker,
        edited,
        with_a_damaged_marker,
        through_a_link,
        inside_of_it,
    ],
)
def test_it_stays_untrusted_when_its_folder_is_changed_by_hand(
    imported: Project, folders: HomePaths, change: Callable[[Path], Path]
) -> None:
    root = change(imported.root)
    assert trust.untrusted(root, folders) is not None
    with pytest.raises(TrustError):
        trust.require(root, folders)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "agilab.trust/2"}', '{"schema": "agilab.trust/1"}', "gone"]
)
def test_a_damaged_record_keeps_it_untrusted_and_harms_no_other_app(
    imported: Project, folders: HomePaths, tmp_path: Path, text: str
) -> None:
    mine = create("mine", tmp_path)
    folders.trust.unlink()
    if text != "gone":
        folders.trust.write_text(text)
    with pytest.raises(TrustError, match="canary was imported"):
        AgiEnv(imported.root).fields()
    assert AgiEnv(mine.root).fields()
    if text != "gone":
        with pytest.raises(TrustError, match="cannot be read") as caught:
            trust.trust(imported.root, folders, seen=trust.digest_of(imported.root))
        assert "move the file away" in str(caught.value)
        assert (imported.root / trust.MARKER).exists()


def test_another_home_does_not_trust_it(imported: Project, tmp_path: Path) -> None:
    with pytest.raises(TrustError):
        trust.require(imported.root, HomePaths(tmp_path / "other"))


# --- trusting ------------------------------------------------------------------------


def test_once_trusted_it_is_its_owners_to_edit_and_to_move(tmp_path: Path, folders: HomePaths) -> None:
    project = plain(tmp_path, folders)
    found = trust.trust(project.root, folders, seen=trust.digest_of(project.root))
    conform(json.loads(folders.trust.read_bytes()), "agilab.trust/1")
    assert found.trusted
    assert not (project.root / trust.MARKER).exists()
    (project.root / "README.md").write_text("mine now\n")
    env = AgiEnv(project.root)
    assert env.fields()
    there = project.root.rename(tmp_path / "there_project")
    assert trust.untrusted(there, folders) is None


def test_what_has_changed_while_it_was_looked_at_is_not_trusted(imported: Project, folders: HomePaths) -> None:
    seen = trust.digest_of(imported.root)
    (imported.root / "README.md").write_text("other\n")
    with pytest.raises(TrustError, match="has changed while it was looked at"):
        trust.trust(imported.root, folders, seen=seen)
    assert trust.untrusted(imported.root, folders)


def test_the_executable_bit_is_part_of_what_is_looked_at(imported: Project, folders: HomePaths) -> None:
    seen = trust.digest_of(imported.root)
    (imported.root / "setup.py").chmod(0o700)
    with pytest.raises(TrustError, match="has changed"):
        trust.trust(imported.root, folders, seen=seen)


def test_a_copy_that_was_moved_by_hand_can_be_trusted_where_it_is(tmp_path: Path, folders: HomePaths) -> None:
    project = plain(tmp_path, folders)
    (tmp_path / "there").mkdir()
    root = project.root.rename(tmp_path / "there" / project.root.name)
    trust.trust(root, folders, seen=trust.digest_of(root))
    assert trust.untrusted(root, folders) is None


def test_a_part_of_an_imported_project_is_not_trusted_alone(imported: Project, folders: HomePaths) -> None:
    root = inside_of_it(imported.root)
    with pytest.raises(TrustError, match="is part of an imported project"):
        trust.trust(root, folders, seen=trust.digest_of(root))


def test_what_was_not_imported_need_not_be_trusted(tmp_path: Path, folders: HomePaths) -> None:
    made = create("mine", tmp_path)
    with pytest.raises(TrustError, match="was not imported"):
        trust.trust(made.root, folders, seen=trust.digest_of(made.root))


def test_importing_again_makes_it_untrusted_again(tmp_path: Path, folders: HomePaths) -> None:
    project = plain(tmp_path, folders)
    trust.trust(project.root, folders, seen=trust.digest_of(project.root))
    shutil.rmtree(project.root)
    again = archive.import_zip(tmp_path / "small.zip", tmp_path, home=folders).project
    assert trust.untrusted(again.root, folders)
    without_the_marker(again.root)
    assert trust.untrusted(again.root, folders)


def test_a_new_project_in_the_place_of_an_imported_one_is_not_taken_for_it(tmp_path: Path, folders: HomePaths) -> None:
    project = plain(tmp_path, folders)
    shutil.rmtree(project.root)
    made = create("small", tmp_path)
    assert trust.untrusted(made.root, folders) is None


def test_trust_follows_clone_and_rename_and_ends_with_delete(tmp_path: Path, folders: HomePaths) -> None:
    project = plain(tmp_path, folders)
    clone = copies.clone(project, "smaller", tmp_path, home=folders)
    assert trust.untrusted(without_the_marker(clone.root), folders)
    renamed = copies.rename(project, "tiny", home=folders)
    assert trust.untrusted(without_the_marker(renamed.root), folders)
    copies.delete(renamed, home=folders)
    assert [item.root for item in trust.imports(folders)] == [str(clone.root.resolve())]


def test_two_who_write_at_once_lose_nothing(tmp_path: Path, folders: HomePaths) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from agilab import trust
        from agilab.paths import HomePaths
        for number in range(20):
            folder = Path(sys.argv[2], f"{sys.argv[3]}{number}_project")
            folder.mkdir()
            trust.record(folder, HomePaths(Path(sys.argv[1])), root=folder, origin="x.zip", origin_sha256="0" * 64)
    """
    command = [sys.executable, "-c", code, folders.root, tmp_path]
    for process in [subprocess.Popen([*command, name]) for name in "abc"]:
        assert process.wait(timeout=60) == 0
    assert len(trust.imports(folders)) == 60


# --- there is no other way -------------------------------------------------------------

DOORS = {
    "package.install": {"installation"},
    "WorkerSession": {"entry", "debug", "inline"},
    "answer": {"planner"},
    "Child": {"planner", "kept"},
    "Execution": {"agi", "supervisor", "detached", "serving"},
    # `host` imports a cluster class, `lease` and `serve` modules of AGILAB itself.
    "import_module": {"planner", "entry", "base", "root", "__init__", "host", "lease", "serve"},
    "spec.loader.exec_module": {"own"},
}
"""What lets code of an app run -> the modules that call it: they ask `trust`, or are reached through one that does."""


@pytest.mark.parametrize("door", DOORS)
def test_no_other_module_lets_app_code_run(door: str) -> None:
    found = {
        path.stem
        for package in (PACKAGE, PACKAGE.parent / "dashboards")
        for path in package.rglob("*.py")
        if "testing" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (door, f"importlib.{door}")
    }
    assert found <= DOORS[door]


def test_reading_it_runs_nothing(imported: Project, song: Path) -> None:
    found = read(imported.root)
    assert (found.name, found.app_class, found.breaches) == ("canary", "canary:Canary", ())
    assert not song.exists()
