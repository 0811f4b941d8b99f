"""Dask's own dashboards of a run that goes on, through the server's port and guard, HTTP and websocket alike.

A URL names a run and one of the documents in `DOCUMENTS`, never a host: where
the dashboards are stands in the event log of that run, on this machine or on
the host of the scheduler that it uses. Nothing but a GET goes there, and
neither cookies nor what the guard knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.web import RequestHandler
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    WebSocketHandler,
    websocket_connect,
)

from agilab.errors import RunNotFoundError
from agilab.run import Run, RunStore
from agilab_dashboards.guard import Guard
from agilab_dashboards.live import watch
from agilab_dashboards.options import is_loopback

MOUNT = "dask"
"""First part of the paths that lead here."""
DOCUMENTS: Mapping[str, str] = {
    "individual-task-stream": "Task stream",
    "status": "Status",
    "workers": "Workers",
    "graph": "Graph",
    "profile": "Profile",
    "tasks": "Tasks",
    "system": "System",
    "groups": "Groups",
    "hardware": "Hardware",
    "individual-progress": "Progress",
    "individual-graph": "Task graph",
    "individual-groups": "Task groups",
    "individual-group-progress": "Progress of groups",
    "individual-cluster-memory": "Memory of the cluster",
    "individual-workers": "Table of workers",
    "individual-workers-memory": "Memory by worker",
    "individual-workers-memory-timeseries": "Memory over time",
    "individual-cpu": "CPU by worker",
    "individual-workers-cpu-timeseries": "CPU over time",
    "individual-nprocessing": "Tasks by worker",
    "individual-occupancy": "Occupancy",
    "individual-workers-network": "Network by worker",
    "individual-workers-network-timeseries": "Network over time",
    "individual-workers-disk": "Disk by worker",
    "individual-workers-disk-timeseries": "Disk over time",
    "individual-workers-transfer-bytes": "Transfers by worker",
    "individual-bandwidth-types": "Bandwidth by type",
    "individual-bandwidth-workers": "Bandwidth by worker",
    "individual-memory-by-key": "Memory by key",
    "individual-compute-time-per-key": "Time by key",
    "individual-aggregate-time-per-action": "Time by action",
    "individual-fine-performance-metrics": "Fine performance metrics",
    "individual-contention": "Contention",
    "individual-exceptions": "Exceptions",
    "individual-profile": "Profile of workers",
    "individual-profile-server": "Profile of the scheduler",
    "individual-scheduler-system": "The scheduler's process",
}
"""Dashboards that can be asked for -> what they are called; the first ones are what one looks at first."""
FIRST = 5
"""How many of them are offered beside each other; the rest in a list."""
FILES = ("static", "statics")
"""Folders of what the dashboards are drawn with."""

LONGEST_S = 30.0
LARGEST_BYTES = 32 << 20
FORWARDED = ("Content-Type", "Cache-Control", "Etag", "Last-Modified")
ASKED = ("Accept", "If-None-Match", "If-Modified-Since")
_PATH = rf"/{MOUNT}/(\w+)/(\d+-\d+-\w+)"
_OURS = rf"{_PATH}/([\w-]+)"


def path_of(run: Run, document: str) -> str:
    """Return the path under which a dashboard of a run is served."""
    return f"{MOUNT}/{quote(run.app)}/{quote(run.run_id)}/{document}"


def routes(runs: RunStore, guard: Guard) -> list[tuple[Any, ...]]:
    """Return the routes of a Tornado application that serve the dashboards of these runs.

    Parameters
    ----------
    runs
        The only ones whose dashboards there are.
    guard
        Asked about every request once more, whatever stands before it.
    """
    known = {"runs": runs, "guard": guard}
    return [
        (rf"{_OURS}/ws", _Socket, known),
        (rf"{_OURS}", _Page, known),
        (rf"{_PATH}/({'|'.join(FILES)})/(.+)", _Page, known),
    ]


async def find_dashboard(runs: RunStore, app: str, run_id: str) -> str | None:
    """Return ``host:port`` of the dashboards of a run that goes on; None where there are none."""
    try:
        run = runs.get(f"{app}/{run_id}")
    except RunNotFoundError:
        return None
    found = await asyncio.to_thread(watch(run).look)
    return None if found.ended else _address(found.cluster)


def _address(cluster: Mapping[str, Any]) -> str | None:
    """Return where the dashboards of a cluster are, if that is where they may be."""
    try:
        url = urlsplit(str(cluster.get("dashboard") or ""))
        host, port, scheduler = url.hostname, url.port, urlsplit(str(cluster.get("scheduler"))).hostname
    except ValueError:
        return None
    if url.scheme != "http" or not host or not port or not (is_loopback(host) or host == scheduler):
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Guarded(RequestHandler):
    """Answers nobody whom the guard does not know."""

    def initialize(self, runs: RunStore, guard: Guard) -> None:
        self.runs, self.guard = runs, guard

    def prepare(self) -> None:
        if self.guard.problem(self.request):
            self.send_error(403)

    def write_error(self, status_code: int, **details: Any) -> None:
        """Say in the least words what there is not."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(_ERRORS.get(status_code, "This did not work.") + "\n")


