"""Where setting values come from: layers, provenance, environment variables and secrets; it declares no setting.

Everything works on fields as data, so that a manager that has not imported
the app, nor param, knows each value, its source and its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default_of
from pathlib import Path
from typing import Any

from agilab.codec import Field, allowed, fill, leaves, parse_text, set_path, validate_some
from agilab.errors import SettingError
from agilab.paths import make_folder, write_file
from agilab.toml import TomlFile, comment_text, escape, key_text, read_toml, replace_table, value_text

SOURCES = ("default", "app file", "workspace file", "environment", "caller")
"""What a value's source may be called, the weakest first."""
VARIABLE = "AGILAB_SETTING_"
"""An environment variable that sets one setting begins so; the dot of a nested one is two underscores."""
MAX_SECRET_BYTES = 65_536
"""Largest secret [bytes]."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one source.

    Parameters
    ----------
    source
        One of `SOURCES` but ``"default"``.
    values
        Setting name -> JSON (or a Python value that stands for it).
    lines
        Dotted setting name -> where exactly: ``path:line`` or a variable's name.
    """

    source: str
    values: Mapping[str, Any]
    lines: Mapping[str, str] = default_of(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Every setting with its value and where the value came from.

    Parameters
    ----------
    values
        Complete, canonical JSON.
    provenance
        Dotted setting name -> ``{"source": one of SOURCES, "where": path:line or variable}``.
    """

    values: dict[str, Any]
    provenance: dict[str, dict[str, str]]


def resolve(fields: Sequence[Field], layers: Iterable[Layer]) -> Resolved:
    """Put layers on top of the defaults, the strongest last.

    A table of a nested setting replaces only the settings that it names.

    Raises
    ------
    SettingError
        A layer holds an unknown name or a value that is not allowed; also
        where a stronger layer would have replaced it.
    """
    chosen: dict[str, Any] = {}
    sources: dict[str, dict[str, str]] = {}
    for layer in layers:
        checked = validate_some(fields, layer.values, where=layer.lines)
        _merge(fields, chosen, checked, layer=layer, sources=sources)
    values = fill(fields, chosen)
    names = (name for name, _ in _flat(fields, values))
    return Resolved(values, {name: sources.get(name, {"source": "default", "where": ""}) for name in names})


def _merge(
    fields: Sequence[Field],
    chosen: dict[str, Any],
    checked: Mapping[str, Any],
    *,
    layer: Layer,
    sources: dict[str, dict[str, str]],
    prefix: str = "",
) -> None:
    for field in fields:
        if field.name not in checked:
            continue
        value, name = checked[field.name], prefix + field.name
        if field.type != "settings":
            chosen[field.name] = value
        elif value is None:
            chosen[field.name] = None
            for inner in [one for one in sources if one.startswith(f"{name}.")]:
                del sources[inner]
        else:
            if not isinstance(chosen.get(field.name), dict):
                chosen[field.name] = {}
                sources.pop(name, None)
            _merge(field.fields, chosen[field.name], value, layer=layer, sources=sources, prefix=f"{name}.")
            continue
        sources[name] = {"source": layer.source, "where": _where(layer.lines, name)}


def _flat(fields: Sequence[Field], values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for field in fields:
        if field.name not in values:
            continue
        value = values[field.name]
        if field.type == "settings" and value is not None:
            yield from _flat(field.fields, value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def _where(lines: Mapping[str, str], name: str) -> str:
    while name not in lines and "." in name:
        name = name.rpartition(".")[0]
    return lines.get(name, "")


# Files


def settings_layer(source: str, file: TomlFile | Path, *, table: str = "settings") -> Layer:
    """Read the layer that one table of a settings file holds; a missing file or table is empty.

    Parameters
    ----------
    source
        ``"app file"`` or ``"workspace file"``.
    file
        The file, or what `read_toml` returned for it.
    table
        ``"settings"``, ``"cluster"`` or ``"views"``.
    """
    if isinstance(file, Path):
        file = read_toml(file)
    lines = {
        name.removeprefix(f"{table}."): f"{file.path}:{line}"
        for name, line in file.lines.items()
        if name.startswith(f"{table}.")
    }
    return Layer(source, file.tables.get(table, {}), lines)


def write_toml(path: Path, fields: Sequence[Field], values: Mapping[str, Any], *, table: str = "settings") -> None:
    """Write one table of a settings file, whole or not at all, with docs, units and bounds as comments.

    Settings that are not given stand there as a comment with their default.
    Other tables of the file stay as they are.

    Parameters
    ----------
    path
        The file; its folder is made when it is missing.
    fields
        What is declared.
    values
        Some or all values, as JSON.
    table
        ``"settings"``, ``"cluster"`` or ``"views"``.

    Raises
    ------
    SettingError
        A value is not allowed, or the file that stands there is not one of ours.
    """
    checked = validate_some(fields, values)
    file = read_toml(path)
    text = replace_table(file, table, table_lines(fields, checked, table))
    make_folder(path.parent)
    write_file(path, text.encode())


def table_lines(fields: Sequence[Field], values: Mapping[str, Any], header: str) -> Iterator[str]:
    """Yield the lines of a table: first what is its own, then the tables inside it."""
    yield f"[{header}]"
    nested = [field for field in fields if field.type == "settings" and values.get(field.name) is not None]
    renamed = dict(zip(values, escape(values), strict=True))
    for field in fields:
        if field in nested:
            continue
        if field.type != "settings" or field.name in values:
            words = comment_text(f"{field.doc}: {allowed(field)}" if field.doc else allowed(field))
            yield f"# {words}"
            given = field.name in values
            value = _toml_value(field, values[field.name] if given else field.default)
            yield f"{'' if given else '# '}{key_text(renamed.get(field.name, field.name))} = {value}"
    for field in nested:
        yield ""
        if field.doc:
            yield f"# {comment_text(field.doc)}"
        key = key_text(renamed.get(field.name, field.name))
        yield from table_lines(field.fields, values[field.name], f"{header}.{key}")


_DATES = ("date", "datetime", "date_range", "datetime_range")
_NUMBERS = ("number", "range", "numeric_tuple")


def _toml_value(field: Field, value: Any) -> str:
    """Write dates, NaN and infinity as TOML's own, everything else as the JSON it is."""
    kind = field.constraints.get("items") if field.type == "list" else field.type
    leaf = _toml_date if kind in _DATES else _toml_number if kind in _NUMBERS else value_text
    if isinstance(value, list) and leaf is not value_text:
        return f"[{', '.join(leaf(item) for item in value)}]"
    return leaf(value)


def _toml_date(value: Any) -> str:
    # TOML has no seconds in an offset; such a time is written as text, which is read all the same.
    native = isinstance(value, str) and re.fullmatch(r"[-0-9]{10}(T[0-9:.]+([+-]\d\d:\d\d)?)?", value)
    return value if native else value_text(value)


def _toml_number(value: Any) -> str:
    return value if isinstance(value, str) else value_text(value)


# Environment


def variable(name: str, prefix: str = VARIABLE) -> str:
    """Return the environment variable of a dotted setting name."""
    return prefix + name.replace(".", "__").upper()


def environment_layer(fields: Sequence[Field], environ: Mapping[str, str], *, prefix: str = VARIABLE) -> Layer:
    """Read settings from environment variables: ``AGILAB_SETTING_SAMPLE_S=10``.

    A variable that resembles none of the settings may be meant for another
    app and is left alone; one that nearly matches is an error.

    Raises
    ------
    SettingError
        A text is not allowed, a variable nearly matches, or two settings share one.
    """
    known: dict[str, tuple[str, Field]] = {}
    values: dict[str, Any] = {}
    lines: dict[str, str] = {}
    for name, field in leaves(fields):
        key = variable(name, prefix)
        if key in known and key in environ:
            raise SettingError(f"variable {key} could be {known[key][0]!r} or {name!r}; set them in a file instead")
        known[key] = (name, field)
    for key in sorted(key for key in environ if key.startswith(prefix)):
        if key not in known:
            _refuse_near(key, known, prefix)
            continue
        name, field = known[key]
        set_path(values, name, parse_text(field, environ[key], where=key, name=name))
        lines[name] = key
    return Layer("environment", values, lines)


def _refuse_near(key: str, known: Iterable[str], prefix: str) -> None:
    import difflib

    bare = [one.removeprefix(prefix) for one in known]
    near = difflib.get_close_matches(key.removeprefix(prefix)[:100], bare, n=1, cutoff=0.75)
    if near:
        raise SettingError(f"unknown variable {key[:200]}; did you mean {prefix}{near[0]}?")


# Secrets


def resolve_secrets(fields: Sequence[Field], values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Read what the secret settings refer to.

    Parameters
    ----------
    fields, values
        Declarations and their values; a secret's value is a reference.
    environ
        Where ``env:NAME`` is looked up. ``file:PATH`` is read as text without
        its last line end; a relative path is relative to the current folder.

    Returns
    -------
    dict
        Dotted setting name -> secret; for `codec.decode`, never for a file.

    Raises
    ------
    SettingError
        A reference leads nowhere; the message names it, never a value.
    """
    secret = {name for name, field in leaves(fields) if field.type == "secret"}
    return {
        name: _secret(name, value, environ)
        for name, value in _flat(fields, values)
        if name in secret and value is not None
    }


def _secret(name: str, reference: str, environ: Mapping[str, str]) -> str:
    kind, _, target = reference.partition(":")
    if kind == "env":
        if target not in environ:
            raise SettingError(f"secret {name!r} is {reference}, but that variable is not set; set it and try again")
        return environ[target]
    path = Path(target).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "not UTF-8 text"
        raise SettingError(f"secret {name!r} is {reference}, which cannot be read: {reason}") from None
    if len(data) > MAX_SECRET_BYTES:
        raise SettingError(f"secret {name!r} is {reference}, which is larger than {MAX_SECRET_BYTES} bytes")
    return text.removesuffix("\n").removesuffix("\r")
