"""A model as a file of skops, whose bytes are those of the model alone and not of when and where it was made."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import skops.io

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The first time that a zip archive knows."""


def model_bytes(model: Any) -> bytes:
    """Return a model in the format of skops, the same bytes for the same model.

    skops names objects and arrays by their addresses in memory and dates its
    archive. Addresses only save reading what is shared twice, so that the
    names go, arrays are numbered as they come, and all is of one date.
    """
    numbers: dict[str, str] = {}

    def plain(node: dict[str, Any]) -> dict[str, Any]:
        node.pop("__id__", None)
        if file := node.get("file"):
            node["file"] = numbers.setdefault(file, f"{len(numbers)}.{file.rpartition('.')[2]}")
        return node

    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(skops.io.dumps(model))) as whole,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file,
    ):
        schema = json.loads(whole.read("schema.json"), object_hook=plain)
        for old, new in numbers.items():
            file.writestr(zipfile.ZipInfo(new, LONG_AGO), whole.read(old), zipfile.ZIP_DEFLATED)
        file.writestr(zipfile.ZipInfo("schema.json", LONG_AGO), json.dumps(schema, indent=1), zipfile.ZIP_DEFLATED)
    return made.getvalue()
