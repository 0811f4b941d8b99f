"""Measures pictures of large data against plain Datashader on a Dask data frame of the same points, in turns.

Run by hand on an idle machine::

    python tests/benchmarks/raster.py [--rows 10000000] [--views 5]

The points are tracks between places, flight by flight, in eight files; their
columns are those of flight_telemetry. 10^8 rows take 4 GB of disk. Beside the
wall clock stands the CPU time [s], which other programs disturb less. The last
lines are ratios against the targets.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from agilab import points, raster  # noqa: E402
from agilab.raster import Cache, Query, Source, aggregate, shading  # noqa: E402
from agilab.raster.series import envelope  # noqa: E402

FILES = 8
PEOPLE = 10
BATCH_ROWS = 1 << 16
TRACK_ROWS = 400
Figures = dict[str, list[tuple[float, float]]]


def batches(rows: int, seed: int) -> Iterator[pa.RecordBatch]:
    """Yield tracks between a hundred places, in the columns of flight_telemetry."""
    rng = np.random.default_rng(seed)
    places = np.random.default_rng(0).normal(0, 1e6, (100, 2)) * (2.5, 1.0)
    carriers = pa.array(["AA", "B6", "DL", "EV", "MQ", "UA", "US", "WN"])
    for start in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - start)
        tracks = -(-count // TRACK_ROWS)
        ends = places[rng.integers(0, 100, (2, tracks))] + rng.normal(0, 2e4, (2, tracks, 2))
        way = np.linspace(0, 1, TRACK_ROWS)[None, :, None]
        bend = np.sin(way * np.pi) * rng.normal(0, 1e5, (tracks, 1, 2))
        place = (ends[0][:, None] * (1 - way) + ends[1][:, None] * way + bend).reshape(-1, 2)[:count].astype("float32")
        ident = (start // TRACK_ROWS + np.arange(tracks, dtype="int32")).repeat(TRACK_ROWS)[:count]
        carrier = pa.DictionaryArray.from_arrays(pa.array((ident % 8).astype("int8")), carriers)
        columns = {
            "flight_id": ident,
            "carrier": carrier,
            "time": pa.array(np.arange(start, start + count) * 28_000, pa.timestamp("ms", "UTC")),
            "longitude": place[:, 0] / np.float32(1e5),
            "latitude": place[:, 1] / np.float32(1e5),
            "x": place[:, 0],
            "y": place[:, 1],
            "altitude_m": np.tile(np.sin(np.linspace(0, np.pi, TRACK_ROWS, dtype="float32")), tracks)[:count] * 1e4,
            "speed_m_s": rng.normal(230, 5, count).astype("float32"),
        }
        yield pa.record_batch(list(map(pa.array, columns.values())), names=list(columns))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Do something; return wall clock and CPU of all threads [s]."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def located(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield coordinates and row numbers, as `agilab.raster.shelf` does."""
    row = 0
    for batch in parquet.ParquetFile(path).iter_batches(columns=["x", "y"]):
        yield pa.record_batch([*batch.columns, pa.array(np.arange(row, row + len(batch)))], ["x", "y", "row"])
        row += len(batch)


def stranger(path: Path, made: list[pa.RecordBatch]) -> None:
    """Write points as one does who knows nothing of us."""
    parquet.write_table(pa.Table.from_batches(made).unify_dictionaries(), path, compression="zstd")


