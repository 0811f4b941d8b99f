"""Names of categories as they are met, block by block and in several threads; it counts none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
from pyarrow import types

from agilab.errors import QueryError

MOST_CATEGORIES = 64
"""More layers than that nobody tells apart, and each of them is a picture."""
OTHER = "other"
"""The layer of rows without one of their own."""


class Categories:
    """The categories of one column so far.

    Parameters
    ----------
    column
        Its name.
    most
        How many there may be; None for any number.
    chosen
        Those that have a layer; all other rows, also those without a category, share `OTHER`. Empty for all there are.
    """

    def __init__(self, column: str, most: int | None = MOST_CATEGORIES, *, chosen: Sequence[str] = ()) -> None:
        self.column, self.most = column, most
        self.names: list[str] = [*chosen, OTHER] if chosen else []
        self._codes: dict[str, int] = {name: place for place, name in enumerate(chosen)}
        self._rest = len(chosen) if chosen else None
        self._lock = threading.Lock()

    def codes(self, array: Any) -> npt.NDArray[np.int64]:
        """Return the position of every row's category in `names`, which grows; -1 where the row has none.

        Raises
        ------
        QueryError
            There are more than `most`, or the values cannot be categories.
        """
        kind = array.type.value_type if types.is_dictionary(array.type) else array.type
        if types.is_floating(kind) or types.is_nested(kind) or types.is_binary(kind):
            raise QueryError(f"column {self.column!r} is {kind}; categories are texts, whole numbers or truth values")
        found = array if types.is_dictionary(array.type) else array.dictionary_encode()
        indices = found.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        # A dictionary may hold what no row of this block has.
        used = np.unique(indices[indices >= 0])
        places = np.full(len(found.dictionary) + 1, -1 if self._rest is None else self._rest, np.int64)
        places[used] = self.places(found.dictionary.take(pa.array(used)).cast(pa.string()).to_pylist())
        found_places: npt.NDArray[np.int64] = places[indices]
        return found_places

    def places(self, names: Sequence[str | None]) -> list[int]:
        """Return the position of each of some categories in `names`, which grows; -1 for none."""
        if self._rest is not None:
            return [self._codes.get(name or "", self._rest) for name in names]
        with self._lock:
            for name in names:
                if name is not None and name not in self._codes:
                    self._codes[name] = len(self.names)
                    self.names.append(name)
            if self.most is not None and len(self.names) > self.most:
                raise QueryError(
                    f"column {self.column!r} has more than {self.most} categories; "
                    "filter it by values, or choose another column"
                )
            return [-1 if name is None else self._codes[name] for name in names]
