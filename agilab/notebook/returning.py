"""A standalone notebook that comes back: told by its code alone, it becomes the project that it was; nothing runs.

What an export (`agilab.notebook.standalone`) holds is known: settings with
their docs, the plan as it was, the worker's own text. What stood for AGILAB in
it is left out again. A notebook of which anything is otherwise is none, and is
imported like any other.
"""

from __future__ import annotations

import ast
import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from agilab import errors
from agilab.artifact import KINDS
from agilab.data import DataSpec
from agilab.errors import DataError
from agilab.notebook import flow
from agilab.notebook.decide import Setting, comments_of
from agilab.notebook.document import Cell, quoted
from agilab.notebook.standalone import json_literal, literal
from agilab.paths import NAME_PATTERN
from agilab.renaming import title
from agilab.toml import key_text, string_text

LONGEST_LINE = 120
"""From how many characters on what a partition reads is written line by line."""

_HEADER = re.compile(r"(?ms)\A# /// script\n(.*?)^# ///$")
_DATA = re.compile(r'(?m)^DATA = Path\(".*/([0-9a-f]{64})"\)\.expanduser\(\)  # (\S+) (\S+): (\S+)$')
_ERRORS = re.compile(r"(?m)^class (\w+)\(Exception\): pass\n+")
_OPENED_AGAIN = re.compile(r"class (\w+)\((\w+)\):  # goes on\n")
_GIVEN = ("Worker", "PartitionContext", "Inputs")
_DECLARED = {bool: "Boolean", int: "Integer", float: "Number", str: "String", dict: "Dict", list: "List"}


