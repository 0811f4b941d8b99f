"""The entry process over real pipes: what it answers, what worker code sees, and that nothing brings it down."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agilab import codec, package
from agilab.entry import PROTOCOL, load_worker, materialise, stage_method
from agilab.errors import SettingError, WorkerError

WORKER = """
import os, sys, threading, time
import agilab

class Sample(agilab.Worker):
    def setup(self):
        print("set up in", os.getpid())

    def teardown(self):
        print("torn down")

    def first(self, part):
        part.write("seen", "json", [part.params, self.settings.count, part.seed])
        part.metric("rows", 3, 1)
        part.progress(1, 2)
        print("printed")

    def bad(self, part):
        part.write("seen", "json", 1)
        raise ValueError("no good")

    def long_log(self, part):
        part.log.info("x" * 1_000_000)
        raise ValueError("y" * 10_000_000)

    def inputs(self, part):
        part.write("seen", "json", {name: [str(path), path.read_text()] for name, path in part.inputs.items()})

    def stdin(self, part):
        part.write("seen", "json", [sys.stdin.read(), os.getcwd(), sorted(os.listdir("/proc/self/fd"))])

    def linked(self, part):
        os.symlink("/etc/hostname", part.folder / "name.txt")
        part.written["name"] = {"name": "name", "kind": "text", "path": "name.txt"}

    def removed(self, part):
        part.write("seen", "json", 1)
        os.unlink(part.folder / "seen.json")

    def beside(self, part):
        (part.folder / "folder").mkdir()
        (part.folder / "folder" / "junk").touch()
        os.symlink("/etc", part.folder / "etc")
        part.write("kept", "text", "x" * part.params["size"])

    def threads(self, part):
        def say(number):
            for step in range(50):
                part.metric("m", number, step)
                part.log.info("word " * 100)
        threads = [threading.Thread(target=say, args=(number,)) for number in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()

    def endless(self, part):
        for step in range(10**9):
            part.metric("m", step, step)

    def cancelled(self, part):
        end = time.monotonic() + 20
        while not part.cancelled and time.monotonic() < end:
            time.sleep(0.001)
        part.write("seen", "json", part.cancelled)

    def _hidden(self, part): ...

class NotOne: ...
"""
FIELDS = (codec.Field("count", "integer", 5, "How many", constraints={"min": 1, "max": 10}),)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the runtime: all that the entry process may import."""
    folder = tmp_path_factory.mktemp("runtime")
    for name, data in package.runtime_files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the worker package."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "sample_worker").mkdir()
    (folder / "sample_worker" / "__init__.py").write_text(WORKER)
    (folder / "raising_worker.py").write_text("raise SystemExit(0)")
    return folder


class Entry:
    """One entry process and the manager's end of its pipes."""

    def __init__(self, runtime: Path, code: Path, folder: Path) -> None:
        self.code, self.folder = code, folder
        self.log = folder / "worker.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(runtime)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env={}
            )

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def init(self, **changes: Any) -> dict[str, Any]:
        init = {
            "op": "init",
            "protocol": PROTOCOL,
            "worker": "sample_worker:Sample",
            "code": str(self.code),
            "fields": codec.fields_to_json(FIELDS),
            "values": {"count": 7},
            "secrets": {},
            "seed": 9,
            "cancel_file": str(self.folder / "cancel"),
        }
        self.tell({**init, **changes})
        return self.hear()

    def send(self, stage: str, ident: str = "p1", **changes: Any) -> None:
        task = {"op": "run", "id": ident, "stage": stage, "attempt": 1, "params": {}, "inputs": {}, "resources": {}}
        self.tell({**task, "folder": str(self.folder / f"{ident}.1"), **changes})

    def run(self, stage: str, ident: str = "p1", **changes: Any) -> list[dict[str, Any]]:
        """Run one partition; return what was said about it, the end last."""
        self.send(stage, ident, **changes)
        said = [self.hear()]
        while said[-1]["op"] not in ("done", "failed"):
            said.append(self.hear())
        assert {message["id"] for message in said} == {ident}
        return said

    def seen(self, ident: str = "p1") -> Any:
        return json.loads((self.folder / f"{ident}.1" / "seen.json").read_text())

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(20)


