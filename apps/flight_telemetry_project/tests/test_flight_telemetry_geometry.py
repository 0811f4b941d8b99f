"""Great circles and profiles, against vectors and sums that know nothing of their formulas."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SOURCES = Path(__file__).resolve().parent.parent / "src"


@pytest.fixture(scope="module")
def geometry() -> Iterator[ModuleType]:
    """Return the module under test; the worker package is not installed where tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SOURCES)
        import flight_telemetry_worker.geometry

        yield flight_telemetry_worker.geometry
    for name in [name for name in sys.modules if name.partition(".")[0] == "flight_telemetry_worker"]:
        del sys.modules[name]


def fly(geometry: ModuleType, start: tuple[float, float], end: tuple[float, float], **given: Any) -> dict[str, Any]:
    """Return the samples of one flight between two places (longitude, latitude [degree])."""

    def airport(place: tuple[float, float], elevation_m: float) -> Any:
        longitude, latitude = (np.radians([degrees]) for degrees in place)
        return geometry.Airports(longitude, latitude, np.array([elevation_m]))

    flights = geometry.legs(
        np.array([7]),
        np.array([3]),
        departure_s=np.array([1_000_000]),
        duration_s=np.array([given.get("duration_s", 36_000)]),
        origin=airport(start, given.get("start_m", 5.0)),
        destination=airport(end, given.get("end_m", 1_600.0)),
    )
    sample_s = given.get("sample_s", 60)
    counts = geometry.sample_counts(flights.duration_s, sample_s)
    samples: dict[str, Any] = geometry.sample(flights, counts, sample_s)
    assert all(len(column) == counts[0] for column in samples.values())
    return samples


def vectors(longitude: Any, latitude: Any) -> Any:
    """Return unit vectors of places, shape (place, 3)."""
    longitude, latitude = np.radians(np.asarray(longitude, float)), np.radians(np.asarray(latitude, float))
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
    )


def angles(one: Any, other: Any) -> Any:
    """Return the angle between unit vectors [rad], exact for small ones."""
    return np.arctan2(np.linalg.norm(np.cross(one, other), axis=-1), (one * other).sum(axis=-1))


PAIRS = {
    "New York to Honolulu": ((-73.78, 40.64), (-157.92, 21.32)),
    "New York to Anchorage": ((-74.17, 40.69), (-149.99, 61.17)),
    "across the antimeridian eastwards": ((170.0, 10.0), (-165.0, 30.0)),
    "across the antimeridian westwards": ((-170.0, -20.0), (165.0, 40.0)),
    "along the equator": ((-20.0, 0.0), (35.0, 0.0)),
    "along a meridian": ((30.0, -10.0), (30.0, 50.0)),
    "over the pole": ((-74.0, 45.0), (106.0, 60.0)),
    "a few kilometres": ((-74.17, 40.69), (-73.87, 40.78)),
}


@pytest.mark.parametrize(("start", "end"), PAIRS.values(), ids=PAIRS.keys())
def test_a_track_stays_on_the_great_circle_from_origin_to_destination(
    geometry: ModuleType, start: tuple[float, float], end: tuple[float, float]
) -> None:
    samples = fly(geometry, start, end)
    places = vectors(samples["longitude"], samples["latitude"])
    first, last = vectors(*start), vectors(*end)
    within = 1.5e-7  # a metre, as an angle: places are single precision
    assert angles(places[0], first) < within
    assert angles(places[-1], last) < within
    there, left = angles(places, first), angles(places, last)
    assert np.allclose(there + left, angles(first, last), atol=2 * within)
    assert (np.diff(there) > 0).all()
    assert samples["longitude"].min() >= -180
    assert samples["longitude"].max() <= 180


@pytest.mark.parametrize(("start", "end"), [PAIRS["across the antimeridian eastwards"]])
def test_a_track_across_the_antimeridian_uses_both_ends_of_the_map(
    geometry: ModuleType, start: tuple[float, float], end: tuple[float, float]
) -> None:
    longitude = fly(geometry, start, end)["longitude"]
    assert (np.abs(longitude) >= 165).all()
    assert set(np.sign(longitude)) == {-1, 1}


def test_map_coordinates_are_web_mercator(geometry: ModuleType) -> None:
    samples = fly(geometry, *PAIRS["New York to Anchorage"])
    half_m = 20_037_508.342789244  # the edge of the map: EPSG:3857
    latitude = np.radians(samples["latitude"].astype(float))
    assert np.allclose(samples["x"], samples["longitude"].astype(float) / 180 * half_m, atol=2)
    assert np.allclose(samples["y"], np.log(np.tan(np.pi / 4 + latitude / 2)) / np.pi * half_m, atol=2)


@pytest.mark.parametrize("duration_s", [1_200, 5_460, 36_000])
def test_speed_adds_up_to_the_distance(geometry: ModuleType, duration_s: int) -> None:
    start, end = PAIRS["New York to Anchorage"]
    samples = fly(geometry, start, end, duration_s=duration_s, sample_s=1)
    speed = samples["ground_speed_modelled_m_s"].astype(float)
    flown_m = ((speed[1:] + speed[:-1]) / 2).sum()
    assert flown_m == pytest.approx(6_371_008.8 * angles(vectors(*start), vectors(*end)), rel=1e-5)


def test_the_profile_is_a_trapezoid_between_the_airports(geometry: ModuleType) -> None:
    samples = fly(geometry, *PAIRS["New York to Honolulu"], start_m=5.0, end_m=1_600.0)
    altitude, speed = samples["altitude_modelled_m"], samples["ground_speed_modelled_m_s"]
    assert altitude[0] == 5.0
    assert altitude[-1] == 1_600.0
    assert altitude.max() == altitude[20] == altitude[-21] == 10_668.0
    assert speed[0] == pytest.approx(0.35 * speed.max())
    assert speed[0] == speed[-1]
    assert (np.diff(altitude[:21]) > 0).all()
    assert (np.diff(altitude[-21:]) < 0).all()


def test_a_short_flight_climbs_less_high(geometry: ModuleType) -> None:
    samples = fly(geometry, *PAIRS["a few kilometres"], duration_s=1_200, start_m=5.0, end_m=10.0, sample_s=10)
    assert samples["altitude_modelled_m"].max() == 10.0 + 9.0 * 400


@pytest.mark.parametrize(("duration_s", "sample_s", "count"), [(600, 60, 11), (600, 70, 10), (600, 3_600, 2)])
def test_the_last_sample_is_at_arrival(geometry: ModuleType, duration_s: int, sample_s: int, count: int) -> None:
    time_s = fly(geometry, *PAIRS["along the equator"], duration_s=duration_s, sample_s=sample_s)["time_s"]
    assert len(time_s) == count
    assert time_s[0] == 1_000_000
    assert time_s[-1] == 1_000_000 + duration_s
    assert (np.diff(time_s)[:-1] == sample_s).all()
