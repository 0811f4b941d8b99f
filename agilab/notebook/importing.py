"""A notebook as an app project, which is looked at like an imported zip file before it runs; the notebook is data here.

Nothing of it is run, and nothing is installed: its text is parsed, within
bounds. What was decided, and why, stands in the project's REVIEW.md.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from agilab import contract, copies, dependencies, trust
from agilab.errors import ProjectError
from agilab.notebook import text
from agilab.notebook.decide import Decisions, StageCells, decide
from agilab.notebook.document import read_cells
from agilab.notebook.reading import Note, Reading, read
from agilab.notebook.returning import Returned, returned
from agilab.paths import HomePaths
from agilab.project import Project, name_problem
from agilab.project import read as read_project
from agilab.template import manifest, require_free, worker_manifest

MOST_INPUTS = 1000
LARGEST_INPUTS_BYTES = 256 << 20
"""Most that the files may have together that a notebook reads and that come along [bytes]."""

_HIDDEN_NEEDS = {
    "read_parquet": "pyarrow",
    "to_parquet": "pyarrow",
    "read_excel": "openpyxl",
    "to_excel": "openpyxl",
    "read_hdf": "tables",
    "to_hdf": "tables",
    "to_markdown": "tabulate",
}
"""Method -> distribution that it needs and no import names."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A notebook that became an app project; it is not trusted.

    Parameters
    ----------
    project
        As it lies there.
    origin
        What is remembered of the import.
    decisions
        Settings, stages and definitions.
    notes
        The review: every decision with its reason, and what is left to do.
    requirements
        What the worker is taken to need.
    inputs
        Files that the notebook reads and that came along.
    """

    project: Project
    origin: trust.Import
    decisions: Decisions
    notes: tuple[Note, ...]
    requirements: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """A notebook as it would become an app project; nothing is written yet.

    Parameters
    ----------
    file, sha256
        The notebook, and its digest when it was read.
    name
        What the app would be called.
    decisions, notes, requirements, inputs
        As of `Imported`.
    files
        Path in the project -> its text.
    brought
        Path in the project -> the file beside the notebook that comes along as it is.
    """

    file: Path
    sha256: str
    name: str
    decisions: Decisions
    notes: tuple[Note, ...]
    requirements: tuple[str, ...]
    inputs: tuple[str, ...]
    files: Mapping[str, str]
    brought: Mapping[str, Path]


def look(file: Path, *, name: str = "", one_stage: bool = False) -> Looked:
    """Decide what a notebook or percent script becomes, and write nothing.

    Parameters
    ----------
    file
        Ends in ``.ipynb`` or ``.py``.
    name
        What the app is called; by default after the file.
    one_stage
        Whether all cells become one stage.

    Raises
    ------
    ProjectError
        It is no notebook, a cell is not Python, or there is nothing in it to run.
    """
    try:
        cells = read_cells(file)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        was = None if one_stage else returned(cells)
        if was is not None:
            return _back(file, was.called(name or was.name), sha256)
        return _taken_apart(file, read(cells, file), sha256, name=name or _name(file), one_stage=one_stage)
    except RecursionError as err:
        raise ProjectError(f"{file}: nested too deeply to be read; split its longest expression") from err


def import_notebook(
    file: Path, folder: Path, *, home: HomePaths, name: str = "", one_stage: bool = False, looked: Looked | None = None
) -> Imported:
    """Make an app project of a notebook or a percent script; it is not trusted yet.

    Parameters
    ----------
    file
        Ends in ``.ipynb`` or ``.py``.
    folder
        Where the project's folder goes; it must exist.
    home
        Where the import is remembered.
    name
        What the app is called; by default after the file.
    one_stage
        Whether all cells become one stage.
    looked
        What `look` said of it, when somebody has seen that already: exactly this is made.

    Raises
    ------
    ProjectError
        It is no notebook, a cell is not Python, or there is nothing in it to run; or it has changed since it was
        looked at. Nothing was written.
    TrustError
        ``trust.json`` is damaged.
    """
    trust.imports(home)
    found = looked or look(file, name=name, one_stage=one_stage)
    target = require_free(found.name, folder)
    origin = _written(found, target, home)
    kept = (tuple(found.notes), found.requirements, found.inputs)
    return Imported(read_project(target), origin, found.decisions, *kept)


def _taken_apart(file: Path, reading: Reading, sha256: str, *, name: str, one_stage: bool) -> Looked:
    decisions = decide(reading, one_stage=one_stage)
    if not decisions.stages:
        raise ProjectError(f"{file} has no cell that does something; an app needs at least one")
    found = _Beside(file, reading)
    decisions = text.relocated(decisions, name, found.modules)
    notes = [*reading.notes, *decisions.notes, *found.notes]
    needs = tuple(_requirements(reading, found.modules, notes))
    files = _files(name, reading, decisions, found, needs=needs, notes=notes)
    return Looked(file, sha256, name, decisions, tuple(notes), needs, found.inputs, files, dict(found.brought(name)))


def _back(file: Path, was: Returned, sha256: str) -> Looked:
    """Return the project that a standalone notebook was."""
    beside = file.absolute().parent
    inputs = () if was.data else tuple(path for path in was.inputs if _plain_file(beside, path))
    notes = [Note(0, "a standalone notebook of AGILAB", "settings, plan, kinds and the worker's text are as they were")]
    if was.data:
        about = f"{was.data['distribution']} {was.data['version']} with sha256 {was.data['sha256']}"
        notes.append(Note(0, f"reads the data set {about}", "agilab install fetches it; nothing else is taken for it"))
    missing = [path for path in was.inputs if path not in inputs and not was.data]
    notes += [Note(0, f"{path} is missing", "put it into the project, under that name") for path in missing]
    stages = tuple(StageCells(stage, "", (), frozenset()) for stage in was.plan)
    decisions = Decisions(was.settings, (), (), stages, tuple(notes))
    files = {
        "pyproject.toml": manifest(was.name, uuid=str(uuid4()), description=was.description) + was.declared(),
        "README.md": f"# {was.name}\n\n{was.description}\n\n    agilab run {was.name}\n",
        "REVIEW.md": review(was.name, decisions, notes, was.requires),
        f"src/{was.name}/__init__.py": was.manager(),
        f"src/{was.name}_worker/__init__.py": was.worker,
        f"src/{was.name}_worker/pyproject.toml": worker_manifest(was.name, dependencies=was.requires),
    }
    brought = {path: beside / path for path in inputs}
    return Looked(file, sha256, was.name, decisions, tuple(notes), was.requires, inputs, files, brought)


def _plain_file(folder: Path, path: str) -> bool:
    """Whether there is such a file in a folder, reached without a link."""
    found = folder / path
    return found.is_file() and not found.is_symlink() and found.resolve() == folder.resolve() / path


def _written(found: Looked, target: Path, home: HomePaths) -> trust.Import:
    """Write a project aside, check it, remember where it came from, and put it in its place."""
    file = found.file
    with copies.aside(target.parent) as place:
        root = place / target.name
        for path, content in found.files.items():
            made = root / path
            made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.write_text(content, encoding="utf-8")
        for path, source in found.brought.items():
            made = root / path
            made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(source, made)
        project = read_project(root)
        breach = next(iter([*project.breaches, *contract.check(project)]), None)
        if breach is not None:
            said = str(breach).replace(f"{root}{os.sep}", "")
            raise ProjectError(f"{file} cannot become an app as it is: {said}")
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != found.sha256:
            raise ProjectError(f"{file} has changed since it was looked at; look at it again")
        origin = trust.record(root, home, root=target, origin=str(file.absolute()), origin_sha256=found.sha256)
        root.rename(target)
    return origin


def _name(file: Path) -> str:
    """Return the name that a file gives an app; ``notebook_`` goes before one that no app can have."""
    name = re.sub(r"[^a-z0-9]+", "_", file.stem.lower()).strip("_")[:40]
    return f"notebook_{name}".rstrip("_") if name_problem(name) else name


def _files(
    name: str, reading: Reading, decisions: Decisions, found: _Beside, *, needs: Sequence[str], notes: Sequence[Note]
) -> dict[str, str]:
    said = next((line for cell in reading.text for line in _plain_lines(cell)), f"{name}, from a notebook")
    files = {
        "pyproject.toml": manifest(name, uuid=str(uuid4()), description=said),
        "README.md": _readme(name, reading),
        "REVIEW.md": review(name, decisions, notes, needs),
        f"src/{name}/__init__.py": text.manager(name, decisions, found.inputs),
        f"src/{name}_worker/__init__.py": text.worker(name, decisions),
        f"src/{name}_worker/outputs.py": text.OUTPUTS,
        f"src/{name}_worker/pyproject.toml": worker_manifest(name, dependencies=needs),
    }
    defined = text.definitions(name, decisions)
    return files | ({f"src/{name}_worker/definitions.py": defined} if defined else {})


def _plain_lines(markdown: str) -> Iterator[str]:
    """Yield what a Markdown cell says in plain words, headings last."""
    lines = [line.strip() for line in markdown.splitlines() if line.strip()]
    plain = [line for line in lines if re.match(r"[A-Za-z]", line)]
    headings = [line.lstrip("# ") for line in lines if line.startswith("#")]
    yield from (re.sub(r"\s+", " ", line)[:200] for line in [*headings, *plain] if line.isprintable())


def _readme(name: str, reading: Reading) -> str:
    body = "\n\n".join(cell for cell in reading.text if cell.strip())
    return f"# {name}\n\nFrom a notebook; what was decided is in REVIEW.md.\n\n    agilab run {name}\n\n{body}\n"


def review(name: str, decisions: Decisions, notes: Sequence[Note], needs: Sequence[str]) -> str:
    """Return the review of an import as Markdown: what was decided, and why."""
    lines = [f"# Review of {name}", "", f"{len(decisions.settings)} settings, {len(decisions.stages)} stages, "]
    lines[-1] += f"{len(decisions.definitions)} definitions; needs {', '.join(needs) or 'nothing beyond Python'}."
    lines += ["", "| cell | decided | why |", "|---|---|---|"]
    for note in sorted(notes, key=lambda note: note.cell):
        what, why = (re.sub(r"\s+", " ", said).replace("|", "\\|") for said in (note.what, note.why))
        lines.append(f"| {note.cell or ''} | {_code(what)} | {_code(why)} |")
    return "\n".join(lines) + "\n"


def _code(said: str) -> str:
    """Make text of a notebook harmless in Markdown: no markup, no control character."""
    return re.sub(
        r"[<>&\[\]`]", lambda match: f"\\{match[0]}", "".join(c if c.isprintable() else "\ufffd" for c in said)
    )


class _Beside:
    """The files beside a notebook that it reads or imports; nothing outside of its folder is looked at."""

    def __init__(self, file: Path, reading: Reading) -> None:
        self._folder = file.absolute().parent
        self.notes: list[Note] = []
        self.modules = tuple(sorted(self._modules(reading)))
        self._paths = sorted(set(self._reads(reading, file.name)))
        sizes = sum((self._folder / path).stat().st_size for path in self._paths)
        if len(self._paths) > MOST_INPUTS or sizes > LARGEST_INPUTS_BYTES:
            what = f"{len(self._paths)} files of {sizes} bytes stay where they are"
            self.notes.append(Note(0, what, "too much to copy; put them into the project's folder `inputs`"))
            self._paths = []
        self.inputs = tuple(self._paths)

    def brought(self, name: str) -> Iterator[tuple[str, Path]]:
        """Yield what comes along, under its path in the project."""
        yield from ((f"inputs/{path}", self._folder / path) for path in self._paths)
        yield from ((f"src/{name}_worker/{module}.py", self._folder / f"{module}.py") for module in self.modules)

    def _modules(self, reading: Reading) -> Iterator[str]:
        for top, number in _imported_tops(reading):
            path = self._folder / f"{top}.py"
            if top not in sys.stdlib_module_names and path.is_file() and not path.is_symlink():
                self.notes.append(Note(number, f"{top}.py came along", "the notebook imports it from its folder"))
                yield top

    def _reads(self, reading: Reading, own_name: str) -> Iterator[str]:
        for cell in reading.cells:
            for node in ast.walk(cell.tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield from self._matches(node.value, own_name, cell.number)

    def _matches(self, said: str, own_name: str, number: int) -> Iterator[str]:
        if not said or len(said) > 500 or not said.isprintable() or said in (".", "./") or said.startswith(("~", "-")):
            return
        if said.startswith("/"):
            if os.path.exists(said) and said not in ("/", os.devnull):
                self.notes.append(Note(number, f"{said} stays where it is", "an absolute path; the app reads it there"))
            return
        for path in self._found(said):
            if path.is_symlink() or not path.resolve().is_relative_to(self._folder.resolve()):
                self.notes.append(Note(number, f"{said} does not come along", "it leads out of the notebook's folder"))
            elif path.is_dir():
                yield from (self._relative(one) for one in _plain_files(path) if one.name != own_name)
            elif path.is_file() and path.name != own_name and path.suffix != ".ipynb":
                yield self._relative(path)

    def _found(self, said: str) -> list[Path]:
        path = self._folder / said
        if any(char in said for char in "*?["):
            return (
                sorted(self._folder.glob(said))
                if ".." not in said.split("/") and re.fullmatch(r"[\w./*?-]+", said)
                else []
            )
        try:
            return [path] if os.path.lexists(path) and path.resolve() != self._folder.resolve() else []
        except (OSError, ValueError):
            return []

    def _relative(self, path: Path) -> str:
        return path.resolve().relative_to(self._folder.resolve()).as_posix()


def _plain_files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _imported_tops(reading: Reading) -> Iterator[tuple[str, int]]:
    seen: set[str] = set()
    for cell in reading.cells:
        for node in ast.walk(cell.tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                shown = node.module in text.DISPLAYS and all(alias.name == "display" for alias in node.names)
                names += [node.module or ""] if not shown else []
            for top in (name.partition(".")[0] for name in names):
                if top and top not in seen:
                    seen.add(top)
                    yield top, cell.number


def _requirements(reading: Reading, own: Sequence[str], notes: list[Note]) -> Iterator[str]:
    given = {re.split(r"[\[<>=!~]", item)[0].lower().replace("_", "-"): item for item in reading.installed}
    found: dict[str, tuple[int, str]] = {}
    for top, number in _imported_tops(reading):
        if top not in sys.stdlib_module_names and top not in own and top != "agilab":
            found.setdefault(dependencies.distribution_of(top), (number, f"for import {top}"))
        if top == "IPython":
            notes.append(Note(number, "IPython is a library in a worker", "what needs a session of it finds none"))
    for cell in reading.cells:
        for node in ast.walk(cell.tree):
            if isinstance(node, ast.Attribute) and node.attr in _HIDDEN_NEEDS:
                found.setdefault(_HIDDEN_NEEDS[node.attr], (cell.number, f"for {node.attr}, which imports it itself"))
    for name, item in given.items():
        found.setdefault(name, (0, f"the notebook installs {item}"))
    for name, (number, why) in sorted(found.items()):
        notes.append(Note(number, f"needs {given.get(name, name)}", why))
        yield given.get(name, name)