@dataclass(frozen=True, slots=True)
class Returned:
    """What a standalone notebook says of the project that it was.

    Parameters
    ----------
    name, description
        Of the app.
    settings
        As it had them.
    plan
        Stage -> its partitions: id, parameters, files that it reads, artifacts that it reads.
    kinds
        Kinds of its own -> how they are declared.
    requires
        Distributions that the worker needs.
    worker
        Text of the worker package.
    data
        The data set that it reads, as ``[tool.agilab.data]`` names it; empty for none.
    """

    name: str
    description: str
    settings: tuple[Setting, ...]
    plan: Mapping[str, Sequence[tuple[str, Mapping[str, Any], Mapping[str, str], Sequence[str]]]]
    kinds: Mapping[str, Mapping[str, Any]]
    requires: tuple[str, ...]
    worker: str
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files that its partitions read, relative to the project."""
        return tuple(sorted({path for parts in self.plan.values() for part in parts for path in part[2].values()}))

    def called(self, name: str) -> Returned:
        """Return the same under another name."""
        worker = re.sub(rf"\b{title(self.name)}Worker\b", f"{title(name)}Worker", self.worker)
        return replace(self, name=name, worker=worker)

    def declared(self) -> str:
        """Return the tables of ``pyproject.toml`` that declare its data set and its own kinds; empty without any."""
        lines = ["", "[tool.agilab.data]"] if self.data else []
        lines += [f"{key} = {string_text(value)}" for key, value in self.data.items()]
        for name, kind in self.kinds.items():
            lines += ["", f"[tool.agilab.kinds.{key_text(name)}]"]
            for key, value in kind.items():
                inner = isinstance(value, Mapping) and ", ".join(
                    f"{key_text(one)} = {string_text(value[one])}" for one in value
                )
                lines.append(f"{key} = {{ {inner} }}" if inner else f"{key} = {string_text(value)}")
        return "\n".join([*lines, ""]) if lines else ""

    def manager(self) -> str:
        """Return the manager package."""
        lines = [f'"""What there is to do: settings and plan of {self.name}, from a standalone notebook."""', ""]
        dates = any("datetime." in literal(one.default) + one.limits for one in self.settings)
        lines += ["import datetime", ""] if dates else []
        lines += ["import agilab", *(["import param"] if self.settings else []), ""]
        lines += ["", f"class {title(self.name)}(agilab.App):"]
        if self.settings:
            lines += ["    class Settings(agilab.Settings):"]
            lines += [f"        {_declaration(setting)}" for setting in self.settings]
            lines += [""]
        if self.inputs:
            lines += ["    def inputs(self):", "        return ["]
            lines += [
                f"            agilab.InputRef({quoted(name)}, {quoted(path)}),"
                for name, path in sorted(set(self._named_files()))
            ]
            lines += ["        ]", ""]
        lines += ["    def plan(self):", '        """Return the plan as the notebook had it; no setting changes it."""']
        lines += ["        return agilab.WorkPlan(", "            ["]
        for stage in self.plan:
            lines += _stage(stage, self.plan)
        return "\n".join([*lines, "            ]", "        )"]) + "\n"

    def _named_files(self) -> Iterator[tuple[str, str]]:
        for parts in self.plan.values():
            for part in parts:
                yield from part[2].items()


def returned(cells: Sequence[Cell]) -> Returned | None:
    """Return what a notebook was; None when it is no standalone export, or was changed where that matters."""
    try:
        return _Found(cells).whole()
    except (
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        StopIteration,
        MemoryError,
        RecursionError,
    ):
        return None


@dataclass
class _Found:
    """The cells of an export, each known by what it defines."""

    cells: Sequence[Cell]
    trees: list[tuple[Cell, ast.Module]] = field(init=False)

    def __post_init__(self) -> None:
        self.trees = [(cell, ast.parse(cell.source)) for cell in self.cells if cell.kind == "code"]

    def whole(self) -> Returned | None:
        names = [frozenset(_defined(tree)) for _, tree in self.trees]
        if len(names) < 6:
            return None
        at_settings = next(n for n, found in enumerate(names) if "Settings" in found)
        at_plan = next(n for n, found in enumerate(names) if {"PLAN", "SUFFIXES", "RESULTS"} <= found)
        at_context = next(n for n, found in enumerate(names) if {"Worker", "PartitionContext"} <= found)
        at_run = next(n for n, found in enumerate(names) if found == {"run"} and n > at_context)
        if not 0 < at_settings < at_plan < at_context < at_run:
            return None
        values = dict(_assigned(self.trees[at_plan][1]))
        plan = ast.literal_eval(values["PLAN"])
        suffixes = ast.literal_eval(values["SUFFIXES"])
        units = ast.literal_eval(values["UNITS"]) if "UNITS" in values else {}
        _require_plan(plan)
        name = _results(values["RESULTS"])
        context = self.trees[at_context][0].source
        first = self.trees[0][0].source
        worker = [cell.source for cell, _ in self.trees[at_context + 1 : at_run]]
        return Returned(
            name=name,
            description=self._description(name),
            settings=tuple(_settings(*self.trees[at_settings])),
            plan=plan,
            kinds=dict(_kinds(suffixes, units, context)),
            requires=_requires(first),
            worker=_worker(name, self.trees[0][1], worker, list(plan)),
            data=_data(self.trees[at_settings][0].source),
        )

    def _description(self, name: str) -> str:
        lines = [line.strip() for line in self.cells[0].source.splitlines() if line.strip()]
        said = lines[1] if len(lines) > 1 and not lines[1].startswith(("From ", "Run ")) else ""
        return said[:200] if said.isprintable() and said else f"{name}, from a standalone notebook"


def _require_plan(plan: Any) -> None:
    """Raise ValueError unless a plan has the form that an export has."""
    if not isinstance(plan, dict) or not plan:
        raise ValueError("no plan")
    for stage, parts in plan.items():
        if not stage.isidentifier() or not isinstance(parts, list):
            raise ValueError("no stage")
        for ident, params, files, made in parts:
            texts = [ident, *params, *files, *files.values(), *made]
            if not all(isinstance(text, str) for text in texts) or not NAME_PATTERN.fullmatch(ident):
                raise ValueError("no partition")
            if any(PurePosixPath(path).is_absolute() or ".." in path.split("/") for path in files.values()):
                raise ValueError("a file elsewhere")


def _data(source: str) -> dict[str, str]:
    """Return which data set lies where the settings say; nothing where it is no folder of one."""
    found = _DATA.search(source)
    if found is None:
        return {}
    given = dict(zip(("sha256", "distribution", "version", "root"), found.groups(), strict=True))
    try:
        DataSpec.from_json(given)
    except DataError:
        return {}
    return given


def _results(node: ast.expr) -> str:
    """Return the app's name, of ``Path("NAME_results").resolve()``."""
    call = node.func.value  # type: ignore[attr-defined]
    return str(ast.literal_eval(call.args[0])).removesuffix("_results")


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield names and values of plain assignments; several at once only as an export has them, value by value."""
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        target, pairs = node.targets[0], [(node.targets[0], node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=False))
        yield from ((one.id, value) for one, value in pairs if isinstance(one, ast.Name))


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
    yield from (name for name, _ in _assigned(tree))


def _settings(cell: Cell, tree: ast.Module) -> Iterator[Setting]:
    """Yield the settings of the class of that name, with their docs."""
    comments = comments_of(cell.source)
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    for node in owner.body:
        if isinstance(node, ast.Pass):
            continue
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            raise ValueError("no setting")
        name, value = node.targets[0].id, _value(node.value)
        doc, told = _parted(name, comments.get(node.end_lineno or node.lineno, ("", False))[0])
        yield _limited(Setting(name, name, _type(value), value, doc), told)


def _parted(name: str, comment: str) -> tuple[str, ast.Compare | None]:
    """Return the doc of a setting, and what its comment says in Python of the values that it may have."""
    for found in re.finditer(r"\(", comment):
        try:
            told = ast.parse(comment[found.start() :], mode="eval").body
        except SyntaxError:
            continue
        if isinstance(told, ast.Compare) and name in {one.id for one in ast.walk(told) if isinstance(one, ast.Name)}:
            return comment[: found.start()].rstrip(), told
    return comment, None


def _limited(setting: Setting, told: ast.Compare | None) -> Setting:
    """Return a setting with the bounds, or the values to choose from, that a comparison gives it."""
    if told is None:
        return setting
    choices = told.comparators[0]
    if isinstance(choices, ast.List | ast.Set):  # ``name in [...]``, ``{*name} <= {...}``
        objects = f"objects={json_literal([ast.literal_eval(one) for one in choices.elts])}"
        return replace(setting, type="ListSelector" if setting.type == "List" else "Selector", limits=objects)
    ends: list[str] = []
    sides = [told.left, *told.comparators]
    place = next(place for place, one in enumerate(sides) if isinstance(one, ast.Name))
    for one in (sides[:place], sides[place + 1 :]):
        value: Any = ast.literal_eval(one[0]) if one else None
        if isinstance(value, str) and setting.type.startswith("Calendar"):
            value = datetime.date.fromisoformat(value)
        ends.append(literal(value))
    closed = [isinstance(op, ast.LtE) for op in told.ops]
    low, high = (closed[0] if place else True), (closed[-1] if place + 1 < len(sides) else True)
    inclusive = "" if low and high else f", inclusive_bounds=({low}, {high})"
    return replace(setting, limits=f"bounds=({', '.join(ends)}){inclusive}")


def _value(node: ast.expr) -> Any:
    """Return the value of an expression: literals, dates and times."""
    if isinstance(node, ast.Call):
        said = ast.unparse(node.func)
        if said in ("datetime.date", "datetime.datetime"):
            return getattr(datetime, said.partition(".")[2])(*map(ast.literal_eval, node.args))
        if said == "float" and len(node.args) == 1:
            return float(ast.literal_eval(node.args[0]))
    if isinstance(node, ast.Tuple):
        return tuple(map(_value, node.elts))
    return ast.literal_eval(node)


def _type(value: Any) -> str:
    """Return the class of param for a value."""
    if isinstance(value, tuple):
        if len(value) == 2 and all(isinstance(item, datetime.date) for item in value):
            return "DateRange" if isinstance(value[0], datetime.datetime) else "CalendarDateRange"
        return "List"
    if isinstance(value, datetime.datetime):
        return "Date"
    if isinstance(value, datetime.date):
        return "CalendarDate"
    return "String" if value is None else _DECLARED[type(value)]


def _declaration(setting: Setting) -> str:
    value: Any = setting.default
    if setting.type in ("List", "ListSelector"):
        shown = f"[{', '.join(map(literal, value))}]"
    else:
        shown = json_literal(value) if setting.type == "Dict" else literal(value)
    empty = ", allow_None=True" if value is None else ""
    limits = f", {setting.limits}" if setting.limits else ""
    doc = f", doc={quoted(setting.doc)}" if setting.doc else ""
    named = "default=" if "Selector" in setting.type else ""
    return f"{setting.name} = param.{setting.type}({named}{shown}{limits}{empty}{doc})"


def _kinds(
    suffixes: Mapping[str, str], units: Mapping[str, Mapping[str, str]], context: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield kinds of the app's own, as ``[tool.agilab.kinds]`` declares them."""
    as_json = re.search(r"elif kind in (\([^)]*\)) and", context)
    like_json = ast.literal_eval(as_json[1]) if as_json else ()
    for name, suffix in suffixes.items():
        if name not in KINDS:
            if not NAME_PATTERN.fullmatch(name) or not re.fullmatch(r"\.[\w.]{1,20}", suffix):
                raise ValueError("no kind")
            comparison = "json" if name in like_json else "table" if suffix == ".parquet" else "bytes"
            columns = {str(column): str(unit) for column, unit in units.get(name, {}).items()}
            yield name, {"suffix": suffix, "comparison": comparison, **({"columns": columns} if columns else {})}


