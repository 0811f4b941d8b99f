"""Views of flight_telemetry's own kinds; they run in the server and in notebooks, never in a worker."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.views.base import View

HOUR_MS = 3600 * 1000
MOST_ROWS = 50_000_000
"""How many cells and hours of a partition are read; a year has 10 million."""


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
        ticks = list(range(0, 25, 3))
        made = made.opts(**plain, responsive=True, height=480, tools=["hover"], yticks=ticks, backend="bokeh")
        return made.opts(**plain, backend="matplotlib")


def clock(source: Dataset, frame: Frame) -> tuple[Any, Any]:
    """Return the days, and how many aircraft are in the air on average, shape (day, hour), UTC."""
    sums: dict[int, float] = {}  # hours since 1970 -> samples
    for table in source.parts(["hour", "samples"], MOST_ROWS):
        if frame.cancelled():
            break
        hours, place = np.unique(
            table["hour"].cast("timestamp[ms]").cast("int64").to_numpy() // HOUR_MS, return_inverse=True
        )
        for hour, count in zip(hours.tolist(), np.bincount(place, table["samples"].to_numpy()).tolist(), strict=True):
            sums[hour] = sums.get(hour, 0.0) + count
    first, last = min(sums, default=0) // 24, max(sums, default=0) // 24
    samples = np.zeros(24 * (last - first + 1))
    samples[np.array(list(sums), dtype=int) - 24 * first] = list(sums.values())
    sample_s = float(source.run.request["settings"]["sample_s"])
    days = np.arange(first, last + 1).astype("datetime64[D]")
    return days, samples.reshape(len(days), 24) * sample_s / 3600
