"""What a new app project is made of: a small one that runs at once and is meant to be overwritten; it runs nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template

from agilab.errors import NoSpaceError, ProjectError, ProjectNotFoundError
from agilab.paths import disk_errors
from agilab.project import Project, locate, name_problem, read
from agilab.renaming import dashed, title
from agilab.toml import string_text, value_text

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "${dashed}"
version = "0.1.0"
description = ${description}
license = "LicenseRef-Proprietary"
requires-python = ">=3.11"
dependencies = []

[project.entry-points."agilab.apps"]
${name} = "${name}:${title}"

[tool.agilab]
uuid = "${uuid}"

[tool.hatch.build.targets.wheel]
packages = ["src/${name}", "src/${name}_worker"]
[tool.hatch.build.targets.wheel.force-include]
"pyproject.toml" = "${name}/_project/pyproject.toml"
"README.md" = "${name}/_project/README.md"
"""

_README = """\
# ${name}

Squares the numbers below `count` in `partitions` parts and adds them up: replace this by your own work.
Each part leaves an artifact `sum`, the last stage one called `total`.

    agilab run ${name} --count 5000
"""

_MANAGER = '''\
"""What there is to do: settings and plan of ${name}."""

import agilab
import param


class ${title}(agilab.App):
    class Settings(agilab.Settings):
        count = param.Integer(1000, bounds=(1, 10**9), doc="How many numbers to square [numbers]")
        partitions = param.Integer(1, bounds=(1, 10_000), doc="How many parts the work is cut into")

    def plan(self):
        count, size = self.settings.count, -(-self.settings.count // self.settings.partitions)
        parts = [(start, min(start + size, count)) for start in range(0, count, size)]
        squares = [
            agilab.Partition(f"from-{start}", params={"start": start, "stop": stop}, weight=stop - start)
            for start, stop in parts
        ]
        return agilab.WorkPlan([agilab.Stage("squares", squares), agilab.Stage("total", after="squares")])
'''

_SETTINGS = """\
[settings]
partitions = 4
"""

_WORKER = '''\
"""The work itself: one method per stage; it runs in its own environment, without the package ${name}."""

import json

import agilab


class ${title}Worker(agilab.Worker):
    def squares(self, part):
        numbers = range(part.params["start"], part.params["stop"])
        part.write("sum", "json", sum(number * number for number in numbers))
        part.metric("numbers", len(numbers))

    def total(self, part):
        total = sum(json.loads(path.read_text()) for path in part.inputs.named("sum"))
        part.write("total", "json", total)
        part.metric("total", total)
'''

_WORKER_PYPROJECT = """\
[project]
name = "${dashed}-worker"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ${dependencies}
"""

FILES = {
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    "src/${name}/__init__.py": _MANAGER,
    "src/${name}/app_settings.toml": _SETTINGS,
    "src/${name}_worker/__init__.py": _WORKER,
    "src/${name}_worker/pyproject.toml": _WORKER_PYPROJECT,
}
"""Path -> text of every file of a new project; both are templates."""
_SAID = "Sums squares, until it does your work"


def create(name: str, folder: Path) -> Project:
    """Write ``<name>_project`` into a folder: a project that keeps the contract and runs at once.

    Parameters
    ----------
    name
        Lower case letters, digits and ``_``; the ending is added.
    folder
        Where; it must exist.

    Raises
    ------
    ProjectError
        The name is not allowed or taken, or the folder cannot be written to; nothing has been written.
    """
    target = require_free(name, folder)
    _write(name, target)
    return read(target)


def manifest(name: str, *, uuid: str, description: str) -> str:
    """Return the ``pyproject.toml`` of a new project."""
    return Template(_PYPROJECT).substitute(_words(name, uuid=uuid, description=description))


def worker_manifest(name: str, *, dependencies: Sequence[str]) -> str:
    """Return the ``pyproject.toml`` of the worker of a new project."""
    return Template(_WORKER_PYPROJECT).substitute(_words(name, dependencies=dependencies))


def require_free(name: str, folder: Path) -> Path:
    """Return where a new project of that name goes in a folder.

    Raises
    ------
    ProjectError
        The name is not allowed or taken, or there is no such folder.
    """
    if problem := name_problem(name):
        near = re.sub(r"[^a-z0-9]+", "_", name.lower()[:50]).strip("_")
        hint = f"; did you mean {near!r}?" if not name_problem(near) else ""
        raise ProjectError(f"{name!r:.80} cannot be the name of an app: {problem}{hint}")
    if not folder.is_dir():
        raise ProjectError(f"{folder} is not a folder; make it first, or choose another")
    target = folder.absolute() / f"{name}_project"
    if os.path.lexists(target):
        raise ProjectError(f"{target} already exists; choose another name or folder")
    if _is_installed(name):
        raise ProjectError(f"{name!r} is an installed Python package, which the app would hide; choose another name")
    try:
        other = locate(name, cwd=target.parent)
    except ProjectNotFoundError:
        return target
    raise ProjectError(f"there is an app {name!r} in {other.root}; two of one name would be in each other's way")


def _is_installed(name: str) -> bool:
    """Whether a package of that name is installed; an app that this process has imported does not count."""
    from importlib.machinery import PathFinder

    folders = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    return PathFinder.find_spec(name, folders) is not None


def _write(name: str, target: Path) -> None:
    import shutil
    from uuid import uuid4

    words = _words(name, uuid=str(uuid4()), description=_SAID)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(target.parent, "writing a project to"):
            for path, text in FILES.items():
                file = aside / Template(path).substitute(words)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(Template(text).substitute(words), encoding="utf-8")
            aside.rename(target)
    except NoSpaceError:
        raise
    except PermissionError as err:
        raise ProjectError(f"{target.parent} cannot be written to ({err.strerror}); choose another folder") from err
    except OSError as err:
        raise ProjectError(f"{target} cannot be written ({err.strerror or err}); choose another folder") from err
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _words(name: str, *, uuid: str = "", description: str = "", dependencies: Sequence[str] = ()) -> dict[str, str]:
    words = {"name": name, "dashed": dashed(name), "title": title(name), "uuid": uuid}
    return words | {"description": string_text(description), "dependencies": value_text(list(dependencies))}
