"""The history of runs on a page: filtered and sorted as `agilab runs` does it, with two to choose for a comparison."""

from __future__ import annotations

import asyncio
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.errors import QueryError
from agilab.history import STATES, Found, Query, condition, find
from agilab.rows import Row
from agilab_dashboards import markup, rows
from agilab_dashboards.components import card, data_table, row
from agilab_dashboards.form import html
from agilab_dashboards.markup import Markup, element, link
from agilab_dashboards.session import Session, href

SORTS = {
    "newest first": "-started",
    "oldest first": "started",
    "longest first": "-took",
    "shortest first": "took",
    "state": "state",
    "app": "app",
}
WIDTHS = {"run": 200, "state": 110, "started": 155, "took [s]": 95, "partitions": 105}


class RunList(Viewer):
    """Runs that fit what is asked for; the question stands in the URL.

    Parameters
    ----------
    session
        Who looks; of one app where the session has one.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        told = session.query
        states = {"any state": "", **{state: state for state in STATES}}
        state = told.get("state", "") if told.get("state", "") in STATES else ""
        sort = told.get("sort", "-started")
        orders = SORTS if sort in SORTS.values() else {**SORTS, sort: sort}
        self._inputs: dict[str, Any] = {
            "state": pmui.Select(label="State", options=states, value=state, width=150),
            "tag": _text("Tags", "baseline", told.get("tag", "")),
            "setting": _text("Settings", "name>=60", told.get("setting", "")),
            "metric": _text("Metrics", "name<0.5", told.get("metric", "")),
            "sort": pmui.Select(label="Order", options=orders, value=sort, width=160),
        }
        self._compare = pmui.Button(label="Compare", color="primary", disabled=True)
        self._said = html(Markup(""))
        self._place = pn.Column(sizing_mode="stretch_width")
        self._shown: tuple[Row, ...] = ()
        for name, widget in self._inputs.items():
            widget.param.watch(lambda event, name=name: self._asked(name, event.new), "value")
        asked = row(*self._inputs.values(), self._compare)
        self._view = card("", asked, self._said, self._place)

    def __panel__(self) -> Viewable:
        return self._view

    async def start(self) -> RunList:
        """Find the runs."""
        await self._find()
        return self

    def _asked(self, name: str, value: str) -> None:
        default = "-started" if name == "sort" else ""
        self._session.remember(name, value if value != default else None)
        pn.state.execute(self._find)

    def _query(self) -> Query:
        asked = {name: str(widget.value or "").strip() for name, widget in self._inputs.items()}
        return Query(
            app=self._session.app,
            states=(asked["state"],) if asked["state"] else (),
            settings=_conditions(asked["setting"]),
            metrics=_conditions(asked["metric"]),
            tags=tuple(asked["tag"].replace(",", " ").split()),
            sort=asked["sort"] or "-started",
            limit=rows.MOST_RUNS,
        )

    async def _find(self) -> None:
        try:
            query = self._query()
            found = await asyncio.to_thread(find, self._session.env.home, query)
        except QueryError as err:
            self._said.object = str(markup.alert(err))
            return
        pn.state.execute(lambda: self._show(found), schedule=True)  # after an await it may be sending

    def _show(self, found: Found) -> None:
        said = f"{found.count:,} of {found.total:,} runs" if found.count < found.total else f"{found.total:,} runs"
        more = f", the first {len(found.rows):,} are shown" if len(found.rows) < found.count else ""
        self._said.object = str(
            element("p", f"{said}{more}. Tick two to compare them.", {"class": "soft", "role": "status"})
        )
        self._compare.disabled = True
        if not found.rows:
            self._place.objects = [html(markup.empty("No run fits", "Ask for less above."))]
            return
        table = data_table(self._cells(rows.listed(found.rows)), WIDTHS, selectable="checkbox")
        table.formatters = {**table.formatters, "run": "html"}
        table.param.watch(self._ticked, "selection")
        self._shown = found.rows
        self._place.objects = [table]

    def _cells(self, found: list[rows.Row]) -> list[rows.Row]:
        failed, tagged = any(one["error"] for one in found), any(one["tags"] for one in found)
        return [
            {
                "run": str(link(href("analysis", app=one["app"], run=one["run"]), one["run"])),
                "app": one["app"],
                "state": f"{markup.SIGNS.get(one['state'], '●')} {one['state']}",
                "started": markup.when(one["created"], self._session.zone),
                "took [s]": one["duration_s"],
                "partitions": one["partitions"],
                **({"tags": one["tags"]} if tagged else {}),
                **({"why": one["error"]} if failed else {}),
            }
            for one in found
        ]

    def _ticked(self, event: Any) -> None:
        self._compare.disabled = len(event.new) != 2
        if len(event.new) == 2:
            chosen = [self._shown[place] for place in sorted(event.new, reverse=True)]
            names = ",".join(f"{one.app}/{one.run_id}" for one in chosen)
            self._compare.href = href("analysis", app=self._session.app, state={"compare": names})


def _text(label: str, hint: str, value: str) -> Any:
    return pmui.TextInput(label=label, placeholder=hint, value=value, width=180)


def _conditions(text: str) -> tuple[Any, ...]:
    return tuple(condition(part) for part in text.split(" and ") if part.strip())
