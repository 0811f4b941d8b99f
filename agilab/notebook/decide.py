"""What of a notebook becomes a setting, a definition or a stage, each decision with its reason; it writes nothing.

A stage ends where nothing in memory is needed further on: no variable, no
state of an imported module. Values travel between stages as files only, so
that what shares more than files stays together.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agilab.notebook import flow
from agilab.notebook.reading import CodeCell, Note, Reading

RESERVED = frozenset(
    {"name", "param", "fields", "to_json", "from_json", "input_matches", "settings", "setup", "teardown", "inputs"}
)
"""Names that neither a setting nor a stage may have."""

MOST_STAGES = 50
"""A notebook that could be cut more often keeps the rest together."""
MOST_PASSES = 100
"""How often definitions are looked at again, since others that they need have moved."""

_SEEDS = frozenset({"seed", "manual_seed", "set_seed", "set_random_seed", "seed_everything", "random_seed"})
_EVERYWHERE = frozenset({"os", "sys", "locale", "warnings", "builtins", "decimal", "logging"})
"""Modules whose state any code may depend on."""
_FILES_ONLY = frozenset(
    {
        *("makedirs", "mkdir", "remove", "unlink", "rmtree", "rename", "replace", "move", "copy", "copy2", "copyfile"),
        *("copytree", "save", "savez", "savez_compressed", "savetxt", "dump", "imsave", "imwrite", "write_table"),
        *("sleep", "collect", "run", "call", "check_call", "print", "pprint", "savefig", "show", "close", "info"),
        *("urlretrieve", "display", "write_image", "write_html", "write_text", "write_bytes", "write", "touch"),
    }
)
"""Functions of modules that are called for what they leave in files or say, not for what they change in memory."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One constant that becomes a setting.

    Parameters
    ----------
    name, constant
        What it is called as a setting, and in the notebook.
    type
        Class of param.
    default
        Its value.
    doc
        What a comment says.
    limits
        Which values it may have, as arguments of that class; empty for any.
    """

    name: str
    constant: str
    type: str
    default: object
    doc: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class StageCells:
    """Cells that become one stage.

    Parameters
    ----------
    name
        Of the stage.
    title
        The heading that it comes from; empty for none.
    parts
        Number of the cell and its code, for each cell.
    reads
        Names that it needs of settings, imports and definitions.
    """

    name: str
    title: str
    parts: tuple[tuple[CodeCell, tuple[ast.stmt, ...]], ...]
    reads: frozenset[str]


@dataclass(frozen=True, slots=True)
class Decisions:
    """A notebook, taken apart.

    Parameters
    ----------
    settings, stages
        What they are.
    imports, definitions
        Statements of the module, with the cell that they come from.
    notes
        Every decision with its reason.
    """

    settings: tuple[Setting, ...]
    imports: tuple[tuple[CodeCell, ast.stmt], ...]
    definitions: tuple[tuple[CodeCell, ast.stmt], ...]
    stages: tuple[StageCells, ...]
    notes: tuple[Note, ...]


def decide(reading: Reading, *, one_stage: bool) -> Decisions:
    """Take a notebook apart.

    Parameters
    ----------
    reading
        The notebook.
    one_stage
        Whether all cells become one stage, whatever could be split.
    """
    work = _Work(reading)
    work.take_imports()
    work.take_settings()
    work.take_definitions()
    stages = tuple(work.stages(one_stage=one_stage))
    return Decisions(tuple(work.settings), tuple(work.imports), tuple(work.definitions), stages, tuple(work.notes))


@dataclass
class _Work:
    """What is decided so far."""

    reading: Reading
    rest: dict[int, list[ast.stmt]] = field(default_factory=dict)
    imports: list[tuple[CodeCell, ast.stmt]] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    definitions: list[tuple[CodeCell, ast.stmt]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        cells = self.reading.cells
        self.rest = {cell.number: list(cell.tree.body) for cell in cells}
        self.origins = flow.import_origins(cell.tree for cell in cells)
        self.bindings = Counter(name for cell in cells for name in _bindings(cell.tree))
        self.changed = {name for cell in cells for name in _changed_in_place(cell.tree)}
        self.is_tagged = any("parameters" in cell.tags for cell in cells)
        self._flows: dict[int, tuple[flow.Names, frozenset[str]]] = {}

    def take_imports(self) -> None:
        """Move imports to the module; also those that are tried. A text that nobody sees says nothing to Python."""
        for cell, node in self._alone():
            shown = cell.shows and node is cell.tree.body[-1]
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and not shown:
                self.rest[cell.number].remove(node)
            if _is_import(node):
                self._take(cell, node, self.imports)
                self.known |= flow.names_of([node]).writes

    def take_settings(self) -> None:
        """Make settings of constants: what is tagged, what is written in capitals, what stands in a cell of its own."""
        names = {name for cell in self.reading.cells for name in _bindings(cell.tree)} | set(self.origins)
        for cell, node in list(self._alone()):
            made = self._setting(cell, node, names)
            if made is None:
                continue
            self.settings.append(made)
            self.rest[cell.number].remove(node)
            self.known.add(made.constant)
            why = f"{self._why_setting(cell, made.constant)}; {made.type}, since it is {_shown(made.default)}"
            renamed = f", {made.constant} in the code" if made.name != made.constant else ""
            self.notes.append(Note(cell.number, f"setting {made.name}{renamed}", why))

    def take_definitions(self) -> None:
        """Move functions, classes and fixed values to the module, as long as they need nothing but what is there."""
        settings = {setting.constant for setting in self.settings}
        moved = True
        for _ in range(MOST_PASSES):
            if not moved:
                break
            moved = False
            for cell, node in list(self._alone()):
                name = _defined(node)
                needed = flow.free_names(node) - flow.BUILTINS - {name}
                if not name or self.bindings[name] != 1 or not needed <= self.known - settings:
                    continue
                if name in self.changed or _keeps_state(node, self.known):
                    continue
                self._take(cell, node, self.definitions)
                self.known.add(name)
                moved = True
        for cell, node in self._alone():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                missing = sorted(flow.free_names(node) - flow.BUILTINS - {node.name} - (self.known - settings))
                why = f"it needs {', '.join(missing)}" if missing else "it is defined more than once, or keeps state"
                self.notes.append(Note(cell.number, f"{node.name} stays in its stage", why))
        order = {id(node): (cell.number, node.lineno) for cell, node in self.definitions}
        self.definitions.sort(key=lambda item: order[id(item[1])])

    def stages(self, *, one_stage: bool) -> Iterator[StageCells]:
        """Yield the stages: the cells that are left, cut where nothing in memory is needed further on."""
        cells = [cell for cell in self.reading.cells if self.rest[cell.number]]
        used: set[str] = set()
        begin = 0
        for index in range(len(cells)):
            is_last = index == len(cells) - 1
            needed = [] if is_last else self._crossing(cells[: index + 1], cells[index + 1 :])
            if not is_last and (needed or one_stage or len(used) == MOST_STAGES - 1):
                continue
            group = cells[begin : index + 1]
            name, title = _stage_name(group, used, len(used) + 1)
            used.add(name)
            parts = tuple((cell, tuple(self.rest[cell.number])) for cell in group)
            reads = flow.names_of([node for _, body in parts for node in body]).reads
            yield StageCells(name, title, parts, frozenset(reads))
            numbers = f"cells {group[0].number} to {group[-1].number}" if len(group) > 1 else f"cell {group[0].number}"
            why = self._why_stage(cells, begin, index, one_stage=one_stage)
            self.notes.append(Note(group[0].number, f"stage {name}: {numbers}", why))
            begin = index + 1

    def _why_stage(self, cells: Sequence[CodeCell], begin: int, end: int, *, one_stage: bool) -> str:
        if one_stage:
            return "you asked for one stage"
        inside = {
            name for cut in range(begin, end) for name in self._crossing(cells[: cut + 1], cells[cut + 1 : end + 1])
        }
        shared = f"they share {', '.join(sorted(inside)[:6])}" if inside else "it stands for itself"
        return f"{shared}; " + (
            "nothing in memory is needed after it" if end < len(cells) - 1 else "it is the last one"
        )

    def _crossing(self, before: Sequence[CodeCell], after: Sequence[CodeCell]) -> list[str]:
        """Return what cells leave in memory that later ones need."""
        written: set[str] = set()
        state: set[str] = set()
        for cell in before:
            names, changed = self._flow(cell)
            written |= names.writes
            state |= changed
        if "*" in state:
            return ["the state of random numbers or of the process"]
        found: set[str] = set()
        for cell in after:
            names, _ = self._flow(cell)
            found |= names.reads & written
            written -= names.certain
            packages = {self.origins[name].partition(".")[0] for name in names.reads & self.origins.keys()}
            found |= {f"the state of {package}" for package in packages & state}
        return sorted(found)

    def _flow(self, cell: CodeCell) -> tuple[flow.Names, frozenset[str]]:
        """Return the names that what is left of a cell reads and writes, and the packages whose state it changes."""
        if cell.number not in self._flows:
            body = self.rest[cell.number]
            self._flows[cell.number] = flow.names_of(body), frozenset(self._module_state(body))
        return self._flows[cell.number]

    def _module_state(self, body: Sequence[ast.stmt]) -> Iterator[str]:
        """Yield the packages whose state code changes; ``*`` where anything may depend on it."""
        for node in (one for statement in body for one in ast.walk(statement)):
            if (
                isinstance(node, ast.Call)
                and _last_name(node.func) in _SEEDS
                and flow.root_name(node.func) in self.origins
            ):
                yield "*"
            changed: list[ast.expr] = []
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                if _last_name(node.value.func) not in _FILES_ONLY:
                    changed = [node.value.func]
            elif isinstance(node, ast.Assign | ast.Delete):
                changed = [one for one in node.targets if not isinstance(one, ast.Name)]
            elif isinstance(node, ast.AugAssign | ast.AnnAssign) and not isinstance(node.target, ast.Name):
                changed = [node.target]
            for target in changed:
                origin = self.origins.get(flow.root_name(target), "")
                package = origin.partition(".")[0]
                if package:
                    yield "*" if package in _EVERYWHERE else package

    def _alone(self) -> Iterator[tuple[CodeCell, ast.stmt]]:
        """Yield the statements that are left and share no line with another one."""
        for cell in self.reading.cells:
            lines = Counter(line for node in cell.tree.body for line in {node.lineno, node.end_lineno})
            for node in list(self.rest[cell.number]):
                if lines[node.lineno] == 1 and lines[node.end_lineno] == 1:
                    yield cell, node

    def _take(self, cell: CodeCell, node: ast.stmt, into: list[tuple[CodeCell, ast.stmt]]) -> None:
        self.rest[cell.number].remove(node)
        into.append((cell, node))

    def _setting(self, cell: CodeCell, node: ast.stmt, names: set[str]) -> Setting | None:
        target, annotation = _target(node)
        if not target or self.bindings[target] != 1 or target in self.changed or not self._why_setting(cell, target):
            return None
        try:
            value = ast.literal_eval(node.value)  # type: ignore[attr-defined]
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
        kind = _param_type(value, annotation)
        name = target.lower() if target.isupper() and target.lower() not in {*names, *RESERVED} else target
        if not kind or name in RESERVED or name.startswith("_") or name in {one.name for one in self.settings}:
            return None
        return Setting(name, target, kind, float(value) if kind == "Number" else value, _comment(cell, node))

    def _why_setting(self, cell: CodeCell, name: str) -> str:
        if self.is_tagged:
            return "its cell has the tag `parameters`" if "parameters" in cell.tags else ""
        if name.isupper():
            return "a constant in capitals, assigned once"
        body = [node for node in cell.tree.body if not _is_import(node)]
        return "a constant in a cell of constants, assigned once" if all(map(_is_literal, body)) else ""


def _is_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.Try):
        inner = [*node.body, *node.orelse, *(one for handler in node.handlers for one in handler.body)]
        return any(map(_is_import, node.body)) and all(
            _is_import(one) or isinstance(one, ast.Pass) or _is_literal(one) for one in inner
        )
    return isinstance(node, ast.Import | ast.ImportFrom)


def _is_literal(node: ast.stmt) -> bool:
    target, _ = _target(node)
    try:
        ast.literal_eval(node.value)  # type: ignore[attr-defined]
    except (AttributeError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return bool(target)


def _target(node: ast.stmt) -> tuple[str, ast.expr | None]:
    """Return the one name that a statement assigns, with its annotation."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return node.target.id, node.annotation
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, None
    return "", None


