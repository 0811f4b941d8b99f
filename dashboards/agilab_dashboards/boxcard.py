"""The rows in a box that somebody has drawn on a view: how many, their statistics, and the first thousand."""

from __future__ import annotations

import math
from typing import Any

import panel as pn
from panel.viewable import Viewable, Viewer

from agilab.cli.screen import count
from agilab.raster import Query
from agilab.raster.scan import Cancelled
from agilab.raster.selection import Selection, Statistics, select
from agilab_dashboards import markup
from agilab_dashboards.board import Board
from agilab_dashboards.components import data_table
from agilab_dashboards.conditions import value_text
from agilab_dashboards.datasets import Column, Dataset
from agilab_dashboards.form import html
from agilab_dashboards.markup import Markup, alert, element


class BoxCard(Viewer):
    """What lies in a box; nothing before there is one."""

    def __init__(self) -> None:
        super().__init__()
        self._board = Board()
        self._view = pn.Column(self._board, sizing_mode="stretch_width", visible=False)

    def __panel__(self) -> Viewable:
        return self._view

    def clear(self) -> None:
        """Forget the box."""
        self._board.clear()
        self._view.visible = False

    def look(self, source: Dataset, query: Query) -> None:
        """Show the rows of a table that a query's ranges hold."""

        def found(cancelled: Cancelled) -> tuple[Selection, list[dict[str, Any]]]:
            chosen = select(source.sources, query, cancelled=cancelled)
            return chosen, source.readable(chosen.rows).to_dict("records")

        def show(looked: tuple[Selection, list[dict[str, Any]]]) -> None:
            chosen, rows = looked
            lost = [html(alert(text)) for text in chosen.missing]
            self._board.put(*lost, html(_head(chosen, source)), *([data_table(rows)] if rows else []))

        async def draw() -> None:
            await self._board.draw(found, show)

        self._view.visible = True
        pn.state.execute(draw)


def _head(found: Selection, source: Dataset) -> Markup:
    shown = found.rows.num_rows
    more = f", the first {shown:,} of them below" if 0 < shown < found.count else ""
    said = f"{count(found.count, 'row', 'rows')} in the box{more}"
    rows = [
        (column.label, f"{known.count:,}", *(_text(known, name, column) for name in ("minimum", "mean", "maximum")),
         _text(known, "deviation", column) if column.type == "number" else "")
        for column, known in ((source.column(name), known) for name, known in found.statistics.items())
    ]  # fmt: skip
    heads = ("column", "values", "least", "mean", "greatest", "standard deviation")
    table = markup.table(heads, rows, right=range(1, 6)) if rows and found.count else Markup("")
    return element("h3", said, {"role": "status", "data-selected": str(found.count)}) + table


def _text(known: Statistics, name: str, column: Column) -> str:
    value = float(getattr(known, name))
    if math.isnan(value):
        return ""
    return value_text(value, column) if column.type == "time" else f"{value:,.6g}"
