"""A sealed run whose artifacts every view can show, made without running anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from agilab.run import Run
from tests.run_folder import RunFolder

ROWS = 5000


def numbers(seed: int) -> pd.DataFrame:
    """Return the rows of one partition: places, a time, a measure, a category and a track."""
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(days=seed)
    return pd.DataFrame(
        {
            "track": np.repeat(np.arange(50) + 50 * seed, ROWS // 50),
            "time": start + pd.to_timedelta(np.arange(ROWS), unit="s"),
            "x": rng.normal(size=ROWS).astype("float32"),
            "y": rng.normal(size=ROWS).astype("float32"),
            "height": rng.uniform(0, 100, ROWS),
            "carrier": pd.Categorical(rng.choice(["AA", "BB", "CC"], ROWS)),
        }
    )


def table_bytes(table: Any) -> bytes:
    """Return a table as parquet; `height` says its unit."""
    made = pa.Table.from_pandas(table, preserve_index=False)
    fields = [field.with_metadata({"unit": "m"}) if field.name == "height" else field for field in made.schema]
    out = io.BytesIO()
    parquet.write_table(made.cast(pa.schema(fields)), out, row_group_size=1000)
    return out.getvalue()


def grid() -> pd.DataFrame:
    """Return a field of 4 x 3 cells, one of which is missing."""
    cells = [(10.0 * column, 5.0 * row, float(column + 10 * row)) for column in range(4) for row in range(3)]
    return pd.DataFrame(cells[:-1], columns=["x", "y", "height"])


def picture_bytes() -> bytes:
    """Return a small PNG."""
    out = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(out, "PNG")
    return out.getvalue()


def seen_run(home: Path, *, moment: float = 1_700_000_000.0, seed: int = 0) -> Run:
    """Return a run of two partitions with points, and of one with a field, a picture and metrics by step."""
    made = RunFolder(home, partitions=2, moment=moment, settings={"sample_s": 60 + seed})
    for number, name in enumerate(made.tracks):
        files = {"points": table_bytes(numbers(2 * seed + number)), "note": b"said\n"}
        made.commit("tracks", name, worker=f"local-{number}", files=files, kinds={"points": "points"})
    made.plan()
    made.prepare()
    files = {"grid": table_bytes(grid()), "chart": picture_bytes(), "rows": table_bytes(numbers(9).head(20))}
    made.commit("summary", "summary", files=files, kinds={"grid": "field", "chart": "image", "rows": "table"})
    return Run(made.seal())
