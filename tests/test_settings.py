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


VALIDATOR = jsonschema.Draft202012Validator(json_schema(Everything.fields(), "Everything"))
FIELDS = {field.name: field for field in Everything.fields()}


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SettingError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


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


# --- layers ---


def test_the_stronger_layer_wins_and_says_where(tmp_path: Path) -> None:
    shipped, own = tmp_path / "app.toml", tmp_path / "own.toml"
    shipped.write_text("[settings]\ninteger = 4\nnumber = 2\n\n[settings.model]\ndepth = 6\nrate = 0.5\n[cluster]\n")
    own.write_text('schema = "agilab.settings/1"\nsettings.number = 3\n[settings.model]\n\ndepth = 7\n')
    layers = [
        settings_layer("app file", shipped),
        settings_layer("workspace file", read_toml(own)),
        environment_layer(Everything.fields(), {"AGILAB_SETTING_SWITCH": "no", "AGILAB_SETTING_MODEL__DEPTH": "8"}),
        Layer("caller", {"text": "mine"}),
    ]
    resolved = resolve(Everything.fields(), layers)
    assert resolved.values["model"] == {"depth": 8, "rate": 0.5, "token": None}
    wanted = {
        "integer": (4, "app file", f"{shipped}:2"),
        "number": (3.0, "workspace file", f"{own}:2"),
        "model.rate": (0.5, "app file", f"{shipped}:7"),
        "model.depth": (8, "environment", "AGILAB_SETTING_MODEL__DEPTH"),
        "switch": (False, "environment", "AGILAB_SETTING_SWITCH"),
        "text": ("mine", "caller", ""),
        "model.token": (None, "default", ""),
        "maybe": (None, "default", ""),
    }
    for name, (value, source, where) in wanted.items():
        assert codec.same(codec.get_path(resolved.values, name), value)
        assert resolved.provenance[name] == {"source": source, "where": where}
    assert set(resolved.provenance) == {
        name for name, _ in codec.leaves(Everything.fields()) if "other" not in name
    } | {"other_model"}


def test_a_wrong_value_in_a_file_gives_file_and_line_even_if_it_would_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[settings]\ntext = """\n[settings]\n"""\n# integer = 1\n\ninteger = "x"\n')
    layers = [settings_layer("app file", path), Layer("caller", {"integer": 1})]
    said = message(resolve, Everything.fields(), layers)
    assert said == f"setting 'integer' is 'x'; allowed: a whole number ({path}:7)"
    path.write_text("[settings]\n'integer' = 1\n[settings.model]\ndepht = 2\n")
    said = message(resolve, Everything.fields(), [settings_layer("app file", path)])
    assert said == f"unknown setting 'model.depht'; did you mean 'model.depth'? ({path}:4)"
    path.write_text("[settings]\n\nmodel = {depth = 20}\n")
    said = message(resolve, Everything.fields(), [settings_layer("app file", path)])
    assert said.endswith(f"a whole number >= 1 and <= 9 ({path}:3)")


def test_a_nested_setting_can_be_switched_off_and_on_by_a_stronger_layer() -> None:
    fields = Everything.fields()
    off = resolve(fields, [Layer("app file", {"model": {"depth": 2}}), Layer("caller", {"other_model": None})])
    assert off.provenance["other_model"] == {"source": "caller", "where": ""}
    on = resolve(fields, [Layer("app file", {"other_model": {}})])
    assert on.values["other_model"] == {"depth": 3, "rate": 0.1, "token": None}
    optional = codec.fields_from_json(codec.fields_to_json(fields))
    again = resolve(
        optional, [Layer("app file", {"other_model": {"depth": 2}}), Layer("caller", {"other_model": None})]
    )
    assert again.values["other_model"] is None
    assert "other_model.depth" not in again.provenance
    layers = [Layer("app file", {"other_model": {"depth": 2}}), Layer("workspace file", {"other_model": None})]
    anew = resolve(fields, [*layers, Layer("caller", {"other_model": {"rate": 0.5}})])
    assert anew.values["other_model"] == {"depth": 3, "rate": 0.5, "token": None}
    assert anew.provenance["other_model.depth"] == {"source": "default", "where": ""}
    assert anew.provenance["other_model.rate"]["source"] == "caller"


