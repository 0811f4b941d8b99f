"""Many sessions that look at one live run: ``python -m tests.benchmarks.sessions [SESSIONS] [SECONDS]``; 50 and 60.

One of them is a real Chromium, the others are `lookers` in a niced process of
their own. Prints, from one run: how long the server took to its first answer;
first paint and readable page on the warm server, alone and among the others;
from an input event to the change of the DOM; from an event of the run to the
pixel; the server's memory; and how many cores server, run, browser and clients
kept busy, since a machine that has too few of them measures itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.async_api import BrowserContext, Page, async_playwright

from agilab import AGI, AgiEnv, Run, Stage, WorkPlan
from agilab.testing import do, make_probe
from tests.dashboards.conftest import CHROMIUM, FLAGS, Served, log_in

PARTITIONS = 1000
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
    const loader = document.getElementById('loader')
    const stands = loader && getComputedStyle(loader).display === 'none' && window.deep('h1')
    if (stands && !window.readable) window.readable = performance.now()
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


def cores(name: str, pids: set[int], before: dict[int, int], seconds: float) -> str:
    """Say how many cores some processes have kept busy since their ticks were looked up."""
    now = ticks(pids)
    spent = sum(count - before.get(pid, 0) for pid, count in now.items())
    return f"{name} {spent / os.sysconf('SC_CLK_TCK') / seconds:.2f}"


def ticks(pids: set[int]) -> dict[int, int]:
    """Return the processor time of processes [ticks]."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = int(fields[11]) + int(fields[12])
    return found


def family(pid: int) -> set[int]:
    """Return a process with all that have come of it."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                found |= family(int(child))
    return found


@asynccontextmanager
async def lookers(url: str, cookie: str, count: int) -> AsyncIterator[tuple[int, Callable[[], Awaitable[Any]]]]:
    """Let others look; give their process, and what ends them and returns what each was sent."""
    words = (sys.executable, "-m", "tests.benchmarks.lookers", url, cookie, str(count))
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec("nice", *words, **pipes, limit=1 << 20)  # type: ignore[arg-type]
    assert process.stdin is not None
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, "the other sessions did not come up"

    async def end() -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        return json.loads(await process.stdout.readline())

    try:
        yield process.pid, end
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


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


@asynccontextmanager
async def chromium(url: str, cookie: str) -> AsyncIterator[BrowserContext]:
    """Give a browser that has logged in."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        context = await browser.new_context(viewport={"width": 1440, "height": 1200})
        context.set_default_timeout(120_000)
        name, _, value = cookie.partition("=")
        await context.add_cookies([{"name": name, "value": value.strip('"'), "url": url}])
        yield context
        await browser.close()


async def paint(context: BrowserContext, url: str, words: str) -> Page:
    """Open a page and print how long it took to the first paint, and until it could be read."""
    page = await context.new_page()
    await page.add_init_script(PAGE)
    await page.goto(url)
    await page.wait_for_function("window.readable")
    first = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"{words}: first paint {first:.0f} ms, readable {await page.evaluate('window.readable'):.0f} ms", flush=True)
    return page


async def type_words(page: Page, over: asyncio.Event) -> list[float]:
    """Filter the log again and again; return how long each took from the key to the change of the DOM [ms]."""
    words, took = page.get_by_label("Lines that contain"), []
    await words.wait_for()
    await page.evaluate(
        "addEventListener('keydown', e => { if (e.key === 'Enter') window.pressed = performance.now() }, true)"
    )
    while not over.is_set():
        for text, nothing in (("nobody says this", True), ("", False)):
            await words.fill(text)
            await words.press("Enter")
            took.append(float(await page.evaluate(TYPED, nothing)))
            await asyncio.sleep(0.4)
    return took


async def measure(served: Served, run: Run, gates: Path, sessions: int, seconds: float) -> None:
    """Let everybody look, and print what that was like."""
    assert served.process is not None
    cookie, query = log_in(served), "?" + urlencode({"page": "orchestrate", "app": "probe", "run": run.run_id})
    url, pid = served.url, served.process.pid
    over, ready = asyncio.Event(), asyncio.Event()
    complaints: list[str] = []
    trickling = asyncio.ensure_future(trickle(gates, ready))
    async with chromium(url, cookie) as context:
        context.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        for name, place in (("home, cold", ""), ("home", ""), ("the run", query), ("the run again", query)):
            await (await paint(context, url + place, f"{name}, alone")).close()
        begin, before = time.monotonic(), ticks({pid})
        async with lookers(url + query, cookie, sessions - 1) as (others, end):
            took = time.monotonic() - begin
            print(f"{sessions - 1} sessions there in {took:.1f} s; cores: {cores('server', {pid}, before, took)}")
            page = await paint(context, url + query, "the run, among them")
            typing = asyncio.ensure_future(type_words(page, over))
            ready.set()
            opened = await trickling
            groups = {"server": {pid}, "browser": family(os.getpid()) - family(pid) - family(others)}
            groups["clients"] = family(others)
            groups["all"] = {int(name) for name in os.listdir("/proc") if name.isdigit()}
            before, begin = ticks(groups["all"]), time.monotonic()
            memory = await feed(gates, pid, seconds, opened)
            spent = time.monotonic() - begin
            print("cores:", ", ".join(cores(name, pids, before, spent) for name, pids in groups.items()))
            over.set()
            report(run, await typing, await page.evaluate("window.seen"))
            counts = await end()
    print(f"{sessions} sessions, {seconds:g} s; complaints of the browser: {complaints}")
    patches, sent = (statistics.median(one[place] for one in counts) if counts else 0 for place in (0, 1))
    print(f"sent to a client: {patches:.1f} patches and {sent / 1024:.0f} KiB a second")
    half = memory[len(memory) // 2 :]
    print(f"server memory [MiB]: begin {memory[0]:.0f}, half {half[0]:.0f}, end {half[-1]:.0f}, most {max(memory):.0f}")


def report(run: Run, took: list[float], seen: dict[str, float]) -> None:
    """Print how long inputs took, and events of the run until they were seen."""
    commits = [event for event in run.events() if event["event"] == "committed"]
    moments = [1000 * datetime.fromisoformat(event["t"]).timestamp() for event in commits]
    late = [at - moments[int(count) - 1] for count, at in seen.items() if 0 < int(count) <= len(moments)]
    print(f"{len(moments)} partitions; load {os.getloadavg()[0]:.1f}")
    print(f"input to DOM [ms]: {len(took)} times, median {share(took, 0.5):.0f}, p95 {share(took, 0.95):.0f}")
    print(f"event to pixel [ms]: {len(late)} counts, median {share(late, 0.5):.0f}, p95 {share(late, 0.95):.0f}")


def main() -> None:
    """Start a server and a run, and measure."""
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
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
