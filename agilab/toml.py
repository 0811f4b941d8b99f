"""TOML with what tomllib leaves out: line numbers, None, writing; it knows no declaration.

TOML has no null. None is written ``{ none = true }``; a table that looks like
that, or like an escaped one, gets an exclamation mark after its key, so that
both come back as they were: ``{"none": True}`` is ``{ none! = true }`` with
the key quoted.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilab.errors import SettingError

SCHEMA = "agilab.settings/1"
TABLES = ("settings", "cluster", "views")
"""What a settings file may hold."""
MAX_BYTES = 1_000_000
"""Largest settings file [bytes]."""

_ESCAPED = re.compile(r"none!+")
_LOOKS_NONE = re.compile(r"none!*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BRACKETS = re.compile(r"\[{0,2}")
_REST = re.compile(r"[^\n]*")
_PART = re.compile(r"[A-Za-z0-9_-]+|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[{]|[\]}]|\n"
    r"|[^\"'#\[\]{}\n]+",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A settings file as it was read.

    Parameters
    ----------
    path
        Where it lies.
    tables
        Table name -> its content, one of `TABLES`; dates are Python dates.
    lines
        Dotted name, such as ``settings.model.depth`` -> line number, from 1.
    text
        All of it; empty when there is no file.
    marked
        Whether it says that it is ours (``schema = "agilab.settings/1"``).
    """

    path: Path
    tables: Mapping[str, dict[str, Any]]
    lines: Mapping[str, int]
    text: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class _Statement:
    """One header or one ``key = value`` of a TOML text."""

    keys: tuple[str, ...]
    start: int
    end: int
    line: int
    is_header: bool


def read_toml(path: Path) -> TomlFile:
    """Read a settings file; one that does not exist has no tables.

    Raises
    ------
    SettingError
        It cannot be read, is no TOML, too large, of an unknown schema, or has
        an unknown table; the message names file, line and column.
    """
    try:
        text, content, lines = load(path)
    except FileNotFoundError:
        return TomlFile(path, {}, {})
    schema = content.pop("schema", None)
    if schema not in (None, SCHEMA):
        raise SettingError(f"{path} has schema {str(schema)[:80]!r}; this version of AGILAB reads {SCHEMA!r}")
    for name, table in content.items():
        at = f"{path}:{lines.get(name, 1)}"
        if name not in TABLES:
            raise _unknown_table(name, at)
        if not isinstance(table, dict):
            raise SettingError(f"{name!r} is not a table; write it as [{name}] ({at})")
    tables = {name: {key: unescape(value) for key, value in table.items()} for name, table in content.items()}
    return TomlFile(path, tables, lines, text, schema is not None)


def load(path: Path) -> tuple[str, dict[str, Any], dict[str, int]]:
    """Read any TOML file: its text, its content, and dotted name -> line number.

    Raises
    ------
    FileNotFoundError
        There is none.
    SettingError
        It cannot be read, is no TOML or too large; the message names file, line and column.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as err:
        raise SettingError(f"{path} cannot be read: {err.strerror}; check the file and its permissions") from err
    if len(data) > MAX_BYTES:
        raise SettingError(f"{path} is larger than {MAX_BYTES} bytes; such a file is small, check what it is")
    text, content = _parse(path, data)
    lines: dict[str, int] = {}
    for statement in _statements(text):
        lines.setdefault(".".join(statement.keys), statement.line)
    return text, content, lines


def _unknown_table(name: str, at: str) -> SettingError:
    import difflib

    near = difflib.get_close_matches(name[:100], TABLES, n=1)
    hint = f"did you mean [{near[0]}]?" if near else "tables are " + ", ".join(f"[{one}]" for one in TABLES)
    return SettingError(f"unknown table or key {name[:80]!r}; {hint} ({at})")


def _parse(path: Path, data: bytes) -> tuple[str, dict[str, Any]]:
    try:
        text = data.decode()
        return text, tomllib.loads(text)
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        column = err.start - (data.rfind(b"\n", 0, err.start) + 1) + 1
        raise SettingError(f"{path}:{line}:{column} is not UTF-8 text; save the file as UTF-8") from err
    except tomllib.TOMLDecodeError as err:
        reason, _, place = str(err).rpartition(" (at ")
        found = re.fullmatch(r"line (\d+), column (\d+)\)", place)
        line, column = (int(found[1]), int(found[2])) if found else _end(text)
        raise SettingError(f"{path}:{line}:{column} is not valid TOML: {reason[:200]}") from err
    except (RecursionError, ValueError) as err:  # nested too deep; a number of thousands of digits
        raise SettingError(f"{path} is not valid TOML: nested too deep, or a number that is too long") from err


def _end(text: str) -> tuple[int, int]:
    return text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1


def unescape(value: Any, depth: int = 0) -> Any:
    """Turn what stands for None into None, also inside lists and tables."""
    if depth > 200:  # whoever checks the value says so
        return value
    if isinstance(value, list):
        return [unescape(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if value == {"none": True} and value["none"] is True:
        return None
    if len(value) == 1 and _ESCAPED.fullmatch(key := next(iter(value))):
        return {key[:-1]: unescape(value[key], depth + 1)}
    return {key: unescape(item, depth + 1) for key, item in value.items()}


def _statements(text: str) -> Iterator[_Statement]:
    """Find headers and assignments in a text that tomllib has accepted."""
    at, line, counted = 0, 1, 0
    header: tuple[str, ...] = ()
    while (start := _end_of(_BLANK, text, at)) < len(text):
        line += text.count("\n", counted, start)
        counted = start
        is_header = text[start] == "["
        keys, at = _keys(text, _end_of(_BRACKETS, text, start))
        if is_header:
            header = keys
            at = _end_of(_REST, text, at)
        else:
            at = _skip_value(text, at)
        yield _Statement(header if is_header else header + keys, start, at, line, is_header)


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _keys(text: str, at: int) -> tuple[tuple[str, ...], int]:
    keys: list[str] = []
    while match := _PART.match(text, _end_of(_SPACE, text, at)):
        part = match[0]
        keys.append(next(iter(tomllib.loads(f"{part} = 0"))) if part[0] in "\"'" else part)
        at = _end_of(_SPACE, text, match.end())
        if text[at : at + 1] != ".":
            break
        at += 1
    return tuple(keys), at


def _skip_value(text: str, at: int) -> int:
    depth = 0
    while match := _TOKEN.match(text, at):
        token = match[0]
        if token == "\n" and depth == 0:
            return at
        depth += (token in "[{") - (token in "]}") if len(token) == 1 else 0
        at = match.end()
    return len(text)


# Writing


def key_text(key: str) -> str:
    """Write a key, bare where it may be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else string_text(key)


