"""Many sessions that follow one run: it is read once, each draws in its turn, and none is kept that has ended."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agilab_dashboards import follow, live
from agilab_dashboards.components import Work
from agilab_dashboards.live import LogFilter, Watch, log_lines
from agilab_dashboards.session import Session
from agilab_dashboards.template import frame
from bokeh.document import Document
from panel.io.state import set_curdoc

from agilab.run import Run
from tests.run_folder import RunFolder


class Looker:
    """A session with a document, as a server has them, and what it has drawn."""

    def __init__(self) -> None:
        self.document: Any = Document()
        self.session = SimpleNamespace(connection_count=1)
        self.document._session_context = lambda: SimpleNamespace(session=self.session)
        self.document.add_next_tick_callback = lambda turn: self.turns.append(turn)
        self.turns: list[Any] = []
        self.drawn: list[int] = []

    async def draw(self, found: Watch) -> None:
        self.drawn.append(len(found.spans))

    def join(self, one: follow.Follow) -> None:
        with set_curdoc(self.document):
            one.join(self.draw)

    async def has_turn(self) -> None:
        """Wait until it may draw, and let it."""
        async with asyncio.timeout(10):
            while not self.turns:
                await asyncio.sleep(0.005)
        await self.turns.pop()()


def test_a_run_is_read_once_for_all_who_look_and_only_those_draw_who_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PERIOD_S", 0.01)
    monkeypatch.setattr(live, "FRESH_S", 0.0)
    monkeypatch.setattr(Watch, "ended", property(lambda watch: watch.state == "succeeded"))  # nobody owns this folder
    folder = RunFolder(tmp_path, partitions=1)
    one = follow.Follow(Run(folder.paths))
    looks: list[Watch] = []
    look = one.watch.look
    monkeypatch.setattr(one.watch, "look", lambda: looks.append(one.watch) or look())
    first, second, away = Looker(), Looker(), Looker()
    away.session.connection_count = 0

    async def follow_it() -> None:
        for looker in (first, second, away):
            looker.join(one)
        await first.has_turn()
        await second.has_turn()
        begin = len(looks)
        await first.has_turn()  # the second one gets a further turn too, and does not take it
        while len(looks) < begin + 3:
            await asyncio.sleep(0.005)
        assert len(second.turns) == 1, "it has not drawn yet what it was given"
        assert away.turns == [], "nobody is connected"
        folder.commit("tracks", "p0", worker="local-0", files={"points": b"1"})
        folder.plan()
        folder.prepare()
        folder.commit("summary", "summary", files={"count": b"2"})
        folder.seal()
        for looker in (first, second):
            while looker.drawn[-1] < 2:
                await looker.has_turn()
        away.session.connection_count = 1
        await away.has_turn()
        assert one._task is not None
        await asyncio.wait_for(one._task, 10)

    asyncio.run(follow_it())
    assert (first.drawn[0], first.drawn[-1], away.drawn) == (0, 2, [2])


def test_what_one_session_makes_of_a_look_is_given_to_the_others_until_the_next(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, partitions=1)
    watch = Watch(Run(folder.paths)).look()
    wanted = LogFilter(words="nobody")
    assert watch.once(wanted, lambda: ["made"]) is watch.once(wanted, lambda: ["made again"])
    watch.forget_end()
    assert watch.look().once(wanted, lambda: log_lines(watch, wanted)) == []


def test_a_page_is_let_go_when_its_session_ends(home: Path) -> None:
    with set_curdoc(Document()):
        page = weakref.ref(frame(Session({}), {"home": "Home"}, []))
    gc.collect()
    assert page() is None


def test_work_moves_its_bar_and_rests_its_buttons_while_it_goes_on() -> None:
    button = SimpleNamespace(disabled=False)
    work = Work(button)
    work.tell("begins")
    seen: list[tuple[bool, bool]] = []

    def fail() -> None:
        seen.append(("progressbar" in work._pane.object, button.disabled))
        work.tell("half")
        seen.append(("progressbar" in work._pane.object, "half" in work._pane.object))
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(work.do(fail))
    assert seen == [(True, True), (True, True)]
    assert (button.disabled, "progressbar" in work._pane.object, "half" in work._pane.object) == (False, False, True)
