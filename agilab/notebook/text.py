"""The source of an app project that was a notebook: manager, worker, definitions; it decides nothing."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

from agilab.notebook import flow
from agilab.notebook.decide import Decisions, Setting, StageCells, comments_of
from agilab.notebook.document import quoted
from agilab.notebook.reading import CodeCell
from agilab.renaming import title

DISPLAYS = ("IPython.display", "IPython.core.display")
"""Where `display` is imported from."""
OUTPUTS = '''\
"""What a notebook's cells leave: the files they write and the text they print, as artifacts of their stage."""

import contextlib
import io
import pprint
import re
import shutil
import sys
from pathlib import Path

KINDS = {".parquet": "table", ".json": "json", ".txt": "text", ".md": "text", ".png": "image"}


@contextlib.contextmanager
def outputs(part):
    """Run cells in a folder with what they read, and keep what they wrote.

    Every input lies where the notebook had it: also what earlier stages wrote.
    """
    brought = {}
    for key, path in part.inputs.items():
        name = key.rpartition("/")[2]
        if name == "printed.txt" and not key.startswith("inputs/"):
            continue
        place = Path(key.removeprefix("inputs/") if key.startswith("inputs/") else _path(name))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        brought[place] = place.read_bytes()
    said = io.StringIO()
    with contextlib.redirect_stdout(_Both(said, sys.stdout)):
        yield
    for place in sorted(Path().rglob("*")):
        if place.is_file() and not place.is_symlink() and brought.get(place) != place.read_bytes():
            kind = KINDS.get(place.suffix, "file")
            part.write(_name(place.as_posix()), kind, place)
    if said.getvalue():
        part.write("printed.txt", "text", said.getvalue())


def _name(path):
    """Return a path as the name of an artifact: a folder's end as --, what is not allowed by its numbers."""
    plain = re.sub(r"^[.-]|[^A-Za-z0-9_.-]+", _coded, path.replace("/", "--"))
    return f"_{plain}" if plain.startswith("-") else plain  # a name begins with a letter, a digit or _


def _coded(found):
    return f"-x{'.'.join(f'{ord(char):x}' for char in found[0])}-"


def _path(name):
    plain = re.sub(r"^_(?=-x)", "", name)
    return re.sub(r"-x([0-9a-f.]+)-", _plain, plain).replace("--", "/")


def _plain(found):
    return "".join(chr(int(code, 16)) for code in found[1].split("."))


class _Both(io.TextIOBase):
    def __init__(self, *targets):
        self._targets = targets

    def write(self, text):
        for target in self._targets:
            target.write(text)
        return len(text)

    def flush(self):
        for target in self._targets:
            target.flush()


def show(value):
    """Print a value as Jupyter does with the last one of a cell."""
    text = repr(value)
    if type(value) in (list, tuple, dict, set) and len(text) > 79:
        text = pprint.pformat(value, width=80, sort_dicts=False)
    if value is not None:
        print(text)


def display(*values, **how):
    """Print values as text; the other ways to show them are Jupyter's."""
    for value in values:
        print(None) if value is None else show(value)


def end_cell():
    """Close the figures of a cell, as Jupyter does."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
'''
"""The one module of the worker that is not the notebook's own."""


