"""The pages as a user has them: a real browser on a real server, from choosing an app to looking at what a run left."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from agilab import AgiEnv, Stage, WorkPlan
from agilab.run import RunStore
from agilab.testing import do
from tests.dashboards.conftest import START_S, Served, Visitor, visitor

LONG_MS = 1000 * START_S
WaitFor = Callable[..., Any]


def text_of(page: Page, text: str | re.Pattern[str]) -> Any:
    return page.get_by_text(text).first


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click(timeout=LONG_MS)


def env_of(server: Served) -> AgiEnv:
    return AgiEnv("squares", apps_path=server.folder / "apps", home=server.home, wenv=server.folder / "wenv")


def test_the_review_of_a_notebook_is_shown_before_anything_is_made(server: Served, visit: Visitor) -> None:
    said = "# %% [markdown]\n# # Dice <img src=x>\n# %%\nTHROWS = 10  # how often\n# %%\nprint(THROWS)\n"
    (server.folder / "dice.py").write_text(said)
    page = visit.open("?page=project")
    field = page.get_by_label("Notebook or percent script")
    make = page.get_by_role("button", name="Make the app")
    field.fill("../dice.py")
    field.press("Tab")
    press(page, "Look at it")
    expect(text_of(page, "is no notebook or script in")).to_be_visible(timeout=LONG_MS)
    field.fill("dice.py")
    field.press("Tab")
    press(page, "Look at it")
    expect(page.locator("[data-review=dice]")).to_contain_text("throws", timeout=LONG_MS)
    expect(make).to_be_enabled()
    assert not (server.folder / "dice_project").exists()
    make.click()
    expect(text_of(page, "not trusted")).to_be_visible(timeout=LONG_MS)
    assert (server.folder / "dice_project" / "REVIEW.md").is_file()
    expect(make).to_be_disabled()
    assert visit.fits_900()


def test_from_choosing_an_app_to_what_its_run_left(server: Served, visit: Visitor) -> None:
    page = visit.open("?page=orchestrate")
    page.get_by_role("link", name=re.compile("^squares")).click()
    count = page.get_by_label("Count [numbers]")
    count.fill("0")
    count.press("Tab")
    expect(text_of(page, "setting 'count' is 0; allowed: a whole number >= 1")).to_be_visible(timeout=LONG_MS)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    count.fill("5000")
    count.press("Tab")
    expect(page.locator('[data-setting=count][data-source="set here"]')).to_be_visible()

    page.get_by_text("The same as TOML, shell or Python").click()
    expect(text_of(page, "agilab run squares --count 5000")).to_be_visible()

    press(page, "Show the plan")
    digest = page.locator("[data-digest]").get_attribute("data-digest", timeout=LONG_MS)
    assert digest == env_of(server).request({"count": 5000}).digest

    press(page, "Run")
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LONG_MS)
    run = RunStore(env_of(server).home).get("squares/last")
    assert run.check().manifest["request"]["digest"] == digest
    assert run.metrics["total"] == sum(n * n for n in range(5000))

    page.get_by_role("link", name="See what it left").click()
    expect(text_of(page, "41,654,167,500")).to_be_visible(timeout=LONG_MS)
    press(page, "Verify")
    expect(page.locator("[data-verified=yes]")).to_be_visible(timeout=LONG_MS)
    page.get_by_role("tab", name="Settings").click()
    expect(text_of(page, "caller")).to_be_visible()
    page.get_by_role("tab", name="Artifacts").click()
    expect(text_of(page, "total")).to_be_visible()
    page.go_back()  # each tab that was opened is a step of its own
    expect(page.get_by_role("tab", name="Settings")).to_have_attribute("aria-selected", "true", timeout=LONG_MS)
    page.evaluate("history.go(-2)")
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LONG_MS)


def test_a_reload_keeps_what_was_set_and_two_sessions_do_not_meet(
    server: Served, context: BrowserContext, visit: Visitor
) -> None:
    other = visitor(server, context)
    query = "?" + urlencode({"page": "orchestrate", "app": "squares"})
    mine, theirs = visit.open(query).get_by_label("Count [numbers]"), other.open(query).get_by_label("Count [numbers]")
    mine.fill("77")
    mine.press("Tab")
    theirs.fill("88")
    theirs.press("Tab")
    expect(other.page).to_have_url(re.compile("88"), timeout=LONG_MS)
    expect(visit.page).to_have_url(re.compile("77"), timeout=LONG_MS)
    visit.page.reload()
    expect(visit.page.get_by_label("Count [numbers]")).to_have_value("77", timeout=LONG_MS)
    expect(theirs).to_have_value("88")
    other.page.close()
    assert other.complaints == []


@pytest.fixture
def waiting(server: Served, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Return the query of a run that waits for a file, and the file."""
    file = tmp_path / "go"
    steps = [do(f"p{number}", ["print", f"hello from p{number}"], ["wait", str(file)]) for number in range(3)]
    settings = {"plan": WorkPlan((Stage("first", tuple(steps)),)).to_json()}
    yield "?" + urlencode({"page": "orchestrate", "app": "probe", "settings": json.dumps(settings)}), file
    file.touch()