def test_a_variable_that_nearly_matches_is_an_error_and_one_for_another_app_is_not() -> None:
    fields = Everything.fields()
    said = message(environment_layer, fields, {"AGILAB_SETTING_INTEGR": "1"})
    assert said == "unknown variable AGILAB_SETTING_INTEGR; did you mean AGILAB_SETTING_INTEGER?"
    assert environment_layer(fields, {"AGILAB_SETTING_QQQQQQQQQ": "1", "HOME": "/"}).values == {}
    said = message(environment_layer, fields, {"AGILAB_SETTING_BOUNDED": "11"})
    assert said.endswith("a whole number >= 0 and <= 10 [1] (AGILAB_SETTING_BOUNDED)")


def test_two_settings_that_share_a_variable_are_an_error_only_when_it_is_set() -> None:
    fields = [codec.Field("a", "integer", 1), codec.Field("A", "integer", 1)]
    assert environment_layer(fields, {}).values == {}
    assert "could be 'a' or 'A'" in message(environment_layer, fields, {"AGILAB_SETTING_A": "1"})


# --- files ---


def test_a_written_file_explains_itself_and_keeps_what_is_not_ours_to_change(tmp_path: Path) -> None:
    path = tmp_path / "new" / "app_settings.toml"
    write_toml(path, Everything.fields(), {"bounded": 5, "model": {"depth": 2}, "moment": "2013-01-01T00:00:00+00:00"})
    text = path.read_text()
    assert text.startswith('schema = "agilab.settings/1"\n\n[settings]\n')
    assert "\n# Count: a whole number >= 0 and <= 10 [1]\nbounded = 5\n" in text
    assert "\n# number = 1.5\n" in text
    assert "\nmoment = 2013-01-01T00:00:00+00:00\n" in text
    assert "\n# The model\n[settings.model]\n# Layers: a whole number >= 1 and <= 9\ndepth = 2\n" in text
    rest = (
        "# mine\n[cluster]\nworkers = 3 # here\nnan = nan\n\n[[views]]\n".replace("[[views]]", "[views]")
        + 'a = """\n[x]\n"""\n'
    )
    path.write_text(text + "\n" + rest + "[settings.other_model]\ndepth = 1\n")
    write_toml(path, Everything.fields(), {"text": "]"})
    again = path.read_text()
    assert rest.strip() in again
    assert "other_model" not in read_toml(path).tables["settings"]
    assert read_toml(path).tables["settings"] == {"text": "]"}
    assert [entry.name for entry in path.parent.iterdir()] == ["app_settings.toml"]
    write_toml(path, Everything.fields(), {"text": "]"})
    assert path.read_text() == again
    write_toml(path, Model.fields(), {"depth": 4}, table="cluster")
    assert read_toml(path).tables["cluster"] == {"depth": 4}
    assert read_toml(path).tables["settings"] == {"text": "]"}


@pytest.mark.parametrize(
    "text",
    [
        'schema = "agilab.settings/1"\nsettings.text = "a"\n[cluster]\nworkers = 1\n',
        'settings = {text = "a"}\nschema = "agilab.settings/1"\n[cluster]\nworkers = 1\n',
        'schema = "agilab.settings/1"\r\n[settings]\r\ntext = "a" # x\r\n# y\r\n\r\n# z\r\n'
        "[cluster]\r\nworkers = 1\r\n",
        "schema = \"agilab.settings/1\"\n[cluster]\nworkers = 1\n[\"settings\"]\n\"te\\u0078t\" = ''''a''''\n",
        'schema = "agilab.settings/1"\n[settings]\noptions = {a = [1, # ]\n 2]}\n'
        "[ cluster ]\nworkers = 1\n[settings . model]\n",
        'schema = "agilab.settings/1"\n[cluster]\nworkers = 1',
    ],
)
def test_a_table_is_replaced_however_it_was_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(text.encode())
    write_toml(path, Everything.fields(), {"text": "new"})
    assert read_toml(path).tables == {"settings": {"text": "new"}, "cluster": {"workers": 1}}


