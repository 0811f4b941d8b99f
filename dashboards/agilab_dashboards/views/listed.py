"""`Listed`, the base of views that show rows of text and numbers instead of a drawing."""

from __future__ import annotations

from typing import Any

import holoviews as hv

from agilab.run import Run
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.views.base import DPI, View, saved

PICTURE_ROWS = 15
"""How many rows a picture shows."""


class Listed(View):
    """Rows as they stand."""

    def frame_of_rows(self, source: Dataset) -> Any:
        """Return the rows as a pandas DataFrame whose columns say their units."""
        raise NotImplementedError

    def draw(self, source: Dataset, frame: Frame) -> Any:
        return hv.Table(self.frame_of_rows(source)).opts(width=1000, height=420, backend="bokeh")

    def picture(self, run: Run, width_px: int = 800) -> bytes:
        """Return the first rows as text on a PNG."""
        from matplotlib.figure import Figure

        found = self.frame_of_rows(self.source(run)).head(PICTURE_ROWS)
        text = found.to_string(index=False, max_cols=8, max_colwidth=24, float_format="{:.6g}".format)
        lines = text.splitlines()
        size = max(4.0, min(11.0, 112 * width_px / 100 / max(map(len, lines))))
        figure = Figure(figsize=(width_px / DPI, len(lines) * size * 1.4 / 72 + 0.2))
        figure.text(0.01, 0.98, text, family="monospace", fontsize=size, va="top", parse_math=False)
        return saved(figure)
