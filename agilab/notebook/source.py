"""A worker package as the cells of one namespace: its own text, with only the imports that lead to AGILAB undone.

Modules come in the order in which they import each other. The worker's class
is opened again for every stage, so that each has a cell of its own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agilab import errors, syntax
from agilab.errors import AgilabError, ProjectError
from agilab.syntax import Module, source_files

_GIVEN = frozenset({"Worker", "PartitionContext", "Inputs"})
"""What of AGILAB the notebook has an own, small form of."""
_OWN_FILES = frozenset({"__file__", "__path__", "importlib.resources", "pkgutil"})

_MODULES = ("agilab", "agilab.worker", "agilab.errors")

Edit = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a worker package.

    Parameters
    ----------
    title
        Where it comes from, or the stage that it is.
    doc
        What its docstring says.
    code
        Its text.
    """

    title: str
    doc: str
    code: str


@dataclass(frozen=True, slots=True)
class WorkerText:
    """A worker package, taken apart.

    Parameters
    ----------
    modules
        In the order in which they have to be run.
    stages
        The methods of stages, by name, in the order of the plan.
    attributes
        Every attribute that the code reads of anything: which parts of a `PartitionContext` it may need.
    given
        What of AGILAB it names: `Worker`, `PartitionContext`, `Inputs` and errors.
    postponed
        Whether annotations are postponed (``from __future__ import annotations``).
    aliased
        Whether it names its own modules.
    orders
        The orders that it writes points in.
    kinds
        The kinds of artifacts that it writes; None where it does not say them as text.
    names
        What its modules define at their top.
    imported
        Top-level packages that it imports.
    hooks
        Which of ``setup`` and ``teardown`` its class has; and ``super``, where it asks for what a base class has.
    """

    modules: tuple[Piece, ...]
    stages: Mapping[str, Piece]
    attributes: frozenset[str]
    given: tuple[str, ...]
    postponed: bool
    aliased: bool
    orders: frozenset[str | None]
    kinds: frozenset[str] | None
    names: frozenset[str]
    imported: frozenset[str]
    hooks: frozenset[str]

    @property
    def bare_hooks(self) -> bool:
        """Whether nothing asks for the `setup` and `teardown` of the base class."""
        return "super" not in self.hooks

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(name for name in self.given if name not in _GIVEN)


def take_apart(package: Path, worker_class: str, stages: Sequence[str]) -> WorkerText:
    """Read a worker package.

    Parameters
    ----------
    package
        Its folder.
    worker_class
        ``module:Class``.
    stages
        Names of the plan's stages.

    Raises
    ------
    ProjectError
        The package cannot be one namespace: two of its modules define one name, it needs files beside its code, or
        more of AGILAB than its worker is written against.
    """
    modules: dict[str, Module] = {}
    for path, name in source_files(package):
        try:
            modules[name] = syntax.parse(path, name)
        except SyntaxError as err:
            raise ProjectError(
                f"{path}:{err.lineno or 1}: Python cannot read it: {err.msg}; correct this line"
            ) from err
    names = {name for name in modules if "tests" not in name.split(".")}
    main, _, class_name = worker_class.partition(":")
    ordered = _ordered({name: modules[name] for name in names})
    _require_single_names(ordered)
    pieces, methods, known = [], dict[str, Piece](), _Known(package.name, frozenset(names))
    for module in ordered:
        text = _Text(module, known)
        if module.name == main:
            methods = text.take_methods(class_name, stages)
        pieces.append(Piece(module.path.relative_to(package.parent).as_posix(), text.doc, text.rest()))
    nodes = [node for module in ordered for node in ast.walk(module.tree)]
    return WorkerText(
        modules=tuple(piece for piece in pieces if piece.code.strip()),
        stages={name: methods[name] for name in stages if name in methods},
        attributes=frozenset(node.attr for node in nodes if isinstance(node, ast.Attribute)),
        given=tuple(sorted(known.given)),
        postponed=known.postponed,
        aliased=known.aliased,
        orders=frozenset(_orders(nodes)),
        kinds=_kinds(nodes),
        names=frozenset(name for module in ordered for name, _ in _top_names(module)),
        imported=frozenset(name.partition(".")[0] for module in ordered for name, _ in syntax.imports(module)),
        hooks=frozenset(name for name in _names(nodes) if name in ("setup", "teardown", "super")),
    )


@dataclass
class _Known:
    """What the modules of one package have in common, and what was found in them."""

    package: str
    names: frozenset[str]
    given: set[str] = field(default_factory=set)
    postponed: bool = False
    aliased: bool = False


