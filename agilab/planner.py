"""Asks an app's manager code: what are your settings, your plan, your sums; the answers are JSON.

In a fresh command-line or notebook process the code is imported here. It is
asked in a child process instead when this process has already imported the
package in another state, or must not import it at all (the server, a
service). Both ways go through `answer`.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agilab import __version__, codec, contract, digest, trust
from agilab.artifact import Artifact
from agilab.errors import AgilabError, PlanError, ProjectError, SettingError, first_line
from agilab.home import claim
from agilab.paths import HomePaths, make_folder, read_json, write_all, write_json
from agilab.plan import InputRef, Partition, WorkPlan, reference_from_json, reference_to_json
from agilab.project import Project

if TYPE_CHECKING:
    from agilab.app import App

TIMEOUT_S = 120.0
"""Longest time an app may take to describe itself or to plan in a child process [s]."""

_MARK = "__agilab_digest__"


@dataclass(frozen=True, slots=True)
class Planner:
    """One app's manager code, ready to be asked; there is none for an app that is not trusted.

    Parameters
    ----------
    project
        The app project.
    home
        AGILAB_HOME, for the cache of schemas.
    data_root
        What inputs are relative to.
    source
        Folder that holds the manager package; by default the project's own, else a snapshot.
    in_process
        Whether this process may import the code.
    child
        Answers instead of a child process that is made for one question.

    Raises
    ------
    TrustError
        The app was imported and is not trusted.
    """

    project: Project
    home: HomePaths
    data_root: Path
    source: Path | None = None
    in_process: bool = True
    child: Child | None = None

    def __post_init__(self) -> None:
        trust.require(self.project.root, self.home)

    def fields(self) -> tuple[codec.Field, ...]:
        """Return the declared settings; read from a cache by digest when the code has not changed."""
        key = digest.of_json([__version__, self._digest])
        cached = self.home.cache / "fields" / f"{key}.json"
        if cached.is_file():
            try:
                return codec.fields_from_json(read_json(cached, "agilab.fields/1"))
            except (AgilabError, KeyError, TypeError):
                cached.unlink(missing_ok=True)
        found = self._ask({"op": "fields"})
        claim(self.home.root, self.home.marker, "AGILAB_HOME")
        make_folder(cached.parent)
        write_json(cached, found, durable=False)
        return codec.fields_from_json(found)

    def load(self) -> None:
        """Import the code, so that what is asked next need not wait for that."""
        self._ask({"op": "fields"})

    def plan(self, values: Mapping[str, Any]) -> tuple[tuple[InputRef, ...], WorkPlan]:
        """Return what the run reads and what there is to do."""
        found = self._ask({"op": "plan", "values": dict(values)})
        inputs = tuple(reference_from_json(item) for item in found["inputs"])
        return inputs, WorkPlan.from_json(found["plan"])  # type: ignore[return-value]

    def input_matches(self, values: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the files that each `Input` setting matches, relative to the data root."""
        return dict(self._ask({"op": "input_matches", "values": dict(values)})["matches"])

    def plan_stage(
        self, values: Mapping[str, Any], stage: str, artifacts: Sequence[Artifact], *, run_folder: Path | None = None
    ) -> tuple[Partition, ...]:
        """Return the partitions of a stage that is planned from earlier artifacts, which lie in the run folder."""
        question = {"op": "plan_stage", "values": dict(values), "stage": stage, "run_folder": _text(run_folder)}
        found = self._ask({**question, "artifacts": [item.to_json() for item in artifacts]})
        return tuple(Partition.from_json(item) for item in found["partitions"])

    def summarize(
        self,
        values: Mapping[str, Any],
        partitions: Sequence[Partition],
        records: Mapping[str, Mapping[str, Any]],
        *,
        run_folder: Path | None = None,
    ) -> dict[str, float]:
        """Return the metrics of the run, from its partitions and their records by id."""
        results = [
            {
                "id": part.id,
                "stage": part.stage,
                "params": part.params,
                "metrics": {item["name"]: item["value"] for item in records[part.id]["metrics"]},
                "artifacts": records[part.id]["artifacts"],
            }
            for part in partitions
        ]
        question = {"op": "summarize", "values": dict(values), "results": results, "run_folder": _text(run_folder)}
        return dict(self._ask(question)["metrics"])

    def snapshot(self) -> Path:
        """Keep the manager package as it is now, by digest, for as long as a run of it can be resumed."""
        folder = self.home.snapshots / self.project.manager_digest()
        if not folder.is_dir():
            make_folder(self.home.snapshots)
            aside = Path(tempfile.mkdtemp(prefix=".new-", dir=self.home.snapshots))
            package = self.project.manager
            shutil.copytree(package, aside / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            try:
                aside.rename(folder)
            except OSError:  # another run was faster
                shutil.rmtree(aside)
        return folder

    @property
    def _digest(self) -> str:
        """The digest of the code that is asked: a snapshot's is its name."""
        return self.project.manager_digest() if self.source is None else self.source.name

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        source = self.source or self.project.manager.parent
        request = {
            "app": self.project.app_class,
            "source": str(source),
            "digest": self._digest,
            "data_root": str(self.data_root),
            "question": question,
        }
        contract.require_dependencies(self.project)
        loaded = sys.modules.get(self.project.app_class.partition(":")[0].partition(".")[0])
        if self.child is not None:
            return self.child.ask(request)
        if self.in_process and (loaded is None or getattr(loaded, _MARK, None) == request["digest"]):
            return answer(request)
        with closing(Child()) as child:
            return child.ask(request)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Import the app named in a request and answer its question.

    Raises
    ------
    ProjectError
        The code cannot be imported or has no such class.
    PlanError
        The app's own code raised, or answered something else than asked for.
    """
    with _no_byte_code():
        return _answer(request)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    app_class = _load(request["app"], Path(request["source"]), request["digest"])
    question = request["question"]
    settings_class = app_class.Settings
    if question["op"] == "fields":
        return codec.fields_to_json(settings_class.fields())
    values = codec.validate(settings_class.fields(), question["values"])
    settings = settings_class.from_json(values)
    try:
        app = app_class(settings, data_root=Path(request["data_root"]))
        if question.get("run_folder"):
            app.run_folder = Path(question["run_folder"])
        return _ANSWERS[question["op"]](app, question)
    except AgilabError:
        raise
    except (Exception, SystemExit) as err:  # the app's own code: whatever it raises is the answer to a person
        method = question["op"]
        raise PlanError(f"{request['app']}.{method} raised {first_line(err)}; see {_where(err)}") from err


class Child:
    """A process that imports an app's manager code and answers for it, as often as it is asked.

    Parameters
    ----------
    environment
        Variables that it gets beside those of this process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", "import sys; from agilab.planner import main; sys.exit(main())"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            bufsize=0,
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to one request.

        Raises
        ------
        PlanError
            The app's code raised, took too long or ended the process; and the other errors of `answer`.
        """
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            write_all(self.process.stdin.fileno(), json.dumps(request).encode() + b"\n")
        line = self._read(time.monotonic() + TIMEOUT_S, request["app"])
        if not line.endswith(b"\n"):
            code = self.process.wait()
            self._said.seek(0)
            last = self._said.read().decode(errors="replace").strip().splitlines()
            raise PlanError(
                f"{request['app']} ended its process with exit code {code} before it answered: "
                f"{last[-1] if last else 'no message'}"
            )
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            kinds = {kind.__name__: kind for kind in (PlanError, ProjectError, SettingError, AgilabError)}
            raise kinds.get(found["error"], PlanError)(found["message"])
        return found

    def close(self) -> None:
        """End the process. Idempotent."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self.process.kill()
        self.process.wait()
        self._said.close()

    def _read(self, deadline: float, app: str) -> bytes:
        assert self.process.stdout is not None
        line = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.process.kill()
                    raise PlanError(f"{app} took more than {TIMEOUT_S:g} s to answer; look at its plan()")
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                if not data:
                    break
                line += data
        return bytes(line)


def main() -> int:
    """Answer requests from standard input on standard output, a line each; errors go the same way."""
    asked, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what app code prints must not look like the answer
    for line in asked:
        try:
            found: dict[str, Any] = answer(json.loads(line))
        except AgilabError as err:
            found = {"error": type(err).__name__, "message": str(err)}
        out.write(json.dumps(found) + "\n")
        out.flush()
    return 0


@contextmanager
def _no_byte_code() -> Iterator[None]:
    """Let imports write no byte code, also those inside the app's methods: an installed project is never written to."""
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes


def _load(name: str, source: Path, code: str) -> type[App]:
    from importlib import import_module

    from agilab.app import App

    package, _, class_name = name.partition(":")
    sys.path.insert(0, str(source))
    try:
        module = import_module(package)
    except (Exception, SystemExit) as err:  # the app's own code
        for part in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
            del sys.modules[part]  # what was imported before it failed would meet the corrected rest
        raise ProjectError(f"{package} cannot be imported: {first_line(err)}; see {_where(err)}") from err
    finally:
        sys.path.remove(str(source))
    setattr(sys.modules[package.partition(".")[0]], _MARK, code)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, App)):
        raise ProjectError(f"{package} has no class {class_name} derived from agilab.App; define it there")
    return found


