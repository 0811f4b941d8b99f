"""An app or a run as one notebook or script in a file; it runs no stage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agilab.env import AgiEnv
from agilab.environment import Report
from agilab.errors import ProjectError
from agilab.notebook import standalone
from agilab.notebook.document import write_text
from agilab.notebook.subject import of_app, of_run
from agilab.paths import write_file


@dataclass(frozen=True, slots=True)
class Exported:
    """A notebook that was written.

    Parameters
    ----------
    file
        Where it is.
    app, run_id
        What it is of; a run id is empty for an app.
    cells
        How many it has.
    dependencies
        What it needs, as it says itself.
    """

    file: Path
    app: str
    run_id: str
    cells: int
    dependencies: tuple[str, ...]


def is_run(name: str) -> bool:
    """Whether a name means a run: names of apps begin with a letter."""
    return name == "last" or name[:1].isdigit()


def export_standalone(env: AgiEnv, name: str, file: Path, *, report: Report) -> Exported:
    """Write an app or a run as a notebook that runs without AGILAB.

    Parameters
    ----------
    env
        Folders, and the app unless `name` is a run.
    name
        An app, a run id or ``last``.
    file
        Ends in ``.ipynb`` or ``.py``; must not be there yet.
    report
        Told what is installed first.

    Raises
    ------
    ProjectError
        The app cannot leave like this, or the file cannot be written.
    RunStateError
        The run has not succeeded.
    """
    file = require_new(file)
    subject = of_run(env, env.runs.get(name), report=report) if is_run(name) else of_app(env, report=report)
    made = standalone.cells(subject)
    save(file, write_text(made, script=file.suffix == ".py"))
    run_id = subject.run.run_id if subject.run else ""
    return Exported(file, subject.project.name, run_id, len(made), standalone.dependencies(subject))


def require_new(file: Path) -> Path:
    """Return the absolute path of a notebook that is to be written.

    Raises
    ------
    ProjectError
        It is there already, its folder is not, or it has another ending.
    """
    file = file.absolute()
    if file.suffix not in (".ipynb", ".py"):
        raise ProjectError(f"{file} ends in {file.suffix!r}; a notebook ends in .ipynb, a script in .py")
    if os.path.lexists(file):
        raise ProjectError(f"{file} already exists; choose another name, or remove it first")
    if not file.parent.is_dir():
        raise ProjectError(f"{file.parent} is not a folder; make it first, or choose another")
    return file


def save(file: Path, text: str) -> None:
    """Write a notebook for its owner alone, whole or not at all.

    Raises
    ------
    ProjectError
        It cannot be written there.
    """
    try:
        write_file(file, text.encode())
    except PermissionError as err:
        raise ProjectError(f"{file} cannot be written ({err.strerror}); choose another folder") from err
