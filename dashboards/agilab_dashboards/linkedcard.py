"""Map, histogram and time of one run side by side: a box on one of them shows the same rows on the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
import panel_material_ui as pmui
from bokeh.models import NumeralTickFormatter
from panel.viewable import Viewable, Viewer

from agilab.cli.screen import count
from agilab.raster import Filter, Query, aggregate
from agilab.raster.scan import Cancelled
from agilab.raster.series import Histogram, counting
from agilab_dashboards.board import Board
from agilab_dashboards.components import row
from agilab_dashboards.conditions import written
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.drawing import sent
from agilab_dashboards.form import html
from agilab_dashboards.frame import Frame
from agilab_dashboards.markup import PALETTE, Markup, element
from agilab_dashboards.session import Session
from agilab_dashboards.views import Catalogue
from agilab_dashboards.views.base import load
from agilab_dashboards.views.raster import Plane, both, decoded

BINS = 200
_MAP = Frame(width_px=600, height_px=420)
_HEIGHTS = {"map": 440, "value": 220, "time": 220}
_GREY = "#9aa4ae"
Brushes = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Linked:
    """What three views show of a table, and which rows of it are brushed.

    Parameters
    ----------
    source, view, frame
        The table, how its map is drawn, and of what.
    columns
        ``"value"`` and ``"time"`` -> the column of that histogram; without a time there is none.
    total
        Histograms of all rows.
    rows
        How many rows have a place.
    """

    source: Dataset
    view: Plane
    frame: Frame
    columns: Mapping[str, str]
    total: Mapping[str, Histogram]
    rows: int

    def filters(self, brushes: Brushes, *, but: str = "") -> tuple[Filter, ...]:
        """Return what is brushed as conditions, but for what is brushed in one place."""
        found: list[Filter] = []
        for place, ends in brushes.items():
            if place == but:
                continue
            if place == "map":
                x, y = (self.view.column_of(self.source, name) for name in ("x", "y"))
                found += [Filter(x, ends[0], ends[2]), Filter(y, ends[1], ends[3])]
            elif place in self.columns:
                found.append(Filter(self.columns[place], ends[0], ends[1]))
        return tuple(found)

    def picture(self, place: str, brushes: Brushes, cancelled: Cancelled) -> Any:
        """Return one of the views, of the rows that are brushed in the others."""
        load()
        filters = self.filters(brushes, but=place)
        box = brushes.get(place)
        if place == "map":
            query = replace(self.view.query(self.source, self.frame), filters=filters)
            found = aggregate(self.source.sources, query, cache=decoded(), cancelled=cancelled).complete()
            made = self.view.shaded(self.source, found)
            made = made.opts(hv.opts.Image(colorbar=False, xticks=4, **_brushing("box_select")))
            return _together(place, made.redim.range(x=self.frame.x, y=self.frame.y), _boxed(made.kdims, box))
        column = self.source.column(self.columns[place])
        total = self.total[place]
        query = counting(Query(column.name, column.name, BINS, x_range=total.x_range, filters=filters))
        now = Histogram.of(aggregate(self.source.sources, query, cache=decoded(), cancelled=cancelled).complete())
        axes = hv.Dimension(place, label=column.label), hv.Dimension("rows")
        behind = _steps(total, axes, place).opts(color=_GREY, alpha=0.35, line_alpha=0)
        front = _steps(now, axes, place).opts(color=PALETTE[0], alpha=0.75, line_alpha=0)
        top = float(total.count.max())
        ends = None if box is None else (*_times(box, place)[:1], 0.0, *_times(box, place)[1:], top)
        return _together(place, behind, front, _boxed(axes, ends))

    def brushed(self, brushes: Brushes, cancelled: Cancelled) -> int:
        """Return how many rows all boxes hold."""
        if not brushes:
            return self.rows
        query = replace(self.view.query(self.source, self.frame), width=1, height=1, filters=self.filters(brushes))
        return int(aggregate(self.source.sources, query, cache=decoded(), cancelled=cancelled).complete().values.sum())


def linked(source: Dataset, catalogue: Catalogue, value: str, cancelled: Cancelled) -> Linked:
    """Return what three views of a table stand on.

    Parameters
    ----------
    source
        A table with coordinates.
    catalogue
        Where views are.
    value
        The column of the histogram.
    cancelled
        Whether nobody waits for it any more.
    """
    view = catalogue.make("points", source)
    assert isinstance(view, Plane)
    frame = view.whole(source, replace(_MAP, cancelled=cancelled))
    columns = {"value": value, **({"time": times[0]} if (times := source.named("time")) else {})}
    asked = {place: counting(Query(name, name, BINS)) for place, name in columns.items()}
    total = {
        place: Histogram.of(aggregate(source.sources, query, cache=decoded(), cancelled=cancelled).complete())
        for place, query in asked.items()
    }
    made = Linked(source, view, frame, columns, total, 0)
    query = view.query(source, frame)
    rows = aggregate(source.sources, replace(query, width=1, height=1), cache=decoded(), cancelled=cancelled).complete()
    return replace(made, rows=int(rows.values.sum()))


def able(source: Dataset, catalogue: Catalogue) -> bool:
    """Say whether a table has what three views need."""
    return "points" in catalogue.fitting(source) and bool(source.measures())


class LinkedCard(Viewer):
    """Three views of one table that show the same rows.

    Parameters
    ----------
    session
        Who looks; its URL keeps the table, the column and the boxes.
    catalogue
        The views that there are.
    sources
        Tables that are `able`, at least one.
    """

    def __init__(self, session: Session, catalogue: Catalogue, sources: tuple[Dataset, ...]) -> None:
        super().__init__()
        self._session, self._catalogue = session, catalogue
        self._sources = {source.key: source for source in sources}
        self._board = Board(_HEIGHTS["map"])
        self._known: Linked | None = None
        self._pipes: dict[str, Any] = {}
        given = session.remembered("linked")
        given = given if isinstance(given, dict) else {}
        self._brushes: dict[str, tuple[float, ...]] = {
            place: tuple(map(float, ends))
            for place, ends in given.items()
            if place in _HEIGHTS and isinstance(ends, list) and len(ends) == (4 if place == "map" else 2)
            and all(isinstance(end, int | float) for end in ends)
        }  # fmt: skip
        data = given.get("data")
        first = data if data in self._sources else next(iter(self._sources))
        self._data = pmui.Select(label="Artifacts", options=list(self._sources), value=first, width=300)
        self._value = pmui.Select(label="Histogram of", options=[], width=260)
        self._columns(given.get("column"))
        self._clear = pmui.Button(label="Clear the boxes", variant="outlined", disabled=not self._brushes)
        self._said = html(Markup(""))
        self._data.param.watch(self._other_data, "value")
        self._value.param.watch(self._other_value, "value")
        self._clear.on_click(self._cleared)
        chosen = row(self._data, self._value, self._clear)
        self._view = pn.Column(chosen, self._said, self._board, sizing_mode="stretch_width", margin=(12, 0))

    def __panel__(self) -> Viewable:
        return self._view

    def start(self) -> LinkedCard:
        """Draw as soon as the page stands."""
        pn.state.execute(self._build)
        return self

    def _columns(self, value: Any = None) -> None:
        source = self._sources[self._data.value]
        names = source.measures()
        labels = {source.column(name).label: name for name in names}
        self._value.param.update(options=labels, value=value if value in names else names[0])

    def _other_data(self, event: Any) -> None:
        self._brushes.clear()
        self._known = None
        self._columns()
        pn.state.execute(self._build)

    def _other_value(self, event: Any) -> None:
        if event.new is not None:
            self._brushes.pop("value", None)
            self._known = None
            pn.state.execute(self._build)

    def _cleared(self, event: Any) -> None:
        self._brushes.clear()
        pn.state.execute(self._build)

    def _brush(self, place: str, bounds: Any = None, boundsx: Any = None) -> None:
        """Take in a box that somebody has drawn."""
        known, ends = self._known, bounds if place == "map" else boundsx
        if known is None or ends is None:
            return
        if place == "map":
            self._brushes[place] = tuple(map(float, ends))
        else:
            self._brushes[place] = Frame().zoomed(ends, None).x
        pn.state.execute(self._build)

    async def _build(self) -> None:
        await self._board.draw(self._drawn, lambda found: self._show(*found))

    def _drawn(self, cancelled: Cancelled) -> tuple[Linked, int, dict[str, Any]]:
        known = self._known
        if known is None:
            known = linked(self._sources[self._data.value], self._catalogue, self._value.value, cancelled)
        brushes = dict(self._brushes)
        made = {place: known.picture(place, brushes, cancelled) for place in ("map", *known.columns)}
        return known, known.brushed(brushes, cancelled), made

    def _show(self, known: Linked, rows: int, made: Mapping[str, Any]) -> None:
        if known is self._known:
            for place, shown in made.items():
                self._pipes[place].send(shown)
        else:
            self._known, self._pipes = known, {}
            panes = {place: self._pane(place, shown) for place, shown in made.items()}
            left = panes.pop("map")
            right = pn.Column(*panes.values(), sizing_mode="stretch_width")
            self._board.put(pn.Row(left, right, sizing_mode="stretch_width"))
        filters = written(known.filters(self._brushes), known.source)
        said = f"{rows:,} of {count(known.rows, 'row', 'rows')}" + (f" where {filters}" if filters else "")
        advice = "" if filters else ". Draw a box on one view, and the others show its rows."
        told = {"class": "soft", "role": "status", "data-brushed": str(rows)}
        self._said.object = str(element("p", said + advice, told))
        self._clear.disabled = not self._brushes
        kept = {place: list(ends) for place, ends in self._brushes.items()}
        self._session.remember("linked", {"data": self._data.value, "column": self._value.value, **kept})

    def _pane(self, place: str, shown: Any) -> Any:
        height = _HEIGHTS[place]
        plot, self._pipes[place] = sent(shown)
        box = hv.streams.BoundsXY(source=plot) if place == "map" else hv.streams.BoundsX(source=plot)
        box.add_subscriber(partial(self._brush, place))
        return pn.pane.HoloViews(plot, sizing_mode="stretch_width", height=height, linked_axes=False)


def _together(place: str, *elements: Any) -> Any:
    made = hv.Overlay(elements)
    return made.opts(hv.opts.Overlay(height=_HEIGHTS[place], responsive=True, show_legend=False, title=""))


def _steps(found: Histogram, axes: tuple[Any, Any], place: str) -> Any:
    edges = np.linspace(*found.x_range, len(found.count) + 1)
    made = hv.Histogram((_times(edges, place), found.count), kdims=[axes[0]], vdims=[axes[1]])
    return both(made).opts(yformatter=NumeralTickFormatter(format="0,0"), xticks=5, **_brushing("xbox_select"))


def _brushing(tool: str) -> dict[str, Any]:
    """Return tools with which a drag draws a box at once, and the wheel scrolls the page."""
    return {"default_tools": ["reset"], "tools": [tool], "active_tools": [tool]}


def _times(values: Any, place: str) -> Any:
    return np.asarray(values).astype("datetime64[ns]") if place == "time" else values


def _boxed(axes: Any, ends: Any) -> Any:
    """Return the box that is drawn on a view, if there is one."""
    boxes = [] if ends is None else [tuple(ends)]
    x, y = axes
    names = [hv.Dimension(x.name, label=x.label), hv.Dimension(y.name, label=y.label)]
    sides = [*names, *(hv.Dimension(f"{name.name}_end") for name in names)]
    tool = _brushing("box_select" if x.name == "x" else "xbox_select")
    return hv.Rectangles(boxes, kdims=sides).opts(color=PALETTE[1], alpha=0.25, line_color=PALETTE[1], **tool)
