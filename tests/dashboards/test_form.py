"""The one form: every type that settings know, never seen by product code, in the words of the shell."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import param
import pytest
from agilab_dashboards import snippets
from agilab_dashboards.form import SettingsForm
from agilab_dashboards.options import ServerOptions
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agilab import codec
from agilab.artifact import KINDS
from agilab.cli.flags import assignments
from agilab.errors import SettingError
from agilab.layers import Layer, Resolved, resolve, settings_layer
from agilab.settings import Input, Secret, Settings
from agilab.toml import read_toml
from agilab.values import same
from tests.checkout import ROOT
from tests.every_setting import Everything


def form_of(cls: type[Settings], **layers: Any) -> SettingsForm:
    fields = cls.fields()
    return SettingsForm(fields, resolve(fields, [Layer(name.replace("_", " "), v) for name, v in layers.items()]))


def field(form: SettingsForm, dotted: str) -> Any:
    """Return the first widget of a setting."""
    return form._rows[dotted].control.widgets[0]


def test_every_type_has_a_widget_that_shows_its_value() -> None:
    form = form_of(Everything)
    assert form.given == {}
    assert form.errors == {}
    assert form.values == codec.validate(Everything.fields(), {})
    assert set(form._rows) == {name for name, _ in codec.leaves(Everything.fields()) if not name.startswith("other_")}


def test_a_wrong_value_is_refused_at_the_field_in_the_words_of_the_shell() -> None:
    form = form_of(Everything)
    field(form, "bounded").value = "11"
    with pytest.raises(SettingError) as said:
        assignments(Everything.fields(), ["bounded=11"], where="")
    assert form.errors == {"bounded": str(said.value)}
    assert field(form, "bounded").error_state
    assert field(form, "bounded").helper_text == str(said.value)
    assert form.values["bounded"] == 3
    field(form, "bounded").value = "7"
    assert form.errors == {}
    assert not field(form, "bounded").error_state
    assert form.given == {"bounded": 7}


def test_a_secret_never_shows_in_an_error() -> None:
    form = form_of(Everything)
    field(form, "secret").value = "hunter2"
    assert "hunter2" not in form.errors["secret"]


def test_a_field_says_its_source_and_can_be_reset() -> None:
    form = form_of(Everything, workspace_file={"integer": 8})
    assert form.source("integer") == ("workspace file", "")
    assert form.source("number") == ("default", "")
    field(form, "integer").value = "9"
    assert form.source("integer") == ("set here", "")
    form.reset("integer")
    assert (field(form, "integer").value, form.source("integer"), form.given) == ("8", ("workspace file", ""), {})


def test_a_slider_and_its_text_follow_each_other() -> None:
    form = form_of(Everything)
    text, slider = form._rows["bounded"].control.widgets
    assert (slider.start, slider.end) == (1, 5)
    slider.value = 4
    assert (text.value, form.given) == ("4", {"bounded": 4})
    text.value = "2"
    assert slider.value == 2
    text.value = "9"  # allowed, though the slider ends before it
    assert (slider.value, form.given) == (2, {"bounded": 9})


def test_nested_settings_are_sections_and_an_optional_one_can_be_set() -> None:
    form = form_of(Everything)
    field(form, "model.depth").value = "7"
    assert form.given == {"model": {"depth": 7}}
    form._toggle(next(f for f in Everything.fields() if f.name == "other_model"), "other_model", True)
    assert form.given["other_model"] == {"depth": 3, "rate": 0.1, "token": None}
    field(form, "other_model.depth").value = "2"
    assert form.values["other_model"]["depth"] == 2


def test_values_of_a_url_are_taken_and_nonsense_in_it_is_not() -> None:
    fields = Everything.fields()
    resolved = resolve(fields, [])
    assert SettingsForm(fields, resolved, {"integer": 5, "model": {"depth": 2}}).given == {
        "integer": 5,
        "model": {"depth": 2},
    }
    assert SettingsForm(fields, resolved, {"integer": "x"}).given == {}
    assert SettingsForm(fields, resolved, {"nobody": 1}).given == {}


def test_a_form_on_new_values_has_nothing_set() -> None:
    form = form_of(Everything)
    field(form, "integer").value = "5"
    form.rebase(Resolved(codec.validate(Everything.fields(), {"integer": 5}), {}))
    assert (form.given, field(form, "integer").value) == ({}, "5")


# --- settings that nobody has seen ----------------------------------------------


def _number(kind: type[param.Number], values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(values, values).map(lambda pair: (kind(pair[0]), pair[1]))


TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)
WHOLE = st.integers(-(10**9), 10**9)
REAL = st.floats(allow_nan=False, allow_infinity=False, width=32).map(float)
DAYS = st.dates(dt.date(1990, 1, 1), dt.date(2100, 1, 1))
NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)


def kinds(options: Sequence[str] = ("a", "b", "c")) -> list[st.SearchStrategy[tuple[Any, Any]]]:
    """Return for each kind of parameter what draws one, and a value that it may have."""
    options = list(options)
    ranges = st.tuples(DAYS, DAYS).map(lambda pair: (min(pair), max(pair)))
    spans = st.tuples(REAL, REAL).map(lambda pair: (min(pair), max(pair)))
    return [
        _number(param.Integer, WHOLE),
        _number(param.Number, REAL),
        st.tuples(WHOLE, st.integers(0, 9)).map(lambda p: (param.Integer(3, bounds=(0, 9), allow_None=True), p[1])),
        st.tuples(TEXT, TEXT).map(lambda pair: (param.String(pair[0]), pair[1])),
        st.booleans().map(lambda value: (param.Boolean(not value), value)),
        st.sampled_from(options).map(lambda value: (param.Selector(objects=options), value)),
        st.lists(st.sampled_from(options), unique=True).map(lambda v: (param.ListSelector([], objects=options), v)),
        DAYS.map(lambda value: (param.CalendarDate(dt.date(2013, 1, 1)), value)),
        ranges.map(lambda value: (param.CalendarDateRange((dt.date(2013, 1, 1), dt.date(2013, 2, 1))), value)),
        spans.map(lambda value: (param.Range((0.0, 1.0)), value)),
        st.lists(WHOLE, max_size=4).map(lambda value: (param.List([1], item_type=int), value)),
        st.lists(TEXT, max_size=4).map(lambda value: (param.List(["a"], item_type=str), value)),
        st.dictionaries(TEXT, WHOLE, max_size=3).map(lambda value: (param.Dict({}), value)),
        st.just((param.Color("#1f77b4"), "#00ff00")),
        st.just((Secret(None), "env:TOKEN")),
        st.just((Input("a/*.csv"), "b/**/*.txt")),
        st.just((param.Foldername(None, allow_None=True), "some/folder")),
    ]


@st.composite
def declarations(draw: st.DrawFn) -> tuple[Any, Any]:
    """Draw a parameter, and a value that it may have."""
    return draw(st.one_of(kinds(draw(NAMES))))


def put(form: SettingsForm, dotted: str, value: Any) -> None:
    """Do what a user does to set a value: type its text, or choose it."""
    control = form._rows[dotted].control
    widget = control.widgets[0]
    values = getattr(control, "values", None)
    if values is None:
        widget.value = value if isinstance(widget.value, bool) else codec.format_text(control.field, value)
    elif isinstance(widget.value, list):
        widget.value = [str(values.index(item)) for item in value]
    else:
        widget.value = str(next(i for i, one in enumerate(values) if same(one, value)))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.lists(declarations(), min_size=1, max_size=5))
def test_a_settings_class_of_any_types_gives_a_form_that_says_the_same_in_every_way(
    drawn: list[tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    body = {f"one_{number}": parameter for number, (parameter, _) in enumerate(drawn)}
    cls: Any = type(Settings)("Drawn", (Settings,), body)
    fields = cls.fields()
    wanted = {field.name: codec.encode(field, value) for field, (_, value) in zip(fields, drawn, strict=True)}
    form = SettingsForm(fields, resolve(fields, []))
    for name, value in wanted.items():
        put(form, name, value)
    assert form.errors == {}
    assert same(form.values, wanted)

    file = tmp_path_factory.mktemp("toml") / "app_settings.toml"
    file.write_text(snippets.toml({"settings": (fields, form.given)}))
    assert same(resolve(fields, [settings_layer("workspace file", read_toml(file))]).values, wanted)

    words = shlex.split(snippets.shell("app", {"settings": (fields, form.given)}))
    assert same(codec.fill(fields, _from_flags(fields, words[3:])), wanted)

    given_in_python = _Recorder()
    text = snippets.python("app", form.given, {}).partition("\n")[2]
    exec(text, {"AGI": given_in_python, "AgiEnv": lambda app: given_in_python})
    assert same(codec.validate(fields, given_in_python.values), wanted)


class _Recorder:
    """Stands for `AGI` and an environment, and keeps what a request was given."""

    values: Any = None

    def request(self, values: Any = None, cluster: Any = None) -> None:
        self.values = values or {}

    def run(self, env: Any, request: None) -> Any:
        return self

    def check(self) -> None:
        """Be a run that succeeded."""


def _from_flags(fields: Any, words: list[str]) -> dict[str, Any]:
    """Read flags as `agilab run` does."""
    import click

    from agilab.cli.flags import SETTINGS, options

    command = click.Command("run", params=list(options(fields, SETTINGS)))
    command.params.append(click.Option(["--set", "sets"], multiple=True))
    with command.make_context("run", words) as context:
        return {**context.meta.get(SETTINGS, {}), **assignments(fields, context.params["sets"])}


def test_no_file_of_the_server_names_a_setting_of_an_app() -> None:
    names = set()
    for path in (ROOT / "apps").glob("*/src/*/__init__.py"):
        names |= set(re.findall(r"^\s+(\w+) = param\.", path.read_text(), re.M))
    assert {"sample_s", "cell_km"} <= names
    columns = {column for kind in KINDS.values() for column in kind.columns or ()}
    names -= {"partitions", "variable", *columns}  # also words of ours
    text = "\n".join(path.read_text() for path in (ROOT / "dashboards").rglob("*.py"))
    assert [name for name in sorted(names) if re.search(rf"(?<!matplotlib)['\".]{name}\b", text)] == []


def test_the_server_options_are_a_form_too() -> None:
    form = form_of(ServerOptions)
    field(form, "port").value = "70000"
    assert "65535" in form.errors["port"]
    form.reset()
    field(form, "port").value = "8000"
    assert snippets.options_command(ServerOptions.fields(), form.given) == "agilab serve --port 8000"


def test_the_command_in_the_form_is_one_that_the_shell_takes(home: Path) -> None:
    from agilab_dashboards.command import serve_command

    done = CliRunner().invoke(serve_command, ["--port", "8000", "--print-app"])
    assert done.exit_code == 0
    assert Path(done.output.strip()).is_file()
