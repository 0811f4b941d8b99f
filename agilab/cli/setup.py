"""`agilab env`: which folders and environment variables are in use."""

from __future__ import annotations

import click

from agilab.cli.screen import Column, document, json_option, out, pairs, table
from agilab.env import AgiEnv


@click.command("env")
@json_option
def env_command(*, as_json: bool) -> int:
    """Print every path and environment variable in use."""
    env = AgiEnv()
    if as_json:
        document("env", env.describe())
        return 0
    out("paths")
    pairs(env.describe()["paths"].items(), indent="  ")
    out("", "environment variables")
    columns = (Column("name"), Column("value", wraps=True), Column("source"), Column("what it does", wraps=True))
    table(columns, [(item.name, item.value, item.source, item.doc) for item in env.variables()])
    return 0
