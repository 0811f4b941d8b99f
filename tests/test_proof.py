"""The first proof holds on a true run, and fails and says where when anything it rests on is broken."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agilab import AgiEnv, Run
from agilab.errors import DataError, EvidenceError
from agilab.installation import data_root
from agilab.proof import ALL_FLIGHTS, Finding, Proof, count_source, first_proof, prove
from agilab.template import create


def silent(text: str) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def env(shared_wenv: Path, tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
    return AgiEnv("flight_telemetry", home=tmp_path_factory.mktemp("proof") / "home", wenv=shared_wenv)


@pytest.fixture(scope="module")
def proof(env: AgiEnv) -> Proof:
    return first_proof(env, report=silent)


def failed(env: AgiEnv, run: Run) -> list[Finding]:
    return [finding for finding in prove(env, run).findings if not finding.ok]


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    """Take a file or folder away, and bring it back."""
    aside = path.with_name(f"{path.name}.away")
    path.parent.chmod(0o700)
    path.rename(aside)
    yield
    if path.exists():
        path.unlink()
    aside.rename(path)


def test_a_first_proof_holds_and_says_what_it_counted(proof: Proof) -> None:
    assert proof.ok, proof.findings
    said = {finding.name: finding.detail for finding in proof.findings}
    assert said["flights in the source"] == f"{ALL_FLIGHTS:,}"
    assert said["rows"] == said["rows in the track files"]
    assert proof.to_json()["run_folder"] == str(proof.run.paths.root)
    assert len(proof.next_commands) == 3


def test_the_whole_source_adds_up(env: AgiEnv, proof: Proof) -> None:
    settings = {"dates": ["2013-01-01", "2013-12-31"], "origins": [], "carriers": [], "sample_s": 60}
    counts, total = count_source(data_root(env.project, env.home), settings)
    skipped = sum(value for name, value in counts.items() if name.startswith("flights_skipped_"))
    assert counts["flights"] == counts["flights_written"] + skipped == total == ALL_FLIGHTS


def test_a_deleted_track_file_is_named(env: AgiEnv, proof: Proof) -> None:
    track = next(proof.run.paths.root / art.path for art in proof.run.artifacts() if art.name == "tracks")
    with moved_away(track):
        found = failed(env, proof.run)
    assert [finding.name for finding in found] == ["hashes"]
    assert str(track) in found[0].detail


def test_a_removed_data_set_is_named(env: AgiEnv, proof: Proof) -> None:
    root = data_root(env.project, env.home)
    with moved_away(root):
        found = failed(env, proof.run)
    assert [finding.name for finding in found] == ["data set"]
    assert str(root) in found[0].detail


def test_a_removed_table_stops_the_run_before_it_begins(env: AgiEnv, proof: Proof) -> None:
    table = data_root(env.project, env.home) / "flights.csv.zip"
    runs = len(env.runs.list())
    with moved_away(table), pytest.raises(DataError, match=r"flights\.csv\.zip"):
        first_proof(env, report=silent)
    assert len(env.runs.list()) == runs


def test_one_altered_input_row_is_noticed(env: AgiEnv, proof: Proof) -> None:
    table = data_root(env.project, env.home) / "flights.csv.zip"
    with zipfile.ZipFile(table) as archive:
        name = archive.namelist()[0]
        text = archive.read(name).decode()
    altered = io.BytesIO()
    with zipfile.ZipFile(altered, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text.replace("2013,1,1,517,", "2013,1,1,518,", 1))
    with moved_away(table):
        table.write_bytes(altered.getvalue())
        found = failed(env, proof.run)
        with pytest.raises(DataError, match=r"flights\.csv\.zip"):
            first_proof(env, report=silent)
    assert [finding.name for finding in found] == ["data set"]
    assert found[0].detail.startswith(f"{table.parent}: {table.name} was altered")


def test_a_worker_that_reports_a_false_count_is_caught(env: AgiEnv, proof: Proof, tmp_path: Path) -> None:
    project = shutil.copytree(env.project.root, tmp_path / env.project.root.name)
    worker = project / "src" / "flight_telemetry_worker" / "__init__.py"
    honest = worker.read_text()
    assert 'part.metric("rows", rows)' in honest
    worker.write_text(honest.replace('part.metric("rows", rows)', 'part.metric("rows", rows + 1)'))
    liar = AgiEnv(apps_path=tmp_path, home=env.home.root, wenv=env.wenv.root)
    found = first_proof(liar, report=silent)
    assert not found.ok
    names = [finding.name for finding in found.findings if not finding.ok]
    assert names[0] == "rows"
    assert any(name.startswith("rows of tracks-") for name in names)
    assert str(found.run.paths.root) in next(finding.detail for finding in found.findings if not finding.ok)


def test_a_run_of_another_app_is_refused(env: AgiEnv, tmp_path: Path) -> None:
    from agilab import AGI

    create("other", tmp_path)
    other = AgiEnv("other", apps_path=tmp_path, home=env.home.root, wenv=env.wenv.root)
    run = AGI.run(other, other.request()).check()
    with pytest.raises(EvidenceError, match="flight_telemetry"):
        prove(other, run)