def test_a_run_outlives_the_server_and_the_page_finds_it_again_to_cancel_and_resume_it(
    server: Served, visit: Visitor, waiting: tuple[str, Path], wait_for: WaitFor
) -> None:
    query, file = waiting
    page = visit.open(query)
    press(page, "Run")
    expect(page.locator("[data-state=running]")).to_be_visible(timeout=LONG_MS)
    expect(text_of(page, "hello from p")).to_be_visible(timeout=LONG_MS)
    visit.page.goto("about:blank")
    port = int(server.host.rpartition(":")[2])
    server.stop(signal.SIGKILL)
    run = RunStore(env_of(server).home).get("probe/last")
    server.start(port=port)
    assert run.state == "running"
    visit.open("?page=orchestrate&app=probe")  # the same cookie, no run named
    expect(page.locator("[data-state=running]")).to_be_visible(timeout=LONG_MS)
    press(page, "Cancel")
    expect(page.locator("[data-state=cancelled]")).to_be_visible(timeout=LONG_MS)
    file.touch()
    press(page, "Resume")
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LONG_MS)


def test_machine_and_hosts_are_checked_with_what_mends_them(visit: Visitor) -> None:
    visit.page.set_viewport_size({"width": 1440, "height": 500})
    page = visit.open("?page=orchestrate&app=squares")
    page.get_by_text("Where it runs").click()
    expect(page.locator("[data-setting=timeout_s]")).to_be_visible(timeout=LONG_MS)
    page.get_by_text("Is everything ready for it?").click()  # what is unfolded lies over nothing, in a low window
    press(page, "Check this machine")
    expect(page.locator("[data-ready=yes]")).to_be_visible(timeout=LONG_MS)
    expect(text_of(page, "AGILAB_HOME locks")).to_be_visible()
    page.get_by_label("Hosts", exact=True).fill("nowhere.invalid")
    press(page, "Check hosts")
    expect(page.locator("[data-ready=no]")).to_contain_text("1 host not ready", timeout=LONG_MS)


def test_a_service_is_started_used_and_stopped_from_the_page(server: Served, visit: Visitor) -> None:
    page = visit.open("?page=orchestrate&app=squares")
    page.get_by_text("Keep it warm: a service").click()
    expect(page.locator("[data-service=stopped]")).to_be_visible(timeout=LONG_MS)
    assert visit.fits_900()
    press(page, "Start the service")
    expect(page.locator("[data-service=running]")).to_contain_text("workers can work", timeout=LONG_MS)
    press(page, "Send it these settings")
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LONG_MS)
    assert RunStore(server.home_paths).get("last").state == "succeeded"
    press(page, "Stop the service")
    expect(page.locator("[data-service=stopped]")).to_be_visible(timeout=LONG_MS)


def test_markup_in_a_name_is_text(server: Served, visit: Visitor) -> None:
    page = visit.open("?" + urlencode({"page": "orchestrate", "app": "<img src=x onerror=alert(1)>"}))
    expect(page.get_by_role("alert").first).to_contain_text("no app project '<img", timeout=LONG_MS)
    assert page.locator("img[src=x]").count() == 0


def test_settings_are_kept_for_the_shell_too(server: Served, visit: Visitor) -> None:
    page = visit.open("?page=project&app=squares")
    assert visit.fits_900()
    page.get_by_role("tab", name="Settings").click()
    field = page.get_by_label("Partitions").first
    field.fill("6")
    field.press("Tab")
    press(page, "Keep as my settings")
    expect(text_of(page, "Kept in")).to_be_visible(timeout=LONG_MS)
    assert env_of(server).settings().values["partitions"] == 6


def test_dark_pages_are_remembered(visit: Visitor) -> None:
    page = visit.open("?page=settings")
    light = "getComputedStyle(document.body).backgroundColor == 'rgb(255, 255, 255)'"
    page.get_by_role("button", name=re.compile("theme", re.I)).click()
    page.wait_for_function(f"!({light})")
    assert visit.fits_900()
    visit.open("?page=home")
    assert visit.fits_900()
    assert not page.evaluate(light)
    page.get_by_role("button", name=re.compile("theme", re.I)).click()
    page.wait_for_function(light)
