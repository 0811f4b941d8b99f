"""Writes the list of modules by level from the contract in pyproject.toml and the first sentence of each module."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def markdown() -> str:
    """Return a table of every module, highest level first, with what it owns."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    levels = next(contract for contract in contracts if contract["id"] == "levels")["layers"]
    lines = ["| level | module | what it owns |", "|---|---|---|"]
    for level, names in zip(range(len(levels) - 1, -1, -1), levels, strict=True):
        lines += [f"| {level} | `{name}` | {sentence(name)} |" for name in sorted(names.split(" | "))]
    return "\n".join(lines) + "\n"


def sentence(module: str) -> str:
    """Return the first sentence of a module's docstring as Markdown."""
    path = ROOT / "agilab" / f"{module}.py"
    text = (path if path.exists() else path.with_suffix("") / "__init__.py").read_text()
    said = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    return " ".join(said.split()).replace("``", "`").replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(markdown(), end="")
