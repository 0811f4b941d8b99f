"""The view of numbers over time: mean and exact envelope per column of pixels, however many there are."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import param

from agilab_dashboards import aggregates
from agilab_dashboards.aggregates import Frame
from agilab_dashboards.charts import PALETTE
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.views.base import HEIGHT_PX, View, column
from agilab_dashboards.views.raster import both


class Timeseries(View):
    """A number over time."""

    time = column("Column of times.")
    value = column("Column of numbers.")
    envelope = param.Boolean(True, doc="Whether least and greatest value are shown around the mean.")

    kinds = ("timeseries",)
    needs = {"time": ("time",), "value": ("number",)}  # noqa: RUF012, as View declares it
    zooming = "x"

    @classmethod
    def suggested(cls, source: Dataset) -> dict[str, Any]:
        return {**super().suggested(source), "value": next(iter(source.measures()), None)}

    def frame(self, source: Dataset, width_px: int = 1000, height_px: int = HEIGHT_PX) -> Frame:
        return Frame(aggregates.span(source, self.column_of(source, "time")), (0.0, 1.0), width_px, height_px)

    def draw(self, source: Dataset, frame: Frame) -> Any:
        time, value = self.column_of(source, "time"), self.column_of(source, "value")
        found = aggregates.envelope(source, time, value, within=frame.x, columns=frame.width_px)
        known = found.mean == found.mean
        axes = [hv.Dimension("time", label=source.column(time).label)]
        number = hv.Dimension("value", label=source.column(value).label)
        mean = hv.Curve((found.time[known], found.mean[known]), axes, [number], label="mean")
        mean = mean.opts(color=PALETTE[0], backend="bokeh").opts(color=PALETTE[0], backend="matplotlib")
        if not self.envelope:
            return both(mean, hover=True)
        ends = (found.time[known], found.low[known], found.high[known])
        area = hv.Area(ends, axes, [number, hv.Dimension("greatest")], label="least to greatest")
        area = area.opts(color=PALETTE[4], alpha=0.35, line_alpha=0, backend="bokeh")
        return both(area.opts(color=PALETTE[4], alpha=0.35, backend="matplotlib") * mean)
