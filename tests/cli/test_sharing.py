"""`apps clone|rename|delete`, `export zip`, `import zip` and `trust`, and that no command runs what is not trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from agilab import AgiEnv, trust
from agilab.cli import root
from agilab.cli.sharing import confirmed
from tests import canary
from tests.run_folder import MOMENT, RunFolder

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def squares(cli: Cli, here: Path) -> Path:
    """Return a new project here."""
    cli("new", "squares")
    return here / "squares_project"


def body(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the document that a command printed."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_clone_rename_and_delete_say_what_they_did(cli: Cli, squares: Path, here: Path) -> None:
    made = cli("apps", "clone", "squares", "cubes")
    assert made.stdout.splitlines()[0] == f"wrote {here / 'cubes_project'}"
    assert cli("check", "cubes").stdout == "ok: cubes keeps the app contract\n"
    found = body(cli("apps", "clone", "flight_telemetry", "trips", "--json"))
    assert (found["schema"], found["app_class"]) == ("agilab.cli.apps.clone/1", "trips:Trips")
    run = body(cli("run", "cubes", "--json"))
    renamed = cli("apps", "rename", "cubes", "powers")
    assert renamed.returncode == 0
    assert renamed.stderr.startswith("its 1 run stays in ")
    assert body(cli("show", run["run_id"], "--json"))["state"] == "succeeded"
    refused = cli("apps", "delete", "powers")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.endswith("(7 files) was not deleted; confirm it with --yes\n")
    assert (here / "powers_project").exists()
    assert cli("apps", "delete", "powers", "--yes").stdout == f"deleted {here / 'powers_project'}\n"
    assert body(cli("apps", "delete", "trips", "--yes", "--json"))["schema"] == "agilab.cli.apps.delete/1"
    assert sorted(path.name for path in here.iterdir()) == ["squares_project"]


def test_a_history_that_would_be_lost_is_named(cli: Cli, squares: Path) -> None:
    (squares / ".git").mkdir()
    assert "and its history in .git) was not deleted" in cli("apps", "delete", "squares").stderr


@pytest.mark.parametrize("verb", ["rename", "delete"])
def test_the_shipped_app_stays(cli: Cli, verb: str) -> None:
    done = cli("apps", verb, "flight_telemetry", *(["trips"] if verb == "rename" else ["--yes"]))
    assert done.returncode == 2
    assert "clone it: agilab apps clone flight_telemetry NAME" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export",), "missing command; see agilab export --help"),
        (("import", "zp"), "no command 'zp'; did you mean 'zip'? see agilab import --help"),
        (("apps", "clne"), "no command 'clne'; did you mean 'clone'? see agilab apps --help"),
        (("apps", "clone", "x"), "missing argument 'NAME'; see agilab apps clone --help"),
        (("import", "zip", "x", "--nam"), "no option '--nam'; did you mean '--name'? see agilab import zip --help"),
    ],
)
def test_wrong_use_names_the_help_that_explains(cli: Cli, words: tuple[str, ...], said: str) -> None:
    assert cli(*words).stderr == f"agilab: error: {said}\n"


def test_a_project_goes_out_comes_in_is_looked_at_and_trusted(cli: Cli, squares: Path, here: Path) -> None:
    (squares / ".env").write_text("token=1")
    exported = body(cli("export", "zip", "squares", "--json"))
    assert (exported["schema"], exported["left_out"]) == ("agilab.cli.export.zip/1", [".env"])
    again = cli("export", "zip", "squares", "other.zip")
    assert again.stdout.splitlines()[1].split() == ["sha256", exported["sha256"]]
    assert again.stderr == "left out, since such files hold secrets: .env\n"
    shutil.rmtree(squares)
    came = cli("import", "zip", "squares_project.zip")
    assert came.stdout.splitlines()[-1] == f"  read it, then: agilab trust {squares}"
    listed = cli("apps")
    assert "untrusted" in listed.stdout
    assert f"squares: imported and not trusted; read it, then: agilab trust {squares}\n" in listed.stderr
    trusted = {app["name"]: app["trusted"] for app in body(cli("apps", "--json"))["apps"]}
    assert (trusted["squares"], trusted["flight_telemetry"]) == (False, True)
    checked = cli("check", "squares")
    assert checked.stdout == "ok: squares keeps the app contract, as far as its files tell\n"
    assert "its code was not asked for settings and plan" in checked.stderr
    assert body(cli("check", "squares", "--json"))["code_asked"] is False
    looked = cli("trust", "squares")
    assert looked.returncode == 2
    for line in (f"digest        {exported['digest']}", "files         6 files, ", " B  src/squares/__init__.py"):
        assert line in looked.stdout
    assert looked.stderr.endswith(f"--digest {exported['digest'][:12]}, or --yes: agilab trust --help\n")
    for wrong in ("0" * 12, exported["digest"][:4], ""):
        assert cli("trust", "squares", "--digest", wrong).returncode == 2
    found = body(cli("trust", "squares", "--digest", exported["digest"][:12].upper(), "--json"))
    assert found["import"]["digest"] == exported["digest"]
    assert "trusted: squares" not in cli("trust", "squares").stdout
    assert body(cli("trust", "squares", "--json"))["import"] is None
    assert body(cli("run", "squares", "--json"))["state"] == "succeeded"


def test_an_edit_after_the_import_is_pointed_out(cli: Cli, squares: Path) -> None:
    cli("export", "zip", "squares")
    shutil.rmtree(squares)
    cli("import", "zip", "squares_project.zip")
    (squares / "README.md").write_text("\x1b]0;owned\x07")
    (squares / "\x1b[31mred").touch()
    looked = cli("trust", "squares")
    assert "(changed since the import)" in looked.stdout
    assert "\x1b" not in looked.stdout


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_at_a_terminal_it_asks(
    cli: Cli, squares: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    cli("export", "zip", "squares")
    shutil.rmtree(squares)
    cli("import", "zip", "squares_project.zip")

    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return f"{answer}\n"

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: answer)
    assert cli("trust", "squares").returncode == code
    assert (trust.untrusted(squares, AgiEnv().home) is None) is (code == 0)
    assert cli("apps", "delete", "squares").returncode == code
    assert squares.exists() is (code != 0)


def test_nobody_is_asked_for_json(monkeypatch: pytest.MonkeyPatch) -> None:
    assert confirmed("?", as_json=True) is False


# --- what is not trusted ---------------------------------------------------------------

APP = "APP"
"""Stands for the path of the app that is not trusted."""

FAILED = "20231114-221319-0000"
"""A run of an app of that name which has failed."""

LOOKS: dict[str, list[tuple[str, ...]]] = {
    "first-proof": [("first-proof", "--help")],  # on an untrusted copy of the shipped app: see below
    "doctor": [("doctor",)],
    "apps": [("apps",), ("apps", "--json")],
    "apps clone": [("apps", "clone", APP, "singer")],
    "apps rename": [("apps", "rename", APP, "singer")],
    "apps delete": [("apps", "delete", APP, "--yes")],
    "new": [("new", "other")],
    "check": [("check", APP), ("check",), ("check", APP, "--json")],
    "export zip": [("export", "zip", APP, "../out.zip")],
    "export mlflow": [("export", "mlflow", "last", "--to", "a\nb")],
    "import zip": [("import", "zip", "../canary.zip", "--name", "singer")],
    "import notebook": [("import", "notebook", "../canary.ipynb", "--name", "singer")],
    "trust": [("trust", APP), ("trust", APP, "--digest", "00000000")],
    "cancel": [("cancel", "last")],
    "seal": [("seal", "last")],
    "compare": [("compare", "last", "last")],
    "tag": [("tag", "last", "heard")],
    "rm": [("rm", "last")],
    "fetch": [("fetch", "last")],
    "service status": [("service", "status"), ("service", "status", APP), ("service", "status", "canary")],
    "service health": [("service", "health", APP), ("service", "health", APP, "--prometheus")],
    "service stop": [("service", "stop", APP)],
    "cluster clean": [("cluster", "clean", "-no-host")],
    "clean": [("clean",), ("clean", "--keep-last", "0")],
    "runs": [("runs",)],
    "show": [("show", "last")],
    "logs": [("logs", "last")],
    "verify": [("verify", "last")],
    "env": [("env",), ("env", "--json")],
}
"""Commands that may look at an app that is not trusted, or have nothing to do with it."""

REFUSED: dict[str, list[tuple[str, ...]]] = {
    "settings": [("settings", APP), ("settings", APP, "set", "count=5"), ("settings", APP, "--schema")],
    "install": [("install", APP)],
    "plan": [("plan", APP), ("plan", APP, "--help"), ("plan", "canary", "--count", "3")],
    "run": [
        ("run", APP),
        ("run", APP, "--help"),
        ("run", APP, "--detach"),
        ("run", APP, "--backend", "inline"),
        ("run", APP, "--json"),
        ("run", "canary"),
        ("run", "--request", "../request.json"),
    ],
    "service start": [("service", "start", APP)],
    "service submit": [("service", "submit", APP), ("service", "submit", APP, "--help")],
    "resume": [("resume", FAILED), ("resume", FAILED, "--detach")],
    "bench": [("bench", APP), ("bench", APP, "--help")],
    "debug": [("debug", "last", "p0"), ("debug", "last", "p0", "--no-pdb")],
    "export notebook": [("export", "notebook", APP, "--standalone"), ("export", "notebook", APP)],
}
"""Commands that need its code."""


def every_command() -> Iterator[str]:
    """Yield the words of every command, those of groups with their inner ones."""
    context = click.Context(root.GROUP)
    for name in root.FILES:
        command = root.GROUP.get_command(context, name)
        inner = list(command.commands) if isinstance(command, click.Group) else []
        if not inner or getattr(command, "invoke_without_command", False):
            yield name
        yield from (f"{name} {one}" for one in inner)


def test_every_command_is_tried_on_an_app_that_is_not_trusted() -> None:
    assert {*LOOKS, *REFUSED} == set(every_command())


@pytest.fixture
def singer(cli: Cli, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Import the canary, go into its folder, and leave runs of an app of its name; what sings makes the test fail."""
    song = tmp_path / "song"
    (here / "canary.zip").write_bytes(canary.zipped(canary.files(song)))
    assert cli("import", "zip", "canary.zip").returncode == 0
    project = here / "canary_project"
    RunFolder(AgiEnv().home.root, app="canary").commit_all().seal()
    RunFolder(AgiEnv().home.root, app="canary", moment=MOMENT - 1).seal("failed", "some reason")
    (here / "request.json").write_text(
        json.dumps({"schema": "agilab.request/1", "app": {"name": "canary", "uuid": canary.UUID}})
    )
    subprocess.run(["git", "init", "-q", project], check=True)
    with open(project / ".git" / "config", "a") as file:
        file.write(f'[core]\n\tfsmonitor = "touch {song}; false"\n[filter "sing"]\n\tclean = "touch {song}; cat"\n')
    (project / ".gitattributes").write_text("* filter=sing\n")
    monkeypatch.chdir(project)
    yield project
    assert not song.exists(), "code of an app that is not trusted has run"
    assert not {name for name in sys.modules if name.startswith(("canary", "sitecustomize", "usercustomize"))}


