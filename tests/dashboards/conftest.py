"""A real server and a real browser for the pages' tests: `agilab serve` in a process, and the system's Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import TimeoutError as TookTooLongError

from agilab.paths import HomePaths
from agilab.template import create
from agilab.testing import make_probe

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
START_S = 60.0
LINK = re.compile(r"http://\S+")


@dataclass
class Served:
    """A server that runs, and the folders it works in."""

    folder: Path
    words: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    link: str = ""
    used: set[str] = field(default_factory=set)

    @property
    def home(self) -> Path:
        return self.folder / ".agilab"

    @property
    def home_paths(self) -> HomePaths:
        return HomePaths(self.home)

    @property
    def said(self) -> str:
        """What the server has printed so far."""
        return (self.folder / "server.txt").read_text()

    @property
    def url(self) -> str:
        return self.link.partition("?")[0]

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://").strip("/")

    def start(self, *, port: int = 0) -> Served:
        """Start the server and wait until it has said where it is."""
        command = [Path(sys.executable).with_name("agilab"), "serve", "--port", str(port), *self.words]
        variables = {
            **os.environ,
            "HOME": str(self.folder),
            "AGILAB_HOME": str(self.home),
            "AGILAB_WENV": str(self.folder / "wenv"),
            "AGILAB_APPS": str(self.folder / "apps"),
            **self.variables,
        }
        with open(self.folder / "server.txt", "w") as out:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=variables, stdout=subprocess.PIPE, stderr=out, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = LINK.search(line)
        assert found, f"{line!r}\n{self.said}"
        self.link = found[0]
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=START_S)
        self.process.stdout.close()
        return code

    @property
    def newest_link(self) -> str:
        """The link that the server has printed last."""
        return [self.link, *LINK.findall(self.said)][-1]

    def fresh_link(self) -> str:
        """Return a link that nobody has used, waiting for it to be printed; it counts as used from now on."""
        end = time.monotonic() + START_S
        while self.newest_link in self.used:
            assert time.monotonic() < end, "the server printed no further link"
            time.sleep(0.02)
        self.used.add(self.newest_link)
        return self.newest_link

    def ask(self, path: str = "", *, method: str = "GET", **headers: str) -> Answer:
        """Send one request, follow no redirect, raise for no status."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = b"" if method == "POST" else None
        request = urllib.request.Request(self.url + path.lstrip("/"), headers=named, method=method, data=data)
        try:
            with _OPENER.open(request, timeout=START_S) as answer:
                return Answer(answer.status, answer.headers, answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as err:
            with err:
                return Answer(err.code, err.headers, err.read().decode(errors="replace"))


@dataclass(frozen=True)
class Answer:
    """Status, headers and text of an answer."""

    status: int
    headers: Message
    text: str


def log_in(server: Served) -> str:
    """Use the newest link; return the cookie as a browser sends it back."""
    answer = server.ask(server.fresh_link().partition("/?")[2].join(["?", ""]))
    assert answer.status == 302, answer.text
    return answer.headers["Set-Cookie"].partition(";")[0]


def handshake(server: Served, path: str = "/ws", **headers: str) -> int:
    """Try to open a websocket; return the status."""
    host, _, port = server.host.partition(":")
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {server.host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(100).split()[1])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, environment: None) -> Iterator[Served]:
    """Return a server with two apps, `squares` and `probe`; the files of this folder share it, as users would."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "apps").mkdir()
    create("squares", folder / "apps")
    make_probe(folder / "apps")
    served = Served(folder).start()
    yield served
    assert served.stop() == 0, served.said


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser without a window."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield made
        made.close()


@dataclass
class Visitor:
    """Somebody at a browser of their own, logged in."""

    server: Served
    page: Page
    complaints: list[str] = field(default_factory=list)

    def open(self, query: str) -> Page:
        """Go to a page of the server and wait for its title."""
        self.page.goto(self.server.url + query)
        try:
            self.page.locator("h1, .MuiAlert-root").first.wait_for(timeout=1000 * START_S)
        except TookTooLongError as err:
            raise AssertionError(f"{query}: {self.page.inner_text('body')!r}, {self.complaints}") from err
        return self.page

    def fits_900(self) -> bool:
        """Whether nothing of what is open has to be scrolled sideways in a window of 900 px."""
        size = self.page.viewport_size
        assert size is not None
        self.page.set_viewport_size({**size, "width": 900})
        root = "document.documentElement"
        fits = bool(self.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"))
        self.page.set_viewport_size(size)
        return fits


def browser_of_somebody(server: Served, browser: Browser) -> BrowserContext:
    """Return a browser with its own cookies, logged in by the server's newest link."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, timezone_id="Asia/Tokyo")
    context.set_default_timeout(1000 * START_S)
    context.request.get(server.fresh_link())
    return context


def visitor(server: Served, context: BrowserContext) -> Visitor:
    """Return somebody with a fresh page."""
    made = Visitor(server, context.new_page())
    made.page.on("console", lambda said: made.complaints.append(said.text) if said.type == "error" else None)
    made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
    made.page.on("requestfinished", lambda asked: made.complaints.append(asked.url) if _far(asked.url) else None)
    return made


def _far(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:http://127.0.0.1:"))


@pytest.fixture(scope="module")
def context(server: Served, browser: Browser) -> Iterator[BrowserContext]:
    """Return a browser that has used the server's link."""
    made = browser_of_somebody(server, browser)
    yield made
    made.close()


@pytest.fixture
def visit(server: Served, context: BrowserContext) -> Iterator[Visitor]:
    """Return a visitor; afterwards the browser's console must hold no error and no request to elsewhere."""
    made = visitor(server, context)
    yield made
    made.page.close()
    assert made.complaints == []
