"""`agilab settings`: an app's settings, where each value came from, and how the workspace file is changed."""

from __future__ import annotations

import click

from agilab import codec
from agilab.cli.flags import assignments, setting_value
from agilab.cli.screen import Column, document, json_option, out, print_json, table
from agilab.cli.screen import pairs as pairs_of_text
from agilab.env import AgiEnv


@click.command("settings")
@click.argument("app", metavar="APP")
@click.argument("action", type=click.Choice(["set"]), required=False, metavar="[set]")
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the settings.")
@json_option
def settings_command(*, app: str, action: str | None, pairs: tuple[str, ...], schema: bool, as_json: bool) -> int:
    """Show an app's settings and where each value came from.

    `agilab settings APP set NAME=VALUE ...` keeps values in the workspace file, where they go before the
    app's own.
    """
    env = AgiEnv(app)
    fields = env.fields()
    if schema:
        from agilab.schema import json_schema

        print_json(json_schema(fields, env.project.name))
        return 0
    if action == "set":
        if not pairs:
            raise click.UsageError("nothing to set; write NAME=VALUE", click.get_current_context())
        env.save_settings(assignments(fields, pairs, where="set"))
    resolved = env.settings()
    rows = [
        {
            "name": name,
            "type": setting.type,
            "value": setting_value(resolved.values, name),
            "unit": setting.unit,
            **resolved.provenance.get(name, {"source": "default", "where": ""}),
            "allowed": codec.allowed(setting),
            "doc": setting.doc,
        }
        for name, setting in codec.leaves(fields)
    ]
    if as_json:
        document("settings", {"app": env.project.name, "values": resolved.values, "settings": rows})
        return 0
    known = dict(codec.leaves(fields))
    files = {"app file": env.project.settings_file, "workspace file": env.home.app_settings(env.project.name)}
    out(f"settings of {env.project.name}")
    pairs_of_text(files.items(), indent="  ")
    table(
        (
            Column("setting"),
            Column("value", wraps=True),
            Column("unit"),
            Column("source"),
            Column("where"),
            Column("allowed", wraps=True, optional=True),
        ),
        [
            (
                row["name"],
                codec.format_text(known[row["name"]], row["value"]),
                row["unit"],
                row["source"],
                f"line {row['where'].rpartition(':')[2]}" if row["source"] in files else row["where"],
                row["allowed"],
            )
            for row in rows
        ],
    )
    return 0
