"""Pictures of large data: partial aggregates of tables, which add up over files and partitions; it draws no pixel.

`aggregation` chooses between three ways to one answer: a *pyramid* of counts
that was made before, an *index* that says which blocks of a table touch the
view, and a `scan` of all of it. What they give is what Datashader gives for the
same rows and cells. `sources` finds the tables of a run, `series` has
envelopes, `selection` what lies in a box.
"""

from agilab.errors import InstallError

try:
    import numpy  # noqa: F401
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
except ImportError as error:
    raise InstallError(
        f"large data needs NumPy and pyarrow ({error}); python -m pip install 'agilab-holoviz[ui]'"
    ) from error

from agilab.raster.aggregation import Aggregation, aggregate, alike, extent
from agilab.raster.blocks import Cache
from agilab.raster.filters import Filter
from agilab.raster.picture import Picture, Query, Source
from agilab.raster.shading import warm_up

__all__ = ["Aggregation", "Cache", "Filter", "Picture", "Query", "Source", "aggregate", "alike", "extent", "warm_up"]
