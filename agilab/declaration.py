"""What a project's ``pyproject.toml`` declares, and on which line it is wrong: `Breach`, `Pyproject`.

It knows no folders and reads no source code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab.artifact import KINDS
from agilab.paths import NAME_PATTERN

LARGEST_TOML_BYTES = 1 << 20
"""No TOML file larger than this is read."""
DATA_KEYS = ("distribution", "version", "sha256", "root")
"""What ``[tool.agilab.data]`` may say."""
KIND_KEYS = ("suffix", "doc", "columns", "comparison")
"""What a kind under ``[tool.agilab.kinds]`` may say."""
COMPARISONS = ("bytes", "json", "table")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Breach:
    """One way in which a project breaks its contract: where, what, and how to mend it."""

    file: Path
    line: int
    message: str
    fix: str

    def __str__(self) -> str:
        return one_line(f"{self.file}:{self.line}: {self.message}; {self.fix}")


@dataclass(frozen=True, slots=True)
class Pyproject:
    """A ``pyproject.toml`` as data, with the lines of its keys."""

    path: Path
    text: str
    content: Mapping[str, Any]

    def table(self, *keys: str) -> Mapping[str, Any]:
        """Return the table under dotted keys; empty where there is none, or something else."""
        found: Any = self.content
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def text_at(self, table: str, key: str) -> str:
        """Return the text under a key of a dotted table; empty where there is none."""
        found = self.table(*table.split(".")).get(key)
        return found if isinstance(found, str) else ""

    def line(self, table: str, key: str = "") -> int:
        """Return the line of a key in a dotted table, else of the table's header, else 1."""
        at, current = 1, ""
        for number, line in enumerate(self.text.splitlines(), 1):
            header = re.match(r"\s*\[+([^\]]+)\]", line)
            if header:
                current = re.sub(r"[\s\"']", "", header[1])
                at = number if current == table else at
            elif key and current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                return number
        return at

    def line_with(self, text: str) -> int:
        """Return the first line that contains a text, else 1."""
        return next((number for number, line in enumerate(self.text.splitlines(), 1) if text in line), 1)

    def breach(self, where: tuple[str, str], message: str, fix: str) -> Breach:
        """Return a breach at a key of a dotted table."""
        return Breach(self.path, self.line(*where), message, fix)


def read_pyproject(path: Path) -> Pyproject | Breach:
    """Read a ``pyproject.toml`` of at most 1 MB; what is wrong with it comes back as a breach."""
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_TOML_BYTES + 1)
    except OSError as err:
        return Breach(path, 1, f"{path.name} cannot be read ({err.strerror})", "write it; `agilab new` shows one")
    if len(data) > LARGEST_TOML_BYTES:
        return Breach(path, 1, f"{path.name} is larger than {LARGEST_TOML_BYTES} bytes", "keep data in other files")
    try:
        text = data.decode()
        return Pyproject(path, text, tomllib.loads(text))
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        return Breach(path, line, f"{path.name} is not UTF-8 text", "save it as UTF-8")
    except (ValueError, RecursionError) as err:
        said = "nested too deeply" if isinstance(err, RecursionError) else str(err)
        at = re.search(r"\(at line (\d+)", said)
        line = int(at[1]) if at else text.count("\n") + 1 if "end of document" in said else 1
        return Breach(path, line, f"not valid TOML: {said.splitlines()[0][:200]}", "correct this line")


def one_line(text: str) -> str:
    """Return text that stays one line and harmless on a terminal, whatever a file or folder is called."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)


def uuid_of(toml: Pyproject) -> str:
    """Return the project's uuid; empty where there is none that is valid."""
    text = toml.text_at("tool.agilab", "uuid")
    return text if _UUID.fullmatch(text) else ""


def identity_breaches(toml: Pyproject) -> list[Breach]:
    """Return what is wrong with uuid, name, version and dependencies in a project's ``pyproject.toml``."""
    found: list[Breach] = []
    if not uuid_of(toml):
        from uuid import uuid4

        uuid = toml.table("tool", "agilab").get("uuid")
        said = f"uuid {uuid!r:.60} is not a lower case UUID" if uuid is not None else "no uuid in [tool.agilab]"
        found.append(toml.breach(("tool.agilab", "uuid"), said, f'write uuid = "{uuid4()}", once and for all'))
    for key, example in (("name", "flight-telemetry"), ("version", "0.1.0")):
        if not toml.text_at("project", key).strip():
            message = f"no {key} in [project]"
            found.append(toml.breach(("project", key), message, f'write {key} = "{example}" as fixed text'))
    required = toml.table("project").get("dependencies", [])
    if not isinstance(required, list) or not all(isinstance(item, str) for item in required):
        fix = 'write dependencies = ["numpy>=2"]'
        found.append(toml.breach(("project", "dependencies"), "dependencies is not a list of texts", fix))
    return found


