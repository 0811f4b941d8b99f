"""The run history: a `Query`, and `find`, which answers it with rows; it changes no run and prints nothing."""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agilab.errors import QueryError
from agilab.index import Facts, Index, stamp_of
from agilab.paths import HomePaths, RunPaths
from agilab.rows import Row, read_row
from agilab.run import Run, RunStore, new_run_id

STATES = (
    *("queued", "installing", "running", "sealing"),
    *("succeeded", "failed", "cancelled", "lost", "unknown", "unreadable"),
)
"""Every state that a run can be found in."""
SORTS = ("started", "took", "state", "app", "metric:NAME", "setting:NAME")
"""What runs can be sorted by; a minus before it turns the order round."""

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([^<>=!\s][^<>=!]*?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(h|d|w)")
_HOURS = {"h": 1, "d": 24, "w": 168}


@dataclass(frozen=True, slots=True)
class Condition:
    """A name, one of ``= != < <= > >=``, and a value as it is typed; `condition` reads one from text.

    Numbers are compared as numbers, anything else as text: ``true``,
    ``none``, ``EWR,JFK``. A run that lacks the name never fits.
    """

    name: str
    operator: str
    value: str

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Say whether it holds for values by dotted name."""
        if self.name not in values:
            return False
        found, number = values[self.name], _number(self.value)
        compare = _COMPARE[self.operator]
        if number is not None and (same := _number(found)) is not None:
            return compare(same, number)
        return compare(as_text(found), self.value)


@dataclass(frozen=True, slots=True)
class Query:
    """Which runs are wanted, and in which order.

    Parameters
    ----------
    app
        Whose; empty for those of all apps.
    states
        Any of `STATES`; none of them for all.
    since, until
        When they were made: from this Unix time [s] on, and before that one.
    settings, metrics
        Conditions that all hold.
    tags
        All of which the run has.
    sort
        One of `SORTS`, with a minus before it for descending. Runs without a value come last; the newer one comes
        first where two are equal.
    limit
        How many at most; None for all.

    Raises
    ------
    QueryError
        There is no such state or order.
    """

    app: str = ""
    states: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    settings: tuple[Condition, ...] = ()
    metrics: tuple[Condition, ...] = ()
    tags: tuple[str, ...] = ()
    sort: str = "-started"
    limit: int | None = None

    def __post_init__(self) -> None:
        for state in self.states:
            if state not in STATES:
                raise QueryError(f"no state {state!r:.100}{near(state, STATES)}; allowed: {', '.join(STATES)}")
        kind, colon, name = self.sort.removeprefix("-").partition(":")
        if (kind not in ("metric", "setting") or not name) if colon else kind not in SORTS[:4]:
            raise QueryError(f"runs cannot be sorted by {self.sort!r:.100}; allowed: {', '.join(SORTS)}")

    @property
    def ordered_by(self) -> tuple[str, str]:
        """What is sorted by: ``("took", "")``, or kind and name such as ``("metric", "rmse")``."""
        kind, _, name = self.sort.removeprefix("-").partition(":")
        return kind, name

    @property
    def by_content(self) -> bool:
        """Whether runs have to be looked into; else their folders' names decide which are wanted."""
        return bool(self.states or self.settings or self.metrics or self.tags) or self.ordered_by[0] != "started"

    def named(self, kind: str) -> tuple[str, ...]:
        """Return the names of settings or metrics that this query looks at, each once.

        Parameters
        ----------
        kind
            ``"setting"`` or ``"metric"``.
        """
        conditions = self.settings if kind == "setting" else self.metrics
        by = (self.ordered_by[1],) if self.ordered_by[0] == kind else ()
        return tuple(dict.fromkeys([*(item.name for item in conditions), *by]))

    def fits(self, run: Facts | Row) -> bool:
        """Say whether a run is wanted, as far as its content decides that."""
        if self.states and run.state not in self.states:
            return False
        if self.tags and not set(self.tags).issubset(run.tags):
            return False
        if self.metrics and not all(item.fits(run.metrics) for item in self.metrics):
            return False
        if not self.settings:
            return True
        values = flat(run.settings)
        return all(item.fits(values) for item in self.settings)


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a query.

    Parameters
    ----------
    rows
        The runs, as many as the limit admits.
    count
        How many fit.
    total
        How many runs there are, of the app if the query names one.
    """

    rows: tuple[Row, ...]
    count: int
    total: int


def find(home: HomePaths, query: Query | None = None) -> Found:
    """Return the runs of a home that a query asks for, by the folders as they are now.

    Parameters
    ----------
    home
        AGILAB_HOME; nothing is written but its index.
    query
        None for every run, newest first.

    Raises
    ------
    QueryError
        A setting or metric is named that none of the app's runs has.
    """
    query = query or Query()
    folders = RunStore(home).folders(query.app or None)
    if not folders:
        return Found((), 0, 0)  # and make no index in what may be a folder of another program
    keys = [f"{app}/{run_id}" for run_id, app, _ in folders if _within(run_id, query)]
    with Index(home) as index:
        if not query.by_content:
            chosen = keys if query.sort == "-started" else keys[::-1]
        else:
            chosen = _chosen(index, query, keys)
        rows: list[Row] = []
        dropped = 0
        for key in chosen:
            if query.limit is not None and len(rows) >= query.limit:
                break
            row = _row(index, key)
            if query.fits(row):  # what the index knew may have changed
                rows.append(row)
            else:
                dropped += 1
    return Found(tuple(rows), len(chosen) - dropped, len(folders))


def condition(text: str) -> Condition:
    """Read a condition such as ``rmse<0.5`` or ``origins = EWR,JFK``.

    Raises
    ------
    QueryError
        It is none.
    """
    match = _CONDITION.fullmatch(text)
    if match is None or match[3].startswith("="):
        raise QueryError(f"{text!r:.100} is no condition; write NAME OPERATOR VALUE with one of {' '.join(_COMPARE)}")
    return Condition(match[1], match[2], match[3])


def moment(text: str, now: float | None = None) -> float:
    """Read a moment: an ISO date or time, UTC unless it says otherwise, or an age such as ``2d``, ``3h``, ``1w``.

    Parameters
    ----------
    text
        What was typed.
    now
        What ages are counted from, Unix time [s]; None for the clock's.

    Returns
    -------
    float
        Unix time [s].

    Raises
    ------
    QueryError
        It is neither.
    """
    present = time.time() if now is None else now
    age = _AGE.fullmatch(text.strip())
    try:
        if age is not None:
            found = datetime.fromtimestamp(present, UTC) - timedelta(hours=float(age[1]) * _HOURS[age[2]])
        else:
            found = datetime.fromisoformat(text.strip())
            found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        return found.timestamp()
    except (ValueError, OverflowError) as err:
        raise QueryError(
            f"{text!r:.100} is no time; write a date such as 2026-05-31, a time such as 2026-05-31T18:00 (UTC), "
            "or an age such as 3h, 2d, 1w"
        ) from err


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by dotted name: ``{"model": {"depth": 3}}`` as ``{"model.depth": 3}``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def as_text(value: object) -> str:
    """Write a setting or metric as it is typed in a condition: ``true``, ``none``, ``EWR,JFK``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(as_text, value)) if isinstance(value, list | tuple) else str(value)


