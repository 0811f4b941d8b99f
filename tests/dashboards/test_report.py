"""A report opens from a file in a real browser without a network, shows every point exactly, and text as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from agilab_dashboards import svg, tiles
from agilab_dashboards.report import write_report
from agilab_dashboards.tiles import Counted, levels
from playwright.sync_api import Browser, Page

from agilab import AgiEnv
from agilab.errors import AgilabError
from agilab.raster.picture import Source
from agilab.run import Run
from agilab.sidecar import change_tags
from tests.dashboards.seen_run import numbers, seen_run
from tests.run_folder import RunFolder

CANARY = '"><img src=x onerror=document.title="sung"><script>document.title="sung"</script>\x1b[31m'
LIMIT_BYTES = 8 << 20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an AGILAB_HOME with two runs that every view can show, and what somebody wrote on one."""
    folder = tmp_path_factory.mktemp("reported")
    run = seen_run(folder)
    change_tags(run.paths, note=CANARY)
    seen_run(folder, moment=1_700_000_100.0, seed=1)
    return folder


@pytest.fixture(scope="module")
def file(home: Path) -> Path:
    """Return the report of both."""
    env = AgiEnv(home=home)
    made = write_report(env, list(env.runs.list())[::-1], home / "report.html")
    assert (made.notes, made.size_bytes) == ((), (home / "report.html").stat().st_size)
    assert made.size_bytes < LIMIT_BYTES
    return made.file


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """Return the report in a browser without a network; anything it asks for or complains about fails the test."""
    said: list[str] = []
    context = browser.new_context(offline=True, viewport={"width": 900, "height": 900})
    shown = context.new_page()
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else said.append(asked.url))
    shown.goto(file.as_uri())
    shown.wait_for_selector("canvas.map[data-ready=yes]")
    yield shown
    context.close()
    assert said == []


def test_it_opens_from_a_file_and_shows_everything_as_text(page: Page) -> None:
    sections = page.locator("section > h2").all_inner_texts()
    one = ["Summary", "Metrics", "Views", "Settings", "Timeline", "Resource use", "Environment", "Artifacts"]
    assert sections == ["What differs", *one, *one]
    assert "sample_s" in page.locator("section").first.inner_text()
    assert page.title() == "flights 20231114-221320-0000 and flights 20231114-221500-0000"
    assert page.locator("dd", has_text="document.title").inner_text() == CANARY.replace("\x1b", "\\x1b")
    assert page.locator("img").count() == page.locator("img.picture").count() == 6
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "workspace file" in page.locator("section", has=page.locator("h2", has_text="Settings")).first.inner_text()
    assert "tracks/p0, 1.50 s" in page.locator("svg rect title").all_text_contents()


def test_what_a_cell_holds_is_told_and_zooming_in_shows_finer_ones(page: Page) -> None:
    whole = pd.concat([numbers(0), numbers(1)])
    canvas = page.locator("canvas.map").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    seen = page.evaluate(COUNT_AT, [box["width"] / 2, box["height"] / 2])
    inside = whole[(whole.x >= seen["left"]) & (whole.x < seen["right"])]
    inside = inside[(inside.y >= seen["bottom"]) & (inside.y < seen["top"])]
    canvas.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    told = page.locator(".tools output").first
    assert re.match(rf"{len(inside)} points? at ", told.inner_text())
    level = canvas.get_attribute("data-level")
    canvas.focus()
    for _ in range(6):
        page.keyboard.press("+")
    page.wait_for_selector('canvas.map[data-level="4"][data-ready=yes]')
    assert page.locator(".tools").first.inner_text().count("sharp up to 16 x") == 1
    page.keyboard.press("0")
    page.wait_for_selector(f'canvas.map[data-level="{level}"]')


COUNT_AT = """([px, py]) => {
  const about = JSON.parse(document.querySelector('script.about').textContent)
  const canvas = document.querySelector('canvas.map')
  const level = about.levels[canvas.dataset.level]
  const [left, bottom, right, top] = about.box
  const [dx, dy] = [2 ** level.kx, 2 ** level.ky]
  const x = (left + right) / 2 + (px - canvas.clientWidth / 2) * (right - left) / canvas.clientWidth / 0.96
  const y = (bottom + top) / 2 - (py - canvas.clientHeight / 2) * (top - bottom) / canvas.clientHeight / 0.96
  const [column, row] = [Math.floor(x / dx), Math.floor(y / dy)]
  return {left: column * dx, right: (column + 1) * dx, bottom: row * dy, top: (row + 1) * dy}
}"""


def test_nothing_but_its_own_script_and_style_may_run(file: Path) -> None:
    text = file.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'sha256-\S+'; script-src 'sha256-\S+'; base-uri 'none'; "
        r"form-action 'none'",
        policy[1],
    )
    assert not re.search(r'\b(src|href)="(?!data:image/png|#)', text)
    assert " style=" not in text


def test_every_level_has_every_point(home: Path) -> None:
    run = next(iter(AgiEnv(home=home).runs.list()))
    files = [run.artifact(f"tracks/{name}/points") for name in ("p0", "p1")]
    sources = [Source(path, path.name) for path in files]
    whole = pd.concat([pd.read_parquet(path) for path in files])
    box = tiles.bounds(sources, ("x", "y"))
    assert box == (whole.x.min(), whole.y.min(), whole.x.max(), whole.y.max())
    found = levels(sources, ("x", "y"), box=box, size=(200, 100), limit_bytes=1 << 20)
    assert len(found) == 5
    for level in found:
        (kx, ky), (left, bottom) = level.lattice.exponents, level.lattice.origin
        wanted = np.zeros((level.lattice.rows, level.lattice.columns), int)
        at = np.floor(whole.y / 2.0**ky).astype(int) - bottom, np.floor(whole.x / 2.0**kx).astype(int) - left
        np.add.at(wanted, at, 1)
        np.testing.assert_array_equal(tiles._dense(level), wanted)
    small = levels(sources, ("x", "y"), box=box, size=(200, 100), limit_bytes=30_000)
    assert small == found[: len(small)]
    assert Counted(box, ("x", "y"), small, equal=False).sharp < 16


def test_many_partitions_share_bars() -> None:
    done: list[dict[str, Any]] = [
        {
            "partition": f"p{at}",
            "stage": "first",
            "worker": f"w{at % 3}",
            "started": "2026-01-01T00:00:00Z",
            "wall_s": 1,
        }
        for at in range(svg.MOST_BARS + 1)
    ]
    assert svg.timeline(done).count("<title>first</title>") == 3
    assert svg.timeline([]) == ""


def test_a_run_without_a_seal_is_refused_and_a_place_that_is_none_too(home: Path, tmp_path: Path) -> None:
    env = AgiEnv(home=home)
    [run, *_] = env.runs.list()
    with pytest.raises(AgilabError, match=r"nowhere/x.html cannot be written: .*; choose another place with -o"):
        write_report(env, [run], tmp_path / "nowhere" / "x.html")
    lost = Run(RunFolder(tmp_path).paths)
    made = write_report(env, [lost], tmp_path / "lost.html")
    assert "lost" in made.file.read_text()
    assert json.dumps(made.notes) == "[]"
