"""Settings: declared once with param, the same through JSON, TOML, text and schema, each with its source."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import os
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import param
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agilab import codec
from agilab.digest import canonical_json
from agilab.errors import SettingError
from agilab.settings import (
    Input,
    Layer,
    Secret,
    Settings,
    environment_layer,
    json_schema,
    read_toml,
    resolve,
    resolve_secrets,
    settings_layer,
    write_toml,
)

UTC = dt.UTC


class Model(Settings):
    depth = param.Integer(3, bounds=(1, 9), doc="Layers")
    rate = param.Number(0.1, bounds=(0, None), inclusive_bounds=(False, True), doc="Learning rate [1/step]")
    token = Secret(None, doc="Where the token is")


class Everything(Settings):
    """One setting of every type, some of them twice."""

    integer = param.Integer(3)
    bounded = param.Integer(3, bounds=(0, 10), softbounds=(1, 5), step=1, doc="Count [1]")
    number = param.Number(1.5, doc="A number [s]")
    maybe = param.Number(None, allow_None=True)
    part = param.Magnitude(0.5)
    text = param.String("a")
    word = param.String("abc", regex="[a-z]+$")
    note = param.String(None, allow_None=True)
    switch = param.Boolean(True)
    unsure = param.Boolean(None, allow_None=True)
    choice = param.Selector(default="a", objects=["a", "b", 1, 2.5, True, None])
    named = param.Selector(objects={"small": 1, "large": 100})
    open_choice = param.Selector(default="x", objects=["x"], check_on_set=False)
    choices = param.ListSelector(default=["a"], objects=["a", "b", 1, "1", "a,b"])
    day = param.CalendarDate(dt.date(2013, 1, 1))
    moment = param.Date(dt.datetime(2013, 1, 1, tzinfo=UTC))
    days = param.CalendarDateRange((dt.date(2013, 1, 1), dt.date(2013, 1, 31)))
    moments = param.DateRange((dt.datetime(2013, 1, 1), dt.datetime(2013, 1, 31)))
    span = param.Range((0.0, 1.0))
    pair = param.Tuple(("a", 1))
    point = param.NumericTuple((1.0, 2.0))
    corner = param.XYCoordinates((0.0, 0.0))
    anything = param.List([1, "a", None])
    words = param.List(["a"], item_type=str)
    counts = param.List([1], item_type=int)
    steps = param.List([0.5], item_type=float)
    holidays = param.List([], item_type=dt.date)
    mixed = param.List([1, "a"], item_type=(int, float, str))
    options = param.Dict({"a": [1, {"b": None}]})
    optional_options = param.Dict(None, allow_None=True)
    path = param.Path(None, allow_None=True)
    file = param.Filename("there/is/none.csv", check_exists=False)
    folder = param.Foldername(None, allow_None=True)
    color = param.Color("#1f77b4")
    secret = Secret("env:TOKEN")
    tracks = Input("tracks/*.csv", doc="Tracks")
    model = param.ClassSelector(class_=Model, default=Model(depth=5), doc="The model")
    other_model = param.ClassSelector(class_=Model, default=None, allow_None=True)


FIELDS = {field.name: field for field in Everything.fields()}


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SettingError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- strategies: Python values, cheap ones, with the corners that lose something elsewhere ---

TEXT = st.one_of(
    st.sampled_from(["", "none", "\\none", "nan", "a,b", '"', "'", "[1]", "{}", " a ", "\x00\x7f\x1b", "é\u2028🛩", "a\r\nb"]),
    st.text(max_size=8),
)
WHOLE = st.one_of(st.integers(-5, 5), st.sampled_from([2**53 + 1, -(2**63), 10**80]))
FLOAT = st.floats()
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DATE = st.dates()
ZONE = st.sampled_from([None, UTC, dt.timezone(dt.timedelta(hours=-3, minutes=30)), dt.timezone(dt.timedelta(seconds=75))])
MOMENT = st.builds(lambda moment, zone: moment.replace(tzinfo=zone), st.datetimes(), ZONE)
SCALAR = st.one_of(st.none(), st.booleans(), WHOLE, FINITE, TEXT)
JSON = st.one_of(
    SCALAR,
    st.lists(SCALAR, max_size=3),
    st.dictionaries(st.one_of(TEXT, st.sampled_from(["none", "none!"])), SCALAR, max_size=2),
    st.sampled_from([{"none": True}, {"none!": [{"none": True}]}, [[{"none": 1}], {}], {"a": {"none": None}}]),
)
SECRET = st.sampled_from(["env:A_1", "file:/a b/ü", "file:~/x"])
MODEL = st.fixed_dictionaries({"depth": st.integers(1, 9), "rate": st.floats(1e-300, 1e300), "token": st.none() | SECRET})


def ordered(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda one, two: tuple(sorted((one, two))), values, values)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "integer": WHOLE,
    "bounded": st.integers(0, 10),
    "number": FLOAT,
    "maybe": st.none() | FLOAT,
    "part": st.floats(0, 1),
    "text": TEXT,
    "word": st.text(string.ascii_lowercase, min_size=1, max_size=5),
    "note": st.none() | TEXT,
    "switch": st.booleans(),
    "unsure": st.sampled_from([None, True, False]),
    "choice": st.sampled_from(["a", "b", 1, 2.5, True, None]),
    "named": st.sampled_from([1, 100]),
    "open_choice": st.one_of(TEXT, WHOLE, st.booleans()),
    "choices": st.lists(st.sampled_from(["a", "b", 1, "1", "a,b"]), max_size=3),
    "day": DATE,
    "moment": MOMENT | DATE,
    "days": ordered(DATE),
    "moments": ordered(st.datetimes()),
    "span": st.tuples(FLOAT, FLOAT),
    "pair": st.tuples(SCALAR, SCALAR),
    "point": st.tuples(FLOAT, FLOAT),
    "corner": st.tuples(FLOAT, FLOAT),
    "anything": st.lists(JSON, max_size=3),
    "words": st.lists(TEXT, max_size=3),
    "counts": st.lists(WHOLE, max_size=3),
    "steps": st.lists(FLOAT, max_size=3),
    "holidays": st.lists(DATE, max_size=3),
    "mixed": st.lists(st.one_of(WHOLE, FINITE, TEXT), max_size=3),
    "options": st.dictionaries(TEXT, JSON, max_size=3),
    "optional_options": st.none() | st.dictionaries(TEXT, SCALAR, max_size=2),
    "path": st.none() | st.sampled_from(["a/b.csv", "/x y/ü", "none"]),
    "file": st.sampled_from(["a.csv", "/b"]),
    "folder": st.none() | st.just("a/"),
    "color": st.sampled_from(["#fff", "#1F77b4", "navy"]),
    "secret": SECRET,
    "tracks": st.sampled_from(["a", "*.csv", "a/**/b?.csv", "/data/a"]),
    "model": MODEL,
    "other_model": st.none() | MODEL,
}
SETTING = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name]))
COUNT = itertools.count()


def test_there_is_a_strategy_for_every_setting_and_a_setting_for_every_type() -> None:
    assert set(VALUES) == set(FIELDS)
    assert {field.type for field in FIELDS.values()} == set(codec.CODECS)


@settings(max_examples=2500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.tuples(SETTING, SETTING, SETTING, SETTING))
def ten_thousand_settings(chosen: tuple[tuple[str, Any], ...]) -> None:
    for name, value in chosen:
        next(COUNT)
        check_round_trips(name, value)


def check_round_trips(name: str, value: Any) -> None:
    field = FIELDS[name]
    plain = codec.encode(field, value)
    assert codec.same(json.loads(canonical_json(plain)), plain)
    assert codec.same(codec.encode(field, plain), plain)
    text = codec.format_text(field, plain)
    assert codec.same(codec.parse_text(field, text), plain), text
    toml = TOML.write(field, plain)
    assert codec.same(TOML.read(field, toml), plain), toml
    if field.type != "settings":
        back = codec.decode_value(field, plain)
        assert repr(back) == repr(python_form(field, value))
        assert codec.same(codec.encode(field, back), plain)


def python_form(field: codec.Field, value: Any) -> Any:
    """What a value is expected to be after the round trip: a zone becomes its offset, numbers become floats."""
    if isinstance(value, dt.datetime):  # without a zone, fold means nothing
        return dt.datetime.fromisoformat(value.isoformat())
    if field.type == "datetime_range":
        return tuple(moment.replace(fold=0) for moment in value)
    if field.type in ("range", "numeric_tuple"):
        return tuple(float(item) for item in value)
    return value


class TOML:
    """A settings file in memory: the text is what `write_toml` writes, the values what `read_toml` reads."""

    @staticmethod
    def write(field: codec.Field, plain: Any) -> str:
        from agilab.layers import table_lines

        return "\n".join(table_lines([field], {field.name: plain}, "settings"))

    @staticmethod
    def read(field: codec.Field, text: str) -> Any:
        import tomllib

        from agilab.toml import unescape

        table = {key: unescape(value) for key, value in tomllib.loads(text)["settings"].items()}
        return codec.validate([field], table)[field.name]


def test_ten_thousand_random_settings_survive_json_toml_and_text() -> None:
    begin = time.process_time()
    ten_thousand_settings()
    assert next(COUNT) >= 10_000
    assert time.process_time() - begin < 20