class _Text:
    """The text of one module, of which parts are replaced or taken out."""

    def __init__(self, module: Module, known: _Known) -> None:
        self._module, self._known = module, known
        self._data = module.path.read_bytes().replace(b"\r\n", b"\n")
        lines = self._data.split(b"\n")
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.doc = ast.get_docstring(module.tree) or ""
        self._cuts: list[tuple[int, int]] = []
        self._edits = list(self._every_edit())

    def take_methods(self, class_name: str, stages: Sequence[str]) -> dict[str, Piece]:
        """Cut the stage methods out of the class; each comes back as the class opened again with it."""
        owner = next(
            (one for one in self._module.tree.body if isinstance(one, ast.ClassDef) and one.name == class_name), None
        )
        if owner is None:
            return {}
        found: dict[str, Piece] = {}
        ends = [self._first_line(owner.body[0]), *(node.end_lineno or 0 for node in owner.body)]
        for node, end in zip(owner.body, ends, strict=False):
            if isinstance(node, ast.FunctionDef) and node.name in stages and len(owner.body) > 1:
                begin = min(end + 1, self._first_line(node)) if node is not owner.body[0] else self._first_line(node)
                span = (self._starts[begin - 1], self._starts[node.end_lineno or begin])
                body = self._edited(*span).strip("\n")
                text = f"class {class_name}({class_name}):  # goes on\n{body}"
                found[node.name] = Piece(node.name, ast.get_docstring(node) or "", text)
                self._cuts.append(span)
        return found

    def rest(self) -> str:
        """Return what has not been taken out."""
        parts, at = [], 0
        for start, end in sorted(self._cuts):
            parts.append(self._edited(at, start))
            at = end
        text = "".join([*parts, self._edited(at, len(self._data))])
        return re.sub(r"\n{4,}", "\n\n\n", _without_empty_class(text)).strip("\n")

    def _first_line(self, node: ast.stmt) -> int:
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        return min([node.lineno, *(one.lineno for one in decorators)])

    def _edited(self, start: int, end: int) -> str:
        parts, at = [], start
        for first, last, text in sorted(self._edits):
            if first >= start and last <= end:
                parts += [self._data[at:first], text.encode()]
                at = last
        return b"".join([*parts, self._data[at:end]]).decode()

    def _span(self, node: ast.stmt | ast.expr) -> tuple[int, int]:
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)

    def _every_edit(self) -> Iterator[Edit]:
        tree, done = self._module.tree, set[ast.AST]()
        if self.doc:
            yield (*self._whole_lines(tree.body[0]), "")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from self._import(node)
            elif isinstance(node, ast.Attribute) and node not in done:
                done |= {inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
                yield from self._attribute(node)
            elif isinstance(node, ast.Name) and syntax.origin(self._module, node) in _OWN_FILES:
                raise self._refused(node.lineno, node.id, "what lies beside the code does not travel in a notebook")

    def _import(self, node: ast.Import | ast.ImportFrom) -> Iterator[Edit]:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            self._known.postponed = True
            yield (*self._whole_lines(node), "")
            return
        kept: list[str] = []
        ours: list[str] = []
        modules: list[str] = []
        for alias in node.names:
            bound = alias.asname or (alias.name if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0])
            origin = self._module_of(node, alias.name)
            top = origin.partition(".")[0]
            if top == "agilab":
                ours += self._given_name(origin, bound, is_module=isinstance(node, ast.Import), line=node.lineno)
            elif top == self._known.package:
                modules += self._own_modules(node, origin, bound)
                name = origin.rpartition(".")[2]
                ours += (
                    [f"{bound} = {name}"] if isinstance(node, ast.ImportFrom) and bound not in (name, *modules) else []
                )
            else:
                kept.append(alias.name + (f" as {alias.asname}" if alias.asname else ""))
        if len(kept) == len(node.names):
            return
        if kept:
            source = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
            ours.insert(0, source + ", ".join(kept))
        if modules:  # all of them are the one namespace here
            self._known.aliased = True
            ours.append(f"{' = '.join(modules)} = sys.modules[__name__]")
        if ours or node.col_offset:
            yield (*self._span(node), "; ".join(ours) or "pass")
        else:
            yield (*self._whole_lines(node), "")

    def _module_of(self, node: ast.Import | ast.ImportFrom, name: str) -> str:
        if isinstance(node, ast.Import):
            return name
        source = syntax.absolute(node, self._module.name, is_package=self._module.is_package)
        if name == "*" and source.partition(".")[0] in ("agilab", self._known.package):
            raise self._refused(node.lineno, f"from {source} import *", "name what is imported")
        return f"{source}.{name}"

    def _given_name(self, origin: str, bound: str, *, is_module: bool, line: int) -> list[str]:
        name = origin.rpartition(".")[2]
        if is_module or origin in _MODULES:
            return []  # what is read of it is named by itself
        self._require_given(name, line)
        return [f"{bound} = {name}"] if bound != name else []

    def _require_given(self, name: str, line: int) -> None:
        kind = getattr(errors, name, None)
        if name not in _GIVEN and not (isinstance(kind, type) and issubclass(kind, AgilabError)):
            raise self._refused(
                line, f"agilab.{name}", "a worker that leaves AGILAB uses Worker and its partition only"
            )
        self._known.given.add(name)

    def _own_modules(self, node: ast.Import | ast.ImportFrom, origin: str, bound: str) -> list[str]:
        """Return the names that have to mean a module of the package."""
        inner = origin.split(".")[1:] if isinstance(node, ast.Import) else []
        return [*dict.fromkeys([bound, *inner])] if inner or origin in self._known.names else []

    def _attribute(self, node: ast.Attribute) -> Iterator[Edit]:
        """Name what is read of AGILAB by itself: ``agilab.Worker`` becomes ``Worker``."""
        origin = syntax.origin(self._module, node)
        if origin in _OWN_FILES:
            raise self._refused(node.lineno, origin, "what lies beside the code does not travel in a notebook")
        parts = origin.split(".")
        if parts[0] != "agilab" or len(parts) < 2:
            return
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            name = inner.attr
            holder, _, _ = syntax.origin(self._module, inner).rpartition(".")
            if holder in _MODULES and name not in ("worker", "errors"):
                self._require_given(name, node.lineno)
                yield (*self._span(inner), name)
                return
            inner = inner.value
        if isinstance(inner, ast.Name) and self._module.origins.get(inner.id, "") in _MODULES:
            raise self._refused(node.lineno, origin, "a worker that leaves AGILAB uses Worker and its partition only")

    def _whole_lines(self, node: ast.stmt) -> tuple[int, int]:
        start, end = self._span(node)
        line_end = self._starts[node.end_lineno or node.lineno]
        return (start, min(line_end, len(self._data))) if self._data[end:line_end].strip() == b"" else (start, end)

    def _refused(self, line: int, what: str, fix: str) -> ProjectError:
        return ProjectError(f"{self._module.path}:{line}: {what} has no form outside AGILAB; {fix}")


