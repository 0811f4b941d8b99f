"""Runs side by side: what differs is named, what does not is not, and no folder can make it look elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agilab import AgiEnv, Run, Stage
from agilab.compare import Comparison, compare
from agilab.differences import Tolerance
from agilab.digest import of_bytes
from agilab.errors import EvidenceError
from agilab.facts import Facts, read_facts
from agilab.owner import hold_owner
from agilab.paths import write_file
from agilab.testing.probe import Bench, do, make_probe
from tests.run_folder import LOCK, MOMENT, RunFolder, conform

MadeRun = Callable[..., Run]


class Variant(RunFolder):
    """A run folder whose manifest says something else than that of every other one."""

    def __init__(self, home: Path, *, said: Mapping[str, Any] | None = None, **how: Any) -> None:
        super().__init__(home, **how)
        self.said = dict(said or {})

    def facts(self, state: str = "succeeded", error: str | None = None) -> dict[str, Any]:
        """Return what the manifest says, with what differs."""
        found = super().facts(state, error)
        for name, value in self.said.items():
            found[name] = {**found[name], **value} if isinstance(value, dict) and name != "metrics" else value
        return found


@pytest.fixture
def env(home: Path) -> AgiEnv:
    """Return an environment with folders of its own."""
    return AgiEnv()


@pytest.fixture
def made(home: Path) -> MadeRun:
    """Return ``made(...)``: a sealed run; each is a second younger than the one before."""
    count = 0

    def make(
        *,
        files: Mapping[str, bytes] | None = None,
        kinds: Mapping[str, str] | None = None,
        said: Mapping[str, Any] | None = None,
        **how: Any,
    ) -> Run:
        nonlocal count
        count += 1
        folder = Variant(home, said=said, moment=MOMENT + count, **how)
        if files is None:
            folder.commit_all()
        else:
            folder.commit("tracks", "p0", files=files, kinds=kinds)
            folder.plan()
        return Run(folder.seal())

    return make


def differing(found: Comparison) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Return section and name -> the value of every run."""
    return {
        (row.section, row.name): tuple(cell.value if cell else None for cell in row.cells) for row in found.differences
    }


def test_two_runs_of_one_request_do_not_differ(env: AgiEnv, made: MadeRun) -> None:
    found = compare(env, [made(), made()])
    assert found.differences == ()
    assert found.artifacts == {}
    value = found.to_json()
    conform(value, "agilab.comparison/1")
    assert not value["differ"]
    assert value["rows"] == []
    assert len(found.to_json(everything=True)["rows"]) == len(found.rows) > 20


def test_a_run_does_not_differ_from_itself(env: AgiEnv, made: MadeRun) -> None:
    run = made()
    assert compare(env, [run, run]).differences == ()


def test_settings_are_told_with_where_they_came_from(env: AgiEnv, made: MadeRun) -> None:
    found = compare(env, [made(), made(settings={"sample_s": 30, "model": {"depth": 3}})])
    assert differing(found) == {("settings", "sample_s"): (60, 30), ("settings", "model.depth"): (None, 3)}
    [row, _] = found.differences
    assert [cell.source for cell in row.cells if cell] == ["workspace file", "workspace file"]


@pytest.mark.parametrize(
    ("said", "section", "name", "values"),
    [
        ({"environment": {"python": "3.13.0"}}, "environment", "python", ("3.12.1", "3.13.0")),
        ({"environment": {"isolated": False}}, "environment", "isolated", (True, False)),
        ({"environment": {"cpu_features": ["avx2", "avx512f"]}}, "environment", "cpu features", ([], ["avx512f"])),
        ({"metrics": {"rows": 4.0}}, "metrics", "rows", (3.0, 4.0)),
        ({"manager": {"agilab": "9.9"}}, "code", "agilab", ("0.1.0", "9.9")),
        ({"app": {"version": "2.0"}}, "run", "version", ("1.0", "2.0")),
        ({"code": {"worker_digest": "0" * 64}}, "code", "worker", (of_bytes(b"worker_digest"), "0" * 64)),
        ({"inputs": []}, "inputs", "flights.csv", ({"sha256": of_bytes(b"a,b\n1\n"), "size_bytes": 6}, None)),
    ],
)
def test_every_section_is_compared(
    env: AgiEnv, made: MadeRun, said: Mapping[str, Any], section: str, name: str, values: tuple[Any, ...]
) -> None:
    found = compare(env, [made(), made(said=said)])
    assert differing(found) == {(section, name): values}
    conform(found.to_json(), "agilab.comparison/1")


