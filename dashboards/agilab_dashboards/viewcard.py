"""A run's artifacts on a page: which ones, by which view, with its controls; drawn beside the loop that serves all."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import holoviews as hv
import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.cli.screen import count, size
from agilab.codec import Field
from agilab.errors import AgilabError
from agilab.layers import Resolved
from agilab.raster import Aggregation, Picture
from agilab.raster.scan import Cancelled
from agilab.run import Run
from agilab_dashboards import markup
from agilab_dashboards.board import Board
from agilab_dashboards.boxcard import BoxCard
from agilab_dashboards.components import Folded, data_table, row
from agilab_dashboards.datasets import Dataset, asks_hosts
from agilab_dashboards.drawing import QUIET_S, Drawing, sent, soon
from agilab_dashboards.form import SettingsForm, html
from agilab_dashboards.frame import Frame
from agilab_dashboards.live import ENDED
from agilab_dashboards.markup import Markup, element, join
from agilab_dashboards.reach import last_word
from agilab_dashboards.session import Session
from agilab_dashboards.views import Catalogue
from agilab_dashboards.views.base import View
from agilab_dashboards.views.listed import Listed
from agilab_dashboards.views.own import told
from agilab_dashboards.views.raster import Counted, framed

PERIOD_MS = 500
"""How often it is asked what a run has left since."""
SEVERAL_PX = 300
"""Height of each of several drawings one below the other [px]."""
PICTURE_PX = 1600
"""Width of a picture that is saved [px]."""


class ViewCard(Viewer):
    """What a run has left, to look at.

    Parameters
    ----------
    session
        Who looks; its URL keeps artifacts, view, controls and zoom.
    run
        At what; one that goes on is followed.
    catalogue
        The views that there are for it.
    """

    def __init__(self, session: Session, run: Run, catalogue: Catalogue) -> None:
        super().__init__()
        self._session, self._run, self._views = session, run, catalogue
        self._sources: dict[str, Dataset] = {}
        self._live = run.state not in ENDED
        self._board, self._saving = Board(480), Drawing()
        self._pipe: Any = None
        self._shown: _Shown | None = None
        self._ticker: Any = None
        self._data = pmui.Select(label="Artifacts", options={}, width=360)
        self._kind = pmui.Select(label="View", options=[], width=160)
        self._whole = pmui.Button(label="Whole extent", variant="outlined", visible=False)
        self._save = pmui.FileDownload(
            callback=self._picture, filename="view.png", label="Save as PNG", variant="outlined"
        )
        self._said = html(Markup(""))
        self._boxed = BoxCard()
        self._controls = Folded("Controls")
        self._form: SettingsForm | None = None
        self._missing = pn.Column(sizing_mode="stretch_width")
        self._body = pn.Column(html(_WAITING), sizing_mode="stretch_width")
        self._view = pn.Column(self._missing, self._body, sizing_mode="stretch_width", margin=(12, 0))

    def __panel__(self) -> Viewable:
        return self._view

    def _problems(self) -> None:
        """Say which views are missing, and why."""
        cards = [html(markup.alert(said)) for said in self._views.problems]
        if cards != self._missing.objects:
            self._missing.objects = cards

    async def start(self) -> ViewCard:
        """Draw as soon as the page stands, and what is new until the run has ended."""
        looking = asyncio.create_task(asyncio.to_thread(self._views.shown, self._run))
        if await asyncio.to_thread(asks_hosts, self._run):
            pn.state.execute(partial(self._wait_for_hosts, looking))
        else:
            self._found(await looking)
        return self

    async def _wait_for_hosts(self, looking: asyncio.Task[tuple[Dataset, ...]]) -> None:
        """Say what hosts are at: one that is asked for the first time gets what it takes, for a minute perhaps."""
        while not (await asyncio.wait([looking], timeout=PERIOD_MS / 1000))[0]:
            said = markup.empty("Asking the hosts that hold it", last_word() or "One moment.")
            soon(partial(self._body.param.update, objects=[html(said)]))
        soon(partial(self._found, looking.result()))

    def _found(self, sources: Sequence[Dataset]) -> None:
        self._sources = {source.key: source for source in sources}
        self._problems()
        if self._sources:
            self._begin()
        elif not self._live:
            self._body.objects = [html(_NOTHING)]
        if self._live:
            self._ticker = pn.state.add_periodic_callback(self._tick, period=PERIOD_MS)

    def _begin(self) -> None:
        """Show the first of what a run leaves."""
        self._choose(self._session.query.get("data", ""), self._session.query.get("view", ""))
        pn.state.execute(self._build)

    @property
    def _source(self) -> Dataset:
        return self._sources[self._data.value]

    def _choose(self, data: str, kind: str) -> None:
        """Choose artifacts and view, and make the form of the view's controls."""
        self._data.options = _named(list(self._sources.values()))
        self._data.value = data if data in self._sources else next(iter(self._sources))
        names = self._views.fitting(self._source)
        self._kind.options = _titles(names)
        self._kind.value = kind if kind in names else names[0]
        self._new_form()
        self._data.param.watch(self._other_data, "value")
        self._kind.param.watch(self._other_view, "value")
        self._whole.on_click(self._all_of_it)
        chosen = row(self._data, self._kind, self._whole, self._save)
        self._body.objects = [chosen, self._board, self._said, self._boxed, self._controls]

    def _new_form(self, *, keep: bool = True) -> None:
        view = self._views.view_class(self._kind.value)
        fields: tuple[Field, ...] = ()
        resolved = Resolved({}, {})
        # What is wrong is said where it would be drawn.
        with suppress(AgilabError), told(view, self._kind.value):
            fields, resolved = self._views.controls(self._kind.value, self._source)
        given = self._session.remembered("controls") if keep else None
        self._form = SettingsForm(fields, resolved, given if isinstance(given, dict) else None)
        self._form.param.watch(self._controlled, "given")
        self._controls.put(self._form)

    def _forget(self, *names: str) -> None:
        for name in names:
            self._session.remember(name, None)

    def _other_data(self, event: Any) -> None:
        if event.new is None or self._form is None:
            return
        self._forget("controls", "zoom")
        self._session.remember("data", event.new)
        names = self._views.fitting(self._source)
        view = self._kind.value if self._kind.value in names else names[0]
        self._kind.param.update(options=_titles(names), value=view)
        self._new_form(keep=False)
        pn.state.execute(self._build)

    def _other_view(self, event: Any) -> None:
        if event.new is None or event.new not in self._views.fitting(self._source):
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
        return self._views.make(self._kind.value, self._source, given)

    async def _build(self) -> None:
        """Draw with everything as it is chosen now."""
        self._pipe, self._shown = None, None
        self._boxed.clear()
        self._said.object = ""
        await self._board.draw(self._drawn, self._show)

    def _drawn(self, cancelled: Cancelled) -> _Shown | Any:
        """Return a table's rows, or what a view shows; called from a thread."""
        name = self._kind.value
        with told(self._views.view_class(name), name):
            return self._drawing_of(self._made(), self._source, cancelled)

    def _drawing_of(self, view: View, source: Dataset, cancelled: Cancelled) -> _Shown | Any:
        if isinstance(view, Listed):
            return view.frame_of_rows(source)
        zoom = self._session.remembered("zoom")
        zoomed = isinstance(zoom, list) and len(zoom) == 4 and all(isinstance(end, int | float) for end in zoom)
        frame = Frame(cancelled=cancelled)
        if zoomed and view.zooming:
            return _drawn(view, source, frame.zoomed(zoom[:2], zoom[2:]))
        # While a run goes on nobody knows where its rows will lie: what is shown grows with them.
        return _drawn(view, source, frame if self._live else view.whole(source, frame), growing=self._live)

    def _show(self, shown: Any) -> None:
        self._whole.visible = "zoom" in self._session.query
        if isinstance(shown, _Shown):
            with told(shown.view, self._kind.value):  # an option that Bokeh refuses comes up here
                self._board.put(self._plot(shown))
            self._say(shown)
        else:
            self._board.put(data_table(shown.to_dict("records")))

    def _plot(self, shown: _Shown) -> Any:
        """Return a plot that is drawn anew for each range, by what `_zoomed` sends."""
        self._shown = shown
        plot = shown.element
        if not isinstance(plot, hv.core.Dimensioned):
            return pn.panel(plot, sizing_mode="stretch_width")
        if shown.view.zooming:
            plot, self._pipe = sent(plot)
            plane = shown.view.zooming == "xy"
            ranges = hv.streams.RangeXY(source=plot) if plane else hv.streams.RangeX(source=plot)
            ranges.add_subscriber(self._zoomed)
            if isinstance(shown.view, Counted):
                box = hv.streams.BoundsXY(source=plot) if plane else hv.streams.BoundsX(source=plot)
                box.add_subscriber(self._selected)
        if isinstance(plot, hv.Layout):
            return pn.Column(*(_pane(one, SEVERAL_PX) for one in plot), sizing_mode="stretch_width")
        return _pane(plot, 480)

    def _say(self, shown: _Shown) -> None:
        """Say how many rows are shown, and what that took."""
        picture = shown.picture
        if picture is None or not isinstance(shown.view, Counted):
            return
        rows = shown.view.rows(picture)
        parts = [] if rows is None else [count(rows, "row in view", "rows in view")]
        parts += ["counted before"] if picture.way == "pyramid" else [count(picture.rows_read, "row read", "rows read")]
        if self._live:
            parts.append(f"{count(picture.sources, 'partition', 'partitions')} so far, more as they commit")
        told = {"class": "soft small", "role": "status", "data-rows": "" if rows is None else str(rows)}
        lost = [markup.alert(text) for text in picture.missing]
        self._said.object = str(join([element("p", " · ".join(parts), told), *lost]))

    def _zoomed(self, x_range: Any = None, y_range: Any = None) -> None:
        before = self._shown
        if before is None:
            return
        frame = before.frame.zoomed(x_range, y_range)
        if frame != before.frame:
            self._shown = replace(before, frame=frame, grows=False)
            pn.state.execute(self._redraw)

    async def _redraw(self) -> None:
        """Draw the newest range, once it rests."""
        wanted, pipe = self._shown, self._pipe
        await asyncio.sleep(QUIET_S)
        if wanted is None or wanted is not self._shown:
            return
        view, source, frame = self._made(), self._source, wanted.frame

        def drawn(cancelled: Cancelled) -> _Shown:
            with told(view, self._kind.value):
                return _drawn(view, source, replace(frame, cancelled=cancelled))

        await self._board.draw(drawn, lambda shown: self._send(shown, pipe, zoom=[*frame.x, *frame.y]))

    def _send(self, shown: _Shown, pipe: Any, zoom: list[float] | None = None) -> None:
        """Put a picture in the place of the one that is shown, unless there is another plot by now."""
        if pipe is None or pipe is not self._pipe:
            return
        pipe.send(shown.element)
        self._shown = shown
        self._say(shown)
        if zoom is not None:
            self._whole.visible = True
            self._session.remember("zoom", zoom)

    def _selected(self, bounds: Any = None, boundsx: Any = None) -> None:
        """Look at the rows in the box that somebody has drawn."""
        shown = self._shown
        if shown is None or not isinstance(shown.view, Counted) or (bounds is None and boundsx is None):
            return
        x, y = (boundsx, None) if bounds is None else (bounds[::2], bounds[1::2])
        self._boxed.look(self._source, shown.view.query(self._source, shown.frame.zoomed(x, y)))

    async def _tick(self) -> None:
        """Take in what has committed since: what is shown already is not looked at again."""
        if self._board.busy:
            return
        ended, sources = await asyncio.to_thread(_looked, self._run, self._views)
        if ended:
            self._live = False
            self._ticker.stop()
        before = self._sources.get(self._data.value)
        self._sources = {source.key: source for source in sources}
        if not self._sources:
            if ended:
                soon(lambda: self._body.param.update(objects=[html(_NOTHING)]))
            return
        if before is None:
            soon(self._begin)
            return
        self._data.options = _named(sources)
        now, shown, pipe = self._source, self._shown, self._pipe
        if len(now.artifacts) == len(before.artifacts) and not ended:
            return
        if shown is None or shown.pictured is None:
            await self._build()
            return
        await self._board.draw(lambda cancelled: _added(shown, now, cancelled), lambda more: self._send(more, pipe))

    async def _picture(self) -> io.BytesIO:
        view, source = self._made(), self._source

        def made(cancelled: Cancelled) -> bytes:
            with told(view, self._kind.value):
                return view.picture(self._run, PICTURE_PX)

        name = "-".join([self._run.run_id, *source.key.split("/"), self._kind.value])
        self._save.filename = f"{name}.png"
        return io.BytesIO(await self._saving.make(made))


