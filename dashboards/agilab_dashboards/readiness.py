"""Whether this machine and the hosts of a run are ready, with what mends them: `agilab doctor` on a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.cli.screen import count, size
from agilab.doctor import Finding, examine
from agilab_dashboards import markup
from agilab_dashboards.components import Work, row
from agilab_dashboards.markup import Markup, chip, code, element
from agilab_dashboards.session import Session

STATES = {"ok": "succeeded", "note": "queued", "warn": "cancelled", "fail": "failed"}
"""Status of a finding -> the state whose colour and sign it is shown with."""


class Readiness(Viewer):
    """Checks of this machine, and of hosts over SSH, each when it is asked for.

    Parameters
    ----------
    session
        Who asks.
    hosts
        Returns the hosts that a run would use just now.
    """

    def __init__(self, session: Session, hosts: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._session, self._hosts = session, hosts
        self._here = pmui.Button(label="Check this machine", variant="outlined")
        self._there = pmui.Button(label="Check hosts", variant="outlined")
        self._names = pmui.TextInput(label="Hosts", placeholder="node1 node2, as for ssh", width=300)
        self._work = Work(self._here, self._there)
        session.on_press(self._here, self._check_here)
        session.on_press(self._there, self._check_hosts)
        self._view = pn.Column(row(self._here, self._names, self._there), self._work, sizing_mode="stretch_width")

    def __panel__(self) -> Viewable:
        return self._view

    async def _check_here(self, event: Any) -> None:
        env = self._session.env
        found = await self._work.do(lambda: examine(env.home, env.wenv, os.environ))
        self._work.show(_findings([item for item in found if not item.extra]))

    async def _check_hosts(self, event: Any) -> None:
        names = str(self._names.value or "").replace(",", " ").split() or list(self._hosts())
        if not names:
            advice = "Type the names of hosts as you would give them to ssh, or set workers to hosts above."
            self._work.tell(advice, "error", "alert")
            return
        checks = await self._work.do(lambda: _preflight(self._session, names))
        self._work.show(_host_table(checks))


def _preflight(session: Session, names: Sequence[str]) -> Sequence[Any]:
    from agilab.backends.ssh.hosts import Hosts

    with Hosts(session.env.wenv) as hosts:
        return hosts.preflight(names)


def _findings(found: Sequence[Finding]) -> Markup:
    wrong = [item for item in found if item.status == "fail"]
    lead = f"{count(len(wrong), 'thing')} to mend before apps can run" if wrong else "This machine can run apps."
    rows = [(chip(STATES[item.status], item.status), item.name, item.detail, _fix(item.fix)) for item in found]
    head = element("p", element("strong", lead), {"role": "status", "data-ready": "no" if wrong else "yes"})
    return head + markup.table(("", "what", "what is there", "what to do"), rows)


def _host_table(checks: Sequence[Any]) -> Markup:
    wrong = [item for item in checks if not item.ok]
    lead = f"{count(len(wrong), 'host')} not ready" if wrong else f"{count(len(checks), 'host')} ready"
    rows = []
    for item in checks:
        facts = f"Python {item.python}, {item.cores} cores, {size(item.free_bytes)} free" if item.python else ""
        problem = f"{item.step}: {item.problem}" if item.step else facts
        state = chip("succeeded" if item.ok else "failed", "ready" if item.ok else "not ready")
        rows.append((state, item.host, item.address, problem, _fix(item.fix)))
        rows += [(chip("cancelled", "warn"), item.host, "", warning, "") for warning in item.warnings]
    head = element("p", element("strong", lead), {"role": "status", "data-ready": "no" if wrong else "yes"})
    return head + markup.table(("", "host", "address", "what was found", "what to do"), rows)


def _fix(text: str) -> Markup:
    return code(text) if text else Markup("")
