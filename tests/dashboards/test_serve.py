"""How the server is started and ended: by the command, by `panel serve`, with a port that is taken, without Panel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from agilab.cli.root import call
from agilab.template import create
from tests.checkout import ROOT
from tests.dashboards.conftest import Served
from tests.dashboards.way import go_through

PLUGIN = "agilab_dashboards.plugin"


def test_a_port_that_is_taken_is_said(server: Served, tmp_path: Path) -> None:
    port = int(server.host.rpartition(":")[2])
    taken = Served(tmp_path)
    with pytest.raises(AssertionError, match=f"port {port} of 127.0.0.1 cannot be used"):
        taken.start(port=port)
    taken.stop()


def test_panel_serve_has_every_page_without_any_flag_and_says_what_it_lacks(tmp_path: Path, browser: Browser) -> None:
    app = ROOT / "dashboards" / "app.py"
    command = [Path(sys.executable).with_name("panel"), "serve", app, "--port", "0"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_variables(tmp_path)
    )
    try:
        assert process.stdout is not None
        found = next(match for line in process.stdout if (match := re.search(r"http://localhost:(\d+)/app", line)))
        page = browser.new_page()
        page.goto(f"{found[0]}?page=settings")
        expect(page.get_by_text(PLUGIN)).to_be_visible(timeout=60_000)
        go_through(page, found[0])
        page.close()
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_with_our_plugin_panel_serve_has_routes_and_guard(tmp_path: Path, browser: Browser) -> None:
    app = ROOT / "dashboards" / "agilab_dashboards" / "app.py"  # as a wheel has it
    command = [Path(sys.executable).with_name("panel"), "serve", app, "--port", "0", "--plugins", PLUGIN]
    variables = {**_variables(tmp_path), "PYTHONUNBUFFERED": "1"}
    beyond = [*command, "--allow-websocket-origin", "lab.example:5006"]
    refused = subprocess.run(beyond, cwd=tmp_path, capture_output=True, text=True, env=variables)
    assert refused.returncode == 1
    assert "without a login only loopback is allowed" in refused.stderr
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables
    )
    try:
        assert process.stdout is not None
        link = next(match for line in process.stdout if (match := re.search(r"(http://\S+)\?token=\S+", line)))
        served = Served(tmp_path, link=link[1])
        for path in ("app", "app/ws", "static/js/bokeh.min.js", "dask/squares/20200101-000000-0000/status"):
            assert served.ask(path).status == 403, path
        page = browser.new_page()
        page.goto(link[0])
        page.goto(f"{link[1]}app?page=settings")
        expect(page.get_by_text("whoever has the link of this server")).to_be_visible(timeout=60_000)
        go_through(page, f"{link[1]}app")
        page.close()
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _variables(home: Path) -> dict[str, str]:
    """Return the variables of a server in a folder that has the app `squares`."""
    if not (home / "apps").exists():
        (home / "apps").mkdir()
        create("squares", home / "apps")
    folders = {"HOME": ".", "AGILAB_HOME": ".agilab", "AGILAB_WENV": "wenv", "AGILAB_APPS": "apps"}
    return {**os.environ, **{name: str(home / folder) for name, folder in folders.items()}}


def test_the_file_for_panel_serve_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", "--print-app"]) == 0
    assert Path(capsys.readouterr().out.strip()) == ROOT / "dashboards" / "agilab_dashboards" / "app.py"


def test_without_panel_the_command_that_installs_it_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agilab_dashboards.command.find_spec", lambda name: None)
    assert call(["serve"]) == 1
    assert "pip install 'agilab-holoviz[ui]'" in capsys.readouterr().err


def test_help_lists_every_server_option_without_loading_panel() -> None:
    code = "import sys; from agilab.cli.root import call; call(['serve', '--help']); assert 'panel' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for flag in ("--port", "--address", "--basic-auth", "--hosts", "--open", "--print-app"):
        assert flag in done.stdout