def _pane(plot: Any, height: int) -> Any:
    return pn.pane.HoloViews(plot, sizing_mode="stretch_width", height=height, linked_axes=False)


@dataclass(frozen=True)
class _Shown:
    """What a view shows.

    Parameters
    ----------
    view, frame, element
        The view, of what, as a HoloViews element.
    pictured
        What tables can be added to; None of a view that counts in its own way.
    picture
        What it was drawn from.
    grows
        Whether the frame follows what there is.
    """

    view: View
    frame: Frame
    element: Any
    pictured: Aggregation | None = None
    picture: Picture | None = None
    grows: bool = False


def _drawn(view: View, source: Dataset, frame: Frame, *, growing: bool = False) -> _Shown:
    """Return what a view shows of a frame."""
    if not isinstance(view, Counted):
        return _Shown(view, frame, view.element(source, frame))
    begun = _Shown(view, frame, None, view.begun(source, frame, growing=growing), grows=growing)
    return _added(begun, source, frame.cancelled)


def _added(shown: _Shown, source: Dataset, cancelled: Cancelled) -> _Shown:
    """Return what is shown with the tables that have come since."""
    view, pictured = shown.view, shown.pictured
    assert isinstance(view, Counted)
    assert pictured is not None
    pictured.add(source.sources, cancelled=cancelled)
    picture = pictured.picture()
    frame = view.around(source, picture, shown.frame) if shown.grows else shown.frame
    element = framed(view.shaded(source, picture), frame, view.zooming)
    return replace(shown, frame=frame, element=element, picture=picture)


def _looked(run: Run, catalogue: Catalogue) -> tuple[bool, tuple[Dataset, ...]]:
    """Return whether a run has ended, and what it has left by then."""
    ended = run.state in ENDED
    return ended, catalogue.shown(run)


def _titles(names: Sequence[str]) -> dict[str, str]:
    """Return what a choice of views says -> name; of an app's own, without the app."""
    return {name.rpartition(".")[2].capitalize(): name for name in names}


def _named(sources: Sequence[Dataset]) -> dict[str, str]:
    """Return what a choice of artifacts says -> key."""
    return {f"{one.key} · {one.kind}, {size(one.size_bytes)}": one.key for one in sources}


_NOTHING = markup.empty("Nothing to look at", "The run has left nothing that a view can show.")
_WAITING = markup.empty("Nothing has committed yet", "What the run leaves is shown here as its partitions commit.")