def string_text(text: str) -> str:
    """Write a basic string on one line."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def value_text(value: Any) -> str:
    """Write a JSON value on one line, None and NaN included."""
    if value is None:
        return "{ none = true }"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return string_text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(value_text(item) for item in value)}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key_text(key)} = {value_text(item)}" for key, item in escape(value).items())
        return f"{{ {inner} }}" if inner else "{}"
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def escape(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rename the only key of a table that would be read as None."""
    if len(table) == 1 and _LOOKS_NONE.fullmatch(key := next(iter(table))) and (key != "none" or table[key] is True):
        return {f"{key}!": table[key]}
    return table


def comment_text(text: str) -> str:
    """Make text fit for a comment: one line, no control characters."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def replace_table(file: TomlFile, table: str, body: Iterable[str]) -> str:
    """Return the text of a file with one table written anew and everything else as it was.

    Parameters
    ----------
    file
        What stands there now.
    table
        One of `TABLES`.
    body
        Lines of the table, its header among them.

    Raises
    ------
    SettingError
        The file does not say that it is ours, so it is left alone.
    """
    if file.text and not file.marked:
        raise SettingError(
            f'{file.path} has no line schema = "{SCHEMA}", so it may belong to another program and is left alone; '
            "move it away, or choose another AGILAB_HOME"
        )
    before, after = _without(_without_schema(file.text), table)
    parts = [f'schema = "{SCHEMA}"', before.strip("\r\n"), "\n".join(body), after.strip("\r\n")]
    text = "\n\n".join(part.rstrip() for part in parts if part.strip()) + "\n"
    if file.text:
        _check_kept(file, table, text)
    return text


def _without_schema(text: str) -> str:
    """Take the schema line out, since it must come before every header wherever the table goes."""
    found = next((statement for statement in _statements(text) if statement.keys == ("schema",)), None)
    return text if found is None else text[: found.start] + text[found.end :].removeprefix("\r").removeprefix("\n")


def _without(text: str, table: str) -> tuple[str, str]:
    """Take a table out of a text: what stands before its place, and what after."""
    pieces: list[tuple[bool, str]] = []  # whether it belongs to the table, the piece
    at, inside = 0, False
    for statement in _statements(text):
        begin = statement.start
        if inside and statement.is_header and statement.keys[0] != table:
            begin = _comment_start(text, at, statement.start)
        pieces.append((inside, text[at:begin]))
        inside = statement.keys[0] == table
        at = begin
    pieces.append((inside, text[at:]))
    first = next((index for index, piece in enumerate(pieces) if piece[0]), len(pieces))
    before = "".join(piece for own, piece in pieces[:first] if not own)
    after = "".join(piece for own, piece in pieces[first:] if not own)
    return before, after


def _comment_start(text: str, low: int, header: int) -> int:
    """Return where the comment begins that stands directly above a header."""
    start = text.rfind("\n", low, header) + 1
    while start > low:
        above = text.rfind("\n", low, start - 1) + 1
        if above <= low or not text[above:start].lstrip().startswith("#"):
            break
        start = above
    return max(start, low)


def _check_kept(file: TomlFile, table: str, text: str) -> None:
    """Make sure that no other table has changed, whatever the file looked like."""
    old, new = tomllib.loads(file.text), tomllib.loads(text)
    old.pop(table, None)
    new.pop(table, None)
    if repr(old) != repr(new):  # NaN is not equal to itself
        raise SettingError(f"{file.path} is written in a way that [{table}] cannot be replaced in; edit it by hand")
