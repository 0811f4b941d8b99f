"""`agilab serve`: the command, before Panel is loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import click

from agilab.cli.flags import FieldOption, options
from agilab.cli.screen import out
from agilab.errors import AgilabError
from agilab.settings import Settings
from agilab_dashboards.options import ServerOptions

PLACE = "agilab.server"
"""Key of `click.Context.meta`: the server options that were given."""


class _ServeCommand(click.Command):
    """The command with a flag for each declared server option."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        declared: tuple[FieldOption, ...] = options(ServerOptions.fields(), PLACE)
        return [*declared, *super().get_params(ctx)]


@click.command("serve", cls=_ServeCommand)
@click.option("--open", "opens", is_flag=True, help="Open the pages in a browser.")
@click.option("--print-app", "prints", is_flag=True, help="Print the file for `panel serve`, and end.")
@click.pass_context
def serve_command(ctx: click.Context, *, opens: bool, prints: bool) -> int:
    """Serve the pages: forms, runs and analysis in a browser, on one port.

    On loopback the printed link logs a browser in, once. Ctrl-C ends the server; runs go on.
    """
    if prints:
        out(Path(__file__).with_name("app.py"))
        return 0
    if find_spec("panel") is None:
        raise AgilabError(
            f"agilab serve needs Panel, which is not installed; {sys.executable} -m pip install 'agilab-holoviz[ui]'"
        )
    given: Settings = ServerOptions.from_json(ctx.meta.get(PLACE, {}))
    assert isinstance(given, ServerOptions)
    from agilab_dashboards.serve import serve

    return serve(given, opens=opens)
