"""Dask's dashboards of a run through the server's own port: in a browser, and for those who have no business there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from agilab_dashboards.proxy import _address, path_of
from playwright.sync_api import Frame, Page, expect

from agilab import AGI, AgiEnv, Run, Stage, WorkPlan
from agilab.testing import do
from tests.dashboards.conftest import START_S, Served, Visitor, handshake, log_in

LONG_MS = 1000 * START_S
WaitFor = Callable[..., Any]
LEASES = 6
GLYPHS = """() => {
    const models = window.Bokeh?.documents[0]?._all_models.values() ?? []
    return Math.max(0, ...[...models].map(model => model.data?.start?.length ?? 0))
}"""
"""How many rectangles the task stream of a frame has."""


@pytest.fixture(scope="module")
def gates(server: Served) -> Path:
    """Return the folder whose files let partitions end."""
    folder = server.folder / "gates"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def run(server: Served, gates: Path) -> Iterator[Run]:
    """Return a run on Dask whose partitions wait for a file each."""
    env = AgiEnv("probe", apps_path=server.folder / "apps", home=server.home, wenv=server.folder / "wenv")
    parts = tuple(do(f"p{number}", ["wait", str(gates / str(number))]) for number in range(LEASES))
    settings = {"plan": WorkPlan((Stage("first", parts),)).to_json()}
    made = AGI.submit(env, env.request(settings, cluster={"backend": "dask", "workers": 1}))
    yield made
    AGI.cancel(env, made.run_id)


def dashboard(page: Page) -> Frame:
    """Scroll to the dashboard, and return its frame."""
    place = page.locator("iframe")
    place.scroll_into_view_if_needed(timeout=LONG_MS)
    handle = place.element_handle()
    assert handle is not None
    frame = handle.content_frame()
    assert frame is not None
    return frame


def test_the_task_stream_grows_through_our_port_and_ends_with_the_cluster(
    server: Served, visit: Visitor, run: Run, gates: Path, wait_for: WaitFor
) -> None:
    page = visit.open("?" + urlencode({"page": "orchestrate", "app": "probe", "run": run.run_id}))
    frame = dashboard(page)
    frame.wait_for_function("window.Bokeh?.documents.length > 0", timeout=LONG_MS)
    assert frame.url == server.url + path_of(run, "individual-task-stream")
    for number in range(2):
        (gates / str(number)).touch()
        frame.wait_for_function(f"({GLYPHS})() > {number}", timeout=LONG_MS)

    page.get_by_role("button", name="Workers").press("Enter")  # the bar of the page may lie over it
    expect(page.locator("iframe")).to_have_attribute("src", "/" + path_of(run, "workers"))
    expect(page.frame_locator("iframe").get_by_text("tls://127.0.0.1").first).to_be_visible(timeout=LONG_MS)
    assert "dask=workers" in page.url

    cookie = log_in(server)
    path, origin = path_of(run, "status"), server.url.rstrip("/")
    assert server.ask(path, Cookie=cookie).status == 200
    assert server.ask(path).status == 403
    assert server.ask(path, Cookie=cookie, Host="evil.example").status == 403
    assert server.ask(path, method="POST", Cookie=cookie, Origin=origin).status == 405
    assert handshake(server, f"/{path}/ws", Origin=origin) == 403
    assert handshake(server, f"/{path}/ws", Cookie=cookie) == 403
    assert handshake(server, f"/{path}/ws", Cookie=cookie, Origin="http://evil.example") == 403
    for nothing in ("json/counts.json", "info/main/workers.html", "proxy/80/127.0.0.1/x", "statics/%2e%2e/x", "none"):
        assert server.ask(path_of(run, nothing), Cookie=cookie).status == 404, nothing
    for nowhere in ("probe/20200101-000000-0000", "%2e%2e/20200101-000000-0000", "probe/..%2f..%2fx"):
        assert server.ask(f"dask/{nowhere}/status", Cookie=cookie).status == 404, nowhere

    for number in range(LEASES):
        (gates / str(number)).touch()
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LONG_MS)
    expect(page.locator("iframe")).to_have_count(0)
    assert server.ask(path, Cookie=cookie).status == 404
    gone = ("socket", "cannot send", "cannot connect")  # what a dashboard says when its cluster ends under it
    visit.complaints = [said for said in visit.complaints if not any(word in said.lower() for word in gone)]


@pytest.mark.parametrize(
    ("cluster", "address"),
    [
        ({"scheduler": "tls://127.0.0.1:1", "dashboard": "http://localhost:8787/status"}, "localhost:8787"),
        ({"scheduler": "tcp://head:8786", "dashboard": "http://head:8787/status"}, "head:8787"),
        ({"scheduler": "tcp://[::1]:8786", "dashboard": "http://[::1]:8787/status"}, "[::1]:8787"),
        ({"scheduler": "tcp://head:8786", "dashboard": "http://169.254.169.254:80/latest"}, None),
        ({"scheduler": "tcp://head:8786", "dashboard": "http://head.evil.example:80/"}, None),
        ({"scheduler": "tcp://head:8786", "dashboard": "http://head@evil.example:80/"}, None),
        ({"scheduler": "tcp://head:8786", "dashboard": "https://head:8787"}, None),
        ({"scheduler": "tcp://head:8786", "dashboard": "http://head:port"}, None),
        ({"scheduler": "tcp://head:8786", "dashboard": None}, None),
        ({"scheduler": 3, "dashboard": ["http://localhost:1"]}, None),
        ({}, None),
    ],
)
def test_only_this_machine_and_the_scheduler_s_host_are_asked(cluster: dict[str, Any], address: str | None) -> None:
    assert _address(cluster) == address
