"""Builds run folders for tests: complete and realistic, with real hashes, by the public functions of the library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

from agilab import manifest, prepared
from agilab.artifact import KINDS
from agilab.digest import canonical_json, of_bytes
from agilab.events import EventLog
from agilab.paths import HomePaths, RunPaths, make_folder, write_file, write_json
from agilab.records import request_digest
from agilab.run import RunStore

UUID = "0d9f3d6e-6b0f-4e4c-9c0e-8f7d0c1f2a3b"
SCHEMAS = {
    path.stem: json.loads(path.read_text()) for path in Path(manifest.__file__).with_name("schemas").glob("*.json")
}
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)
MOMENT = 1_700_000_000.0
INPUT = {"path": "flights.csv", "size_bytes": 6, "sha256": of_bytes(b"a,b\n1\n")}
LOCK = "pyarrow==17.0.0 \\\n    --hash=sha256:" + "1" * 64 + "\n"


class RunFolder:
    """A run folder that grows step by step, as its owner would write it.

    Parameters
    ----------
    home
        AGILAB_HOME.
    app
        Name of the app.
    partitions
        How many the stage ``tracks`` has; ``summary`` has one that reads the artifacts of all of them.
    settings
        Values instead of those every run has.
    uuid
        Of the app.

    Attributes
    ----------
    away
        Names of artifacts that stay on a host, from now on.
    there
        The folder that is the run's on that host, ``alpha``.
    """

    def __init__(
        self,
        home: Path,
        *,
        app: str = "flights",
        partitions: int = 3,
        moment: float = MOMENT,
        settings: Mapping[str, Any] | None = None,
        uuid: str = UUID,
    ) -> None:
        self.home = HomePaths(home)
        self.paths: RunPaths = RunStore(self.home).create(app, now=moment)
        self.away: frozenset[str] = frozenset()
        self.there = home / "alpha" / self.paths.run_id
        self.records: list[dict[str, Any]] = []
        self.known: dict[str, str] = {}
        self.tracks = [f"p{number}" for number in range(partitions)]
        for folder in (self.paths.plans, self.paths.logs, self.paths.partitions, self.paths.staging):
            make_folder(folder)
        self.request = _request(app, uuid, settings or {})
        write_json(self.paths.request, self.request)
        self.log = EventLog(self.paths.events, now=lambda: moment, monotonic=lambda: 1.5)
        created = {"schema": "agilab.events/1", "run_id": self.paths.run_id, "app": app}
        self.log.append("created", {**created, "request_digest": self.request["digest"], "attempt": 1})
        for state in ("queued", "installing", "running"):
            self.log.append("state", {"state": state})

    def plan(self) -> None:
        """Write the plans of both stages."""
        ref = {"type": "input", "name": "flights", **INPUT}
        self._plan("tracks", [], [_partition(name, "tracks", [ref]) for name in self.tracks])
        made = [item for record in self.records for item in record["artifacts"] if item["name"] == "points"]
        keys = ("stage", "partition", "name", "sha256", "size_bytes")
        refs = [{"type": "artifact", **{key: item[key] for key in keys}} for item in made]
        self._plan("summary", ["tracks"], [_partition("summary", "summary", refs)])

    def commit(
        self,
        stage: str,
        partition: str,
        *,
        worker: str = "local-0",
        files: Mapping[str, bytes],
        kinds: Mapping[str, str] | None = None,
        steps: Mapping[int, float] | None = None,
    ) -> None:
        """Leave a partition's files, its record and the record's copy; text unless `kinds` says otherwise."""
        folder = make_folder(self.paths.partition(stage, partition))
        known = kinds or {}
        artifacts = [
            _artifact(stage, partition, name, data, suffix=_suffix(known.get(name))) | _kind(known.get(name))
            for name, data in files.items()
        ]
        for item, data in zip(artifacts, files.values(), strict=True):
            self._leave(item, data)
        used = [{"name": "flights", "sha256": INPUT["sha256"], "size_bytes": INPUT["size_bytes"]}]
        if stage == "summary":
            used = [
                {"name": f"{item['stage']}/{item['partition']}/{item['name']}", **_pick(item, "sha256", "size_bytes")}
                for record in self.records
                for item in record["artifacts"]
                if item["name"] == "points"
            ]
        record = {
            "schema": "agilab.partition/1",
            "partition": partition,
            "stage": stage,
            "worker": worker,
            "host": "here",
            "attempt": 1,
            "started": "2023-11-14T22:13:20.000Z",
            "ended": "2023-11-14T22:13:21.500+00:00",
            "wall_s": 1.5,
            "cpu_s": 1.25,
            "peak_rss_bytes": 50_000_000,
            "inputs": used,
            "artifacts": artifacts,
            "metrics": [
                {"name": "rows", "value": float(len(self.records)), "step": None},
                *({"name": "loss", "value": value, "step": step} for step, value in (steps or {}).items()),
            ],
            **({"folder": str(self.there)} if self.away.intersection(files) else {}),
        }
        line = manifest.record_line(record)
        write_file(folder / "partition.json", line, durable=False)
        with open(self.paths.records(worker), "ab") as file:
            file.write(line)
        self.known[f"artifacts/{stage}/{partition}/partition.json"] = of_bytes(line)
        self.records.append(record)
        ids = {"partition": partition, "stage": stage, "worker": worker, "attempt": 1}
        self.log.append("dispatched", ids)
        self.log.append("metric", {"partition": partition, "name": "rows", "value": 3.0, "step": None})
        self.log.append("committed", ids)

    def _leave(self, item: dict[str, Any], data: bytes) -> None:
        """Write an artifact, here or where it is to stay."""
        if item["name"] in self.away:
            item |= {"hashed_by": "worker", "location": "alpha"}
            make_folder((self.there / item["path"]).parent)
            (self.there / item["path"]).write_bytes(data)
        else:
            (self.paths.root / item["path"]).write_bytes(data)
            self.known[item["path"]] = item["sha256"]

    def commit_all(self) -> RunFolder:
        """Commit every partition of both stages, and write the plans."""
        for number, name in enumerate(self.tracks):
            files = {"points": f"points of {name}\n".encode() * 20, "note": f"note of {name}\n".encode()}
            self.commit("tracks", name, worker=f"local-{number % 2}", files=files)
        self.plan()
        self.prepare()
        self.commit("summary", "summary", files={"totals": b'{"rows": 3}\n'})
        return self

    def prepare(self) -> None:
        """Record what was prepared before the first dispatch, unless nothing was installed."""
        facts = self.facts()
        if facts["code"] is None:
            return
        stages = [{"stage": stage["stage"], "after": stage["after"], "retries": 0} for stage in facts["stages"]]
        classes = {"app_class": "flights:Flights", "worker_class": "flights_worker:FlightsWorker"}
        known = ("app", "inputs", "data", "code", "environment", "manager", "backend")
        prepared.write(
            self.paths,
            {
                **{name: facts[name] for name in known},
                "stages": stages,
                "place": {
                    "root": "/somewhere/flights_project",
                    **classes,
                    "dependencies": [],
                    "kinds": {},
                    "worker_code": facts["code"]["worker_digest"],
                },
            },
        )

    def facts(self, state: str = "succeeded", error: str | None = None) -> dict[str, Any]:
        """Return what the manifest says besides the records."""
        digests = {name: of_bytes(name.encode()) for name in ("manager_digest", "worker_digest", "runtime_digest")}
        return {
            "run_id": self.paths.run_id,
            "app": {**self.request["app"], "version": "1.0", "license": "BSD-3-Clause", "description": "flights"},
            "state": state,
            "error": error,
            "attempt": 1,
            "created": "2023-11-14T22:13:20Z",
            "started": "2023-11-14T22:13:20.5Z",
            "ended": "2023-11-14T22:13:25Z",
            "duration_s": 5.0,
            "request": self.request,
            "inputs": [INPUT],
            "data": None,
            "code": {
                "code_digest": self.request["code_digest"],
                **digests,
                "git": {"commit": "a1b2c3", "dirty": False},
            },
            "environment": {
                "digest": of_bytes(b"environment"),
                "python": "3.12.1",
                "platform": "linux-x86_64",
                "cpu_features": ["avx2"],
                "lock_sha256": of_bytes(LOCK.encode()),
                "lock": LOCK,
                "isolated": True,
                "differences": [],
            },
            "manager": {"agilab": "0.1.0", "python": "3.12.1", "platform": "linux-x86_64", "host": "here"},
            "backend": {"name": "local", "hosts": ["here"], "workers": ["local-0", "local-1"]},
            "stages": [
                {
                    "stage": stage,
                    "after": after,
                    "partitions": count,
                    "plan_sha256": of_bytes(self.paths.plan(stage).read_bytes()),
                }
                for stage, after, count in (("tracks", [], len(self.tracks)), ("summary", ["tracks"], 1))
                if self.paths.plan(stage).exists()
            ],
            "metrics": {"rows": 3.0},
            "reproduce": "agilab run --request request.json",
        }

    def seal(self, state: str = "succeeded", error: str | None = None) -> RunPaths:
        """End the run."""
        (self.paths.logs / "local-0.log").write_bytes(b"hello \x1b[31mred\x1b[0m\n")
        (self.paths.logs / "supervisor.log").write_bytes(b"")
        self.log.append("state", {"state": "sealing", "outcome": state, "error": error})
        self.log.close()
        manifest.seal(self.paths, manifest.build(self.facts(state, error), self.records), self.known)
        return self.paths

    def _plan(self, stage: str, after: list[str], parts: list[dict[str, Any]]) -> None:
        ids = [part["id"] for part in parts]
        value = {"schema": "agilab.stage/1", "stage": stage, "after": after, "retries": 0}
        value = {**value, "partitions": parts, "assignment": {"local-0": ids[::2], "local-1": ids[1::2]}}
        write_file(self.paths.plan(stage), canonical_json(value) + b"\n", durable=False)


def sealed_run(home: Path, *, app: str = "flights", partitions: int = 3, moment: float = MOMENT) -> RunPaths:
    """Return a succeeded run."""
    return RunFolder(home, app=app, partitions=partitions, moment=moment).commit_all().seal()


def conform(value: object, schema: str) -> None:
    """Fail unless a value is what a shipped schema says."""
    validator = jsonschema.Draft202012Validator(SCHEMAS[schema.replace("/", "-")], registry=REGISTRY)
    validator.validate(value)


def _request(app: str, uuid: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = {
        "schema": "agilab.request/1",
        "app": {"name": app, "uuid": uuid},
        "code_digest": of_bytes(b"code"),
        "settings": {"sample_s": 60, "token": "env:TOKEN", **settings},
        "provenance": {
            "sample_s": {"source": "workspace file", "where": "app_settings.toml:3"},
            "token": {"source": "default", "where": ""},
        },
        "cluster": {"backend": "local", "workers": 2, "timeout_s": None},
        "cluster_provenance": {"backend": {"source": "default", "where": ""}},
        "seed": 7,
    }
    return {**request, "digest": request_digest(request)}


def _partition(ident: str, stage: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    rest = {"weight": 1.0, "pin": "", "resources": {"gpu": 1}, "timeout_s": None}
    return {"id": ident, "stage": stage, "params": {"number": 1}, "inputs": inputs, **rest}


def _artifact(stage: str, partition: str, name: str, data: bytes, *, suffix: str = ".txt") -> dict[str, Any]:
    return {
        "stage": stage,
        "partition": partition,
        "name": name,
        "kind": "text",
        "path": f"artifacts/{stage}/{partition}/{name}{suffix}",
        "size_bytes": len(data),
        "sha256": of_bytes(data),
        "hashed_by": "manager",
        "location": "",
    }


def _kind(name: str | None) -> dict[str, str]:
    return {"kind": name} if name else {}


def _suffix(kind: str | None) -> str:
    """Return the ending of a kind's files: tables for ``<app>.<name>``, the one it always had for what is text here."""
    found = KINDS[kind].suffix if kind in KINDS else ".parquet" if "." in (kind or "") else ".txt"
    return found if found in (".parquet", ".png", ".skops") else ".txt"


def _pick(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value[name] for name in names}
