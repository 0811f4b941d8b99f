"""What one run says, as cells by section and name, read once from its folder; it compares nothing.

A final run is read from its manifest. Of one that has none (it goes on, or
was lost) there is what it has left so far. No link in the folder is followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agilab import environment, records, sums
from agilab.artifact import Artifact
from agilab.differences import as_number
from agilab.errors import EvidenceError, first_line
from agilab.run import FINAL_STATES, Run

SECTIONS = (
    *("run", "seed", "settings", "cluster", "code", "environment", "inputs", "plan", "metrics", "artifacts"),
    *("machine", "costs"),
)
"""What a cell may be about, in the order that is shown."""

_NONSENSE = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""What a record of the right schema and the wrong shape raises."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one run says under one name.

    Parameters
    ----------
    value
        A JSON value.
    source
        Where it came from, such as ``app file``; empty where that is not recorded.
    """

    value: Any
    source: str = ""


Cells = dict[str, Cell]


@dataclass(frozen=True, slots=True)
class Facts:
    """What one run says.

    Parameters
    ----------
    run
        The run.
    state
        Its state when it was read.
    app, app_uuid
        Name and identity of its app.
    started
        When, as ISO time; empty while it has no manifest.
    sections
        Section -> name -> cell; every one of `SECTIONS`.
    artifacts
        By ``stage/partition/name``.
    plans
        Stage -> sha256 of its plan; empty where it was not planned.
    """

    run: Run
    state: str
    app: str
    app_uuid: str
    started: str
    sections: Mapping[str, Cells]
    artifacts: Mapping[str, Artifact]
    plans: Mapping[str, str]

    @property
    def sealed(self) -> bool:
        """Whether it has a manifest."""
        return bool(self.started)

    def value(self, section: str, name: str) -> Any:
        """Return one value; None where there is none."""
        cell = self.sections[section].get(name)
        return None if cell is None else cell.value

    def to_json(self) -> dict[str, Any]:
        return {"run_id": self.run.run_id, "app": self.app, "state": self.state, "folder": str(self.run.paths.root)}


def read_facts(run: Run) -> Facts:
    """Read what a run says.

    Raises
    ------
    EvidenceError
        The folder cannot be read, or a record in it is of another shape than its schema says.
    """
    state = run.state
    if state == "unreadable":
        raise EvidenceError(f"run {run.run_id} cannot be read; see what is wrong with: agilab verify {run.run_id}")
    try:
        manifest = run.manifest if state in FINAL_STATES else {}
        request = manifest["request"] if manifest else _json(run, "request.json", "agilab.request/1")
        first = manifest["partitions"]["first"] if manifest else ()
        whole = bool(manifest) and len(first) == manifest["partitions"]["committed"]
        done = list(first if whole else records.read_records(run.paths))
        return _facts(run, state, manifest=manifest, request=request, done=done)
    except EvidenceError:
        raise
    except OSError as err:
        raise EvidenceError(f"run {run.run_id} cannot be read: {err.strerror}: {err.filename}") from err
    except _NONSENSE as err:
        why = f"a record in {run.paths.root} makes no sense ({first_line(err)}); see agilab verify {run.run_id}"
        raise EvidenceError(why) from err


def read_plan(facts: Facts, stage: str) -> dict[str, Cells]:
    """Return partition id -> what was planned for it in one stage; empty where it was not planned.

    Raises
    ------
    EvidenceError
        The plan cannot be read.
    """
    if not facts.plans.get(stage):
        return {}
    try:
        plan = _json(facts.run, f"plan/{stage}.json", "agilab.stage/1")
        return {str(part["id"]): dict(_planned(part)) for part in plan["partitions"]}
    except (EvidenceError, OSError, *_NONSENSE) as err:
        run_id = facts.run.run_id
        why = f"the plan of stage {stage!r:.100} of run {run_id} cannot be read ({first_line(err)})"
        raise EvidenceError(f"{why}; see agilab verify {run_id}") from err


def _facts(
    run: Run, state: str, *, manifest: Mapping[str, Any], request: Mapping[str, Any], done: list[dict[str, Any]]
) -> Facts:
    app = manifest.get("app") or request["app"]
    plans = dict(_plans(run, manifest))
    artifacts = {item.key: item for record in done for item in map(_artifact, record["artifacts"])}
    sections: dict[str, Cells] = {
        "run": _cells(app=app["name"], version=app.get("version"), state=state, error=manifest.get("error")),
        "seed": {"": Cell(request["seed"])},
        "settings": dict(_settings(request["settings"], request.get("provenance") or {})),
        "cluster": dict(_settings(request["cluster"], request.get("cluster_provenance") or {})),
        "code": dict(_code(manifest)) or {"code": Cell(request["code_digest"])},
        "environment": dict(_environment(manifest.get("environment") or {})),
        "inputs": dict(_inputs(manifest)),
        "plan": dict(_stages(run, manifest, plans)),
        "metrics": {name: Cell(_number(value)) for name, value in (manifest.get("metrics") or {}).items()},
        "artifacts": {key: Cell(_content(item)) for key, item in artifacts.items()},
        "machine": dict(_machine(manifest)),
        "costs": dict(_costs(manifest, done)),
    }
    started = str(manifest["started"] or manifest["created"]) if manifest else ""
    return Facts(run, state, str(app["name"]), str(app["uuid"]), started, sections, artifacts, plans)


