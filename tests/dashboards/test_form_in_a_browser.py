"""The form in a real browser: a settings class of every type, drawn by hypothesis, set field by field, and saved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
import pytest
from agilab_dashboards.chooser import Chooser, entries, inside
from agilab_dashboards.fields import label
from agilab_dashboards.form import SettingsForm
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from panel.io.server import get_server
from playwright.sync_api import Browser, Page

from agilab import codec
from agilab.layers import resolve, settings_layer, write_toml
from agilab.settings import Settings
from agilab.toml import read_toml
from agilab.values import same
from tests.dashboards.conftest import START_S
from tests.dashboards.test_form import kinds

LONG_MS = 1000 * START_S


WaitFor = Callable[..., Any]


class _Shown:
    """The form that the server shows just now."""

    form: SettingsForm | None = None


@pytest.fixture(scope="module")
def shown() -> Iterator[tuple[_Shown, str]]:
    """Return what is shown, and where."""
    place = _Shown()
    pn.extension(notifications=False)
    ready = threading.Event()
    found: dict[str, Any] = {}

    def work() -> None:
        from tornado.ioloop import IOLoop

        found["loop"] = IOLoop()
        server = get_server(lambda: pmui.Page(main=[place.form]), port=0, loop=found["loop"], show=False, start=False)
        server.start()
        found["url"] = f"http://localhost:{server.port}/"
        found["loop"].add_callback(ready.set)
        found["loop"].start()
        server.stop()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(START_S)
    yield place, found["url"]
    found["loop"].add_callback(found["loop"].stop)
    thread.join()
    pn.state.kill_all_servers()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 4000})
    context.set_default_timeout(LONG_MS)
    yield context.new_page()
    context.close()


def put(page: Page, form: SettingsForm, dotted: str, value: Any) -> None:
    """Do what a user does to set a value."""
    control = form._rows[dotted].control
    widget, name = control.widgets[0], label(control.field)
    values = getattr(control, "values", None)
    if isinstance(widget, pmui.Switch):
        page.get_by_label(name, exact=True).set_checked(value)
    elif values is None:
        field = page.get_by_role("textbox", name=name, exact=True)
        field.fill(codec.format_text(control.field, value))
        field.blur()
    else:
        wanted = value if isinstance(widget.value, list) else [value]
        texts = {place: text for text, place in widget.options.items()}
        page.get_by_role("combobox", name=name, exact=True).click()
        for one in wanted:
            place = next(str(i) for i, each in enumerate(values) if same(each, one))
            page.get_by_role("listbox").get_by_text(texts[place], exact=True).click()
        if isinstance(widget.value, list):
            page.keyboard.press("Escape")
        page.get_by_role("listbox").wait_for(state="hidden")


@seed(5)
@settings(
    max_examples=2, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(drawn=st.tuples(*kinds()))
def test_every_field_of_any_class_is_set_in_the_browser_and_saved_as_it_was_meant(
    drawn: tuple[tuple[Any, Any], ...],
    shown: tuple[_Shown, str],
    page: Page,
    wait_for: WaitFor,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place, url = shown
    body = {f"one_{number}": parameter for number, (parameter, _) in enumerate(drawn)}
    cls: Any = type(Settings)("Drawn", (Settings,), body)
    fields = cls.fields()
    wanted = {field.name: codec.encode(field, value) for field, (_, value) in zip(fields, drawn, strict=True)}
    place.form = form = SettingsForm(fields, resolve(fields, []))
    page.goto(url)
    page.get_by_text("one_0", exact=True).wait_for()
    for name, value in wanted.items():
        put(page, form, name, value)
    wait_for(lambda: same(codec.fill(fields, form.given), wanted) or form.errors, START_S)
    assert form.errors == {}

    file = tmp_path_factory.mktemp("toml") / "app_settings.toml"
    write_toml(file, fields, dict(form.given))
    saved = resolve(fields, [settings_layer("workspace file", read_toml(file))]).values
    assert {name: value for name, value in saved.items() if not same(value, wanted[name])} == {}
    for field, (_, value) in zip(fields, drawn, strict=True):
        assert same(codec.encode(field, codec.decode_value(field, saved[field.name])), codec.encode(field, value))


# --- choosing files -------------------------------------------------------------


def test_a_chooser_shows_what_is_inside_its_roots_and_nothing_else(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "deep", outside):
        folder.mkdir(parents=True)
    for file in (root / "a.csv", root / ".hidden", root / "deep" / "b.csv", outside / "secret"):
        file.touch()
    (root / "way out").symlink_to(outside)
    assert entries(root, [root], folders_only=False) == ["deep/", "a.csv"]
    assert entries(root, [root], folders_only=True) == ["deep/"]
    assert entries(outside, [root], folders_only=False) == []
    assert not inside(root / ".." / "outside", [root])

    took: list[Path] = []
    chooser = Chooser([root], took.append, folders_only=False)
    chooser._open(None)
    for name in ("../outside/secret", "way out/secret", str(outside / "secret"), ".."):
        chooser._list.options = [*chooser._list.options, name]
        chooser._list.value = name  # as a forged message would
    assert took == []
    chooser._list.value = "deep/"
    assert "b.csv" in chooser._list.options
    chooser._list.value = "b.csv"
    assert took == [root / "deep" / "b.csv"]