def _requires(first: str) -> tuple[str, ...]:
    """Return the dependencies that the inline metadata of a script names (PEP 723), without markers of its own."""
    header = _HEADER.search(first)
    if header is None:
        raise ValueError("no header")
    return tuple(re.findall(r'(?m)^#     "([^"\\]{1,300})",$', header[1]))


def _worker(name: str, first: ast.Module, texts: Sequence[str], stages: Sequence[str]) -> str:
    """Return the worker package: its text in one module, its class whole again."""
    own: list[str] = []
    given: list[str] = []
    for text in texts:
        given += [error for error in _ERRORS.findall(text) if hasattr(errors, error)]
        text = _ERRORS.sub("", text)
        again = _OPENED_AGAIN.match(text)
        if again and again[1] == again[2]:
            own[_holder(own, again[1])] = _joined(own[_holder(own, again[1])], again[1], text[again.end() :])
        else:
            own.append(text)
    code = "\n\n\n".join(text.strip("\n") for text in own)
    tree = ast.parse(code)
    if f"{title(name)}Worker" not in _defined(tree):
        raise ValueError("no worker")
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    given = sorted({*given, *(word for word in _GIVEN if word in used)})
    lines = [f'"""The work of {name}: {", ".join(stages)}."""', ""]
    if any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in first.body):
        lines += ["from __future__ import annotations", ""]
    needed = flow.names_of(tree.body).reads | used
    lines += [line for node in first.body if (line := _import(node, needed))]
    lines += [f"from agilab.{'errors' if hasattr(errors, one) else 'worker'} import {one}" for one in given]
    return "\n".join([*lines, "", "", code]) + "\n"