def words_for(words: tuple[str, ...], project: Path) -> list[str]:
    """Put the path of the app into a command line."""
    return [str(project) if word == APP else word for word in words]


@pytest.mark.parametrize("words", [words for every in LOOKS.values() for words in every], ids=" ".join)
def test_a_command_that_looks_runs_nothing(cli: Cli, singer: Path, words: tuple[str, ...]) -> None:
    done = cli(*words_for(words, singer))
    assert done.returncode in (0, 1, 2)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [words for every in REFUSED.values() for words in every], ids=" ".join)
def test_a_command_that_needs_its_code_is_refused_in_one_line(cli: Cli, singer: Path, words: tuple[str, ...]) -> None:
    done = cli(*words_for(words, singer))
    assert done.returncode == 2
    assert done.stderr == (
        "agilab: error: canary was imported and is not trusted, so nothing of it runs; "
        f"read it, then: agilab trust {singer}\n"
    )
    assert [run.run_id for run in AgiEnv().runs.list()] == ["20231114-221320-0000", FAILED]
    assert AgiEnv().runs.get(FAILED).state == "failed"


def test_from_inside_the_project_as_a_process_of_its_own(cli: Cli, singer: Path) -> None:
    script = Path(sys.executable).with_name("agilab")
    for words in (("run", "."), ("check",), ("apps",), ("trust", "."), ("install", "canary")):
        done = subprocess.run([script, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode in (0, 2)
        assert "agilab trust" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_untrusted_copy_of_the_shipped_app_is_not_run_in_its_place(cli: Cli, here: Path) -> None:
    shipped, copy = AgiEnv("flight_telemetry").project, here / "flight_telemetry_project"
    shutil.copytree(shipped.root, copy, ignore=shutil.ignore_patterns("__pycache__"))
    AgiEnv().prepare()
    trust.record(copy, AgiEnv().home, root=copy, origin="x.zip", origin_sha256="0" * 64)
    done = cli("first-proof")
    assert done.returncode == 2
    assert f"agilab trust {copy}" in done.stderr
    os.unlink(copy / trust.MARKER)
    assert cli("run", "flight_telemetry").returncode == 2
