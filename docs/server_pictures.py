"""Take the pictures of docs/server.md from a real server in a real browser: ``python docs/server_pictures.py``.

The server works in a HOME of its own, ``ann`` in the folder for temporary
files, which must not be there already.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
SIZE = {"width": 1200, "height": 900}
LONG_MS = 180_000
GLYPHS = """least => {
    const models = window.Bokeh?.documents[0]?._all_models.values() ?? []
    return Math.max(0, ...[...models].map(model => model.data?.start?.length ?? 0)) >= least
}"""
"""Whether the task stream of a frame has so many rectangles."""


@contextmanager
def served(home: Path) -> Iterator[str]:
    """Start a server in a HOME of its own; give its link."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AGILAB_")}
    variables |= {"HOME": str(home)}
    variables.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    command = [Path(sys.executable).with_name("agilab"), "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=home, env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r"http\S+", process.stdout.readline())
        assert found, "the server did not start"
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def take(page: Page, name: str) -> None:
    """Save what the browser shows."""
    page.wait_for_timeout(800)  # charts and ripples come to rest
    page.screenshot(path=PICTURES / f"server_{name}.png")
    print(PICTURES / f"server_{name}.png")


def tour(page: Page, link: str) -> None:
    """Go through the pages as a new user would."""
    url = link.partition("?")[0]
    page.goto(link)
    page.get_by_role("button", name="Run the first proof").click()
    page.get_by_text("Proved.").wait_for(timeout=LONG_MS)
    take(page, "home")
    page.goto(f"{url}?page=project&app=flight_telemetry")
    page.get_by_role("tab", name="README").wait_for()
    take(page, "project")
    page.goto(f"{url}?page=orchestrate&app=flight_telemetry")
    field = page.get_by_role("textbox", name="Partitions")
    field.fill("0")
    field.press("Tab")
    page.get_by_text("setting 'partitions' is 0").first.wait_for()
    take(page, "form")
    field.fill("12")
    field.press("Tab")
    page.get_by_role("button", name="Show the plan").click()
    page.locator("[data-digest]").scroll_into_view_if_needed(timeout=LONG_MS)
    take(page, "plan")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("[data-state=succeeded]").wait_for(timeout=LONG_MS)
    page.locator("h1").scroll_into_view_if_needed()
    take(page, "run")
    dask(page, url)
    page.goto(f"{url}?page=orchestrate&app=flight_telemetry")
    page.get_by_role("link", name="Analysis").click()
    page.get_by_role("link", name=re.compile(r"^\d{8}-")).nth(1).click()
    page.get_by_role("button", name="Verify").click()
    page.locator("[data-verified=yes]").wait_for(timeout=LONG_MS)
    page.locator(".bk-Figure").first.wait_for(timeout=LONG_MS)
    take(page, "analysis")
    page.goto(f"{page.url}&{urlencode({'data': 'tracks/tracks', 'view': 'points'})}")
    page.locator(".bk-Figure").first.wait_for(timeout=LONG_MS)
    page.get_by_text("Controls", exact=True).scroll_into_view_if_needed()
    take(page, "view")
    page.get_by_role("link", name="Its stages").click()
    page.locator("[data-stage=traffic]").click(timeout=LONG_MS)
    page.get_by_role("heading", name="traffic", exact=True).wait_for(timeout=LONG_MS)
    take(page, "workflow")
    page.goto(f"{url}?page=analysis")
    ticks = page.locator(".tabulator-row input[type=checkbox]")
    ticks.nth(0).click(timeout=LONG_MS)
    ticks.nth(1).click()
    page.get_by_role("link", name="Compare").click()
    page.locator("[data-differ]").wait_for(timeout=LONG_MS)
    take(page, "compare")


def dask(page: Page, url: str) -> None:
    """Run on Dask, and take the task stream while its cluster lives."""
    settings = {"dates": ["2013-01-01", "2013-03-31"], "sample_s": 30, "partitions": 90}
    query = {"page": "orchestrate", "app": "flight_telemetry", "settings": json.dumps(settings)}
    page.goto(f"{url}?{urlencode({**query, 'cluster': json.dumps({'backend': 'dask'})})}")
    page.get_by_role("button", name="Run", exact=True).click(timeout=LONG_MS)
    frame = page.locator("iframe")
    frame.scroll_into_view_if_needed(timeout=LONG_MS)
    handle = frame.element_handle()
    shown = handle and handle.content_frame()
    assert shown is not None
    shown.wait_for_function(GLYPHS, arg=30, timeout=LONG_MS)  # its title is painted: no text that could be waited for
    take(page, "dask")
    page.locator("[data-state=succeeded]").wait_for(timeout=LONG_MS)


if __name__ == "__main__":
    folder = Path(tempfile.gettempdir(), "ann")
    folder.mkdir(mode=0o700)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        with served(folder) as where:
            tour(browser.new_page(viewport=SIZE), where)
        browser.close()
    shutil.rmtree(folder)
