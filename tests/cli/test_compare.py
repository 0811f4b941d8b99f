"""`agilab compare` and `agilab bench` as they are typed: what is printed, exit codes, gates, hostile folders."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agilab.cli import main
from agilab.digest import of_bytes
from agilab.paths import RunPaths, write_file
from tests.run_folder import MOMENT, RunFolder, conform, sealed_run

Cli = Callable[..., subprocess.CompletedProcess[str]]
MadeRun = Callable[..., dict[str, Any]]


def run_with(home: Path, number: int, files: dict[str, bytes], kinds: dict[str, str] | None = None) -> str:
    """Return the id of a run with one partition that left some files."""
    folder = RunFolder(home, moment=MOMENT + number)
    folder.commit("tracks", "p0", files=files, kinds=kinds)
    folder.plan()
    return folder.seal().run_id


def test_two_runs_are_told_apart(cli: Cli, made_run: MadeRun) -> None:
    old, new = made_run("--parts", "2"), made_run("--parts", "3", "--seed", "7")
    done = cli("compare", old["run_id"], "last")
    assert done.returncode == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith(f"A {old['run_id']} of trouble: succeeded, started ")
    assert lines[1].startswith(f"B {new['run_id']} of trouble: succeeded, started ")
    for line in (
        "run A B",
        "seed 0 7",
        "settings A B",
        "parts 2 (caller) 3 (caller)",
        "plan A B",
        "work partitions 2 3",
        "work/p2 - planned",
        "metrics A B difference",
        "done 2 3 +1 (+50%)",
        "(the whole value): 2 -> 3 +1 (+50%)",
        "for information A B difference",
    ):
        assert line in lines
    assert "limit none (default) none (default)" not in lines
    every = cli("compare", old["run_id"], "last", "--all").stdout.splitlines()
    assert "limit none (default) none (default)" in [" ".join(line.split()) for line in every]


def test_a_run_and_itself(cli: Cli, made_run: MadeRun) -> None:
    run = made_run()
    done = cli("compare", "last", run["folder"], "--exit-code")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no difference")


def test_the_exit_code_tells_only_when_asked(cli: Cli, made_run: MadeRun) -> None:
    old = made_run()["run_id"]
    made_run("--seed", "1")
    assert cli("compare", old, "last").returncode == 0
    assert cli("compare", old, "last", "--exit-code").returncode == 1
    assert cli("compare", old, "last", "--exit-code", "--json").returncode == 1


def test_the_document_is_what_its_schema_says(cli: Cli, made_run: MadeRun) -> None:
    ids = [made_run("--parts", parts)["run_id"] for parts in ("1", "2", "3")]
    for words in (ids[:2], ids):
        for more in ((), ("--all",)):
            value = json.loads(cli("compare", *words, "--json", *more).stdout)
            conform(value, "agilab.comparison/1")
            assert [run["run_id"] for run in value["runs"]] == words
            assert any(row["same"] for row in value["rows"]) is bool(more)


def test_code_is_a_diff(cli: Cli, made_run: MadeRun, apps: Path) -> None:
    old = made_run()["run_id"]
    source = apps / "trouble_project" / "src" / "trouble_worker" / "__init__.py"
    text = source.read_text()
    try:
        source.write_text(text.replace('"""The work."""', '"""Other work."""'))
        made_run()
    finally:
        source.write_text(text)
    lines = cli("compare", old, "last").stdout.splitlines()
    for line in ("--- a/trouble_worker/__init__.py", '-"""The work."""', '+"""Other work."""'):
        assert line in lines


def test_artifacts_are_told_by_their_kind(cli: Cli, home: Path) -> None:
    kinds = {"j": "json", "s": "json"}
    old = run_with(home, 1, {"j": b'{"a": 1}', "t": b"one\n", "b": b"\0", "s": b"[1]"}, kinds)
    new = run_with(home, 2, {"j": b'{"a": 2}', "t": b"two\n", "b": b"\1", "s": b"[1] "}, kinds)
    out = cli("compare", old, new).stdout
    for text in ("1 value", "1 line added, 1 removed", "same values in other bytes", "/a: 1 -> 2", "  -one", "  +two"):
        assert text in out
    assert "1 value" not in cli("compare", old, new, "--atol", "1").stdout


def test_what_is_long_is_cut_and_full_prints_all(cli: Cli, home: Path) -> None:
    values = [{f"k{number}": side for number in range(50)} for side in (1, 2)]
    old, new = (run_with(home, n, {"j": json.dumps(value).encode()}, {"j": "json"}) for n, value in enumerate(values))
    out = cli("compare", old, new).stdout
    assert "... and 30 more lines; --full prints them" in out
    assert "/k49: 1 -> 2" not in out
    assert "/k49: 1 -> 2" in cli("compare", old, new, "--full").stdout


def test_without_pyarrow_it_says_how_to_have_tables_compared(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    old, new = (run_with(home, n, {"t": b"PAR%d" % n}, {"t": "table"}) for n in (1, 2))
    done = cli("compare", old, new)
    assert done.returncode == 0
    assert "python -m pip install pyarrow" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("last",), "nothing to compare 'last' with"),
        (("last", "nosuch"), "no run 'nosuch'"),
        (("last", "./nowhere"), "is not a run folder"),
        (("last", "last", "--record", "x"), "add --gate FILE"),
        (("last", "last", "last", "--gate", "x"), "a gate decides about two runs"),
        (("last", "last", "--gate", "nosuch.toml"), "no gate file nosuch.toml"),
        (("last", "last", "--rtol", "-1"), "rtol"),
    ],
)
def test_wrong_use_is_one_line(cli: Cli, home: Path, words: tuple[str, ...], said: str) -> None:
    sealed_run(home)
    done = cli("compare", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# --- gates -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "decision"),
    [
        ("[metrics.rows]\nmin = 3", 0, "promote"),
        ("[metrics.rows]\nmin = 4", 1, "block"),
        ("[metrics.nosuch]\nmin = 4", 2, "undecided"),
    ],
)
def test_a_gate_decides_by_exit_code_and_leaves_a_record(
    cli: Cli, home: Path, here: Path, text: str, code: int, decision: str
) -> None:
    old, new = sealed_run(home), sealed_run(home, moment=MOMENT + 1)
    (here / "gate.toml").write_text(text)
    done = cli("compare", old.run_id, new.run_id, "--gate", "gate.toml", "--record", "record.json", "--keep")
    assert (done.returncode, done.stderr) == (code, "")
    assert f"{decision}: {new.run_id} against {old.run_id}" in done.stdout
    record = json.loads((here / "record.json").read_text())
    conform(record, "agilab.gate/1")
    assert (record["decision"], record["candidate"]["run_id"]) == (decision, new.run_id)
    assert record["candidate"]["seal_sha256"] == of_bytes(new.sums.read_bytes())
    assert json.loads((new.sidecar / "gates" / "1.json").read_text()) == record
    said = json.loads(cli("compare", old.run_id, new.run_id, "--gate", "gate.toml", "--json").stdout)
    assert {**said, "decided": ""} == {**record, "decided": ""}
    assert cli("verify", new.run_id).returncode == 0


def test_a_gate_file_with_a_mistake_is_no_decision(cli: Cli, home: Path, here: Path) -> None:
    runs = sealed_run(home).run_id, sealed_run(home, moment=MOMENT + 1).run_id
    (here / "gate.toml").write_text("[metrics.rows]\n\nmim = 3\n")
    done = cli("compare", *runs, "--gate", "gate.toml", "--record", "record.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "agilab: error: unknown rule 'mim'; did you mean 'min'? (gate.toml:3)\n"
    assert not (here / "record.json").exists()


# --- hostile folders ---------------------------------------------------------


def test_no_escape_sequence_reaches_the_terminal(cli: Cli, home: Path) -> None:
    evil = "\x1b]0;owned\x07"
    old = run_with(home, 1, {"j": json.dumps({evil: 1}).encode(), "t": evil.encode()}, {"j": "json"})
    new = run_with(home, 2, {"j": json.dumps({evil: 2}).encode(), "t": b"\x1b[31m"}, {"j": "json"})
    for more in ((), ("--full", "--all"), ("--json",)):
        done = cli("compare", old, new, *more)
        assert "\x1b" not in done.stdout + done.stderr


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
ODD = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in a JSON value but the value itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in ((*path, key), *places(item, (*path, key)))]


def seal_again(paths: RunPaths, manifest: Any) -> None:
    """Write another manifest with a seal that fits, as somebody would who wants to be believed."""
    data = json.dumps(manifest).encode()
    write_file(paths.manifest, data, durable=False)
    lines = [line for line in paths.sums.read_text().splitlines() if not line.endswith("  run_manifest.json")]
    lines = sorted([*lines, f"{of_bytes(data)}  run_manifest.json"], key=lambda line: line.partition("  ")[2])
    write_file(paths.sums, ("\n".join(lines) + "\n").encode(), durable=False)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_manifest_says_there_is_an_answer_or_one_line(
    data: st.DataObject, home: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = home / "runs" / "flights"
    if not runs.exists():
        sealed_run(home)
        sealed_run(home, moment=MOMENT + 1, partitions=4)
        (here / "gate.toml").write_text("same = ['inputs', 'artifacts']\n[metrics.rows]\nmax_increase = '5%'\n")
        (here / "manifest.json").write_bytes(RunPaths(sorted(runs.iterdir())[1]).manifest.read_bytes())
    old, new = map(RunPaths, sorted(runs.iterdir()))
    manifest = json.loads((here / "manifest.json").read_text())
    changed = copy.deepcopy(manifest)
    *path, last = data.draw(st.sampled_from(places(manifest)))
    holder = changed
    for key in path:
        holder = holder[key]
    holder[last] = data.draw(ODD)
    seal_again(new, changed)
    for more in ((), ("--json", "--all"), ("--gate", "gate.toml")):
        code = main(["compare", old.run_id, new.run_id, *more])
        out, err = capsys.readouterr()
        assert code in (0, 1, 2), err
        assert out or err.count("\n") == 1


# --- bench -------------------------------------------------------------------


def test_bench_runs_everywhere_and_compares_what_was_left(cli: Cli) -> None:
    done = cli("bench", "trouble", "--parts", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["backend", "run", "state", "time", "cpu", "peak", "memory", "artifacts"]
    assert [line.split()[0] for line in lines[1:4]] == ["dask", "inline", "local"]
    assert lines[-1] == "3 artifacts, the same in 3 runs"
    assert [run["app"] for run in json.loads(cli("runs", "--json").stdout)["runs"]] == ["trouble"] * 3


def test_bench_names_what_differs(cli: Cli, apps: Path) -> None:
    source = apps / "trouble_project" / "src" / "trouble_worker" / "__init__.py"
    text = source.read_text()
    try:
        source.write_text(text.replace('"json", part.params["i"]', '"json", str(os.urandom(8))'))
        done = cli("bench", "trouble", "--parts", "1", "--backends", "local", "--repeat", "2", "--json")
        told = cli("bench", "trouble", "--parts", "1", "--backends", "local", "--repeat", "2")
    finally:
        source.write_text(text)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], list(found["differing"])) == (1, False, ["work/p0/out"])
    assert list(found["differing"]["work/p0/out"]) == [trial["run_id"] for trial in found["trials"]]
    assert told.returncode == 1
    assert "differs: work/p0/out: local " in told.stdout
    assert "median on local: " in told.stdout
    assert "left 1 artifact with other bytes" in told.stderr


def test_bench_of_a_run_that_fails(cli: Cli) -> None:
    done = cli("bench", "trouble", "--how", "raise", "--backends", "inline")
    assert done.returncode == 1
    assert "on inline failed: partition 'p1'" in done.stderr


@pytest.mark.parametrize("backends", ["nosuch", "local,nosuch", ",", ""])
def test_bench_on_a_backend_that_is_not_there(cli: Cli, backends: str) -> None:
    done = cli("bench", "trouble", "--backends", backends)
    assert (done.returncode, done.stdout) == (2, "")
    assert "choose of dask, inline, local" in done.stderr
