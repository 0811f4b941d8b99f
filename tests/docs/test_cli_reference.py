"""The reference of the command line is complete: every command, option and exit code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

from agilab import cli, codec
from agilab.cli import root
from agilab.request import ClusterOptions

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """Return the generator, which lies beside the pages."""
    spec = importlib.util.spec_from_file_location("cli_reference", DOCS / "cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_every_option_is_there(reference: ModuleType) -> None:
    text: str = reference.markdown()
    context = click.Context(root.GROUP)
    sections = text.split("\n### ")
    for name in root.FILES:
        section = next(part for part in sections if part.startswith(f"`agilab {name}`"))
        command = root.GROUP.get_command(context, name)
        assert command is not None
        for param in command.params:
            if isinstance(param, click.Option):
                assert all(flag in section for flag in param.opts), (name, param.name)


def test_cluster_options_are_there_for_every_command_that_runs_an_app(reference: ModuleType) -> None:
    text: str = reference.markdown()
    for name, _ in codec.leaves(ClusterOptions.fields()):
        commands = 4 - (name == "backend") + name.startswith("service_health.")  # bench chooses the backend itself
        assert text.count(f"`--{name.replace('_', '-')} ") == commands, name


def test_every_exit_code_is_there(reference: ModuleType) -> None:
    text: str = reference.markdown()
    for code, meaning in cli.EXIT_CODES:
        assert f"| {code} | {meaning} |" in text


def test_what_markdown_would_obey_is_escaped(reference: ModuleType) -> None:
    assert "&lt;= 60" in reference.markdown()


def test_the_commands_of_extensions_are_there_with_their_options(reference: ModuleType) -> None:
    section = reference.markdown().partition("### `agilab serve`")[2].partition("\n## ")[0]
    for flag in ("--port", "--address", "--basic-auth", "--hosts", "--open", "--print-app"):
        assert f"`{flag}" in section
