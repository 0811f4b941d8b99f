"""Coasts and borders of the world as lines behind what lies on it; nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

EARTH_RADIUS_M = 6378137.0
"""Of the sphere of web Mercator (EPSG:3857)."""
MOST_NORTH_DEGREE = 85.0511
"""Where the square of web Mercator ends."""
LINES = "#8a94a6"
"""Their colour: seen on light and on dark pages, and less than any data."""
DEGREES, WEB_MERCATOR = "EPSG:4326", "EPSG:3857"


def outlines(crs: str, within: Sequence[float]) -> Any:
    """Return coasts and borders as one line with gaps, or None for a coordinate system that is not known.

    Parameters
    ----------
    crs
        ``"EPSG:4326"`` for longitude and latitude [degree], ``"EPSG:3857"`` for web Mercator [m].
    within
        Left, bottom, right, top; lines that do not come near are left out.

    Returns
    -------
    numpy.ndarray or None
        Shape (point, 2), with a row of NaN after each line. From Natural Earth's
        countries at 1:110 million, which are in the public domain.
    """
    if crs not in (DEGREES, WEB_MERCATOR):
        return None
    lines, boxes = _lines(crs)
    left, bottom, right, top = within
    near = (boxes[:, 0] <= right) & (boxes[:, 2] >= left) & (boxes[:, 1] <= top) & (boxes[:, 3] >= bottom)
    return np.concatenate([np.empty((0, 2)), *(line for line, is_near in zip(lines, near, strict=True) if is_near)])


@cache
def _lines(crs: str) -> tuple[list[Any], Any]:
    """Return each line with its gap, and left, bottom, right, top of each, shape (line, 4)."""
    held = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="ascii"))
    degrees = [np.reshape(line, (-1, 2)) / 100 for line in held["lines"]]
    lines = degrees if crs == DEGREES else [_web_mercator(line) for line in degrees]
    boxes = np.array([[*line.min(axis=0), *line.max(axis=0)] for line in lines])
    return [np.concatenate([line, np.full((1, 2), np.nan)]) for line in lines], boxes


def _web_mercator(degrees: Any) -> Any:
    longitude, latitude = degrees.T
    held = np.radians(np.clip(latitude, -MOST_NORTH_DEGREE, MOST_NORTH_DEGREE))
    return EARTH_RADIUS_M * np.column_stack([np.radians(longitude), np.arctanh(np.sin(held))])
