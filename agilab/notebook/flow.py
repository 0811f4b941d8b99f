"""Which names code reads from before and which it leaves behind, by its syntax tree; it runs nothing."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "get_ipython"}


@dataclass
class Names:
    """What a piece of code does with names of the notebook.

    Parameters
    ----------
    reads
        Names whose value comes from before it.
    writes
        Names that may have another value after it.
    certain
        Those of them that have it for sure.
    """

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    certain: set[str] = field(default_factory=set)


def names_of(body: Iterable[ast.stmt]) -> Names:
    """Return what statements read from before them, and write."""
    found = Names()
    _walk(body, found, found.certain)
    return found


def free_names(node: ast.AST) -> set[str]:
    """Return the names that an expression or statement reads and does not define inside a function of its own."""
    return set(_loads(node))


def globals_of(node: ast.AST) -> set[str]:
    """Return the names that functions inside declare as global."""
    return {name for one in ast.walk(node) if isinstance(one, ast.Global) for name in one.names}


def bound_names(target: ast.AST) -> set[str]:
    """Return the names that a target of an assignment binds."""
    return {one.id for one in ast.walk(target) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}


def root_name(node: ast.AST) -> str:
    """Return the name that an expression such as ``a.b[0].c`` begins with; empty where it begins with none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _walk(body: Iterable[ast.stmt], found: Names, certain: set[str]) -> None:
    """Follow statements in order; `certain` holds what has been written for sure so far."""
    for node in body:
        if isinstance(node, ast.If):
            _read(node.test, found, certain)
            branches = [set(certain), set(certain)]
            _walk(node.body, found, branches[0])
            _walk(node.orelse, found, branches[1])
            certain |= branches[0] & branches[1]
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
            _loop(node, found, certain)
        elif isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                _read(item.context_expr, found, certain)
                if item.optional_vars is not None:
                    _bind(item.optional_vars, found, certain)
            _walk(node.body, found, certain)
        elif isinstance(node, ast.Try | ast.TryStar):
            _walk(node.body, found, set(certain))
            for handler in node.handlers:
                _read(handler.type, found, certain)
                _walk(handler.body, found, {*certain, *([handler.name] if handler.name else ())})
            _walk(node.orelse, found, set(certain))
            _walk(node.finalbody, found, set(certain))
        else:
            _simple(node, found, certain)


def _loop(node: ast.For | ast.AsyncFor | ast.While, found: Names, certain: set[str]) -> None:
    inner = set(certain)
    if isinstance(node, ast.While):
        _read(node.test, found, certain)
    else:
        _read(node.iter, found, certain)
        _bind(node.target, found, inner)
    _walk(node.body, found, inner)
    _walk(node.orelse, found, set(certain))


def _simple(node: ast.stmt, found: Names, certain: set[str]) -> None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        found.writes |= names
        certain |= names
        return
    if isinstance(node, ast.AugAssign):
        _read(node.target, found, certain)
        found.reads |= bound_names(node.target) - certain
    _read(node, found, certain)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        found.writes |= {node.name, *globals_of(node)}
        certain.add(node.name)
        return
    written = {one.id for one in own(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    if isinstance(node, ast.Delete):
        gone = {target.id for target in node.targets if isinstance(target, ast.Name)}
        found.reads |= gone - certain
    found.writes |= written
    certain |= written


def _read(node: ast.AST | None, found: Names, certain: set[str]) -> None:
    if node is not None:
        found.reads |= set(_loads(node)) - certain


def _bind(target: ast.expr, found: Names, certain: set[str]) -> None:
    _read(target, found, certain)
    found.writes |= bound_names(target)
    certain |= bound_names(target)


def own(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a node, but into no function, class or comprehension of its own."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _SCOPES):
            yield from own(child)
        elif not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            # A walrus in a comprehension binds outside of it.
            yield from (one.target for one in ast.walk(child) if isinstance(one, ast.NamedExpr))


_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


def _loads(node: ast.AST) -> Iterator[str]:
    """Yield every name that is read; those that are local to a function, lambda or comprehension left out."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load):
            yield node.id
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        yield from _function_loads(node)
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        local = {name for generator in node.generators for name in bound_names(generator.target)}
        inner = (name for child in ast.iter_child_nodes(node) for name in _loads(child))
        yield from (name for name in inner if name not in local)
    elif isinstance(node, ast.ClassDef):
        outside = [*node.decorator_list, *node.bases, *(word.value for word in node.keywords)]
        yield from (name for child in outside for name in _loads(child))
        made = names_of(node.body)
        yield from made.reads
        functions = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        yield from (name for one in functions for name in _loads(one))
    else:
        for child in ast.iter_child_nodes(node):
            yield from _loads(child)


def _function_loads(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> Iterator[str]:
    args = node.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    for outside in [
        *args.defaults,
        *filter(None, args.kw_defaults),
        *(arg.annotation for arg in every if arg.annotation),
    ]:
        yield from _loads(outside)
    if isinstance(node, ast.Lambda):
        body: list[ast.AST] = [node.body]
    else:
        yield from (name for one in node.decorator_list for name in _loads(one))
        yield from _loads(node.returns) if node.returns else ()
        body = [*node.body]
    declared = {name for child in body for name in globals_of(child)}
    local = {arg.arg for arg in every} | {name for child in body for name in _locals(child)}
    yield from declared
    yield from (name for child in body for name in _loads(child) if name not in local - declared)


def _locals(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement of a function makes local to it."""
    for one in own(node) if not isinstance(node, _SCOPES) else (node,):
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            yield one.id
        elif isinstance(one, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in one.names)
        elif isinstance(one, ast.ExceptHandler | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield one.name or ""
        for child in ast.iter_child_nodes(one):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield child.name


def import_origins(trees: Iterable[ast.Module]) -> Mapping[str, str]:
    """Return name -> dotted origin of everything that is imported at the top of some code."""
    found: dict[str, str] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
    return found
