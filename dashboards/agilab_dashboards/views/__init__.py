"""The shipped views by name, and which of them fit what a run has left; a view is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agilab.errors import AgilabError
from agilab_dashboards.datasets import Dataset, datasets

if TYPE_CHECKING:
    from agilab.run import Run
    from agilab_dashboards.views.base import View

VIEWS = ("points", "tracks", "timeseries", "field", "image", "table")
"""Every shipped view, the most telling one first; each is a module here with a class of that name."""


def view_class(name: str) -> type[View]:
    """Return a view's class.

    Raises
    ------
    AgilabError
        There is none of that name.
    """
    if name not in VIEWS:
        raise AgilabError(f"there is no view {name!r:.60}; known: {', '.join(VIEWS)}")
    found: type[View] = getattr(import_module(f"{__name__}.{name}"), name.capitalize())
    return found


def fitting(source: Dataset) -> tuple[str, ...]:
    """Return the views that can show a dataset, those made for its kind first."""
    able = [name for name in VIEWS if view_class(name).fits(source)]
    return tuple(sorted(able, key=lambda name: source.kind not in view_class(name).kinds))


def shown(run: Run) -> tuple[Dataset, ...]:
    """Return what a run has left that any view can show, what is large and has its own view first."""
    able = [(source, fitting(source)) for source in datasets(run) if source.elsewhere < len(source.artifacts)]
    fit = [(source, names) for source, names in able if names]
    fit.sort(key=lambda pair: VIEWS.index(pair[1][0]))
    return tuple(source for source, _ in fit)


def make(name: str, source: Dataset, controls: dict[str, Any] | None = None) -> View:
    """Return a view of a dataset with these controls, and for the rest what suits the data."""
    made = view_class(name)
    values = {field.name: field.default for field in made.controls(source)}
    return made.from_json({**values, "artifact": source.key, **(controls or {})})
