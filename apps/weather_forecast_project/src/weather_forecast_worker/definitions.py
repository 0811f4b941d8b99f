"""What the cells of weather_forecast define: functions, classes, fixed values."""

import numpy as np
import pyarrow as pa
from pyarrow import csv

AIRPORTS = ("EWR", "JFK", "LGA")
START = "2013-01-01T06"
HOURS = 8730
# Factor and offset: from degrees Fahrenheit, miles an hour and miles.
METRIC = {
    "temp": (0.5555555555555556, -17.77777777777778),
    "dewp": (0.5555555555555556, -17.77777777777778),
    "wind_speed": (0.44704, 0),
    "visib": (1.609344, 0),
}


def read_series(path, variable):
    """Return the values of a variable by airport, one for each hour from START on."""
    options = csv.ConvertOptions(include_columns=["origin", "time_hour", variable], null_values=["NA", ""])
    table = csv.read_csv(path, convert_options=options)
    hours = table["time_hour"].to_numpy().astype("datetime64[h]")
    factor, offset = METRIC.get(variable, (1, 0))
    values = table[variable].cast(pa.float64()).to_numpy() * factor + offset
    origins = table["origin"].to_numpy(zero_copy_only=False)
    found = {}
    for airport in AIRPORTS:
        here = origins == airport
        place = (hours[here] - np.datetime64(START)).astype(int)
        inside = (place >= 0) & (place < HOURS)
        series = np.full(HOURS, np.nan)
        series[place[inside]] = values[here][inside]
        found[airport] = series
    return found


def persistence(past, horizon_h):
    """As now: the last value that is known."""
    known = past[np.isfinite(past)]
    return np.full(horizon_h, known[-1] if len(known) else np.nan)


def seasonal_naive(past, horizon_h):
    """As at this hour of the day before."""
    day = past[-24:]
    return np.resize(day, horizon_h)


def rhythm(hours):
    """Return the columns of a daily rhythm: a level and two harmonics."""
    angle = 2 * np.pi * np.asarray(hours)[:, None] / 24 * np.array([1, 2])
    return np.hstack([np.ones((len(angle), 1)), np.sin(angle), np.cos(angle)])


def model(past, first_hour, horizon_h, coverage):
    """Return forecast, lower and upper end of the interval."""
    hours = first_hour - len(past) + np.arange(len(past))
    known = np.isfinite(past)
    if known.sum() < 24:
        return tuple(np.full((3, horizon_h), np.nan))
    weights = np.linalg.lstsq(rhythm(hours[known]), past[known], rcond=None)[0]
    rest = past - rhythm(hours) @ weights
    pairs = np.isfinite(rest[:-1]) & np.isfinite(rest[1:])
    before, after = rest[:-1][pairs], rest[1:][pairs]
    fades = float(np.clip(before @ after / max(before @ before, 1e-12), 0, 0.999))
    last = np.flatnonzero(np.isfinite(rest))[-1]
    ahead = np.arange(1, horizon_h + 1)
    middle = rhythm(first_hour + ahead - 1) @ weights + fades ** (ahead + len(rest) - 1 - last) * rest[last]
    ends = np.empty((2, horizon_h))
    for h in ahead:
        back = min(h, len(rest) // 2)
        errors = rest[back:] - fades**back * rest[:-back]
        errors = errors[np.isfinite(errors)]
        ends[:, h - 1] = np.quantile(errors, [(1 - coverage) / 2, (1 + coverage) / 2]) if len(errors) else np.nan
    return middle, middle + ends[0], middle + ends[1]


def moments(folds, train_h, horizon_h):
    """Return the hours from which the year is forecast, evenly spread over what can be."""
    return np.linspace(train_h, HOURS - horizon_h, folds).astype(int)


def forecasts(airport, series, first_hour, train_h, horizon_h, coverage):
    """Return what all three say from one moment on, as columns."""
    past = series[max(0, first_hour - train_h) : first_hour]
    middle, low, high = model(past, first_hour, horizon_h, coverage)
    nothing = np.full(horizon_h, np.nan)
    told = {
        "persistence": (persistence(past, horizon_h), nothing, nothing),
        "seasonal_naive": (seasonal_naive(past, horizon_h), nothing, nothing),
        "model": (middle, low, high),
    }
    observed = np.full(horizon_h, np.nan)
    seen = series[first_hour : first_hour + horizon_h]
    observed[: len(seen)] = seen
    start = np.datetime64(START) + first_hour
    rows = []
    for name, (value, least, most) in told.items():
        rows.append(
            {
                "airport": [airport] * horizon_h,
                "method": [name] * horizon_h,
                "issued": np.full(horizon_h, start).astype("datetime64[s]"),
                "time": (start + np.arange(horizon_h)).astype("datetime64[s]"),
                "forecast": value,
                "low": least,
                "high": most,
                "observed": observed,
                "horizon_h": np.arange(1, horizon_h + 1, dtype="int16"),
            }
        )
    return rows


def as_table(rows):
    """Return columns one below the other."""
    return pa.concat_tables([pa.table(row) for row in rows])


def score(table):
    """Return MAE, RMSE and coverage by method and horizon, over all hours that were observed."""
    method = table["method"].to_numpy(zero_copy_only=False)
    horizon = table["horizon_h"].to_numpy()
    value, low, high, seen = (table[name].to_numpy() for name in ("forecast", "low", "high", "observed"))
    rows = []
    for name in ("persistence", "seasonal_naive", "model"):
        for h in range(1, int(horizon.max()) + 1):
            one = (method == name) & (horizon == h) & np.isfinite(seen) & np.isfinite(value)
            if not one.any():
                continue
            error = value[one] - seen[one]
            held = (low[one] <= seen[one]) & (seen[one] <= high[one])
            rows.append(
                {
                    "method": name,
                    "horizon_h": h,
                    "count": int(one.sum()),
                    "mae": float(np.abs(error).mean()),
                    "rmse": float(np.sqrt((error**2).mean())),
                    "coverage": float(held.mean()) if name == "model" else None,
                }
            )
    return rows


def overall(rows):
    """Return the means over all horizons by method."""
    found = {}
    for name in ("persistence", "seasonal_naive", "model"):
        some = [row for row in rows if row["method"] == name]
        keys = ("mae", "rmse", "coverage") if name == "model" else ("mae", "rmse")
        found[name] = {key: round(sum(row[key] for row in some) / len(some), 4) for key in keys if some}
    return found
