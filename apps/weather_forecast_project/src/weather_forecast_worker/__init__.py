"""The work of weather_forecast: one method per stage; what they compute with is the notebook's own `definitions`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from agilab.worker import PartitionContext, Worker
from weather_forecast_worker.definitions import (
    HOURS,
    START,
    as_table,
    forecasts,
    moments,
    overall,
    read_series,
    score,
)

UNITS = {"temp": "degC", "dewp": "degC", "humid": "%", "wind_speed": "m/s", "pressure": "hPa", "visib": "km"}
MEASURED = ("forecast", "low", "high", "observed", "EWR", "JFK", "LGA")
"""Columns that have the unit of the variable."""


class WeatherForecastWorker(Worker):
    """Forecasts, and says how good forecasts were."""

    def backtest(self, part: PartitionContext) -> None:
        """Forecast an airport from many moments of the year, from each with its past only."""
        settings, airport = self.settings, part.params["airport"]
        train_h = 24 * settings.train_days
        series = read_series(part.inputs["weather"], settings.variable)[airport]
        begins = moments(settings.folds, train_h, settings.horizon_h)
        rows = []
        for done, first_hour in enumerate(begins, 1):
            rows += forecasts(airport, series, first_hour, train_h, settings.horizon_h, settings.coverage)
            part.progress(done, len(begins))
        part.write("forecasts", "forecast", self._with_units(as_table(rows)))

    def scores(self, part: PartitionContext) -> None:
        """Hold all forecasts against what was observed, by method and horizon."""
        paths = sorted(part.inputs.named("forecasts"))
        rows = score(pa.concat_tables([parquet.read_table(path) for path in paths]))
        found = overall(rows)
        part.write("scores", "table", pa.Table.from_pylist(rows))
        part.write("overall", "json", found)
        for method, values in found.items():
            for name, value in values.items():
                part.metric(f"{name}_{method}", value)
        for row in rows:
            part.metric(f"mae_by_horizon_{row['method']}", row["mae"], row["horizon_h"])

    def forecast(self, part: PartitionContext) -> None:
        """Forecast what comes after the last observation."""
        settings = self.settings
        whole = read_series(part.inputs["weather"], settings.variable)
        rows = []
        for airport, series in whole.items():
            rows += forecasts(airport, series, HOURS, 24 * settings.train_days, settings.horizon_h, settings.coverage)
        part.write("forecast", "forecast", self._with_units(as_table(rows)))
        hours = (np.datetime64(START) + np.arange(HOURS)).astype("datetime64[s]")
        part.write("series", "timeseries", self._with_units(pa.table({"time": hours, **whole})))

    def _with_units(self, table: pa.Table) -> pa.Table:
        """Return a table whose columns say their unit, and whose times are in UTC."""
        fields = []
        for field in table.schema:
            if field.name in MEASURED:
                field = field.with_metadata({"unit": UNITS[self.settings.variable]})
            elif pa.types.is_timestamp(field.type):
                field = field.with_type(pa.timestamp("s", "UTC"))
            fields.append(field)
        return table.cast(pa.schema(fields))
