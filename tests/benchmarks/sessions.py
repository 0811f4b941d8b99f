"""Many sessions that look at one live run: ``python tests/benchmarks/sessions.py [SESSIONS] [SECONDS]``; 50 and 60.

One of them is a real Chromium, the others are websocket clients that speak
Bokeh's protocol. Prints, from one run: how long the server took to its first
answer, first paint on the warm server, from an input event to the change of
the DOM, from an event of the run to the pixel, and the server's memory.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from urllib.parse import urlencode

from playwright.async_api import async_playwright
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

from agilab import AGI, AgiEnv, Run, Stage, WorkPlan
from agilab.testing import do, make_probe
from tests.dashboards.conftest import CHROMIUM, FLAGS, Served, log_in

PARTITIONS = 1000
READY = {"type": "event", "name": "document_ready", "values": {"type": "map"}}
PAGE = """
window.deep = (selector, root = document) => {
    const found = root.querySelector(selector)
    if (found) return found
    for (const host of root.querySelectorAll('*')) {
        const inner = host.shadowRoot && window.deep(selector, host.shadowRoot)
        if (inner) return inner
    }
    return null
}
window.seen = {}
const look = () => {
    const cell = window.deep('tbody td:nth-child(4)')
    const count = cell && Number(cell.textContent.replaceAll(',', ''))
    if (count && !(count in window.seen)) window.seen[count] = Date.now()
    requestAnimationFrame(look)
}
requestAnimationFrame(look)
"""
TYPED = """wanted => new Promise(done => {
    const start = window.pressed
    const look = () => {
        const log = window.deep('[aria-label=log]')
        if (log && (log.textContent === 'nothing was said') === wanted) done(performance.now() - start)
        else requestAnimationFrame(look)
    }
    look()
})"""


def share(values: list[float], part: float) -> float:
    """Return a quantile [the unit of the values]."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