def near(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` for the known name that is most like a wrong one; empty when none is."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known)[:10_000], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _within(run_id: str, query: Query) -> bool:
    return (query.since is None or run_id >= _first_id(query.since)) and (
        query.until is None or run_id < _first_id(query.until)
    )


def _first_id(moment_s: float) -> str:
    return new_run_id(min(max(moment_s, 0.0), 253402300799.0))  # ids have four digits for the year


def _row(index: Index, key: str) -> Row:
    """Return a row from the index, or else from the folder, for the index to keep."""
    row = index.row(key)
    if row is None:
        folder = index.folder(key)
        stamp = stamp_of(folder)
        row = read_row(Run(RunPaths(Path(folder))))
        if stamp == stamp_of(folder):
            index.keep(key, row, stamp)
    return row


def _chosen(index: Index, query: Query, keys: Sequence[str]) -> list[str]:
    """Return the keys of the runs that fit, in order; each run's content is looked at."""
    choice = _Choice(query)
    left = set(keys)
    try:
        complete = query.since is None and query.until is None
        for key, facts in index.facts(set(keys), app=query.app, complete=complete):
            left.discard(key)
            choice.look(key, facts)
    except ValueError as err:
        index.distrust(err)
        return _chosen(index, query, keys)
    for key in left:
        choice.look(key, _row(index, key))
    return choice.ordered(len(keys))


class _Choice:
    """The runs that fit a query, by what they are sorted by; and the names it looks at that no run has had yet."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._order, self._name = query.ordered_by
        self._present: dict[str, tuple[int, float, str]] = {}
        self._absent: list[str] = []
        self._known: dict[str, set[str]] = {"setting": set(), "metric": set()}
        self._missing = {kind: set(names) for kind in self._known if (names := query.named(kind))}

    def look(self, key: str, run: Facts | Row) -> None:
        for kind, names in self._missing.items():
            if names:
                values = run.metrics if kind == "metric" else flat(run.settings)
                names.difference_update(values)
                self._known[kind].update(values)
        if self._query.fits(run):
            value = _sort_value(run, key, self._order, self._name)
            if value is None:
                self._absent.append(key)
            else:
                self._present[key] = value

    def ordered(self, looked_at: int) -> list[str]:
        """Return the keys in order.

        Raises
        ------
        QueryError
            A name is still missing.
        """
        for kind, names in self._missing.items():
            if names and self._known[kind]:
                name, known = min(names), sorted(self._known[kind])
                there = near(name, known) or f"; there are {', '.join(known[:10])}"
                raise QueryError(f"none of {looked_at:,} runs has a {kind} {name!r:.100}{there}")
        newest = sorted(self._present, key=_newness, reverse=True)
        newest.sort(key=self._present.__getitem__, reverse=self._query.sort.startswith("-"))
        return [*newest, *sorted(self._absent, key=_newness, reverse=True)]


def _newness(key: str) -> tuple[str, str]:
    app, _, run_id = key.partition("/")
    return run_id, app


def _sort_value(run: Facts | Row, key: str, kind: str, name: str) -> tuple[int, float, str] | None:
    """Return what a run is sorted by: numbers before texts; None when it has no such value."""
    if kind == "started":
        return (1, 0.0, key.partition("/")[2])
    value: object = {"took": run.duration_s, "state": run.state, "app": key.partition("/")[0]}.get(kind)
    if kind in ("metric", "setting"):
        value = (run.metrics if kind == "metric" else flat(run.settings)).get(name)
    number = _number(value)
    if number is not None:
        return None if number != number else (0, number, "")
    return None if value is None else (1, 0.0, as_text(value))


def _number(value: object) -> float | None:
    """Return the number that a JSON value is, or that a text says; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
