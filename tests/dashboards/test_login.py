"""Users of a server: who may enter, who may only look, and that a run says who asked for it."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from agilab_dashboards.options import ServerOptions, require_safe
from playwright.sync_api import Browser, Page, expect

from agilab import AgiEnv, Run
from agilab.errors import SettingError
from agilab.run import RunStore
from agilab.template import create
from tests.checkout import ROOT
from tests.dashboards.conftest import START_S, Answer, Served
from tests.run_folder import conform

LONG_MS = 1000 * START_S
USERS = {"ann": "correct horse", "bob": "battery staple"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, environment: None) -> Iterator[Served]:
    """Return a server on every address, with a login, where bob may only look."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "apps").mkdir()
    create("squares", folder / "apps")
    users = folder / "users.json"
    users.write_text(json.dumps(USERS))
    users.chmod(0o600)
    words = ("--address", "0.0.0.0", "--hosts", "lab.example:5006", "--basic-auth", str(users), "--readers", "bob")
    served = Served(folder, words).start()
    assert "token" not in served.link
    served.link = f"http://localhost:{served.host.rpartition(':')[2]}/"
    yield served
    served.stop()


def try_login(lab: Served, user: str, password: str) -> Answer:
    query = urlencode({"username": user, "password": password})
    return lab.ask(f"/login?{query}", method="POST", Origin=lab.url.rstrip("/"))