@pytest.fixture
def entry(runtime: Path, code: Path, tmp_path: Path) -> Iterator[Entry]:
    made = Entry(runtime, code, tmp_path)
    yield made
    made.process.kill()
    made.process.wait()
    for pipe in (made.process.stdin, made.process.stdout):
        with suppress(BrokenPipeError):
            pipe.close()  # type: ignore[union-attr]


def test_a_partition_is_run_and_its_end_says_what_it_took(entry: Entry) -> None:
    ready = entry.init()
    assert (ready["op"], ready["pid"]) == ("ready", entry.process.pid)
    assert ready["python"] == ".".join(map(str, sys.version_info[:3]))
    metric, progress, done = entry.run("first", params={"start": [1, None]})
    assert metric == {"op": "metric", "id": "p1", "name": "rows", "value": 3.0, "step": 1}
    assert progress == {"op": "progress", "id": "p1", "done": 1, "total": 2}
    [artifact] = done["artifacts"]
    assert artifact == {"name": "seen", "kind": "json", "path": "seen.json", "size_bytes": artifact["size_bytes"]}
    assert done["cpu_s"] >= 0
    assert 0 <= done["wall_s"] < 5
    assert 1 << 20 < done["peak_rss_bytes"] < 200 << 20
    assert done["cancelled"] is False
    params, count, seed = entry.seen()
    assert (params, count) == ({"start": [1, None]}, 7)
    assert seed == int.from_bytes(hashlib.sha256(b"9:p1").digest()[:8], "big") >> 1
    assert entry.end() == 0
    assert entry.log.read_text() == f"set up in {entry.process.pid}\nprinted\ntorn down\n"


def test_partitions_sent_ahead_run_in_order_and_a_failure_stops_none(entry: Entry) -> None:
    entry.init()
    for number, stage in enumerate(("first", "bad", "nosuch", "first")):
        entry.send(stage, f"p{number}")
    ends = []
    while len(ends) < 4:
        message = entry.hear()
        if message["op"] in ("done", "failed"):
            ends.append(message)
    assert [(end["id"], end["op"]) for end in ends] == [
        ("p0", "done"),
        ("p1", "failed"),
        ("p2", "failed"),
        ("p3", "done"),
    ]
    assert ends[1]["message"] == "ValueError: no good"
    assert "sample_worker/__init__.py" in ends[1]["traceback"]
    assert "no method for stage 'nosuch'; it has first, bad, " in ends[2]["message"]
    assert "_hidden" not in ends[2]["message"]
    assert entry.end() == 0


def test_long_texts_are_cut(entry: Entry) -> None:
    entry.init()
    log, failed = entry.run("long_log")
    assert len(log["text"]) < 70_000
    assert "characters left out" in log["text"]
    assert len(failed["message"]) < 400
    assert len(failed["traceback"]) < 70_000


def test_messages_of_many_threads_do_not_mix(entry: Entry) -> None:
    entry.init()
    said = entry.run("threads")
    assert [message["op"] for message in said].count("metric") == 400
    assert [message["op"] for message in said].count("log") == 400


def test_worker_code_has_an_empty_input_and_its_own_folder(entry: Entry) -> None:
    entry.init()
    entry.send("stdin")
    entry.send("first", "p2")  # lies in the pipe while the first one reads its standard input
    while entry.hear().get("id") != "p2":
        continue
    text, folder, _ = entry.seen()
    assert text == ""
    assert folder == str(entry.folder / "p1.1")


def test_inputs_lie_under_their_own_names_as_hard_links(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "rows.txt").write_text(name)
    inputs = {
        name: [str(tmp_path / name / "rows.txt"), hashlib.sha256(name.encode()).hexdigest()] for name in ("one", "two")
    }
    entry.init()
    assert entry.run("inputs", inputs=inputs)[-1]["op"] == "done"
    seen = entry.seen()
    assert {name: text for name, (_, text) in seen.items()} == {"one": "one", "two": "two"}
    assert all(Path(path).name == "rows.txt" for path, _ in seen.values())
    assert os.stat(seen["one"][0]).st_ino == (tmp_path / "one" / "rows.txt").stat().st_ino
    missing = entry.run("inputs", "p2", inputs={"x": [str(tmp_path / "nothing"), ""]})[-1]
    assert "nothing is not a file that can be handed to a worker" in missing["message"]


