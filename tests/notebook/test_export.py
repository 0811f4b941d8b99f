"""Notebooks that leave: what they print where AGILAB is not installed is what the app's own run left."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab import AGI, AgiEnv, trust
from agilab.errors import ProjectError, RunStateError
from agilab.installation import worker_environment
from agilab.notebook.document import read_cells
from agilab.notebook.export import Exported, export
from agilab.notebook.importing import import_notebook
from agilab.run import Run
from agilab.template import create
from tests.notebook.conftest import our_lines, printed, run_notebook, run_script

Python = Callable[[tuple[str, ...]], Path]
MOST_LINES = 60
"""Lines of a standalone notebook that are not its worker's own."""
SHORT = {
    "weather_forecast": {"folds": 2, "train_days": 14, "horizon_h": 12},
    "delay_model": {"flights": 2_000, "folds": 2, "epochs": 2, "repeats": 1},
}
"""What makes runs of the other apps short."""
MOST_LINES_OF_POINTS = 20
"""As many again where it writes points, in the format that zooms fast."""


def silent(line: str) -> None:
    """Report to nobody."""


def out(env: AgiEnv, run: Run | None, file: Path) -> Exported:
    """Export without AGILAB."""
    return export(env, run, file, standalone=True, report=silent)


@pytest.fixture(scope="module")
def flights(shared_wenv: Path, shared_folder: Path) -> tuple[AgiEnv, Run]:
    """Return a short run of the shipped app."""
    env = AgiEnv("flight_telemetry", home=shared_folder / "shared_home", wenv=shared_wenv)
    values = {"dates": ["2013-03-01", "2013-03-02"], "partitions": 2, "sample_s": 300}
    return env, AGI.run(env, env.request(values)).check()


@pytest.fixture
def squares(home: Path, tmp_path: Path) -> AgiEnv:
    """Return the app that `agilab new` makes."""
    return AgiEnv(create("squares", tmp_path).root)


def test_the_shipped_app_gives_its_hashes_without_agilab_as_script_and_in_jupyter(
    flights: tuple[AgiEnv, Run], bare_python: Python, tmp_path: Path
) -> None:
    env, run = flights
    made = out(env, run, tmp_path / "flights.py")
    assert made.dependencies == tuple(re.findall(r'(?m)^#     "(.*)",$', made.file.read_text()))
    python = bare_python((*made.dependencies, "ipykernel"))
    done = run_script(python, made.file)
    assert done.returncode == 0, done.stderr
    compared = [artifact for artifact in run.artifacts() if not artifact.name.endswith(".pyramid")]
    assert f"all {len(compared)} artifacts are what run {run.run_id} left" in done.stdout
    for artifact in compared:
        assert f"{artifact.sha256}  {artifact.key}\n" in done.stdout
    cells = run_notebook(python, out(env, run, tmp_path / "flights.ipynb").file)
    assert f"artifacts are what run {run.run_id} left" in printed(cells)
    assert "a picture needs matplotlib" in printed(cells)


@pytest.fixture(scope="module", params=["weather_forecast", "delay_model"])
def shipped(request: pytest.FixtureRequest, shared_wenv: Path, shared_folder: Path) -> tuple[AgiEnv, Run]:
    """Return a short run of another app that ships."""
    env = AgiEnv(request.param, home=shared_folder / "shared_home", wenv=shared_wenv)
    AGI.install(env)
    return env, AGI.run(env, env.request(SHORT[request.param], cluster={"workers": 1})).check()


def test_every_app_gives_its_hashes_where_agilab_is_not_installed(shipped: tuple[AgiEnv, Run], tmp_path: Path) -> None:
    env, run = shipped
    made = out(env, run, tmp_path / "made.py")
    environment = worker_environment(env.project, env.wenv)  # the locked dependencies, and nothing else
    assert environment is not None
    done = run_script(environment / "bin" / "python", made.file)
    assert done.returncode == 0, done.stderr
    assert f"all {len(run.artifacts())} artifacts are what run {run.run_id} left" in done.stdout


@pytest.mark.parametrize("shipped", ["weather_forecast"], indirect=True)
def test_a_standalone_notebook_knows_its_data_set_when_it_comes_back(
    shipped: tuple[AgiEnv, Run], tmp_path: Path
) -> None:
    env, run = shipped
    made = out(env, run, tmp_path / "made.py")
    again = import_notebook(made.file, tmp_path, home=env.home, name="again")
    trust.trust(again.project.root, env.home, seen=trust.digest_of(again.project.root))
    back = AgiEnv(again.project.root, home=env.home.root, wenv=env.wenv.root)
    repeated = AGI.run(back, back.request()).check()
    assert {item.key: item.sha256 for item in repeated.artifacts()} == {
        item.key: item.sha256 for item in run.artifacts()
    }
    assert back.request().settings == env.request(SHORT["weather_forecast"]).settings