def manager(name: str, decisions: Decisions, inputs: Sequence[str]) -> str:
    """Return the manager package: settings, inputs and plan."""
    lines = [f'"""What there is to do: settings and plan of {name}, from a notebook."""', "", "import agilab"]
    lines += ["import param", ""] if decisions.settings else [""]
    if inputs:
        lines += ["INPUTS = ("]
        lines += [f"    {quoted(path)}," for path in inputs]
        lines += [")", '"""What the notebook read; it lies in the folder `inputs`."""', ""]
    lines += ["", f"class {title(name)}(agilab.App):"]
    if decisions.settings:
        lines += ["    class Settings(agilab.Settings):"]
        lines += [f"        {_declaration(setting)}" for setting in decisions.settings]
        lines += [""]
    refs = '[agilab.InputRef(f"inputs/{path}", f"inputs/{path}") for path in INPUTS]'
    if inputs:
        lines += ["    def inputs(self):", f"        return {refs}", ""]
    lines += ["    def plan(self):"]
    stages = list(decisions.stages)
    given = ", inputs=self.inputs()" if inputs else ""
    lines += ["        return agilab.WorkPlan(", "            ["]
    for number, stage in enumerate(stages):
        if not number:
            lines.append(f'                agilab.Stage("{stage.name}", [agilab.Partition("{stage.name}"{given})]),')
        else:
            after = ", ".join(f'"{one.name}"' for one in stages[:number]) + ("," if number == 1 else "")
            lines.append(f'                agilab.Stage("{stage.name}", after=({after})),')
    lines += ["            ]", "        )"]
    if inputs and len(stages) > 1:
        lines += [
            "",
            "    def plan_stage(self, stage, artifacts):",
            '        """Give every stage what the notebook read, and what the stages before it left."""',
            "        return [agilab.Partition(stage, inputs=[*self.inputs(), *artifacts])]",
        ]
    return "\n".join(lines) + "\n"


def worker(name: str, decisions: Decisions) -> str:
    """Return the worker package: one method per stage."""
    every = {one for stage in decisions.stages for one in stage.reads}
    helpers = _helpers(decisions)
    lines = [f'"""The work of {name}: the cells of a notebook, one method per stage."""', ""]
    lines += _imports(decisions, every, also=("import agilab", ""))
    if decisions.definitions:
        defined = sorted({one for _, node in decisions.definitions for one in flow.names_of([node]).writes} & every)
        if defined:
            lines += [f"from {name}_worker.definitions import {', '.join(defined)}"]
    lines += [f"from {name}_worker.outputs import {', '.join(helpers.values())}", ""]
    lines += ["", f"class {title(name)}Worker(agilab.Worker):"]
    for number, stage in enumerate(decisions.stages):
        lines += [""] if number else []
        lines += _method(stage, decisions.settings, helpers)
    return "\n".join(lines) + "\n"


def definitions(name: str, decisions: Decisions) -> str:
    """Return the module of what cells define; empty when they define nothing."""
    if not decisions.definitions:
        return ""
    needed = {one for _, node in decisions.definitions for one in flow.free_names(node)}
    lines = [f'"""What the cells of {name} define: functions, classes, fixed values."""', ""]
    lines += [*imported, ""] if (imported := _imports(decisions, needed)) else []
    last_is_block = False
    for cell, node in decisions.definitions:
        is_block = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        lines += ["", ""] if is_block or last_is_block else []
        lines += [*_above(cell, node), *_lines_of(cell, node)]
        last_is_block = is_block
    return "\n".join(lines).rstrip("\n") + "\n"


def relocated(decisions: Decisions, name: str, modules: Collection[str]) -> Decisions:
    """Return decisions whose imports of modules that came along, and of `display`, lead into the worker package."""
    imports: list[tuple[CodeCell, ast.stmt]] = []
    for cell, node in decisions.imports:
        if isinstance(node, ast.ImportFrom) and node.module in DISPLAYS:
            ours = [alias for alias in node.names if alias.name == "display"]
            rest = [alias for alias in node.names if alias.name != "display"]
            imports += [(cell, ast.ImportFrom(f"{name}_worker.outputs", ours, 0))] if ours else []
            imports += [(cell, ast.ImportFrom(node.module, rest, 0))] if rest else []
            continue
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            node = ast.ImportFrom(module=f"{name}_worker.{node.module}", names=node.names, level=0)
        if isinstance(node, ast.Import) and any(alias.name in modules for alias in node.names):
            ours = [alias for alias in node.names if alias.name in modules]
            rest = [alias for alias in node.names if alias.name not in modules]
            imports.append((cell, ast.ImportFrom(module=f"{name}_worker", names=ours, level=0)))
            if not rest:
                continue
            node = ast.Import(names=rest)
        imports.append((cell, node))
    return replace(decisions, imports=tuple(imports))


