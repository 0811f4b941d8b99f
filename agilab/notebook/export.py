"""An app or a run as one notebook or script in a file; it runs no stage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agilab.env import AgiEnv
from agilab.environment import Report
from agilab.errors import ProjectError
from agilab.notebook import core
from agilab.notebook import standalone as alone
from agilab.notebook.document import write_text
from agilab.notebook.subject import of_app, of_run
from agilab.paths import write_file
from agilab.run import Run


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


def export(env: AgiEnv, subject: Run | None, file: Path, *, standalone: bool, report: Report) -> Exported:
    """Write an app or a run as a notebook.

    Parameters
    ----------
    env
        Folders, and the app unless there is a run.
    subject
        The run; None for the app as it is.
    file
        For a standalone one a file that ends in ``.ipynb`` or ``.py``, else a folder; must not be there yet.
    standalone
        Whether it runs without AGILAB, as one file; else it goes through AGILAB, in a folder with project and wheel.
    report
        Told what is installed first.

    Raises
    ------
    ProjectError
        The app cannot leave like this, or the file cannot be written.
    RunStateError
        The run has not succeeded.
    """
    if standalone:
        file = _require_new(file)
    found = of_run(env, subject, report=report) if subject else of_app(env, report=report)
    run_id = subject.run_id if subject else ""
    if not standalone:
        count = core.write(found, file.absolute())
        return Exported(file.absolute(), found.project.name, run_id, count, ())
    made = alone.cells(found)
    _save(file, write_text(made, script=file.suffix == ".py"))
    return Exported(file, found.project.name, run_id, len(made), alone.dependencies(found))


def _require_new(file: Path) -> Path:
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


def _save(file: Path, text: str) -> None:
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
