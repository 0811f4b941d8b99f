"""The view of numbers over time: mean and exact envelope per column of pixels, however many there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import holoviews as hv
import numpy as np
import param

from agilab import raster
from agilab.raster import Picture, Query
from agilab.raster.series import Envelope, enveloping
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.markup import PALETTE
from agilab_dashboards.views.base import PAGE, column
from agilab_dashboards.views.raster import Counted, both, decoded


class Timeseries(Counted):
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

    def whole(self, source: Dataset, frame: Frame = PAGE) -> Frame:
        time = self.column_of(source, "time")
        box = raster.extent(source.sources, time, time, cache=decoded(), cancelled=frame.cancelled)
        return replace(frame.over(box), y=frame.y)

    def query(self, source: Dataset, frame: Frame) -> Query:
        time, value = self.column_of(source, "time"), self.column_of(source, "value")
        return enveloping(Query(time, value, frame.width_px, x_range=frame.x, filters=self.conditions(source)))

    def rows(self, picture: Picture) -> int:
        return int(Envelope.of(picture).count.sum())

    def shade(self, source: Dataset, picture: Picture) -> Any:
        found = Envelope.of(picture)
        left, right = found.x_range
        middle = left + (np.arange(len(found.count)) + 0.5) * (right - left) / len(found.count)
        known = found.count > 0
        at = middle[known].astype("datetime64[ns]")
        axes = [hv.Dimension("time", label=source.column(self.column_of(source, "time")).label)]
        number = hv.Dimension("value", label=source.column(self.column_of(source, "value")).label)
        mean = hv.Curve((at, found.mean[known]), axes, [number], label="mean")
        mean = mean.opts(color=PALETTE[0], backend="bokeh").opts(color=PALETTE[0], backend="matplotlib")
        mean = both(mean, hover=True)
        if not self.envelope:
            return mean
        ends = (at, found.minimum[known], found.maximum[known])
        area = hv.Area(ends, axes, [number, hv.Dimension("greatest")], label="least to greatest")
        area = area.opts(color=PALETTE[4], alpha=0.35, line_alpha=0, backend="bokeh")
        return both(area.opts(color=PALETTE[4], alpha=0.35, backend="matplotlib")) * mean
