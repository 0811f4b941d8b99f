"""Changed artifacts are compared by their kind, and nothing outside of a run folder is opened for that."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from agilab.artifact import KINDS, Artifact, Kind
from agilab.contents import JSON_BYTES, MOST_CHANGES, ArtifactChange, FileChange, Held, artifact_change, source_changes
from agilab.differences import EXACT, Change, Tolerance
from agilab.digest import of_bytes
from agilab.tables import WITHOUT_PYARROW, Budget

Compared = Callable[..., ArtifactChange]


@pytest.fixture
def held(tmp_path: Path) -> Callable[..., Held]:
    """Return ``held(data, kind, side)``: an artifact in a run folder."""

    def make(data: bytes, kind: str, side: str, **recorded: Any) -> Held:
        root = tmp_path / side
        path = root / "artifacts" / "s" / "p" / "n"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        known = {"path": "artifacts/s/p/n", "size_bytes": len(data), "sha256": of_bytes(data), **recorded}
        return Held(root, Artifact("s", "p", "n", kind, **known))

    return make


@pytest.fixture
def compared(held: Callable[..., Held]) -> Compared:
    """Return ``compared(old, new, kind)``: what differs between two artifacts of a kind."""

    def compare(
        old: bytes, new: bytes, kind: str, *, kinds: Any = KINDS, tolerance: Tolerance = EXACT, left: float = 1e9
    ) -> ArtifactChange:
        pair = held(old, kind, "a"), held(new, kind, "b")
        return artifact_change(*pair, kinds, tolerance=tolerance, budget=Budget(left))

    return compare


def table(**columns: Any) -> bytes:
    """Return a parquet file."""
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def test_json_is_compared_by_structure(compared: Compared) -> None:
    found = compared(b'{"a": [1, 2], "b": 1}', b'{"b": 1.05, "a": [1, 3]}', "json", tolerance=Tolerance(rtol=0.1))
    assert found == ArtifactChange("s/p/n", "json", changes=(Change("/a/1", 2, 3),))
    assert compared(b'{"a":1}', b'{"a": 1}', "json").same


def test_of_many_changes_the_first_are_kept_and_the_rest_counted(compared: Compared) -> None:
    found = compared(json.dumps([0] * 5000).encode(), json.dumps([1] * 5000).encode(), "json")
    assert (len(found.changes), found.more_changes) == (MOST_CHANGES, 5000 - MOST_CHANGES)


@pytest.mark.parametrize("kind", ["table", "points"])
def test_tables_are_compared_by_columns(compared: Compared, kind: str) -> None:
    found = compared(table(x=[1, 2]), table(x=[1, 3]), kind)
    assert found.table is not None
    assert [column.name for column in found.table.columns] == ["x"]
    assert compared(table(x=[1.0]), table(x=[1.001]), kind, tolerance=Tolerance(atol=0.01)).same


def test_text_is_compared_by_lines_and_other_bytes_by_size(compared: Compared) -> None:
    assert "+two" in compared(b"one\n", b"two\n", "text").text
    assert compared(b"\xff\0", b"\xff\1", "image") == ArtifactChange("s/p/n", "bytes")
    assert "+two" in compared(b"one\n", b"two\n", "file").text


def test_a_kind_of_an_app_is_compared_as_it_declares(compared: Compared) -> None:
    kinds = {**KINDS, "recipe": Kind("recipe", ".json", "", comparison="json")}
    assert compared(b"[1]", b"[2]", "recipe", kinds=kinds).changes == (Change("/0", 1, 2),)
    assert "kind recipe is not known here" in compared(b"[1]", b"[2]", "recipe").note


def test_a_pickle_is_bytes(compared: Compared, tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sang",))

    data = pickle.dumps(Canary())
    for kind in ("file", "json", "table"):
        assert compared(data, data + b"x", kind).compared == "bytes"
    assert not (tmp_path / "sang").exists()


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_what_is_not_the_json_it_is_recorded_as_is_compared_by_digest(compared: Compared, data: bytes) -> None:
    found = compared(data, b"[1]", "json")
    assert (found.compared, found.same) == ("bytes", False)
    assert "not JSON" in found.note


def test_what_is_too_large_to_be_compared_inside_says_so(compared: Compared) -> None:
    big = b'"' + b"x" * JSON_BYTES + b'"'
    assert "larger than" in compared(big, b"1", "json").note
    assert "--full" in compared(b"1", b"2", "json", left=0).note
    assert compared(b"x" * 300_000, b"y", "text").compared == "bytes"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../a/artifacts/s/p/n", "outside of"),
        ("/etc/passwd", "outside of"),
        ("run_manifest.json", "outside of"),
        ("artifacts/s/p/nosuch", "No such file"),
        ("artifacts/s/link/n", "compared by size and digest"),
        ("artifacts/s/p", "is not a regular file"),
    ],
)
@pytest.mark.parametrize("kind", ["json", "table", "text"])
def test_nothing_outside_of_the_run_folder_is_opened(
    held: Callable[..., Held], tmp_path: Path, path: str, said: str, kind: str
) -> None:
    good, bad = held(b"[1]", kind, "a"), held(b"[2]", kind, "b", path=path)
    (tmp_path / "b" / "artifacts" / "s" / "link").symlink_to(tmp_path / "a" / "artifacts" / "s" / "p")
    found = artifact_change(good, bad, KINDS, tolerance=EXACT, budget=Budget(1e9))
    assert found.compared == "bytes"
    assert said in found.note
    assert "\n" not in found.note


def test_an_artifact_that_changed_since_it_was_recorded_is_not_compared(held: Callable[..., Held]) -> None:
    for recorded in ({"sha256": "0" * 64}, {"size_bytes": 99}):
        found = artifact_change(
            held(b"[1]", "json", "a"), held(b"[2]", "json", "b", **recorded), KINDS, tolerance=EXACT, budget=Budget(9)
        )
        assert "agilab verify b" in found.note


def test_an_artifact_on_another_host_is_compared_by_digest(held: Callable[..., Held]) -> None:
    far = held(b"[2]", "json", "b", location="far.example")
    found = artifact_change(held(b"[1]", "json", "a"), far, KINDS, tolerance=EXACT, budget=Budget(9))
    assert found.note == "on host far.example: compared by digest; agilab fetch b brings it here"


def test_kinds_that_differ_are_named(held: Callable[..., Held]) -> None:
    pair = held(b"[1]", "json", "a"), held(b"[2]", "text", "b")
    assert "kind json became text" in artifact_change(*pair, KINDS, tolerance=EXACT, budget=Budget(9)).note


def test_without_pyarrow_tables_are_compared_by_digest(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    found = compared(b"PAR1", b"PAR2", "table")
    assert found.note == WITHOUT_PYARROW
    assert "pip install pyarrow" in WITHOUT_PYARROW


def test_source_trees_are_compared_by_lines(tmp_path: Path) -> None:
    trees = {
        "a": {"same.py": b"x\n", "edited.py": b"one\ntwo\n", "gone.py": b"g\n", "data.bin": b"\0"},
        "b": {"same.py": b"x\n", "edited.py": b"one\n2\n", "sub/new.py": b"n\n", "data.bin": b"\1", "empty.py": b""},
    }
    for name, files in trees.items():
        for path, data in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(data)
    found = {change.path: change for change in source_changes(tmp_path / "a", tmp_path / "b", label="app")}
    assert set(found) == {f"app/{name}" for name in ("edited.py", "gone.py", "data.bin", "sub/new.py", "empty.py")}
    assert {"-two", "+2"} <= set(found["app/edited.py"].text)
    assert found["app/gone.py"].text[:2] == ("--- a/app/gone.py", "+++ /dev/null")
    assert found["app/empty.py"].text == ("--- /dev/null", "+++ b/app/empty.py")
    assert found["app/data.bin"] == FileChange("app/data.bin", note="compared as bytes: 1 became 1")


def test_a_link_in_a_source_tree_is_where_it_leads_and_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    for name, target in (("a", "nowhere"), ("b", "../secret")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "link").symlink_to(target)
    [found] = source_changes(tmp_path / "a", tmp_path / "b", label="app")
    assert {"--> nowhere", "+-> ../secret"} <= set(found.text)
    assert not any("secret" in line and "->" not in line for line in found.text)


def test_opening_many_files_takes_from_the_budget_too(held: Callable[..., Held]) -> None:
    budget = Budget(1 << 20)
    pair = held(b"one", "text", "a"), held(b"two", "text", "b")
    found = [artifact_change(*pair, KINDS, tolerance=EXACT, budget=budget) for _ in range(100)]
    inside = sum(change.compared == "text" for change in found)
    assert 0 < inside < 100
    assert "--full" in found[-1].note