@pytest.mark.parametrize(
    "said",
    [
        {"duration_s": 99.0},
        {"backend": {"hosts": ["elsewhere"], "workers": ["local-0"]}},
        {"code": {"git": {"commit": "ffff", "dirty": True}}},
        {"manager": {"python": "3.13.0", "host": "elsewhere"}},
    ],
)
def test_how_it_went_is_information_and_no_difference(env: AgiEnv, made: MadeRun, said: Mapping[str, Any]) -> None:
    found = compare(env, [made(), made(said=said)])
    assert found.differences == ()
    assert any(not row.same for row in found.rows)


def test_packages_are_compared_by_their_locks(env: AgiEnv, made: MadeRun) -> None:
    lock = LOCK.replace("17.0.0", "18.0.0") + "numpy==2.1 ; python_version < '3.12' \\\n    --hash=sha256:" + "2" * 64
    environment = {"lock": lock, "lock_sha256": of_bytes(lock.encode())}
    found = differing(compare(env, [made(), made(said={"environment": environment})]))
    assert found["environment", "pyarrow"] == ("17.0.0", "18.0.0")
    assert found["environment", "numpy"] == (None, "2.1 (python_version < '3.12')")


def test_metrics_are_compared_within_the_tolerance_and_nan_is_nan(env: AgiEnv, made: MadeRun) -> None:
    old = made(said={"metrics": {"a": 100.0, "b": float("nan"), "c": 1.0, "d": float("inf")}})
    new = made(said={"metrics": {"a": 100.5, "b": float("nan"), "e": 1.0, "d": float("inf")}})
    assert set(differing(compare(env, [old, new]))) == {("metrics", name) for name in "ace"}
    found = compare(env, [old, new], tolerance=Tolerance(rtol=0.01))
    assert set(differing(found)) == {("metrics", name) for name in "ce"}
    conform(found.to_json(everything=True), "agilab.comparison/1")
    json.dumps(found.to_json(everything=True), allow_nan=False)


def test_artifacts_are_only_here_only_there_changed_or_the_same(env: AgiEnv, made: MadeRun) -> None:
    old = made(files={"same": b"s", "gone": b"g", "json": b'{"x": 1}', "spaced": b"[1]"}, kinds=KINDS)
    new = made(files={"same": b"s", "new": b"n", "json": b'{"x": 2}', "spaced": b"[1] "}, kinds=KINDS)
    found = compare(env, [old, new])
    names = {name.rpartition("/")[2] for section, name in differing(found) if section == "artifacts"}
    assert names == {"gone", "new", "json"}
    assert [change.path for change in found.artifacts["tracks/p0/json"].changes] == ["/x"]
    assert found.artifacts["tracks/p0/spaced"].same
    conform(found.to_json(), "agilab.comparison/1")


KINDS = {"json": "json", "spaced": "json"}


def test_a_tolerance_applies_inside_artifacts(env: AgiEnv, made: MadeRun) -> None:
    runs = [made(files={"json": data}, kinds=KINDS) for data in (b"[100]", b"[101]")]
    assert compare(env, runs).differences
    assert compare(env, runs, tolerance=Tolerance(rtol=0.1)).differences == ()


def test_three_runs_have_a_cell_each(env: AgiEnv, made: MadeRun) -> None:
    found = compare(env, [made(), made(settings={"sample_s": 30}), made(settings={"sample_s": 60})])
    assert differing(found) == {("settings", "sample_s"): (60, 30, 60)}
    assert found.sources == ()
    conform(found.to_json(), "agilab.comparison/1")


def test_plans_differ_by_partition(env: AgiEnv, made: MadeRun) -> None:
    found = differing(compare(env, [made(partitions=2), made(partitions=3)]))
    assert found["plan", "tracks partitions"] == (2, 3)
    assert found["plan", "tracks/p2"] == (None, "planned")
    assert found["plan", "summary/summary reads"] == ([], ["tracks/p2/points"])
    assert ("plan", "tracks/p1") not in found


