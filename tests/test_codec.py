"""The codec: one canonical form, one sentence, nothing lost and nothing hostile let through."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest

from agilab import codec
from agilab.codec import Field
from agilab.digest import canonical_json
from agilab.errors import SettingError

SAMPLE = Field("sample_s", "number", 60.0, "Sampling step", "s", {"min": 0.0, "min_exclusive": True})
DEPTH = Field("depth", "integer", 3, "Depth", constraints={"min": 1, "max": 9})
MODEL = Field("model", "settings", {"depth": 3}, constraints={"fields": [DEPTH.to_json()]})
TOKEN = Field("token", "secret", None, constraints={"optional": True})


def field(type_name: str, default: Any = None, /, **constraints: Any) -> Field:
    return Field("it", type_name, default, constraints=constraints)


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SettingError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


# --- the sentence ---


def test_a_wrong_value_gives_setting_value_allowed_and_place() -> None:
    said = message(codec.validate, [SAMPLE], {"sample_s": -1}, where="settings.toml:3")
    assert said == "setting 'sample_s' is -1; allowed: a number > 0 [s] (settings.toml:3)"


def test_an_unknown_name_gives_the_nearest_one() -> None:
    said = message(codec.validate, [SAMPLE], {"sample": 1}, where={"sample": "settings.toml:7"})
    assert said == "unknown setting 'sample'; did you mean 'sample_s'? (settings.toml:7)"


def test_an_unknown_name_without_a_near_one_gives_all() -> None:
    assert message(codec.validate, [SAMPLE, DEPTH], {"zzz": 1}) == "unknown setting 'zzz'; known: sample_s, depth"


def test_a_nested_setting_has_a_dotted_name_and_its_own_line_or_that_of_its_table() -> None:
    lines = {"model": "a.toml:4"}
    said = message(codec.validate, [MODEL], {"model": {"depth": 99}}, where=lines)
    assert said == "setting 'model.depth' is 99; allowed: a whole number >= 1 and <= 9 (a.toml:4)"
    said = message(codec.validate, [MODEL], {"model": {"depht": 1}}, where={**lines, "model.depht": "a.toml:5"})
    assert said == "unknown setting 'model.depht'; did you mean 'model.depth'? (a.toml:5)"


def test_manager_and_worker_say_the_same_sentence() -> None:
    fields = codec.fields_from_json(json.loads(json.dumps(codec.fields_to_json([SAMPLE]))))
    here = message(codec.validate, [SAMPLE], {"sample_s": "x"})
    assert message(codec.decode, fields, {"sample_s": "x"}) == here
    assert message(codec.encode, SAMPLE, "x") == here
    assert message(codec.parse_text, SAMPLE, "x") == here


@pytest.mark.parametrize(
    ("declared", "value", "words"),
    [
        (field("integer", min=1), 0, "a whole number >= 1"),
        (field("number", min=0.0, max=1.0), 2, "a number >= 0 and <= 1"),
        (field("number", max=1e300, max_exclusive=True), 1e300, "a number < 1e+300"),
        (field("string", pattern="[a-z]+"), "A", "text matching '[a-z]+'"),
        (field("boolean"), 1, "true or false"),
        (field("selector", options=["a", 1]), "b", "one of 'a', 1"),
        (
            field("selector", options=list(range(40))),
            "b",
            "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (40 in all)",
        ),
        (field("list_selector", options=["a", "b"]), ["c"], "a list of values, each one of 'a', 'b'"),
        (field("date"), "2013-02-30", "a date such as 2013-01-31"),
        (field("date", min="2013-01-01"), "2012-12-31", "a date such as 2013-01-31 >= 2013-01-01"),
        (field("date_range"), ["2013-02-01", "2013-01-01"], "two dates, the first one first"),
        (field("range", min=0.0), [-1, 1], "two numbers >= 0"),
        (field("tuple", length=3), [1], "a list of 3 values"),
        (field("numeric_tuple", length=2), ["a", "b"], "a list of 2 values, each a number"),
        (
            field("list", items="integer", min_length=1, max_length=2),
            [],
            "a list of 1 to 2 values, each a whole number",
        ),
        (field("list", items=["integer", "string"]), [1.5], "a list of values, each a whole number or text"),
        (field("dict"), [1], "a table of JSON values"),
        (field("path"), 5, "a path"),
        (field("input", kind="file"), "../a", "the path of a file inside the data root, without '..'"),
        (field("boolean", optional=True), "x", "true or false, or none"),
        (MODEL, 5, "a table of depth"),
    ],
)
def test_every_type_says_what_it_allows(declared: Field, value: Any, words: str) -> None:
    said = message(codec.validate, [declared], {declared.name: value})
    assert said.endswith(f"; allowed: {words}")


def test_a_literal_secret_is_refused_and_never_shown() -> None:
    for call in (codec.validate, codec.decode):
        for value in ("hunter2", "env:not a name", "env:", "file:", "file:a\nb", ["hunter2"], {"hunter2": 1}):
            said = message(call, [TOKEN], {"token": value}, where="x") if call is codec.validate else ""
            assert "hunter2" not in said
            assert "not a name" not in said
    assert "hunter2" not in message(codec.parse_text, TOKEN, "hunter2")
    assert "env:NAME or file:PATH" in message(codec.encode, TOKEN, "hunter2")
    secrets = Field("model", "settings", None, constraints={"fields": [TOKEN.to_json()]})
    assert "hunter2" not in message(codec.validate, [secrets], {"model": "hunter2"})
    assert "hunter2" not in message(codec.parse_text, secrets, "hunter2")


def test_a_long_value_is_shortened() -> None:
    said = message(codec.validate, [DEPTH], {"depth": "x" * 10_000})
    assert "x" * 70 in said
    assert "x" * 81 not in said


# --- canonical form ---


@pytest.mark.parametrize(
    ("declared", "value", "canonical"),
    [
        (field("number"), 3, 3.0),
        (field("number"), math.nan, "nan"),
        (field("number"), -math.inf, "-inf"),
        (field("number"), "inf", "inf"),
        (field("number"), -0.0, -0.0),
        (field("integer"), 10**300, 10**300),
        (field("datetime"), "2013-01-31 12:00Z", "2013-01-31T12:00:00+00:00"),
        (field("datetime"), "2013-01-31T12:00:00.5", "2013-01-31T12:00:00.500000"),
        (field("datetime"), "2013-01-31", "2013-01-31"),
        (field("datetime"), dt.datetime(2013, 1, 31, 12, 0, 0, 1, dt.UTC), "2013-01-31T12:00:00.000001+00:00"),
        (field("date"), dt.date(2013, 1, 31), "2013-01-31"),
        (field("range"), (1, math.nan), [1.0, "nan"]),
        (field("numeric_tuple", length=2), [1, 2], [1.0, 2.0]),
        (field("selector", options=[1, 2.5]), 1.0, 1),
        (field("selector", options=[True, 1]), 1, 1),
        (field("dict"), {"a": (1, None), "b": {"c": 1.5}}, {"a": [1, None], "b": {"c": 1.5}}),
        (field("string"), "\x00\x7f\u2028é🛩\r\n", "\x00\x7f\u2028é🛩\r\n"),
    ],
)
def test_equal_values_have_one_canonical_form(declared: Field, value: Any, canonical: Any) -> None:
    found = codec.validate([declared], {"it": value})["it"]
    assert json.dumps(found) == json.dumps(canonical)
    assert canonical_json(found)
    assert json.dumps(codec.validate([declared], {"it": found})["it"]) == json.dumps(found)


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (field("integer"), True),
        (field("integer"), 3.0),
        (field("integer"), "3"),
        (field("number"), True),
        (field("number"), "3"),
        (field("number"), 2**53 + 1),
        (field("number"), 10**400),
        (field("number", min=0.0), math.nan),
        (field("range", min=0.0), [0.0, "nan"]),
        (field("boolean"), 0),
        (field("selector", options=[1]), True),
        (field("selector", options=["1"]), 1),
        (field("string"), None),
        (field("string"), dt.date(2013, 1, 1)),
        (field("string"), "\ud800"),
        (field("date"), "2013-01-01T00:00:00"),
        (field("date"), dt.datetime(2013, 1, 1)),
        (field("date"), "20130101"),
        (field("datetime"), "2013-01-01T24:00:00"),
        (field("datetime"), "12:00:00"),
        (field("datetime", min="2013-01-01T00:00:00"), "2013-01-01T00:00:00Z"),
        (field("datetime_range"), ["2013-01-01T00:00:00", "2013-01-02T00:00:00Z"]),
        (field("list", items="datetime"), ["2013-01-01"]),
        (field("dict"), {"a": math.nan}),
        (field("dict"), {1: 2}),
        (field("dict"), {"a": {1, 2}}),
        (field("list"), "abc"),
        (field("list", items="integer"), [True]),
        (field("list", items=["integer", "string"]), [True]),
        (field("input"), "a/../b"),
        (field("input"), ""),
        (field("input"), "a\x00b"),
    ],
)
def test_what_would_change_silently_is_refused(declared: Field, value: Any) -> None:
    message(codec.validate, [declared], {"it": value})


@pytest.mark.parametrize("kind", ["boolean", "dict", "list", "range", "selector", "settings", "string", "tuple"])
def test_hostile_values_are_refused_quickly_with_one_line(kind: str) -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    wide = [[0] * 400] * 400
    huge = 10**100_000
    circle: list[Any] = []
    circle.append(circle)
    declared = field(kind, options=["a"], length=2, fields=[])
    begin = time.process_time()
    for value in (deep, {"a": deep}, wide, {"a": wide}, huge, [huge, huge], {"a": huge}, circle, object(), b"x", {1}):
        message(codec.validate, [declared], {"it": value})
        message(codec.encode, declared, value)
    message(codec.validate, [declared], {"x" * 1_000_000: 1})
    assert time.process_time() - begin < 2.0


def test_a_value_may_nest_fifty_levels_and_no_more() -> None:
    value: Any = 1
    for _ in range(49):
        value = [value]
    assert codec.validate([field("dict")], {"it": {"a": value}})["it"] == {"a": value}
    message(codec.validate, [field("dict")], {"it": {"a": [value]}})


def test_values_that_are_no_table_are_refused() -> None:
    for values in ([1], "a", None, 5):
        assert "allowed: a table of names and values" in message(codec.validate, [SAMPLE], values)
    assert "unknown setting 5" in message(codec.validate, [SAMPLE], {5: 1})


# --- defaults ---


def test_validate_fills_in_defaults_in_the_order_of_declaration() -> None:
    full = codec.validate([SAMPLE, MODEL, TOKEN], {"model": {}})
    assert list(full.items()) == [("sample_s", 60.0), ("model", {"depth": 3}), ("token", None)]


DEEP = Field(
    "outer",
    "settings",
    {"model": {"depth": 3}, "name": "a"},
    constraints={"fields": [MODEL.to_json(), Field("name", "string", "a").to_json()]},
)


def test_a_dotted_name_means_what_its_table_means() -> None:
    assert codec.validate([MODEL], {"model.depth": 5}) == {"model": {"depth": 5}}
    expected = {"outer": {"model": {"depth": 5}, "name": "b"}}
    assert codec.validate([DEEP], {"outer.model.depth": 5, "outer.name": "b"}) == expected
    assert codec.validate([DEEP], {"outer": {"model.depth": 5}, "outer.name": "b"}) == expected
    assert codec.validate([DEEP], {"outer.model": {"depth": 5}, "outer": {"name": "b"}}) == expected
    given: dict[str, Any] = {"outer": {"name": "b"}, "outer.model.depth": 5}
    assert codec.validate([DEEP], given) == expected
    assert given == {"outer": {"name": "b"}, "outer.model.depth": 5}


@pytest.mark.parametrize(
    "values",
    [
        {"outer.model.depth": 5, "outer": {"model": {"depth": 5}}},
        {"outer.model.depth": 5, "outer.model": {"depth": 5}},
        {"outer": {"model.depth": 5}, "outer.model": {"depth": 4}},
        {"outer": None, "outer.model.depth": 5},
        {"outer": {"model": None}, "outer.model.depth": 5},
    ],
)
def test_a_setting_in_both_spellings_is_refused(values: dict[str, Any]) -> None:
    said = message(codec.validate, [DEEP], values)
    assert re.fullmatch(
        r"setting 'outer\.model(\.depth)?' is given twice, by its dotted name and in .*; give it once", said
    )


def test_an_unknown_dotted_name_has_a_near_match() -> None:
    assert message(codec.validate, [DEEP], {"outer.model.dept": 5}).endswith("did you mean 'outer.model.depth'?")
    assert message(codec.validate, [DEEP], {"uoter.model.depth": 5}).endswith("did you mean 'outer.model.depth'?")
    assert message(codec.validate, [SAMPLE], {"sample_s.x": 5}).endswith("did you mean 'sample_s'?")


def test_a_wrong_table_is_shown_unless_it_may_hold_a_secret() -> None:
    assert message(codec.validate, [MODEL], {"model": 3}) == "setting 'model' is 3; allowed: a table of depth"
    assert message(codec.validate, [MODEL], {"model": None}) == "setting 'model' is none; allowed: a table of depth"
    guarded = Field("guarded", "settings", {"token": None}, constraints={"fields": [TOKEN.to_json()]})
    above = Field("above", "settings", {"guarded": {"token": None}}, constraints={"fields": [guarded.to_json()]})
    for field_ in (guarded, above):
        said = message(codec.validate, [field_], {field_.name: "hunter2"})
        assert said.startswith(f"setting {field_.name!r} is not what is expected; allowed: a table of ")


def test_what_has_no_value_is_called_none_everywhere() -> None:
    numbers = Field("it", "list", [], constraints={"items": "integer"})
    assert message(codec.validate, [numbers], {"it": [None, True]}).startswith("setting 'it' is [none, true]; ")
    assert message(codec.validate, [SAMPLE], {"sample_s": None}).startswith("setting 'sample_s' is none; ")


def test_a_default_is_never_shared() -> None:
    declared = field("dict", {"a": [1]})
    codec.validate([declared], {})["it"]["a"].append(2)
    assert codec.validate([declared], {}) == {"it": {"a": [1]}}


def test_a_nested_default_is_that_of_the_holder() -> None:
    deeper = codec.with_defaults([MODEL], {"model": {"depth": 7}})
    assert codec.validate(deeper, {}) == {"model": {"depth": 7}}
    assert codec.validate(deeper, {"model": {}}) == {"model": {"depth": 7}}


# --- values ---


def test_decode_gives_declared_types_and_nothing_mutable() -> None:
    fields = [
        MODEL,
        Field("day", "date", "2013-01-31"),
        Field("days", "date_range", ["2013-01-31", "2013-02-01"]),
        Field("at", "datetime", "2013-01-31T12:00:00.000001+02:00"),
        Field("size", "range", [0.0, "inf"]),
        Field("names", "list", ["a"], constraints={"items": "string"}),
        Field("more", "dict", {"a": [{"b": [1]}]}),
        Field("pair", "tuple", [[1, 2], {"a": [1]}], constraints={"length": 2}),
    ]
    made = codec.decode(fields, {"names": ["x", "y"]})
    assert made.model.depth == 3
    assert made.day == dt.date(2013, 1, 31)
    assert made.days == (dt.date(2013, 1, 31), dt.date(2013, 2, 1))
    assert made.at == dt.datetime(2013, 1, 31, 12, 0, 0, 1, dt.timezone(dt.timedelta(hours=2)))
    assert made.size == (0.0, math.inf)
    assert made.names == ("x", "y")
    assert made.pair == ((1, 2), {"a": (1,)})
    assert isinstance(made.more, MappingProxyType)
    assert isinstance(made.more["a"][0], MappingProxyType)
    for setting in ("names", "new"):
        with pytest.raises(AttributeError, match="frozen"):
            setattr(made, setting, 1)
    with pytest.raises(AttributeError, match="frozen"):
        del made.names
    with pytest.raises(AttributeError, match="did you mean 'names'"):
        made.nams  # noqa: B018
    assert not hasattr(made, "nothing")
    assert made == codec.decode(fields, {"names": ["x", "y"]})
    assert made != codec.decode(fields, {})
    assert "names=('x', 'y')" in repr(made)
    assert "names" in dir(made)


def test_a_secret_is_its_text_where_resolved_and_never_in_repr() -> None:
    outer = Field("model", "settings", {"token": None}, constraints={"fields": [TOKEN.to_json()]})
    values = {"token": "env:A", "model": {"token": "file:/b"}}
    made = codec.decode([TOKEN, outer], values, secrets={"model.token": "hunter2"})
    assert (made.token, made.model.token) == ("env:A", "hunter2")
    assert "hunter2" not in repr(made)


def test_encode_takes_python_values() -> None:
    numpy = pytest.importorskip("numpy")
    assert codec.encode(SAMPLE, numpy.float32(0.5)) == 0.5
    assert codec.encode(DEPTH, numpy.int64(5)) == 5
    assert type(codec.encode(DEPTH, numpy.int64(5))) is int
    assert codec.encode(field("list", items="integer"), [numpy.int16(1)]) == [1]
    assert codec.encode(field("path"), PurePosixPath("a/b")) == "a/b"
    assert codec.encode(field("datetime"), numpy.datetime64("2013-01-31T12:00:00", "s")) == "2013-01-31T12:00:00"


# --- text ---


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        (field("integer"), "-3", -3),
        (field("number"), "1e3", 1000.0),
        (field("number"), " nan ", "nan"),
        (field("boolean"), "Yes", True),
        (field("boolean"), "off", False),
        (field("string"), " a ", " a "),
        (field("string"), "none", "none"),
        (field("string", optional=True), "none", None),
        (field("string", optional=True), "\\none", "none"),
        (field("string", optional=True), "\\\\none", "\\none"),
        (field("number", optional=True), "none", None),
        (field("selector", options=["a b", 1, True]), "a b", "a b"),
        (field("selector", options=["a b", 1, True]), "true", True),
        (field("selector", options=[1, "1"]), '"1"', "1"),
        (field("list_selector", options=["UA", "AA"]), "UA,AA", ["UA", "AA"]),
        (field("list", items="string"), "a, b", ["a", "b"]),
        (field("list", items="string"), "", []),
        (field("list", items="string"), '["a,b"]', ["a,b"]),
        (field("list", items="integer"), "1,2", [1, 2]),
        (field("list"), "1,a,true", [1, "a", True]),
        (field("range"), "0,inf", [0.0, "inf"]),
        (field("date_range"), "2013-01-01,2013-01-31", ["2013-01-01", "2013-01-31"]),
        (field("dict"), '{"a": 1}', {"a": 1}),
        (MODEL, '{"depth": 4}', {"depth": 4}),
    ],
)
def test_text_is_read(declared: Field, text: str, value: Any) -> None:
    assert codec.same(codec.parse_text(declared, text), value)


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        (field("list", items="string"), ["a", "b"], "a,b"),
        (field("list", items="string"), ["a,b"], '["a,b"]'),
        (field("list", items="string"), [""], '[""]'),
        (field("list", items="string", optional=True), ["none"], '["none"]'),
        (field("list"), ["1"], '["1"]'),
        (field("selector", options=[1, "1"]), "1", '"1"'),
        (field("selector", options=["none"], optional=True), "none", '"none"'),
        (field("string", optional=True), "none", "\\none"),
        (field("string"), "a\nb", "a\nb"),
        (field("number"), 3.0, "3.0"),
        (field("dict"), {}, "{}"),
        (field("tuple"), [[1], {"a": None}], '[[1], {"a": null}]'),
    ],
)
def test_text_is_written_as_short_as_it_can_be_read_back(declared: Field, value: Any, text: str) -> None:
    assert codec.format_text(declared, value) == text
    assert codec.same(codec.parse_text(declared, text), value)


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (field("integer"), "3.5"),
        (field("integer"), "9" * 5000),
        (field("number"), "1e999"),
        (field("number"), "1" * 5000),
        (field("boolean"), "maybe"),
        (field("list"), "[" * 100_000),
        (field("dict"), '{"a": NaN}'),
        (field("dict"), "{"),
        (field("tuple", length=2), "1,2,3"),
    ],
)
def test_wrong_text_is_refused(declared: Field, text: str) -> None:
    assert message(codec.parse_text, declared, text, where="--it").endswith("(--it)")


def test_values_are_set_and_read_by_dotted_name() -> None:
    values: dict[str, Any] = {}
    codec.set_path(values, "model.depth", 4)
    codec.set_path(values, "sample_s", 1.0)
    assert values == {"model": {"depth": 4}, "sample_s": 1.0}
    assert codec.get_path(values, "model.depth") == 4
    assert codec.get_path({"model": None}, "model.depth") is None
    assert [name for name, _ in codec.leaves([SAMPLE, MODEL])] == ["sample_s", "model.depth"]


# --- declarations as data ---


def test_fields_survive_json() -> None:
    fields = (SAMPLE, MODEL, TOKEN)
    value = json.loads(canonical_json(codec.fields_to_json(fields)))
    assert value["schema"] == "agilab.fields/1"
    assert codec.fields_from_json(value) == fields


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"schema": "agilab.fields/9", "fields": []},
        {"schema": "agilab.fields/1"},
        {"schema": "agilab.fields/1", "fields": [{"name": "a"}]},
        {"schema": "agilab.fields/1", "fields": [{"name": "a", "type": "quaternion"}]},
        {"schema": "agilab.fields/1", "fields": [{"name": "a", "type": ["list"]}]},
        {"schema": "agilab.fields/1", "fields": [{"name": "a", "type": "string", "more": 1}]},
        {"schema": "agilab.fields/1", "fields": [{"name": "a", "type": "settings", "constraints": {"fields": [1]}}]},
        {"schema": "agilab.fields/1", "fields": [{"name": "a", "type": "string", "constraints": 5}]},
    ],
)
def test_declarations_of_another_kind_are_refused(value: Mapping[str, Any]) -> None:
    message(codec.fields_from_json, value)


def test_importing_the_codec_is_cheap_and_needs_only_the_standard_library() -> None:
    code = "import sys, agilab.codec; print(sorted(n for n in sys.modules if n.split('.')[0] in sys.argv[1:]))"
    names = ["param", "numpy", "tomllib", "difflib", "click"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
