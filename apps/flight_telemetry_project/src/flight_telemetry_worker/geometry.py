"""Where an aircraft is and when: great circle and trapezoid profile over arrays; it reads and writes no file.

The source says when and where a flight left and arrived. What happens in
between is modelled:

- *path*: the great circle between the two airports, on a sphere;
- *profile*: ground speed rises for the first `RAMP_S` (at most a third of the
  flight) from `END_SPEED` of the cruising speed to all of it, stays there, and
  falls in the same way at the end. Cruising speed follows from the length of
  the path and the duration, so that the aircraft is over its destination on time.
  Altitude rises and falls along the same trapezoid, between the elevation of
  each airport and the cruising altitude.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

MERCATOR_RADIUS_M = 6_378_137.0
"""Radius of the sphere of web Mercator (EPSG:3857) [m]."""
EARTH_RADIUS_M = 6_371_008.8
"""Mean radius of the Earth (IUGG), for distances and speeds [m]."""
RAMP_S = 1200
"""Longest time of climb and of descent [s]."""
END_SPEED = 0.35
"""Ground speed at take-off and landing, as a part of the cruising speed."""
CLIMB_M_S = 9.0
"""Mean rate of climb, which limits the cruising altitude of short flights [m/s]."""
CRUISE_M = 10_668.0
"""Highest cruising altitude, 35,000 feet [m]."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Legs:
    """Flights as arrays of one length.

    Parameters
    ----------
    flight_id
        Row of the source table, from 0.
    carrier
        Index of the carrier.
    departure_s
        Seconds since 1970, UTC [s].
    duration_s
        Time in the air, above 0 [s].
    node_longitude, node_sine, node_cosine
        Where the great circle crosses the equator northwards [rad], and sine and cosine of its azimuth there.
    start, arc
        Angle from that crossing to the origin, and from there to the destination [rad].
    origin_m, destination_m, cruise_m
        Altitudes [m].
    ramp_s
        Time of climb and of descent [s].
    """

    flight_id: Integers
    carrier: Integers
    departure_s: Integers
    duration_s: Integers
    node_longitude: Floats
    node_sine: Floats
    node_cosine: Floats
    start: Floats
    arc: Floats
    origin_m: Floats
    destination_m: Floats
    cruise_m: Floats
    ramp_s: Floats

    def __len__(self) -> int:
        return len(self.flight_id)

    def part(self, start: int, stop: int) -> Legs:
        """Return some of the flights, as views."""
        return Legs(*(getattr(self, field.name)[start:stop] for field in fields(self)))


@dataclass(frozen=True)
class Airports:
    """Where flights start or end: longitude and latitude [rad] and elevation [m], arrays of one length."""

    longitude: Floats
    latitude: Floats
    elevation_m: Floats


def great_circles(origin: Airports, destination: Airports) -> dict[str, Floats]:
    """Return `node_longitude`, `node_sine`, `node_cosine`, `start` and `arc` of `Legs`.

    Notes
    -----
    Spherical trigonometry in the form of "Great-circle navigation": a point at
    angle s from the node has sine of latitude ``node_cosine * sin(s)`` and
    longitude ``node_longitude + atan2(node_sine * sin(s), cos(s))``. It needs no
    case for poles, the equator or the antimeridian.
    """
    east = destination.longitude - origin.longitude
    sin_1, cos_1 = np.sin(origin.latitude), np.cos(origin.latitude)
    sin_2, cos_2 = np.sin(destination.latitude), np.cos(destination.latitude)
    across = cos_2 * np.sin(east)
    along = cos_1 * sin_2 - sin_1 * cos_2 * np.cos(east)
    course = np.arctan2(across, along)
    node_sine = np.sin(course) * cos_1
    start = np.arctan2(sin_1, np.cos(course) * cos_1)
    return {
        "node_longitude": origin.longitude - np.arctan2(node_sine * np.sin(start), np.cos(start)),
        "node_sine": node_sine,
        "node_cosine": np.hypot(np.cos(course), np.sin(course) * sin_1),
        "start": start,
        "arc": np.arctan2(np.hypot(across, along), sin_1 * sin_2 + cos_1 * cos_2 * np.cos(east)),
    }


