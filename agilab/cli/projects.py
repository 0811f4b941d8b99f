"""`agilab new`, `check` and `install`: app projects, before anything of them runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from agilab.cli.screen import count, document, json_option, note, out, pairs
from agilab.cli.stdout import app_output_aside
from agilab.declaration import Breach
from agilab.env import AgiEnv
from agilab.errors import AgilabError, SettingError
from agilab.installation import worker_environment
from agilab.project import Project, locate
from agilab.trust import advice, untrusted


@click.command("new")
@click.argument("name", metavar="NAME")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="Where to put it; default: here.")
@json_option
def new_command(*, name: str, folder: Path, as_json: bool) -> int:
    """Write a new app project that runs at once.

    NAME is the app's name; the folder is NAME_project.
    """
    from agilab.template import create

    project = create(name, folder)
    if as_json:
        document("new", project.to_json())
        return 0
    here = project.root.parent == Path.cwd()
    root = project.name if here else shlex.quote(str(project.root))
    out(f"wrote {project.root}")
    files = sorted(path.relative_to(project.root).as_posix() for path in project.root.rglob("*") if path.is_file())
    out(*(f"  {file}" for file in files))
    out("next", f"  agilab check {root}", f"  agilab run {root}", f"  agilab run {root} --help")
    return 0


@click.command("check")
@click.argument("app", default=".", metavar="[APP]")
@json_option
def check_command(*, app: str, as_json: bool) -> int:
    """Name every breach of the app contract, with its fix.

    APP is a name or a path; default: the project here.
    """
    from agilab.contract import check, missing_dependencies

    project, env = locate(app), AgiEnv()
    held = untrusted(project.root, env.home) is not None
    made = None if project.breaches else worker_environment(project, env.wenv)
    found = check(project, environment=made)
    # The app's own code is asked only when it may run, can be found, and nothing that it imports is missing.
    if not held and not project.breaches and not missing_dependencies(project):
        told = {(item.file, item.line) for item in found if item.line > 1}  # both name an import that fails
        more = [item for item in _check_code(project, made) if (item.file, item.line) not in told]
        found = tuple(dict.fromkeys((*found, *more)))
    if as_json:
        breaches = [
            {"file": str(item.file), "line": item.line, "message": item.message, "fix": item.fix} for item in found
        ]
        body = {"app": project.name, "root": str(project.root), "ok": not found, "code_asked": not held}
        document("check", {**body, "breaches": breaches})
    elif found:
        out(*found)
        note(f"agilab: error: {project.name or project.root.name} has {count(len(found), 'breach', 'breaches')}")
    else:
        out(f"ok: {project.name} keeps the app contract{', as far as its files tell' if held else ''}")
    if held:
        note(f"its code was not asked for settings and plan: it is imported and not trusted; {advice(project.root)}")
    return 1 if found else 0


def _check_code(project: Project, made: Path | None) -> tuple[Breach, ...]:
    """Ask the app for its settings and its plan, and hold the project against both."""
    from agilab.contract import check

    env = AgiEnv(project.root)
    fields = None
    with app_output_aside():
        try:
            fields = env.fields()
            values = env.settings().values
            _, plan = env.planner.plan(values)
        except SettingError as err:
            # What a settings file says wrong is a breach of its own, with its line.
            return check(project, environment=made, fields=fields) or (_breach(project, err),)
        except AgilabError as err:
            if fields is None:
                return (_breach(project, err),)
            found = check(project, environment=made, fields=fields)
            if project.data is None:
                return (*found, _breach(project, err))
            note(f"stages were not checked against the plan, which needs the data set: {err}")
            return found
    return check(project, environment=made, fields=fields, stages=[stage.name for stage in plan.stages])


def _breach(project: Project, error: AgilabError) -> Breach:
    """Make a breach of what the app's code raised, at the line that the error names."""
    message, _, place = str(error).rpartition("; see ")
    file, _, line = place.rpartition(":")
    fix = "correct it, then check again"
    if message and line.isdecimal():
        return Breach(Path(file), int(line), message, fix)
    return Breach(project.manager / "__init__.py", 1, str(error), fix)


@click.command("install")
@click.argument("app", metavar="APP")
@json_option
def install_command(*, app: str, as_json: bool) -> int:
    """Make an app's worker package and worker environment.

    Nothing is done when nothing has changed.
    """
    from agilab.agi import AGI

    installed = AGI.install(AgiEnv(app), report=note)
    body = installed.to_json()
    if as_json:
        document("install", body)
        return 0
    names = ("app", "code", "environment", "python", "lock", "runtime", "data_root")
    pairs((name, body[name]) for name in names if body.get(name))
    return 0
