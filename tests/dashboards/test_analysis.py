"""ANALYSIS and WORKFLOW as a user has them: runs found, tagged, compared, looked at; stages followed and resumed."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Locator, Page, expect

from agilab import AGI, AgiEnv, Stage, WorkPlan
from agilab.owner import hold_owner
from agilab.run import Run
from agilab.sidecar import read_tags
from agilab.template import create
from agilab.testing import do
from tests.dashboards.conftest import START_S, Served, Visitor
from tests.dashboards.own_views import weather, weather_run
from tests.dashboards.seen_run import ROWS, numbers, seen_run, table_bytes
from tests.run_folder import RunFolder

LONG_MS = 1000 * START_S
RANGE = """() => { const shown = Bokeh.documents.flatMap(one => one.roots()).flatMap(root => [...root.references()])
  const figure = shown.find(one => one.type == 'Figure')
  return figure ? figure.x_range.end - figure.x_range.start : 0 }"""


@pytest.fixture(scope="package")
def runs(server: Served) -> tuple[Run, Run]:
    """Return two sealed runs of an app that need not be there."""
    return tuple(seen_run(server.home, moment=1_700_000_000.0 + seed, seed=seed) for seed in (0, 1))  # type: ignore[return-value]


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click(timeout=LONG_MS)


def choose(page: Page, label: str, text: str) -> None:
    page.get_by_label(label, exact=True).click(timeout=LONG_MS)
    page.locator("li", has_text=text).click()


def link(page: str, **state: str) -> str:
    return "?" + urlencode({"page": page, **state})


def test_runs_are_found_and_compared(visit: Visitor, runs: tuple[Run, Run]) -> None:
    page = visit.open(link("analysis", app="flights", setting="sample_s>60"))
    expect(page.get_by_text("1 of 2 runs")).to_be_visible(timeout=LONG_MS)
    field = page.get_by_label("Settings")
    field.fill("sample_s")
    field.press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("is no condition", timeout=LONG_MS)
    field.fill("")
    field.press("Tab")
    expect(page.locator(".tabulator-row")).to_have_count(2, timeout=LONG_MS)
    assert visit.fits_900()
    ticks = page.locator(".tabulator-row input[type=checkbox]")
    ticks.nth(0).click()
    ticks.nth(1).click()
    page.get_by_role("link", name="Compare").click(timeout=LONG_MS)
    expect(page.locator("[data-differ=yes]")).to_be_visible(timeout=LONG_MS)
    expect(page.get_by_role("row", name=re.compile("sample_s.*60.*61"))).to_be_visible()
    expect(page.locator(".bk-Figure")).to_have_count(3, timeout=LONG_MS)  # A, B, and one less the other
    assert visit.fits_900()


def test_a_run_is_tagged_beside_its_record(visit: Visitor, runs: tuple[Run, Run]) -> None:
    page = visit.open(link("analysis", app="flights", run=runs[1].run_id, tab="Manifest"))
    tags = page.get_by_label("Tags")
    tags.fill("baseline")
    tags.press("Tab")
    press(page, "Keep")
    expect(page.get_by_text("Kept beside the record")).to_be_visible(timeout=LONG_MS)
    assert read_tags(runs[1].paths).tags == ("baseline",)


def select(page: Page, figure: int, shown: Locator) -> None:
    """Draw a box in a figure until something is shown: one that is drawn anew under the pointer takes no box."""
    drag(page, figure)
    try:
        expect(shown).to_be_visible(timeout=LONG_MS / 4)
    except AssertionError:
        drag(page, figure)
        expect(shown).to_be_visible(timeout=LONG_MS)


def drag(page: Page, figure: int) -> None:
    """Draw a box in the middle of a figure."""
    box = page.locator(".bk-Figure:visible").nth(figure).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    page.mouse.up()


def test_a_view_is_zoomed_and_its_url_keeps_everything(visit: Visitor, runs: tuple[Run, Run]) -> None:
    page = visit.open(link("analysis", app="flights", run=runs[0].run_id))
    expect(page.locator("[data-rows='10000']")).to_be_visible(timeout=LONG_MS)
    page.wait_for_function(RANGE)
    before = page.evaluate(RANGE)
    page.locator(".bk-Figure").first.hover()
    page.mouse.wheel(0, -400)
    expect(page).to_have_url(re.compile("zoom="), timeout=LONG_MS)
    page.get_by_text("Controls", exact=True).click()
    choose(page, "Colour", "carrier")
    expect(page).to_have_url(re.compile("carrier"), timeout=LONG_MS)
    page.reload()
    page.wait_for_function(f"() => {{ const now = ({RANGE})(); return now > 0 && now < 0.95 * {before} }}")
    press(page, "Whole extent")
    page.wait_for_function(f"() => Math.abs(({RANGE})() / {before} - 1) < 0.1")
    expect(page).not_to_have_url(re.compile("zoom="))
    expect(page).to_have_url(re.compile("carrier"))


def test_a_box_tells_its_rows_and_shows_them_on_linked_views(visit: Visitor, runs: tuple[Run, Run]) -> None:
    page = visit.open(link("analysis", app="flights", run=runs[0].run_id, controls='{"colour": "carrier"}'))
    expect(page.locator("[data-rows='10000']")).to_be_visible(timeout=LONG_MS)
    page.locator(".bk-Figure").first.hover()
    page.mouse.wheel(0, -400)  # categories are drawn anew too
    expect(page.locator("[data-rows]:not([data-rows='10000'])")).to_be_visible(timeout=LONG_MS)
    page.get_by_title("Box Select").first.click()
    select(page, 0, page.locator("[data-selected]:not([data-selected='0'])"))
    page.get_by_role("tab", name="Linked").click()
    expect(page.locator("[data-brushed='10000']")).to_be_visible(timeout=LONG_MS)
    for figure in (1, 0):
        before = page.locator("[data-brushed]").get_attribute("data-brushed")
        select(page, figure, page.locator(f"[data-brushed]:not([data-brushed='{before}'])"))
    page.reload()
    expect(page.get_by_text(re.compile("of 10,000 rows where height = .*; x = "))).to_be_visible(timeout=LONG_MS)


def test_a_view_of_a_run_that_goes_on_fills_in_as_partitions_commit(server: Served, visit: Visitor) -> None:
    made = RunFolder(server.home, app="rivers", partitions=2)
    with hold_owner(made.paths):
        page = visit.open(link("analysis", app="rivers", run=made.paths.run_id))
        expect(page.get_by_text("Nothing has committed yet")).to_be_visible(timeout=LONG_MS)
        for number, name in enumerate(made.tracks):
            files = {"points": table_bytes(numbers(number))}
            made.commit("tracks", name, files=files, kinds={"points": "points"})
            expect(page.locator(f"[data-rows='{ROWS * (number + 1)}']")).to_be_visible(timeout=LONG_MS)
        made.plan()
        made.prepare()
        made.commit("summary", "summary", files={"note": b"said\n"})
        made.seal()
    expect(page.get_by_text("so far, more as they commit")).to_have_count(0, timeout=LONG_MS)
    assert page.get_by_role("alert").count() == 0


def test_an_app_has_views_of_its_own_and_one_that_fails_leaves_the_rest(server: Served, visit: Visitor) -> None:
    weather(server.folder / "apps")
    run = weather_run(server.home)
    page = visit.open(link("analysis", app="weather", run=run.run_id))
    expect(page.locator(".bk-Figure")).to_be_visible(timeout=LONG_MS)
    for name, error in (("Odd", "ValueError"), ("Leaky", "ZeroDivisionError")):
        choose(page, "View", name)
        said = page.get_by_role("alert")
        expect(said).to_contain_text(f"weather.{name.lower()} raised {error}", timeout=LONG_MS)
    expect(page.get_by_role("tab", name="Manifest")).to_be_visible()


def test_artifacts_of_every_kind_are_shown(visit: Visitor, runs: tuple[Run, Run]) -> None:
    page = visit.open(link("analysis", app="flights", run=runs[1].run_id, data="tracks/points", view="timeseries"))
    expect(page.locator(".bk-Figure")).to_be_visible(timeout=LONG_MS)
    for chosen, figures in (
        ({"Artifacts": "summary/rows", "View": "Table"}, 0),
        ({"Artifacts": "summary/grid", "View": "Field"}, 1),
        ({"View": "Table"}, 0),
        ({"Artifacts": "summary/chart"}, 1),
    ):
        for label, text in chosen.items():
            choose(page, label, text)
        expect(page.locator(".bk-Figure")).to_have_count(figures, timeout=LONG_MS)
        expect(page.locator(".tabulator")).to_have_count(1 - figures, timeout=LONG_MS)
        expect(page.get_by_role("alert")).to_have_count(0)


def test_a_stage_is_looked_into_and_the_back_button_leads_back(visit: Visitor, runs: tuple[Run, Run]) -> None:
    page = visit.open(link("workflow", app="flights", run=runs[0].run_id))
    stage = page.locator("[data-stage=summary]")
    expect(stage).to_have_attribute("data-state", "committed", timeout=LONG_MS)
    stage.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("stage=summary"), timeout=LONG_MS)
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.get_by_text("grid", exact=True)).to_be_visible(timeout=LONG_MS)
    page.go_back()  # loads the page by what its URL keeps
    expect(page.locator("[data-stage=summary]")).to_have_attribute("aria-pressed", "true", timeout=LONG_MS)
    expect(page.get_by_role("tab", name="Plan")).to_have_attribute("aria-selected", "true", timeout=LONG_MS)


def test_stages_are_followed_cancelled_and_resumed(server: Served, visit: Visitor, tmp_path: Path) -> None:
    file = tmp_path / "go"
    plan = WorkPlan(
        (
            Stage("first", (do("p", ["print", "hello"]),)),
            Stage("second", (do("q", ["wait", str(file)]),), after="first"),
        )
    )
    env = AgiEnv("probe", apps_path=server.folder / "apps", home=server.home, wenv=server.folder / "wenv")
    AGI.submit(env, env.request({"plan": plan.to_json()}))
    page = visit.open(link("workflow", app="probe"))
    state = page.locator("[data-stage=second]")
    expect(state).to_have_attribute("data-state", "running", timeout=LONG_MS)
    press(page, "Cancel")
    expect(state).to_have_attribute("data-state", "cancelled", timeout=LONG_MS)
    expect(page.locator("[data-stage=first]")).to_have_attribute("data-state", "committed")
    file.touch()
    press(page, "Resume")
    expect(state).to_have_attribute("data-state", "committed", timeout=LONG_MS)


def test_what_is_empty_is_said_and_fits_900_pixels(server: Served, visit: Visitor) -> None:
    create("never_run", server.folder / "apps")
    page = visit.open(link("analysis", app="never_run"))
    expect(page.get_by_text("No runs yet")).to_be_visible(timeout=LONG_MS)
    assert visit.fits_900()
    visit.open(link("workflow", app="squares"))
    assert visit.fits_900()