def _declaration(setting: Setting) -> str:
    value = setting.default
    shown = quoted(value) if isinstance(value, str) else repr(value)
    empty = ", allow_None=True" if value is None else ""
    doc = f", doc={quoted(setting.doc)}" if setting.doc else ""
    return f"{setting.name} = param.{setting.type}({shown}{empty}{doc})"


def _imports(decisions: Decisions, used: set[str], *, also: Sequence[str] = ()) -> list[str]:
    """Return the import statements that some code needs; all names of one that imports everything count as used."""
    lines: list[str] = []
    for cell, node in decisions.imports:
        bound = flow.names_of([node]).writes
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias for alias in node.names if _binds(alias, node) in used or alias.name == "*"]
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                continue
            lines += [ast.unparse(_with_names(node, names))] if names else []
        elif bound & used or not bound:
            lines += _lines_of(cell, node)
    future = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for _, node in decisions.imports)
    return [*(["from __future__ import annotations", ""] if future else []), *also, *dict.fromkeys(lines)]


def _binds(alias: ast.alias, node: ast.Import | ast.ImportFrom) -> str:
    return alias.asname or (alias.name if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0])


def _with_names(node: ast.Import | ast.ImportFrom, names: list[ast.alias]) -> ast.stmt:
    if isinstance(node, ast.Import):
        return ast.Import(names=names)
    return ast.ImportFrom(module=node.module, names=names, level=node.level)


def _helpers(decisions: Decisions) -> Mapping[str, str]:
    """Return what of `OUTPUTS` is used, and how it is imported: under another name where the notebook has it."""
    taken = {name for stage in decisions.stages for _, body in stage.parts for name in flow.names_of(body).writes}
    taken |= {name for stage in decisions.stages for name in stage.reads}
    names = {"outputs": True, "show": _shows_any(decisions), "end_cell": _draws(decisions)}
    free = {name: next(one for n in count() if (one := name + "_" * n) not in taken) for name in names if names[name]}
    return {name: name if one == name else f"{name} as {one}" for name, one in free.items()}


def _called(helpers: Mapping[str, str], name: str) -> str:
    return helpers[name].rpartition(" ")[2]


def _draws(decisions: Decisions) -> bool:
    return any("matplotlib" in ast.unparse(node) or "pylab" in ast.unparse(node) for _, node in decisions.imports)


def _shows_any(decisions: Decisions) -> bool:
    return any(_shown(cell, body) for stage in decisions.stages for cell, body in stage.parts)


def _shown(cell: CodeCell, body: Sequence[ast.stmt]) -> ast.Expr | None:
    """Return the expression at the end of a cell whose value Jupyter shows."""
    last = body[-1] if body else None
    if not cell.shows or not isinstance(last, ast.Expr) or last is not cell.tree.body[-1]:
        return None
    called = last.value.func if isinstance(last.value, ast.Call) else None
    return None if isinstance(called, ast.Name) and called.id == "print" else last


def _method(stage: StageCells, settings: Sequence[Setting], helpers: Mapping[str, str]) -> list[str]:
    said = "".join(char for char in stage.title if char.isprintable() and char not in '\\"').strip().rstrip(".")
    lines = [f"    def {stage.name}(self, part):"]
    lines += [f'        """{said}."""'] if said else []
    for setting in settings:
        if setting.constant in stage.reads:
            value = f"self.settings.{setting.name}"
            lines.append(f"        {setting.constant} = " + (f"list({value})" if setting.type == "List" else value))
    lines.append(f"        with {_called(helpers, 'outputs')}(part):")
    names = (one for _, body in stage.parts for node in body for one in flow.own(node) if isinstance(one, ast.Name))
    local = {one.id for one in names if isinstance(one.ctx, ast.Store)}  # what is local to the method now
    for cell, body in stage.parts:
        lines.append(f"            # cell {cell.number}")
        kept = _body(cell, body, helpers, local=local)
        lines += [f"            {line}" if indents and line.strip() else line for line, indents in kept]
        if "end_cell" in helpers:
            lines.append(f"            {_called(helpers, 'end_cell')}()")
    return lines


