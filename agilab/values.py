"""The types of settings: what each may hold, as JSON, as a Python value and as text; it knows no names.

`codec` is what others use: it puts names, errors and nested settings on top
of these types. Standard library only: this file runs in the worker environment.
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
MAX_WORKERS = 4096
"""Most workers of a run on one host."""
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
        from reprlib import Repr

        inside = Repr()
        for kind in ("NoneType", "bool"):
            setattr(inside, f"repr_{kind}", lambda one, level: str(one).lower())
        try:
            text = inside.repr(value)
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


class _Workers(_Dict):
    """How many workers, or host -> how many there; as text ``4`` or ``alpha=2,beta=4``."""

    def canonical(self, c: Constraints, value: Any) -> Any:
        plain = _plain(value)
        for host, slots in (plain if isinstance(plain, dict) else {"a": plain}).items() or [("", 0)]:
            if not re.fullmatch(r"[A-Za-z0-9_:][A-Za-z0-9_.:@-]{0,317}", host) or not 1 <= _whole(slots) <= MAX_WORKERS:
                raise NotAllowedError
        return plain

    def parse(self, c: Constraints, text: str) -> Any:
        hosts = [part.strip().rpartition("=") for part in text.split(",")]
        return {host: _int_from_text(slots) for host, _, slots in hosts} if "=" in text else _any_from_text(text)

    def write(self, c: Constraints, value: Any) -> str:
        return ",".join(f"{host}={slots}" for host, slots in value.items()) if isinstance(value, dict) else str(value)


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
        "workers": _Workers(words=f"a whole number from 1 to {MAX_WORKERS}, or such a number for each host"),
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
