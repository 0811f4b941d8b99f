"""flight_telemetry against its source tables, recomputed without AGILAB, and against itself run in other ways."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from agilab.errors import WorkerError

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent / "apps" / "flight_telemetry_project"
YEAR = (date(2013, 1, 1), date(2013, 12, 31))
DAYS = (date(2013, 3, 9), date(2013, 3, 11))
"""Three days around the beginning of daylight saving time."""


def expected(data: Path, dates: tuple[date, date], sample_s: int) -> dict[str, Any]:
    """Return what the script without AGILAB counts."""
    command = [sys.executable, HERE / "expected_flights.py", data, *map(str, dates), str(sample_s)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def read(paths: list[Path]) -> pa.Table:
    """Return tables one after the other, with strings for dictionaries."""
    table = pa.concat_tables(parquet.read_table(path) for path in paths)
    for index, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(index, column.name, table[column.name].cast(pa.string()))
    return table.combine_chunks()


@pytest.fixture(scope="module")
def year(run_flights: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All flights, a sample an hour."""
    return run_flights(tmp_path_factory.mktemp("year"), dates=YEAR, sample_s=3600, partitions=8)


@pytest.fixture(scope="module")
def days(run_flights: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three days, finely sampled, a partition each."""
    return run_flights(tmp_path_factory.mktemp("days"), dates=DAYS, sample_s=50, partitions=3)


# --- against the source ------------------------------------------------------


@pytest.mark.parametrize(("name", "dates", "sample_s"), [("year", YEAR, 3600), ("days", DAYS, 50)])
def test_counts_and_totals_are_those_of_the_source(
    name: str, dates: tuple[date, date], sample_s: int, request: pytest.FixtureRequest, flights_data: Path
) -> None:
    ran, wanted = request.getfixturevalue(name), expected(flights_data, dates, sample_s)
    summary = json.loads(ran.named("summary")[0].read_text())
    same = ("flights", "written", "rows", "air_time_min", "distance_mi")
    assert {key: summary[key] for key in same} == {key: wanted[key] for key in same}
    assert list(summary["skipped"].values()) == [wanted["cancelled"], wanted["diverted"], wanted["unknown"]]
    assert {origin: item["rows"] for origin, item in summary["origins"].items()} == wanted["origins"]
    assert ran.total("rows") == sum(parquet.read_metadata(path).num_rows for path in ran.named("tracks"))
    assert ran.total("rows") == wanted["rows"]
    times = read(ran.named("tracks"))["time"].cast(pa.int64())
    assert pc.min_max(times).as_py() == {"min": wanted["first_min"] * 60_000, "max": wanted["last_min"] * 60_000}


def test_written_and_skipped_are_all_flights_of_the_year(year: Any) -> None:
    skipped = [year.total(name) for name in sorted({*year.metrics["tracks-2013-01-01"]}) if "skipped" in name]
    assert skipped == [8_255, 1_175, 7_537]
    assert year.total("flights_written") + sum(skipped) == year.total("flights") == 336_776
    table = read(year.named("flights"))
    assert sorted(table["flight_id"].to_pylist()) == list(range(336_776))
    assert Counter(table["outcome"].to_pylist())["written"] == year.total("flights_written")


def test_no_flight_is_later_than_the_plan_of_traffic_expects(year: Any, packages: Any) -> None:
    for part in year.plan.stage("tracks").partitions:
        times = pc.min_max(read([year.files["tracks", part.id, "tracks"]])["time"]).as_py()
        first, last = (date.fromisoformat(part.params[name]) for name in ("first_day", "last_day"))
        assert times["min"].date() >= first
        assert times["max"].date() <= last + packages.manager.DAYS_IN_AIR


def test_hour_and_minute_of_the_source_agree_with_the_schedule(flights_data: Path, packages: Any) -> None:
    columns = ("sched_dep_time", "hour", "minute", "time_hour", "year", "month", "day")
    table = packages.worker.sources.read_table(flights_data / "flights.csv.zip", columns)
    hours = table["hour"].to_numpy()
    assert (table["sched_dep_time"].to_numpy() == 100 * hours + table["minute"].to_numpy()).all()
    local = packages.worker.sources._days(table).astype("datetime64[s]").astype(int) + 3600 * hours
    behind = table["time_hour"].cast(pa.int64()).to_numpy() - local
    summer = (local >= datetime(2013, 3, 10, 2, tzinfo=UTC).timestamp()) & (
        local < datetime(2013, 11, 3, 2, tzinfo=UTC).timestamp()
    )
    assert (behind == np.where(summer, 4, 5) * 3600).all()


# --- tracks --------------------------------------------------------------------


def test_every_track_runs_from_its_origin_to_its_destination_on_time(
    days: Any, flights_data: Path, packages: Any
) -> None:
    tracks, flights = read(days.named("tracks")), read(days.named("flights"))
    airports = packages.worker.sources.read_table(flights_data / "airports.csv")
    written = flights.filter(pc.greater(flights["rows"], 0))
    assert pc.sum(written["rows"]).as_py() == tracks.num_rows
    by_flight = {row["flight_id"]: row for row in written.to_pylist()}
    place = {row["faa"]: (row["lon"], row["lat"]) for row in airports.to_pylist()}
    ids = tracks["flight_id"].to_numpy()
    starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
    assert len(starts) == len(set(ids)) == len(by_flight)
    stops = np.append(starts[1:], len(ids)) - 1
    for start, stop in list(zip(starts.tolist(), stops.tolist(), strict=True))[::50]:
        first, last = tracks.slice(start, 1).to_pylist()[0], tracks.slice(stop, 1).to_pylist()[0]
        flight = by_flight[first["flight_id"]]
        leaves = flight["scheduled"] + timedelta(minutes=flight["departure_delay_min"])
        assert stop - start + 1 == flight["rows"]
        assert (first["time"], last["time"]) == (leaves, leaves + timedelta(minutes=flight["air_time_min"]))
        assert (first["longitude"], first["latitude"]) == pytest.approx(place[flight["origin"]], abs=1e-5)
        assert (last["longitude"], last["latitude"]) == pytest.approx(place[flight["destination"]], abs=1e-5)
        assert first["carrier"] == last["carrier"] == flight["carrier"]


def test_columns_say_their_units_and_what_is_modelled(days: Any) -> None:
    schema = parquet.read_schema(days.named("tracks")[0])
    units = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in schema}
    assert units == {
        "flight_id": "",
        "carrier": "",
        "time": "",
        "longitude": "degree",
        "latitude": "degree",
        "x": "m",
        "y": "m",
        "altitude_modelled_m": "m",
        "ground_speed_modelled_m_s": "m/s",
    }
    assert str(schema.field("time").type) == "timestamp[ms, tz=UTC]"
    assert b"trapezoid" in schema.field("altitude_modelled_m").metadata[b"modelled"]


def test_the_same_settings_give_the_same_bytes_whatever_the_number_of_threads(
    days: Any, run_flights: Any, tmp_path: Path
) -> None:
    threads = pa.cpu_count()
    pa.set_cpu_count(threads + 3)
    try:
        again = run_flights(tmp_path, dates=DAYS, sample_s=50, partitions=3)
    finally:
        pa.set_cpu_count(threads)
    assert again.files.keys() == days.files.keys()
    assert [key for key, path in again.files.items() if path.read_bytes() != days.files[key].read_bytes()] == []


def test_settings_select_flights(run_flights: Any, tmp_path: Path) -> None:
    ran = run_flights(tmp_path, dates=DAYS, sample_s=600, origins=["JFK"], carriers=["B6", "HA"])
    flights = read(ran.named("flights"))
    assert set(flights["origin"].to_pylist()) == {"JFK"}
    assert set(flights["carrier"].to_pylist()) == {"B6", "HA"}
    everything = run_flights(tmp_path / "all", dates=DAYS, sample_s=600, origins=[], carriers=[])
    assert everything.total("flights") > ran.total("flights")
    assert set(read(everything.named("flights"))["origin"].to_pylist()) == {"EWR", "JFK", "LGA"}


def test_no_flight_at_all_is_an_answer_too(run_flights: Any, tmp_path: Path) -> None:
    ran = run_flights(tmp_path, dates=(date(2013, 5, 1), date(2013, 5, 1)), carriers=["OO"])
    assert json.loads(ran.named("summary")[0].read_text())["flights"] == 0
    assert read(ran.named("tracks")).num_rows == read(ran.named("traffic")).num_rows == 0


# --- traffic -------------------------------------------------------------------


def brute_traffic(tracks: pa.Table, cell_m: float) -> pa.Table:
    """Aggregate tracks in the plainest way."""
    table = pa.table(
        {
            "hour": pc.floor_temporal(tracks["time"], unit="hour").cast(pa.timestamp("ms", "UTC")),
            "cell_y": pc.floor(pc.divide(tracks["y"].cast(pa.float64()), cell_m)).cast(pa.int16()),
            "cell_x": pc.floor(pc.divide(tracks["x"].cast(pa.float64()), cell_m)).cast(pa.int16()),
            "flight_id": tracks["flight_id"],
            "altitude": tracks["altitude_modelled_m"].cast(pa.float64()),
        }
    )
    keys = ["hour", "cell_y", "cell_x"]
    sums = [("flight_id", "count"), ("flight_id", "count_distinct"), ("altitude", "mean")]
    return table.group_by(keys, use_threads=False).aggregate(sums).sort_by([(key, "ascending") for key in keys])


def test_traffic_is_what_the_tracks_add_up_to(days: Any) -> None:
    traffic, wanted = read(days.named("traffic")), brute_traffic(read(days.named("tracks")), 50_000.0)
    for name in ("hour", "cell_y", "cell_x"):
        assert traffic[name].equals(wanted[name])
    assert (traffic["samples"].to_numpy() == wanted["flight_id_count"].to_numpy()).all()
    assert (traffic["flights"].to_numpy() == wanted["flight_id_count_distinct"].to_numpy()).all()
    assert np.allclose(traffic["altitude_modelled_m"], wanted["altitude_mean"], rtol=1e-6)
    assert np.allclose(traffic["x"].to_numpy(), (traffic["cell_x"].to_numpy() + 0.5) * 50_000.0)


def test_an_hour_in_two_partitions_of_tracks_is_in_one_of_traffic(days: Any) -> None:
    hours = [set(read([path])["hour"].to_pylist()) for path in days.named("sums")]
    assert hours[0] & hours[1], "the flights of one evening land on the next UTC day"
    hours = [set(read([path])["hour"].to_pylist()) for path in days.named("traffic")]
    assert sum(map(len, hours)) == len(set.union(*hours))


def test_the_number_of_partitions_changes_nothing_but_the_files(days: Any, run_flights: Any, tmp_path: Path) -> None:
    whole = run_flights(tmp_path, dates=DAYS, sample_s=50, partitions=1)
    assert read(whole.named("traffic")).equals(read(days.named("traffic")))
    order = [("flight_id", "ascending"), ("time", "ascending")]
    assert read(whole.named("tracks")).sort_by(order).equals(read(days.named("tracks")).sort_by(order))
    assert whole.named("makers")[0].read_bytes() == days.named("makers")[0].read_bytes()


# --- summary -------------------------------------------------------------------


def test_tables_of_the_summary_count_every_written_flight_once(year: Any) -> None:
    tables = {name: read(year.named(name)) for name in ("carriers", "makers", "visibility")}
    for table in tables.values():
        assert pc.sum(table["flights"]).as_py() == 319_809
        assert pc.sum(table["rows"]).as_py() == year.total("rows")
    assert tables["carriers"].column_names == ["carrier", "airline", "flights", "rows", "mean_departure_delay_min"]
    names = dict(zip(*(tables["carriers"][name].to_pylist() for name in ("carrier", "airline")), strict=True))
    assert names["HA"] == "Hawaiian Airlines Inc."
    assert {"BOEING", "EMBRAER", "unknown"} <= set(tables["makers"]["maker"].to_pylist())
    delays = {row["visibility_mi"]: row["mean_departure_delay_min"] for row in tables["visibility"].to_pylist()}
    assert delays[0] > delays[10], "who sees nothing waits longer"


@pytest.mark.parametrize(
    ("artifact", "key", "said"),
    [
        ("counts", "rows", "rows of tracks"),
        ("counts", "flights", "flights"),
        ("totals", "samples", "samples in traffic"),
    ],
)
def test_a_false_count_fails_the_summary(
    artifact: str, key: str, said: str, days: Any, packages: Any, tmp_path: Path
) -> None:
    from agilab.worker import Inputs

    part = days.plan.stage("summary").partitions[0]
    paths = {ref.key: days.files[ref.stage, ref.partition, ref.name] for ref in part.inputs if hasattr(ref, "key")}
    liar = next(name for name in paths if name.endswith(f"/{artifact}"))
    false = json.loads(paths[liar].read_text())
    false[key] += 1
    paths[liar] = tmp_path / "false.json"
    paths[liar].write_text(json.dumps(false))
    with pytest.raises(WorkerError, match=said):
        packages.worker.summary.summarize(Inputs(paths))


# --- plan and project ------------------------------------------------------------


def plan(packages: Any, **settings: Any) -> Any:
    """Return a plan; the data need not be there."""
    given = packages.manager.FlightTelemetry.Settings(**settings)
    return packages.manager.FlightTelemetry(given, data_root=Path("nowhere")).plan()


@pytest.mark.parametrize("partitions", [1, 4, 52, 365])
def test_every_day_is_planned_once_with_what_reaches_into_it(packages: Any, partitions: int) -> None:
    made = plan(packages, dates=YEAR, partitions=partitions)
    tracks, traffic = (made.stage(name).partitions for name in ("tracks", "traffic"))
    assert len(tracks) == len(traffic) == partitions
    assert sum(part.weight for part in tracks) == 365
    for before, after in itertools.pairwise(tracks):
        end = date.fromisoformat(before.params["last_day"])
        assert date.fromisoformat(after.params["first_day"]) == end + timedelta(days=1)
    last_days = {part.id: date.fromisoformat(part.params["last_day"]) for part in tracks}
    for index, part in enumerate(traffic):
        start = date.fromisoformat(part.params["first_utc_day"] or "2013-01-01")
        wanted = [item.id for item in tracks[: index + 1] if last_days[item.id] + timedelta(days=2) >= start]
        assert [ref.partition for ref in part.inputs] == wanted
    assert traffic[0].params["first_utc_day"] is None
    assert traffic[-1].params["last_utc_day"] is None


def test_there_are_never_more_partitions_than_days(packages: Any) -> None:
    assert len(plan(packages, dates=DAYS, partitions=100).stage("tracks").partitions) == 3


def test_the_manager_package_loads_nothing_heavy() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT / 'src')!r}); import flight_telemetry; "
        "print([name for name in ('numpy', 'pyarrow', 'pandas', 'flight_telemetry_worker') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_lock_pins_what_the_worker_asks_for_by_hash_and_names_no_index() -> None:
    lock = (PROJECT / "src" / "flight_telemetry_worker" / "requirements.lock").read_text()
    names = [line.partition("==")[0] for line in lock.splitlines() if line and line[0].isalpha()]
    assert set(names) == {"numpy", "pyarrow"}
    assert "--hash=sha256:" in lock
    assert "://" not in lock
    assert "--index" not in lock


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The project as a wheel."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_the_whole_project(wheel: zipfile.ZipFile) -> None:
    carried = {
        "flight_telemetry/_project/pyproject.toml": PROJECT / "pyproject.toml",
        "flight_telemetry/_project/README.md": PROJECT / "README.md",
        "flight_telemetry/app_settings.toml": PROJECT / "src/flight_telemetry/app_settings.toml",
        "flight_telemetry_worker/pyproject.toml": PROJECT / "src/flight_telemetry_worker/pyproject.toml",
        "flight_telemetry_worker/requirements.lock": PROJECT / "src/flight_telemetry_worker/requirements.lock",
        "flight_telemetry_worker/cells.py": PROJECT / "src/flight_telemetry_worker/cells.py",
    }
    assert [name for name, path in carried.items() if wheel.read(name) != path.read_bytes()] == []
    points = next(name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "[agilab.apps]\nflight_telemetry = flight_telemetry:FlightTelemetry" in wheel.read(points).decode()


def test_a_script_written_by_hand_makes_the_same_rows(year: Any, flights_data: Path, tmp_path: Path) -> None:
    script = HERE.parent / "benchmarks" / "handwritten_flights.py"
    out = tmp_path / "out"
    subprocess.run([sys.executable, script, flights_data, out, "3600", "2"], check=True)
    made = read(sorted(out.glob("tracks-*.parquet")))
    assert made.equals(read(year.named("tracks")).cast(made.schema))
    traffic, wanted = read(year.named("traffic")), parquet.read_table(out / "traffic.parquet")
    assert traffic.num_rows == wanted.num_rows
    assert (traffic["hour"].cast(pa.int64()).to_numpy() == 3_600_000 * wanted["hour"].to_numpy()).all()
    for name, other in (("cell_x", "cx"), ("cell_y", "cy"), ("samples", "samples"), ("flights", "flights")):
        assert (traffic[name].to_numpy() == wanted[other].to_numpy()).all()
