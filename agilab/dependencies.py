"""Whether what source imports is provided by what its project declares; it imports none of it, and asks no index.

An import name is not the name of a distribution. What is installed knows
which belongs to which; without it names are compared, forgivingly: only an
import that resembles nothing that is declared is reported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from agilab import syntax

if TYPE_CHECKING:
    from packaging.requirements import Requirement

WELL_KNOWN = {
    "Crypto": ("pycryptodome",),
    "MySQLdb": ("mysqlclient",),
    "PIL": ("pillow",),
    "bs4": ("beautifulsoup4",),
    "cv2": ("opencv-python", "opencv-contrib-python"),
    "dateutil": ("python-dateutil",),
    "fitz": ("pymupdf",),
    "mpl_toolkits": ("matplotlib",),
    "osgeo": ("gdal",),
    "pkg_resources": ("setuptools",),
    "pylab": ("matplotlib",),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "sksparse": ("scikit-sparse",),
    "yaml": ("pyyaml",),
}
"""Import name -> distributions that provide it, where the names do not resemble each other."""


@dataclass(frozen=True, slots=True)
class Undeclared:
    """An import that no declared dependency provides.

    Parameters
    ----------
    path, line
        Where it stands first.
    name
        What is imported: the first part of its dotted name.
    distribution
        What probably provides it.
    """

    path: Path
    line: int
    name: str
    distribution: str


def undeclared(
    modules: Iterable[syntax.Module], requirements: Sequence[str], *, own: Iterable[str], environment: Path | None
) -> Iterator[Undeclared]:
    """Yield every import that is neither standard library nor the package's own nor provided, each name once.

    Parameters
    ----------
    modules
        The package's files; its tests do not count.
    requirements
        What is declared.
    own
        Import names that need no declaration.
    environment
        The virtual environment that was made from the requirements, if there is one.
    """
    known = _Known(tuple(requirements), environment)
    done = {*own, *sys.stdlib_module_names}
    for module in modules:
        if any(part == "tests" or part.startswith(("test_", "conftest")) for part in module.name.split(".")[1:]):
            continue
        for name, line in syntax.imports(module, optional=False):
            top = name.partition(".")[0]
            if top and top not in done:
                done.add(top)
                if not known.provides(name):
                    yield Undeclared(module.path, line, top, known.distribution(top))


def distribution_of(top: str) -> str:
    """Return what probably provides an import, by the first part of its name."""
    return _Known((), None).distribution(top)


@dataclass(frozen=True)
class _Known:
    """What some requirements provide, each way of finding out taken only when the cheaper ones found nothing."""

    requirements: tuple[str, ...]
    environment: Path | None

    def provides(self, name: str) -> bool:
        top = name.partition(".")[0]
        if any(_alike(name, declared) for declared in self._declared):
            return True
        if self.environment is not None and top in self._installed:
            return True
        return bool(self._required & {_plain(item) for item in self._here.get(top, ())})

    def distribution(self, top: str) -> str:
        return (WELL_KNOWN.get(top) or tuple(self._here.get(top, ())) or (top,))[0]

    @cached_property
    def _declared(self) -> frozenset[str]:
        return frozenset(item.name for item in map(_requirement, self.requirements) if item)

    @cached_property
    def _installed(self) -> frozenset[str]:
        assert self.environment is not None
        folders = self.environment.glob("lib/python*/site-packages")
        return frozenset(path.name.partition(".")[0] for folder in folders for path in folder.iterdir())

    @cached_property
    def _here(self) -> dict[str, list[str]]:
        """Import name -> distributions, of this Python."""
        from importlib.metadata import packages_distributions

        return {name: list(found) for name, found in packages_distributions().items()}

    @cached_property
    def _required(self) -> frozenset[str]:
        """The plain names of what the requirements need, directly or not, as far as this Python has it."""
        from importlib.metadata import PackageNotFoundError, requires

        found: set[str] = set()
        todo = [item for item in map(_requirement, self.requirements) if item]
        while todo:
            item = todo.pop()
            if _plain(item.name) not in found:
                found.add(_plain(item.name))
                try:
                    needed = [one for one in map(_requirement, requires(item.name) or ()) if one]
                except PackageNotFoundError:
                    continue
                extras = [{"extra": extra} for extra in ("", *item.extras)]
                todo += [one for one in needed if not one.marker or any(map(one.marker.evaluate, extras))]
        return frozenset(found)


def _alike(name: str, distribution: str) -> bool:
    """Whether an import may come from a distribution, by their names."""
    top, _, rest = name.partition(".")
    declared, imported = _plain(distribution), _plain(top)
    if any(_plain(one) in declared for one in WELL_KNOWN.get(top, ())):
        return True
    if _plain(rest.partition(".")[0]) == declared:  # a namespace: google.protobuf
        return True
    return imported == declared or (
        min(len(imported), len(declared)) >= 3 and (imported in declared or imported.startswith(declared))
    )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "", name).lower()


def _requirement(text: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement:  # named by the check of the list itself
        return None
