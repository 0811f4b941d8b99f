"""App projects: where they are, what they say about themselves, and the first thing that is wrong with them.

Reading a project never imports or runs its code: TOML is read as data, class
names come from the syntax tree. The whole contract is checked by `contract`,
new projects are written by `template`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import agilab
from agilab import digest, syntax
from agilab.declaration import (
    LARGEST_TOML_BYTES,
    Breach,
    Pyproject,
    data_breaches,
    identity_breaches,
    kind_breaches,
    one_line,
    read_pyproject,
    uuid_of,
)
from agilab.errors import ProjectError, ProjectNotFoundError

GROUP = "agilab.apps"
"""Entry-point group by which installed apps are found."""
GIT_TIMEOUT_S = 2.0
"""Longest time git may take to describe a project [s]."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
_RESERVED = frozenset({"agilab", "agilab_dashboards", "test", "tests"})
_ENDINGS = ("_project", "_worker", "_views")
_INSTALLED = "_project"
"""Folder inside an installed manager package that holds the project's own pyproject.toml and README.md."""
_LARGEST_ENTRY_POINTS_BYTES = 1 << 16

Places = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """An app project, as its files describe it.

    Parameters
    ----------
    root
        Folder of the project's ``pyproject.toml``; `App.inputs` is relative to it unless `data` says otherwise.
    name
        The app's name and that of its manager package.
    uuid
        Who the app is, whatever it is called and wherever it lies.
    version, description, license
        From ``[project]``; the licence as an SPDX expression, empty when it does not say.
    source
        How it was found: ``path``, ``current``, ``AGILAB_APPS``, ``installed`` or ``shipped``.
    writable
        Whether AGILAB may write into it (worker lock); shipped and installed projects are read only.
    manager, worker
        The two packages.
    settings_file
        Settings that ship; it need not exist.
    app_class, worker_class
        ``module:Class``.
    dependencies
        Requirements of the manager package.
    data
        ``[tool.agilab.data]``, or None.
    kinds
        ``[tool.agilab.kinds]``: the app's own kinds of artifact.
    breaches
        Why `find` refuses it; the fields above are empty where they could not be read.
    """

    root: Path
    name: str
    uuid: str = ""
    version: str = ""
    description: str = ""
    license: str = ""
    source: str = "path"
    writable: bool = True
    manager: Path
    worker: Path
    settings_file: Path
    app_class: str = ""
    worker_class: str = ""
    dependencies: tuple[str, ...] = ()
    data: Mapping[str, Any] | None = None
    kinds: Mapping[str, Mapping[str, Any]]
    breaches: tuple[Breach, ...] = ()

    @property
    def pyproject(self) -> Path:
        return self.root / "pyproject.toml"

    @property
    def views(self) -> Path:
        """The package of the app's own views; it need not exist."""
        return self.manager.parent / f"{self.name}_views"

    @property
    def worker_pyproject(self) -> Path:
        return self.worker / "pyproject.toml"

    def manager_digest(self) -> str:
        """Return the digest of the manager package: the same in a checkout and where its wheel is installed."""
        return digest.of_tree(self.manager, skip=_INSTALLED)  # what a wheel adds to the package does not count

    def git(self) -> dict[str, Any] | None:
        """Return commit and whether the project differs from it; None where git does not keep the project."""
        kept = any((above / ".git").exists() for above in (self.root, *self.root.parents))
        return _git_state(self.root) if kept and self.root.name != _INSTALLED else None

    def to_json(self) -> dict[str, Any]:
        """Return what a list of apps shows."""
        shown = ("name", "uuid", "version", "description", "license", "source", "writable", "app_class", "worker_class")
        return {
            **{key: getattr(self, key) for key in shown},
            "root": str(self.root),
            "breaches": [str(breach) for breach in self.breaches],
        }


# --- finding -----------------------------------------------------------------


class _Place(NamedTuple):
    root: Path
    source: str