def write(folder: Path, rows: int, seen: Figures) -> tuple[list[Source], list[Source]]:
    """Write the points in every form; return them as a stranger leaves them, and with pyramid and index."""
    plain, ours = [], []
    for number in range(FILES):
        made = list(batches(rows // FILES, number))
        path, index = folder / f"{number}.parquet", folder / f"{number}.index.parquet"
        pyramid, ordered = path.with_suffix(".npz"), folder / "ordered.parquet"
        for name, work in (
            ("write: plain", partial(stranger, ordered, made)),
            ("write: kept order", partial(points.write, path, made, x="x", y="y", order=None)),
            ("write: with pyramid", partial(points.write, path, made, x="x", y="y", order=None, pyramid=pyramid)),
            ("write: in order", partial(points.write, ordered, made, x="x", y="y")),
            ("write: index beside it", lambda path=path, index=index: points.write(index, located(path), x="x", y="y")),
        ):
            seen.setdefault(name, []).append(timed(work))
        ordered.unlink()
        plain.append(Source(path))
        ours.append(Source(path, pyramid=pyramid, index=index))
    return plain, ours


def views(extent: tuple[float, ...], share: float, count: int) -> list[dict[str, tuple[float, float]]]:
    """Return ranges that show a share of the area, around the middle of the data."""
    if share == 1:
        return [{}] * count
    rng = np.random.default_rng(7)
    left, bottom, right, top = extent
    width, height = (right - left) * share**0.5, (top - bottom) * share**0.5
    found = []
    for x, y in rng.normal(0, 0.1, (count, 2)) * (right - left, top - bottom):
        found.append({"x_range": (x, x + width), "y_range": (y, y + height)})
    return found


def plain_datashader(frame: Any, query: Query) -> Any:
    """Return what ``hvplot(datashade=True)`` computes for a view."""
    import datashader

    canvas = datashader.Canvas(query.width, query.height, x_range=query.x_range, y_range=query.y_range)
    return canvas.points(frame, query.x, query.y, datashader.count())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--views", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="agilab-raster-"))
    seen: Figures = {}
    try:
        plain, ours = write(folder, arguments.rows, seen)
        look(plain, ours, seen, arguments.views)
    finally:
        shutil.rmtree(folder)
    report(seen)


def look(plain: list[Source], ours: list[Source], seen: Figures, count: int) -> None:
    """Take pictures in every way, in turns."""
    import dask.dataframe as dd

    warnings.filterwarnings("ignore", module="dask")  # pandas has deprecated what it calls
    shading.warm_up()
    frame = dd.read_parquet([source.path for source in plain], columns=["x", "y"])
    held = dd.from_pandas(frame.compute(), npartitions=FILES)
    extent = raster.extent(plain, "x", "y")
    assert extent is not None
    caches = {"scan, columns cached": Cache(4 << 30), "pyramid and index": Cache(1 << 28)}
    ways: dict[str, Callable[[Query], Any]] = {
        "dask, from disk": lambda query: plain_datashader(frame, query),
        "dask, in memory": lambda query: plain_datashader(held, query),
        "scan": lambda query: aggregate(plain, query),
        "scan, columns cached": lambda query: aggregate(plain, query, cache=caches["scan, columns cached"]),
        "pyramid and index": lambda query: aggregate(ours, query, cache=caches["pyramid and index"]),
    }
    base = Query("x", "y", 800, 600)
    for share in (1, 0.01, 0.001):
        for number, limits_of_view in enumerate(views(extent, share, count + 1)):
            query = replace(base, **limits_of_view)
            for name, way in ways.items():
                figure = timed(partial(way, query))
                if number:  # the first one compiles and opens
                    seen.setdefault(f"{share:.1%}: {name}", []).append(figure)
    ends = raster.extent(plain, "time", "time")
    assert ends is not None
    series, cache = Query("time", "altitude_m", 800), Cache(4 << 30)
    seen["series: first"] = [timed(lambda: envelope(plain, series, cache=cache))]
    for start in np.linspace(ends[0], ends[2], count, endpoint=False):
        near = replace(series, x_range=(start, start + (ends[2] - ends[0]) / 100))
        seen.setdefault("series: zoom", []).append(timed(partial(envelope, plain, near, cache=cache)))
    seen["first picture: pyramid, new cache"] = [timed(lambda: aggregate(ours, base, cache=Cache(1 << 28)))]
    together(ours, extent, seen, count)


def together(sources: list[Source], extent: tuple[float, ...], seen: Figures, count: int) -> None:
    """Let ten people zoom at the same time, each with the columns that all keep."""
    cache = Cache(1 << 28)

    def zoom(number: int) -> list[tuple[float, float]]:
        turns = views(extent, (0.3, 0.01)[number % 2], count)
        return [
            timed(partial(aggregate, sources, Query("x", "y", 800, 600, **limits), cache=cache)) for limits in turns
        ]

    with ThreadPoolExecutor(PEOPLE) as pool:
        seen["ten at once"] = [figure for figures in pool.map(zoom, range(PEOPLE)) for figure in figures]


def report(seen: Figures) -> None:
    """Print every figure, and the ratios."""
    wall = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in seen.items()}
    cpu = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in seen.items()}
    for name, pairs in seen.items():
        late = float(np.quantile([pair[0] for pair in pairs], 0.95))
        print(f"{name:34} wall {wall[name]:7.3f} s   p95 {late:7.3f} s   CPU {cpu[name]:7.3f} s")
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB (both sides together)")
    for base in ("plain", "kept order"):
        for name, most in (("with pyramid", 25), ("in order", 110), ("index beside it", 40)):
            spent = cpu[f"write: {name}"] + (cpu["write: kept order"] if name == "index beside it" else 0)
            more = spent / cpu[f"write: {base}"] - 1
            print(f"CPU of writing {name} over {base}: {more:+.0%} (wanted over plain: at most +{most} %)")
    for share, least in (("100.0%", 8), ("1.0%", 10), ("0.1%", 20)):
        for base in ("dask, from disk", "dask, in memory"):
            for way in ("scan", "scan, columns cached", "pyramid and index"):
                names = f"{share}: {base}", f"{share}: {way}"
                times, work = wall[names[0]] / wall[names[1]], cpu[names[0]] / cpu[names[1]]
                wanted = f"   (wanted: {least})" if way == "pyramid and index" else ""
                print(f"{share:>6} of the area, {way:20} over {base}: {times:6.1f} x wall, {work:6.1f} x CPU{wanted}")


if __name__ == "__main__":
    main()
