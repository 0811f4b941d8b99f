"""The way of a new user through the pages, the same however the server was started."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

LONG_MS = 60_000


def go_through(page: Page, url: str) -> None:
    """Choose the app `squares`, be refused a wrong value, look at the plan, run, and see what the run left.

    Parameters
    ----------
    page
        Of a browser that may enter.
    url
        The document, without a query.
    """
    page.goto(f"{url}?page=orchestrate")
    page.get_by_role("link", name=re.compile("^squares")).click(timeout=LONG_MS)
    count = page.get_by_label("Count [numbers]")
    count.fill("0", timeout=LONG_MS)
    count.press("Tab")
    refused = page.get_by_text("setting 'count' is 0; allowed: a whole number >= 1").first
    expect(refused).to_be_visible(timeout=LONG_MS)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    count.fill("5000")
    count.press("Tab")
    page.get_by_role("button", name="Show the plan", exact=True).click(timeout=LONG_MS)
    expect(page.locator("[data-digest]")).to_be_visible(timeout=LONG_MS)
    page.get_by_role("button", name="Run", exact=True).click(timeout=LONG_MS)
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LONG_MS)
    page.get_by_role("link", name="See what it left").click()
    expect(page.get_by_text("41,654,167,500").first).to_be_visible(timeout=LONG_MS)
    page.get_by_role("button", name="Verify", exact=True).click()
    expect(page.locator("[data-verified=yes]")).to_be_visible(timeout=LONG_MS)
