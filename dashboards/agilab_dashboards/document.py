"""One document for every page: reads the query, frames the page, and lets no error past as a traceback."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.io.resources import LOCAL_DIST
from tornado.websocket import WebSocketClosedError

from agilab.errors import AgilabError, first_line
from agilab.paths import make_folder
from agilab_dashboards import markup
from agilab_dashboards.form import html
from agilab_dashboards.markup import code, element
from agilab_dashboards.options import is_loopback
from agilab_dashboards.pages import PAGES, TITLES
from agilab_dashboards.session import LONGEST, PLUGIN_COMMAND, Session
from agilab_dashboards.template import COOKIE, frame

PATIENCE_S = 2.0
"""How long a page waits for its browser to say where it is [s]."""
_LOG = logging.getLogger("agilab_dashboards")


def document(*, guarded: bool, readers: Sequence[str] = ()) -> Callable[[], Any]:
    """Return what builds the document of one browser session.

    Parameters
    ----------
    guarded
        Whether our guard stands before the server.
    readers
        Users who may look and change nothing.
    """
    pn.extension("tabulator", notifications=False)

    def build() -> Any:
        user = pn.state.user or ""
        asyncio.get_running_loop().set_exception_handler(_unless_gone)
        _stay_here()
        session = Session(_query(), guarded=guarded, user=user, reads_only=user in readers)
        try:
            return framed(session)
        except Exception as err:  # the same guard, for what no page has built yet
            return _message(session, err)

    def framed(session: Session) -> Any:
        body = pn.Column(_loading(), sizing_mode="stretch_width")
        errors = pn.Column(sizing_mode="stretch_width")
        pn.config.exception_handler = lambda error: _show(errors, session, error)
        only = [pmui.Alert("You may look here and change nothing.", severity="info")] if session.reads_only else []
        page = frame(session, TITLES, [*only, errors, body])
        if not guarded and not _local():
            body.objects = [pmui.Alert(_REFUSED, severity="error")]
            return page

        async def fill() -> None:
            info = await _browser()
            session.zone = _zone(info)
            dark = COOKIE not in pn.state.cookies and getattr(info, "dark_mode", False)
            made = await _page(session)

            def show() -> None:
                body.objects = [made]
                if dark:
                    page.dark_theme = True

            if pn.state.curdoc is None:
                show()
            else:  # after an await the document may be in the middle of sending something else
                pn.state.curdoc.add_next_tick_callback(show)

        pn.state.onload(fill)
        return page

    return build


async def _page(session: Session) -> Any:
    """Build a page; whatever that raises becomes what the page says."""
    make = PAGES.get(session.page)
    try:
        if make is None:
            known = ", ".join(PAGES)
            raise AgilabError(f"there is no page {session.page!r:.60}; known: {known}")
        return await make(session)
    except Exception as err:  # the one guard of every page: no traceback reaches a browser
        return _message(session, err)


def _show(place: pn.Column, session: Session, error: Exception) -> None:
    """Show what a callback raised, above the page; the next one replaces it."""
    place.objects = [_message(session, error)]


def _message(session: Session, error: BaseException) -> pmui.Alert:
    """Return an error as a sentence; one that is not ours as a short id, under which the log has the rest."""
    if isinstance(error, AgilabError):
        return pmui.Alert(html(element("span", error)), severity="error", closeable=True, sizing_mode="stretch_width")
    ident = secrets.token_hex(3)
    log_to(session.log)
    _LOG.error("%s: %s", ident, first_line(error), exc_info=error)
    said = element("strong", f"Something went wrong (error {ident}).")
    text = markup.join([said, f" Nothing was lost; try again. The details stand under {ident} in ", code(session.log)])
    return pmui.Alert(html(text), severity="error", closeable=True, sizing_mode="stretch_width")


def log_to(path: Path, *loggers: str) -> None:
    """Write what our pages, and some other loggers, report into the server's log; once per process."""
    if _LOG.handlers:
        return
    make_folder(path.parent)
    path.touch(mode=0o600)
    handler = logging.FileHandler(path)
    handler.setLevel(logging.WARNING)  # Panel tells every value that a browser sends
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for logger in (_LOG, *map(logging.getLogger, loggers)):
        logger.handlers, logger.propagate = [handler], False  # Bokeh's own writes to the terminal


class _Redacted(logging.Formatter):
    """Leaves out what is in a URL's token."""

    def format(self, record: logging.LogRecord) -> str:
        return re.sub(r"token=[^&\s'\"]+", "token=(hidden)", super().format(record))


def _unless_gone(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what went wrong in the loop; not that a browser went away in the middle of what it was sent.

    Bokeh and Panel look at the first message that could not be sent, and asyncio complains about each of the others.
    """
    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)


def _query() -> dict[str, str]:
    """Return the query of the request that opened the session."""
    found: Mapping[str, Any] = pn.state.session_args or {}
    texts = {name: values[0].decode("utf-8", "replace") for name, values in found.items() if values}
    return {name: text for name, text in texts.items() if len(text) <= LONGEST}


def _stay_here() -> None:
    """Let style sheets come from this server also where a browser was so slow that its session was made anew.

    Panel says where they are when it writes the page; such a session has none.
    """
    curdoc = pn.state.curdoc
    if curdoc is not None:
        place = f"{pn.state.rel_path}/{LOCAL_DIST}" if pn.state.rel_path else LOCAL_DIST
        curdoc.template_variables.setdefault("dist_url", place)


def _local() -> bool:
    """Whether the request names this machine, as far as a server without our guard can tell."""
    host = str(pn.state.headers.get("Host", "")).rpartition(":")[0].strip("[]")
    return is_loopback(host)


async def _browser() -> Any:
    """Return what the browser has said of itself; it may say so a moment after it has the page."""
    info = pn.state.browser_info
    if info is not None and not info.timezone:
        told = asyncio.Event()
        watcher = info.param.watch(lambda event: told.set(), "timezone")
        with suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), PATIENCE_S)
        info.param.unwatch(watcher)
    return info


def _zone(info: Any) -> str:
    from zoneinfo import available_timezones

    name = getattr(info, "timezone", "") or ""
    return name if name in available_timezones() else ""


def _loading() -> Any:
    return pn.pane.HTML('<p role="status">Loading ...</p>', margin=(40, 0))


_REFUSED = (
    "This server was started by `panel serve`, which checks neither host nor login, and was reached by another name "
    f"than localhost. Start it with our guard: {PLUGIN_COMMAND} --basic-auth FILE --cookie-secret SECRET "
    "--allow-websocket-origin NAME:PORT, or with `agilab serve`."
)