def test_every_app_gives_its_hashes_through_agilab_on_this_machine_and_on_a_cluster(
    shipped: tuple[AgiEnv, Run], tmp_path: Path
) -> None:
    env, run = shipped
    export(env, run, tmp_path / "core", standalone=False, report=silent)
    notebook = tmp_path / "core" / f"{env.project.name}.ipynb"
    here = '{\\"backend\\": \\"local\\"}'
    assert here in notebook.read_text()
    if env.project.name == "delay_model":
        there = '{\\"backend\\": \\"dask\\", \\"workers\\": 1}'
        notebook.write_text(notebook.read_text().replace(here, there))
    folders = {"AGILAB_HOME": str(env.home.root), "AGILAB_WENV": str(env.wenv.root)}
    cells = run_notebook(Path(sys.executable), notebook, **folders)  # its last cell compares with the run
    for artifact in run.artifacts():
        assert f"{artifact.sha256}  {artifact.key}\n" in printed(cells)


def test_a_result_that_differs_is_named(squares: AgiEnv, bare_python: Python, tmp_path: Path) -> None:
    run = AGI.run(squares, squares.request()).check()
    made = out(squares, run, tmp_path / "squares.py")
    text = made.file.read_text()
    made.file.write_text(text.replace('"start": 250,', '"start": 251,'))
    done = run_script(bare_python(()), made.file)
    assert done.returncode == 1
    assert f"not what run {run.run_id} left: squares/from-250/sum, total/total/total\n" in done.stderr


def test_little_in_it_is_not_the_workers_own(flights: tuple[AgiEnv, Run], squares: AgiEnv, tmp_path: Path) -> None:
    for env, run, most in ((squares, None, MOST_LINES), (*flights, MOST_LINES + MOST_LINES_OF_POINTS)):
        made = out(env, run, tmp_path / f"{env.project.name}.ipynb")
        lines = our_lines(list(read_cells(made.file)), env.project.worker)
        values = [line for line in lines if re.match(r'    (    \(|"|\w+ = )|RECORDED = |DATA = ', line)]
        assert len(lines) - (len(values) if run else 0) <= most
        worker = "".join(path.read_text() for path in env.project.worker.rglob("*.py"))
        for cell in read_cells(made.file):
            comments = [line for line in cell.source.splitlines() if cell.kind == "code" and re.match(r"\s+# ", line)]
            assert [line for line in comments if line not in worker] == []


def test_a_new_app_leaves_from_its_settings(squares: AgiEnv, bare_python: Python, tmp_path: Path) -> None:
    run = AGI.run(squares, squares.request()).check()
    made = out(squares, None, tmp_path / "squares.py")
    done = run_script(bare_python(()), made.file)
    assert done.returncode == 0, done.stderr
    assert {f"{item.sha256}  {item.key}" for item in run.artifacts()} <= set(done.stdout.splitlines())
    written = {path.name for path in (tmp_path / "squares_results").rglob("*") if path.is_file()}
    assert written == {"sum.json", "total.json"}


def test_every_part_of_a_partition_has_its_stand_in(squares: AgiEnv, bare_python: Python, tmp_path: Path) -> None:
    (squares.project.worker / "__init__.py").write_text(WORKER)
    (squares.project.worker / "names.py").write_text("PLAN = 1\nfrom agilab.errors import WorkerError as Wrong\n")
    (squares.project.manager / "__init__.py").write_text(MANAGER)
    squares.project.settings_file.unlink()
    run = AGI.run(squares, squares.request(seed=7)).check()
    assert len(run.artifacts()) == 8
    for name, subject in (("run.py", run), ("app.py", None)):
        made = out(squares, subject, tmp_path / name)
        done = run_script(bare_python(()), made.file)
        assert done.returncode == 0, done.stderr
    assert f"all 8 artifacts are what run {run.run_id} left" in run_script(bare_python(()), tmp_path / "run.py").stdout


MANAGER = """
import agilab
import datetime
import param

class Inner(agilab.Settings):
    depth = param.Integer(3)

class Squares(agilab.App):
    class Settings(agilab.Settings):
        when = param.Date(datetime.datetime(2020, 1, 2, 3), doc="When it was")
        names = param.List(["it's", 'a "b"', "c"], item_type=str)
        limit = param.Number(float("inf"))
        inner = param.ClassSelector(class_=Inner, default=Inner())
        table = param.Dict({"a": [1, None]})
        nothing = param.Integer(None, allow_None=True)

    def plan(self):
        parts = [agilab.Partition("p0", params={"list": [1, [2]]}, inputs=[agilab.InputRef("me", "README.md")])]
        return agilab.WorkPlan([agilab.Stage("squares", parts), agilab.Stage("total", after="squares")])
"""

