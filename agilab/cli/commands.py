"""A group of commands that says which one was probably meant when there is none of a name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import click


class Commands(click.Group):
    """Commands under one name; a name that is none of them is an error of one line."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str, click.Command, list[str]]:
        """Find the command that a command line names."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            raise click.UsageError(f"no command {name!r}{_near(name, self.list_commands(ctx))}", ctx)
        return name, command, args[1:]


def _near(name: str, known: Sequence[str]) -> str:
    found = get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