def find(
    name_or_path: str | Path,
    *,
    apps_path: Places | None = None,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Project:
    """Return the app project of that name or at that path.

    Parameters
    ----------
    name_or_path
        A name, or the path of a project's folder (it holds a slash, is a `Path`, or is ``.``).
    apps_path
        Folders that are or hold projects, looked at before AGILAB_APPS; one text may hold several, as PATH does.
    cwd, environ
        Instead of the process's own.

    Returns
    -------
    Project
        One that can be planned and run, as far as its files tell.

    Raises
    ------
    ProjectNotFoundError
        There is none; the message names a near match.
    ProjectError
        It breaks its contract, or two different projects have that name.

    Notes
    -----
    A path means that project and nothing else. A name is looked up in every
    place, since two projects of one name and different uuid are an error;
    with one uuid, the earlier place wins.
    """
    project = locate(name_or_path, apps_path=apps_path, cwd=cwd, environ=environ)
    if not project.breaches:
        return project
    more = len(project.breaches) - 1
    rest = f" (and {more} more: `agilab check {_quoted(project.root)}`)" if more else ""
    raise ProjectError(f"{project.breaches[0]}{rest}")


def locate(
    name_or_path: str | Path,
    *,
    apps_path: Places | None = None,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Project:
    """Return the project like `find`, also a broken one; its `breaches` say why."""
    here = _current(cwd)
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, Path) or os.sep in text or text in (".", ".."):
        return _at(_absolute(text, here))
    name = text.removesuffix("_project")
    looked = _look(apps_path, here, os.environ if environ is None else environ)
    places = list(_places(looked, name)) if _NAME.fullmatch(name) else []
    if not places:
        raise _unknown(text, looked)
    # A folder that has our name but does not speak of AGILAB must not hide one that does.
    chosen = next((place for place in places if _declares(place.root)), places[0])
    project = read(chosen.root, source=chosen.source)
    for place in places:
        other = _uuid(place.root) if place is not chosen else ""
        if project.uuid and other and other != project.uuid:
            said = _two_of_one_name(project.root, place.root, name)
            raise ProjectError(f"{said}; rename one of them, or give the path of the one you mean")
    return project


def find_all(
    *,
    apps_path: Places | None = None,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[Project, ...]:
    """Return every app project there is, by name; broken ones too, with what is wrong in `breaches`.

    Of projects with one name and one uuid the earliest in search order is
    listed; of those with one name and different uuid each, and both say so.
    """
    environ = os.environ if environ is None else environ
    found: dict[tuple[str, str], Project] = {}
    for place in _places(_look(apps_path, _current(cwd), environ), ""):
        project = read(place.root, source=place.source)
        found.setdefault((project.name, project.uuid), project)
    names: dict[str, list[Project]] = {}
    for project in sorted(found.values(), key=lambda item: item.name):
        names.setdefault(project.name, []).append(project)
    return tuple(_marked(project, same) for same in names.values() for project in same)


def shipped_apps(package: Path | None = None) -> Path:
    """Return the folder of the apps that ship: inside an installed AGILAB, or at the root of its checkout."""
    package = package or Path(agilab.__file__).parent
    inside, beside = package / "_apps", package.parent / "apps"
    is_checkout = not inside.is_dir() and (package.parent / "pyproject.toml").is_file()
    return beside if is_checkout else inside


def name_problem(name: str) -> str:
    """Return why an app may not have that name; empty when it may."""
    import keyword

    if not _NAME.fullmatch(name):
        return "use up to 50 lower case letters, digits and _, with a letter first"
    if name.endswith(_ENDINGS):
        return "leave the ending off: _project, _worker and _views are added to an app's name"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in sys.stdlib_module_names or name in _RESERVED:
        return "Python or AGILAB has a module or word of that name; choose another"
    return ""


class _Look(NamedTuple):
    """Where to look: folders with the source they stand for, the current folder first."""

    folders: list[tuple[Path, str]]
    missing: list[str]


def _look(apps_path: Places | None, here: Path | None, environ: Mapping[str, str]) -> _Look:
    folders = [(folder, "current") for folder in (here, *here.parents)] if here else []
    missing: list[str] = []
    variable = environ.get("AGILAB_APPS", "").split(os.pathsep)
    for source, label, given in (("path", "apps_path", _split(apps_path)), ("AGILAB_APPS", "AGILAB_APPS", variable)):
        for text in filter(None, given):
            folder = _absolute(text, here)
            folders.append((folder, source))
            if not folder.is_dir():
                missing.append(f"{label} names {folder}, which is not a folder")
    return _Look(folders, missing)


def _split(places: Places | None) -> list[str]:
    if isinstance(places, str):
        return places.split(os.pathsep)
    if isinstance(places, Path):
        return [str(places)]
    return [str(place) for place in places or ()]


def _current(cwd: Path | None) -> Path | None:
    try:
        return Path(os.path.normpath((cwd or Path()).absolute()))
    except FileNotFoundError:  # the folder has been removed under us
        return None


def _absolute(text: str, here: Path | None) -> Path:
    """Return a path as it was meant; links stay as they are, since a folder's name is the app's."""
    path = Path(text)
    with suppress(RuntimeError):  # a home that nobody has
        path = path.expanduser()
    return Path(os.path.normpath((here or Path()) / path))


def _places(looked: _Look, name: str) -> Iterator[_Place]:
    """Yield where projects are, in search order and each once; only those of one name, unless it is empty."""
    seen: set[Path] = set()
    for place in _every_place(looked, name):
        real = place.root.resolve()
        if real not in seen:
            seen.add(real)
            yield place


def _every_place(looked: _Look, name: str) -> Iterator[_Place]:
    for folder, source in looked.folders:
        is_project = folder.name == f"{name}_project" if name else folder.name.endswith("_project")
        if is_project and (folder / "pyproject.toml").is_file() and (name or _declares(folder)):
            yield _Place(folder, source)
        yield from (_Place(root, source) for root in _below(folder, name) if _is_safe(folder, root, source))
    yield from (_Place(root, "installed") for root in _installed(name))
    yield from (_Place(root, "shipped") for root in _below(shipped_apps(), name))


def _below(folder: Path, name: str) -> list[Path]:
    """List the projects in a folder: with a name whatever is called so, else what declares itself."""
    if name:
        root = folder / f"{name}_project"
        return [root] if (root / "pyproject.toml").is_file() else []
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith("_project"))
    except (OSError, ValueError):  # missing, not ours to read, or no path at all
        return []
    return [folder / name for name in names if _declares(folder / name)]


def _is_safe(holder: Path, root: Path, source: str) -> bool:
    """Whether nobody else may have put the project where we only happen to be, such as below /tmp."""
    if source != "current" or not holder.stat().st_mode & 0o002:
        return True
    return root.stat().st_uid in (0, os.getuid())


def _installed(name: str) -> Iterator[Path]:
    """Yield the project folders of installed apps, without importing any of them.

    Reading every entry point by importlib.metadata costs ten times as much,
    and importing it more than all the rest: so the files are looked at first.
    """
    for folder in dict.fromkeys(filter(None, sys.path)):
        try:
            with os.scandir(folder) as entries:
                infos = sorted(entry.path for entry in entries if entry.name.endswith(".dist-info"))
        except OSError:  # a zip file, or not there
            continue
        for info in infos:
            try:
                with open(os.path.join(info, "entry_points.txt"), "rb") as file:
                    declared = GROUP.encode() in file.read(_LARGEST_ENTRY_POINTS_BYTES)
            except OSError:  # most distributions have none
                continue
            if declared:
                yield from _installed_by(Path(info), name)


def _installed_by(info: Path, name: str) -> Iterator[Path]:
    from importlib.metadata import Distribution

    for point in Distribution.at(info).entry_points.select(group=GROUP):
        if point.name == (name or point.name) and _NAME.fullmatch(point.name):
            package = info.parent / point.name
            yield package / _INSTALLED if package.is_dir() else _editable(point.name) or package / _INSTALLED


def _editable(name: str) -> Path | None:
    """Return the project folder of an app installed in place; its package lies elsewhere on the path."""
    from importlib.util import find_spec

    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):  # a finder that does not know it
        return None
    for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
        if folder.parent.name == "src" and (folder.parent.parent / "pyproject.toml").is_file():
            return folder.parent.parent
    return None