def _defined(node: ast.stmt) -> str:
    """Return the name that a function, a class or a fixed value has; empty for other statements."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    return _target(node)[0] if _is_literal(node) else ""


def _bindings(tree: ast.AST) -> Iterator[str]:
    """Yield a name each time that something at the top of a cell binds it, or a function does so as global."""
    for node in flow.own(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield child.name
    yield from (name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names)
    yield from (
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    )


def _changed_in_place(tree: ast.AST) -> Iterator[str]:
    """Yield names of objects that code may change: parts assigned or deleted, methods called for what they do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield flow.root_name(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if isinstance(node.value.func, ast.Attribute):
                yield flow.root_name(node.value.func)
        elif isinstance(node, ast.Call) and _last_name(node.func) in ("pop", "popitem", "setdefault"):
            yield flow.root_name(node.func)


def _keeps_state(node: ast.stmt, known: set[str]) -> bool:
    """Whether calling a function or class may leave something behind in memory for the next call."""
    for one in ast.walk(node):
        if isinstance(one, ast.Global):
            return True
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [*one.args.defaults, *filter(None, one.args.kw_defaults)]
            if any(isinstance(default, ast.List | ast.Dict | ast.Set | ast.Call) for default in defaults):
                return True
        is_changed = isinstance(one, ast.Attribute | ast.Subscript) and isinstance(one.ctx, ast.Store | ast.Del)
        if is_changed and flow.root_name(one) in known | {_defined(node), "cls"}:
            return True
    if isinstance(node, ast.ClassDef):
        values = [one.value for one in node.body if isinstance(one, ast.Assign)]
        return any(isinstance(value, ast.List | ast.Dict | ast.Set | ast.Call) for value in values)
    return False


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


_ANNOTATED: Mapping[str, str] = {"int": "Integer", "float": "Number", "str": "String", "bool": "Boolean"}
_OF_VALUE: Mapping[type, str] = {bool: "Boolean", int: "Integer", float: "Number", str: "String"}


def _param_type(value: object, annotation: ast.expr | None) -> str:
    """Return the class of param for a constant; empty for one that stays a constant."""
    said = ast.unparse(annotation) if annotation is not None else ""
    base = re.sub(r"^(?:typing\.)?Optional\[(.+)\]$|^(.+?)\s*\|\s*None$", lambda match: match[1] or match[2], said)
    if value is None:
        return _ANNOTATED.get(base, "")
    if base == "float" and type(value) is int:
        return "Number"
    if type(value) in _OF_VALUE:
        return _OF_VALUE[type(value)]
    if isinstance(value, list) and value and all(type(item) in _OF_VALUE for item in value):
        return "List"
    if isinstance(value, tuple) and value and all(type(item) in _OF_VALUE for item in value):
        return "Tuple"
    return ""


def _shown(value: object) -> str:
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."


def _comment(cell: CodeCell, node: ast.stmt) -> str:
    """Return what the comment beside a constant says, else what those directly above it say."""
    comments = comments_of(cell.source)
    beside = comments.get(node.end_lineno or node.lineno, ("", False))
    if beside[0] and not beside[1]:
        return beside[0]
    above: list[str] = []
    line = node.lineno - 1
    while line in comments and comments[line][1]:
        above.insert(0, comments[line][0])
        line -= 1
    return " ".join(above)


def comments_of(source: str) -> dict[int, tuple[str, bool]]:
    """Return line -> text of its comment, and whether it has the line for itself."""
    found: dict[int, tuple[str, bool]] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                text = re.sub(r"^(type:\s*\w+\s*)?", "", token.string.lstrip("#").strip())
                found[token.start[0]] = (text, not token.line[: token.start[1]].strip())
    except (tokenize.TokenError, IndentationError):  # a last line that goes on nowhere: it has been parsed already
        pass
    return found


def _stage_name(cells: Sequence[CodeCell], used: set[str], number: int) -> tuple[str, str]:
    """Return the name of a stage and the heading that it comes from."""
    title = next((cell.heading for cell in cells if cell.heading), "")
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", plain.lower())
    while words and words[0].isdigit():
        words.pop(0)
    name = "_".join(words)[:40].strip("_")
    taken = {*used, *RESERVED}
    if not name or not name.isidentifier() or _is_keyword(name) or name in taken:
        base = name if name.isidentifier() and not _is_keyword(name) else "stage"
        name = next(one for one in (f"{base}_{index}" for index in range(number, 10_000)) if one not in taken)
    return name, title


def _is_keyword(name: str) -> bool:
    import keyword

    return keyword.iskeyword(name) or keyword.issoftkeyword(name)
