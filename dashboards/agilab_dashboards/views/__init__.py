"""`Catalogue`, the views of a run by name, shipped ones and its app's own, and which of them fit what it has left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from agilab.codec import Field, unknown, validate_some
from agilab.env import AgiEnv
from agilab.errors import AgilabError, SettingError
from agilab.layers import Layer, Resolved, resolve
from agilab.paths import HomePaths
from agilab_dashboards.datasets import Dataset, datasets

if TYPE_CHECKING:
    from agilab.run import Run
    from agilab_dashboards.views.base import View

VIEWS = ("points", "tracks", "forecast", "training", "timeseries", "field", "image", "model", "table")
"""Every shipped view, the most telling one first; each is a module here with a class of that name."""


@dataclass(frozen=True)
class Catalogue:
    """The views for the runs of one app.

    Parameters
    ----------
    own
        The app's own views, by name.
    problems
        What is wrong with views or with what settings files say of them, a sentence each.
    given
        View -> the controls that settings files give it, the strongest last.
    """

    own: Mapping[str, type[View]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    given: Mapping[str, list[Layer]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.own, *VIEWS)

    def view_class(self, name: str) -> type[View]:
        """Return a view's class.

        Raises
        ------
        AgilabError
            There is none of that name.
        """
        if name in self.own:
            return self.own[name]
        if name not in VIEWS:
            raise AgilabError(f"there is no view {name!r:.60}; known: {', '.join(self.names)}")
        found: type[View] = getattr(import_module(f"{__name__}.{name}"), name.capitalize())
        return found

    def fitting(self, source: Dataset) -> tuple[str, ...]:
        """Return the views that can show a dataset, those made for its kind first."""
        able = [name for name in self.names if self._fits(name, source)]
        return tuple(sorted(able, key=lambda name: source.kind not in self.view_class(name).kinds))

    def shown(self, run: Run) -> tuple[Dataset, ...]:
        """Return what a run has left that any view can show, what has its own view first."""
        # Tables are looked at where they lie; other files have to be here.
        near = [one for one in datasets(run) if one.is_table or one.elsewhere < len(one.artifacts)]
        able = [(source, self.fitting(source)) for source in near]
        fit = [(source, names) for source, names in able if names]
        fit.sort(key=lambda pair: self.names.index(pair[1][0]))
        return tuple(source for source, _ in fit)

    def make(self, name: str, source: Dataset, controls: Mapping[str, Any] | None = None) -> View:
        """Return a view of a dataset with these controls, and for the rest what suits the data."""
        _, resolved = self.controls(name, source)
        return self.view_class(name).from_json({**resolved.values, "artifact": source.key, **(controls or {})})

    def controls(self, name: str, source: Dataset) -> tuple[tuple[Field, ...], Resolved]:
        """Return a view's declarations for a dataset, and what settings files say; not of columns that it lacks."""
        fields = self.view_class(name).controls(source)
        layers = [replace(layer, values=_known(fields, layer.values)) for layer in self.given.get(name, ())]
        return fields, resolve(fields, layers)

    def _fits(self, name: str, source: Dataset) -> bool:
        """Say whether a view can show a dataset; neither a view that fails nor a damaged file hides the others."""
        from agilab_dashboards.views.own import told

        made = self.view_class(name)
        try:
            with told(made, name):
                return made.fits(source)
        except AgilabError as err:
            if str(err) not in self.problems:
                self.problems.append(str(err))
            return False


SHIPPED = Catalogue()
"""The views that ship."""


def catalogue(env: AgiEnv, run: Run) -> Catalogue:
    """Return the views for a run; those of its app where that is found here, is the same one, and may run.

    Parameters
    ----------
    env
        Where apps are looked for.
    run
        The run.
    """
    try:
        here = env.select(run.app)
        project = here.project
        if project.uuid != run.request["app"]["uuid"]:
            return Catalogue()
    except (AgilabError, OSError, LookupError):  # the app has gone, or the record is damaged: its files can be seen
        return Catalogue()
    from agilab_dashboards.views.own import own_views

    try:
        found = Catalogue(own_views(project, env.home))
    except AgilabError as err:
        found = Catalogue(problems=[str(err)])
    return _with_given(found, here)


def _with_given(found: Catalogue, env: AgiEnv) -> Catalogue:
    """Return a catalogue with what the tables ``[views.NAME]`` of settings files say and what is wrong in them."""
    given: dict[str, list[Layer]] = {}
    problems = list(found.problems)
    try:
        layers = env.view_controls()
    except AgilabError as err:
        return replace(found, problems=[*problems, str(err)])
    for layer in layers:
        for name, values in layer.values.items():
            lines = {key.removeprefix(f"{name}."): line for key, line in layer.lines.items()}
            try:
                if name not in found.names:
                    raise unknown(name, found.names, where=layer.lines.get(name, ""), what="view")
                fields = [each for each in found.view_class(name).fields() if each.name != "artifact"]
                given.setdefault(name, []).append(
                    Layer(layer.source, validate_some(fields, values, where=lines), lines)
                )
            except AgilabError as err:
                problems.append(str(err))
    return replace(found, problems=problems, given=given)


def _known(fields: Sequence[Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are allowed for a dataset: not every one has every column."""
    found = {}
    for each in fields:
        with suppress(SettingError):
            found |= validate_some([each], {each.name: values[each.name]} if each.name in values else {})
    return found


def catalogue_here(run: Run) -> Catalogue:
    """Return the views for a run of this process's own environment, as a notebook has it."""
    return catalogue(AgiEnv(home=HomePaths(run.paths.root.parents[2]).root), run)
