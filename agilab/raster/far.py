"""`Far`, the tables of one host as whoever looks knows them: what it answers is checked before it counts; draws none.

A host may be compromised: what it says has the shape that was asked for, or
counts as if the host had gone. Whether its numbers are true nobody here can
know, as little as with an artifact before it was fetched.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

from agilab.errors import HostError, first_line
from agilab.raster import wire
from agilab.raster.categories import MOST_CATEGORIES
from agilab.raster.grid import Array, Box, Grid
from agilab.raster.picture import Query, Source
from agilab.raster.scan import Cancelled, never
from agilab.raster.shading import NEEDS, Parts
from agilab.raster.wire import Answer

WAYS = frozenset(("", "index", "pyramid", "scan"))
T = TypeVar("T")


class Channel(ABC):
    """A way to put requests to a host.

    Attributes
    ----------
    name
        Of the host.
    """

    name: str

    @abstractmethod
    def ask(self, task: str, request: Mapping[str, Any], cancelled: Cancelled) -> Answer:
        """Put a request and wait for its answer; from any thread.

        Parameters
        ----------
        task
            One of `agilab.raster.answers.TASKS`.
        request
            What belongs to it, as JSON.
        cancelled
            As for `agilab.raster.aggregate`; the host stops working at it, too.

        Raises
        ------
        SupersededError
            `cancelled` said yes.
        HostError
            The host cannot be reached, or has gone.
        AgilabError
            What the host says.
        """


@dataclass(frozen=True, slots=True)
class Facts:
    """What a table is like.

    Parameters
    ----------
    schema
        Names and types of its columns, as a pyarrow Schema.
    sorted_by_place
        Whether its rows have lost the order they were made in.
    """

    schema: Any
    sorted_by_place: bool


@dataclass(frozen=True, slots=True)
class Made:
    """The partial aggregate of some tables.

    Parameters
    ----------
    parts
        As `agilab.raster.shading` makes them.
    names
        Categories, in the order of their layers.
    ways
        How it was made.
    rows_read
        How many rows were looked at.
    """

    parts: Parts
    names: tuple[str, ...]
    ways: frozenset[str]
    rows_read: int


class Far:
    """One host.

    Parameters
    ----------
    channel
        How it is asked.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._facts: dict[str, Facts] = {}

    @property
    def name(self) -> str:
        return self._channel.name

    def facts(self, source: Source) -> Facts:
        """Return what a table is like; asked once for each."""
        known = self._facts.get(source.sha256)
        if known is None:
            answer = self._ask("facts", [source], {}, never)
            with self._sensible():
                schema = pa.ipc.read_schema(pa.py_buffer(answer.arrays["schema"].plain()))
                known = Facts(schema, answer.said["sorted_by_place"] is True)
            if source.sha256:
                self._facts[source.sha256] = known
        return known

    def extent(self, sources: Sequence[Source], x: str, y: str, cancelled: Cancelled) -> Box | None:
        """Return left, bottom, right, top of the points of some tables; see `agilab.raster.extent`."""
        answer = self._ask("extent", sources, {"x": x, "y": y}, cancelled)
        with self._sensible():
            return wire.box_from_json(answer.said["box"])

    def weigh(self, sources: Sequence[Source], query: Query, cancelled: Cancelled) -> tuple[int, int]:
        """Return how many rows pyramids spare, and what they cost; see `agilab.raster.aggregation.weigh`."""
        answer = self._ask("weigh", sources, {"query": wire.query_to_json(query)}, cancelled)
        with self._sensible():
            return wire.whole_number(answer.said["spared"]), wire.whole_number(answer.said["cost"])

    def parts(self, sources: Sequence[Source], query: Query, grid: Grid, cancelled: Cancelled) -> Made:
        """Return the partial aggregate of some tables."""
        left, bottom, right, top = grid.bounds
        query = replace(query, x_range=(left, right), y_range=(bottom, top))
        request = {"query": wire.query_to_json(query), "grid": wire.grid_to_json(grid)}
        answer = self._ask("parts", sources, request, cancelled)
        with self._sensible():
            names = tuple(map(_text, answer.said["names"]))
            ways = frozenset(map(_text, answer.said["ways"]))
            _require(ways <= WAYS and len(set(names)) == len(names) <= MOST_CATEGORIES + 1, answer.said)
            shape = (grid.rows, grid.columns) if query.by is None else (grid.rows, grid.columns, len(names))
            parts = {name: answer.arrays[name].array(shape) for name in NEEDS[query.reduction]}
            _require(all((array.dtype.kind == "u") == (name == "count") for name, array in parts.items()), answer.said)
            return Made(parts, names, ways, wire.whole_number(answer.said["rows_read"]))

    def select(
        self, sources: Sequence[Source], query: Query, most: int, cancelled: Cancelled
    ) -> tuple[int, dict[str, list[float]], Any]:
        """Return how many rows lie in a box, the numbers of `Statistics` by column, and the first rows."""
        request = {"query": wire.query_to_json(query), "most": most}
        answer = self._ask("select", sources, request, cancelled)
        with self._sensible():
            known = {
                _text(name): [wire.whole_number(numbers[0]), *map(float, numbers[1:])]
                for name, numbers in answer.said["statistics"].items()
            }
            rows = wire.table_from_bytes(answer.arrays["rows"].plain())
            _require(rows.num_rows <= most and all(len(numbers) == 5 for numbers in known.values()), answer.said)
            return wire.whole_number(answer.said["count"]), known, rows

    def values(self, sources: Sequence[Source], column: str, cancelled: Cancelled) -> dict[str, int]:
        """Return the most frequent values of a column, and how many rows have each."""
        answer = self._ask("values", sources, {"column": column}, cancelled)
        with self._sensible():
            said = json.loads(answer.arrays["values"].plain())
            return {_text(value): wire.whole_number(count) for value, count in said.items()}

    def places(self, sources: Sequence[Source], x: str, y: str, cancelled: Cancelled) -> tuple[Array, Array]:
        """Return every value of two columns once; see `agilab.raster.fields.places`."""
        answer = self._ask("places", sources, {"x": x, "y": y}, cancelled)
        with self._sensible():
            across, up = (
                answer.arrays[name].array((wire.whole_number(answer.said[name]),)) for name in ("across", "up")
            )
            return across, up

    def rows(self, source: Source, names: Sequence[str], first: int, count: int) -> tuple[Any, int]:
        """Return some rows of a table, and how many it has up to there; see `agilab.raster.rows.rows_of`."""
        answer = self._ask("rows", [source], {"names": list(names), "first": first, "count": count}, never)
        with self._sensible():
            rows = wire.table_from_bytes(answer.arrays["rows"].plain())
            _require(rows.num_rows <= count and rows.schema.names == list(names), answer.said)
            return rows, wire.whole_number(answer.said["known"])

    def _ask(self, task: str, sources: Sequence[Source], more: Mapping[str, Any], cancelled: Cancelled) -> Answer:
        return self._channel.ask(task, {"sources": wire.sources_to_json(sources), **more}, cancelled)

    @contextmanager
    def _sensible(self) -> Iterator[None]:
        """Take what makes no sense as the word of a host that cannot be relied on."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError, pa.ArrowException) as err:
            problem = f"gave an answer that makes no sense ({first_line(err, 120)})"
            raise HostError(self.name, "link", problem, "it is left out; see that the host is in order") from err


def by_host(sources: Iterable[Source]) -> dict[Far | None, list[Source]]:
    """Return the tables of each host; None stands for this machine."""
    found: dict[Far | None, list[Source]] = {}
    for source in sources:
        found.setdefault(source.far, []).append(source)
    return found


def in_order(sources: Iterable[Source]) -> list[tuple[Far | None, list[Source]]]:
    """Return tables that follow each other on one host together, in their order."""
    return [(far, list(some)) for far, some in groupby(sources, key=lambda source: source.far)]


def asked(
    hosts: Mapping[Far | None, Sequence[Source]], ask: Callable[[Far, Sequence[Source]], T]
) -> tuple[dict[Far, T], list[HostError]]:
    """Ask all hosts at the same time; return what they answer, and why others do not.

    Parameters
    ----------
    hosts
        As `by_host` returns them; this machine is passed over.
    ask
        Puts the question; called in threads.
    """
    there = {far: some for far, some in hosts.items() if far is not None}
    if not there:
        return {}, []
    answers: dict[Far, T] = {}
    lost = []
    with ThreadPoolExecutor(len(there), "agilab-far") as pool:
        waiting = {far: pool.submit(ask, far, some) for far, some in there.items()}
        for far, future in waiting.items():
            try:
                answers[far] = future.result()
            except HostError as err:
                lost.append(err)
    return answers, lost


def answered(hosts: Mapping[Far | None, Sequence[Source]], ask: Callable[[Far, Sequence[Source]], T]) -> list[T]:
    """Ask as `asked` does; return the answers there are.

    Raises
    ------
    HostError
        There is none, and no table lies on this machine.
    """
    answers, lost = asked(hosts, ask)
    if lost and not answers and None not in hosts:
        raise lost[0]
    return list(answers.values())


def _text(said: object) -> str:
    if not isinstance(said, str):
        raise TypeError(f"{said!r:.60} is no text")
    return said


def _require(sound: bool, said: object) -> None:
    if not sound:
        raise ValueError(f"{said!r:.100}")
