"""Declarations of settings as JSON Schema 2020-12, for editors and other programs; it checks nothing itself.

Every value that `codec.validate` returns is valid; a rule that JSON Schema
cannot express, such as the order of two dates, stands in the description.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agilab.codec import Field, allowed
from agilab.values import MAX_WORKERS

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DATE = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}
_DATETIME = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}(\.\d+)?([+-]\d{2}:\d{2}.*)?)?$"}
_SCALAR = {"type": ["string", "number", "boolean", "null"]}
Schema = dict[str, Any]


def json_schema(fields: Sequence[Field], title: str) -> Schema:
    """Return a JSON Schema for the values of some settings.

    Parameters
    ----------
    fields
        What is declared.
    title
        What the schema is of, such as the app's name.
    """
    return {"$schema": DIALECT, "title": title, **_object(fields)}


def _object(fields: Sequence[Field]) -> Schema:
    return {
        "type": "object",
        "properties": {field.name: _property(field) for field in fields},
        "additionalProperties": False,
    }


def _property(field: Field) -> Schema:
    value = _object(field.fields) if field.type == "settings" else _SCHEMAS[field.type](field.constraints)
    schema: Schema = {"anyOf": [value, {"type": "null"}]} if field.optional else value
    schema = {**schema, "title": field.label or field.name, "default": field.default}
    schema["description"] = f"{field.doc}: {allowed(field)}" if field.doc else allowed(field)
    return schema | ({"x-unit": field.unit} if field.unit else {})


def _bounds(c: Mapping[str, Any]) -> Schema:
    found: Schema = {}
    for side, word, exclusive in (("min", "minimum", "exclusiveMinimum"), ("max", "maximum", "exclusiveMaximum")):
        if isinstance(c.get(side), int | float):
            found[exclusive if c.get(f"{side}_exclusive") else word] = c[side]
    return found


def _number(c: Mapping[str, Any]) -> Schema:
    # JSON has no NaN and no infinity, so they are text; whether bounds allow them is not said here.
    return {"anyOf": [{"type": "number", **_bounds(c)}, {"enum": ["nan", "inf", "-inf"]}]}


def _text(c: Mapping[str, Any]) -> Schema:
    if "pattern" not in c:
        return {"type": "string"}
    anchored = f"^(?:{c['pattern']})"  # param matches from the start
    try:
        re.compile(anchored)
    except re.error:  # flags that must come first
        anchored = c["pattern"]
    return {"type": "string", "pattern": anchored}


def _option(c: Mapping[str, Any]) -> Schema:
    return _SCALAR if c.get("open") else {"enum": list(c["options"])}


def _array(items: Schema, *, length: int | None = None) -> Schema:
    exact = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": items, **exact}


def _list(c: Mapping[str, Any]) -> Schema:
    kinds = c.get("items", "any")
    items = _ITEMS[kinds] if isinstance(kinds, str) else {"anyOf": [_ITEMS[kind] for kind in kinds]}
    low = {"minItems": c["min_length"]} if "min_length" in c else {}
    return {**_array(items), **low, **({"maxItems": c["max_length"]} if "max_length" in c else {})}


_SLOTS: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}

_ITEMS: Mapping[str, Schema] = {
    "any": {},
    "integer": {"type": "integer"},
    "number": _number({}),
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "date": _DATE,
    "datetime": _DATETIME,
    "dict": {"type": "object"},
    "list": {"type": "array"},
}

_SCHEMAS: Mapping[str, Callable[[Mapping[str, Any]], Schema]] = {
    "integer": lambda c: {"type": "integer", **_bounds(c)},
    "number": _number,
    "string": _text,
    "color": _text,
    "path": _text,
    "boolean": lambda c: {"type": "boolean"},
    "selector": _option,
    "list_selector": lambda c: _array(_option(c)),
    "date": lambda c: _DATE,
    "datetime": lambda c: _DATETIME,
    "date_range": lambda c: _array(_DATE, length=2),
    "datetime_range": lambda c: _array(_DATETIME, length=2),
    "range": lambda c: _array(_number(c), length=2),
    "tuple": lambda c: _array({}, length=c.get("length")),
    "numeric_tuple": lambda c: _array(_number({}), length=c.get("length")),
    "list": _list,
    "dict": lambda c: {"type": "object"},
    "secret": lambda c: {"type": "string", "pattern": "^(env|file):"},
    "input": _text,
    "workers": lambda c: {"anyOf": [_SLOTS, {"type": "object", "minProperties": 1, "additionalProperties": _SLOTS}]},
}
