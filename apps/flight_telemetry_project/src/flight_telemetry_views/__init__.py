"""Views of flight_telemetry's own kinds; they run in the server and in notebooks, never in a worker."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.views.base import View

from agilab import raster

HOUR_NS, DAY_NS = 3600 * 10**9, 24 * 3600 * 10**9


class Clock(View):
    """How many aircraft are in the air, by day and hour: nights are quiet, and so are days of snow."""

    kinds = ("flight_telemetry.traffic",)

    def draw(self, source: Dataset, frame: Frame) -> Any:
        days, aloft = clock(source, frame)
        edges = np.append(days, days[-1] + np.timedelta64(1, "D")).astype("datetime64[ns]")
        axes = [hv.Dimension("day"), hv.Dimension("hour", label="hour of the day [UTC]")]
        value = hv.Dimension("aloft", label="aircraft in the air")
        made = hv.QuadMesh((edges, np.arange(25), aloft.T), axes, [value])
        plain = {"cmap": "viridis", "colorbar": True, "clabel": value.label}
        made = made.opts(
            **plain, responsive=True, height=480, tools=["hover"], yticks=list(range(0, 25, 3)), backend="bokeh"
        )
        return made.opts(**plain, backend="matplotlib")


def clock(source: Dataset, frame: Frame) -> tuple[Any, Any]:
    """Return the days, and how many aircraft are in the air on average, shape (day, hour), UTC."""
    box = raster.extent(source.sources, "hour", "hour", cancelled=frame.cancelled)
    first, last = (0, 0) if box is None else (int(box[0]) // DAY_NS, int(box[2]) // DAY_NS)
    count = last - first + 1
    # Hours lie in the middle of their cells, where no rounding can take them to the next.
    start = first * DAY_NS - HOUR_NS // 2
    within = (start, start + count * DAY_NS)
    query = raster.Query(
        "hour", "hour", 24 * count, 1, within, within, reduction="sum", value="samples"
    )  # fmt: skip
    found = raster.aggregate(source.sources, query, cancelled=frame.cancelled)
    sample_s = float(source.run.request["settings"]["sample_s"])
    aloft = np.nan_to_num(found.values).reshape(count, 24) * sample_s / 3600
    return np.arange(first, last + 1).astype("datetime64[D]"), aloft
