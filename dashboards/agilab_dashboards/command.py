"""`agilab serve` and `agilab report`: the commands, before Panel and HoloViews are loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import click

from agilab.cli.flags import FieldOption, options
from agilab.cli.named import named_run
from agilab.cli.screen import document, json_option, note, out, size
from agilab.env import AgiEnv
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
    _require("panel", "agilab serve")
    given: Settings = ServerOptions.from_json(ctx.meta.get(PLACE, {}))
    assert isinstance(given, ServerOptions)
    from agilab_dashboards.serve import serve

    return serve(given, opens=opens)


@click.command("report")
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file; default: report.html here.")
@json_option
def report_command(*, run_ids: tuple[str, ...], output: Path | None, as_json: bool) -> int:
    """Write runs as one HTML file that opens anywhere, without a network.

    Summary, settings, timeline, resource use, metrics, views, environment and artifacts with their hashes; of several
    runs what differs comes first. A file that is there is replaced. RUN is a run id, the head of one, or `last`.
    """
    _require("holoviews", "agilab report")
    from agilab_dashboards.report import write_report

    env = AgiEnv()
    made = write_report(env, [named_run(env, name) for name in run_ids], output or Path("report.html"))
    for line in made.notes:
        note(line)
    if as_json:
        document("report", {"file": str(made.file), "size_bytes": made.size_bytes, "notes": list(made.notes)})
    else:
        out(f"wrote {made.file}: {size(made.size_bytes)}")
    return 0


def _require(module: str, command: str) -> None:
    if find_spec(module) is None:
        raise AgilabError(
            f"{command} needs {module}, which is not installed; {sys.executable} -m pip install 'agilab-holoviz[ui]'"
        )
