"""`agilab export`, `import` and `trust`: app projects that go from one machine to another, or leave AGILAB."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from agilab import archive, trust
from agilab.cli.apps import confirmed, folder_option
from agilab.cli.commands import Commands
from agilab.cli.named import named_run
from agilab.cli.screen import Column, count, document, json_option, note, out, pairs, size, table
from agilab.env import AgiEnv
from agilab.errors import TrustError
from agilab.project import locate

SHORTEST_DIGEST = 8
"""How much of a digest has to be given."""


@click.group("export", cls=Commands, no_args_is_help=False)
def export_command() -> None:
    """Take an app or a run away: as a zip, a notebook, to MLflow."""


@export_command.command("zip")
@click.argument("app", metavar="APP")
@click.argument("file", type=click.Path(path_type=Path), required=False, metavar="[FILE]")
@json_option
def export_zip_command(*, app: str, file: Path | None, as_json: bool) -> int:
    """Write an app project into a zip file.

    FILE is by default NAME_project.zip here. Only what counts is in it: no caches, no version control, nothing of your
    workspace. The same project gives the same bytes.
    """
    project = locate(app)
    made = archive.export_zip(project, file or Path(f"{project.name or project.root.name}_project.zip"))
    for name in made.left_out:
        note(f"left out, since such files hold secrets: {name}")
    body = {"file": str(made.file), "sha256": made.sha256, "size_bytes": made.size_bytes, "digest": made.digest}
    if as_json:
        document("export.zip", {**body, "files": list(made.files), "left_out": list(made.left_out)})
        return 0
    out(f"wrote {made.file}: {count(len(made.files), 'file')}, {size(made.size_bytes)}")
    pairs((("sha256", made.sha256), ("digest", made.digest)), indent="  ")
    return 0


@export_command.command("notebook")
@click.argument("name", metavar="APP|RUN")
@click.option("--standalone", is_flag=True, help="One file that runs where AGILAB is not installed.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to; default: named after the app, here.")
@json_option
def export_notebook_command(*, name: str, standalone: bool, output: Path | None, as_json: bool) -> int:
    """Write an app or a run as a notebook.

    A folder with notebook, app project and AGILAB's wheel; with --standalone one file, .ipynb or .py, that needs the
    worker's own dependencies only. Of a run it has settings, plan and code, and checks the hashes at its end.
    """
    from agilab.notebook.export import export

    env = AgiEnv()
    is_run = name == "last" or name[:1].isdigit() or (Path(name) / "request.json").is_file()
    run = named_run(env, name) if is_run else None
    env = env if run else AgiEnv(name)
    app = run.app if run else env.project.name
    target = output or Path(f"{app}.ipynb" if standalone else f"{app}_notebook")
    made = export(env, run, target, standalone=standalone, report=note)
    if as_json:
        body = {"file": str(made.file), "app": made.app, "run_id": made.run_id or None, "standalone": standalone}
        document("export.notebook", {**body, "cells": made.cells, "dependencies": list(made.dependencies)})
        return 0
    out(f"wrote {made.file}: {count(made.cells, 'cell')}")
    for line in made.dependencies:
        out(f"  needs {line}")
    return 0


@export_command.command("mlflow")
@click.argument("run_id", metavar="RUN")
@click.option("--to", "uri", metavar="URI", help="The MLflow server or store; default: AGILAB_TRACK.")
@click.option("--experiment", default="", help="Its name there; default: that of the app.")
@click.option("--artifacts", metavar="PATTERN", default="none", help="Send these too: 'all', or 'train/*/model'.")
@json_option
def export_mlflow_command(*, run_id: str, uri: str | None, experiment: str, artifacts: str, as_json: bool) -> int:
    """Hand a run to an MLflow server or store.

    Settings, metrics, tags and the record go there, with a nested run for each stage. What is there already is not
    sent again, so that this may be repeated. RUN is a run id, the head of one, or `last`.
    """
    from agilab import tracking

    run = named_run(AgiEnv(), run_id)
    address = uri or os.environ.get(tracking.VARIABLE, "")
    if not address:
        raise click.UsageError("name the server or store with --to, such as --to http://127.0.0.1:5000")
    made = tracking.export(run, tracking.Store(address, experiment, artifacts))
    if as_json:
        document("export.mlflow", {"run_id": run.run_id, "store": made.to_json(), "link": made.link or None})
        return 0
    out(f"handed {run.run_id} to {made.uri}")
    pairs((("experiment", made.experiment), ("run", made.run_id), ("page", made.link)), indent="  ")
    out("stages", *(f"  {name}  {ident}" for name, ident in made.stages.items()))
    return 0


@click.group("import", cls=Commands, no_args_is_help=False)
def import_command() -> None:
    """Make an app project of a zip file or a notebook."""


@import_command.command("zip")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", default="", help="What to call it here; it gets a uuid of its own.")
@folder_option
@json_option
def import_zip_command(*, file: Path, name: str, folder: Path, as_json: bool) -> int:
    """Put the app project of a zip file here.

    A file that is odd in any way is refused whole. Nothing of the project runs before `agilab trust`.
    """
    env = AgiEnv()
    env.prepare()
    made = archive.import_zip(file, folder, home=env.home, name=name)
    project = made.project
    if made.left_out:
        note(f"left out, since they do not count in a project: {count(made.left_out, 'file')}")
    if as_json:
        document("import.zip", {**project.to_json(), "trusted": False, "import": made.origin.to_json()})
        return 0
    files = len(trust.files(project.root))
    out(f"wrote {project.root}: {count(files, 'file')}, not trusted")
    pairs((("sha256", made.origin.origin_sha256), ("digest", made.origin.digest)), indent="  ")
    out("next", f"  read it, then: agilab trust {shlex.quote(str(project.root))}")
    return 0


@import_command.command("notebook")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", default="", help="What to call the app; default: after the file.")
@click.option("--one-stage", is_flag=True, help="Make one stage of all cells, whatever could be split.")
@folder_option
@json_option
def import_notebook_command(*, file: Path, name: str, one_stage: bool, folder: Path, as_json: bool) -> int:
    """Make an app project of a notebook or percent script.

    Nothing of it runs: neither now, nor as an app before `agilab trust`. REVIEW.md in the project says what was
    decided and why.
    """
    from agilab.notebook.importing import import_notebook

    env = AgiEnv()
    env.prepare()
    made = import_notebook(file, folder, home=env.home, name=name, one_stage=one_stage)
    project = made.project
    if as_json:
        notes = [{"cell": item.cell, "decided": item.what, "why": item.why} for item in made.notes]
        stages, settings = made.decisions.stages, made.decisions.settings
        body = {"stages": [stage.name for stage in stages], "settings": [setting.name for setting in settings]}
        body |= {"requirements": list(made.requirements), "inputs": list(made.inputs)}
        origin = {"trusted": False, "import": made.origin.to_json()}
        document("import.notebook", {**project.to_json(), **origin, **body, "review": notes})
        return 0
    out(f"wrote {project.root}, not trusted")
    columns = (Column("  cell", right=True), Column("decided", wraps=True), Column("why", wraps=True))
    table(columns, [(note.cell or "", note.what, note.why) for note in sorted(made.notes, key=lambda one: one.cell)])
    out("next", f"  read REVIEW.md, then: agilab trust {shlex.quote(str(project.root))}")
    return 0


@click.command("trust")
@click.argument("app", metavar="APP")
@click.option("--digest", "expected", metavar="PREFIX", help="Confirm by the digest that it must have.")
@click.option("--yes", is_flag=True, help="Confirm without being asked.")
@json_option
def trust_command(*, app: str, expected: str | None, yes: bool, as_json: bool) -> int:
    """Look at an imported app, and let it run.

    Shows where it came from, its files and its digest, then asks. Running an app runs its code as you.
    """
    env, project = AgiEnv(), locate(app)
    held = trust.untrusted(project.root, env.home)
    if held is None:
        if as_json:
            document("trust", {"app": project.name, "root": str(project.root), "trusted": True, "import": None})
        else:
            out(f"{project.name} may run already: it was not imported, or is trusted")
        return 0
    names = trust.files(project.root)
    sizes = {name: (project.root / name).lstat().st_size for name in names}
    seen = trust.digest_of(project.root)
    if not as_json:
        about = (
            ("app", project.name),
            ("what it does", project.description),
            ("path", project.root),
            ("came from", held.origin),
            ("  sha256", held.origin_sha256),
            ("imported", held.imported),
            ("files", f"{count(len(names), 'file')}, {size(sum(sizes.values()))}"),
            ("digest", seen + ("" if seen == held.digest else " (changed since the import)")),
        )
        pairs(about)
        table((Column("  size", right=True), Column("file", wraps=True)), [(size(sizes[name]), name) for name in names])
    _confirm(project.name, seen, expected=expected, asks=not yes, as_json=as_json)
    env.prepare()
    found = trust.trust(project.root, env.home, seen=seen)
    if as_json:
        body = {"app": project.name, "root": str(project.root), "trusted": True, "import": found.to_json()}
        document("trust", {**body, "files": [{"path": name, "size_bytes": sizes[name]} for name in names]})
    else:
        out(f"trusted: {project.name}")
    return 0


def _confirm(app: str, seen: str, *, expected: str | None, asks: bool, as_json: bool) -> None:
    if expected is not None:
        if len(expected) < SHORTEST_DIGEST or not seen.startswith(expected.lower()):
            raise TrustError(
                f"{app} has digest {seen}, not {expected!r:.80}; give {SHORTEST_DIGEST} digits or more of the one it "
                "should have"
            )
        return
    if asks and not confirmed("Running it runs its code as you. Trust it?", as_json=as_json):
        raise TrustError(f"{app} stays untrusted; confirm with --digest {seen[:12]}, or --yes: agilab trust --help")