def test_a_file_that_cannot_be_rewritten_safely_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    text = 'schema = "agilab.settings/1"\n[settings]\ntext = "a"\n'
    for bad, words in [
        ('[settings]\ntext = "a"\n', "may belong to another program"),
        (f"{text}\n[settings\n", "is not valid TOML"),
        (text.replace("settings/1", "settings/7"), "has schema 'agilab.settings/7'"),
    ]:
        path.write_text(bad)
        assert words in message(write_toml, path, Everything.fields(), {"text": "b"})
        assert path.read_text() == bad
    path.write_text(text)
    assert "setting 'integer'" in message(write_toml, path, Everything.fields(), {"integer": "b"})
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[settings]\na = \n", ":2:5 is not valid TOML: Invalid value"),
        (b"[settings]\na = [1,", ":2:8 is not valid TOML"),
        (b"[settings]\na = '\xff'\n", ":2:6 is not UTF-8 text"),
        (b"[settings]\na = 1\na = 2\n", ":3:6 is not valid TOML: Cannot overwrite a value"),
        (b"\n[setings]\na = 1\n", "unknown table or key 'setings'; did you mean [settings]? ("),
        (b"sample = 1\n", "unknown table or key 'sample'; tables are [settings], [cluster], [views] ("),
        (b"settings = 1\n", "'settings' is not a table; write it as [settings] ("),
        (b"#" * 1_000_001, "is larger than 1000000 bytes"),
        (b"[settings]\na = " + b"[" * 100_000, "is not valid TOML"),
        (b"[settings]\na = " + b"9" * 10_000, "is not valid TOML"),
    ],
)
def test_a_bad_file_gives_one_line_with_file_line_and_column(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    said = message(read_toml, path)
    assert words in said
    assert str(path) in said


def test_hostile_files_are_read_in_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    begin = time.process_time()
    for text in ["a = " + "[" * 40 + "]" * 40, ".".join(["a"] * 5000) + " = 1", "a" * 900_000 + " = 1", 'a = {"" = 1}']:
        path.write_text(f"[settings]\n{text}\n")
        message(resolve, Everything.fields(), [settings_layer("app file", path)])
    assert time.process_time() - begin < 2


def test_a_file_that_is_not_there_is_an_empty_layer(tmp_path: Path) -> None:
    assert settings_layer("workspace file", tmp_path / "none.toml").values == {}
    assert "cannot be read" in message(read_toml, tmp_path)


def test_a_settings_file_is_private_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.toml"
    write_toml(path, Model.fields(), {})
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


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


# --- secrets ---


def test_secrets_are_read_where_their_references_lead(tmp_path: Path) -> None:
    kept = tmp_path / "token"
    kept.write_text("from file\n")
    values = codec.validate(Everything.fields(), {"secret": "env:TOKEN", "model": {"token": f"file:{kept}"}})
    found = resolve_secrets(Everything.fields(), values, {"TOKEN": "from variable"})
    assert found == {"secret": "from variable", "model.token": "from file"}
    made = codec.decode(Everything.fields(), values, secrets=found)
    assert (made.secret, made.model.token) == ("from variable", "from file")
    assert "from variable" not in repr(made)


def test_a_reference_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    def resolved(reference: str) -> str:
        return message(resolve_secrets, Everything.fields(), {"secret": reference}, {})

    assert resolved("env:TOKEN") == "secret 'secret' is env:TOKEN, but that variable is not set; set it and try again"
    assert "which cannot be read: No such file or directory" in resolved(f"file:{tmp_path}/none")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    assert "is larger than 65536 bytes" in resolved(f"file:{tmp_path}/large")
    (tmp_path / "bytes").write_bytes(b"\xff hunter2")
    assert "hunter2" not in resolved(f"file:{tmp_path}/bytes")


# --- inputs ---


class Reads(Settings):
    tracks = Input("tracks/*.csv")
    one = Input(None, kind="file", allow_None=True)
    all_of = Input(None, kind="folder", allow_None=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in (
        "tracks/b.csv",
        "tracks/a.csv",
        "tracks/.hidden.csv",
        "tracks/deep/c.csv",
        "tracks/deep/d.txt",
        "e.csv",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "outside.csv").write_text("no")
    (root / "tracks" / "out.csv").symlink_to(tmp_path / "outside.csv")
    (root / "tracks" / "in.csv").symlink_to(root / "e.csv")
    (root / "tracks" / "gone.csv").symlink_to(root / "none.csv")
    (root / "tracks" / "folder.csv").mkdir()
    (root / "tracks" / "round").symlink_to(root / "tracks")
    (root / "away").symlink_to(tmp_path)
    os.mkfifo(root / "tracks" / "pipe.csv")
    return root


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("tracks/*.csv", ["tracks/a.csv", "tracks/b.csv", "tracks/in.csv"]),
        ("tracks/[ab].csv", ["tracks/a.csv", "tracks/b.csv"]),
        ("tracks/.h*", ["tracks/.hidden.csv"]),
        ("**/c.csv", ["tracks/deep/c.csv"]),
        ("**/**/?.csv", ["e.csv", "tracks/a.csv", "tracks/b.csv", "tracks/deep/c.csv"]),
        ("tracks/**", ["tracks/a.csv", "tracks/b.csv", "tracks/deep/c.csv", "tracks/deep/d.txt", "tracks/in.csv"]),
        ("./tracks//a.csv", ["tracks/a.csv"]),
        ("away/*", []),
        ("away/outside.csv", []),
        ("tracks/round/a.csv", ["tracks/round/a.csv"]),
        ("nothing/*", []),
        ("tracks", []),
    ],
)
def test_a_pattern_matches_regular_files_inside_the_root(data: Path, pattern: str, found: list[str]) -> None:
    assert Reads(tracks=pattern).input_matches(data) == {"tracks": found}
    absolute = f"{data}/{pattern}"
    assert Reads(tracks=absolute).input_matches(data) == {"tracks": found}


