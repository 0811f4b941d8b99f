"""Whether an app project keeps its contract: every breach with file, line and what to do; no app code is run for it.

What only running code can tell, its settings and stages, is handed in by
whoever has asked the app.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agilab import codec, syntax, toml
from agilab.declaration import Breach, Pyproject, read_pyproject, unknown_keys
from agilab.dependencies import undeclared
from agilab.errors import ProjectError, SettingError
from agilab.package import RUNTIME_MODULES
from agilab.project import GROUP, Project, unreadable
from agilab.worker import Worker

if TYPE_CHECKING:
    from packaging.requirements import Requirement

AGILAB_KEYS = ("uuid", "app", "worker", "data", "kinds")
"""What ``[tool.agilab]`` may say."""
UI_DISTRIBUTIONS = frozenset(
    {"bokeh", "dash", "geoviews", "gradio", "holoviews", "hvplot", "ipywidgets", "jupyterlab", "nicegui", "notebook"}
    | {"panel", "pyqt5", "pyqt6", "pyside6", "shiny", "solara", "streamlit", "taipy", "textual", "voila"}
)
"""What draws: no worker has a screen, and each of these makes its environment large."""
_OURS = frozenset({"agilab", "agilab-holoviz"})


def check(
    project: Project,
    *,
    fields: Sequence[codec.Field] | None = None,
    stages: Sequence[str] | None = None,
    environment: Path | None = None,
) -> tuple[Breach, ...]:
    """Return every way in which a project breaks its contract; empty when it keeps it.

    Parameters
    ----------
    project
        From `agilab.project.locate`, which gives broken ones too.
    fields
        Its settings, as the planner reports them; without, they are not checked.
    stages
        The stages of its plan; without, those that the source names literally are checked.
    environment
        Its worker environment, made from the worker's dependencies as they
        are now; without, what the worker imports is compared with them by name.
    """
    found = list(project.breaches)
    pyproject = read_pyproject(project.pyproject)
    if isinstance(pyproject, Pyproject):
        found += _pyproject(project, pyproject)
        found += _missing(project, pyproject)
    found += _worker_manifest(project)
    found += _sources(project, stages, environment)
    found += _settings_file(project, fields)
    found += _settings(project, fields or ())
    return tuple(dict.fromkeys(found))


def missing_dependencies(project: Project) -> tuple[str, ...]:
    """Return the manager requirements that this Python does not meet; free when the project has none."""
    return tuple(text for text in project.dependencies if _reason(text))


def require_dependencies(project: Project) -> None:
    """Raise unless every manager requirement is met.

    Raises
    ------
    ProjectError
        The breach, with the pip command that mends it.
    """
    if project.dependencies and missing_dependencies(project):
        pyproject = read_pyproject(project.pyproject)
        breaches = _missing(project, pyproject) if isinstance(pyproject, Pyproject) else []
        raise ProjectError(str(breaches[0]) if breaches else f"{project.pyproject} has changed; try again")


# --- the project's own pyproject.toml ------------------------------------------


def _pyproject(project: Project, pyproject: Pyproject) -> Iterator[Breach]:
    yield from unknown_keys(pyproject, "tool.agilab", AGILAB_KEYS)
    yield from _python(pyproject, here=True)
    if not project.license:
        fix = 'write license = "BSD-3-Clause" or another SPDX expression (LicenseRef-Proprietary for none)'
        yield pyproject.breach(("project", "license"), "no license in [project], which every run's record names", fix)
    points = pyproject.table("project", "entry-points", GROUP)
    table = f"project.entry-points.{GROUP}"
    if points and project.app_class and points.get(project.name) != project.app_class:
        fix = f'write {project.name} = "{project.app_class}"'
        yield pyproject.breach((table, project.name), f"the entry point does not name {project.app_class}", fix)
    included = pyproject.table("tool", "hatch", "build", "targets", "wheel", "force-include").values()
    by_hatch = pyproject.text_at("build-system", "build-backend") == "hatchling.build"
    wanted = f"{project.name}/_project/pyproject.toml"
    if points and by_hatch and wanted not in included:
        fix = f'write "pyproject.toml" = "{wanted}" under [tool.hatch.build.targets.wheel.force-include]'
        yield pyproject.breach(
            (table, ""), "the wheel would not carry this file, so that nobody could find the app", fix
        )


def _python(pyproject: Pyproject, *, here: bool) -> Iterator[Breach]:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    where, fix = ("project", "requires-python"), 'write requires-python = ">=3.11"'
    text = pyproject.text_at("project", "requires-python")
    try:
        allowed = SpecifierSet(text)
    except InvalidSpecifier:
        yield pyproject.breach(where, f"requires-python {text!r:.60} is not a version specifier", fix)
        return
    version = ".".join(map(str, sys.version_info[:3]))
    if not text:
        yield pyproject.breach(where, "no requires-python in [project]", fix)
    elif here and not allowed.contains(version, prereleases=True):
        message = f"this is Python {version}, and the project requires {text}"
        yield pyproject.breach(where, message, "install AGILAB in a Python that fits, or widen it")


def _missing(project: Project, pyproject: Pyproject) -> list[Breach]:
    import shlex

    unmet = [(text, reason) for text in project.dependencies if (reason := _reason(text))]
    install = f"run: pip install {' '.join(shlex.quote(text) for text, _ in unmet)}"
    return [
        Breach(pyproject.path, pyproject.line_with(text), f"manager dependency {text!r:.100} {reason}", fix)
        for text, reason in unmet
        for fix in [f"write it as {'numpy>=2'!r}" if reason == _INVALID else install]
    ]


_INVALID = "is not a requirement"


def _reason(text: str) -> str:
    """Return why a requirement is not met by this Python; empty when it is, or does not apply."""
    from importlib.metadata import PackageNotFoundError, distribution

    requirement = _requirement(text)
    if requirement is None:
        return _INVALID
    if requirement.marker and not requirement.marker.evaluate():
        return ""
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        return "is not installed"
    if not requirement.specifier.contains(found.version, prereleases=True):
        return f"is installed as {found.version}"
    wanted = [
        needed
        for extra in requirement.extras
        for item in found.requires or ()
        if (needed := _requirement(item)) and needed.marker
        if needed.marker.evaluate({"extra": extra}) and not needed.marker.evaluate({"extra": ""})
    ]
    for needed in wanted:
        needed.marker = None
        if _reason(str(needed)):
            return f"lacks {str(needed)!r:.60} of its extras"
    return ""


def _requirement(text: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


# --- the worker ------------------------------------------------------------------


def _worker_manifest(project: Project) -> Iterator[Breach]:
    if not project.worker.is_dir():
        return
    if not project.worker_pyproject.is_file():
        message = "no pyproject.toml in the worker package, so that its environment is not known"
        fix = "write [project] with name, version, requires-python and dependencies = []"
        yield Breach(project.worker_pyproject, 1, message, fix)
        return
    pyproject = read_pyproject(project.worker_pyproject)
    if isinstance(pyproject, Breach):
        yield pyproject
        return
    yield from _python(pyproject, here=False)
    required = pyproject.table("project").get("dependencies", [])
    if not isinstance(required, list):
        yield pyproject.breach(("project", "dependencies"), "dependencies is not a list", "write dependencies = []")
        return
    for item in required:
        line = pyproject.line_with(str(item))
        requirement = _requirement(item) if isinstance(item, str) else None
        name = re.sub(r"[-_.]+", "-", requirement.name).lower() if requirement else ""
        if requirement is None:
            message = f"worker dependency {item!r:.100} {_INVALID}"
            yield Breach(pyproject.path, line, message, "write it as 'numpy>=2'")
        elif name in _OURS:
            message = f"worker dependency {item!r:.100}: the runtime is put beside worker code by AGILAB itself"
            yield Breach(pyproject.path, line, message, "leave it out")
        elif name in UI_DISTRIBUTIONS:
            message = f"worker dependency {item!r:.100} is a user interface, and workers have none"
            yield Breach(pyproject.path, line, message, f"leave it out, or move it to {project.pyproject}")


def _sources(project: Project, stages: Sequence[str] | None, environment: Path | None) -> Iterator[Breach]:
    modules: list[syntax.Module] = []
    for package, is_worker in ((project.manager, False), (project.worker, True)):
        for path, name in syntax.source_files(package):
            try:
                module = syntax.parse(path, name)
            except SyntaxError as err:
                yield unreadable(path, err)
                continue
            modules.append(module)
            yield from _imports(project, module) if is_worker else ()
    yield from _undeclared(project, modules, environment)
    yield from _declared_classes(project, modules)
    yield from _stages(project, modules, stages)


def _imports(project: Project, module: syntax.Module) -> Iterator[Breach]:
    for name, line in syntax.imports(module):
        top, _, rest = name.partition(".")
        if top == project.name:
            message = f"the worker imports its manager package {project.name}, which is not there at run time"
            yield Breach(module.path, line, message, "move what both need into the worker package")
        elif not top:
            message = f"the relative import of {rest or name!r} leaves the worker package"
            yield Breach(module.path, line, message, "import from the worker package only")
        elif top == "agilab" and (wrong := _outside_runtime(rest)):
            message = f"the worker imports {wrong} of agilab, which stays with the manager"
            allowed = ", ".join(name for name in RUNTIME_MODULES if name not in ("entry", "paths"))
            yield Breach(module.path, line, message, f"use Worker, and modules {allowed}")


def _undeclared(project: Project, modules: Sequence[syntax.Module], environment: Path | None) -> Iterator[Breach]:
    """Yield what either side imports without declaring it: it may be here, and is missing elsewhere."""
    worker = f"{project.name}_worker"
    own = (project.name, worker, "agilab")
    halves: tuple[tuple[str, Path, str, tuple[str, ...], Path | None], ...] = (
        ("manager", project.pyproject, project.name, ("agilab-holoviz",), None),
        ("worker", project.worker_pyproject, worker, (), environment),
    )
    for half, path, package, given, made in halves:
        pyproject = read_pyproject(path) if path.is_file() else None
        if not isinstance(pyproject, Pyproject) or "dependencies" in pyproject.table("project").get("dynamic", ()):
            continue
        required = pyproject.table("project").get("dependencies", [])
        if not isinstance(required, list):
            continue
        texts = [*given, *(text for text in required if isinstance(text, str))]
        sources = [module for module in modules if module.name.partition(".")[0] == package]
        for item in undeclared(sources, texts, own=own, environment=made):
            message = f"the {half} imports {item.name}, which none of its dependencies provides"
            yield Breach(item.path, item.line, message, f'add "{item.distribution}" to dependencies in {path}')


def _outside_runtime(rest: str) -> str:
    from agilab import _HOMES

    name = rest.partition(".")[0]
    home = _HOMES.get(name, name)
    return "" if not name or home in RUNTIME_MODULES else name


def _declared_classes(project: Project, modules: Sequence[syntax.Module]) -> Iterator[Breach]:
    known = {module.name for module in modules}
    for key, declared in (("app", project.app_class), ("worker", project.worker_class)):
        module_name = declared.partition(":")[0]
        if declared and module_name not in known:
            fix = f"write it, or correct {key} = {declared!r} under [tool.agilab]"
            yield Breach(project.pyproject, 1, f"no module {module_name} in the project", fix)


def _stages(project: Project, modules: Sequence[syntax.Module], stages: Sequence[str] | None) -> Iterator[Breach]:
    module_name, _, class_name = project.worker_class.partition(":")
    module = next((item for item in modules if item.name == module_name), None)
    if module is None:
        return
    methods, complete = syntax.methods(module, class_name, base="Worker")
    here = {name: node for name, node in methods.items() if not name.startswith("_") and not hasattr(Worker, name)}
    named = {
        name: (item.path, line)
        for item in modules
        if not item.name.startswith(f"{project.name}_worker")
        for name, line in syntax.literal_stages(item)
    }
    for stage in named if stages is None else stages:
        path, line = named.get(stage, (project.manager / "__init__.py", 1))
        if stage.startswith("_") or hasattr(Worker, stage):
            fix = "choose a name that begins with a letter and is not one of Worker's own"
            yield Breach(path, line, f"stage {stage!r:.60} has a name no stage method can have", fix)
        elif stage in here:
            yield from _signature(module.path, here[stage])
        elif complete:
            known = f"it has {', '.join(here)}" if here else "it has none"
            message = f"{class_name} has no method for stage {stage!r:.60}; {known}"
            yield Breach(module.path, 1, message, f"write `def {stage}(self, part)` there")
    if complete and not here and not named and not stages:
        yield Breach(module.path, 1, f"{class_name} has no stage method", "write one method per stage of the plan")


def _signature(path: Path, node: syntax.Function) -> Iterator[Breach]:
    import ast

    given = node.args
    needed = len(given.posonlyargs + given.args) - len(given.defaults)
    enough = len(given.posonlyargs + given.args) >= 2 or given.vararg is not None
    plain = not any(
        isinstance(item, ast.Name) and item.id in ("staticmethod", "property") for item in node.decorator_list
    )
    if isinstance(node, ast.AsyncFunctionDef) or needed > 2 or not enough or not plain:
        message = f"stage method {node.name} cannot be called with one partition"
        yield Breach(path, node.lineno, message, f"write `def {node.name}(self, part)`")


# --- settings ----------------------------------------------------------------------


def _settings_file(project: Project, fields: Sequence[codec.Field] | None) -> Iterator[Breach]:
    path = project.settings_file
    try:
        file = toml.read_toml(path)
    except SettingError as err:
        found = re.match(
            rf"{re.escape(str(path))}(?::(\d+))?(?::\d+)? (.*)|(.*) \({re.escape(str(path))}:(\d+)\)", str(err)
        )
        line, said = (found[1] or found[4], found[2] or found[3]) if found else (None, str(err))
        message, _, fix = said.rpartition("; ")
        yield Breach(path, int(line or 1), message or fix, fix if message else "correct this line")
        return
    for name, value in file.tables.get("settings", {}).items() if fields is not None else ():
        try:
            codec.validate_some(fields or (), {name: value})
        except SettingError as err:
            message, _, fix = str(err).partition("; ")
            yield Breach(path, file.lines.get(f"settings.{name}", 1), message, fix or "correct this line")


def _settings(project: Project, fields: Iterable[codec.Field]) -> Iterator[Breach]:
    problems: list[tuple[str, str, str]] = []
    for name, field in codec.leaves(tuple(fields)):
        if not field.doc:
            problems.append((name, f"setting {name!r} has no doc", 'say what it is: doc="Time between points [s]"'))
        if field.type in ("integer", "number") and not {"min", "max"} & field.constraints.keys():
            problems.append((name, f"setting {name!r} has no bounds", "give what is possible: bounds=(0, None)"))
    if problems:
        line_of = _lines(project)
        for name, message, fix in problems:
            yield Breach(*line_of(name.rpartition(".")[2]), message, fix)


def _lines(project: Project) -> Callable[[str], tuple[Path, int]]:
    """Return a function from a setting's name to the file and line that declare it."""
    modules: list[syntax.Module] = []
    for path, name in syntax.source_files(project.manager):
        try:
            modules.append(syntax.parse(path, name))
        except SyntaxError:  # named by the check of sources
            continue

    def line_of(name: str) -> tuple[Path, int]:
        places = ((module.path, syntax.assignment_line(module, name)) for module in modules)
        return next(((path, line) for path, line in places if line), (project.manager / "__init__.py", 1))

    return line_of