def _cells(**values: Any) -> Cells:
    return {name: Cell(value) for name, value in values.items() if value is not None}


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of everything in nested tables; an empty table is a value."""
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _settings(values: Mapping[str, Any], provenance: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    for name, value in flat(values):
        known = name
        while known and known not in provenance:  # a table has one source
            known = known.rpartition(".")[0]
        yield name, Cell(value, str(provenance[known]["source"]) if known else "")


def _code(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    code = manifest.get("code")
    if not code:
        return
    for part in ("manager", "worker", "runtime"):
        yield part, Cell(code[f"{part}_digest"])
    yield "agilab", Cell(manifest["manager"]["agilab"])


def _environment(found: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    if not found:
        return
    for name in ("python", "platform", "isolated"):
        yield name, Cell(found[name])
    yield "cpu features", Cell(list(map(str, found["cpu_features"])))
    if found["differences"]:
        yield "other than locked", Cell(list(found["differences"]))
    for name, version in environment.pinned(found["lock"]).items():
        yield name, Cell(version)
    yield "lock", Cell(found["lock_sha256"])


def _inputs(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    data = manifest.get("data")
    if data:
        yield "data set", Cell(f"{data.get('distribution')} {data.get('version')}")
    for item in manifest.get("inputs") or ():
        yield item["path"], Cell({"sha256": str(item["sha256"]), "size_bytes": int(item["size_bytes"])})


def _plans(run: Run, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield stage and sha256 of its plan, hashing the files of a run without manifest."""
    if manifest:
        yield from ((stage["stage"], str(stage["plan_sha256"] or "")) for stage in manifest["stages"])
        return
    files, _ = sums.walk(str(run.paths.root))
    for path in sorted(path for path in files if path.startswith("plan/") and path.endswith(".json")):
        yield path[5:-5], sums.hash_file(f"{run.paths.root}/{path}")[0]


def _stages(run: Run, manifest: Mapping[str, Any], plans: Mapping[str, str]) -> Iterator[tuple[str, Cell]]:
    if manifest:
        planned = [(stage["stage"], stage["partitions"], stage["after"]) for stage in manifest["stages"]]
    else:
        read = [_json(run, f"plan/{name}.json", "agilab.stage/1") for name in plans]
        planned = [(plan["stage"], len(plan["partitions"]), plan["after"]) for plan in read]
    for name, count, after in planned:
        yield f"{name} partitions", Cell("not planned" if count is None else count)
        if after:
            yield f"{name} after", Cell(list(after))


def _planned(part: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    """Yield what decides about one partition; digests of what it reads are told as inputs and artifacts."""
    for name, value in flat({"params": part["params"], "resources": part["resources"]}):
        yield name, Cell(value)
    for name in ("weight", "pin", "timeout_s"):
        yield name, Cell(part[name])
    reads = [
        str(ref["path"]) if ref["type"] == "input" else f"{ref['stage']}/{ref['partition']}/{ref['name']}"
        for ref in part["inputs"]
    ]
    yield "reads", Cell(reads)


def _number(value: Any) -> Any:
    number = as_number(value)
    return value if number is None else number


def _artifact(value: Mapping[str, Any]) -> Artifact:
    item = Artifact.from_json(value)
    fits = all(isinstance(text, str) for name, text in value.items() if name != "size_bytes")
    if not fits or not isinstance(item.size_bytes, int):
        raise ValueError(f"no artifact: {value!r:.100}")
    return item


def _content(item: Artifact) -> dict[str, Any]:
    return {"kind": item.kind, "size_bytes": item.size_bytes, "sha256": item.sha256}


def _machine(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    if manifest:
        manager, backend = manifest["manager"], manifest["backend"]
        yield "hosts", Cell(list(backend["hosts"]))
        yield "workers", Cell(len(backend["workers"]))
        yield "manager", Cell(f"Python {manager['python']} on {manager['platform']}")
        git = (manifest.get("code") or {}).get("git") or {}  # the digests say whether the code differs
        yield from (("git " + name, Cell(git[name])) for name in ("commit", "dirty") if git.get(name) is not None)


def _costs(manifest: Mapping[str, Any], done: list[dict[str, Any]]) -> Iterator[tuple[str, Cell]]:
    if manifest:
        yield "duration_s", Cell(float(manifest["duration_s"]))
    stages: dict[str, list[dict[str, Any]]] = {}
    for record in done:
        stages.setdefault(record["stage"], []).append(record)
    for stage, found in stages.items():
        yield f"{stage}.wall_s", Cell(round(sum(record["wall_s"] for record in found), 3))
        yield f"{stage}.cpu_s", Cell(round(sum(record["cpu_s"] for record in found), 3))
        yield f"{stage}.peak_rss_bytes", Cell(max(int(record["peak_rss_bytes"]) for record in found))


def _json(run: Run, path: str, schema: str) -> dict[str, Any]:
    """Read a record of the folder, whatever the folder holds instead."""
    with open(sums.open_inside(str(run.paths.root), path), "rb", buffering=0) as file:
        value = records.parse(file.readall()) if os.fstat(file.fileno()).st_size <= _RECORD_BYTES else None
    if value is None or value.get("schema") != schema:
        raise EvidenceError(f"{run.paths.root}/{path} holds no record of schema {schema}")
    return value


_RECORD_BYTES = 256 << 20
"""Largest record that is read [bytes]."""
