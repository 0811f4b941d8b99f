"""Pages and views in notebooks: JupyterLab in a real browser, and a notebook that is executed without one."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from agilab_dashboards import notebook
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, expect

from agilab import AgiEnv
from agilab.errors import AgilabError
from agilab.run import Run
from agilab.template import create
from tests.dashboards.conftest import START_S
from tests.dashboards.seen_run import seen_run

LONG_MS = 1000 * START_S
WaitFor = Callable[..., Any]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a run and an app, and nothing of the user's Jupyter."""
    folders = {"HOME": "user", "AGILAB_HOME": "user/.agilab", "AGILAB_WENV": "user/wenv", "AGILAB_APPS": "apps"}
    folders |= {"IPYTHONDIR": "ipython", "MPLCONFIGDIR": "mpl"}
    folders |= {f"JUPYTER_{name}_DIR": name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
    for name, folder in folders.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
        (tmp_path / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    AgiEnv().prepare()
    seen_run(tmp_path / "user" / ".agilab")
    return tmp_path


def cells(*sources: str) -> Any:
    made = new_notebook(cells=[new_code_cell(source) for source in sources])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


FIND = "from agilab import AgiEnv\nfrom agilab_dashboards import notebook\nrun = AgiEnv().runs.get('flights/last')"


def test_an_executed_notebook_keeps_pictures_and_progress(desk: Path) -> None:
    create("squares", desk / "apps")
    kinds = ("points", "field", "image", "table")
    made = cells(
        FIND,
        *(f"notebook.view(run, {kind!r})" for kind in kinds),
        "mine = notebook.run('squares', {'count': 50})\nmine.check().metrics['total']",
        "notebook.view(run, 'points', controls={'colour': 'carrier'}).plot",
    )
    NotebookClient(made, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(desk)}}).execute()
    found = nbformat.writes(made)
    assert len(found) < 2_000_000
    assert "http" not in found.replace("http://www.w3.org", "")
    for cell in made.cells[1 : 1 + len(kinds)]:
        assert base64.b64decode(cell.outputs[0]["data"]["image/png"]).startswith(b"\x89PNG")
    progress, total = made.cells[5].outputs
    assert 'data-state="succeeded"' in progress["data"]["text/html"]
    assert float(total["data"]["text/plain"]) == sum(n * n for n in range(50))
    assert "DynamicMap" in made.cells[6].outputs[-1]["data"]["text/plain"]


@pytest.fixture
def lab(desk: Path, wait_for: WaitFor) -> Iterator[str]:
    """Start JupyterLab on loopback; give its address."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    options = ["--IdentityProvider.token=", "--LabApp.news_url=None", "--allow-root", f"--ServerApp.root_dir={desk}"]
    with open(desk / "lab.txt", "w") as out:
        process = subprocess.Popen([*command, *options], cwd=desk, stdout=out, stderr=out, env=dict(os.environ))
    try:
        (file,) = wait_for(lambda: list((desk / "runtime").glob("jpserver-*.json")), START_S)
        yield wait_for(lambda: json.loads(file.read_text() or "{}").get("url"), START_S)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=START_S)


def test_a_page_stands_in_jupyterlab(desk: Path, lab: str, browser: Browser) -> None:
    made = cells(FIND, "notebook.view(run, 'image')", "notebook.dashboard('workflow', run=run)")
    nbformat.write(made, desk / "tour.ipynb")
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(LONG_MS)
    page.goto(f"{lab}lab/tree/tour.ipynb")
    page.locator(".jp-Cell").nth(2).wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before that nothing is run, and nothing said
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(page.locator(".jp-OutputArea img").first).to_be_visible(timeout=LONG_MS)
    inside = page.frame_locator("iframe[title=AGILAB]")
    stage = inside.locator("[data-stage=summary]")
    expect(stage).to_have_attribute("data-state", "committed", timeout=LONG_MS)
    stage.click()
    expect(stage).to_have_attribute("aria-pressed", "true", timeout=LONG_MS)
    page.close()


def test_what_a_notebook_cannot_show_is_said(tmp_path: Path) -> None:
    run: Run = seen_run(tmp_path)
    with pytest.raises(AgilabError, match="no page 'nowhere'"):
        notebook.dashboard("nowhere")
    with pytest.raises(AgilabError, match="no artifacts 'tracks/none'"):
        notebook.view(run, artifact="tracks/none")
    with pytest.raises(AgilabError, match="without a cluster"):
        notebook.dask(run)
