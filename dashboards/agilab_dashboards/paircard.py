"""What two runs have both left, side by side on one scale, and what differs between them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.raster import Picture, alike
from agilab.raster.scan import Cancelled, around
from agilab.raster.series import Envelope
from agilab.run import Run
from agilab_dashboards.board import Board
from agilab_dashboards.components import Folded, row
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.drawing import QUIET_S, sent
from agilab_dashboards.form import SettingsForm
from agilab_dashboards.frame import Frame
from agilab_dashboards.markup import PALETTE
from agilab_dashboards.session import Session
from agilab_dashboards.views import Catalogue
from agilab_dashboards.views.base import View
from agilab_dashboards.views.own import told
from agilab_dashboards.views.raster import Counted, Plane, both, decoded, image, limited

HEIGHT_PX = 340
MOST_PERCENT = 99.5
"""What part of the cells a difference has colours for; those beyond share the last one."""
_FRAME = Frame(width_px=500, height_px=300)
_DIFFERENCE = "coolwarm"
Pair = tuple[Dataset, Dataset]


@dataclass(frozen=True)
class Compared:
    """Two tables in the same cells.

    Parameters
    ----------
    view, frame
        How they are drawn, and of what.
    pictures
        Of both.
    """

    view: Counted
    frame: Frame
    pictures: tuple[Picture, Picture]

    def elements(self, pair: Pair) -> dict[str, Any]:
        """Return title -> element: both on one scale, and the second less the first."""
        with told(self.view, type(self.view).__name__):
            return self._maps(pair) if isinstance(self.view, Plane) else self._lines(pair)

    def difference(self) -> Any:
        """Return the second less the first, cell by cell; NaN where neither has anything, or one has no value."""
        first, second = (picture.values.astype(np.float64) for picture in self.pictures)
        found = second - first
        if self.pictures[0].values.dtype.kind == "u":
            found[(first == 0) & (second == 0)] = np.nan
        return found

    def _maps(self, pair: Pair) -> dict[str, Any]:
        assert isinstance(self.view, Plane)
        shown = [self.view.shaded(source, picture) for source, picture in zip(pair, self.pictures, strict=True)]
        if self.pictures[0].categories:
            return dict(zip("AB", map(_titled, shown, "AB"), strict=True))
        known = np.concatenate([_known(picture.values) for picture in self.pictures])
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        limits = self.view.limits or (low, high if high > low else low + 1)
        # Colours by rank differ from picture to picture; by size they mean the same in both.
        norm = {"cnorm": "log" if self.view.scale != "linear" and limits[0] > 0 else "linear"}
        made = [limited(one, limits).opts(hv.opts.Image(**norm)) for one in shown]
        drawn = next(iter(shown[0].traverse(lambda one: one, [hv.Image])))  # coasts may lie over it
        labels = [dimension.label for dimension in (*drawn.kdims, *drawn.vdims)]
        labels[2] = f"{labels[2]}, B less A"
        change = self.difference()
        # A single cell that differs most would leave all others pale.
        most = float(np.nanpercentile(np.abs(change), MOST_PERCENT)) if np.isfinite(change).any() else 1.0
        differ = image(change, self.pictures[0].bounds, labels, scale="linear", colours=_DIFFERENCE)
        made.append(limited(differ, (-(most or 1.0), most or 1.0)))
        ranges = {"x": self.frame.x, "y": self.frame.y}
        titles = ("A", "B", "B less A")
        return {title: _titled(one.redim.range(**ranges), title) for title, one in zip(titles, made, strict=True)}

    def _lines(self, pair: Pair) -> dict[str, Any]:
        shown = [self.view.shaded(source, picture) for source, picture in zip(pair, self.pictures, strict=True)]
        first, second = (Envelope.of(picture) for picture in self.pictures)
        curve = next(iter(shown[0].traverse(lambda one: one, [hv.Curve])))
        left, right = first.x_range
        at = (left + (np.arange(len(first.count)) + 0.5) * (right - left) / len(first.count)).astype("datetime64[ns]")
        value = curve.vdims[0]
        lines = [
            both(hv.Curve((at[part.count > 0], part.mean[part.count > 0]), curve.kdims, [value], label=name))
            .opts(color=colour)
            for name, part, colour in zip("AB", (first, second), (PALETTE[0], PALETTE[5]), strict=True)
        ]  # fmt: skip
        change = second.mean - first.mean
        known = np.isfinite(change)
        less = hv.Dimension("change", label=f"{value.label}, B less A")
        differ = both(hv.Curve((at[known], change[known]), curve.kdims, [less])).opts(color=PALETTE[7])
        together = {"A and B": lines[0] * lines[1], "B less A": differ}
        return {title: _titled(one.redim.range(time=self.frame.time), title) for title, one in together.items()}


def compared(view: Counted, pair: Pair, frame: Frame) -> Compared:
    """Return two tables in the same cells of a frame."""
    first, second = pair
    query = view.query(first, frame)
    pictures = alike([first.sources, second.sources], query, cache=decoded(), cancelled=frame.cancelled)
    return Compared(view, frame, (pictures[0].complete(), pictures[1].complete()))


def whole(view: Counted, pair: Pair, frame: Frame) -> Frame:
    """Return the frame that shows all of both."""
    frames = [view.whole(source, frame) for source in pair]
    box = around([(*(one.x[0], one.y[0]), *(one.x[1], one.y[1])) for one in frames])
    assert box is not None
    left, bottom, right, top = box
    return replace(frame, x=(left, right), y=(bottom, top))


def pairs(catalogue: Catalogue, runs: tuple[Run, Run]) -> dict[str, tuple[Pair, tuple[str, ...]]]:
    """Return what both runs have left that can be counted, by key, with the views that can."""
    first, second = ({source.key: source for source in catalogue.shown(run)} for run in runs)
    found = {}
    for key in first:
        other = second.get(key)
        if other is None or other.kind != first[key].kind:
            continue
        names = [name for name in catalogue.fitting(first[key]) if issubclass(catalogue.view_class(name), Counted)]
        names = [name for name in names if name in catalogue.fitting(other)]
        if names:
            found[key] = ((first[key], other), tuple(names))
    return found


class PairCard(Viewer):
    """Two runs side by side.

    Parameters
    ----------
    session
        Who looks.
    catalogue
        The views that there are for both.
    known
        What `pairs` has found; at least one.
    """

    def __init__(
        self, session: Session, catalogue: Catalogue, known: Mapping[str, tuple[Pair, tuple[str, ...]]]
    ) -> None:
        super().__init__()
        self._session, self._catalogue, self._known = session, catalogue, known
        self._board = Board(HEIGHT_PX)
        self._shown: Compared | None = None
        self._pipes: dict[str, Any] = {}
        key = session.query.get("data", "")
        key = key if key in known else next(iter(known))
        self._data = pmui.Select(label="Artifacts", options=list(known), value=key, width=300)
        self._kind = pmui.Select(label="View", options=[], width=160)
        self._controls = Folded("Controls")
        self._form: SettingsForm | None = None
        self._choose(session.query.get("view", ""))
        self._data.param.watch(self._other_data, "value")
        self._kind.param.watch(self._other_view, "value")
        chosen = row(self._data, self._kind)
        self._view = pn.Column(chosen, self._board, self._controls, sizing_mode="stretch_width")

    def __panel__(self) -> Viewable:
        return self._view

    def start(self) -> PairCard:
        """Draw as soon as the page stands."""
        pn.state.execute(self._build)
        return self

    def _choose(self, kind: str = "") -> None:
        names = self._known[self._data.value][1]
        self._kind.param.update(
            options={name.capitalize(): name for name in names}, value=kind if kind in names else names[0]
        )
        self._new_form()

    def _new_form(self) -> None:
        pair = self._known[self._data.value][0]
        self._form = SettingsForm(*self._catalogue.controls(self._kind.value, pair[0]))
        self._form.param.watch(lambda event: pn.state.execute(self._build), "given")
        self._controls.put(self._form)

    def _other_data(self, event: Any) -> None:
        self._session.remember("data", event.new)
        self._choose()
        pn.state.execute(self._build)

    def _other_view(self, event: Any) -> None:
        if event.new in self._known[self._data.value][1]:
            self._session.remember("view", event.new)
            self._new_form()
            pn.state.execute(self._build)

    def _made(self) -> View:
        pair = self._known[self._data.value][0]
        return self._catalogue.make(self._kind.value, pair[0], self._form.given if self._form is not None else {})

    async def _build(self) -> None:
        """Draw all of both."""
        pair = self._known[self._data.value][0]

        def drawn(cancelled: Cancelled) -> tuple[Compared, dict[str, Any]]:
            view = self._made()
            assert isinstance(view, Counted)
            with told(view, self._kind.value):
                made = compared(view, pair, whole(view, pair, replace(_FRAME, cancelled=cancelled)))
            return made, made.elements(pair)

        await self._board.draw(drawn, lambda found: self._show(*found))

    def _show(self, made: Compared, elements: Mapping[str, Any]) -> None:
        self._shown, self._pipes = made, {}
        plots = []
        for title, shown in elements.items():
            plot, self._pipes[title] = sent(shown)
            plots.append(plot)
        plane = made.view.zooming == "xy"
        ranges = hv.streams.RangeXY(source=plots[0]) if plane else hv.streams.RangeX(source=plots[0])
        ranges.add_subscriber(self._zoomed)
        # Plots of one layout share their axes: whoever zooms one zooms all.
        layout = hv.Layout(plots).cols(len(plots) if plane else 1).opts(sizing_mode="stretch_width")
        self._board.put(pn.pane.HoloViews(layout, sizing_mode="stretch_width", linked_axes=False))

    def _zoomed(self, x_range: Any = None, y_range: Any = None) -> None:
        before = self._shown
        if before is None:
            return
        frame = before.frame.zoomed(x_range, y_range)
        if frame != before.frame:
            self._shown = replace(before, frame=frame)
            pn.state.execute(self._redraw)

    async def _redraw(self) -> None:
        """Draw the newest range, once it rests."""
        wanted, pair, pipes = self._shown, self._known[self._data.value][0], self._pipes
        await asyncio.sleep(QUIET_S)
        if wanted is None or wanted is not self._shown:
            return

        def drawn(cancelled: Cancelled) -> tuple[Compared, dict[str, Any]]:
            made = compared(wanted.view, pair, replace(wanted.frame, cancelled=cancelled))
            return made, made.elements(pair)

        def send(made: Compared, elements: Mapping[str, Any]) -> None:
            if pipes is self._pipes:
                self._shown = made
                for title, shown in elements.items():
                    pipes[title].send(shown)

        await self._board.draw(drawn, lambda found: send(*found))


def _titled(shown: Any, title: str) -> Any:
    kinds = {type(one).__name__ for one in shown.traverse(lambda one: one, [hv.Element, hv.Overlay])}
    for kind in kinds:
        few = {} if kind == "Overlay" else {"xticks": 4}
        shown = shown.opts(getattr(hv.opts, kind)(height=HEIGHT_PX, title=title, **few))
    return shown


def _known(values: Any) -> Any:
    found = values[np.isfinite(values)]
    return found[found > 0] if values.dtype.kind == "u" else found
