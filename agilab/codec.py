"""JSON <-> value by declared type, constraints and the error sentence; it knows neither param nor files.

Manager and worker both validate with this module, so that they speak with one
voice. A setting has three forms:

- *canonical JSON*, what requests, digests and manifests hold: one text per
  value (a number is always a float, NaN and infinity are ``"nan"``, ``"inf"``
  and ``"-inf"``, dates and times are ISO 8601);
- *value*, what code reads: `decode` gives it frozen, with its declared type;
- *text*, what a shell or an environment variable holds: `parse_text` and
  `format_text`.

Standard library only: this file runs in the worker environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as default_of
from typing import Any

from agilab.errors import SettingError
from agilab.values import (
    CODECS,
    MAX_DEPTH,
    MAX_ITEMS,
    NONE,
    Constraints,
    NotAllowedError,
    array,
    json_to_text,
    same,
    show,
)

SCHEMA = "agilab.fields/1"

Where = str | Mapping[str, str]
"""Where values come from: one text for all of them, or dotted setting name -> text."""


@dataclass(frozen=True, slots=True)
class Field:
    """One setting as data: what the manager knows of an app without importing it.

    Parameters
    ----------
    name
        Python identifier.
    type
        A key of `CODECS`.
    default
        Canonical JSON.
    doc
        One or more sentences, without the unit.
    unit
        Such as ``"s"``; empty for none.
    constraints
        JSON. For every type ``optional`` (None is allowed). ``min``, ``max``,
        ``min_exclusive``, ``max_exclusive`` bound numbers and dates;
        ``step``, ``soft_min``, ``soft_max`` are for forms only. ``pattern``
        (text), ``options``, ``labels``, ``open`` (selectors), ``length``
        (tuples), ``items``, ``min_length``, ``max_length`` (lists), ``kind``
        (paths and inputs), ``allow_empty`` (inputs), ``fields`` (nested
        settings, as of `fields_to_json`).
    label
        What a form shows; empty when it follows from the name.
    """

    name: str
    type: str
    default: Any = None
    doc: str = ""
    unit: str = ""
    constraints: Constraints = default_of(default_factory=dict)
    label: str = ""

    @property
    def optional(self) -> bool:
        return bool(self.constraints.get("optional"))

    @property
    def fields(self) -> tuple[Field, ...]:
        """The settings inside a nested one; empty for every other type."""
        return tuple(Field(**item) for item in self.constraints.get("fields", ()))

    def to_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.__slots__} | {"constraints": dict(self.constraints)}


def _at(where: Where, name: str) -> str:
    text = where if isinstance(where, str) else where.get(name, "")
    while not text and not isinstance(where, str) and "." in name:
        name = name.rpartition(".")[0]
        text = where.get(name, "")
    return f" ({text})" if text else ""


def allowed(field: Field) -> str:
    """Say what a setting may hold: ``a number > 0 [s]``."""
    words = CODECS[field.type].allowed(field.constraints)
    return words + (f" [{field.unit}]" if field.unit else "") + (", or none" if field.optional else "")


def _error(field: Field, value: Any, *, name: str, where: Where) -> SettingError:
    # What was meant as a secret must not reach a log, and a table may hold one.
    hidden = value is not None and any(leaf.type == "secret" for _, leaf in leaves((field,)))
    is_what = "not what is expected" if hidden else show(value)
    return SettingError(f"setting {name!r} is {is_what}; allowed: {allowed(field)}{_at(where, name)}")


def unknown(name: Any, known: Iterable[str], *, where: Where = "", what: str = "setting") -> SettingError:
    """Make the error for a name that is not declared, with the nearest one that is."""
    import difflib

    known = list(known)
    near = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) and len(name) <= 100 else []
    listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "") if known else "none"
    hint = f"did you mean {near[0]!r}?" if near else f"known: {listed}"
    return SettingError(f"unknown {what} {show(name)}; {hint}{_at(where, str(name)[:200])}")


# Validation


def check_one(field: Field, value: Any, *, where: Where = "", name: str = "") -> Any:
    """Return the canonical JSON of one setting's value.

    Parameters
    ----------
    field
        Its declaration.
    value
        JSON, or a Python value that stands for it (a date, NaN, a tuple, a path, a numpy scalar).
    where
        Where the value comes from, for the message.
    name
        Its dotted name when it is nested; by default the field's own.

    Raises
    ------
    SettingError
        ``setting 'sample_s' is -1; allowed: a number > 0 [s] (settings.toml:3)``.
    """
    name = name or field.name
    value = native(value)
    if value is None and field.optional:
        return None
    if field.type == "settings" and isinstance(value, Mapping):
        return _complete(field.fields, value, where=where, prefix=f"{name}.")
    try:
        return CODECS[field.type].canonical(field.constraints, value)
    except NotAllowedError:
        raise _error(field, value, name=name, where=where) from None


def validate(fields: Sequence[Field], values: Mapping[str, Any], *, where: Where = "") -> dict[str, Any]:
    """Check values against their declarations and fill in defaults.

    Parameters
    ----------
    fields
        What is declared.
    values
        Some or all of them, by name; nested ones in their table or by dotted name, ``{"model.depth": 4}``.
    where
        Where the values come from, for the message.

    Returns
    -------
    dict
        Every setting, in canonical JSON, in the order of declaration.

    Raises
    ------
    SettingError
        A name is unknown or a value is not allowed.
    """
    return _complete(fields, values, where=where, prefix="")


def validate_some(
    fields: Sequence[Field], values: Mapping[str, Any], *, where: Where = "", prefix: str = ""
) -> dict[str, Any]:
    """Check like `validate`, but leave out what is not given, also inside nested settings."""
    values = _table(values)
    if not isinstance(values, Mapping):
        raise SettingError(f"settings are {show(values)}; allowed: a table of names and values{_at(where, prefix)}")
    known = {field.name: field for field in fields}
    checked: dict[str, Any] = {}
    for name, value in nested(fields, values, where=where, prefix=prefix).items():
        if name not in known:
            names = dict(leaves(fields)) if "." in str(name) else known
            raise unknown(
                prefix + name if isinstance(name, str) else name, [prefix + one for one in names], where=where
            )
        field, dotted = known[name], prefix + name
        if field.type == "settings" and isinstance(value := _table(value), Mapping):
            checked[name] = validate_some(field.fields, value, where=where, prefix=f"{dotted}.")
        else:
            checked[name] = check_one(field, value, where=where, name=dotted)
    return checked


def nested(
    fields: Sequence[Field], values: Mapping[str, Any], *, where: Where = "", prefix: str = ""
) -> Mapping[str, Any]:
    """Put what has a dotted name into its table: ``{"model.depth": 4}`` becomes ``{"model": {"depth": 4}}``.

    Raises
    ------
    SettingError
        A setting is given by its dotted name and in its table.
    """
    tables = {field.name: field for field in fields if field.type == "settings"}
    dotted = [name for name in values if isinstance(name, str) and "." in name and name.partition(".")[0] in tables]
    if not dotted:
        return values
    made = {name: value for name, value in values.items() if name not in dotted}
    for name in dotted:
        table, _, rest = name.partition(".")
        inner = _table(made.get(table, {}))
        if isinstance(inner, Mapping):
            inner = nested(tables[table].fields, inner, where=where, prefix=f"{prefix}{table}.")
        if not isinstance(inner, Mapping) or _has_path(inner, rest):
            raise SettingError(
                f"setting {prefix + name!r} is given twice, by its dotted name and in the table {prefix + table!r}; "
                f"give it once{_at(where, prefix + name)}"
            )
        made[table] = merged = _copy_tables(inner)
        set_path(merged, rest, values[name])
    return made


def _has_path(values: Mapping[str, Any], name: str) -> bool:
    """Whether a value stands at a dotted name, or in place of one of the tables on the way."""
    first, _, rest = name.partition(".")
    if first not in values:
        return False
    inner = _table(values[first])
    return not rest or not isinstance(inner, Mapping) or _has_path(inner, rest)


def _copy_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy_tables(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _table(value: Any) -> Any:
    """Turn settings that were given as an instance of their class into JSON."""
    return value.to_json() if hasattr(value, "to_json") else value


def _complete(fields: Sequence[Field], values: Mapping[str, Any], *, where: Where, prefix: str) -> dict[str, Any]:
    return fill(fields, validate_some(fields, values, where=where, prefix=prefix))


def fill(fields: Sequence[Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of what is missing to checked values, also inside nested settings."""
    full: dict[str, Any] = {}
    for field in fields:
        value = values.get(field.name, field.default)
        nested = field.type == "settings" and isinstance(value, Mapping)
        full[field.name] = fill(field.fields, value) if nested else _copy(value)
    return full


