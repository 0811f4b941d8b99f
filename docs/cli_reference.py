"""Writes the reference of the command line from the commands themselves, as Markdown; `conf.py` puts it in its page."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import click

from agilab.cli import EXIT_CODES, SECTIONS, added_commands
from agilab.cli.flags import DeclaredCommand
from agilab.cli.launch import AppCommand, introduction
from agilab.cli.root import GROUP


def markdown() -> str:
    """Return every command with its usage, arguments and options, and every exit code."""
    root = click.Context(GROUP, info_name="agilab", **GROUP.context_settings)
    parts = []
    for title, commands in SECTIONS:
        parts.append(f"## {title}")
        for name, _, _ in commands:
            command = GROUP.get_command(root, name)
            assert command is not None, name
            parts.append(_command(command, click.Context(command, info_name=name, parent=root)))
    parts.append("## From extensions\n\nInstalled with AGILAB; both need the extra `ui`.")
    for name in added_commands():
        command = GROUP.get_command(root, name)
        assert command is not None, name
        parts.append(_command(command, click.Context(command, info_name=name, parent=root)))
    parts.append("## Exit codes")
    parts.append("0 never follows a failure.")
    parts.append(_table(("code", "means"), [(str(code), text) for code, text in EXIT_CODES]))
    return "\n\n".join(parts) + "\n"


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"### `{context.command_path}`", f"```text\n{usage}\n```", _text(inspect.cleandoc(command.help or ""))]
    records = _records(command.get_params(context), context)
    if isinstance(command, DeclaredCommand) and (chosen := command.choose(None, {})) is not None:
        records = [*_records(chosen.flags, context), *records]
    if isinstance(command, AppCommand):
        parts.append(introduction(context.command_path.removeprefix("agilab ")))
        parts.append(
            "The settings of the app are flags too: `--sample-s` for `sample_s`, `--model.depth` for a nested one, "
            f"`--flag` and `--no-flag` for a boolean. `{context.command_path} APP --help` lists them."
        )
    parts.append(_table(("option", "what it does"), records) if records else "")
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        parts.append(_command(inner, click.Context(inner, info_name=name, parent=context)))
    return "\n\n".join(filter(None, parts))


def _records(params: Sequence[click.Parameter], context: click.Context) -> list[tuple[str, str]]:
    records = (param.get_help_record(context) for param in params if isinstance(param, click.Option))
    return [(f"`{option}`", text) for option, text in filter(None, records)]


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(text)} |" for name, text in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _text(text: str) -> str:
    return text.replace("<", "&lt;").strip()


if __name__ == "__main__":
    print(markdown(), end="")