class _Page(_Guarded):
    """Hands on what the dashboards answer to a GET."""

    async def get(self, app: str, run_id: str, first: str, rest: str = "") -> None:
        """Ask the dashboards for a document, or for a file that it is drawn with."""
        if (not rest and first not in DOCUMENTS) or ".." in rest:
            self.send_error(404)
            return
        address = await find_dashboard(self.runs, app, run_id)
        if address is None:
            self.send_error(404)
            return
        asked = {name: self.request.headers[name] for name in ASKED if name in self.request.headers}
        path = f"{first}/{quote(rest)}" if rest else first
        request = HTTPRequest(
            f"http://{address}/{path}?{self.request.query}", headers=asked, follow_redirects=False,
            connect_timeout=LONGEST_S, request_timeout=LONGEST_S,
        )  # fmt: skip
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=LARGEST_BYTES)
        try:
            answer = await client.fetch(request, raise_error=False)
        except (OSError, HTTPClientError):
            self.send_error(502)
            return
        finally:
            client.close()
        if answer.code not in (200, 304):
            self.send_error(404 if answer.code < 500 else 502)
            return
        self.set_status(answer.code)
        for name in FORWARDED:
            if name in answer.headers:
                self.set_header(name, answer.headers[name])
        self.finish(answer.body or None)


_ERRORS = {
    403: "Not allowed.",
    404: "No such dashboard; the cluster of a run has them as long as it lives.",
    502: "The cluster does not answer; it may have ended just now.",
}


class _Socket(_Guarded, WebSocketHandler):
    """Two ends of a websocket: a browser's, and the dashboards'."""

    def initialize(self, runs: RunStore, guard: Guard) -> None:
        super().initialize(runs, guard)
        self._other: WebSocketClientConnection | None = None
        self._pump: asyncio.Task[None] | None = None

    def check_origin(self, origin: str) -> bool:
        return self.guard.is_ours(origin)

    async def get(self, app: str, run_id: str, document: str) -> None:
        """Reach the dashboards first: a browser that gets an answer gets all of it."""
        address = await find_dashboard(self.runs, app, run_id) if document in DOCUMENTS else None
        if address is None:
            self.send_error(404)
            return
        offered = [one.strip() for one in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        request = HTTPRequest(
            f"ws://{address}/{document}/ws?{self.request.query}",
            headers={"Origin": f"http://{address}"},
            connect_timeout=LONGEST_S,
        )
        try:
            self._other = await websocket_connect(
                request, subprotocols=offered, max_message_size=LARGEST_BYTES, ping_interval=LONGEST_S
            )
        except (OSError, HTTPClientError, WebSocketError):
            self.send_error(502)
            return
        await super().get(app, run_id, document)
        if self._pump is None:  # the browser's part of the handshake was wrong
            self._other.close()

    def select_subprotocol(self, subprotocols: Sequence[str]) -> str | None:
        chosen = self._other.selected_subprotocol if self._other is not None else None
        return chosen if chosen in subprotocols else None

    def open(self, *path: str) -> None:
        """Begin to hand on what the dashboards say."""
        assert self._other is not None
        self._pump = asyncio.ensure_future(self._hand_on(self._other))

    async def _hand_on(self, other: WebSocketClientConnection) -> None:
        with suppress(WebSocketClosedError):
            while (message := await other.read_message()) is not None:
                await self.write_message(message, binary=isinstance(message, bytes))
        self.close()

    async def on_message(self, message: str | bytes) -> None:
        """Hand on what the browser says."""
        assert self._other is not None
        with suppress(WebSocketClosedError):  # the other task notices too, and closes this end
            await self._other.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        """Let go of the dashboards; the task that listens to them ends by itself."""
        if self._other is not None:
            self._other.close()
