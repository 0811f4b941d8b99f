"""A new app project keeps the contract, runs at once on every backend, and is small enough to read whole."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv
from agilab.contract import check
from agilab.errors import NoSpaceError, ProjectError
from agilab.project import find
from agilab.template import FILES, create

RUN_BACKENDS = ("inline", "local")


def test_it_has_under_ten_files_and_under_eighty_lines(tmp_path: Path) -> None:
    made = create("my_app", tmp_path)
    files = [path for path in made.root.rglob("*") if path.is_file()]
    assert len(files) == len(FILES) < 10
    assert sum(len(path.read_text().splitlines()) for path in files) < 80
    assert [path.name for path in tmp_path.iterdir()] == ["my_app_project"]


def test_it_keeps_the_contract_with_its_settings_and_stages_too(tmp_path: Path) -> None:
    made = create("my_app", tmp_path)
    env = AgiEnv(made.root, home=tmp_path / "home", wenv=tmp_path / "wenv")
    plan = AGI.get_distrib(env, env.request()).plan
    assert check(made, fields=env.fields(), stages=[stage.name for stage in plan.stages]) == ()
    assert [len(stage.partitions or ()) for stage in plan.stages] == [4, 0]
    assert {field.name: field.unit for field in env.fields()} == {"count": "numbers", "partitions": ""}


@pytest.mark.parametrize("backend", RUN_BACKENDS)
def test_it_runs_at_once_on_every_backend(tmp_path: Path, backend: str) -> None:
    made = create("my_app", tmp_path)
    env = AgiEnv(made.root, home=tmp_path / "home", wenv=tmp_path / "wenv")
    run = AGI.run(env, env.request({"count": 100}, cluster={"backend": backend}))
    assert run.state == "succeeded", run.error
    assert run.metrics == {"numbers": 100, "total": sum(number**2 for number in range(100))}
    assert run.artifact("total").read_text() == "328350\n"


def test_two_of_them_are_not_the_same_app(tmp_path: Path) -> None:
    one, two = create("app_one", tmp_path), create("app_two", tmp_path)
    assert one.uuid != two.uuid
    assert find("app_two", cwd=tmp_path, environ={}).app_class == "app_two:AppTwo"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My-App", "did you mean 'my_app'?"),
        ("my_app_project", "leave the ending off"),
        ("my_worker", "leave the ending off"),
        ("json", "choose another"),
        ("class", "choose another"),
        ("match", "choose another"),
        ("agilab", "choose another"),
        ("pytest", "is an installed Python package"),
        ("", "use up to 50"),
        ("1st", "use up to 50"),
        ("a" * 51, "use up to 50"),
        ("../up", "use up to 50"),
        ("a;b", "did you mean 'a_b'?"),
        ("\u0430pp", "use up to 50"),  # a Cyrillic letter
        ("a\n", "use up to 50"),
    ],
)
def test_a_bad_name_is_refused_in_one_line_and_nothing_is_written(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ProjectError, match=re.escape(said)) as caught:
        create(name, tmp_path)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "my_app_project").touch()
    with pytest.raises(ProjectError, match="already exists; choose another name or folder"):
        create("my_app", tmp_path)
    assert (tmp_path / "my_app_project").read_text() == ""
    (tmp_path / "other_project").symlink_to("nowhere")
    with pytest.raises(ProjectError, match="already exists"):
        create("other", tmp_path)


def test_a_name_that_would_be_found_twice_is_refused(tmp_path: Path) -> None:
    first = create("my_app", tmp_path)
    below = tmp_path / "below"
    below.mkdir()
    with pytest.raises(ProjectError, match="there is an app 'my_app' in") as caught:
        create("my_app", below)
    assert str(first.root) in str(caught.value)
    assert list(below.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="is not a folder; make it first"):
        create("my_app", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (errno.ENOSPC, NoSpaceError, "no space on disk while writing a project"),
        (errno.EACCES, ProjectError, "choose another folder"),
        (errno.EROFS, ProjectError, "Read-only file system"),
    ],
)
def test_a_disk_that_refuses_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], said: str
) -> None:
    write, written = Path.write_text, []

    def failing(self: Path, *arguments: str, encoding: str) -> int:
        written.append(self)
        if len(written) == 3:
            raise OSError(code, os.strerror(code)) if code != errno.EACCES else PermissionError(code, os.strerror(code))
        return write(self, *arguments, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(kind, match=said):
        create("my_app", tmp_path)
    assert list(tmp_path.iterdir()) == []
