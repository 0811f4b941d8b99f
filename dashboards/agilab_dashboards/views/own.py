"""The views that an app ships for its own kinds: imported from `src/<app>_views/` once the app is trusted."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from agilab import digest, trust
from agilab.errors import AgilabError, ViewError, first_line
from agilab.paths import HomePaths
from agilab.project import Project
from agilab_dashboards.views.base import View

_PREFIX = "_agilab_views_"
_MOST_LOADED = 64


def own_views(project: Project, home: HomePaths) -> dict[str, type[View]]:
    """Return an app's own views by name, ``<app>.<class>`` in lower case; this runs its code.

    Parameters
    ----------
    project
        The app.
    home
        Whose trust counts.

    Raises
    ------
    TrustError
        It was imported and is not trusted.
    ViewError
        Its views cannot be imported.
    """
    folder = project.views
    if not (folder / "__init__.py").is_file():
        return {}
    trust.require(project.root, home)
    module = _loaded(folder, digest.of_tree(folder))
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, View)]
    mine = [view for view in found if view.__module__.partition(".")[0] == module.__name__]
    return {f"{project.name}.{view.__name__.lower()}": view for view in mine if not view.__name__.startswith("_")}


@contextmanager
def told(view: type[View] | View, name: str) -> Iterator[None]:
    """Make an error of what an app's own view raises; what a shipped one raises is ours, and stays what it is.

    Parameters
    ----------
    view
        The view that is asked.
    name
        What it is called.

    Raises
    ------
    ViewError
        Says which view it was, where, and why.
    """
    try:
        yield
    except AgilabError:
        raise
    except Exception as err:  # somebody else's code: the view says it, and the rest of the page goes on
        made = view if isinstance(view, type) else type(view)
        if not made.__module__.startswith(_PREFIX):
            raise
        raise ViewError(f"view {name} raised {first_line(err)}{_where(err)}") from err


@lru_cache(_MOST_LOADED)
def _loaded(folder: Path, code: str) -> ModuleType:
    """Import a package as it is now; under a name of its own, so that two apps and two versions do not meet."""
    name = f"{_PREFIX}{folder.name.removesuffix('_views')}_{code[:12]}"
    spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as err:  # somebody else's code, as above
        del sys.modules[name]
        advice = ""
        if isinstance(err, ModuleNotFoundError):
            advice = "; install what its views need, such as the group 'views' of its project's dependencies"
        raise ViewError(f"the views in {folder} cannot be imported: {first_line(err)}{_where(err)}{advice}") from err
    return module


def _where(error: BaseException) -> str:
    """Return the last line of an app's own code that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if any(part.endswith("_views") for part in Path(frame.filename).parts)]
    return f" ({Path(mine[-1].filename).name}, line {mine[-1].lineno})" if mine else ""