def page_of(lab: Served, browser: Browser, user: str = "") -> Page:
    """Return a page of a browser of its own, of somebody who has logged in if they are named."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(LONG_MS)
    if user:
        cookies = try_login(lab, user, USERS[user]).headers.get_all("Set-Cookie") or []
        named = (one.partition(";")[0].partition("=") for one in cookies)
        context.add_cookies([{"name": name, "value": value, "url": lab.url} for name, _, value in named])
    return context.new_page()


def test_beyond_loopback_a_user_logs_in(lab: Served) -> None:
    port = lab.host.rpartition(":")[2]
    assert lab.ask("/static/js/bokeh.min.js").status == 403
    sent = lab.ask("/")
    assert (sent.status, sent.headers["Location"]) == (302, "/login")
    page = lab.ask("/login")
    assert page.status == 200
    assert "http" not in page.text.replace("http-equiv", "")
    wrong = try_login(lab, "ann", "wrong")
    assert "error" in wrong.headers["Location"]
    assert "user=" not in str(wrong.headers.get_all("Set-Cookie"))
    right = try_login(lab, "ann", USERS["ann"])
    cookies = [one for one in right.headers.get_all("Set-Cookie") or [] if not one.startswith("is_guest=")]
    assert all("SameSite=Strict" in one and "HttpOnly" in one for one in cookies), cookies
    user = next(one for one in cookies if one.startswith("user=")).partition(";")[0]
    assert lab.ask("/", Cookie=user).status == 200
    assert lab.ask("/", Host="lab.example:5006", Cookie=user).status == 200
    assert lab.ask("/", Host=f"0.0.0.0.evil.example:{port}", Cookie=user).status == 403


def test_a_run_says_who_asked_for_it(lab: Served, browser: Browser) -> None:
    page = page_of(lab, browser)
    page.goto(lab.url)
    page.get_by_label("User").fill("ann")
    page.get_by_label("Password").fill(USERS["ann"])
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Orchestrate").wait_for()
    page.goto(f"{lab.url}?page=orchestrate&app=squares")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LONG_MS)
    env = AgiEnv("squares", apps_path=lab.folder / "apps", home=lab.home, wenv=lab.folder / "wenv")
    run: Run = RunStore(lab.home_paths).get("squares/last").check()
    assert run.request["user"] == run.manifest["request"]["user"] == "ann"
    conform(run.request, "agilab.request/1")
    assert run.request["digest"] == env.request().digest, "who asks is outside the digest"
    assert env.request(file=run.paths.request).user == ""
    page.context.close()


FORGED = """() => {
    for (const model of Bokeh.documents[0]._all_models.values())
        if (model.data?.label === 'Run') model.data.setv({disabled: false}, {sync: false})
}"""
"""What a browser does that lets the button be pressed all the same."""


def test_who_may_only_look_cannot_run_whatever_the_browser_sends(lab: Served, browser: Browser) -> None:
    page = page_of(lab, browser, "bob")
    before = list((lab.home / "runs").glob("*/*"))
    page.goto(f"{lab.url}?page=orchestrate&app=squares")
    button = page.get_by_role("button", name="Run", exact=True)
    expect(page.get_by_text("You may look here and change nothing.")).to_be_visible(timeout=LONG_MS)
    expect(button).to_be_disabled(timeout=LONG_MS)
    page.evaluate(FORGED)
    button.click()
    expect(page.get_by_text("can change that with --readers")).to_be_visible(timeout=LONG_MS)
    assert list((lab.home / "runs").glob("*/*")) == before
    page.goto(f"{lab.url}?page=settings")
    expect(page.get_by_text("bob, may look and change nothing")).to_be_visible(timeout=LONG_MS)
    page.context.close()


def test_every_button_that_changes_something_is_wired_by_the_session() -> None:
    """`Session.on_press` asks whether its user may; what is wired otherwise only looks."""
    looks = {
        "form.py: self._form.reset",
        "chooser.py: self._open",
        "chooser.py: self._taken",
        "viewcard.py: self._all_of_it",
        "orchestrate.py: self._reset",
        "analysis.py: start",
        "linkedcard.py: self._cleared",
    }
    found = set()
    for path in (ROOT / "dashboards").rglob("*.py"):
        for handler in re.findall(r"(?<!js)\.on_click\((?:lambda event: )?([\w.]+)", path.read_text()):
            if path.name != "session.py":
                found.add(f"{path.name}: {handler}")
    assert found == looks, "wire a button that changes something with session.on_press; else add it here"


# --- OAuth ----------------------------------------------------------------------


class Provider(BaseHTTPRequestHandler):
    """An OAuth provider where everybody has an account, and logs in by being asked."""

    user = "ann@example.org"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/authorize":
            asked = parse_qs(url.query)
            query = urlencode({"code": "once", "state": asked["state"][0]})
            self.send_response(302)
            self.send_header("Location", f"{asked['redirect_uri'][0]}?{query}")
            self.end_headers()
        else:
            self._answer({"email": self.user} if self.headers["Authorization"] == "Bearer opaque" else {})

    def do_POST(self) -> None:
        said = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        good = said["code"] == ["once"] and said["client_secret"] == ["hush"]
        self._answer({"access_token": "opaque"} if good else {"error": "no"})

    def _answer(self, value: dict[str, str]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def test_with_oauth_only_the_users_that_are_named_enter_until_a_signal_ends_the_server_cleanly(
    provider: str, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = {"AUTHORIZE_URL": "/authorize", "TOKEN_URL": "/token", "USER_URL": "/user"}
    words = {
        "--oauth-provider": "generic",
        "--oauth-key": "agilab",
        "--oauth-secret": "env:HUSH",
        "--oauth-extra-params": json.dumps({name: provider + path for name, path in urls.items()}),
        "--users": "ann@example.org",
    }
    (tmp_path / "apps").mkdir()
    served = Served(tmp_path, tuple(word for pair in words.items() for word in pair), {"HUSH": "hush"}).start()
    try:
        assert served.ask("/static/js/bokeh.min.js").status == 403
        context = browser.new_context()
        context.request.get(served.url)  # asks the provider, and comes back with a cookie
        page = context.new_page()
        page.goto(f"{served.url}?page=settings")
        expect(page.get_by_text("ann@example.org, may change things")).to_be_visible(timeout=LONG_MS)
        context.close()
        monkeypatch.setattr(Provider, "user", "eve@example.org")
        context = browser.new_context()
        assert "eve@example.org may not enter" in context.request.get(served.url).text()
        assert context.request.get(f"{served.url}static/js/bokeh.min.js").status == 403
        context.close()
        assert "hush" not in (served.home / "server" / "server.log").read_text()
    finally:
        code = served.stop(signal.SIGINT)
    assert (code, "Traceback" in served.said) == (0, False)
    socket.create_server(("127.0.0.1", int(served.host.rpartition(":")[2]))).close()


def test_a_login_of_which_something_is_missing_refuses_to_start(tmp_path: Path) -> None:
    for values, said in (
        ({"readers": ["bob"]}, "nobody logs in"),
        ({"oauth_provider": "github"}, "--oauth-key ID --oauth-secret env:NAME"),
        ({"oauth_provider": "github", "oauth_key": "k", "oauth_secret": "env:S"}, "--users NAME"),
    ):
        made = ServerOptions.from_json(values)
        assert isinstance(made, ServerOptions)
        with pytest.raises(SettingError, match=said):
            require_safe(made)
