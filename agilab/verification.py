"""Holds a run folder against its own records: every file hashed again, every record compared with the others.

It reads only, and trusts nothing that it reads: it follows no link and
opens no path that a record names before it has seen it in the folder itself.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from agilab import digest, records, sums
from agilab.errors import EvidenceError
from agilab.paths import NAME_PATTERN, RunPaths

_SUMS = "manifest-sha256.txt"
_MANIFEST = "run_manifest.json"
_PREPARED = "prepared.json"
_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4,}")
_EVENT_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as the record says.

    Parameters
    ----------
    path
        POSIX path in the run folder, or as the record spells it.
    problem
        ``changed``, ``missing``, ``unlisted`` (a file that the seal does not know), ``unrecorded`` (an artifact file
        that no record knows), ``link``, ``odd`` (not a regular file, or a name with control characters), ``unsafe`` (a
        path that leads outside), ``bad line``, ``bad hash``, ``duplicate``, ``mismatch`` (two records contradict each
        other), ``unreadable``, ``unsealed``.
    expected, found
        What the record says and what is there: digests, or a few words.
    """

    path: str
    problem: str
    expected: str = ""
    found: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Parameters
    ----------
    run_id
        Name of the folder.
    checked
        How many files were hashed.
    size_bytes
        How much they hold together [bytes].
    problems
        Everything that is wrong, sorted by path.
    elsewhere
        ``(path, host)`` of artifacts that lie on another host and were not looked at.
    sidecar
        ``(path, sha256)`` of what was added to the run after it ended, such as tags; no seal vouches for it.
    superseded
        Numbers of the earlier seals in ``seals/``, which were held against the folder too.
    """

    run_id: str
    checked: int
    size_bytes: int
    problems: tuple[Problem, ...]
    elsewhere: tuple[tuple[str, str], ...] = ()
    sidecar: tuple[tuple[str, str], ...] = ()
    superseded: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "agilab.verification/1",
            "run_id": self.run_id,
            "ok": self.ok,
            "checked": self.checked,
            "size_bytes": self.size_bytes,
            "problems": [asdict(problem) for problem in self.problems],
            "elsewhere": [{"path": path, "host": host} for path, host in self.elsewhere],
            "sidecar": [{"path": path, "sha256": sha256} for path, sha256 in self.sidecar],
            "superseded": list(self.superseded),
        }


def verify(paths: RunPaths) -> Verification:
    """Hash every file of a run again and hold the records against each other.

    It reads only, in pieces, and never follows a link. What it cannot see is
    a folder whose every record, seal included, was rewritten to agree: that
    takes a signature or a digest kept elsewhere.

    Parameters
    ----------
    paths
        The run folder.

    Returns
    -------
    Verification
        ``ok`` only when the run is sealed and nothing contradicts anything.
    """
    check = _Check(paths)
    check.folder()
    # Records that differ from the seal would contradict everything else too; their own names say enough.
    if all(problem.path.startswith("artifacts/") for problem in check.problems) or not check.sealed:
        check.records()
        check.artifacts()
        if check.sealed:
            with check.guard(_MANIFEST):
                check.identity()
        steps = (check.totals, check.request, check.prepared, check.plans, check.outcome, check.superseded)
        for step in steps if check.manifest else ():
            with check.guard(_MANIFEST):
                step()
    check.sidecar()
    problems = sorted(dict.fromkeys(check.problems), key=lambda problem: (problem.path, problem.problem))
    return Verification(
        run_id=paths.run_id,
        checked=len(check.hashes),
        size_bytes=sum(size for _, size in check.hashes.values()),
        problems=tuple(problems),
        elsewhere=tuple(sorted(check.elsewhere)),
        sidecar=tuple(sorted(check.added.items())),
        superseded=tuple(check.seals),
    )


@dataclass(slots=True)
class _Check:
    """One verification under way: what was read so far, and what is wrong with it."""

    paths: RunPaths
    problems: list[Problem] = field(default_factory=list)
    sealed: bool = False
    listed: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, tuple[str, int]] = field(default_factory=dict)
    lines: dict[str, bytes] = field(default_factory=dict)
    all_lines: list[bytes] = field(default_factory=list)
    by_id: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    elsewhere: set[tuple[str, str]] = field(default_factory=set)
    manifest: dict[str, Any] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    seals: list[int] = field(default_factory=list)

    def add(self, path: str, problem: str, expected: object = "", found: object = "") -> None:
        self.problems.append(Problem(str(path), problem, _words(expected), _words(found)))

    @contextmanager
    def guard(self, path: str) -> Iterator[None]:
        """Turn what a malformed record breaks into a problem of its file."""
        try:
            yield
        except (OSError, EvidenceError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as err:
            self.add(path, "unreadable", "a record of its schema", f"{type(err).__name__}: {err}")

    def folder(self) -> None:
        """Hold the files against the seal."""
        root = str(self.paths.root)
        try:
            files, odd = sums.walk(root)
        except OSError as err:
            self.add(".", "unreadable", "a run folder", err)
            return
        for path, what in odd.items():
            self.add(path, what, "a regular file")
        for name in sums.OUTSIDE:
            if (self.paths.root / name).is_symlink():
                self.add(name, "link", "a file or a folder")
        self._read_sums()
        present = set(files)
        for path in self.listed.keys() - present - odd.keys():
            self.add(path, "missing", self.listed[path], "no file")
        if self.sealed:
            for path in present - self.listed.keys():
                self.add(path, "unlisted", "no file", "a file that the seal does not list")
        wanted = [path for path in files if (path in self.listed if self.sealed else path.startswith("artifacts/"))]
        self.hashes = sums.hash_all(root, wanted, lambda path, err: self.add(path, "unreadable", "a file", err))
        for path, (found, _) in self.hashes.items():
            expected = self.listed.setdefault(path, found)
            if found != expected:
                self.add(path, "changed", expected, found)

    def _read_sums(self) -> None:
        try:
            text = sums.read_file(str(self.paths.sums)).decode()
        except FileNotFoundError:
            self.add(_SUMS, "unsealed", "a seal", "no file: the run has not ended, or was lost")
            return
        except (OSError, EvidenceError, ValueError) as err:
            self.add(_SUMS, "unreadable", "a list of digests and paths", err)
            return
        self.sealed = True
        count = len(self.problems)
        for number, sha256, path in sums.from_text(text):
            where = f"line {number} of {_SUMS}"
            if not sha256:
                self.add(_SUMS, "bad line", "64 hexadecimal digits, two spaces, a path", f"line {number}: {path}")
            elif not sums.safe_path(path) or path.split("/")[0] in sums.NOT_LISTED:
                self.add(path, "unsafe", "a path that a seal may list", where)
            elif path in self.listed:
                self.add(path, "duplicate", "one line per path", where)
            else:
                self.listed[path] = sha256
        if len(self.problems) == count and text.encode() != sums.to_text(self.listed):
            self.add(_SUMS, "bad line", "lines sorted by path, each with a line end", "another order, or no line end")
        if _MANIFEST not in self.listed:
            self.add(_MANIFEST, "unsealed", f"a line in {_SUMS}", "none")

    def records(self) -> None:
        """Read ``partitions/*.jsonl``."""
        folder = self.paths.partitions
        for file_path in sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else ():
            path = f"partitions/{file_path.name}"
            with self.guard(path), open(sums.open_file(str(file_path)), "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        self._take_record(path, number, line)

    def _take_record(self, path: str, number: int, line: bytes) -> None:
        self.all_lines.append(line)
        record = records.parse(line)
        if record is None or record.get("schema") != records.SCHEMA:
            self.add(path, "unreadable", f"a record of schema {records.SCHEMA}", f"line {number}")
            return
        ident, stage = record["partition"], record["stage"]
        if not (NAME_PATTERN.fullmatch(ident) and NAME_PATTERN.fullmatch(stage)):
            self.add(path, "unsafe", "names of a stage and a partition", f"line {number}: {stage!r}, {ident!r}")
        elif ident in self.by_id:
            self.add(path, "duplicate", "one record per partition", f"line {number}: {ident}")
        elif records.record_line(record) != line:
            self.add(path, "bad line", "canonical JSON", f"line {number}")
        else:
            self.by_id[ident] = record
            self.lines[ident] = line

    def artifacts(self) -> None:
        """Hold what each record says against the files, its copy and its inputs."""
        recorded = set()
        for ident, record in self.by_id.items():
            folder = f"artifacts/{record['stage']}/{ident}/"
            recorded.add(folder + records.COPY)
            with self.guard(folder + records.COPY):
                self._check_copy(folder + records.COPY, self.lines[ident])
                for artifact in record["artifacts"]:
                    self._check_artifact(artifact, record, folder)
                    recorded.add(artifact["path"])
        for path in self.hashes:
            if path.startswith("artifacts/") and path not in recorded:
                self.add(path, "unrecorded", "a partition record that names it", "none")

    def _check_copy(self, path: str, line: bytes) -> None:
        if path not in self.hashes:
            self.add(path, "missing", "a copy of the partition's record", "no file")
        elif self.hashes[path][0] not in (digest.of_bytes(line), digest.of_bytes(line[:-1])):
            copy = records.parse(sums.read_file(f"{self.paths.root}/{path}"))
            if copy is None or records.record_line(copy) != line:
                self.add(path, "mismatch", "the partition's record in partitions/", "another record")

    def _check_artifact(self, artifact: Mapping[str, Any], record: Mapping[str, Any], folder: str) -> None:
        path, expected = artifact["path"], artifact["sha256"]
        if not sums.safe_path(path) or not path.startswith(folder) or path == folder + records.COPY:
            self.add(path, "unsafe", f"a path inside {folder}", path)
            return
        if (artifact["stage"], artifact["partition"]) != (record["stage"], record["partition"]):
            self.add(path, "mismatch", f"{record['stage']}/{record['partition']}", "another stage or partition")
        if not (isinstance(expected, str) and sums.HASH.fullmatch(expected)):
            self.add(path, "bad hash", "64 hexadecimal digits", expected)
        self.outputs[f"{artifact['stage']}/{artifact['partition']}/{artifact['name']}"] = dict(artifact)
        if artifact["location"]:
            self.elsewhere.add((path, str(artifact["location"])))
            self._same(path, "hashed_by of what lies elsewhere", "worker", artifact["hashed_by"])
            if path in self.hashes:
                self.add(path, "mismatch", f"no file here: it lies on {artifact['location']} (its record)", "a file")
        elif path not in self.listed:
            self.add(path, "missing", expected, "not in the seal" if self.sealed else "no file")
        elif self.listed[path] != expected:
            self.add(path, "mismatch", f"{expected} (its record)", self.listed[path])
        elif path in self.hashes and self.hashes[path][0] == expected:
            self._same(path, "size_bytes in its record", artifact["size_bytes"], self.hashes[path][1])

    def identity(self) -> None:
        """Read the manifest; see that it is of this run."""
        manifest = self._json(_MANIFEST, "agilab.run/1")
        name, parent = self.paths.run_id, self.paths.app
        if _RUN_ID.fullmatch(name):
            self._same(_MANIFEST, "run_id", manifest["run_id"], name)
            if self.paths.root.parent.parent.name == "runs":
                self._same(_MANIFEST, "app.name", manifest["app"]["name"], parent)
        environment = manifest["environment"]
        if environment is not None:
            lock = digest.of_bytes(environment["lock"].encode())
            self._same(_MANIFEST, "environment.lock_sha256", environment["lock_sha256"], lock)
        self.manifest = manifest

    def totals(self) -> None:
        """Hold the manifest's counts and digest against the records."""
        manifest, partitions = self.manifest, self.manifest["partitions"]
        self._same(_MANIFEST, "partitions.digest", partitions["digest"], records.records_digest(self.all_lines))
        self._same(_MANIFEST, "partitions.committed", partitions["committed"], len(self.all_lines))
        self._same(
            _MANIFEST, "partitions.first", len(partitions["first"]), min(records.FIRST_RECORDS, len(self.all_lines))
        )
        for record in partitions["first"]:
            if self.lines.get(record["partition"]) != records.record_line(record):
                self.add(_MANIFEST, "mismatch", "records as in partitions/", f"partitions.first: {record['partition']}")
        artifacts = [artifact for record in self.by_id.values() for artifact in record["artifacts"]]
        expected = records.count_artifacts(self.by_id.values())
        for name in ("count", "size_bytes", "elsewhere"):
            self._same(_MANIFEST, f"artifacts.{name}", manifest["artifacts"].get(name), expected.get(name))
        for stage in manifest["stages"]:
            if "workers" in stage:  # earlier releases did not say who has done what
                planned = {share["worker"]: share["planned"] for share in stage["workers"]}
                done = [record for record in self.by_id.values() if record["stage"] == stage["stage"]]
                by_worker = _committed(records.shares(planned, done))
                self._same(_MANIFEST, f"stages.{stage['stage']}.workers", _committed(stage["workers"]), by_worker)
        if manifest["state"] == "succeeded":
            self._same(_MANIFEST, "partitions.committed", partitions["committed"], partitions["count"])
            for artifact in artifacts:
                if artifact["hashed_by"] != "manager" and not artifact["location"]:
                    self.add(artifact["path"], "mismatch", "hashed_by manager", f"hashed_by {artifact['hashed_by']}")

    def request(self) -> None:
        """Hold the manifest's request against ``request.json``, and its digest against its content."""
        request = self._json("request.json", "agilab.request/1")
        if digest.of_json(request) != digest.of_json(self.manifest["request"]):
            self.add("request.json", "mismatch", f"the request in {_MANIFEST}", "another request")
        self._same("request.json", "digest", request["digest"], records.request_digest(request))
        for name in ("name", "uuid"):
            self._same(_MANIFEST, f"app.{name}", self.manifest["app"][name], request["app"][name])
        if self.manifest["code"] is not None:
            self._same(_MANIFEST, "code.code_digest", self.manifest["code"]["code_digest"], request["code_digest"])

    def prepared(self) -> None:
        """Hold what was prepared before the first dispatch against the manifest; earlier releases did not record it."""
        if _PREPARED not in self.listed:
            return
        value, manifest = self._json(_PREPARED, "agilab.prepared/1"), self.manifest
        for name in ("app", "data", "code"):
            self._same(_PREPARED, f"{name} in {_MANIFEST}", manifest[name], value[name])
        planned = [(stage["stage"], stage["after"]) for stage in manifest["stages"]]
        self._same(_PREPARED, f"stages in {_MANIFEST}", planned, [(s["stage"], s["after"]) for s in value["stages"]])
        for what, recorded, found in (
            ("inputs", manifest["inputs"], value["inputs"]),
            ("backend.workers", manifest["backend"]["workers"], value["backend"]["workers"]),
        ):
            missing = [item for item in found if item not in recorded]
            self._same(_PREPARED, f"{what} that {_MANIFEST} lacks", [], missing)

    def plans(self) -> None:
        """Hold the manifest's stages and the records against ``plan/``."""
        planned: dict[str, dict[str, Any]] = {}
        stages = {stage["stage"]: stage for stage in self.manifest["stages"]}
        committed = Counter(record["stage"] for record in self.by_id.values())
        listed = {(item["path"], item["sha256"], item["size_bytes"]) for item in self.manifest["inputs"]}
        for path in self.hashes:
            if path.startswith("plan/") and path.removeprefix("plan/").removesuffix(".json") not in stages:
                self.add(path, "mismatch", f"a stage in {_MANIFEST}", "none")
        for name, stage in stages.items():
            path = f"plan/{name}.json"
            if stage["plan_sha256"] is None and path not in self.listed:
                continue
            self._same(path, f"stages.{name}.plan_sha256 in {_MANIFEST}", stage["plan_sha256"], self.listed.get(path))
            partitions = self._json(path, "agilab.stage/1")["partitions"]
            self._same(path, f"stages.{name}.partitions in {_MANIFEST}", stage["partitions"], len(partitions))
            planned.update({part["id"]: part for part in partitions})
            self._same(path, f"stages.{name}.committed in {_MANIFEST}", stage["committed"], committed[name])
            for part in partitions:
                self._check_listed(path, part, listed)
        count = sum(stage["partitions"] or 0 for stage in stages.values())
        self._same(_MANIFEST, "partitions.count", self.manifest["partitions"]["count"], count)
        for ident, record in self.by_id.items():
            path = f"artifacts/{record['stage']}/{ident}/{records.COPY}"
            if ident not in planned or planned[ident]["stage"] != record["stage"]:
                self.add(path, "mismatch", f"a partition of plan/{record['stage']}.json", ident)
            else:
                self._check_inputs(path, planned[ident]["inputs"], record["inputs"])

    def _check_listed(self, path: str, part: Mapping[str, Any], listed: set[tuple[str, str, int]]) -> None:
        for ref in part["inputs"]:
            if ref["type"] == "input" and (ref["path"], ref["sha256"], ref["size_bytes"]) not in listed:
                self.add(path, "mismatch", f"an input in {_MANIFEST}", f"{ref['path']} {ref['sha256']}")

    def _check_inputs(self, path: str, planned: Sequence[Any], used: Sequence[Any]) -> None:
        """See that a partition read exactly what was planned, artifacts with the digest they were committed with."""
        expected = {}
        for ref in planned:
            if ref["type"] == "input":
                expected[ref["name"]] = ref["sha256"]
            else:
                key = f"{ref['stage']}/{ref['partition']}/{ref['name']}"
                sha256 = self.outputs.get(key, {}).get("sha256")
                expected[key] = sha256
                if ref["sha256"]:
                    self._same(path, f"input {key}", ref["sha256"], sha256)
        found = {item["name"]: item["sha256"] for item in used}
        for name in expected.keys() | found.keys():
            self._same(path, f"input {name}", expected.get(name), found.get(name))

    def outcome(self) -> None:
        """Hold the first and the last event against the manifest."""
        with open(sums.open_file(str(self.paths.events)), "rb") as file:
            first = records.parse(file.readline(_EVENT_LIMIT)) or {}
            file.seek(max(0, file.seek(0, os.SEEK_END) - _EVENT_LIMIT))
            last = records.parse(file.read().split(b"\n")[-2]) or {}
        expected = ("created", self.manifest["run_id"], self.manifest["request"]["digest"])
        self._same("events.jsonl", "created", expected, tuple(map(first.get, ("event", "run_id", "request_digest"))))
        ended = ("state", "sealing", self.manifest["state"])
        self._same("events.jsonl", "last event", ended, tuple(map(last.get, ("event", "state", "outcome"))))

    def superseded(self) -> None:
        """Hold every earlier seal against the folder: what has changed since lies beside it, or beside a later one."""
        folders = {path.split("/")[1] for path in self.hashes if path.startswith("seals/")}
        self.seals = sorted(int(name) for name in folders if name.isdecimal())
        for name in sorted(folders):
            seal = f"seals/{name}/{_SUMS}"
            if not name.isdecimal() or seal not in self.hashes:
                self.add(f"seals/{name}", "mismatch", f"an earlier seal with its {_SUMS}", "none")
                continue
            text = sums.read_file(f"{self.paths.root}/{seal}").decode()
            for number, sha256, path in sums.from_text(text):
                kept = (f"seals/{later}/{path}" for later in self.seals if later >= int(name))
                found = next((self.hashes[at][0] for at in (*kept, path) if at in self.hashes), "no file")
                if not sha256 or found != sha256:
                    self.add(seal, "mismatch", f"line {number}: {sha256} {path}", found)
        resumed = sums.read_file(str(self.paths.events)).count(b'"event":"resumed"')
        self._same("events.jsonl", f"attempt in {_MANIFEST}", self.manifest["attempt"], 1 + resumed)

    def sidecar(self) -> None:
        """Hash what was added after the end; links and what is no file are problems there too."""
        root = self.paths.sidecar
        if not root.is_dir() or root.is_symlink():
            return
        with self.guard("sidecar"):
            files, odd = sums.walk(str(root))
            for path, what in odd.items():
                self.add(f"sidecar/{path}", what, "a regular file")
            hashed = sums.hash_all(
                str(root), files, lambda path, err: self.add(f"sidecar/{path}", "unreadable", "", err)
            )
            self.added = {f"sidecar/{path}": sha256 for path, (sha256, _) in hashed.items()}

    def _json(self, path: str, schema: str) -> dict[str, Any]:
        value = records.parse(sums.read_file(f"{self.paths.root}/{path}")) if path in self.hashes else None
        if value is None or value.get("schema") != schema:
            raise ValueError(f"{path} holds no record of schema {schema}")
        return value

    def _same(self, path: str, what: str, expected: object, found: object) -> None:
        if expected != found or isinstance(expected, bool) != isinstance(found, bool):
            self.add(path, "mismatch", f"{what}: {expected}", found)


def _committed(shares: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {share["worker"]: share["committed"] for share in shares}


def _words(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"
