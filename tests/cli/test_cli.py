"""The fast path: what `agilab`, `--help` and `--version` answer without loading anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import agilab
from agilab import cli, errors
from agilab.cli import root

HEAVY = {"param", "numpy", "pandas", "distributed", "asyncssh", "click", "rich", "json", "re", "pathlib"}
MOST_TIMES_BARE = 4.0
"""How much CPU the overview may cost, against a bare interpreter."""

COMMANDS = [(name, text) for _, commands in cli.SECTIONS for name, _, text in commands]


def test_the_table_says_what_the_commands_say_themselves() -> None:
    context = click.Context(root.GROUP)
    for name, text in COMMANDS:
        command = root.GROUP.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(limit=200).rstrip(".") == text.rstrip(".")


def test_every_command_file_holds_only_commands_of_the_table() -> None:
    files = {file for _, commands in cli.SECTIONS for _, file, _ in commands}
    for file in files:
        module = __import__(f"agilab.cli.{file}", fromlist=["*"])
        every = [value for value in vars(module).values() if isinstance(value, click.Command)]
        inner = [command for group in every if isinstance(group, click.Group) for command in group.commands.values()]
        held = {command.name for command in every if command not in inner}
        assert held == {name for name, where in root.FILES.items() if where == file}


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--version"]])
def test_the_overview_loads_nothing_that_it_does_not_need(words: list[str]) -> None:
    code = f"import sys; from agilab.cli import main; code = main({words!r}); print(*sys.modules, file=sys.stderr)"
    # -S: what the installation itself loads at start is not ours.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(agilab.__file__).parent.parent,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & (HEAVY - {"re"} if "typing" in loaded else HEAVY)
    assert done.stdout


def test_the_overview_fits_a_terminal_and_names_every_command_and_exit_code() -> None:
    text = cli.help_text()
    assert max(map(len, text.splitlines())) <= 80
    for name, explanation in COMMANDS:
        assert f"  {name:<13}{explanation}" in text
    for code, explanation in cli.EXIT_CODES:
        assert f"  {code} {explanation}" in text


def test_every_exit_code_of_an_error_is_documented() -> None:
    codes = {
        value.exit_code for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "exit_code")
    }
    assert codes <= {code for code, _ in cli.EXIT_CODES}


def test_no_words_mean_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert capsys.readouterr().out == cli.help_text()


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == 0
    assert capsys.readouterr().out == cli.help_text()
    assert cli.main(["help", "runs"]) == 0
    assert capsys.readouterr().out.startswith("Usage: agilab runs ")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"agilab {agilab.__version__}\n"


def test_click_gives_the_same_overview(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(root.GROUP) as context:
        assert root.GROUP.get_help(context) + "\n" == cli.help_text()


def test_the_overview_costs_little_more_than_a_bare_interpreter(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}

    def cpu_s(*words: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, env=environment, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    def lowest(*words: str) -> float:
        # os.times counts in 10 ms, so one measurement is many starts.
        return min(sum(cpu_s(*words) for _ in range(8)) for _ in range(3))

    help_words = ("-c", "import sys; from agilab.cli import main; sys.exit(main(['--help']))")
    cpu_s(*help_words)
    assert lowest(*help_words) <= MOST_TIMES_BARE * lowest("-c", "pass")


@pytest.fixture
def extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return ``extension(command, code)``: installs a distribution that adds a command."""

    def install(name: str, code: str) -> None:
        site = tmp_path / "site"
        info = site / "ext-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ext\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[agilab.commands]\n{name} = ext:command\n\n[other]\nx = y:z\n")
        (site / "ext.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "ext", raising=False)

    return install


def test_an_extension_adds_a_command(extension: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]) -> None:
    extension("greet", "import click\n@click.command()\ndef command():\n    print('hello')\n    return 3\n")
    assert "greet" in cli.added_commands()
    assert "From installed extensions:\n  greet" in cli.help_text()
    assert cli.main(["greet"]) == 3
    assert capsys.readouterr().out == "hello\n"


def test_an_extension_cannot_replace_a_command(extension: Callable[[str, str], None]) -> None:
    extension("run", "raise SystemExit")
    assert "run" not in cli.added_commands()


def test_an_extension_that_lacks_a_package_says_which(
    extension: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    extension("serve", "import there_is_no_such_package\n")
    assert cli.main(["serve"]) == 1
    assert capsys.readouterr().err == (
        "agilab: error: command 'serve' needs there_is_no_such_package that is missing; install it\n"
    )
