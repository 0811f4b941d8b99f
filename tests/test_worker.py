"""What `part.write` takes: known kinds only, each with the content that its file can hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from agilab import codec
from agilab.artifact import KINDS, Kind
from agilab.entry import PROTOCOL, WorkerSession
from agilab.errors import WorkerError
from agilab.worker import PartitionContext

OWN = {
    "weights": {"doc": "Weights", "suffix": ".ckpt.zip"},
    "scores": {"doc": "Scores", "comparison": "json"},
    "hits": {"doc": "Hits", "comparison": "table", "suffix": ".parq"},
    "blob": {"doc": "Bytes"},
    "levels": {"doc": "Levels", "comparison": "table", "columns": {"x": "m"}},
}
TABLE = pa.table({"x": [1.0, 2.0]})


def make_part(folder: Path) -> PartitionContext:
    folder.mkdir()
    task: dict[str, Any] = {
        "id": "p0",
        "stage": "first",
        "params": {},
        "inputs": {},
        "resources": {},
        "seed": 0,
        "kinds": {name: Kind.from_json(name, kind) for name, kind in OWN.items()},
    }
    return PartitionContext(task, folder, send=lambda message: None)


@pytest.fixture
def part(tmp_path: Path) -> PartitionContext:
    return make_part(tmp_path / "p0")


def refusal(part: PartitionContext, kind: str, content: Any) -> str:
    with pytest.raises(WorkerError) as caught:
        part.write("x", kind, content)
    assert part.written == {}
    assert list(part.folder.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "content", "name"),
    [
        ("table", TABLE, "x.parquet"),
        ("points", TABLE, "x.parquet"),
        ("json", {"a": 1}, "x.json"),
        ("json", "text", "x.json"),
        ("text", "words", "x.txt"),
        ("image", b"PNG", "x.png"),
        ("file", b"bytes", "x.bin"),
        ("file", "text", "x.bin"),
        ("weights", b"bytes", "x.ckpt.zip"),
        ("scores", [1, 2], "x.json"),
        ("hits", TABLE, "x.parq"),
        ("blob", memoryview(b"bytes"), "x.bin"),
    ],
)
def test_a_value_becomes_a_file_with_the_ending_of_its_kind(
    part: PartitionContext, kind: str, content: Any, name: str
) -> None:
    part.write("x", kind, content)
    assert part.written["x"] == {"name": "x", "kind": kind, "path": name}
    assert (part.folder / name).stat().st_size > 0


def test_an_own_kind_that_is_compared_as_json_is_written_as_json(part: PartitionContext) -> None:
    part.write("x", "scores", {"b": 1, "a": [None]})
    assert json.loads((part.folder / "x.json").read_text()) == {"b": 1, "a": [None]}


@pytest.mark.parametrize(
    ("file", "kind", "name"),
    [("m.ckpt.zip", "weights", "x.ckpt.zip"), ("m.pt", "weights", "x.pt"), ("photo.jpg", "image", "x.jpg")],
)
def test_a_file_that_is_handed_over_keeps_its_ending(part: PartitionContext, file: str, kind: str, name: str) -> None:
    (part.folder / file).write_bytes(b"content")
    part.write("x", kind, part.folder / file)
    assert [path.name for path in part.folder.iterdir()] == [part.written["x"]["path"]] == [name]


def test_an_unknown_kind_is_refused_with_the_known_ones(part: PartitionContext) -> None:
    said = refusal(part, "pickle", b"bytes")
    assert said.startswith("artifact 'x' is of kind 'pickle', which is not known; known: table, points, tracks, ")
    assert ", file, weights, scores, hits, blob, levels; " in said
    assert "[tool.agilab.kinds.pickle]" in said
    assert "did you mean 'table'?" in refusal(part, "tabel", TABLE)
    assert "did you mean 'weights'?" in refusal(part, "weight", b"bytes")


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("table", "/data/file.parquet", "of kind 'table' holds a str; hand over a pyarrow Table, a pandas DataFrame,"),
        ("hits", [1, 2], "of kind 'hits' holds a list; hand over a pyarrow Table"),
        ("text", {"a": 1}, "of kind 'text' holds a dict; hand over text, bytes or a pathlib.Path"),
        ("file", TABLE, "of kind 'file' holds a Table; hand over text, bytes or a pathlib.Path"),
        ("image", "picture.png", "of kind 'image' holds a str; hand over bytes or a pathlib.Path"),
    ],
)
def test_content_that_does_not_fit_its_kind_is_refused(
    part: PartitionContext, kind: str, content: Any, said: str
) -> None:
    assert said in refusal(part, kind, content)


def test_every_shipped_kind_says_how_it_is_compared() -> None:
    assert {kind.comparison for kind in KINDS.values()} == {"bytes", "json", "table"}


@pytest.mark.parametrize("form", ["arrow", "pandas"])
def test_a_table_of_an_own_kind_has_its_columns_and_says_their_units(part: PartitionContext, form: str) -> None:
    bare = pa.table({"y": [1.0]})
    assert "lacks the column 'x'; it has y" in refusal(part, "levels", bare.to_pandas() if form == "pandas" else bare)
    part.write("x", "levels", TABLE.to_pandas() if form == "pandas" else TABLE)
    found = parquet.read_table(part.folder / "x.parquet")
    assert found.schema.field("x").metadata[b"unit"] == b"m"
    assert found["x"].to_pylist() == [1.0, 2.0]


def test_the_worker_process_knows_the_kinds_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a session works in the folders of its partitions
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "keeps_weights_worker.py").write_text(
        "import agilab\nclass Keeps(agilab.Worker):\n    def keep(self, part): part.write('m', 'weights', b'1')\n"
    )
    init = {
        "protocol": PROTOCOL,
        "worker": "keeps_weights_worker:Keeps",
        "code": str(tmp_path),
        "fields": codec.fields_to_json(()),
        "values": {},
        "secrets": {},
        "seed": 0,
        "cancel_file": str(tmp_path / "cancel"),
        "kinds": OWN,
    }
    task = {"id": "p0", "stage": "keep", "params": {}, "inputs": {}, "resources": {}, "folder": str(tmp_path / "p0")}
    done = WorkerSession(init).run(task, lambda message: None)
    assert done["artifacts"] == [{"name": "m", "kind": "weights", "path": "m.ckpt.zip", "size_bytes": 1}]
    with pytest.raises(WorkerError, match="artifact 'm' is of kind 'weights', which is not known"):
        WorkerSession({**init, "kinds": {}}).run({**task, "folder": str(tmp_path / "p1")}, lambda message: None)