def _without_empty_class(text: str) -> str:
    """Give a class of which everything was taken out a body, so that it stays a class."""
    try:
        ast.parse(text)
    except SyntaxError:
        return re.sub(r"(?m)^(class \w+[^\n]*:)\n(?!\s+\S)", r"\1\n    pass\n", text)
    return text


def _ordered(modules: Mapping[str, Module]) -> list[Module]:
    """Return modules so that each comes after those that it imports at its top; where they go in circles, by name."""
    done: dict[str, Module] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in done or name in above:
            return
        module = modules[name]
        for imported, _ in syntax.imports(module, optional=False):
            for other in (imported, imported.rpartition(".")[0]):
                if other in modules and other != name:
                    add(other, (*above, name))
        done[name] = module

    for name in sorted(modules, key=lambda name: (name.count("."), name)):
        add(name, ())
    return list(done.values())


def _require_single_names(modules: Sequence[Module]) -> None:
    """Refuse two modules that mean different things by one name: in a notebook there is one of each."""
    known: dict[str, tuple[Module, str]] = {}
    for module in modules:
        for name, said in _top_names(module):
            other, before = known.setdefault(name, (module, said))
            if other is not module and before != said:
                raise ProjectError(
                    f"{other.path} and {module.path} both define {name!r}, and a notebook has one of each name; "
                    "rename one of them"
                )


def _top_names(module: Module) -> Iterator[tuple[str, str]]:
    """Yield the names that a module defines at its top, with what tells two of them apart."""
    for node in syntax.statements(module.tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, ast.unparse(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for inner in (one for target in targets for one in ast.walk(target)):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.id, ast.unparse(node)
    for name, origin in module.origins.items():
        own = origin.startswith(f"{module.name.partition('.')[0]}.")
        yield from [] if own else [(name, origin)]


def _orders(nodes: Sequence[ast.AST]) -> Iterator[str | None]:
    """Yield the orders that points are written in: None where that is said as such, else the default."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "write_points":
            said = [word.value for word in node.keywords if word.arg == "order"]
            yield None if said and isinstance(said[0], ast.Constant) and said[0].value is None else "morton"


def _kinds(nodes: Sequence[ast.AST]) -> frozenset[str] | None:
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    writes = [call for call in calls if call.func.attr == "write" and len(call.args) > 1]  # type: ignore[attr-defined]
    said = [call.args[1].value for call in writes if isinstance(call.args[1], ast.Constant)]
    own = {"points", "file"} if any(call.func.attr == "write_points" for call in calls) else set()  # type: ignore[attr-defined]
    named = any(call.func.attr == "write" and word.arg == "kind" for call in calls for word in call.keywords)  # type: ignore[attr-defined]
    plain = len(said) == len(writes) and not named
    return frozenset({*map(str, said), *own}) if plain else None


def _names(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Yield the names of all functions, and of all variables that are read."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