def test_a_run_that_goes_on_is_compared_by_what_it_has_left(env: AgiEnv, home: Path, made: MadeRun) -> None:
    growing = RunFolder(home, moment=MOMENT + 99, settings={"sample_s": 1})
    growing.commit("tracks", "p0", files={"points": b"other", "note": b"note of p0\n"})
    growing.plan()
    with hold_owner(growing.paths):
        found = compare(env, [made(), Run(growing.paths)])
    assert found.notes == (
        f"{growing.paths.run_id} is running and has no manifest: compared is what it has left so far",
    )
    rows = differing(found)
    assert rows["settings", "sample_s"] == (60, 1)
    assert rows["run", "state"] == ("succeeded", "running")
    assert rows["artifacts", "tracks/p0/points"][1]["size_bytes"] == 5
    assert ("artifacts", "tracks/p0/note") not in rows
    assert read_facts(Run(growing.paths)).state == "lost"


def test_a_failed_run_is_compared(env: AgiEnv, home: Path, made: MadeRun) -> None:
    failed = Run(RunFolder(home, moment=MOMENT + 99).seal("failed", "no space"))
    rows = differing(compare(env, [made(), failed]))
    assert rows["run", "error"] == (None, "no space")
    assert rows["run", "state"] == ("succeeded", "failed")


def test_a_run_that_ended_before_anything_was_installed_is_compared(env: AgiEnv, made: MadeRun) -> None:
    bare = made(said={"code": None, "environment": None, "stages": [], "metrics": {}})
    rows = differing(compare(env, [made(), bare]))
    assert rows["environment", "python"] == ("3.12.1", None)
    assert rows["plan", "tracks partitions"] == (3, None)


# --- code --------------------------------------------------------------------


def package(env: AgiEnv, digest: str, text: str, part: str, app: str = "flights") -> None:
    """Leave a package of code where runs leave theirs."""
    manager, worker = env.home.snapshots / digest / app, env.wenv.code(app, digest) / f"{app}_worker"
    folder = manager if part == "manager" else worker
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(text)


@pytest.mark.parametrize("part", ["manager", "worker"])
def test_code_is_a_diff_while_both_packages_are_here(env: AgiEnv, made: MadeRun, part: str) -> None:
    digests = "1" * 64, "2" * 64
    runs = [made(said={"code": {f"{part}_digest": digest}}) for digest in digests]
    package(env, digests[0], "x = 1\n", part)
    missing = compare(env, runs)
    assert missing.sources == ()
    assert missing.notes[0].startswith(f"no diff of the {part} code: that of {runs[1].run_id} is not in ")
    package(env, digests[1], "x = 2\n", part)
    found = compare(env, runs)
    [change] = found.sources
    assert {"-x = 1", "+x = 2"} <= set(change.text)
    assert change.path == f"{'flights' if part == 'manager' else 'flights_worker'}/__init__.py"
    assert found.notes == ()
    conform(found.to_json(), "agilab.comparison/1")


def test_a_worker_that_was_built_is_found_too(env: AgiEnv, made: MadeRun) -> None:
    for digest in ("1" * 64, "2" * 64):
        folder = env.wenv.package("flights") / f"{digest}-cp312-linux" / "flights_worker"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"x = {digest[0]}\n")
    runs = [made(said={"code": {"worker_digest": digest * 64}}) for digest in "12"]
    assert len(compare(env, runs).sources) == 1


@pytest.mark.parametrize("digest", ["../../../secret", "/etc", "*", ""])
def test_a_recorded_digest_leads_nowhere_else(env: AgiEnv, made: MadeRun, tmp_path: Path, digest: str) -> None:
    package(env, "1" * 64, "x = 1\n", "manager")
    runs = [made(said={"code": {"manager_digest": found}}) for found in ("1" * 64, digest)]
    found = compare(env, runs)
    assert found.sources == ()
    assert len(found.notes) == 1


def test_runs_of_different_apps_are_compared_without_their_code(env: AgiEnv, made: MadeRun) -> None:
    other = made(app="other", said={"app": {"uuid": "00000000-0000-4000-8000-000000000000"}})
    found = compare(env, [made(), other])
    assert differing(found)["run", "app"] == ("flights", "other")
    assert found.notes == ("the runs are of different apps: their code is not compared",)


# --- real runs ---------------------------------------------------------------


def test_an_app_declares_how_its_kinds_are_compared_and_is_not_imported(home: Path, tmp_path: Path) -> None:
    root = make_probe(tmp_path / "apps")
    kind = '\n[tool.agilab.kinds.recipe]\ndoc = "a recipe"\nsuffix = ".recipe"\ncomparison = "json"\n'
    (root / "pyproject.toml").write_text((root / "pyproject.toml").read_text() + kind)
    worker = root / "src" / "probe_worker" / "__init__.py"
    worker.write_text(
        worker.read_text().replace('part.write(name, "json", value)', 'part.write(name, "recipe", value)')
    )
    env = AgiEnv(root)
    with Bench(env, "inline", tmp_path) as bench:
        runs = [bench.run(Stage("first", [do("a", ["write", "value", value])])) for value in ([1], [2])]
    assert [run.check().state for run in runs] == ["succeeded", "succeeded"]
    root.joinpath("src", "probe", "__init__.py").write_text("raise SystemExit('imported')\n")
    found = compare(env, runs)
    [change] = found.artifacts.values()
    assert (change.compared, change.changes[0].path) == ("json", "/0")