def test_a_file_and_a_folder_are_found(data: Path) -> None:
    found = Reads(tracks="none", one="e.csv", all_of="tracks/deep/").input_matches(data)
    assert found == {"tracks": [], "one": ["e.csv"], "all_of": ["tracks/deep/c.csv", "tracks/deep/d.txt"]}


def test_a_data_root_may_be_a_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    assert Reads(tracks=f"{tmp_path}/link/e.csv").input_matches(tmp_path / "link") == {"tracks": ["e.csv"]}
    assert Reads(tracks=f"{data}/e.csv").input_matches(tmp_path / "link") == {"tracks": ["e.csv"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"one": "away/outside.csv"}, "which leads out of"),
        ({"all_of": "away"}, "which leads out of"),
        ({"one": "tracks/out.csv"}, "which leads out of"),
        ({"one": "tracks"}, "there is no such file in"),
        ({"all_of": "e.csv"}, "there is no such folder in"),
        ({"tracks": "/etc/*"}, "allowed: a path inside"),
    ],
)
def test_an_input_outside_the_root_or_missing_is_named(data: Path, values: dict[str, str], words: str) -> None:
    said = message(Reads(**values).input_matches, data)
    assert words in said
    assert next(iter(values)) in said


def test_an_input_cannot_climb_out_and_has_a_known_kind(tmp_path: Path) -> None:
    for text in ("../a", "a/../../b", "", "/"):
        with pytest.raises(ValueError, match="inside the data root"):
            Reads(tracks=text)
    with pytest.raises(SettingError, match="'file', 'folder', 'glob'"):
        Input(kind="url")
    assert "is not a folder" in message(Reads().input_matches, tmp_path / "none")


def test_many_wildcards_take_bounded_time(data: Path) -> None:
    begin = time.process_time()
    for number in range(10):
        (data / f"round{number}").symlink_to(data)
    assert Reads(tracks="/".join(["**", "*"] * 20)).input_matches(data) == {"tracks": []}
    assert Reads(tracks="*a" * 200).input_matches(data) == {"tracks": []}
    assert time.process_time() - begin < 1


# --- cost ---


def test_layers_codec_and_schema_do_not_need_param() -> None:
    code = "import sys, agilab.layers, agilab.schema; print('param' in sys.modules, 'click' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
