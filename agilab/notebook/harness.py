"""The few lines that stand for AGILAB in a standalone notebook: only those that its worker needs.

They write what `agilab.worker.PartitionContext` writes, byte for byte: tests
compare the hashes. Pyramids are left out: they are made of the points, and for
AGILAB's pages.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Mapping
from string import Template

from agilab.artifact import Kind
from agilab.notebook.source import WorkerText


def context(text: WorkerText, *, app: str, kinds: Mapping[str, Kind]) -> str:
    """Return the classes that a worker, which writes these kinds, and its stages are given."""
    known = {**_MEMBERS, **({"metric": _UNSEEN} if "write_points" in text.attributes else {})}
    members = "".join(code for name, code in known.items() if name in text.attributes)
    if "rng" in text.attributes and "seed" not in text.attributes:
        members = _MEMBERS["seed"] + members
    base = _WORKER + ("" if text.bare_hooks else _NOTHING)
    named = "named" in text.attributes or "Inputs" in text.given
    whole = base + (_INPUTS if named else "") + _CONTEXT + _value_writer(text, kinds) + members + _points(text)
    own = tuple(name for name, kind in kinds.items() if kind.comparison == "json" and name != "json")
    is_json = f"in {('json', *own)!r}".replace("'", '"') if own else '== "json"'
    filled = Template(whole).substitute(app=app, json=is_json, inputs="Inputs" if named else "dict")
    return filled.rstrip("\n")


def imports(text: WorkerText, code: str) -> str:
    """Return the imports that the lines of AGILAB's stead need."""
    plain = sorted(name for name in _IMPORTED if f"{name}." in code)
    if text.aliased:
        plain = sorted({*plain, "sys"})
    lines = [f"import {', '.join(plain)}"] if plain else []
    lines += ["from pathlib import Path"] if "Path" in code else []
    lines += ["import numpy as np"] if "np." in code else []
    lines += ["import pyarrow as pa"] if "pa." in code else []
    used = [name for name in ("parquet", "types") if f"{name}." in code]
    return "\n".join([*lines, *([f"from pyarrow import {', '.join(used)}"] if used else [])])


def renamed(code: str, taken: frozenset[str]) -> str:
    """Return lines of ours in which a name that the worker needs itself has a ``_`` at its end."""
    clashing = OWN_NAMES & taken
    if not clashing:
        return code
    lines = code.splitlines(keepends=True)
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(code).readline))):
        if token.type == tokenize.NAME and token.string in clashing:
            (row, end), line = token.end, lines[token.end[0] - 1]
            lines[row - 1] = f"{line[:end]}_{line[end:]}"
    return "".join(lines)


def units(text: WorkerText, kinds: Mapping[str, Kind]) -> dict[str, dict[str, str]]:
    """Return kind -> column -> unit of the tables whose columns are declared, where the worker may write tables."""
    if not {"pandas", "pyarrow"} & text.imported:
        return {}
    return {
        name: {column: unit for column, unit in kind.columns.items() if unit}
        for name, kind in kinds.items()
        if kind.columns
    }


def _value_writer(text: WorkerText, kinds: Mapping[str, Kind]) -> str:
    """Return how values other than JSON are written, as far as the worker may hand over such ones."""
    tables = any(kind.comparison == "table" for kind in kinds.values())
    frames, arrow = (tables and name in text.imported for name in ("pandas", "pyarrow"))
    told = bool(units(text, kinds))
    frame = _FRAME_WITH_UNITS if frames and told else _FRAME if frames else ""
    table = _TABLE_WITH_UNITS if told else _TABLE if arrow else ""
    return frame + table + _BYTES


def _points(text: WorkerText) -> str:
    if "write_points" not in text.attributes:
        return ""
    is_sorted = "morton" in text.orders
    limit = '1 << (17 if order == "morton" else 20)' if is_sorted else "1 << 20"
    default = '"morton"' if is_sorted else "None"
    return Template(_POINTS).substitute(morton=_MORTON if is_sorted else "", limit=limit, default=default)


OWN_NAMES = frozenset(
    {"Settings", "DATA", "PLAN", "SUFFIXES", "UNITS", "RESULTS", "FILES", "METRICS", "POINTS", "SEED", "run"}
)
"""What is defined beside what the worker is written against."""

