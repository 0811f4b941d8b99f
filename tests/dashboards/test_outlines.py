"""Outlines of the world: where they lie in each coordinate system."""

from __future__ import annotations

import numpy as np
import pytest
from agilab_dashboards.outlines import outlines

WORLD = (-180, -90, 180, 90)
EARTH = (-3e7, -3e7, 3e7, 3e7)


def test_lines_lie_on_the_earth_and_are_told_apart_by_gaps() -> None:
    degrees = outlines("EPSG:4326", WORLD)
    known = degrees[np.isfinite(degrees).all(axis=1)]
    assert np.abs(known).max(axis=0).tolist() == pytest.approx([180, 90], abs=7)
    assert 200 < np.isnan(degrees[:, 0]).sum() < 1000
    gaps = np.isnan(degrees)
    assert (gaps[:, 0] == gaps[:, 1]).all()


def test_web_mercator_leads_back_to_degrees() -> None:
    degrees, (x, y) = outlines("EPSG:4326", WORLD), outlines("EPSG:3857", EARTH).T / 6378137.0
    inside = np.abs(degrees[:, 1]) < 85
    back = np.degrees(np.column_stack([x, np.arctan(np.sinh(y))]))
    np.testing.assert_allclose(back[inside], degrees[inside], atol=1e-9)
    assert np.nanmin(outlines("EPSG:3857", EARTH)) >= -20037508.35


def test_another_coordinate_system_has_none() -> None:
    assert outlines("EPSG:2154", WORLD) is None
    assert outlines("", WORLD) is None


def test_lines_that_do_not_come_near_are_left_out() -> None:
    hawaii = outlines("EPSG:4326", (-161, 18, -154, 23))
    assert 10 < len(hawaii) < 200
    assert np.nanmin(hawaii[:, 0]) > -162
    assert outlines("EPSG:4326", (-140, -40, -130, -30)).shape == (0, 2)
