"""Every finding that can be provoked is provoked."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agilab import doctor
from agilab.doctor import Finding, examine
from agilab.errors import InstallError
from agilab.paths import HomePaths, WenvPaths


@pytest.fixture
def folders(tmp_path: Path) -> tuple[HomePaths, WenvPaths]:
    """Return a home and a wenv that do not exist yet."""
    return HomePaths(tmp_path / "home" / ".agilab"), WenvPaths(tmp_path / "home" / "wenv")


def found(folders: tuple[HomePaths, WenvPaths], **environ: str) -> dict[str, Finding]:
    """Return the findings by name."""
    return {item.name: item for item in examine(*folders, {"PATH": os.environ["PATH"], **environ})}


def test_a_sound_machine_has_no_failure(folders: tuple[HomePaths, WenvPaths]) -> None:
    assert [item for item in examine(*folders, os.environ) if item.status == "fail"] == []


def test_nothing_is_left_behind(folders: tuple[HomePaths, WenvPaths], tmp_path: Path) -> None:
    examine(*folders, os.environ)
    assert list(tmp_path.rglob("*")) == []


def test_everything_but_ok_comes_with_a_fix(folders: tuple[HomePaths, WenvPaths]) -> None:
    for item in examine(*folders, {"PATH": "/nowhere", "AGILAB_SLOTS": "x"}):
        assert (item.status == "ok") == (item.fix == ""), item


def test_a_folder_that_is_a_file_fails(folders: tuple[HomePaths, WenvPaths]) -> None:
    home, _ = folders
    home.root.parent.mkdir()
    home.root.write_text("")
    assert found(folders)["AGILAB_HOME"].status == "fail"


def test_the_home_of_another_program_fails(folders: tuple[HomePaths, WenvPaths]) -> None:
    home, _ = folders
    home.root.mkdir(parents=True)
    home.marker.write_text('{"schema": "other/1"}')
    finding = found(folders)["AGILAB_HOME"]
    assert finding.status == "fail"
    assert "other/1" in finding.detail
    assert "choose another folder with AGILAB_HOME=PATH" in finding.fix


@pytest.mark.parametrize("variable", ["AGILAB_HOME", "AGILAB_WENV"])
def test_a_folder_with_files_of_another_program_fails_as_every_run_does(
    folders: tuple[HomePaths, WenvPaths], variable: str
) -> None:
    folder = folders[variable == "AGILAB_WENV"].root
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    finding = found(folders)[variable]
    assert (finding.status, finding.detail) == ("fail", f"{folder} holds files that are not AGILAB's (notes.txt)")
    assert f"choose another folder with {variable}=PATH" in finding.fix


def test_a_folder_that_others_can_write_is_named(folders: tuple[HomePaths, WenvPaths]) -> None:
    home, _ = folders
    home.root.mkdir(parents=True)
    home.root.chmod(0o777)
    finding = found(folders)["AGILAB_HOME"]
    assert (finding.status, finding.fix) == ("warn", f"chmod go-w {home.root}")


def test_somebody_elses_folder_fails(folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    home, _ = folders
    home.root.mkdir(parents=True)
    monkeypatch.setattr(os, "getuid", lambda: home.root.stat().st_uid + 1)
    finding = found(folders)["AGILAB_HOME"]
    assert finding.status == "fail"
    assert "belongs to user" in finding.detail


def test_a_folder_that_cannot_be_written_fails(
    folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() == 0:  # root may write everywhere, except in /proc
        home = HomePaths(Path("/proc/agilab"))
        monkeypatch.setattr(
            doctor, "existing", lambda folder: Path("/proc") if folder == home.root else folder.parent.parent
        )
        finding = found((home, folders[1]))["AGILAB_HOME"]
    else:
        home = folders[0]
        home.root.mkdir(parents=True, mode=0o500)
        finding = found(folders)["AGILAB_HOME"]
    assert finding.status == "fail"
    assert "cannot be written" in finding.detail


def test_locks_that_do_not_hold_fail(folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.fcntl, "flock", lambda fd, how: None)
    assert found(folders)["AGILAB_HOME locks"].status == "fail"


def test_a_filesystem_without_links_is_named(
    folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    assert found(folders)["AGILAB_WENV links"].status == "warn"


@pytest.mark.parametrize(("free", "status"), [(2**20, "fail"), (2**30, "warn"), (2**40, "ok")])
def test_space_is_judged(
    folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert found(folders)["AGILAB_HOME space"].status == status


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "fail")]
)
def test_the_version_of_python_is_judged(
    folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], status: str
) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (*version, 0, "final", 0))
    assert next(iter(doctor._python(doctor.Machine(*folders, {})))).status == status


@pytest.mark.parametrize(("platform", "status"), [("linux", "ok"), ("darwin", "warn"), ("win32", "fail")])
def test_the_platform_is_judged(
    folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch, platform: str, status: str
) -> None:
    monkeypatch.setattr(doctor.sys, "platform", platform)
    assert next(iter(doctor._platform(doctor.Machine(*folders, {})))).status == status


def test_a_missing_uv_fails(folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise InstallError("uv is not installed")

    monkeypatch.setattr(doctor, "find_uv", missing)
    assert found(folders)["uv"].status == "fail"


def test_a_uv_that_does_not_start_fails(folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_uv", lambda: "/bin/false")
    assert found(folders)["uv"].status == "fail"


def test_a_slot_count_that_is_no_number_fails(folders: tuple[HomePaths, WenvPaths]) -> None:
    assert found(folders, AGILAB_SLOTS="0")["slots"].status == "fail"
    assert found(folders, AGILAB_SLOTS="3", AGILAB_RESOURCES="gpu=1")["slots"].detail.startswith("3 cpu, 1 gpu")


def test_a_temporary_folder_that_is_not_there_fails(
    folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: "/nowhere")
    assert next(iter(doctor._temporary(doctor.Machine(*folders, {})))).status == "fail"


@pytest.fixture
def few_files() -> Iterator[None]:
    """Allow this process 512 open files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_few_open_files_are_named(folders: tuple[HomePaths, WenvPaths], few_files: None) -> None:
    assert found(folders)["open files"].status == "warn"


def test_an_extra_that_is_missing_comes_with_its_command(
    folders: tuple[HomePaths, WenvPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    finding = found(folders)["extra ui"]
    assert (finding.status, finding.fix) == ("note", "pip install 'agilab-holoviz[ui]'")
    assert finding.extra


def test_every_extra_of_the_distribution_is_known() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"all", "test"}


def test_doctor_needs_no_app_and_no_param(tmp_path: Path) -> None:
    code = "import sys, agilab.doctor; print('param' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