def test_ten_thousand_partitions_are_read_from_their_records(env: AgiEnv, home: Path) -> None:
    folder = RunFolder(home, partitions=1500)
    for name in folder.tracks:
        folder.commit("tracks", name, files={"note": name.encode()})
    folder.plan()
    run = Run(folder.seal())
    assert len(read_facts(run).artifacts) == 1500


TARGETS = ("request.json", "partitions", "partitions/local-0.jsonl", "plan", "plan/tracks.json")

# --- hostile folders ---------------------------------------------------------


def rewritten(run: Run, change: Callable[[dict[str, Any]], object]) -> Run:
    """Change the manifest of a run and seal it again, as somebody would who wants to be believed."""
    manifest = json.loads(run.paths.manifest.read_bytes())
    change(manifest)
    data = json.dumps(manifest).encode()
    write_file(run.paths.manifest, data)
    lines = run.paths.sums.read_text().splitlines()
    lines = [f"{of_bytes(data)}  run_manifest.json" if line.endswith("run_manifest.json") else line for line in lines]
    write_file(run.paths.sums, ("\n".join(lines) + "\n").encode())
    return Run(run.paths)


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a state that is a list": lambda it: it.update(state=[]),
    "no environment lock": lambda it: it["environment"].update(lock=7),
    "features that are no list": lambda it: it["environment"].update(cpu_features=3),
    "a stage without a name": lambda it: it["stages"].append({}),
    "inputs that are text": lambda it: it.update(inputs="flights"),
    "settings that are a list": lambda it: it["request"].update(settings=[1]),
    "no request": lambda it: it["request"].clear(),
    "artifacts of another shape": lambda it: it["partitions"]["first"][0]["artifacts"].append({"path": "/etc/passwd"}),
    "costs that are text": lambda it: it["partitions"]["first"][0].update(wall_s="long"),
    "no manager": lambda it: it.update(manager=None),
    "metrics that are a list": lambda it: it.update(metrics=[1]),
    "a stage whose name is a list": lambda it: it["stages"][0].update(stage=[1]),
    "an artifact whose kind is a list": lambda it: it["partitions"]["first"][0]["artifacts"][0].update(kind=[1]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_that_makes_no_sense_is_an_error_in_one_line(env: AgiEnv, made: MadeRun, name: str) -> None:
    bad = rewritten(made(), HOSTILE[name])
    with pytest.raises(EvidenceError, match=bad.run_id) as caught:
        compare(env, [made(), bad])
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_refused(env: AgiEnv, made: MadeRun) -> None:
    run = made()
    run.paths.manifest.write_bytes(b"{}")
    with pytest.raises(EvidenceError, match="cannot be read"):
        compare(env, [made(), Run(run.paths)])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("how", ["link", "pipe"])
def test_a_link_or_a_pipe_in_an_unfinished_run_is_not_opened(home: Path, tmp_path: Path, target: str, how: str) -> None:
    folder = RunFolder(home, moment=MOMENT + 99).commit_all()
    place, moved = folder.paths.root / target, tmp_path / "moved"
    place.rename(moved)
    if how == "link":
        place.symlink_to(moved)
    else:
        os.mkfifo(place)
    if target.startswith("plan"):
        assert "tracks" not in read_facts(Run(folder.paths)).plans
    else:
        with pytest.raises(EvidenceError, match=folder.paths.run_id):
            read_facts(Run(folder.paths))


def test_a_plan_that_is_no_plan_is_named(env: AgiEnv, made: MadeRun) -> None:
    old, new = made(partitions=2), made(partitions=3)
    new.paths.plan("tracks").write_bytes(b"[]")
    with pytest.raises(EvidenceError, match=r"the plan of stage 'tracks' of run .* cannot be read"):
        compare(env, [old, new])


def test_facts_name_what_is_not_there(made: MadeRun) -> None:
    facts: Facts = read_facts(made())
    assert facts.value("settings", "sample_s") == 60
    assert facts.value("settings", "nosuch") is None
