"""Pages, runs and views in a notebook: ``from agilab_dashboards import notebook``.

Pages are shown in a frame by a server of the kernel's own, on loopback, which
ends with the kernel. Pictures and progress are plain output: they stay in the
notebook when there is no kernel any more.
"""

from __future__ import annotations

import html as escaping
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from agilab.agi import AGI
from agilab.cli.screen import duration
from agilab.env import AgiEnv
from agilab.errors import AgilabError, RequestError
from agilab.run import FINAL_STATES, Run
from agilab_dashboards import markup, views
from agilab_dashboards.components import stage_table
from agilab_dashboards.live import Watch
from agilab_dashboards.markup import chip, element
from agilab_dashboards.session import href
from agilab_dashboards.views.base import View
from agilab_dashboards.views.own import told

PAGES = ("project", "orchestrate", "workflow", "analysis")
HEIGHT_PX = 720
PICTURE_PX = 800
PERIOD_S = 0.3
"""How often progress is written [s]."""
FRAMES = ("http://localhost:*", "http://127.0.0.1:*")
"""Whose pages may show those of a kernel's server."""


def dashboard(page: str, *, app: str = "", run: Run | str = "", height_px: int = HEIGHT_PX) -> Frame:
    """Return a page, to be shown in a notebook.

    Parameters
    ----------
    page
        ``"project"``, ``"orchestrate"``, ``"workflow"`` or ``"analysis"``.
    app
        Name or path of an app; empty for a choice of them.
    run
        A run or its id.
    height_px
        Of the frame [px].

    Raises
    ------
    AgilabError
        There is no such page.
    """
    if page not in PAGES:
        raise AgilabError(f"there is no page {page!r:.60} for a notebook; known: {', '.join(PAGES)}")
    if isinstance(run, Run):
        app, run = app or run.app, run.run_id
    return Frame(href(page, app=app, run=run), height_px)


def settings(app: str) -> Frame:
    """Return the form of an app's settings; *Keep as my settings* makes them those of `AgiEnv.settings` too."""
    return Frame(href("project", app=app, state={"tab": "Settings"}), HEIGHT_PX)


def dask(run: Run) -> Frame:
    """Return the page of a run on a Dask cluster, with the cluster's dashboards while it lives.

    Raises
    ------
    RequestError
        The run is on another backend.
    """
    backend = run.request["cluster"]["backend"]
    if backend not in ("dask", "ssh"):
        raise RequestError(f"run {run.run_id} is on backend {backend!r}, without a cluster; run it with backend='dask'")
    return dashboard("orchestrate", run=run)


def run(
    app: str | AgiEnv,
    settings: Mapping[str, Any] | None = None,
    *,
    cluster: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Run:
    """Run an app, with live progress, and return its run; interrupting the kernel cancels it.

    Parameters
    ----------
    app
        Name or path of an app, or an environment with one.
    settings, cluster, seed
        As of `AgiEnv.request`.
    """
    env = app if isinstance(app, AgiEnv) else AgiEnv(app)
    made = AGI.submit(env, env.request(settings, cluster=cluster, seed=seed))
    watch = Watch(made)
    shown = _Shown()
    try:
        while True:
            found = watch.look()
            shown.show(_progress(found))
            if found.ended:
                return made
            time.sleep(PERIOD_S)
    except KeyboardInterrupt:
        AGI.cancel(env, f"{made.app}/{made.run_id}")
        watch.forget_end()
        shown.show(_progress(watch.look()))
        return made


def view(run: Run, kind: str = "", *, artifact: str = "", controls: Mapping[str, Any] | None = None) -> Picture:
    """Return a view of what a run has left: a PNG that stays in the notebook, `plot` to go on with.

    Parameters
    ----------
    run
        The run.
    kind
        One of `agilab_dashboards.views.VIEWS`, or of the app's own such as ``"weather.gauge"``; empty for the one that
        suits best.
    artifact
        Stage and name such as ``"tracks/points"``; empty for what suits the view best.
    controls
        Values of the view's controls, by name.

    Raises
    ------
    AgilabError
        There is no such view, nothing that it can show, or a control is not allowed.
    """
    known = views.catalogue_here(run)
    able = [
        source
        for source in known.shown(run)
        if artifact in ("", source.key) and (not kind or kind in known.fitting(source))
    ]
    if not able:
        what = f"artifacts {artifact!r:.100}" if artifact else "artifacts"
        why = "".join(f"; {problem}" for problem in known.problems)
        raise AgilabError(f"run {run.run_id} has no {what} that view {kind or 'any'!r:.60} can show{why}")
    chosen = kind or known.fitting(able[0])[0]
    able.sort(key=lambda source: source.kind not in known.view_class(chosen).kinds)
    return Picture(run, chosen, known.make(chosen, able[0], controls))


@dataclass(frozen=True)
class Picture:
    """A view in a notebook.

    Parameters
    ----------
    run
        What it shows something of.
    kind
        Name of the view.
    view
        The view, with its controls as params.
    """

    run: Run
    kind: str
    view: View

    @property
    def plot(self) -> Any:
        """The HoloViews object, which composes with others and zooms once ``hv.extension("bokeh")`` was called."""
        with told(self.view, self.kind):
            return self.view.plot(self.run)

    @property
    def live(self) -> Frame:
        """The page that shows it, with its controls."""
        given = {name: value for name, value in self.view.to_json().items() if name != "artifact" and value is not None}
        state = {"data": self.view.artifact, "view": self.kind, "controls": json.dumps(given)}
        return Frame(href("analysis", app=self.run.app, run=self.run.run_id, state=state), HEIGHT_PX)

    @cached_property
    def png(self) -> bytes:
        """The picture."""
        with told(self.view, self.kind):
            return self.view.picture(self.run, PICTURE_PX)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True, slots=True)
