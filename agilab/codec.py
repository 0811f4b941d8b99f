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

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from types import MappingProxyType
from typing import Any

MAX_DEPTH = 50
"""Deepest nesting of lists and tables in a value."""
MAX_ITEMS = 100_000
"""Most items in a value, counted through all levels."""
MAX_TEXT = 1_000_000
"""Longest text in a value [characters]."""
MAX_BITS = 3000
"""Largest whole number, about 900 digits [bits]."""

Constraints = Mapping[str, Any]

NONE: Constraints = MappingProxyType({})
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Text, not compiled patterns: most processes import this module and meet no date.
_DATE = r"(?a:\d{4}-\d\d-\d\d)"
_TIME = r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
_DATETIME = rf"(?a:\d{{4}}-\d\d-\d\d([T ](?!24){_TIME}(Z|[+-]{_TIME})?)?)"
_SECRET = r"env:[A-Za-z_][A-Za-z0-9_]*|file:[^\x00-\x1f]+"


class NotAllowedError(ValueError):
    """A value does not fit its type; `codec.check_one` turns it into the sentence."""


def show(value: Any, limit: int = 80) -> str:
    """Write any value for an error message, at most `limit` characters, whatever it is."""
    if value is None or value is True or value is False:
        return str(value).lower()
    if isinstance(value, str):
        text = repr(value[: limit + 1])
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"a whole number of {value.bit_length()} bits"
    elif isinstance(value, int | float | date):
        text = str(value)
    elif isinstance(value, list | tuple | dict):
        import reprlib

        try:
            text = reprlib.repr(value)
        except ValueError:  # a number too long to print, somewhere inside
            text = f"a {type(value).__name__} of {len(value)} items"
    else:
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


# What every type is made of: leaves that return canonical JSON or raise NotAllowedError.


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > MAX_BITS:
        raise NotAllowedError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if isinstance(value, float):
        return float(value)
    whole = _whole(value)
    try:
        number = float(whole)
    except OverflowError:
        raise NotAllowedError from None
    if int(number) != whole:  # it would change silently
        raise NotAllowedError
    return number


def _number(value: Any) -> Any:
    number = _float(value)
    if math.isfinite(number):
        return number
    return "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise NotAllowedError
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which no file can hold
        raise NotAllowedError from None
    return text


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise NotAllowedError
    return value


def _date(value: Any) -> str:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str) or not re.fullmatch(_DATE, value):
        raise NotAllowedError
    return _moment(value).date().isoformat()


def _datetime(value: Any) -> str:
    text = value.isoformat() if isinstance(value, date) else value
    if not isinstance(text, str) or not re.fullmatch(_DATETIME, text):
        raise NotAllowedError
    moment = _moment(text)
    return (moment.date() if len(text) == len("2013-01-31") else moment).isoformat()


def _time(value: Any) -> str:
    text = _datetime(value)
    if "T" not in text:
        raise NotAllowedError
    return text


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # the thirtieth of February
        raise NotAllowedError from None


def _plain(value: Any, depth: int = 0, left: list[int] | None = None) -> Any:
    """Check any JSON value; what JSON cannot hold is refused, NaN and infinity too."""
    left = [MAX_ITEMS] if left is None else left
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise NotAllowedError
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _whole(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotAllowedError
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1, left) for item in value]
    if isinstance(value, Mapping):
        return {_text(key): _plain(item, depth + 1, left) for key, item in value.items()}
    return _text(value)


def scalar(value: Any) -> Any:
    """Check a JSON value that is no list and no table."""
    if isinstance(value, list | tuple | Mapping):
        raise NotAllowedError
    return _plain(value)


def array(value: Any) -> Sequence[Any]:
    """Check that a value is a list, whatever it holds."""
    if not isinstance(value, list | tuple) or len(value) > MAX_ITEMS:
        raise NotAllowedError
    return value


def same(one: Any, two: Any) -> bool:
    """Whether two JSON values are the same text, so that True, 1 and 1.0 differ."""
    return json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


def _bounded(c: Constraints, value: Any, key: Callable[[Any], Any]) -> None:
    """Check bounds; a comparison with NaN is false, so a bounded number is never NaN."""
    try:
        low, high = c.get("min"), c.get("max")
        if low is not None and not (operator.gt if c.get("min_exclusive") else operator.ge)(key(value), key(low)):
            raise NotAllowedError
        if high is not None and not (operator.lt if c.get("max_exclusive") else operator.le)(key(value), key(high)):
            raise NotAllowedError
    except TypeError:  # a time with a zone and one without have no order
        raise NotAllowedError from None


