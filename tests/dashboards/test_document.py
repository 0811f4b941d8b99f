"""What a page says when something goes wrong: a sentence, or a short id under which the log has the rest."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import panel as pn
import pytest
from agilab_dashboards import document
from agilab_dashboards.session import Session
from bokeh.document import Document
from panel.io.browser import BrowserInfo
from panel.io.state import set_curdoc
from tornado.websocket import WebSocketClosedError

from agilab.errors import AgilabError, RunNotFoundError
from tests.run_folder import sealed_run


@pytest.fixture(autouse=True)
def no_log_yet() -> Iterator[None]:
    """Let the log of this test be the first one of the process."""
    log = logging.getLogger("agilab_dashboards")
    before, log.handlers = log.handlers, []
    yield
    for handler in log.handlers:
        handler.close()
    log.handlers = before


def test_a_run_is_found_by_its_id_also_where_its_app_is_named_by_a_path(home: Path) -> None:
    run_id = sealed_run(home).run_id
    for app in ("flights", str(home / "flights_project"), ""):
        assert Session({"app": app, "run": run_id}).found_run().run_id == run_id
    for run in (f"../runs/flights/{run_id}", f"flights/{run_id}"):
        with pytest.raises(RunNotFoundError, match="no folders in it"):
            Session({"run": run}).found_run()


def test_a_page_waits_until_its_browser_has_said_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    info = BrowserInfo()
    monkeypatch.setattr(type(pn.state), "browser_info", info)

    async def wait() -> str:
        asking = asyncio.create_task(document._browser())
        await asyncio.sleep(0)
        info.timezone = "Asia/Tokyo"
        return document._zone(await asking)

    assert asyncio.run(wait()) == "Asia/Tokyo"


def test_a_session_that_no_page_was_written_for_loads_nothing_from_elsewhere(home: Path) -> None:
    made = Document()
    with set_curdoc(made):
        document._stay_here()
    assert made.template_variables["dist_url"] == "static/extensions/panel/"


def said(home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    async def page(session: Session) -> None:
        raise error

    monkeypatch.setattr(document, "PAGES", {"home": page})
    return str(asyncio.run(document._page(Session({}))).objects[0].object)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"page": "nowhere"}, "no page 'nowhere'; known: home, project"),
        ({"page": "analysis", "run": "20990101"}, "no run '20990101'"),
        ({"page": "orchestrate", "app": "nobody"}, "no app project 'nobody'"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(home: Path, query: dict[str, str], sentence: str) -> None:
    assert sentence in unescape(asyncio.run(document._page(Session(query))).objects[0].object)


def test_an_error_of_ours_is_its_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(home, monkeypatch, AgilabError("too <b>large</b>")) == "<span>too &lt;b&gt;large&lt;/b&gt;</span>"


def test_another_error_is_a_short_id_and_the_log_has_its_traceback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(home, monkeypatch, ValueError("inner words at /?token=abc"))
    log = home / "server" / "server.log"
    found = re.search(r"error ([0-9a-f]{6})", text)
    assert found, text
    assert str(log) in text
    assert "inner words" not in text
    assert "Traceback" not in text
    written = log.read_text()
    assert found[1] in written
    assert "Traceback" in written
    assert "inner words at /?token=(hidden)" in written
    assert log.stat().st_mode & 0o077 == 0


def test_a_browser_that_goes_away_in_the_middle_is_no_error_and_everything_else_is() -> None:
    told: list[dict[str, object]] = []
    loop = asyncio.new_event_loop()
    loop.default_exception_handler = told.append  # type: ignore[method-assign, assignment]
    for error in (WebSocketClosedError(), ValueError("broken")):
        document._unless_gone(loop, {"exception": error})
    loop.close()
    assert [str(context["exception"]) for context in told] == ["broken"]