def legs(
    flight_id: Integers,
    carrier: Integers,
    *,
    departure_s: Integers,
    duration_s: Integers,
    origin: Airports,
    destination: Airports,
) -> Legs:
    """Return flights with everything that does not change on the way."""
    ramp_s = np.minimum(float(RAMP_S), duration_s / 3)
    highest_m = np.maximum(origin.elevation_m, destination.elevation_m)
    return Legs(
        flight_id=flight_id,
        carrier=carrier,
        departure_s=departure_s,
        duration_s=duration_s,
        origin_m=origin.elevation_m,
        destination_m=destination.elevation_m,
        cruise_m=np.minimum(CRUISE_M, highest_m + CLIMB_M_S * ramp_s),
        ramp_s=ramp_s,
        **great_circles(origin, destination),
    )


def sample_counts(duration_s: Integers, sample_s: int) -> Integers:
    """Return how many samples flights have: one every `sample_s` [s] from departure on, and one at arrival."""
    return -(-duration_s // sample_s) + 1


def sample(flights: Legs, counts: Integers, sample_s: int) -> dict[str, NDArray[Any]]:
    """Return the samples of flights, one after the other, as columns of the tracks table.

    Parameters
    ----------
    flights
        At least one.
    counts
        Their `sample_counts`.
    sample_s
        Time between samples [s].

    Returns
    -------
    dict
        `flight_id`, `carrier`, `time_s` (seconds since 1970, UTC), `longitude`
        and `latitude` [degree], `x` and `y` [m] in web Mercator,
        `altitude_modelled_m` and `ground_speed_modelled_m_s`. Places and profile
        are single precision: within half a metre.
    """
    first = np.cumsum(counts) - counts

    def each(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, counts)

    duration_s = each(flights.duration_s)
    elapsed_s = np.minimum((np.arange(len(duration_s)) - each(first)) * sample_s, duration_s)
    # Both halves are flown from their airport, so that one formula serves climb and descent.
    late = 2 * elapsed_s > duration_s
    near_s = np.where(late, duration_s - elapsed_s, elapsed_s).astype(np.float64)
    level = np.minimum(near_s / each(flights.ramp_s), 1.0)
    lost_s = (1.0 - END_SPEED) * flights.ramp_s
    cruise_rad_s = flights.arc / (flights.duration_s - lost_s)
    flown = each(cruise_rad_s) * (near_s - each(lost_s) * (level - 0.5 * level * level))
    place = np.where(late, each(flights.start + flights.arc) - flown, each(flights.start) + flown)
    sine = np.sin(place)
    latitude_sine = each(flights.node_cosine) * sine
    longitude = each(flights.node_longitude) + np.arctan2(each(flights.node_sine) * sine, np.cos(place))
    longitude -= 2 * np.pi * np.floor((longitude + np.pi) / (2 * np.pi))
    ground_m = np.where(late, each(flights.destination_m), each(flights.origin_m))
    speed = each(EARTH_RADIUS_M * cruise_rad_s) * (END_SPEED + (1.0 - END_SPEED) * level)
    return {
        "flight_id": each(flights.flight_id.astype(np.int32)),
        "carrier": each(flights.carrier.astype(np.int8)),
        "time_s": each(flights.departure_s) + elapsed_s,
        "longitude": np.degrees(longitude).astype(np.float32),
        "latitude": np.degrees(np.arcsin(latitude_sine)).astype(np.float32),
        "x": (MERCATOR_RADIUS_M * longitude).astype(np.float32),
        "y": (MERCATOR_RADIUS_M * np.arctanh(latitude_sine)).astype(np.float32),
        "altitude_modelled_m": (ground_m + (each(flights.cruise_m) - ground_m) * level).astype(np.float32),
        "ground_speed_modelled_m_s": speed.astype(np.float32),
    }
