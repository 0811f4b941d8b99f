"""The code cells of a notebook as syntax trees; what only IPython understands is taken out and said, nothing is run."""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agilab.errors import ProjectError
from agilab.notebook.document import Cell
from agilab.notebook.flow import names_of

MARK = "# left out: "
"""How a line begins that stands for one of IPython's."""

_LINE = re.compile(r"^(?P<indent>\s*)(?P<bound>[A-Za-z_][\w, ]*=\s*)?(?P<what>%{1,2}|!!?|\?{1,2})(?P<rest>.*)$")
_HELP = re.compile(r"^\s*[A-Za-z_][\w.]*\?{1,2}\s*$")
_STATEMENT_MAGICS = ("time", "timeit", "prun", "memit")
_BODY_MAGICS = ("time", "timeit", "capture", "prun")
_INSTALLERS = re.compile(r"(?:python3? -m )?(?:pip3?|uv pip|conda|mamba) install (?P<what>.*)")
DISPLAY = "from IPython.display import display"
_SESSION = frozenset({"_", "__", "___", "_i", "_ih", "_oh", "In", "Out", "get_ipython"})
_ONLY_THERE = "it is not there in a worker; give what it stands for a name"
_DISPLAY_MAGICS = ("matplotlib", "config", "load_ext", "autoreload", "reload_ext", "precision", "autosave", "time")


@dataclass(frozen=True, slots=True)
class Note:
    """Something the reader of the review should know.

    Parameters
    ----------
    cell
        Number of the code cell, from 1; 0 for the whole notebook.
    what
        What was decided.
    why
        Why, and what to do where something is left to do.
    """

    cell: int
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class CodeCell:
    """One code cell.

    Parameters
    ----------
    number
        From 1, code cells only.
    source
        Its Python, with a comment in the place of every line that is not.
    tree
        Its syntax tree.
    tags
        Of the cell.
    heading
        The last heading before it.
    shows
        Whether its last expression is shown.
    """

    number: int
    source: str
    tree: ast.Module
    tags: tuple[str, ...]
    heading: str
    shows: bool

    @property
    def lines(self) -> list[str]:
        return self.source.split("\n")


@dataclass(frozen=True, slots=True)
class Reading:
    """A notebook as it was read.

    Parameters
    ----------
    cells
        Its code.
    text
        Its Markdown, cell by cell.
    notes
        What was left out.
    installed
        What it installs itself, as requirements.
    """

    cells: tuple[CodeCell, ...]
    text: tuple[str, ...]
    notes: tuple[Note, ...]
    installed: tuple[str, ...]


def read(cells: Sequence[Cell], path: Path) -> Reading:
    """Parse every code cell.

    Parameters
    ----------
    cells
        Of the notebook.
    path
        Its file, for messages, and since a script shows no values.

    Raises
    ------
    ProjectError
        A cell is not Python; the message names cell and line.
    """
    found: list[CodeCell] = []
    notes: list[Note] = []
    installed: list[str] = []
    heading = ""
    for cell in cells:
        if cell.kind == "markdown":
            headings = re.findall(r"(?m)^#{1,6}\s+(.+?)\s*#*$", cell.source)
            heading = headings[-1] if headings else heading
            continue
        number = len(found) + 1
        source = cell.source
        tree = _parsed(source)
        if tree is None:
            plain = _Plain(number)
            source = plain.without(source)
            tree = _parsed(source) or _refuse(source, path, number)
            notes += plain.notes
            installed += plain.installed
        _require_sensible(tree, path, number)
        shows = path.suffix != ".py" and not source.rstrip().endswith(";")
        found.append(CodeCell(number, source, tree, cell.tags, heading, shows))
    text = tuple(cell.source for cell in cells if cell.kind == "markdown")
    unbound = _unbound(found)
    if "display" in unbound:  # Jupyter brings it; in a worker it is imported like everything else
        found.insert(0, CodeCell(0, DISPLAY, ast.parse(DISPLAY), (), "", False))
    notes += [
        Note(unbound[name], f"{name} is Jupyter's own", _ONLY_THERE) for name in sorted(_SESSION & unbound.keys())
    ]
    return Reading(tuple(found), text, tuple(notes), tuple(dict.fromkeys(installed)))