def _at(path: Path) -> Project:
    if (path / "pyproject.toml").is_file():
        return read(path)
    if not path.is_dir():
        raise ProjectNotFoundError(f"no folder {path}; give an app's name, or the folder of an app project")
    inside = ", ".join(root.name for root in _below(path, "")[:5])
    more = f"give one of those it holds: {inside}" if inside else "an app project has a pyproject.toml"
    raise ProjectNotFoundError(f"{path} is not an app project; {more}")


def _unknown(text: str, looked: _Look) -> ProjectNotFoundError:
    import difflib

    names = sorted({_layout(place.root)[0] for place in _places(looked, "")})
    near = difflib.get_close_matches(text.lower().replace("-", "_").removesuffix("_project"), names, 1, 0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    missing = "".join(f"; {note}" for note in looked.missing)
    shown = repr(text if len(text) <= 80 else f"{text[:80]}...")
    listed = "`agilab apps` lists what there is"
    return ProjectNotFoundError(f"no app project {shown}; {hint}{listed}{missing}")


def _declares(root: Path) -> bool:
    """Whether a folder's ``pyproject.toml`` speaks of AGILAB; it need not be valid, so that a typo stays visible."""
    try:
        with open(root / "pyproject.toml", "rb") as file:
            return b"tool.agilab" in file.read(LARGEST_TOML_BYTES)
    except OSError:
        return False


def _uuid(root: Path) -> str:
    toml = read_pyproject(root / "pyproject.toml")
    return uuid_of(toml) if isinstance(toml, Pyproject) else ""


def _marked(project: Project, same: Sequence[Project]) -> Project:
    other = next((item for item in same if item.uuid and project.uuid and item.uuid != project.uuid), None)
    if other is None:
        return project
    message = _two_of_one_name(project.root, other.root, project.name)
    return replace(project, breaches=(*project.breaches, Breach(project.pyproject, 1, message, "rename one of them")))


def _two_of_one_name(one: Path, other: Path, name: str) -> str:
    return one_line(f"two different app projects (by uuid) are called {name!r}: {one} and {other}")


# --- reading -----------------------------------------------------------------


def read(root: Path, *, source: str = "path") -> Project:
    """Read the project in a folder; what is wrong with it is in its `breaches`, nothing is raised."""
    root = Path(os.path.normpath(root.absolute()))
    name, manager, worker = _layout(root)
    toml = read_pyproject(root / "pyproject.toml")
    breaches = [toml] if isinstance(toml, Breach) else _toml_breaches(toml)
    if isinstance(toml, Breach):
        toml = Pyproject(root / "pyproject.toml", "", {})
    if problem := name_problem(name):
        message = f"folder {root.name!r:.80} does not make an app's name"
        breaches.insert(0, Breach(toml.path, 1, message, f"call it <name>_project; {problem}"))
    classes = {}
    for base, package in (("App", manager), ("Worker", worker)):
        found = _class(package, base, toml) if not problem else ""
        if isinstance(found, Breach):
            breaches.append(found)
        classes[base] = "" if isinstance(found, Breach) else found
    tool, project = toml.table("tool", "agilab"), toml.table("project")
    required = project.get("dependencies", [])
    kinds = toml.table("tool", "agilab", "kinds")
    return Project(
        root=root,
        name=name,
        uuid=uuid_of(toml),
        version=toml.text_at("project", "version"),
        description=toml.text_at("project", "description"),
        license=_license(project),
        source=source,
        writable=_is_writable(root, source),
        manager=manager,
        worker=worker,
        settings_file=manager / "app_settings.toml",
        app_class=classes["App"],
        worker_class=classes["Worker"],
        dependencies=tuple(item for item in required if isinstance(item, str)) if isinstance(required, list) else (),
        data=toml.table("tool", "agilab", "data") if "data" in tool else None,
        kinds={key: kind for key, kind in kinds.items() if isinstance(kind, Mapping)},
        breaches=tuple(breaches),
    )


def _toml_breaches(toml: Pyproject) -> list[Breach]:
    return [*identity_breaches(toml), *data_breaches(toml), *kind_breaches(toml)]


def _layout(root: Path) -> tuple[str, Path, Path]:
    """Return name, manager package and worker package: as in a checkout, or as a wheel installs them."""
    if root.name == _INSTALLED:
        manager = root.parent
        return manager.name, manager, manager.with_name(f"{manager.name}_worker")
    name = root.name.removesuffix("_project") if root.name.endswith("_project") else ""
    return name, root / "src" / name, root / "src" / f"{name}_worker"


def _class(package: Path, base: str, toml: Pyproject) -> str | Breach:
    """Return ``module:Class`` of the class that derives from App or Worker, as declared or as found in the source."""
    key, init = base.lower(), package / "__init__.py"
    if not init.is_file():
        what = "manager" if base == "App" else "worker"
        fix = f"write it, with a class that derives from agilab.{base}; `agilab new` shows one"
        return Breach(init, 1, f"no {what} package {package.name}", fix)
    declared = toml.table("tool", "agilab").get(key)
    if declared is not None:
        allowed = rf"{package.name}(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
        if isinstance(declared, str) and re.fullmatch(allowed, declared, re.ASCII):
            return declared
        message = f"{key} = {declared!r:.80} does not name a class of package {package.name}"
        return toml.breach(("tool.agilab", key), message, f'write {key} = "{package.name}:ClassName", or leave it out')
    for path, module_name in syntax.source_files(package):
        try:
            module = syntax.parse(path, module_name)
        except SyntaxError as err:
            return unreadable(path, err)
        classes = syntax.derived_classes(module, base)
        if len(classes) > 1:
            names = ", ".join(node.name for node in classes)
            message = f"{len(classes)} classes derive from agilab.{base}: {names}"
            fix = f'name one: {key} = "{module_name}:{classes[0].name}" under [tool.agilab]'
            return Breach(path, classes[1].lineno, message, fix)
        if classes:
            return f"{module_name}:{classes[0].name}"
    name = "".join(part.capitalize() for part in package.name.split("_"))
    return Breach(init, 1, f"no class derives from agilab.{base}", f"write class {name}({base}) there")


def unreadable(path: Path, error: SyntaxError) -> Breach:
    """Return the breach for source that this Python cannot parse."""
    version = ".".join(map(str, sys.version_info[:2]))
    return Breach(path, error.lineno or 1, f"Python {version} cannot read it: {error.msg}", "correct this line")


def _license(project: Mapping[str, Any]) -> str:
    """Return the licence as text, also from the older table form."""
    found = project.get("license", "")
    text = found.get("text", "") if isinstance(found, Mapping) else found
    return text if isinstance(text, str) else ""


def _is_writable(root: Path, source: str) -> bool:
    inside = root.is_relative_to(Path(agilab.__file__).parent)
    return not (source == "shipped" or root.name == _INSTALLED or inside) and os.access(root, os.W_OK)


def _git_state(root: Path) -> dict[str, Any] | None:
    """Ask git, within `GIT_TIMEOUT_S`, with the monitor and the hooks that a repository may configure left out."""
    import subprocess
    import time

    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(root)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment = {**kept, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    deadline = time.monotonic() + GIT_TIMEOUT_S
    answers: list[str] = []
    # An ignored project lies in a repository that says nothing about it, so it has to be tracked.
    for question in (["ls-files", "pyproject.toml"], ["status", "--porcelain=v2", "--branch", "--", "."]):
        try:
            done = subprocess.run(
                [*command, *question],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment,
                timeout=max(0.01, deadline - time.monotonic()),
            )
        except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or one that hangs
            return None
        if done.returncode or not done.stdout.strip():
            return None
        answers.append(done.stdout.decode(errors="replace"))
    lines = answers[1].splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):  # a repository without a commit yet
        return None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
