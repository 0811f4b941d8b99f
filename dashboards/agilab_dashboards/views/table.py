"""The view of tables: rows as they stand, some at a time."""

from __future__ import annotations

from typing import Any

import param

from agilab_dashboards.datasets import Dataset
from agilab_dashboards.views.listed import Listed


class Table(Listed):
    """Rows of a table, as many as are asked for."""

    columns = param.ListSelector(
        default=[], objects=[], check_on_set=False, doc="Which columns; none selected means all."
    )
    first = param.Integer(0, bounds=(0, None), doc="How many rows are passed over.")
    count = param.Integer(200, bounds=(1, 5000), doc="How many rows are shown.")

    kinds = ("table",)
    needs = {"columns": ("number", "time", "text", "other")}  # noqa: RUF012, as View declares it
    chosen = ("columns",)

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        return source.is_table

    def frame_of_rows(self, source: Dataset) -> Any:
        names = [name for name in self.columns if name in {one.name for one in source.columns}]
        names = names or [one.name for one in source.columns]
        return source.readable(source.slice(self.first, self.count, names))
