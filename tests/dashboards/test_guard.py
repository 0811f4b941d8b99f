"""Who may talk to the server: real requests against a real one."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from agilab_dashboards.guard import CROWDED, MOST_SESSIONS, MOST_TRIES, Guard, Login
from agilab_dashboards.options import ServerOptions, is_loopback, require_safe
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from agilab.errors import SettingError
from tests.checkout import ROOT
from tests.dashboards.conftest import Served, handshake, log_in


@pytest.fixture(scope="module")
def cookie(server: Served) -> str:
    return log_in(server)


@pytest.mark.parametrize(
    "path", ["/", "/?page=home", "/ws", "/static/js/bokeh.min.js", "/autoload.js", "/metadata", "/none", "/login"]
)
def test_every_route_is_denied_without_the_cookie(server: Served, path: str) -> None:
    assert server.ask(path).status == 403


def test_the_liveness_endpoint_is_the_only_open_one(server: Served) -> None:
    answer = server.ask("/liveness")
    assert (answer.status, json.loads(answer.text)) == (200, {"/liveness": True})


def test_a_token_works_once_and_becomes_a_strict_cookie(server: Served) -> None:
    link = server.fresh_link()
    query = "?" + link.partition("?")[2] + "&page=analysis&app=x"
    answer = server.ask(query)
    assert answer.status == 302
    assert answer.headers["Location"] == "/?page=analysis&app=x"
    made = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in made.split(";")[1:]}
    again = server.ask(query)
    assert again.status == 403
    assert "has been used" in again.text
    assert server.fresh_link() != link
    server.used.discard(server.newest_link)  # it was only looked at
    assert server.ask("/", Cookie=made.partition(";")[0]).status == 200


def test_a_wrong_token_is_refused(server: Served) -> None:
    assert server.ask("/?token=wrong").status == 403


def test_a_redirect_stays_on_this_server(server: Served) -> None:
    query = server.newest_link.partition("?")[2]
    answer = server.ask(f"//evil.example/?{query}")
    assert answer.status == 403
    assert "Location" not in answer.headers


def test_a_forged_cookie_is_refused(server: Served, cookie: str) -> None:
    name, _, value = cookie.partition("=")
    assert server.ask("/", Cookie=f"{name}={value[:-3]}000").status == 403
    assert server.ask("/", Cookie=f"{name}=local").status == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1.evil.example:{port}"])
def test_another_host_name_is_refused(server: Served, cookie: str, host: str) -> None:
    port = server.host.rpartition(":")[2]
    assert server.ask("/", Cookie=cookie, Host=host.format(port=port)).status == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_another_origin_is_refused(server: Served, cookie: str, origin: str) -> None:
    assert server.ask("/", Cookie=cookie, Origin=origin).status == 403


def test_a_post_from_another_site_or_from_nowhere_is_refused(server: Served, cookie: str) -> None:
    assert server.ask("/", method="POST", Cookie=cookie, Origin="http://evil.example").status == 403
    assert server.ask("/", method="POST", Cookie=cookie).status == 403


def test_the_websocket_needs_cookie_and_origin(server: Served, cookie: str) -> None:
    ours = server.url.rstrip("/")
    assert handshake(server, Origin=ours) == 403
    assert handshake(server, Cookie=cookie) == 403
    assert handshake(server, Cookie=cookie, Origin="null") == 403
    assert handshake(server, Cookie=cookie, Origin="http://evil.example") == 403
    # Past the guard, Bokeh asks for a signed session of its own.
    assert handshake(server, Cookie=cookie, Origin=ours) in (101, 403)


def test_answers_forbid_framing_sniffing_and_what_lies_elsewhere(server: Served, cookie: str) -> None:
    for answer in (server.ask("/", Cookie=cookie), server.ask("/"), server.ask("/liveness")):
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "Tornado" not in answer.headers["Server"]


def test_no_answer_loads_anything_from_elsewhere(server: Served, cookie: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"]+)"', server.ask("/", Cookie=cookie).text)
    assert sources
    assert [source for source in sources if "//" in source] == []


@pytest.mark.parametrize(
    "path",
    [
        "static/../serve.py",
        "static/%2e%2e/%2e%2e/serve.py",
        "static//etc/passwd",
        "static/extensions/panel/../../../../../../../../etc/passwd",
        "static/js/bokeh.min.js%00.txt",
        "components/os/x/y",
        "dask/../../etc/passwd",
        "dask/squares/..%2f..%2fetc/status",
        "nowhere",
    ],
)
def test_a_path_that_leads_out_leads_nowhere(server: Served, cookie: str, path: str) -> None:
    answer = server.ask(path, Cookie=cookie)
    assert answer.status in (400, 403, 404)
    assert "root:" not in answer.text
    assert "def serve" not in answer.text
    assert "Traceback" not in answer.text


def test_no_log_holds_a_token_that_was_used(server: Served) -> None:
    link = server.fresh_link()
    token = link.partition("token=")[2]
    assert server.ask(f"?token={token}").status == 302
    log = server.home / "server" / "server.log"
    assert token not in log.read_text()
    assert set(server.said.splitlines()) == {line for line in server.said.splitlines() if line.startswith("link for")}


def test_the_secret_is_only_mine(server: Served) -> None:
    assert (server.home / "server" / "secret").stat().st_mode & 0o777 == 0o600
    assert (server.home / "server").stat().st_mode & 0o777 == 0o700


# --- with a login ---------------------------------------------------------------


def options(**values: object) -> ServerOptions:
    made = ServerOptions.from_json(values)
    assert isinstance(made, ServerOptions)
    return made


def test_another_bind_without_a_login_or_names_refuses_to_start(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    users.write_text("{}")
    users.chmod(0o600)
    with pytest.raises(SettingError, match="--basic-auth FILE"):
        require_safe(options(address="0.0.0.0"))
    with pytest.raises(SettingError, match="--hosts"):
        require_safe(options(address="0.0.0.0", basic_auth=str(users)))
    with pytest.raises(SettingError, match="no wildcard"):
        require_safe(options(hosts=["*"]))
    require_safe(options(address="0.0.0.0", basic_auth=str(users), hosts=["lab.example:5006"]))
    users.chmod(0o644)
    with pytest.raises(SettingError, match="chmod 600"):
        require_safe(options(basic_auth=str(users)))


def test_passwords_cannot_be_tried_without_end(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    users.write_text('{"ann": "correct horse", "bob": "battery"}')
    handler = Login(users, ROOT / "dashboards" / "agilab_dashboards" / "login.html").login_handler
    asked = handler.__new__(handler)
    assert asked._validate("ann", "correct horse")
    assert not any(asked._validate("ann", f"guess {number}") for number in range(MOST_TRIES))
    assert not asked._validate("ann", "correct horse"), "not for a minute"
    assert asked._validate("bob", "battery")


class _Connection:
    """What a request asks for where it came from."""

    context = None


def test_there_is_an_end_to_how_many_pages_are_open_and_how_much_is_sent(server: Served, cookie: str) -> None:
    guard = Guard(frozenset({"localhost:1"}), "secret", cookie="c", announce=print)
    made = guard.redeem(guard.token)
    assert made is not None
    headers = HTTPHeaders({"Host": "localhost:1", "Cookie": f"c={made.decode()}"})
    line = RequestStartLine("GET", "/", "HTTP/1.1")
    request = HTTPServerRequest(headers=headers, start_line=line, connection=_Connection())
    assert guard.problem(request) == ""
    guard.sessions = lambda: MOST_SESSIONS
    assert guard.problem(request) == CROWDED
    with socket.create_connection(("127.0.0.1", int(server.host.rpartition(":")[2])), timeout=20) as connection:
        head = f"POST / HTTP/1.1\r\nHost: {server.host}\r\nCookie: {cookie}\r\nContent-Length: 99999999\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).split()[1:2] in ([b"400"], [b"413"], [])


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("lab.example", False), ("", False)],
)
def test_loopback_is_told_from_the_rest(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_other_sites_frame_pages_only_where_the_options_say_so() -> None:
    closed, opened = Guard(frozenset(), ""), Guard(frozenset(), "", frames=("http://localhost:*",))
    assert closed.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in closed.headers["Content-Security-Policy"].split("; ")
    assert "X-Frame-Options" not in opened.headers
    assert "frame-ancestors 'self' http://localhost:*" in opened.headers["Content-Security-Policy"].split("; ")
    for site in ("*", "localhost", "http://*.example.org", "http://a.org; script-src *", "http://a.org/x"):
        with pytest.raises(SettingError, match="'frames'"):
            require_safe(ServerOptions(frames=[site]))