WORKER = '''
from __future__ import annotations

import agilab
from . import names
from squares_worker.names import PLAN, Wrong as Refused
from pathlib import Path


class SquaresWorker(agilab.Worker):
    """Tries everything."""

    def setup(self) -> None:
        super().setup()
        self.seen = []

    def squares(self, part: agilab.PartitionContext) -> None:
        # A comment that stays.
        assert names.PLAN == PLAN == 1
        assert part.params["list"] == [1, [2]]
        part.log.info("at work")
        part.progress(1, 2)
        part.metric("loss", 0.5, step=1)
        Path("beside.csv").write_text("a,b")
        part.write("beside", "table", Path("beside.csv"))
        part.write("readme", "text", part.inputs["me"].read_text())
        part.write("bytes", "json", b"[1]")
        part.write("random", "json", [part.rng.random(), part.seed, str(part.resources), part.cancelled])
        part.write("settings", "json", [repr(self.settings.when), self.settings.names, repr(self.settings.limit),
                                        self.settings.inner.depth, self.settings.table["a"], self.settings.nothing])
        part.write("name.json", "json", {"\\u00e4": 1})
        self.seen.append(part.id)

    def total(self, part):
        try:
            raise Refused("for once")
        except agilab.errors.WorkerError:
            part.write("total", "text", " ".join(sorted(part.inputs)))
        part.write("seen", "json", len(part.inputs.named("random")))
'''


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("from squares_worker.other import *\n", "name what is imported"),
        ("import agilab\nagilab.AGI.run\n", "has no form outside AGILAB"),
        ("from agilab import points\n", "agilab.points has no form outside AGILAB"),
        ("HERE = __file__\n", "does not travel in a notebook"),
        ("import os\nclass json: ...\n", "both define 'json', and a notebook has one of each name"),
    ],
)
def test_a_worker_that_cannot_leave_is_told_where(squares: AgiEnv, tmp_path: Path, code: str, said: str) -> None:
    (squares.project.worker / "other.py").write_text(code)
    with pytest.raises(ProjectError, match=re.escape(said)) as refused:
        out(squares, None, tmp_path / "squares.py")
    assert "other.py" in str(refused.value)
    assert not (tmp_path / "squares.py").exists()


def test_only_what_has_succeeded_leaves_as_a_run(squares: AgiEnv, tmp_path: Path) -> None:
    worker = squares.project.worker / "__init__.py"
    worker.write_text(worker.read_text().replace("numbers = range", "numbers = 1 / 0; range"))
    run = AGI.run(squares, squares.request())
    with pytest.raises(RunStateError, match="is failed; only one that has succeeded"):
        out(squares, run, tmp_path / "squares.py")
    for name, said in (("squares.txt", r"a notebook ends in \.ipynb"), ("no/squares.py", "is not a folder")):
        with pytest.raises(ProjectError, match=said):
            out(squares, run, tmp_path / name)


def test_the_core_notebook_travels_with_its_folder(
    squares: AgiEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = AGI.run(squares, squares.request({"count": 77})).check()
    export(squares, run, tmp_path / "core", standalone=False, report=silent)
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "core", moved)
    shutil.rmtree(squares.project.root)
    cells = run_notebook(Path(sys.executable), moved / "squares.ipynb")
    for artifact in run.artifacts():
        assert f"{artifact.sha256}  {artifact.key}\n" in printed(cells)
    assert len(squares.runs.list()) == 2


def test_the_core_notebook_says_what_to_install(squares: AgiEnv, bare_python: Python, tmp_path: Path) -> None:
    export(squares, None, tmp_path / "core", standalone=False, report=silent)
    first = next(cell for cell in read_cells(tmp_path / "core" / "squares.ipynb") if cell.kind == "code")
    done = subprocess.run([bare_python(()), "-I", "-c", first.source], capture_output=True, text=True)
    named = re.search(r"which is not installed here; run: pip install \./(\S+\.whl)$", done.stderr.strip())
    assert named
    assert (tmp_path / "core" / named[1]).is_file()


@pytest.mark.parametrize("order", ["morton", None])
def test_points_are_written_byte_for_byte_as_in_a_run(tmp_path: Path, order: str | None) -> None:
    import numpy as np
    import pyarrow as pa

    from agilab import points
    from agilab.notebook import harness
    from agilab.notebook.source import take_apart

    package = tmp_path / "dots_worker"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import agilab, pyarrow\nclass Dots(agilab.Worker):\n"
        f"    def dots(self, part):\n        part.write_points('dots', None, x='x', y='y', order={order!r})\n"
    )
    text = take_apart(package, "dots_worker:Dots", ["dots"])
    code = harness.context(text, app="dots", kinds={})
    given = {"Settings": None, "DATA": tmp_path, "RESULTS": tmp_path / "left", "FILES": {}, "POINTS": {}}
    given |= {"SUFFIXES": {"points": ".parquet", "file": ".bin"}}
    exec(f"{harness.imports(text, code)}\n{code}", given)
    random = np.random.default_rng(1)
    x = random.normal(size=300_000).astype(np.float32)
    x[:5] = np.nan
    columns = {"x": x, "y": random.normal(size=len(x)), "n": np.arange(len(x)), "s": ["a", "b", "c"] * 100_000}
    table = pa.table(columns)
    part = given["PartitionContext"]("dots", "p0", {}, {}, [])
    part.write_points("dots", table, x="x", y="y", order=order)
    points.write(tmp_path / "dots.parquet", table, x="x", y="y", order=order)
    assert given["FILES"]["dots/p0/dots"].read_bytes() == (tmp_path / "dots.parquet").read_bytes()