def _range_text(c: Constraints) -> str:
    low, high = c.get("min"), c.get("max")
    parts = [] if low is None else [f"{'>' if c.get('min_exclusive') else '>='} {_bound_text(low)}"]
    parts += [] if high is None else [f"{'<' if c.get('max_exclusive') else '<='} {_bound_text(high)}"]
    return " and ".join(parts)


def _bound_text(bound: Any) -> str:
    return f"{bound:.15g}" if isinstance(bound, float) else str(bound)


def _json_from_text(text: str) -> Any:
    if len(text) > MAX_TEXT:
        raise NotAllowedError
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NotAllowedError from None


def json_to_text(value: Any) -> str:
    """Write a JSON value as text, Unicode as it is."""
    return json.dumps(value, ensure_ascii=False)


def _int_from_text(text: str) -> Any:
    try:
        return int(text[:1000]) if len(text) <= 1000 else text
    except ValueError:
        raise NotAllowedError from None


def _number_from_text(text: str) -> Any:
    try:
        number = float(text[:1000])
    except ValueError:
        raise NotAllowedError from None
    if len(text) > 1000 or (math.isinf(number) and "inf" not in text.lower()):  # 1e999 is not infinity
        raise NotAllowedError
    return number


def _bool_from_text(text: str) -> Any:
    word = text.lower()
    if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise NotAllowedError
    return word in ("true", "yes", "on", "1")


def _any_from_text(text: str) -> Any:
    """Read a scalar as JSON where it is JSON, else as text; what begins with a quote must be JSON."""
    try:
        return scalar(_json_from_text(text))
    except NotAllowedError:
        if text.startswith('"'):
            raise
        return text


def _any_to_text(value: Any) -> str:
    return value if isinstance(value, str) else json_to_text(value)