def _plan(app: App, question: Mapping[str, Any]) -> dict[str, Any]:
    from agilab.app import App

    if type(app).inputs is not App.inputs:
        app.settings.input_matches(app.data_root)  # an app that lists its inputs itself may not look at its settings
    inputs = [reference_to_json(ref) for ref in app.inputs()]
    plan = app.plan()
    if not isinstance(plan, WorkPlan):
        raise PlanError(f"{type(app).__name__}.plan returned {type(plan).__name__}; return an agilab.WorkPlan")
    return {"inputs": inputs, "plan": _json(plan.to_json(), "plan")}


def _input_matches(app: App, question: Mapping[str, Any]) -> dict[str, Any]:
    return {"matches": app.settings.input_matches(app.data_root)}


def _plan_stage(app: App, question: Mapping[str, Any]) -> dict[str, Any]:
    found = app.plan_stage(question["stage"], [Artifact.from_json(item) for item in question["artifacts"]])
    return {"partitions": _json([part.to_json() for part in found], "plan_stage")}


def _summarize(app: App, question: Mapping[str, Any]) -> dict[str, Any]:
    from agilab.app import PartitionResult

    results = [
        PartitionResult(**{**item, "artifacts": tuple(Artifact.from_json(art) for art in item["artifacts"])})
        for item in question["results"]
    ]
    return {"metrics": {str(name): float(value) for name, value in app.summarize(results).items()}}


_ANSWERS = {"input_matches": _input_matches, "plan": _plan, "plan_stage": _plan_stage, "summarize": _summarize}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _json(value: Any, method: str) -> Any:
    """Take a value through JSON, so that both ways of asking give the same types."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as err:
        raise PlanError(f"{method} put into params what is not JSON: {err}; use numbers, text, lists") from err


def _where(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame of a traceback."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}" if step is not None else "the app's code"