def test_an_input_that_had_to_be_copied_is_compared_with_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("it belongs to somebody else")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "rows.txt").write_text("rows")
    sha = hashlib.sha256(b"rows").hexdigest()
    paths = materialise({"rows": (str(tmp_path / "rows.txt"), sha)}, tmp_path / "a")
    assert Path(paths["rows"]).read_text() == "rows"
    with pytest.raises(WorkerError, match="has changed since it was hashed"):
        materialise({"rows": (str(tmp_path / "rows.txt"), "0" * 64)}, tmp_path / "b")


@pytest.mark.parametrize("stage", ["linked", "removed"])
def test_an_artifact_that_is_no_regular_file_is_refused(entry: Entry, stage: str) -> None:
    entry.init()
    [failed] = entry.run(stage)
    assert "is not a regular file; write it again" in failed["message"]


def test_what_was_not_handed_over_is_dropped(entry: Entry) -> None:
    entry.init()
    [done] = entry.run("beside", params={"size": 10})
    assert [item["size_bytes"] for item in done["artifacts"]] == [10]
    assert os.listdir(entry.folder / "p1.1") == ["kept.txt"]
    assert Path("/etc/hostname").exists()


def test_a_request_to_cancel_is_seen_and_reported(entry: Entry) -> None:
    entry.init()
    assert entry.run("first", "p1")[-1]["cancelled"] is False
    entry.send("cancelled", "p2")
    (entry.folder / "cancel").touch()
    done = entry.hear()
    assert (done["op"], done["cancelled"], entry.seen("p2")) == ("done", True, True)


def test_another_protocol_is_refused_and_both_are_named(entry: Entry) -> None:
    failed = entry.init(protocol=99)
    assert failed["op"] == "failed"
    assert f"the manager speaks protocol 99, this worker runtime {PROTOCOL}" in failed["message"]
    assert entry.process.wait(20) == 1


def test_settings_are_validated_again_with_the_same_sentence(entry: Entry) -> None:
    with pytest.raises(SettingError) as manager:
        codec.validate(FIELDS, {"count": 70}, where="the request")
    failed = entry.init(values={"count": 70})
    assert failed["message"] == f"SettingError: {manager.value}"
    assert failed["expected"] is True


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("sample_worker:Nobody", "no class Nobody derived from agilab.Worker", True),
        ("sample_worker:NotOne", "no class NotOne derived from agilab.Worker", True),
        ("nowhere_worker:Worker", "ModuleNotFoundError: No module named 'nowhere_worker'", False),
        ("raising_worker:Worker", "SystemExit: 0", False),
    ],
)
def test_a_worker_that_cannot_be_loaded_says_why(entry: Entry, name: str, said: str, *, expected: bool) -> None:
    failed = entry.init(worker=name)
    assert failed["op"] == "failed"
    assert said in failed["message"]
    assert failed["expected"] is expected
    assert entry.process.wait(20) == 1


def test_it_ends_when_the_manager_has_gone_in_the_middle_of_a_partition(entry: Entry) -> None:
    entry.init()
    entry.send("endless")
    entry.hear()
    assert entry.process.stdin is not None
    assert entry.process.stdout is not None
    entry.process.stdin.close()
    entry.process.stdout.close()
    assert entry.process.wait(20) != 0


def test_the_runtime_alone_is_enough_and_nothing_else_of_agilab_is_there(runtime: Path) -> None:
    found = sorted(path.stem for path in (runtime / "agilab").glob("*.py"))
    assert found == sorted(["__init__", *package.RUNTIME_MODULES])
    script = f"import sys; sys.path[:0] = [{str(runtime)!r}]; import agilab; agilab.Worker; agilab.AGI"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True)
    assert "ModuleNotFoundError: No module named 'agilab.agi'" in done.stderr


def test_a_stage_method_is_one_of_the_worker_class(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    worker = load_worker("sample_worker:Sample", code)
    try:
        assert stage_method(worker, "first") == worker.first  # type: ignore[attr-defined]
        for name in ("setup", "teardown", "_hidden", "__init__", "settings"):
            with pytest.raises(WorkerError, match=f"no method for stage '{name}'"):
                stage_method(worker, name)
    finally:
        del sys.modules["sample_worker"]