async def client(url: str, query: str, cookie: str, over: asyncio.Event) -> tuple[int, int]:
    """Be one more session; return how many messages it was sent, and how many patches of those."""
    answer = await AsyncHTTPClient().fetch(HTTPRequest(url + query, headers={"Cookie": cookie}, request_timeout=120))
    token = re.search(rb'"token":"([^"]+)"', answer.body)
    assert token, "the page holds no session"
    request = HTTPRequest(f"ws{url[4:]}ws", headers={"Cookie": cookie, "Origin": url.rstrip("/")})
    socket = await websocket_connect(request, subprotocols=["bokeh", token[1].decode()], max_message_size=64 << 20)
    for _ in range(3):  # ACK: before it nothing may be sent
        await socket.read_message()
    for number, (kind, content) in enumerate(
        (
            ("PULL-DOC-REQ", {}),
            ("PATCH-DOC", {"events": [{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": READY}]}),
        )
    ):
        for part in ({"msgid": str(number), "msgtype": kind}, {}, content):
            await socket.write_message(json.dumps(part))
    messages = patches = 0
    ends = asyncio.ensure_future(over.wait())
    while not over.is_set():
        reads = asyncio.ensure_future(socket.read_message())
        await asyncio.wait((reads, ends), return_when=asyncio.FIRST_COMPLETED)
        if not reads.done():
            break
        message = reads.result()
        assert message is not None, f"the server closed a session: {socket.close_code} {socket.close_reason}"
        messages += 1
        patches += isinstance(message, str) and '"PATCH-DOC"' in message
    socket.close()
    return messages, patches


def memory_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


async def trickle(gates: Path, ready: asyncio.Event) -> int:
    """Let a partition end now and then until everybody is there: one that waits too long fails."""
    opened = 0
    while not ready.is_set():
        (gates / str(opened)).touch()
        opened += 1
        await asyncio.sleep(3)
    return opened


async def feed(gates: Path, pid: int, seconds: float, opened: int) -> list[float]:
    """Let one partition after the other end; return the server's memory meanwhile, once a second [MiB]."""
    begin, first, memory = time.monotonic(), opened, []
    while (passed := time.monotonic() - begin) < seconds:
        upto = first + int((PARTITIONS - first) * passed / seconds)
        for number in range(opened, upto):
            (gates / str(number)).touch()
        opened = upto
        if passed >= len(memory):
            memory.append(memory_mib(pid))
        await asyncio.sleep(0.05)
    return memory


async def look(
    url: str, query: str, cookie: str, *, ready: asyncio.Event, over: asyncio.Event
) -> tuple[list[float], dict[str, float], list[str]]:
    """Be a browser; return input to DOM [ms], when it showed which count [ms], and its complaints."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        context = await browser.new_context(viewport={"width": 1440, "height": 1200})
        name, _, value = cookie.partition("=")
        await context.add_cookies([{"name": name, "value": value.strip('"'), "url": url}])
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        await page.add_init_script(PAGE)
        await page.goto(url + query, timeout=120_000)
        page.set_default_timeout(120_000)
        words = page.get_by_label("Lines that contain")
        await words.wait_for(timeout=120_000)
        paint = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"first paint with the other sessions {paint:.0f} ms", flush=True)
        took = []
        await page.evaluate(
            "addEventListener('keydown', e => { if (e.key === 'Enter') window.pressed = performance.now() }, true)"
        )
        ready.set()
        while not over.is_set():
            for text, nothing in (("nobody says this", True), ("", False)):
                await words.fill(text)
                await words.press("Enter")
                took.append(float(await page.evaluate(TYPED, nothing)))
                await asyncio.sleep(0.4)
        seen = await page.evaluate("window.seen")
        await browser.close()
    return took, seen, complaints


async def measure(served: Served, run: Run, gates: Path, sessions: int, seconds: float) -> None:
    """Let everybody look, and print what that was like."""
    assert served.process is not None
    cookie, query = log_in(served), "?" + urlencode({"page": "orchestrate", "app": "probe", "run": run.run_id})
    url, pid = served.url, served.process.pid
    over, ready = asyncio.Event(), asyncio.Event()
    trickling = asyncio.ensure_future(trickle(gates, ready))
    others = [asyncio.ensure_future(client(url, query, cookie, over)) for _ in range(sessions - 1)]
    await asyncio.sleep(0.25 * sessions)  # sessions are built one after the other
    looking = asyncio.ensure_future(look(url, query, cookie, ready=ready, over=over))
    memory = await feed(gates, pid, seconds, await trickling)
    over.set()
    took, seen, complaints = await looking
    counts = await asyncio.gather(*others)
    commits = [event for event in run.events() if event["event"] == "committed"]
    moments = [1000 * datetime.fromisoformat(event["t"]).timestamp() for event in commits]
    late = [at - moments[int(count) - 1] for count, at in seen.items() if 0 < int(count) <= len(moments)]
    half = memory[len(memory) // 2 :]
    print(f"{sessions} sessions, {len(moments)} partitions, {seconds:g} s; complaints of the browser: {complaints}")
    print(f"input to DOM [ms]: {len(took)} times, median {statistics.median(took):.0f}, p95 {share(took, 0.95):.0f}")
    print(f"event to pixel [ms]: {len(late)} counts, median {share(late, 0.5):.0f}, p95 {share(late, 0.95):.0f}")
    print(f"patches for a client: median {statistics.median(patches for _, patches in counts):.0f}")
    print(f"server memory [MiB]: begin {memory[0]:.0f}, half {half[0]:.0f}, end {half[-1]:.0f}, most {max(memory):.0f}")


def main() -> None:
    """Start a server and a run, and measure."""
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    with tempfile.TemporaryDirectory(prefix="agilab-sessions-") as name:
        folder, gates = Path(name), Path(name, "gates")
        gates.mkdir()
        (folder / "apps").mkdir()
        root = make_probe(folder / "apps")
        begin = time.monotonic()
        served = Served(folder).start()
        urllib.request.urlopen(served.url + "liveness").read()
        print(f"first answer after {time.monotonic() - begin:.2f} s", flush=True)
        env = AgiEnv(root, home=served.home, wenv=folder / "wenv")
        parts = tuple(do(f"p{number}", ["wait", str(gates / str(number))]) for number in range(PARTITIONS))
        run = AGI.submit(env, env.request({"plan": WorkPlan((Stage("first", parts),)).to_json()}))
        try:
            asyncio.run(measure(served, run, gates, sessions, seconds))
        finally:
            AGI.cancel(env, run.run_id)
            served.stop()


if __name__ == "__main__":
    main()
