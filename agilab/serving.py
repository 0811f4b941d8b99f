"""The process of a service: takes requests over a socket, runs them one after the other, and says how it is.

It imports no code of an app: planning happens in a child, partitions in
workers, and both are kept warm (`agilab.kept`). Every request is executed by
`agilab.supervisor`, as any other run. The main thread runs requests; each
question that comes over the socket has a short-lived thread of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from agilab import __version__, installation, records, service
from agilab.errors import AgilabError, RequestError, RunStateError, ServiceError
from agilab.kept import Kept
from agilab.owner import hold_owner
from agilab.paths import HomePaths, ServicePaths, WenvPaths, make_folder, write_json
from agilab.project import Project, find
from agilab.reaper import Watcher, end_marked
from agilab.request import ClusterOptions, RunRequest
from agilab.run import Run, RunStore
from agilab.supervisor import Execution, sealing, supervise

MOST_WAITING = 100
"""How many requests may wait; one more is refused."""
LOOK_EVERY_S = 0.2
"""How often an idle service looks after its workers, and a busy one after those who want to leave its queue [s]."""


@dataclass(slots=True)
class Taken:
    """A request that the service has taken: its run exists, and is owned."""

    request: RunRequest
    run: Run
    owner_fd: int


class Service:
    """One service, from its start to its end.

    Parameters
    ----------
    home, wenv
        The user's folders.
    project
        The app project.
    cluster
        Every cluster option.
    kept
        What it lends to its runs.
    """

    def __init__(
        self, home: HomePaths, wenv: WenvPaths, project: Project, *, cluster: Mapping[str, Any], kept: Kept
    ) -> None:
        self.home, self.wenv, self.project, self.cluster, self.kept = home, wenv, project, cluster, kept
        self.paths = home.service(project.name)
        self.stopping = threading.Event()
        self._started = records.iso_time(time.time())
        self._news = threading.Condition()
        self._waiting: deque[Taken] = deque()
        self._current: Taken | None = None
        self._ended: Counter[str] = Counter()
        self._last = ""

    def run(self) -> None:
        """Run requests until somebody stops the service; what waits then is cancelled."""
        threading.Thread(target=self._let_go, name="agilab-queue", daemon=True).start()
        while not self.stopping.is_set():
            taken = self._next()
            if taken is not None:
                self._execute(taken)
            self.kept.look()
        while (taken := self._next(timeout_s=0.0)) is not None:
            taken.run.cancel()
            self._execute(taken)

    def take(self, value: Mapping[str, Any]) -> Run:
        """Make a run of a request, and put it in the queue.

        Raises
        ------
        RequestError
            It is incomplete, for another app, or asks for other cluster options.
        ServiceError
            The service is stopping, or too many wait already.
        """
        request = RunRequest.from_json(value)
        if (request.app, request.app_uuid) != (self.project.name, self.project.uuid):
            raise RequestError(f"the request is for app {request.app!r}, this service for {self.project.name!r}")
        service.require_options(ClusterOptions.recorded(self.cluster), request)
        with self._news:
            if self.stopping.is_set():
                raise ServiceError(f"the service of {request.app} is stopping; start it again first")
            if len(self._waiting) >= MOST_WAITING:
                raise ServiceError(
                    f"{len(self._waiting)} requests wait for the service of {request.app}, and no more may; "
                    "send this one again when some have ended"
                )
            paths = RunStore(self.home).create(request.app)
            write_json(paths.request, request.to_json())
            with hold_owner(paths) as owner:
                taken = Taken(request, Run(paths), os.dup(owner.fileno()))
            self._waiting.append(taken)
            self._news.notify_all()
        return taken.run

    def stop(self) -> None:
        """Let `run` return, soon."""
        with self._news:
            self.stopping.set()
            current = self._current
            self._news.notify_all()
        if current is not None:
            current.run.cancel()

    def status(self, state: str = "running") -> dict[str, Any]:
        """Return what the service says of itself, of schema ``agilab.service/1``."""
        installed = self.kept.installed
        with self._news:
            going = [taken.run.run_id for taken in (*((self._current,) if self._current else ()), *self._waiting)]
            ended, last = dict(self._ended), self._last
        return {
            "schema": service.SCHEMA,
            "app": {"name": self.project.name, "uuid": self.project.uuid, "root": str(self.project.root)},
            "agilab": __version__,
            "state": state,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "started": self._started,
            "cluster": dict(self.cluster),
            "worker_digest": installed.code_digest if installed is not None else None,
            "workers": [one.to_json() for one in self.kept.states()] if state == "running" else [],
            "restarts_per_hour": self.kept.restarts(),
            "runs": {"going": going, "ended": ended, "last": last or None},
        }

    def _next(self, timeout_s: float = LOOK_EVERY_S) -> Taken | None:
        """Return the request whose turn it is; None when there is none for some time."""
        with self._news:
            if not self._waiting and timeout_s:
                self._news.wait(timeout_s)
            self._current = self._waiting.popleft() if self._waiting else None
            return self._current

    def _execute(self, taken: Taken) -> None:
        """Take a run to its end."""
        paths = taken.run.paths
        try:
            run = Execution(self.home, self.wenv, find(self.project.root), taken.request, paths, means=self.kept)
        except AgilabError as err:  # the project has gone, or is not trusted any more
            run = sealing(self.home, self.wenv, paths, outcome="failed", error=str(err))
        run.owner_fd = taken.owner_fd
        try:
            supervise(run)
        except AgilabError as err:  # not even sealed, on a full disk: the run is lost
            _report(f"{paths.run_id}: {err}")
        with self._news:
            self._ended[run.outcome] += 1
            self._last = paths.run_id
            if self._current is taken:
                self._current = None
        if run.switch.signal:
            self.stop()

    def _let_go(self) -> None:
        """End waiting runs that somebody has cancelled, without letting them wait for their turn."""
        while not self.stopping.wait(LOOK_EVERY_S):
            with self._news:
                leaving = [taken for taken in self._waiting if taken.run.paths.cancel_request.exists()]
                for taken in leaving:
                    self._waiting.remove(taken)
            for taken in leaving:
                self._execute(taken)


class _Handler(socketserver.StreamRequestHandler):
    """Answers one question: a line of JSON each way."""

    server: _Server

    def handle(self) -> None:
        with suppress(OSError):  # whoever asked has gone
            line = self.rfile.readline()
            if line.endswith(b"\n"):
                self.wfile.write(json.dumps(self._answer(json.loads(line))).encode() + b"\n")

    def _answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        me = self.server.service
        try:
            match question.get("op"):
                case "status":
                    return me.status()
                case "submit":
                    return {"run": str(me.take(question["request"]).paths.root)}
                case "stop":
                    me.stop()
                    return {}
            raise ServiceError(f"a service answers status, submit and stop, not {question.get('op')!r:.80}")
        except AgilabError as err:
            return {"error": type(err).__name__, "message": str(err)}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on the socket of a service."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, paths: ServicePaths, me: Service) -> None:
        self.service = me
        self._folder = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        super().__init__(service.address(self._folder), _Handler)

    def server_close(self) -> None:
        super().server_close()
        os.close(self._folder)


class Starter:
    """Whoever has started this process and waits until it takes requests; reads a JSON object from every line.

    Parameters
    ----------
    out
        Where that is read.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def report(self, text: str) -> None:
        """Tell what happens, as long as there is somebody; the log gets it in any case."""
        _report(text)
        self._tell({"report": text})

    def leave(self, message: Mapping[str, Any]) -> None:
        """Say the last word: ``{"begun": true}``, or an ``error``."""
        self._tell(message)
        with suppress(OSError):
            self._out.close()

    def _tell(self, message: Mapping[str, Any]) -> None:
        if not self._out.closed:
            with suppress(OSError):  # that one has gone
                self._out.write(json.dumps(message) + "\n")
                self._out.flush()