def _copy(value: Any) -> Any:
    """Copy lists and dicts, so that a declared default is never shared."""
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


# Values


class FrozenSettings:
    """Settings as worker code reads them: attributes with their declared types, immutable.

    Lists are tuples, dicts are read-only mappings, nested settings are
    `FrozenSettings`; the text of a secret never shows in ``repr``.
    """

    __slots__ = ("_secrets", "_values")

    def __init__(self, values: Mapping[str, Any], secrets: frozenset[str] = frozenset()) -> None:
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "_secrets", secrets)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(str(unknown(name, self._values))) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"setting {name!r} cannot be set: the settings of a run are frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"setting {name!r} cannot be deleted: the settings of a run are frozen")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenSettings) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = (f"{k}={'<secret>' if k in self._secrets else repr(v)}" for k, v in self._values.items())
        return f"FrozenSettings({', '.join(shown)})"


def decode(fields: Sequence[Field], values: Mapping[str, Any], *, secrets: Mapping[str, str] = NONE) -> FrozenSettings:
    """Rebuild settings from schema and values, after checking them again.

    Parameters
    ----------
    fields, values
        As for `validate`.
    secrets
        Dotted name -> text of the secret; without it the setting is its reference.

    Raises
    ------
    SettingError
        The same as on the manager.
    """
    return _decode(fields, validate(fields, values), secrets=secrets, prefix="")