class Frame:
    """A page inside of a notebook.

    Parameters
    ----------
    query
        Of the page's URL.
    height_px
        How high it is [px].
    """

    query: str
    height_px: int = HEIGHT_PX

    def _repr_html_(self) -> str:
        link = server().link
        asked = self.query.removeprefix("?")
        url = f"{link}&{asked}" if "?" in link else f"{link}?{asked}"
        ident = f"agilab-{time.monotonic_ns()}"
        said = f"This page is shown while its kernel runs: run the cell again. ({self.query})"
        return (
            f'<div id="{ident}" data-url="{escaping.escape(url)}" style="height:{int(self.height_px)}px">'
            f"{escaping.escape(said)}</div><script>({_LOAD})({json.dumps(ident)})</script>"
        )


_LOAD = """
(ident) => {
  // One after the other: the first uses the link's token, the others have its cookie.
  window.agilab = (window.agilab || Promise.resolve()).then(() => new Promise((loaded) => {
    const place = document.getElementById(ident)
    if (!place) return loaded()
    const url = new URL(place.dataset.url)
    if (['localhost', '127.0.0.1'].includes(window.location.hostname)) url.hostname = window.location.hostname
    const frame = document.createElement('iframe')
    Object.assign(frame.style, {width: '100%', height: '100%', border: '1px solid #8884', borderRadius: '8px'})
    frame.title = 'AGILAB'
    frame.addEventListener('load', loaded, {once: true})
    setTimeout(loaded, 10000)
    frame.src = url.href
    place.replaceChildren(frame)
  }))
}
"""


class Server:
    """The kernel's server: a process that ends with the kernel, however that ends."""

    def __init__(self) -> None:
        flags = [word for site in FRAMES for word in ("--frames", site)]
        command = [sys.executable, "-m", "agilab", "serve", "--port", "0", *flags]
        # The shell's standard input is the kernel's end of a pipe, which closes with the kernel.
        script = '"$@" </dev/null & server=$!; exec >/dev/null 2>&1; cat; kill $server; wait $server'
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", script, "agilab", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # interrupting the kernel does not end it
        )
        self._links: list[str] = []
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def link(self) -> str:
        """The newest link.

        Raises
        ------
        AgilabError
            The server did not start.
        """
        if not self._ready.wait(START_S) or not self._links:
            raise AgilabError("the server of this kernel did not start; see what it says with: agilab serve --port 0")
        return self._links[-1]

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                if found := _LINK.search(line):
                    self._links.append(found[0])
                    self._ready.set()
        self._ready.set()


START_S = 60.0
_LINK = re.compile(r"http://\S+token=\S+")


@cache
def server() -> Server:
    """Return the server of this kernel, started when it is first needed."""
    return Server()


class _Shown:
    """Output of a cell that is written anew."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(text), display_id=True)
        else:
            self._handle.update(HTML(text))


def _progress(found: Watch) -> str:
    run = found.run
    rows: list[tuple[str, object]] = [("run", run.run_id), ("state", chip(found.state))]
    rows.append(("time", duration(found.now_s)))
    if found.state in FINAL_STATES and run.error:
        rows.append(("why", element("span", run.error, {"class": "error"})))
    return f"<style>{_scoped()}</style>" + element(
        "div", markup.facts(rows) + stage_table(found.counts()), {"class": "agilab", "data-state": found.state}
    )


@cache
def _scoped() -> str:
    """Return the style of our pages for one element of a page that is not ours."""
    return f".agilab {{ {markup.style().replace(':host', '&')} }}"
