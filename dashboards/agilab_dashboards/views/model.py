"""The view of models: what a file of skops holds, read as data; no code of it, nor of the library it is for, runs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import param

from agilab.errors import ArtifactNotFoundError, first_line
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.views.listed import Listed

LARGEST_BYTES = 64 << 20
"""Up to which size what a file says of itself is read [bytes]."""
MOST_ROWS = 2000
LONGEST_VALUE = 200
HEADER_BYTES = 1024
"""How much of an array is read, for its type and shape [bytes]."""
_DAMAGED = (zipfile.BadZipFile, OSError, KeyError, TypeError, ValueError, RecursionError, NotImplementedError)
"""What reading a file raises that is not what it should be."""

Node = Mapping[str, Any]


class Model(Listed):
    """Steps of a model: of what class each is, how it was set, and what it has learned."""

    learned = param.Boolean(True, doc="Whether what was learned is listed too, beside settings.")

    kinds = ("model",)

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        return source.kind in cls.kinds and Path(source.artifacts[0].path).suffix == ".skops"

    def frame_of_rows(self, source: Dataset) -> Any:
        import pandas as pd

        path = source.files[0]
        try:
            with zipfile.ZipFile(path) as archive:
                rows = list(_rows(archive, _schema(archive), learned=self.learned))
        except _DAMAGED as err:
            raise ArtifactNotFoundError(f"{path} is no file of skops that can be read: {first_line(err)}") from err
        return pd.DataFrame(rows[:MOST_ROWS], columns=["step", "class", "name", "value"])


def _schema(archive: zipfile.ZipFile) -> Node:
    if archive.getinfo("schema.json").file_size > LARGEST_BYTES:
        raise ValueError(f"what it says of itself is larger than {LARGEST_BYTES >> 20} MiB")
    with archive.open("schema.json") as file:
        found = json.loads(file.read(LARGEST_BYTES))
    if not isinstance(found, dict):
        raise ValueError("what it says of itself is no object")
    return found


def _rows(archive: zipfile.ZipFile, schema: Node, *, learned: bool) -> Iterator[tuple[str, str, str, str]]:
    """Yield step, class, name and value of everything that is set or was learned; a step is named by its place."""
    waiting: list[tuple[str, Node]] = [("", schema)]
    while waiting:
        step, node = waiting.pop()
        members = _members(node)
        kind = _class_of(node)
        yield step, kind, "", ""
        inside: list[tuple[str, Node]] = []
        for name, value in members.items():
            steps = list(_steps(value, name))
            inside += [(f"{step} / {inner}".removeprefix(" / "), one) for inner, one in steps]
            if not steps and not name.startswith("_") and (learned or not name.endswith("_")):
                said = _text(archive, value)
                if said != "null":
                    yield "", "", name, said
        waiting += reversed(inside)


def _class_of(node: Node) -> str:
    """Return the name of a class as people import it: without the modules that are somebody's own."""
    parts = [part for part in str(node.get("__module__", "")).split(".") if not part.startswith("_")]
    return ".".join([*parts, str(node.get("__class__", ""))])


def _members(node: Node) -> dict[str, Node]:
    """Return the attributes of an object; what was taught stands for what it was made from."""
    content = node.get("content")
    content = content.get("content") if isinstance(content, dict) else None
    known = {name: one for name, one in (content or {}).items() if isinstance(one, dict)}
    return {name: one for name, one in known.items() if f"{name}_" not in known}


def _steps(value: Node, name: str) -> Iterator[tuple[str, Node]]:
    """Yield the objects that an attribute holds, by name: itself, those of a list, or those of pairs in a list."""
    if value.get("__loader__") == "ObjectNode":
        yield name, value
        return
    content = value.get("content")
    for one in content if isinstance(content, list) else ():
        inner = one.get("content") if isinstance(one, dict) else None
        pair = inner if isinstance(inner, list) else [one]
        texts = [_plain(each) for each in pair if isinstance(each, dict) and each.get("__loader__") == "JsonNode"]
        for each in pair:
            if isinstance(each, dict) and each.get("__loader__") == "ObjectNode":
                yield str(texts[0]) if texts else name, each


def _plain(node: Node) -> Any:
    return json.loads(node["content"])


def _text(archive: zipfile.ZipFile, value: Node) -> str:
    """Return a value for people: of arrays type and shape."""
    loader, content = value.get("__loader__"), value.get("content")
    if loader == "JsonNode":
        said = json.dumps(_plain(value), ensure_ascii=False)
    elif isinstance(value.get("file"), str):
        said = _array(archive, value["file"])
    elif isinstance(content, list):
        said = ", ".join(str(_plain(one)) for one in content[:50] if one.get("__loader__") == "JsonNode")
        said = said if len(said) <= LONGEST_VALUE and said else f"{len(content):,} of them"
    else:
        said = str(value.get("__class__", ""))
    return said if len(said) <= LONGEST_VALUE else f"{said[:LONGEST_VALUE]}..."


def _array(archive: zipfile.ZipFile, name: str) -> str:
    """Return type and shape of an array; only its head is read."""
    with archive.open(name) as file:
        if not name.endswith(".npy"):
            return name
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file, max_header_size=HEADER_BYTES)
    return f"{kind} {' x '.join(map(str, shape))}".rstrip()
