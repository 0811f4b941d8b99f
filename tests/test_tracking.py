"""Runs are handed to a real MLflow server, live and afterwards; one that hangs, lies or refuses harms no run."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, Run, Stage, tracking
from agilab.errors import TrackingError
from agilab.manifest import verify
from agilab.paths import RunPaths
from agilab.sidecar import change_tags
from agilab.testing import Bench, do
from agilab.testing.probe import DEADLINE_S, make_probe
from agilab.tracking import Store, Tracked
from tests.conftest import WaitFor
from tests.run_folder import RunFolder, conform

START_S = 150.0
"""How long MLflow may take to be imported and to answer [s]; a loaded machine is slow."""
SECRET = "a-password-4711"


class Server:
    """A real MLflow server over a database, and its answers."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.url, self._log = f"http://127.0.0.1:{port}", folder / "server.txt"
        options = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "kept"]
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                list(map(str, command)),
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )

    def is_up(self) -> bool:
        """Whether it answers."""
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, what: str, **given: Any) -> dict[str, Any]:
        """Ask its interface: with a body for a search, else with a query."""
        url, data = f"{self.url}/api/2.0/mlflow/{what}", None
        if what.endswith("search"):
            data = json.dumps(given).encode()
        else:
            url = f"{url}?{urllib.parse.urlencode(given)}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def runs(self, experiment: str) -> dict[str, dict[str, Any]]:
        """Return what it has in an experiment, by stage; the run around them under no name."""
        try:
            known = self.ask("experiments/get-by-name", experiment_name=experiment)["experiment"]
        except urllib.error.HTTPError:
            return {}
        found = self.ask("runs/search", experiment_ids=[known["experiment_id"]]).get("runs", [])
        by_stage = {pairs(run["data"].get("tags")).get("agilab.stage", ""): run for run in found}
        assert len(by_stage) == len(found)
        return by_stage

    def history(self, run: Mapping[str, Any], name: str) -> list[tuple[int, float]]:
        """Return step and value of every point of a metric."""
        found = self.ask("metrics/get-history", run_id=run["info"]["run_id"], metric_key=name).get("metrics", [])
        return [(int(item.get("step", 0)), float(item["value"])) for item in found]

    def files(self, run: Mapping[str, Any], path: str = "") -> list[str]:
        """List the files of a run."""
        found = self.ask("artifacts/list", run_id=run["info"]["run_id"], path=path).get("files", [])
        return [
            name for item in found for name in (self.files(run, item["path"]) if item.get("is_dir") else [item["path"]])
        ]

    def stop(self) -> None:
        """End it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def pairs(items: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return MLflow's lists of key and value as one value."""
    return {item["key"]: item["value"] for item in items or []}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, wait_for: WaitFor) -> Iterator[Server]:
    """Return one server for the tests here."""
    made = Server(tmp_path_factory.mktemp("mlflow"))
    try:
        wait_for(made.is_up, START_S)
        yield made
    finally:
        made.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return the probe on workers of its own."""
    env = AgiEnv(make_probe(tmp_path), home=tmp_path / "home", wenv=tmp_path / "wenv")
    with Bench(env, "local", tmp_path / "bench") as made:
        made.folder.mkdir()
        yield made


def stores(run: Run) -> Mapping[str, Tracked]:
    """Return what a run remembers, by address."""
    if run.paths.tracking.exists():
        conform(json.loads(run.paths.tracking.read_text()), "agilab.tracking/1")
    return {item.uri: item for item in tracking.read(run.paths)}


def test_a_run_is_there_while_it_goes_on_and_whole_at_its_end(
    server: Server, bench: Bench, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tracking.VARIABLE, server.url)
    gate = bench.folder / "gate"
    curve = [["metric", "loss", 1.0, 1], ["metric", "loss", 0.5, 2], ["wait", str(gate)], ["metric", "loss", 0.25, 4]]
    first = Stage("first", [do("a", *curve), do("b", ["metric", "n", 7])])
    going = bench.start(first, Stage("second", [do("c")], after="first"))
    going.until("dispatched")
    run = going.run
    wait_for(lambda: "first" in server.runs("probe"), START_S)
    live = server.runs("probe")
    wait_for(lambda: len(server.history(live["first"], "loss/a")) == 2, DEADLINE_S)
    assert (live[""]["info"]["status"], run.state) == ("RUNNING", "running")
    gate.touch()
    going.result().check()
    wait_for(lambda: stores(run)[server.url].seal, START_S)
    there, known = server.runs("probe"), stores(run)[server.url]
    assert {stage: item["info"]["status"] for stage, item in there.items()} == dict.fromkeys(
        ("", "first", "second"), "FINISHED"
    )
    assert server.history(there["first"], "loss/a") == [(1, 1.0), (2, 0.5), (4, 0.25)]
    assert server.history(there["first"], "n/b") == [(0, 7.0)]
    assert known.stages == {stage: there[stage]["info"]["run_id"] for stage in ("first", "second")}
    assert pairs(there["second"]["data"]["tags"])["mlflow.parentRunId"] == known.run_id
    assert pairs(there[""]["data"]["tags"])["agilab.run_id"] == run.run_id
    assert verify(run.paths).ok


def test_a_run_that_was_handed_over_is_not_sent_twice(server: Server, tmp_path: Path, wait_for: WaitFor) -> None:
    folder = RunFolder(tmp_path / "home", partitions=1, settings={"model": {"depth": 3}})
    folder.plan()
    folder.commit("tracks", "p0", files={"points": b"1 2\n"}, steps={0: 1.0, 5: float("inf")})
    paths = folder.seal("failed", "it broke\x1b[31m")
    change_tags(paths, add=["kept"], note="a note")
    address = server.url.replace("http://", f"http://me:{SECRET}@")
    run, store = Run(paths), Store(address, "afterwards", "tracks/*")
    first = tracking.export(run, store)
    assert first == tracking.export(run, store) == stores(run)[server.url]
    assert SECRET not in paths.tracking.read_text()
    there = server.runs("afterwards")
    whole = there[""]
    assert (whole["info"]["status"], set(there)) == ("FAILED", {"", "tracks"})
    params, tags = pairs(whole["data"]["params"]), pairs(whole["data"]["tags"])
    assert {key: params[key] for key in ("model.depth", "sample_s", "token", "seed", "cluster.backend")} == {
        "model.depth": "3",
        "sample_s": "60",
        "token": "env:TOKEN",
        "seed": "7",
        "cluster.backend": "local",
    }
    assert (tags["agilab.tag.kept"], tags["mlflow.note.content"], tags["agilab.seal"]) == (
        *("true", "a note"),
        tracking.seal_of(paths),
    )
    assert [step for step, _ in server.history(there["tracks"], "loss/p0")] == [0, 5]
    assert len(server.history(whole, "rows")) == 1
    assert server.files(whole) == [
        *("artifacts/tracks/p0/points.txt", "manifest-sha256.txt", "request.json", "run_manifest.json")
    ]
    assert verify(paths).ok


class Liar(BaseHTTPRequestHandler):
    """Says that everything is well, and wants artifacts in a folder of ours."""

    folder = ""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        run = {"run_id": "r", "run_uuid": "r", "experiment_id": "1", "status": "RUNNING", "artifact_uri": self.folder}
        body = {"experiment": {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}}
        data = json.dumps({**body, "run": {"info": run, "data": {}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def test_a_server_that_hangs_delays_no_run_and_one_that_lies_gets_nothing(
    bench: Bench, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """T59."""
    Liar.folder = str(tmp_path / "loot")
    with socket.create_server(("127.0.0.1", 0)) as deaf, ThreadingHTTPServer(("127.0.0.1", 0), Liar) as liar:
        threading.Thread(target=liar.serve_forever, daemon=True).start()
        hung, lying = (f"http://127.0.0.1:{port}" for port in (deaf.getsockname()[1], liar.server_port))
        request = bench.request(Stage("first", [do("a", ["write", "x", 1])]))
        with monkeypatch.context() as patched:
            patched.setattr(tracking, "PATIENCE_S", 1.0)
            run = AGI.run(bench.env, request, track=hung).check()
        with pytest.raises(TrackingError, match=r"wants artifacts at .*, which is not on it; nothing was written"):
            tracking.export(run, Store(lying))
        wait_for(lambda: stores(run).get(hung, Tracked("", "")).error, START_S)
        liar.shutdown()
    assert not (tmp_path / "loot").exists()
    assert verify(run.paths).ok
    untracked = AGI.run(bench.env, request, track="").check()
    assert not untracked.paths.tracking.exists()
    assert [item.sha256 for item in untracked.artifacts()] == [item.sha256 for item in run.artifacts()]


class Drip(socketserver.BaseRequestHandler):
    """Begins an answer at once, and sends a byte of it now and then, for ever: no read of it takes long."""

    heard: threading.Event
    over: threading.Event

    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.heard.set()
        with suppress(OSError):  # whoever asked has gone
            self.request.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
            )
            while not self.over.wait(0.1):
                self.request.sendall(b" ")


def test_a_server_that_drips_is_waited_for_by_no_run(
    bench: Bench, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T59: the answer never ends, and every byte of it comes in time."""
    monkeypatch.setattr(tracking, "PATIENCE_S", 1.0)
    monkeypatch.setattr(tracking, "WAIT_S", 0.2)
    Drip.heard, Drip.over = threading.Event(), threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv(tracking.VARIABLE, url)
        gate = bench.folder / "gate"
        going = bench.start(Stage("first", [do("a", ["wait", str(gate)], ["write", "x", 1])]))
        going.until("dispatched")
        wait_for(Drip.heard.is_set, START_S)
        gate.touch()
        run = going.result().check()  # while the answer goes on
        found = tracking.arrived(run, Store(url))
        assert found is None or found.error, "who waited for the run waits a while only for what does not come"
        wait_for(lambda: stores(run).get(url, Tracked("", "")).error, START_S)
        Drip.over.set()
        server.shutdown()
    assert stores(run)[url].error == "nothing has arrived for 1 s"
    assert verify(run.paths).ok


def test_what_is_no_address_is_refused_before_there_is_a_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    request = bench.request(Stage("first", [do("a")]))
    with pytest.raises(TrackingError, match="are no address and name"):
        AGI.run(bench.env, request, track="http://x\n")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(TrackingError, match="mlflow is not installed here; install it with: pip install"):
        AGI.run(bench.env, request, track="sqlite:///x.db")
    assert bench.env.runs.list() == []


def test_a_damaged_memory_is_named(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "flights" / "20231114-221320-0000")
    tracking.remember(paths, Tracked("sqlite:///x.db", "flights"))
    assert tracking.read(paths) == (Tracked("sqlite:///x.db", "flights"),)
    paths.tracking.write_text('{"schema": "agilab.tracking/1", "stores": [{"uri": 1}]}')
    with pytest.raises(Exception, match=r"where run 20231114-221320-0000 is tracked cannot be read"):
        tracking.read(paths)