def _unbound(cells: Sequence[CodeCell]) -> dict[str, int]:
    """Return the names that Jupyter gives where no cell does, and the cell that needs them first."""
    names = [node for cell in cells for node in ast.walk(cell.tree) if isinstance(node, ast.Name)]
    bound = {one.id for one in names if not isinstance(one.ctx, ast.Load)}
    bound |= {name for cell in cells for name in names_of(cell.tree.body).writes}
    found: dict[str, int] = {}
    for cell in cells:
        for node in ast.walk(cell.tree):
            if isinstance(node, ast.Name) and node.id in _SESSION | {"display"} and node.id not in bound:
                found.setdefault(node.id, cell.number)
    return found


def _parsed(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _refuse(source: str, path: Path, number: int) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as err:
        said = f"line {err.lineno}, column {err.offset}: {err.msg}"
    except (ValueError, RecursionError, MemoryError) as err:
        said = "null bytes" if isinstance(err, ValueError) else "nested too deeply"
    raise ProjectError(f"{path}: code cell {number} is not Python: {said}; correct or remove it")


def _require_sensible(tree: ast.Module, path: Path, number: int) -> None:
    """Refuse what has no meaning outside of IPython."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) and not _inside_function(tree, node):
            raise ProjectError(
                f"{path}: code cell {number}, line {node.lineno}: `await` outside a function works in Jupyter only; "
                "use asyncio.run(...)"
            )


def _inside_function(tree: ast.Module, node: ast.AST) -> bool:
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.AsyncFunctionDef)]
    return any(node in ast.walk(one) for one in functions)


class _Plain:
    """Takes what is not Python out of one cell."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.notes: list[Note] = []
        self.installed: list[str] = []

    def without(self, source: str) -> str:
        first, _, body = source.partition("\n")
        if first.startswith("%%"):
            magic = first[2:].split()[:1]
            if magic and magic[0] in _BODY_MAGICS:
                self._say(first, "its cell runs as it is")
                source = f"{MARK}{first}\n{body}"
            else:
                self._say(first, "the whole cell is not Python; write what it does in Python, or do it before the run")
                return "\n".join(f"{MARK}{line}".rstrip() for line in source.split("\n"))
        lines = list(_joined(source.split("\n")))
        return "\n".join(self._line(line) for line in lines)

    def _line(self, line: str) -> str:
        match = _LINE.match(line)
        if match is None and not _HELP.match(line):
            return line
        first = line.lstrip()
        indent = line[: len(line) - len(first)]
        words = first.lstrip("%!").split()
        if match is None or match["what"].startswith("?"):
            self._say(first, "help is for reading")
        elif match["what"] == "%" and words and words[0] in _STATEMENT_MAGICS and not match["bound"]:
            self._say(first, "what it measures runs as it is")
            rest = re.sub(r"^\w+\s*(-\w+\s+\S*\s*)*", "", match["rest"].lstrip())
            return f"{indent}{rest or 'pass'}  {MARK}%{words[0]}"
        elif install := _INSTALLERS.match(" ".join(words)):
            self._install(first, install["what"])
        elif match["bound"]:
            name = match["bound"].strip(" =")
            self._say(first, f"{name} is what a shell or IPython says; give it in Python, such as subprocess.run(...)")
            return f"{indent}{match['bound']}None  {MARK}{match['what']}{match['rest']}"
        elif match["what"].startswith("!"):
            self._say(first, "a shell line; use subprocess.run([...]), or do it before the run")
        elif words and words[0] in _DISPLAY_MAGICS:
            self._say(first, "nothing to do: it is about how Jupyter shows things")
        else:
            self._say(first, "a magic of IPython; write what it does in Python")
        return f"{indent}pass  {MARK}{first}" if indent else f"{MARK}{first}"

    def _install(self, line: str, what: str) -> None:
        try:
            words = shlex.split(what, comments=True)
        except ValueError:
            words = what.split()
        named = [
            word for word in words if re.fullmatch(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?([<>=!~]=?[\w.*,<>=!~]+)?", word)
        ]
        self.installed += named
        said = ", ".join(named) or "nothing that is a name"
        self._say(line, f"dependencies are declared, not installed by code; declared now: {said}")

    def _say(self, line: str, why: str) -> None:
        self.notes.append(Note(self._number, f"left out: {line.strip()[:120]}", why))


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines, those of a shell command that goes on behind a backslash as one."""
    pending = ""
    for line in lines:
        begins = pending or re.match(r"^\s*[!%]", line)
        if begins and line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1]
            continue
        yield pending + line
        pending = ""
    if pending:
        yield pending
