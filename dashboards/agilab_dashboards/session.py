"""`Session`, what one browser session looks at: page, app, run and the state in its URL; it draws nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import isawaitable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import panel as pn
import param

from agilab.codec import Field
from agilab.env import AgiEnv
from agilab.errors import AgilabError, RunNotFoundError
from agilab.planner import Planner
from agilab.request import RunRequest
from agilab.run import Run
from agilab.settings import Settings

LONGEST = 16_000
"""Longest value that a URL keeps [characters]."""
NOT_ALLOWED = "you may look here and change nothing; whoever runs the server can change that with --readers"
PLUGIN_COMMAND = 'panel serve "$(agilab serve --print-app)" --plugins agilab_dashboards.plugin'
"""How Panel's own command serves everything."""


class ServerEnv(AgiEnv):
    """An environment whose app code is asked in a child process: a server that runs for weeks never imports it.

    Attributes
    ----------
    user
        Who asks, where a login says so: recorded with every request.
    reads_only
        Whether nothing may be changed through it.
    """

    user = ""
    reads_only = False

    def select(self, app: str | Path) -> AgiEnv:
        """As of `AgiEnv`, for the same user."""
        made = super().select(app)
        assert isinstance(made, ServerEnv)
        made.user, made.reads_only = self.user, self.reads_only
        return made

    def request(
        self,
        settings: Mapping[str, Any] | Settings | None = None,
        *,
        cluster: Mapping[str, Any] | None = None,
        seed: int | None = None,
        file: str | Path | None = None,
    ) -> RunRequest:
        """As of `AgiEnv`, with who asked for it."""
        return replace(super().request(settings, cluster=cluster, seed=seed, file=file), user=self.user)

    def fields(self) -> tuple[Field, ...]:
        """As of `AgiEnv`; the folders are there, since the server has made them."""
        return self.planner.fields()

    def prepare(self) -> None:
        """As of `AgiEnv`: everything that changes something through an environment comes this way.

        Raises
        ------
        AgilabError
            Its user may only look.
        """
        if self.reads_only:
            raise AgilabError(NOT_ALLOWED)
        super().prepare()

    @property
    def planner(self) -> Planner:
        """Asks the selected app's manager code, elsewhere."""
        asked = super().planner
        return Planner(asked.project, asked.home, asked.data_root, in_process=False)


class Session(param.Parameterized):
    """One browser session; pages are given it, nothing of it is global.

    Parameters
    ----------
    query
        The URL's query: page, app, run and what else a page keeps there.
    guarded
        Whether the server checks every request itself, as `agilab serve` does.
    user
        Who has logged in; empty where nobody has to.
    reads_only
        Whether they may look, and change nothing.
    """

    page = param.String("home", doc="Name of the page.")
    app = param.String("", doc="Name or path of the app that is looked at.")
    run = param.String("", doc="Id of the run that is looked at.")
    zone = param.String("", doc="The browser's time zone; empty while it is not known, which means UTC.")

    def __init__(
        self, query: Mapping[str, str], *, guarded: bool = False, user: str = "", reads_only: bool = False
    ) -> None:
        super().__init__(page=query.get("page", "home"), app=query.get("app", ""), run=query.get("run", ""))
        self.query = dict(query)
        self.guarded = guarded
        env = ServerEnv()
        env.user, env.reads_only = user, reads_only
        self.env: AgiEnv = env
        self.reads_only = reads_only

    def require_change(self) -> None:
        """Refuse a change, whatever asks for it, to somebody who may only look.

        Raises
        ------
        AgilabError
            Says so.
        """
        if self.reads_only:
            raise AgilabError(NOT_ALLOWED)

    def on_press(self, button: Any, action: Callable[[Any], Any]) -> None:
        """Let a button do something that changes runs, apps or files; where one may only look, it does nothing.

        Every such button is wired here: what a browser sends is not trusted to have been allowed.
        """
        if self.reads_only:
            button.disabled = True
            button.param.watch(lambda event: setattr(button, "disabled", True), "disabled")

        async def act(event: Any) -> None:
            self.require_change()
            done = action(event)
            if isawaitable(done):
                await done

        button.on_click(act)

    def select(self) -> AgiEnv:
        """Return the environment with the session's app selected.

        Raises
        ------
        ProjectError
            There is no such app, or it breaks its contract.
        """
        self.env = self.env.select(self.app)
        return self.env

    def found_run(self) -> Run:
        """Return the session's run.

        Raises
        ------
        RunNotFoundError
            There is no such run.
        """
        if "/" in self.run:
            raise RunNotFoundError(f"no run {self.run!r:.80}; its id has no folders in it")
        # An app may be looked at by its path; its runs stand under its name.
        return self.env.runs.get(f"{self.app}/{self.run}" if self.app.isidentifier() else self.run)

    def href(self, page: str, *, app: str | None = None, run: str = "") -> str:
        """Return the link to a page, with the app that is looked at unless another is named."""
        return href(page, app=self.app if app is None else app, run=run)

    def again(self, app: str, settings: Mapping[str, Any]) -> str:
        """Return the link to where an app is run, with some settings set."""
        text = json.dumps(settings, separators=(",", ":"))
        return href("orchestrate", app=app, state={"settings": text} if settings and len(text) <= LONGEST else {})

    def remember(self, name: str, value: Any) -> None:
        """Keep a JSON value in the URL, so that a reload finds it again; None, or what is too long, takes it out."""
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        if value is None or len(text) > LONGEST:
            self.query.pop(name, None)
        else:
            self.query[name] = text
        location = pn.state.location
        if location is not None:
            location.search = f"?{urlencode(self.query)}"

    def remembered(self, name: str) -> Any:
        """Return the JSON value that the URL keeps; None where there is none that makes sense."""
        try:
            return json.loads(self.query.get(name, "null"))
        except (ValueError, RecursionError):
            return None

    @property
    def log(self) -> Path:
        """Where the server writes what went wrong."""
        return self.env.home.server / "server.log"


def href(page: str, *, app: str = "", run: str = "", state: Mapping[str, str] | None = None) -> str:
    """Return the link to a page; what is empty is left out.

    Parameters
    ----------
    page, app, run
        What the page shows.
    state
        What else the page keeps in its URL.
    """
    named = {"page": page, "app": app, "run": run, **(state or {})}
    return "?" + urlencode({name: value for name, value in named.items() if value})
