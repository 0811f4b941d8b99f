"""A run's artifacts on a page: which ones, by which view, with its controls; drawn beside the loop that serves all."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import Any

import holoviews as hv
import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.cli.screen import size
from agilab.errors import AgilabError
from agilab.layers import Resolved
from agilab.run import Run
from agilab_dashboards import views
from agilab_dashboards.aggregates import Frame
from agilab_dashboards.components import data_table
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.form import SettingsForm, html
from agilab_dashboards.markup import element
from agilab_dashboards.session import Session

QUIET_S = 0.08
"""How long a zoom rests before it is drawn anew [s]."""
PICTURE_PX = 1600
"""Width of a picture that is saved [px]."""


class ViewCard(Viewer):
    """What a run has left, to look at.

    Parameters
    ----------
    session
        Who looks; its URL keeps artifacts, view, controls and zoom.
    run
        At what.
    sources
        What there is, from `views.shown`; at least one.
    """

    def __init__(self, session: Session, run: Run, sources: Sequence[Dataset]) -> None:
        super().__init__()
        self._session, self._run = session, run
        self._sources = {source.key: source for source in sources}
        self._generation = 0
        self._pipe: Any = None
        self._frame: Frame | None = None
        self._data = pmui.Select(label="Artifacts", options=_named(sources), width=360)
        self._kind = pmui.Select(label="View", options=[], width=160)
        self._whole = pmui.Button(label="Whole extent", variant="outlined", visible=False)
        self._save = pmui.FileDownload(
            callback=self._picture, filename="view.png", label="Save as PNG", variant="outlined"
        )
        self._bar = pmui.LinearProgress(active=True, visible=False, sizing_mode="stretch_width")
        self._place = pn.Column(sizing_mode="stretch_width", min_height=480)
        self._controls = pn.Column(sizing_mode="stretch_width")
        self._form: SettingsForm | None = None
        self._choose(session.query.get("data", ""), session.query.get("view", ""))
        self._data.param.watch(self._other_data, "value")
        self._kind.param.watch(self._other_view, "value")
        self._whole.on_click(self._all_of_it)
        row = pn.FlexBox(self._data, self._kind, self._whole, self._save, gap="12px", align_items="center")
        more = pmui.Accordion(
            ("Controls", self._controls), title_variant="subtitle1", sizing_mode="stretch_width", margin=(8, 0, 0, 0)
        )
        self._view = pn.Column(row, self._bar, self._place, more, sizing_mode="stretch_width", margin=(12, 0))

    def __panel__(self) -> Viewable:
        return self._view

    def start(self) -> ViewCard:
        """Draw as soon as the page stands."""
        pn.state.execute(self._build)
        return self

    @property
    def _source(self) -> Dataset:
        return self._sources[self._data.value]

    def _choose(self, data: str, kind: str) -> None:
        """Choose artifacts and view, and make the form of the view's controls."""
        self._data.value = data if data in self._sources else next(iter(self._sources))
        names = views.fitting(self._source)
        self._kind.options = {name.capitalize(): name for name in names}
        self._kind.value = kind if kind in names else names[0]
        self._new_form()

    def _new_form(self, *, keep: bool = True) -> None:
        fields = views.view_class(self._kind.value).controls(self._source)
        values = {field.name: field.default for field in fields}
        given = self._session.remembered("controls") if keep else None
        self._form = SettingsForm(fields, Resolved(values, {}), given if isinstance(given, dict) else None)
        self._form.param.watch(self._controlled, "given")
        self._controls.objects = [self._form]

    def _forget(self, *names: str) -> None:
        for name in names:
            self._session.remember(name, None)

    def _other_data(self, event: Any) -> None:
        if event.new is None or self._form is None:
            return
        self._forget("controls", "zoom")
        self._session.remember("data", event.new)
        names = views.fitting(self._source)
        view = self._kind.value if self._kind.value in names else names[0]
        self._kind.param.update(options={name.capitalize(): name for name in names}, value=view)
        self._new_form(keep=False)
        pn.state.execute(self._build)

    def _other_view(self, event: Any) -> None:
        if event.new is None or event.new not in views.fitting(self._source):
            return
        self._forget("controls", "zoom")
        self._session.remember("view", event.new)
        self._new_form(keep=False)
        pn.state.execute(self._build)

    def _controlled(self, event: Any) -> None:
        self._session.remember("controls", event.new or None)
        pn.state.execute(self._build)

    def _all_of_it(self, event: Any) -> None:
        self._forget("zoom")
        pn.state.execute(self._build)

    def _made(self) -> Any:
        given = self._form.given if self._form is not None else {}
        return views.make(self._kind.value, self._source, given)

    async def _build(self) -> None:
        """Draw with everything as it is chosen now."""
        self._generation += 1
        mine = self._generation
        self._bar.visible = True
        try:
            shown = await asyncio.to_thread(self._drawn)
        except AgilabError as err:
            shown = str(err)
        finally:
            _soon(self._rested)
        if mine == self._generation:
            _soon(lambda: self._show(shown))

    def _rested(self) -> None:
        self._bar.visible = False

    def _drawn(self) -> Any:
        """Return a table's rows, or view, frame and element; called from a thread."""
        view, source = self._made(), self._source
        if self._kind.value == "table":
            return view.frame_of_rows(source)
        frame = view.frame(source)
        zoom = self._session.remembered("zoom")
        if isinstance(zoom, list) and len(zoom) == 4 and all(isinstance(end, int | float) for end in zoom):
            frame = frame.zoomed(zoom[:2], zoom[2:])
        return view, frame, view.element(source, frame)

    def _show(self, shown: Any) -> None:
        import pandas as pd

        self._pipe = None
        self._whole.visible = "zoom" in self._session.query
        if isinstance(shown, str):
            self._place.objects = [html(element("p", shown, {"class": "error", "role": "alert"}))]
        elif isinstance(shown, pd.DataFrame):
            self._place.objects = [data_table(shown.to_dict("records"))]
        else:
            self._place.objects = [self._plot(*shown)]

    def _plot(self, view: Any, frame: Frame, drawn: Any) -> Any:
        """Return a plot that is drawn anew for each range, by what `_zoomed` sends."""
        self._frame = frame
        shown = drawn
        if view.zooming:
            self._pipe = hv.streams.Pipe(data=drawn)
            shown = hv.DynamicMap(lambda data: data, streams=[self._pipe])
            ranges = hv.streams.RangeXY(source=shown) if view.zooming == "xy" else hv.streams.RangeX(source=shown)
            ranges.add_subscriber(self._zoomed)
        return pn.pane.HoloViews(shown, sizing_mode="stretch_width", height=480, linked_axes=False)

    def _zoomed(self, x_range: Any = None, y_range: Any = None) -> None:
        before = self._frame
        if before is None:
            return
        frame = before.zoomed(x_range, y_range)
        if frame != before:
            self._frame = frame
            self._generation += 1
            pn.state.execute(self._redraw)

    async def _redraw(self) -> None:
        """Draw the newest range, once it rests."""
        mine, frame, pipe = self._generation, self._frame, self._pipe
        await asyncio.sleep(QUIET_S)
        if mine != self._generation or frame is None or pipe is None:
            return
        view, source = self._made(), self._source
        drawn = await asyncio.to_thread(view.element, source, frame)
        if mine != self._generation:
            return

        def send() -> None:
            pipe.send(drawn)
            self._whole.visible = True
            self._session.remember("zoom", [*frame.x, *frame.y])

        _soon(send)

    async def _picture(self) -> io.BytesIO:
        view, source = self._made(), self._source
        name = "-".join([self._run.run_id, *source.key.split("/"), self._kind.value])
        self._save.filename = f"{name}.png"
        return io.BytesIO(await asyncio.to_thread(view.picture, self._run, PICTURE_PX))


def _soon(work: Callable[[], None]) -> None:
    """Change the document when it may be: not in the middle of what it is sending."""
    pn.state.execute(work, schedule=True)


def _named(sources: Sequence[Dataset]) -> dict[str, str]:
    """Return what a choice of artifacts says -> key."""
    return {f"{one.key} · {one.kind}, {size(one.size_bytes)}": one.key for one in sources}
