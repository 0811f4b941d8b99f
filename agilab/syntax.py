"""What Python source says without being run: classes, methods, imports, literal stage names; it imports none of it."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agilab import digest

LARGEST_SOURCE_BYTES = 1 << 20
"""No file larger than this is parsed: what an app declares fits in far less."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed source file.

    Parameters
    ----------
    path
        The file.
    name
        Its dotted name, such as ``flight_telemetry.app``.
    tree
        The syntax tree.
    origins
        Name in this file -> dotted name it was imported from.
    """

    path: Path
    name: str
    tree: ast.Module
    origins: Mapping[str, str]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


def parse(path: Path, name: str) -> Module:
    """Parse one source file.

    Raises
    ------
    SyntaxError
        The file is missing, too large, not text or not Python; ``lineno`` is set where it is known.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_SOURCE_BYTES + 1)
        if len(data) > LARGEST_SOURCE_BYTES:
            raise SyntaxError(f"larger than {LARGEST_SOURCE_BYTES} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a bad escape in a project's string is not for the reader of a list
            tree = ast.parse(data, str(path))
    except OSError as err:
        raise SyntaxError(err.strerror or "cannot be opened") from err
    except (ValueError, RecursionError, MemoryError) as err:  # null bytes, and nesting that no parser follows
        raise SyntaxError(f"not readable as Python source ({type(err).__name__})") from err
    return Module(path, name, tree, _origins(tree, name, is_package=path.name == "__init__.py"))


def source_files(package: Path) -> list[tuple[Path, str]]:
    """List the Python files of a package with their dotted names, its ``__init__.py`` first."""
    found: list[tuple[Path, str]] = []
    for relative in digest.tree_files(package):
        if relative.endswith(".py"):
            parts = [package.name, *relative[:-3].split("/")]
            found.append((package / relative, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return sorted(found, key=lambda item: (item[1].count("."), item[1]))


def derived_classes(module: Module, base: str) -> list[ast.ClassDef]:
    """List the classes of a file that derive from one of ours and from which no other class of the file derives.

    Parameters
    ----------
    module
        The parsed file.
    base
        ``"App"`` or ``"Worker"``.
    """
    classes = {node.name: node for node in statements(module.tree.body) if isinstance(node, ast.ClassDef)}
    ours = {f"agilab.{base}", f"agilab.{base.lower()}.{base}", *({base} - classes.keys() - module.origins.keys())}
    derived: set[str] = set()
    parents: set[str] = set()
    for name, node in classes.items():  # a base stands above what derives from it
        names = {origin(module, expression) for expression in node.bases}
        if names & (ours | derived):
            derived.add(name)
            parents |= names & derived
    return [classes[name] for name in classes if name in derived - parents and not name.startswith("_")]


def methods(module: Module, class_name: str, *, base: str) -> tuple[dict[str, Function], bool]:
    """Return the methods of a class with those of its bases in the same file, and whether that is all of them.

    It is not all of them when a base comes from elsewhere and is not `base`,
    or when something is assigned to a name in the class.
    """
    classes = {node.name: node for node in statements(module.tree.body) if isinstance(node, ast.ClassDef)}
    found: dict[str, Function] = {}
    complete = class_name in classes
    todo, seen = [class_name], set[str]()
    while todo:
        name = todo.pop(0)
        if name in seen or name not in classes:
            continue
        seen.add(name)
        for node in statements(classes[name].body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(node.name, node)
            elif isinstance(node, ast.Assign):
                complete = False
        for expression in classes[name].bases:
            base_name = origin(module, expression)
            todo.append(base_name)
            complete &= base_name in classes or base_name.rpartition(".")[2] in {base, "object"}
    return found, complete


def imports(module: Module, *, optional: bool = True) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports anywhere, as dotted name and line.

    Relative imports are resolved; one that leaves its top-level package
    begins with a dot. ``importlib.import_module`` and ``__import__`` count
    when their argument is a literal.

    Parameters
    ----------
    module
        The parsed file.
    optional
        Whether those count that may fail: in a ``try`` that catches
        ImportError, in ``with suppress(ImportError)``, in ``if TYPE_CHECKING``.
    """
    for node in ast.walk(module.tree) if optional else _needed(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, module.name, is_package=module.is_package)
            for alias in node.names:
                yield f"{source}.{alias.name}" if not source.endswith(".") else source + alias.name, node.lineno
        elif isinstance(node, ast.Call) and node.args and _is_text(node.args[0]):
            called = origin(module, node.func)
            if called in {"importlib.import_module", "__import__"}:
                yield node.args[0].value, node.lineno  # type: ignore[attr-defined]


def _needed(module: Module) -> Iterator[ast.AST]:
    """Walk the tree without what is imported only where it can be."""
    todo: list[ast.AST] = [module.tree]
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.Try | ast.TryStar):
            if any(_names_import_error(module, handler.type) for handler in node.handlers):
                continue
        elif isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            if any(_names_import_error(module, argument) for call in calls for argument in call.args):
                continue
        elif isinstance(node, ast.If) and origin(module, node.test).endswith("TYPE_CHECKING"):
            todo[:0] = node.orelse
            continue
        yield node
        todo[:0] = ast.iter_child_nodes(node)


def _names_import_error(module: Module, expression: ast.expr | None) -> bool:
    caught = expression.elts if isinstance(expression, ast.Tuple) else [expression]
    return any(one is not None and origin(module, one) in {"ImportError", "ModuleNotFoundError"} for one in caught)


def literal_stages(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the names given as literals to ``Stage(...)``, with their lines."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and origin(module, node.func) in {"agilab.Stage", "agilab.plan.Stage"}:
            named = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
            for argument in [*node.args[:1], *named]:
                if _is_text(argument):
                    yield argument.value, node.lineno  # type: ignore[attr-defined]


def assignment_line(module: Module, name: str) -> int:
    """Return the line where a class of the file assigns `name`; 0 when none does."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return statement.lineno
    return 0


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements, looking into ``if``, ``try`` and ``with``, but into no class or function."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from statements(getattr(node, inner, []))


def _origins(tree: ast.Module, name: str, *, is_package: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in statements(tree.body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, name, is_package=is_package)
            for alias in node.names:
                found[alias.asname or alias.name] = f"{source}.{alias.name}"
    return found


def absolute(node: ast.ImportFrom, name: str, *, is_package: bool) -> str:
    """Return the module that ``from ... import`` names; it begins with a dot when it leaves its top-level package."""
    if not node.level:
        return node.module or ""
    parts = name.split(".") if is_package else name.split(".")[:-1]
    kept = len(parts) - (node.level - 1)
    if kept < 1:
        return f".{node.module or ''}"
    return ".".join([*parts[:kept], *([node.module] if node.module else [])])


def origin(module: Module, expression: ast.expr) -> str:
    """Return the dotted name of an expression, with its first part replaced by where it was imported from."""
    parts: list[str] = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    if not isinstance(expression, ast.Name):
        return ""
    return ".".join([module.origins.get(expression.id, expression.id), *reversed(parts)])


def _is_text(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Constant) and isinstance(expression.value, str)