class Codec:
    """One type of setting: its canonical form, its value, its text, and what is allowed in words."""

    def __init__(
        self,
        check: Callable[[Any], Any] = _plain,
        words: str = "",
        *,
        parse: Callable[[str], Any] = _json_from_text,
        write: Callable[[Any], str] = json_to_text,
        value: Callable[[Any], Any] = lambda value: value,
        key: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.check, self.words, self.key = check, words, key
        self._parse, self._write, self._value = parse, write, value

    def canonical(self, c: Constraints, value: Any) -> Any:
        """Return canonical JSON of a JSON value (or of a Python value that stands for one).

        Raises
        ------
        NotAllowedError
            It is not allowed.
        """
        plain = self.check(value)
        _bounded(c, plain, self.key)
        return plain

    def value(self, c: Constraints, value: Any, *, frozen: bool) -> Any:
        """Return the Python value of canonical JSON."""
        return self._value(value)

    def parse(self, c: Constraints, text: str) -> Any:
        """Read text, not None; `canonical` comes after it."""
        return self._parse(text.strip())

    def write(self, c: Constraints, value: Any) -> str:
        """Write canonical JSON, not None, as text."""
        return self._write(value)

    def allowed(self, c: Constraints) -> str:
        """Say what is allowed."""
        return f"{self.words} {_range_text(c)}".strip()


class _Text(Codec):
    """Text of any kind, which a shell writes as it is."""

    def canonical(self, c: Constraints, value: Any) -> Any:
        text: str = self.check(value)
        if "pattern" in c and not re.match(c["pattern"], text):
            raise NotAllowedError
        return text

    def parse(self, c: Constraints, text: str) -> Any:
        return re.sub(r"\A\\(\\*none)\Z", r"\1", text) if c.get("optional") else text

    def write(self, c: Constraints, value: Any) -> str:
        """Write text; where None is allowed, the text ``none`` gets a backslash before it."""
        return re.sub(r"\A(\\*none)\Z", r"\\\1", value) if c.get("optional") else str(value)

    def allowed(self, c: Constraints) -> str:
        if "words" in c:
            return str(c["words"])
        return f"{self.words} matching {show(c['pattern'])}" if "pattern" in c else self.words


class _Input(_Text):
    """A file, a folder or a pattern, inside the data root."""

    def canonical(self, c: Constraints, value: Any) -> Any:
        text = _text(value)
        if not text.strip("/") or "\0" in text or ".." in text.split("/"):
            raise NotAllowedError
        return text

    def allowed(self, c: Constraints) -> str:
        what = {"file": "the path of a file", "folder": "the path of a folder"}.get(str(c.get("kind")), "a pattern")
        return f"{what} inside the data root, without '..'"


class _Selector(Codec):
    """One of a few scalars."""

    def canonical(self, c: Constraints, value: Any) -> Any:
        plain = scalar(value)
        for option in c.get("options", ()):
            if type(option) is type(plain) and option == plain:
                return option
        for option in c.get("options", ()):
            if option == plain and not isinstance(option, bool) and not isinstance(plain, bool):
                return option  # 1 and 1.0 are one choice
        if not c.get("open"):
            raise NotAllowedError
        return plain

    def parse(self, c: Constraints, text: str) -> Any:
        found = [option for option in c.get("options", ()) if not text.startswith('"') and _any_to_text(option) == text]
        return found[0] if len(found) == 1 else _any_from_text(text)

    def write(self, c: Constraints, value: Any) -> str:
        return _any_to_text(value)

    def allowed(self, c: Constraints) -> str:
        options = c.get("options", ())
        shown = [show(option, 30) for option in options[:12]]
        more = [f"... ({len(options)} in all)"] if len(options) > 12 else []
        return "any scalar" if c.get("open") else "one of " + ", ".join(shown + more)


class _Sequence(Codec):
    """Several values of one type; as text either JSON or separated by commas."""

    def __init__(self, item: str = "", words: str = "", *, length: int = 0, ordered: bool = False) -> None:
        super().__init__(words=words)
        self._item, self._length, self._ordered = item, length, ordered

    def canonical(self, c: Constraints, value: Any) -> Any:
        item, inner = self._of(c)
        # One count for all items where they may hold anything.
        plain = _plain(array(value)) if isinstance(item, _Any) else array(value)
        values = plain if item is _ANY else [item.canonical(inner, one) for one in plain]
        if not c.get("min_length", 0) <= len(values) <= (c.get("max_length") or MAX_ITEMS):
            raise NotAllowedError
        if len(values) != (self._length or c.get("length", len(values))):
            raise NotAllowedError
        for one in values:
            _bounded(c, one, item.key)
        if self._ordered or c.get("ordered"):
            _bounded({"max": values[1]}, values[0], item.key)
        return values

    def value(self, c: Constraints, value: Any, *, frozen: bool) -> Any:
        item, inner = self._of(c)
        if item is _ANY and not frozen:
            return _tuples(value)
        return tuple(item.value(inner, one, frozen=frozen) for one in value)

    def parse(self, c: Constraints, text: str) -> Any:
        text = text.strip()
        if text.startswith("["):
            return _json_from_text(text)
        item, inner = self._of(c)
        return [item.canonical(inner, item.parse(inner, part.strip())) for part in text.split(",")] if text else []

    def write(self, c: Constraints, value: Any) -> str:
        item, inner = self._of(c)
        return ",".join(item.write(inner, one) for one in value)

    def allowed(self, c: Constraints) -> str:
        if self.words:
            return f"{self.words} {_range_text(c)}".strip()
        item, inner = self._of(c)
        each = "" if item is _ANY else f", each {item.allowed(inner)}"
        return f"a list of {_count_text(c)}values{each}"

    def _of(self, c: Constraints) -> tuple[Codec, Constraints]:
        """Return the codec of the items and the constraints that are about them."""
        items = self._item or c.get("items") or "any"
        item = _ITEMS[items] if isinstance(items, str) else _union(tuple(items))
        return item, c if item is _CHOICE else NONE


def _count_text(c: Constraints) -> str:
    if "length" in c:
        return f"{c['length']} "
    low, high = c.get("min_length", 0), c.get("max_length")
    if high is not None:
        return f"{low} to {high} "
    return f"{low} or more " if low else ""


class _List(_Sequence):
    """Like `_Sequence`, but a list where the value need not be frozen."""

    def value(self, c: Constraints, value: Any, *, frozen: bool) -> Any:
        item, inner = self._of(c)
        items = (item.value(inner, one, frozen=frozen) for one in value)
        return tuple(items) if frozen else list(items)


class _Any(Codec):
    """Whatever JSON can hold."""

    def value(self, c: Constraints, value: Any, *, frozen: bool) -> Any:
        return freeze(value) if frozen else value

    def parse(self, c: Constraints, text: str) -> Any:
        return _any_from_text(text)

    def write(self, c: Constraints, value: Any) -> str:
        return _any_to_text(value)


class _Dict(_Any):
    def canonical(self, c: Constraints, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise NotAllowedError
        return _plain(value)

    def parse(self, c: Constraints, text: str) -> Any:
        return _json_from_text(text)

    def write(self, c: Constraints, value: Any) -> str:
        return json_to_text(value)


class _Nested(_Dict):
    """Settings inside settings; `validate` looks inside."""

    def allowed(self, c: Constraints) -> str:
        names = [item["name"] for item in c.get("fields", ())]
        return "a table of " + (", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "nothing")


def _secret(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(_SECRET, text):
        raise NotAllowedError
    return text


def _instant(text: str) -> Any:
    return date.fromisoformat(text) if len(text) == len("2013-01-31") else datetime.fromisoformat(text)


_INTEGER = Codec(_whole, "a whole number", parse=_int_from_text)
_NUMBER = Codec(
    _number,
    "a number",
    parse=_number_from_text,
    write=lambda value: value if isinstance(value, str) else repr(value),
    value=_float,
    key=_float,
)
_STRING = _Text(_text, "text")
_BOOLEAN = Codec(_bool, "true or false", parse=_bool_from_text)
_DAY = Codec(_date, "a date such as 2013-01-31", parse=str, write=str, value=_instant, key=_moment)
_INSTANT = Codec(
    _datetime,
    "a date and time such as 2013-01-31T12:00:00 or 2013-01-31T12:00:00+00:00",
    parse=str,
    write=str,
    value=_instant,
    key=_moment,
)
_MOMENT = Codec(_time, "a time such as 2013-01-31T12:00:00", parse=str, write=str, value=_instant, key=_moment)
_CHOICE = _Selector()
_ANY = _Any(words="a JSON value")

_ITEMS: Mapping[str, Codec] = MappingProxyType(
    {
        "any": _ANY,
        "integer": _INTEGER,
        "number": _NUMBER,
        "string": _STRING,
        "boolean": _BOOLEAN,
        "date": _DAY,
        "datetime": _MOMENT,
        "instant": _INSTANT,
        "option": _CHOICE,
        "dict": _Dict(words="a table"),
        "list": _List(),
    }
)

CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        "integer": _INTEGER,
        "number": _NUMBER,
        "string": _STRING,
        "color": _STRING,
        "path": _Text(_text, "a path"),
        "boolean": _BOOLEAN,
        "selector": _CHOICE,
        "list_selector": _List("option"),
        "date": _DAY,
        "datetime": _INSTANT,
        "date_range": _Sequence("date", "two dates, the first one first", length=2, ordered=True),
        "datetime_range": _Sequence("instant", "two dates or times, the first one first", length=2, ordered=True),
        "range": _Sequence("number", "two numbers", length=2),
        "tuple": _Sequence(),
        "numeric_tuple": _Sequence("number"),
        "list": _List(),
        "dict": _Dict(words="a table of JSON values"),
        "settings": _Nested(),
        "secret": _Text(_secret, "env:NAME or file:PATH, which says where the secret is"),
        "input": _Input(_text),
    }
)
"""Every type of setting, by `Field.type`."""


def _union(kinds: tuple[str, ...]) -> Codec:
    """Items that may be of several scalar types, each kept as it is."""

    def check(value: Any) -> Any:
        plain = scalar(value)
        name = {bool: "boolean", int: "integer", float: "number", str: "string"}.get(type(plain))
        if name not in kinds:
            raise NotAllowedError
        return plain

    return Codec(check, " or ".join(_ITEMS[kind].words for kind in kinds), parse=_any_from_text, write=_any_to_text)


def _tuples(value: Any) -> Any:
    """Make tuples of lists all the way down, where Python code declared a tuple."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def freeze(value: Any) -> Any:
    """Make a JSON value immutable: lists become tuples, dicts read-only mappings."""
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    return value


import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as default_of
from typing import Any

from agilab.errors import SettingError

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
        (paths and inputs), ``fields`` (nested settings, as of `fields_to_json`).
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
    hidden = field.type in ("secret", "settings") and value is not None
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
        Some or all of them, by name.
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
    for name, value in values.items():
        if name not in known:
            raise unknown(
                prefix + name if isinstance(name, str) else name, [prefix + one for one in known], where=where
            )
        field, dotted = known[name], prefix + name
        if field.type == "settings" and isinstance(value := _table(value), Mapping):
            checked[name] = validate_some(field.fields, value, where=where, prefix=f"{dotted}.")
        else:
            checked[name] = check_one(field, value, where=where, name=dotted)
    return checked


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