def data_breaches(toml: Pyproject) -> list[Breach]:
    """Return what is wrong with ``[tool.agilab.data]``."""
    if "data" not in toml.table("tool", "agilab"):
        return []
    data, where = toml.table("tool", "agilab", "data"), "tool.agilab.data"
    if not data:
        fix = "write distribution, version and sha256, or leave it out"
        return [toml.breach(("tool.agilab", "data"), "[tool.agilab.data] is not a table that says something", fix)]
    found = unknown_keys(toml, where, DATA_KEYS)
    for key in DATA_KEYS[:3]:
        value = data.get(key)
        if not isinstance(value, str) or not value or (key == "sha256" and not _SHA256.fullmatch(value)):
            allowed = "64 lower case hexadecimal digits" if key == "sha256" else "text"
            said = f"is {value!r:.80}, not {allowed}" if key in data else "is missing"
            message = f"{key} of the data set {said}"
            found.append(toml.breach((where, key), message, f"write {key} of the distribution, all three are needed"))
    root = data.get("root", ".")
    if not isinstance(root, str) or root.startswith("/") or "\0" in root or ".." in root.split("/"):
        fix = 'write a folder inside, such as root = "data"'
        found.append(toml.breach((where, "root"), f"data root {root!r:.80} leads out of the data set", fix))
    return found


def kind_breaches(toml: Pyproject) -> list[Breach]:
    """Return what is wrong with ``[tool.agilab.kinds]``."""
    kinds, where = toml.table("tool", "agilab").get("kinds", {}), "tool.agilab.kinds"
    if not isinstance(kinds, Mapping):
        return [toml.breach(("tool.agilab", "kinds"), "kinds is not a table", f"write [{where}.<kind>] with doc = ...")]
    found: list[Breach] = []
    for name, kind in kinds.items():
        at = (f"{where}.{name}", "")
        if not NAME_PATTERN.fullmatch(name) or name in KINDS:
            taken = "is a shipped one" if name in KINDS else "is not a name"
            fix = "choose another name of letters, digits, '_', '.', '-'"
            found.append(toml.breach(at, f"kind {name!r:.60} {taken}", fix))
        elif not isinstance(kind, Mapping):
            found.append(toml.breach((where, name), f"kind {name!r} is not a table", f"write [{where}.{name}]"))
        else:
            found += unknown_keys(toml, at[0], KIND_KEYS)
            found += [toml.breach((at[0], key), message, fix) for key, message, fix in _kind_problems(name, kind)]
    return found


def unknown_keys(toml: Pyproject, table: str, known: tuple[str, ...]) -> list[Breach]:
    """Return a breach, with a near match, for every key of a dotted table that is not known."""
    found: list[Breach] = []
    for key in toml.table(*table.split(".")):
        if key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, known, 1)
            fix = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            found.append(toml.breach((table, key), f"unknown key {key!r:.60} in [{table}]", fix))
    return found


def _kind_problems(name: str, kind: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if not isinstance(kind.get("doc"), str) or not kind["doc"]:
        found.append(("doc", f"kind {name!r} has no doc", 'write doc = "what such an artifact holds", one line'))
    suffix = kind.get("suffix", ".bin")
    if not isinstance(suffix, str) or not re.fullmatch(r"(\.[A-Za-z0-9]+)+", suffix):
        message = f"suffix {suffix!r:.60} of kind {name!r} is no file ending"
        found.append(("suffix", message, 'write suffix = ".parquet"'))
    columns = kind.get("columns", {})
    if not isinstance(columns, Mapping) or not all(isinstance(unit, str) for unit in columns.values()):
        fix = 'write columns = { altitude = "m", carrier = "" }'
        found.append(("columns", f"columns of kind {name!r} are not a table of units", fix))
    if kind.get("comparison", "bytes") not in COMPARISONS:
        allowed = ", ".join(COMPARISONS)
        found.append(("comparison", f"comparison {kind['comparison']!r:.60} of kind {name!r}", f"use one of {allowed}"))
    return found