def _decode(
    fields: Sequence[Field], values: Mapping[str, Any], *, secrets: Mapping[str, str], prefix: str
) -> FrozenSettings:
    found: dict[str, Any] = {}
    for field in fields:
        value, name = values[field.name], prefix + field.name
        if field.type == "settings" and value is not None:
            found[field.name] = _decode(field.fields, value, secrets=secrets, prefix=f"{name}.")
        elif field.type == "secret" and value is not None:
            found[field.name] = secrets.get(name, value)
        else:
            found[field.name] = decode_value(field, value, frozen=True)
    return FrozenSettings(found, frozenset(field.name for field in fields if field.type == "secret"))


def decode_value(field: Field, value: Any, *, frozen: bool = False) -> Any:
    """Return the Python value of one setting's canonical JSON; not for nested settings."""
    return None if value is None else CODECS[field.type].value(field.constraints, value, frozen=frozen)


def encode(field: Field, value: Any) -> Any:
    """Return the canonical JSON of one setting's Python value.

    Raises
    ------
    SettingError
        The value is not allowed.
    """
    return check_one(field, value)


_PLAIN = frozenset({type(None), bool, int, float, str})


def native(value: Any, depth: int = 0, left: list[int] | None = None) -> Any:
    """Turn what stands for a JSON value (a path, a numpy scalar, settings) into it, within the limits of a value."""
    if type(value) in _PLAIN:
        return value
    left = [MAX_ITEMS] if left is None else left
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        return value
    if isinstance(value, list | tuple):
        return [native(item, depth + 1, left) for item in value]
    if isinstance(value, Mapping):
        return {key: native(item, depth + 1, left) for key, item in value.items()}
    value = _table(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", ()):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def with_defaults(fields: Sequence[Field], values: Mapping[str, Any]) -> tuple[Field, ...]:
    """Return declarations whose defaults are these values, also inside nested settings."""
    return tuple(_with_default(field, values[field.name]) for field in fields)


def _with_default(field: Field, value: Any) -> Field:
    if field.type != "settings" or value is None:
        return replace(field, default=value)
    inner = [item.to_json() for item in with_defaults(field.fields, value)]
    return replace(field, default=value, constraints={**field.constraints, "fields": inner})


# Text


def parse_text(field: Field, text: str, *, where: Where = "", name: str = "") -> Any:
    """Read a setting from the text of a shell or an environment variable.

    Returns
    -------
    JSON
        Canonical.

    Raises
    ------
    SettingError
        The text is not allowed; the sentence is that of `validate`.
    """
    name = name or field.name
    try:
        if field.optional and text.strip() == "none":
            return None
        value = CODECS[field.type].parse(field.constraints, text)
    except NotAllowedError:
        raise _error(field, text, name=name, where=where) from None
    return check_one(field, value, where=where, name=name)


def format_text(field: Field, value: Any) -> str:
    """Write canonical JSON as the text that `parse_text` reads back."""
    if value is None:
        return "none"
    text = CODECS[field.type].write(field.constraints, value)
    try:
        if same(parse_text(field, text), value):
            return text
    except SettingError:
        pass
    return json_to_text(value)


# Fields as JSON


def fields_to_json(fields: Sequence[Field]) -> dict[str, Any]:
    """Return declarations as one JSON value (schema ``agilab.fields/1``)."""
    return {"schema": SCHEMA, "fields": [field.to_json() for field in fields]}


def fields_from_json(value: Mapping[str, Any]) -> tuple[Field, ...]:
    """Return the declarations of `fields_to_json`.

    Raises
    ------
    SettingError
        It is something else, or of a version that this one does not know.
    """
    if not isinstance(value, Mapping) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, Mapping) else value
        raise SettingError(f"declarations of settings have schema {show(found)}; this version reads {SCHEMA!r}")
    return _fields(value.get("fields"), depth=0)


def _fields(items: Any, *, depth: int) -> tuple[Field, ...]:
    try:
        fields = tuple(Field(**item) for item in array(items))
        for field in fields:
            if field.type not in CODECS or not isinstance(field.name, str):
                raise SettingError(f"setting {show(field.name)} has type {show(field.type)}, which has no codec")
            if "fields" in field.constraints and depth <= MAX_DEPTH:
                _fields(field.constraints["fields"], depth=depth + 1)
    except (TypeError, NotAllowedError) as err:
        raise SettingError(f"declarations of settings are not readable: {err}") from err
    return fields


def leaves(fields: Sequence[Field], prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Yield every setting with its dotted name, nested ones taken apart."""
    for field in fields:
        if field.type == "settings":
            yield from leaves(field.fields, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def set_path(values: dict[str, Any], name: str, value: Any) -> None:
    """Set a value by dotted name, so that ``model.depth`` lands inside the table ``model``."""
    *tables, last = name.split(".")
    for table in tables:
        inner = values.get(table)
        if not isinstance(inner, dict):
            inner = values[table] = {}
        values = inner
    values[last] = value


def get_path(values: Mapping[str, Any], name: str) -> Any:
    """Return a value by dotted name; None inside a nested setting that is None."""
    found: Any = values
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
