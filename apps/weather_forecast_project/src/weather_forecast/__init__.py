"""How well the weather at New York's airports can be told from its past: settings and plan; it reads no observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import param

import agilab
from agilab import App, InputRef, Partition, Stage, WorkPlan
from agilab.app import PartitionResult

AIRPORTS = ("EWR", "JFK", "LGA")
VARIABLES = ("temp", "dewp", "humid", "wind_speed", "pressure", "visib")
WEATHER = InputRef(name="weather", path="weather.csv")


class WeatherForecast(App):
    """Plans a backtest per airport, scores over all of them, and the forecast from the last hour on."""

    class Settings(agilab.Settings):
        """What is forecast, and how it is tested."""

        variable = param.Selector(default="temp", objects=list(VARIABLES), doc="column of weather.csv that is forecast")
        horizon_h = param.Integer(48, bounds=(1, 168), doc="how far ahead [h]")
        train_days = param.Integer(28, bounds=(3, 120), doc="what a forecast is learned from [d]")
        folds = param.Integer(24, bounds=(1, 2000), doc="from how many moments of the year each airport is forecast")
        coverage = param.Number(0.8, bounds=(0.5, 0.99), doc="share of observations that the intervals should hold")

    settings: Settings

    def inputs(self) -> Sequence[InputRef]:
        """List the one table that is read."""
        return [WEATHER]

    def plan(self) -> WorkPlan:
        """Give every airport a partition: they differ little in observations."""
        backtest = [Partition(airport, params={"airport": airport}, inputs=(WEATHER,)) for airport in AIRPORTS]
        return WorkPlan(
            (
                Stage("backtest", tuple(backtest)),
                Stage("scores", after=("backtest",)),
                Stage("forecast", (Partition("forecast", inputs=(WEATHER,)),)),
            )
        )

    def summarize(self, results: Sequence[PartitionResult]) -> Mapping[str, float]:
        """Take the scores over all horizons; those by horizon stay with their partition, step by step."""
        found = {name: value for result in results for name, value in result.metrics.items()}
        return {name: value for name, value in found.items() if "_by_horizon_" not in name}