def _import(node: ast.stmt, needed: set[str]) -> str:
    """Return an import of the first cell, as far as the worker needs it."""
    if isinstance(node, ast.Import):
        names = [alias for alias in node.names if (alias.asname or alias.name) in needed]
        return ast.unparse(ast.Import(names=names)) if names else ""
    if isinstance(node, ast.ImportFrom) and node.module != "__future__":
        names = [alias for alias in node.names if (alias.asname or alias.name) in needed]
        return ast.unparse(ast.ImportFrom(module=node.module, names=names, level=0)) if names else ""
    return ""


def _holder(own: Sequence[str], name: str) -> int:
    """Return which piece has the class of a name."""
    return next(at for at, text in enumerate(own) if re.search(rf"(?m)^class {re.escape(name)}\(", text))


def _joined(text: str, name: str, body: str) -> str:
    """Return a piece whose class goes on with more of its body."""
    owner = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name)
    lines = text.split("\n")
    kept = lines[: owner.end_lineno]
    if len(owner.body) == 1 and isinstance(owner.body[0], ast.Pass):
        kept = kept[: owner.body[0].lineno - 1]
    between = [""] if kept[-1].strip() and not kept[-1].startswith("class ") else []
    return "\n".join([*kept, *between, body.strip("\n"), *lines[owner.end_lineno :]])


def _stage(stage: str, plan: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of a stage in the manager's plan."""
    parts = plan[stage]
    read = [key.partition("/")[0] for part in parts for key in part[3]]
    after = [one for one in plan if one in read]
    waits = f", after=({', '.join(map(quoted, after))}{',' * (len(after) == 1)})" if after else ""
    if len(parts) == 1 and parts[0][3] == [f"{one}/*" for one in after] and after:
        yield f"                agilab.Stage({quoted(stage)}{waits}),"
        return
    yield f"                agilab.Stage({quoted(stage)}, ["
    for ident, params, files, made in parts:
        refs = [f"agilab.InputRef({quoted(name)}, {quoted(path)})" for name, path in files.items()]
        refs += [f"agilab.ArtifactRef({', '.join(map(quoted, key.split('/', 2)))})" for key in made]
        given = f", params={json_literal(params)}" if params else ""
        begin = f"                    agilab.Partition({quoted(ident)}{given}"
        inputs = f", inputs=[{', '.join(refs)}]" if refs else ""
        if len(begin) + len(inputs) <= LONGEST_LINE:
            yield f"{begin}{inputs}),"
        else:
            yield f"{begin}, inputs=["
            yield from (f"                        {ref}," for ref in refs)
            yield "                    ]),"
    yield f"                ]{waits}),"
