"""A notebook as a list of cells: written and read as ``.ipynb`` or as a percent script; it runs nothing.

Notebook format 4.5 (nbformat.readthedocs.io); the percent format is that of
Jupytext, Spyder and VS Code: ``# %%`` begins a cell, ``# %% [markdown]`` one of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab.errors import ProjectError

LARGEST_BYTES = 64 << 20
"""No notebook larger than this is read [bytes]; outputs count too."""
LARGEST_CODE_BYTES = 1 << 20
"""Most that its cells may hold together, without outputs [bytes]."""
MOST_CELLS = 1000

_MARK = re.compile(r"^# ?%%(?!%)[ \t]*(?P<title>[^\n]*)$", re.MULTILINE)
_TAGS = re.compile(r"tags\s*=\s*(\[[^\]]*\])")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Parameters
    ----------
    kind
        ``"code"`` or ``"markdown"``.
    source
        Its text, without a newline at the end.
    tags
        Such as ``"parameters"``, which papermill knows.
    """

    kind: str
    source: str
    tags: tuple[str, ...] = ()


def write_text(cells: Sequence[Cell], *, script: bool) -> str:
    """Return a notebook as the text of its file.

    Parameters
    ----------
    cells
        What it holds.
    script
        Whether it becomes a percent script instead of ``.ipynb``.
    """
    return _script(cells) if script else _ipynb(cells)


def read_cells(path: Path) -> tuple[Cell, ...]:
    """Read a notebook or percent script as data.

    Raises
    ------
    ProjectError
        It is too large, damaged, or no notebook; the message says where.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as err:
        raise ProjectError(f"{path} cannot be read ({err.strerror}); name a notebook or a Python script") from err
    if len(data) > LARGEST_BYTES:
        raise ProjectError(f"{path} is larger than {LARGEST_BYTES} bytes; clear its outputs first")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise ProjectError(f"{path}:{line}: not UTF-8 text; save it as UTF-8") from err
    cells = tuple(_from_script(text) if path.suffix == ".py" else _from_ipynb(path, text))
    if len(cells) > MOST_CELLS or sum(len(cell.source) for cell in cells) > LARGEST_CODE_BYTES:
        raise ProjectError(
            f"{path} has more than {MOST_CELLS} cells, or more than {LARGEST_CODE_BYTES} bytes in them; split it first"
        )
    return cells


def quoted(text: str) -> str:
    """Return text as Python writes it, in double quotes where that needs no more escapes."""
    shown = repr(text)
    return f'"{shown[1:-1]}"' if shown[0] == "'" and '"' not in shown and "\\'" not in shown else shown


def _ipynb(cells: Sequence[Cell]) -> str:
    made = []
    for number, cell in enumerate(cells):
        one: dict[str, Any] = {"cell_type": cell.kind, "id": f"cell-{number}"}
        one["metadata"] = {"tags": list(cell.tags)} if cell.tags else {}
        if cell.kind == "code":
            one |= {"execution_count": None, "outputs": []}
        made.append(one | {"source": cell.source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": made, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}}
    return json.dumps({**whole, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def _script(cells: Sequence[Cell]) -> str:
    parts = []
    for cell in cells:
        if cell.kind == "markdown":
            text = "\n".join(f"# {line}".rstrip() for line in cell.source.split("\n"))
            parts.append(f"# %% [markdown]\n{text}\n")
        else:
            tags = f" tags={json.dumps(cell.tags)}" if cell.tags else ""
            parts.append(f"# %%{tags}\n{cell.source}\n")
    return "\n".join(parts)


def _from_script(text: str) -> Iterator[Cell]:
    marks = list(_MARK.finditer(text))
    if not marks:
        yield Cell("code", text.strip("\n"))
        return
    if text[: marks[0].start()].strip():
        yield Cell("code", text[: marks[0].start()].strip("\n"))
    for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
        body = text[mark.end() : end].strip("\n")
        if re.search(r"\[(markdown|md)\]", mark["title"]):
            lines = (re.sub(r"^# ?", "", line) for line in body.strip("\"'").strip("\n").split("\n"))
            yield Cell("markdown", "\n".join(lines))
        else:
            yield Cell("code", body, _script_tags(mark["title"]))


def _script_tags(title: str) -> tuple[str, ...]:
    found = _TAGS.search(title)
    return tuple(re.findall(r"[\"']([\w-]+)[\"']", found[1])) if found else ()


def _from_ipynb(path: Path, text: str) -> Iterator[Cell]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as err:
        raise ProjectError(f"{path}:{err.lineno}:{err.colno}: not a notebook: {err.msg}; export it again") from err
    except (RecursionError, ValueError) as err:
        raise ProjectError(f"{path}: not a notebook: nested too deeply, or a number without end") from err
    if not isinstance(found, dict) or not isinstance(found.get("cells"), list) or found.get("nbformat") != 4:
        raise ProjectError(f"{path} is not a notebook of format 4; open and save it in Jupyter, or: jupyter nbconvert")
    language = _at(_at(found, "metadata"), "kernelspec").get("language", "python")
    if language != "python":
        raise ProjectError(f"{path} is a notebook in {language!r:.40}; only Python becomes an app")
    for number, cell in enumerate(found["cells"], 1):
        source = cell.get("source", "") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str):
            raise ProjectError(f"{path}: cell {number} has no text as its source; open and save it in Jupyter")
        if cell.get("cell_type") in ("code", "markdown"):
            tags = _at(cell, "metadata").get("tags")
            kept = tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ()
            yield Cell(cell["cell_type"], source.replace("\r\n", "\n").strip("\n"), kept)


def _at(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}