_IMPORTED = (
    *("datetime", "fnmatch", "functools", "hashlib", "io", "itertools", "json", "logging"),
    *("os", "random", "shutil", "zipfile"),
)
_WORKER = """\
class Worker:
    settings = Settings
"""
_NOTHING = """\
    def setup(self): pass
    def teardown(self): pass
"""
_INPUTS = """

class Inputs(dict):
    def named(self, name):
        return [path for key, path in self.items() if key == name or key.endswith(f"/{name}")]
"""
_CONTEXT = """

class PartitionContext:
    def __init__(self, stage, id, params, files, made):
        self.stage, self.id, self.params, self.folder = stage, id, params, RESULTS / stage / id
        made = {key: FILES[key] for item in made for key in ([item] if item in FILES else fnmatch.filter(FILES, item))}
        self.inputs = $inputs({name: DATA / path for name, path in files.items()} | made)
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, name, kind, content):
        is_file, suffix = isinstance(content, Path), SUFFIXES[kind]
        suffix = content.suffix if is_file and not content.name.endswith(suffix) else suffix
        file = FILES[f"{self.stage}/{self.id}/{name}"] = self.folder / (name.removesuffix(suffix) + suffix)
        if is_file:
            file == content.resolve() or shutil.copyfile(content, file)
        elif kind $json and not isinstance(content, bytes):
            file.write_text(json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\\n", "utf-8")
"""
_FRAME = """\
        elif hasattr(content, "to_parquet"):
            content.to_parquet(file)
"""
_FRAME_WITH_UNITS = """\
        elif hasattr(content, "to_parquet") and kind not in UNITS:
            content.to_parquet(file)
        elif hasattr(content, "to_parquet"):
            self.write(name, kind, pa.Table.from_pandas(content, preserve_index=False))
"""
_TABLE_WITH_UNITS = """\
        elif isinstance(content, pa.Table):
            unit = {name: {b"unit": unit} for name, unit in UNITS.get(kind, {}).items()}
            told = [f.with_metadata(unit[f.name] | (f.metadata or {})) if f.name in unit else f for f in content.schema]
            parquet.write_table(content.cast(pa.schema(told, content.schema.metadata)), file, compression="zstd")
"""
_TABLE = """\
        elif isinstance(content, pa.Table):
            parquet.write_table(content, file, compression="zstd")
"""
_BYTES = """\
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
"""
_MEMBERS = {
    "progress": "\n    def progress(self, done, total): pass\n",
    "metric": (
        "\n    def metric(self, name, value, step=None):\n"
        "        METRICS.setdefault(name, {})[self.id] = float(value)\n"
    ),
    "log": '\n    log = logging.getLogger("$app")\n',
    "cancelled": "\n    cancelled = False\n",
    "resources": "\n    resources = {}\n",
    "seed": (
        "\n    @property\n    def seed(self):\n"
        '        return int.from_bytes(hashlib.sha256((str(SEED) + ":" + self.id).encode()).digest()[:8], "big") >> 1\n'
    ),
    "rng": "\n    @functools.cached_property\n    def rng(self):\n        return random.Random(self.seed)\n",
}
"""Attribute of a partition -> what gives it."""
_UNSEEN = "\n    def metric(self, name, value, step=None): pass\n"
"""The same of a metric that no picture shows."""
_POINTS = """
    def write_points(self, name, table, *, x, y, order=$default, pyramid=True):
        batches = iter(table.to_batches(max_chunksize=1 << 20) if isinstance(table, pa.Table) else table)
        first = next(batches)
$morton\
        numbers = [field for field in first.schema if types.is_primitive(field.type) and field.type != pa.bool_()]
        coded = {f.name: "BYTE_STREAM_SPLIT" if types.is_floating(f.type) else "DELTA_BINARY_PACKED" for f in numbers}
        made = {"column_encoding": coded, "use_dictionary": [one for one in first.schema.names if one not in coded]}
        file, rows, pending, boxes = self.folder / f"{name}.parquet", 0, [], []
        with parquet.ParquetWriter(file, first.schema, compression="zstd", **made) as writer:
            for batch in itertools.chain([first], batches, [None]):
                if pending and (batch is None or sum(map(len, pending)) + len(batch) > $limit):
                    group, pending = pa.Table.from_batches(pending).unify_dictionaries(), []
                    for part in (group.slice(start, 1 << 20) for start in range(0, len(group), 1 << 20)):
                        writer.write_table(part, row_group_size=len(part))
                        xy = np.array([part[x].to_numpy(), part[y].to_numpy()]).T * 1.0
                        xy, rows = xy[np.isfinite(xy).all(axis=1)], rows + len(part)
                        boxes.append([*xy.min(0).tolist(), *xy.max(0).tolist()] if xy.size else None)
                pending += [batch] if batch else []
            about = {"schema": "agilab.points/1", "x": x, "y": y, "order": order, "count": rows, "row_groups": boxes}
            writer.add_key_value_metadata({"agilab.points": json.dumps(about, separators=(",", ":"))})
        self.write(name, "points", file)
        POINTS[file] = [x, y]
"""
_MORTON = """\
        if order == "morton":
            table = pa.Table.from_batches([first, *batches]).unify_dictionaries().combine_chunks()
            keys, xy = np.zeros(len(table), np.uint64), [table[x].to_numpy() * 1.0, table[y].to_numpy() * 1.0]
            placed = np.isfinite(xy).all(axis=0)
            for shift, values in enumerate(xy if placed.any() else ()):
                low, high = float(values[placed].min()), float(values[placed].max())
                bits = (np.where(placed, values, low) - low) * (65536 / (high - low) if high > low else 0.0)
                bits = bits.astype(np.int64).clip(0, 65535).astype(np.uint64)
                for distance, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
                    bits = (bits | (bits << np.uint64(distance))) & np.uint64(mask)
                keys |= bits << np.uint64(shift)
            keys[~placed] = 1 << 32
            table = table.take(np.argsort(keys, kind="stable")).combine_chunks()
            first, *batches = table.to_batches(max_chunksize=1 << 17) or [first]
"""
