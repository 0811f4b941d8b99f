"""`Answers`, what a host says when it is asked about tables that lie there; how the words travel it does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple

from agilab.raster import wire
from agilab.raster.aggregation import Aggregation, extent, weigh
from agilab.raster.blocks import Cache
from agilab.raster.fields import places
from agilab.raster.rows import facts, rows_of, values
from agilab.raster.scan import Cancelled
from agilab.raster.selection import select
from agilab.raster.wire import Answer, Packed, Said

MOST_VALUES = 10_000
"""How many values of a column are told, those of most rows."""


class Answers:
    """Answers requests of `agilab.raster.far.Far`, in any number of threads.

    Parameters
    ----------
    cache
        Where decoded columns are kept from one picture to the next.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def answer(self, request: Said, cancelled: Cancelled) -> Answer:
        """Return the answer to a request.

        Parameters
        ----------
        request
            ``task``, one of `TASKS`, ``sources`` and what belongs to the task.
        cancelled
            As for `agilab.raster.aggregate`.

        Raises
        ------
        AgilabError
            As whoever asks here would get it.
        """
        return TASKS[request["task"]](self, request, cancelled)

    def _facts(self, request: Said, cancelled: Cancelled) -> Answer:
        found = facts(wire.sources_from_json(request["sources"]))
        schema = found.schema.serialize().to_pybytes()
        return Answer({"sorted_by_place": found.sorted_by_place}, {"schema": Packed.of_bytes(schema)})

    def _extent(self, request: Said, cancelled: Cancelled) -> Answer:
        sources = wire.sources_from_json(request["sources"])
        box = extent(sources, request["x"], request["y"], cache=self._cache, cancelled=cancelled)
        return Answer({"box": box}, {})

    def _weigh(self, request: Said, cancelled: Cancelled) -> Answer:
        sources = wire.sources_from_json(request["sources"])
        query = wire.query_from_json(request["query"])
        spared, cost = weigh(sources, query, cache=self._cache, cancelled=cancelled)
        return Answer({"spared": spared, "cost": cost}, {})

    def _parts(self, request: Said, cancelled: Cancelled) -> Answer:
        made = Aggregation(
            wire.query_from_json(request["query"]), cache=self._cache, grid=wire.grid_from_json(request["grid"])
        )
        made.add(wire.sources_from_json(request["sources"]), cancelled=cancelled)
        found = made.partial()
        said = {"names": found.names, "ways": sorted(found.ways), "rows_read": found.rows_read}
        return Answer(said, {name: Packed.of(array) for name, array in found.parts.items()})

    def _select(self, request: Said, cancelled: Cancelled) -> Answer:
        sources = wire.sources_from_json(request["sources"])
        found = select(sources, wire.query_from_json(request["query"]), most=request["most"], cancelled=cancelled)
        known = {name: astuple(one) for name, one in found.statistics.items()}
        rows = wire.table_to_bytes(found.rows)
        return Answer({"count": found.count, "statistics": known}, {"rows": Packed.of_bytes(rows)})

    def _values(self, request: Said, cancelled: Cancelled) -> Answer:
        sources = wire.sources_from_json(request["sources"])
        found = values(sources, request["column"], cancelled=cancelled).most_common(MOST_VALUES)
        return Answer({}, {"values": Packed.of_bytes(json.dumps(dict(found)).encode())})

    def _places(self, request: Said, cancelled: Cancelled) -> Answer:
        sources = wire.sources_from_json(request["sources"])
        across, up = places(sources, request["x"], request["y"], cache=self._cache, cancelled=cancelled)
        return Answer({"across": len(across), "up": len(up)}, {"across": Packed.of(across), "up": Packed.of(up)})

    def _rows(self, request: Said, cancelled: Cancelled) -> Answer:
        (source,) = wire.sources_from_json(request["sources"])
        found, known = rows_of(source, request["names"], request["first"], request["count"])
        rows = wire.table_to_bytes(found)
        return Answer({"known": known}, {"rows": Packed.of_bytes(rows)})


TASKS: Mapping[str, Callable[[Answers, Said, Cancelled], Answer]] = {
    "facts": Answers._facts,
    "extent": Answers._extent,
    "weigh": Answers._weigh,
    "parts": Answers._parts,
    "select": Answers._select,
    "values": Answers._values,
    "places": Answers._places,
    "rows": Answers._rows,
}
"""What can be asked."""
