"""Declared settings as flags."""

from __future__ import annotations

from typing import Any

import click
import pytest

from agilab import codec
from agilab.cli import flags
from agilab.cli.flags import CLUSTER, SETTINGS, Chosen, DeclaredCommand
from agilab.codec import Field
from agilab.errors import SettingError

MODEL = [
    Field("depth", "integer", 3, "How deep.", "layers", {"min": 1}).to_json(),
    Field("fast", "boolean", False, "Whether to hurry.").to_json(),
]
FIELDS = (
    Field("sample_s", "number", 60.0, "Time between samples.", "s", {"min": 0, "min_exclusive": True}),
    Field("title", "string", "", "What it is called"),
    Field("origins", "list_selector", ["EWR"], "Airports", "", {"options": ["EWR", "JFK"]}),
    Field("limit", "integer", None, "A bound", "", {"optional": True}),
    Field("loud", "boolean", True, "Whether to log"),
    Field("when", "date_range", ["2013-01-01", "2013-01-02"], "Days"),
    Field("token", "secret", None, "A key", "", {"optional": True}),
    Field("seed", "integer", 1, "A setting that is called like a flag"),
    Field("model", "settings", {"depth": 3, "fast": False}, "The model", "", {"fields": MODEL}),
)


class Command(DeclaredCommand):
    """A command on one app, known beforehand."""

    @staticmethod
    def choose(app: str | None, before: dict[str, str]) -> Chosen | None:
        settings = flags.options(FIELDS, SETTINGS, taken=("--seed",))
        return None if app is None else Chosen(app, f"Settings of {app}", settings)


@click.command("run", cls=Command)
@click.argument("app", required=False, expose_value=False)
@click.option("--seed", type=int)
@click.option("--request")
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def command(ctx: click.Context, *, seed: int | None, request: str | None, as_json: bool) -> dict[str, Any]:
    """Do something."""
    return ctx.meta.get(SETTINGS, {})


def given(*words: str) -> Any:
    """Return the settings that some words give."""
    return command.main(list(words), prog_name="run", standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ((), {}),
        (("--sample-s", "30"), {"sample_s": 30.0}),
        (("--sample-s=30",), {"sample_s": 30.0}),
        (("--title", "-1 is fine"), {"title": "-1 is fine"}),
        (("--title", ""), {"title": ""}),
        (("--origins", "EWR,JFK"), {"origins": ["EWR", "JFK"]}),
        (("--origins", '["JFK"]'), {"origins": ["JFK"]}),
        (("--limit", "none"), {"limit": None}),
        (("--loud",), {"loud": True}),
        (("--no-loud",), {"loud": False}),
        (("--when", "2013-01-01,2013-02-01"), {"when": ["2013-01-01", "2013-02-01"]}),
        (("--model.depth", "4", "--model.fast"), {"model": {"depth": 4, "fast": True}}),
        (("--no-model.fast",), {"model": {"fast": False}}),
        (("--seed", "5"), {}),
    ],
)
def test_a_flag_sets_its_setting(words: tuple[str, ...], values: dict[str, Any]) -> None:
    assert given("app", *words) == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sample-s", "-1"), "setting 'sample_s' is -1.0; allowed: a number > 0 [s] (--sample-s)"),
        (("--model.depth", "x"), "setting 'model.depth' is 'x'; allowed: a whole number >= 1 [layers] (--model.depth)"),
    ],
)
def test_a_wrong_value_is_the_sentence_of_the_codec(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        given("app", *words)
    assert str(caught.value) == message


def test_a_secret_that_is_no_reference_is_not_repeated() -> None:
    with pytest.raises(SettingError) as caught:
        given("app", "--token", "hunter2")
    assert "hunter2" not in str(caught.value)


def test_options_of_the_command_may_come_before_the_app() -> None:
    assert given("--seed", "3", "--json", "--request=x", "app", "--title", "t") == {"title": "t"}


def test_a_setting_before_the_app_is_refused() -> None:
    with pytest.raises(click.NoSuchOption):
        given("--title", "t", "app")


def test_a_near_miss_is_named() -> None:
    with pytest.raises(click.NoSuchOption) as caught:
        given("app", "--sampel-s", "3")
    assert caught.value.possibilities == ["--sample-s"]


def test_help_shows_doc_unit_bounds_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    given("app", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "Settings of app:" in text
    assert "--sample-s NUMBER Time between samples; a number > 0 [s]; default: 60.0" in text
    assert "--loud / --no-loud Whether to log; true or false; default: true" in text
    assert "--model.depth INTEGER How deep; a whole number >= 1 [layers]; default: 3" in text
    assert "A setting that is called like a flag" not in text


def test_words_of_an_app_cannot_command_the_terminal() -> None:
    setting = Field("x", "string", "\x1b[2J", "Doc \x1b]0;owned\x07")
    assert flags.describe(setting) == "Doc \\x1b]0;owned\\x07; text; default: \\x1b[2J"


def test_help_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    given("app", "--help")
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_assignments_reach_every_setting() -> None:
    found = flags.assignments(FIELDS, ["seed=4", "model.depth=5", "limit=none", "title=a=b"])
    assert found == {"seed": 4, "model": {"depth": 5}, "limit": None, "title": "a=b"}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("seed", "'seed' sets nothing; write name=value, such as sample_s=..."),
        ("sede=4", "unknown setting 'sede'; did you mean 'seed'? (--set)"),
        ("seed=x", "setting 'seed' is 'x'; allowed: a whole number (--set)"),
    ],
)
def test_a_wrong_assignment_is_refused(pair: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        flags.assignments(FIELDS, [pair])
    assert str(caught.value) == message


def test_every_cluster_option_has_a_flag() -> None:
    from agilab.request import ClusterOptions

    made = {option.opts[0] for option in flags.options(ClusterOptions.fields(), CLUSTER)}
    assert made == {f"--{name.replace('_', '-')}" for name, _ in codec.leaves(ClusterOptions.fields())}
