"""Settings: declared once with param, the same through JSON, TOML, text and schema, each with its source."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import string
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
from agilab.settings import (
    Layer,
    Secret,
    Settings,
    json_schema,
    resolve,
    settings_layer,
    write_toml,
)
from tests.every_setting import FIELDS, UTC, Everything, Model, message

VALIDATOR = jsonschema.Draft202012Validator(json_schema(Everything.fields(), "Everything"))


# --- strategies: Python values, cheap ones, with the corners that lose something elsewhere ---

TEXT = st.one_of(
    st.sampled_from(
        ["", "none", "\\none", "nan", "a,b", '"', "'", "[1]", "{}", " a ", "\x00\x7f\x1b", "é\u2028🛩", "a\r\nb"]
    ),
    st.text(max_size=8),
)
WHOLE = st.one_of(st.integers(-5, 5), st.sampled_from([2**53 + 1, -(2**63), 10**80]))
FLOAT = st.floats()
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DATE = st.dates()
ZONE = st.sampled_from(
    [None, UTC, dt.timezone(dt.timedelta(hours=-3, minutes=30)), dt.timezone(dt.timedelta(seconds=75))]
)
MOMENT = st.builds(lambda moment, zone: moment.replace(tzinfo=zone), st.datetimes(), ZONE)
SCALAR = st.one_of(st.none(), st.booleans(), WHOLE, FINITE, TEXT)
JSON = st.one_of(
    SCALAR,
    st.lists(SCALAR, max_size=3),
    st.dictionaries(st.one_of(TEXT, st.sampled_from(["none", "none!"])), SCALAR, max_size=2),
    st.sampled_from([{"none": True}, {"none!": [{"none": True}]}, [[{"none": 1}], {}], {"a": {"none": None}}]),
)
SECRET = st.sampled_from(["env:A_1", "file:/a b/ü", "file:~/x"])
MODEL = st.fixed_dictionaries(
    {"depth": st.integers(1, 9), "rate": st.floats(1e-300, 1e300), "token": st.none() | SECRET}
)


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
    "workers": st.one_of(
        st.integers(1, 4096), st.dictionaries(st.sampled_from(["a", "me@b", "10.0.0.1"]), st.integers(1, 9), min_size=1)
    ),
    "model": MODEL,
    "other_model": st.none() | MODEL,
}
SETTING = st.one_of([st.tuples(st.just(name), values) for name, values in VALUES.items()])
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


@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(values=st.fixed_dictionaries({}, optional=VALUES))
def whole_settings(values: dict[str, Any], folder: Path) -> None:
    plain = {name: codec.encode(FIELDS[name], value) for name, value in values.items()}
    made = Everything.from_json(plain)
    full = made.to_json()
    assert codec.same(full, codec.validate(Everything.fields(), plain))
    VALIDATOR.validate(full)
    path = folder / "app_settings.toml"
    write_toml(path, Everything.fields(), plain)
    layer = settings_layer("workspace file", path)
    assert set(layer.values) == set(plain)
    resolved = resolve(Everything.fields(), [layer])
    assert codec.same(resolved.values, full)
    sources = {name: source["source"] for name, source in resolved.provenance.items()}
    assert {name.partition(".")[0] for name, source in sources.items() if source == "workspace file"} == set(plain)


def test_whole_settings_survive_files_and_fit_their_schema(tmp_path: Path) -> None:
    whole_settings(folder=tmp_path)


# --- declaring ---


def test_fields_hold_type_default_doc_unit_constraints_and_label() -> None:
    field = FIELDS["bounded"]
    assert (field.type, field.default, field.doc, field.unit, field.label) == ("integer", 3, "Count", "1", "Bounded")
    assert field.constraints == {"min": 0, "max": 10, "soft_min": 1, "soft_max": 5, "step": 1}
    assert FIELDS["part"].constraints == {"min": 0.0, "max": 1.0}
    assert FIELDS["choice"].constraints == {"options": ["a", "b", 1, 2.5, True], "optional": True}
    assert FIELDS["named"].constraints == {"options": [1, 100], "labels": ["small", "large"]}
    assert FIELDS["mixed"].constraints == {"items": ["integer", "number", "string"]}
    assert FIELDS["tracks"].constraints == {"kind": "glob"}
    assert FIELDS["model"].default == {"depth": 5, "rate": 0.1, "token": None}
    assert [inner.unit for inner in FIELDS["model"].fields] == ["", "1/step", ""]


def test_fields_stand_in_the_order_of_declaration_and_are_inherited() -> None:
    class Base(Settings):
        z = param.Integer(1, bounds=(0, 5), doc="Zed [s]")
        a = param.Integer(2)

    class Derived(Base):
        z = param.Integer(4)

    assert [field.name for field in Derived.fields()] == ["z", "a"]
    assert (Derived.fields()[0].default, Derived.fields()[0].unit) == (4, "s")
    assert Derived.fields()[0].constraints == {"min": 0, "max": 5}


def test_constants_read_only_and_private_parameters_are_no_settings() -> None:
    class Some(Settings):
        kept = param.Integer(1)
        constant = param.Callable(print, constant=True)
        shown = param.Integer(1, readonly=True)
        _private = param.Parameter(object())

    assert [field.name for field in Some.fields()] == ["kept"]
    assert Some().to_json() == {"kept": 1}


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (lambda: param.Callable(print), "Broken.it is a Callable, which has no codec"),
        (lambda: param.Action(), "a Action, which has no codec"),
        (lambda: param.Event(), "a Event, which has no codec"),
        (lambda: param.Bytes(b"x"), "a Bytes, which has no codec"),
        (lambda: param.Parameter(5), "a Parameter, which has no codec"),
        (lambda: param.ClassSelector(class_=dict), "a ClassSelector, which has no codec"),
        (lambda: param.HookList([]), "a HookList, which has no codec"),
        (lambda: param.FileSelector(path="/nowhere/*"), "a FileSelector, which has no codec"),
        (lambda: param.Selector(objects=[print]), "Broken.it (Selector) has no codec: its objects hold"),
        (lambda: param.Selector(objects=[math.nan]), "Broken.it (Selector) has no codec: its objects hold nan"),
        (lambda: param.List([], item_type=set), "Broken.it (List) has no codec: its item_type is"),
        (lambda: param.List([], item_type=(str, dt.date)), "Broken.it (List) has no codec: its item_type is"),
        (lambda: param.Dict({1: 2}), "Broken.it has a default that is not allowed"),
        (lambda: param.Number(default=lambda: 3.0), "Broken.it has a default that is not allowed"),
    ],
)
def test_a_type_without_codec_is_an_error_when_the_class_is_made(parameter: Any, words: str) -> None:
    made = parameter()
    assert words in message(lambda: type("Broken", (Settings,), {"it": made}))


@pytest.mark.parametrize("name", ["name", "fields", "to_json", "from_json", "input_matches"])
def test_a_setting_cannot_take_a_name_of_settings_itself(name: str) -> None:
    said = message(lambda: type("Broken", (Settings,), {name: param.String("a")}))
    assert said == f"Broken.{name} cannot be a setting: Settings has its own; choose another name"


def test_a_default_is_never_shared_between_instances() -> None:
    class Some(Settings):
        items = param.List([1], instantiate=False)
        table = param.Dict({"a": []}, instantiate=False)
        chosen = param.ListSelector(["a"], objects=["a", "b"])
        model = param.Parameter(Model())
        made = param.List(default_factory=list) if "default_factory" in param.List.__slots__ else param.List([])

    first, second = Some(), Some()
    first.items.append(2)
    first.table["a"].append(1)
    first.chosen.append("b")
    first.model.depth = 9
    assert second.to_json() == Some.from_json({}).to_json() == Some().to_json()
    assert second.items == [1]
    assert second.model.depth == 3
    assert Some.fields()[0].default == [1]


def test_from_json_gives_python_values_and_to_json_checks_them_again() -> None:
    made = Everything.from_json({"day": "2013-02-03", "span": [0, "inf"], "model": {"depth": 2}, "words": ["x"]})
    assert (made.day, made.span, made.words) == (dt.date(2013, 2, 3), (0.0, math.inf), ["x"])
    assert (made.model.depth, made.model.rate) == (2, 0.1)
    made.words.append(5)
    assert "setting 'words' is ['x', 5]; allowed: a list of values, each text" in message(made.to_json)
    assert "did you mean 'integer'" in message(Everything.from_json, {"intger": 1})


def test_a_check_that_only_the_app_makes_is_one_line_too() -> None:
    class Even(Settings):
        count = param.Integer(2)

        @param.depends("count", watch=True, on_init=True)
        def _check(self) -> None:
            if self.count % 2:
                raise ValueError(f"count is {self.count}; allowed: an even number")

    assert "count is 3; allowed: an even number" in message(Even.from_json, {"count": 3})


def test_paths_stay_text_and_are_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Some(Settings):
        table = param.Filename(None, allow_None=True)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.csv").write_text("")
    for text in ("gone.csv", "here.csv"):
        assert Some(table=text).to_json() == {"table": text}
        assert Some.from_json({"table": text}).to_json() == {"table": text}
    assert Some(table=Path("a") / "b").to_json() == {"table": "a/b"}


def test_a_literal_secret_is_refused_by_the_class_without_showing_it() -> None:
    with pytest.raises(ValueError, match="env:NAME or file:PATH") as caught:
        Model(token="hunter2")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in message(Model.from_json, {"token": "hunter2"})
    assert "hunter2" not in message(Secret, "hunter2")


def test_values_may_be_given_as_python_values_and_as_settings() -> None:
    given = {"day": dt.date(2013, 2, 3), "path": Path("a") / "b", "span": (1, math.nan), "model": Model(depth=2)}
    wanted = {
        "day": "2013-02-03",
        "path": "a/b",
        "span": [1.0, "nan"],
        "model": {"depth": 2, "rate": 0.1, "token": None},
    }
    resolved = resolve(Everything.fields(), [Layer("caller", given)])
    assert {name: resolved.values[name] for name in wanted} == wanted
    assert codec.validate(Everything.fields(), Everything.from_json(given)) == resolved.values


def test_the_options_of_an_open_selector_are_those_that_were_declared() -> None:
    class Some(Settings):
        kind = param.Selector(default="a", objects=["a", "b"], check_on_set=False)

    before = Some.fields()
    assert Some(kind="c").to_json() == {"kind": "c"}
    assert Some.fields() == before
    assert before[0].constraints == {"options": ["a", "b"], "open": True}


def test_bounds_may_be_infinite_or_whole_floats() -> None:
    class Some(Settings):
        count = param.Integer(1, bounds=(1, 1e6))
        size = param.Number(1, bounds=(0, math.inf))
        below = param.Number(1, bounds=(None, math.inf), inclusive_bounds=(True, False))

    assert [field.constraints for field in Some.fields()] == [
        {"min": 1, "max": 10**6},
        {"min": 0.0},
        {"max": "inf", "max_exclusive": True},
    ]
    assert "allowed: a number < inf" in message(Some.from_json, {"below": math.inf})


# --- schema ---


def test_the_schema_is_valid_and_says_what_the_declaration_says() -> None:
    schema = json_schema(Everything.fields(), "Everything")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    bounded = schema["properties"]["bounded"]
    assert (bounded["minimum"], bounded["maximum"], bounded["x-unit"]) == (0, 10, "1")
    assert bounded["description"] == "Count: a whole number >= 0 and <= 10 [1]"
    check = jsonschema.Draft202012Validator(schema)
    for wrong in (
        {"integer": "x"},
        {"bounded": 11},
        {"word": "A"},
        {"choice": "z"},
        {"unknown": 1},
        {"model": {"a": 1}},
    ):
        assert not check.is_valid(wrong), wrong
    json.dumps(schema, allow_nan=False)