def main() -> int:
    """Serve one app: one JSON object on standard input says which; standard output is for its `Starter`."""
    if os.fork():
        os._exit(0)
    order = json.load(sys.stdin)
    home, wenv = HomePaths(Path(order["home"])), WenvPaths(Path(order["wenv"]))
    starter = Starter(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    try:
        serve(home, wenv, find(Path(order["project"])), cluster=order["cluster"], starter=starter)
    except AgilabError as err:
        starter.leave({"error": " ".join(str(err).split())})
        raise
    return 0


def serve(home: HomePaths, wenv: WenvPaths, project: Project, *, cluster: dict[str, Any], starter: Starter) -> None:
    """Be the service of an app, until somebody stops it.

    Raises
    ------
    ServiceError
        There is one already, or its workers do not load the app.
    """
    paths = home.service(project.name)
    make_folder(paths.root)
    name = service.marker_of(paths)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_owner(paths))
        except RunStateError as err:
            raise ServiceError(f"another service of {project.name} was faster") from err
        end_marked(name)
        watcher = stack.enter_context(Watcher.open(name))
        kept = Kept(home, paths, cluster=cluster, watcher=watcher, wenv=wenv, report=starter.report)
        stack.callback(kept.end)
        me = Service(home, wenv, project, cluster=cluster, kept=kept)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: me.stopping.set())
        write_json(paths.request, me.status("starting"))
        stack.callback(lambda: write_json(paths.request, me.status("stopped")))
        kept.load(project, installation.install(project, home=home, wenv=wenv, report=starter.report))
        paths.socket.unlink(missing_ok=True)
        server = stack.enter_context(_Server(paths, me))
        threading.Thread(target=server.serve_forever, name="agilab-socket", daemon=True).start()
        stack.callback(server.shutdown)
        write_json(paths.request, me.status())
        starter.leave({"begun": True})
        me.run()
        paths.socket.unlink(missing_ok=True)


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