def _body(
    cell: CodeCell, body: Sequence[ast.stmt], helpers: Mapping[str, str], *, local: Collection[str]
) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a cell that its stage keeps, and whether a line may be indented: not inside a text."""
    lines = cell.lines
    for number, start, end, text in sorted(_edits(cell, body, helpers, local=local), reverse=True):
        data = lines[number - 1].encode()
        lines[number - 1] = (data[:start] + text.encode() + data[end:]).decode()
    kept = {line for node in body for line in range(_first(node), (node.end_lineno or node.lineno) + 1)}
    gone = {
        line for node in cell.tree.body if node not in body for line in range(_first(node), (node.end_lineno or 0) + 1)
    }
    gone |= _comments_of_gone(cell, body)
    fixed = _inside_texts(body)
    shown = [
        (number, line)
        for number, line in enumerate(lines, 1)
        if number in kept or (number not in gone and (line.strip() or 1 < number < len(lines)))
    ]
    blank = True
    for number, line in shown:
        if line.strip() or number in fixed or not blank:
            yield line, number not in fixed
        blank = not line.strip() and number not in fixed


def _edits(
    cell: CodeCell, body: Sequence[ast.stmt], helpers: Mapping[str, str], *, local: Collection[str]
) -> Iterator[tuple[int, int, int, str]]:
    """Yield what is changed in a cell's text: its shown value, and what means the module at the top of a notebook.

    Each is a line, from which byte of it to which, and what takes their place.
    """
    last = _shown(cell, body)
    if last is not None:
        more = isinstance(last.value, ast.Tuple | ast.GeneratorExp)
        yield last.lineno, last.col_offset, last.col_offset, f"{_called(helpers, 'show')}(" + "(" * more
        end = last.end_col_offset or 0
        yield last.end_lineno or last.lineno, end, end, ")" + ")" * more
    for node in (one for statement in body for one in ast.walk(statement)):
        if isinstance(node, ast.Name) and node.id == "__name__" and isinstance(node.ctx, ast.Load):
            yield node.lineno, node.col_offset, node.end_col_offset or 0, '"__main__"'
        elif isinstance(node, ast.Global) and set(node.names) <= set(local):
            said = "pass" if node in body else f"nonlocal {', '.join(node.names)}"
            yield node.lineno, node.col_offset, node.end_col_offset or 0, said


def _first(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def _above(cell: CodeCell, node: ast.stmt) -> list[str]:
    """Return the comment lines directly above a statement."""
    comments, line = comments_of(cell.source), _first(node) - 1
    found: list[str] = []
    while comments.get(line, ("", False))[1]:
        found.insert(0, cell.lines[line - 1])
        line -= 1
    return found


def _lines_of(cell: CodeCell, node: ast.stmt) -> list[str]:
    return cell.lines[_first(node) - 1 : node.end_lineno]


def _comments_of_gone(cell: CodeCell, body: Sequence[ast.stmt]) -> set[int]:
    """Return the lines of comments that went with what stood below them."""
    gone: set[int] = set()
    for node in cell.tree.body:
        if node not in body:
            count = len(_above(cell, node))
            gone |= set(range(_first(node) - count, _first(node)))
    return gone


def _inside_texts(body: Sequence[ast.stmt]) -> set[int]:
    """Return the lines that begin inside a text, where spaces would be part of it."""
    return {
        line
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
        for line in range(node.lineno + 1, (node.end_lineno or node.lineno) + 1)
    }
