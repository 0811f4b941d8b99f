"""`agilab apps`: the app projects there are, and clone, rename and delete one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from agilab import copies, trust
from agilab.cli.commands import Commands
from agilab.cli.screen import Column, count, document, json_option, note, out, pairs, table
from agilab.env import AgiEnv
from agilab.errors import ProjectError
from agilab.project import Project, locate

folder_option = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(), help="Where to put it; default: here."
)


@click.group("apps", cls=Commands, invoke_without_command=True)
@json_option
@click.pass_context
def apps_command(ctx: click.Context, *, as_json: bool) -> int:
    """List the app projects that can be run; clone, rename, delete.

    APP is a name or a path.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    env = AgiEnv()
    projects = env.apps()
    held = {item.root for item in projects if trust.untrusted(item.root, env.home)}
    if as_json:
        document("apps", {"apps": [{**item.to_json(), "trusted": item.root not in held} for item in projects]})
        return 0
    if not projects:
        out("no app project found; `agilab new NAME` writes one")
        return 0
    table(
        (Column("app", cut=True), Column("version"), Column("source"), Column("what it does", wraps=True)),
        [
            (
                item.name,
                item.version,
                "untrusted" if item.root in held else item.source,
                "broken: " + str(item.breaches[0]) if item.breaches else item.description,
            )
            for item in projects
        ],
    )
    for item in projects:
        if item.breaches:
            note(f"{item.name}: `agilab check {shlex.quote(str(item.root))}` names what is wrong")
        if item.root in held:
            note(f"{item.name}: imported and not trusted; {trust.advice(item.root)}")
    return 0


@apps_command.command("clone")
@click.argument("app", metavar="APP")
@click.argument("name", metavar="NAME")
@folder_option
@json_option
def clone_command(*, app: str, name: str, folder: Path, as_json: bool) -> int:
    """Copy an app project under another name, as an app of its own.

    The clone has its own uuid; packages, classes and references have the new name. Shipped and installed
    apps can be cloned too.
    """
    project, env = locate(app), AgiEnv()
    env.prepare()
    made = copies.clone(project, name, folder, home=env.home)
    return _made("apps.clone", made, as_json=as_json)


@apps_command.command("rename")
@click.argument("app", metavar="APP")
@click.argument("name", metavar="NAME")
@json_option
def rename_command(*, app: str, name: str, as_json: bool) -> int:
    """Give one of your app projects another name.

    It keeps its uuid and your settings of it. Its runs stay below the old name.
    """
    project, env = locate(app), AgiEnv()
    env.prepare()
    made = copies.rename(project, name, home=env.home)
    code = _made("apps.rename", made, as_json=as_json)
    for line in _stay(env, project.name):
        note(line)
    return code


@apps_command.command("delete")
@click.argument("app", metavar="APP")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def delete_command(*, app: str, yes: bool, as_json: bool) -> int:
    """Delete one of your app projects; its runs are kept."""
    project, env = locate(app), AgiEnv()
    files = len(trust.files(project.root)) if project.root.is_dir() else 0
    kept = [name for name in (".git", ".hg") if (project.root / name).exists()]
    also = f", and its history in {kept[0]}" if kept else ""
    what = f"{project.root} ({count(files, 'file')}{also})"
    if project.writable and not yes and not confirmed(f"Delete {what}?", as_json=as_json):
        raise ProjectError(f"{what} was not deleted; confirm it with --yes")
    copies.delete(project, home=env.home)
    if as_json:
        document("apps.delete", {"app": project.name, "root": str(project.root)})
        return 0
    out(f"deleted {project.root}", *_stay(env, project.name))
    return 0


def confirmed(question: str, *, as_json: bool) -> bool:
    """Ask whoever sits at the terminal; nobody there means no."""
    return not as_json and sys.stdin.isatty() and click.confirm(question, err=True)


def _made(command: str, made: Project, *, as_json: bool) -> int:
    if as_json:
        document(command, made.to_json())
        return 0
    out(f"wrote {made.root}")
    about = (("app", made.name), ("uuid", made.uuid), ("class", made.app_class), ("worker", made.worker_class))
    pairs(about, indent="  ")
    return 0


def _stay(env: AgiEnv, app: str) -> list[str]:
    """Say where runs are that an app leaves behind."""
    runs = len(env.runs.list(app))
    return [f"its {count(runs, 'run')} {'stays' if runs == 1 else 'stay'} in {env.home.runs / app}"] if runs else []
