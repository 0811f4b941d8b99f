"""delay_model keeps the contract, tells metrics step by step, and leaves a model that any Python with skops reads."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from agilab import AgiEnv, Run
from agilab.installation import worker_environment
from agilab.testing import AppTests
from tests.apps.shared import InSharedEnvironment
from tests.checkout import ROOT

FEW = {"flights": 2_000, "folds": 2, "epochs": 3, "repeats": 1, "bins": 4}
READ = """
import json, sys
import numpy as np
import skops.io
from pyarrow import parquet

model = skops.io.load(sys.argv[1], trusted=["numpy.dtype"])
table = parquet.read_table(sys.argv[2])
print(json.dumps(model.predict_proba(table.select(list(model.feature_names_in_)))[:, 1].tolist()))
"""


class TestDelayModel(InSharedEnvironment, AppTests):
    app = ROOT / "apps" / "delay_model_project"
    settings = FEW

    def test_every_epoch_is_a_metric_and_a_row_of_the_curve(self, runs: dict[str, Run]) -> None:
        run = runs["local"].check()
        for fold in ("fold-1", "fold-2"):
            told = [one for one in run.events() if one["event"] == "metric" and one["partition"] == fold]
            curve = parquet.read_table(run.artifact(f"train/{fold}/curve"))
            for name in ("train_log_loss", "test_log_loss"):
                steps = [(one["step"], one["value"]) for one in told if one["name"] == name]
                assert steps == list(zip(curve["epoch"].to_pylist(), curve[name].to_pylist(), strict=True))
        assert curve.num_rows == FEW["epochs"]
        assert run.metrics["log_loss"] < run.metrics["log_loss_of_share"]
        assert "train_log_loss" not in run.metrics

    def test_no_week_is_learned_from_and_tested(self, runs: dict[str, Run]) -> None:
        run = runs["local"].check()
        flights = parquet.read_table(run.artifact("flights"))
        counts = json.loads(run.artifact("counts").read_text())
        assert (
            counts["flights"]
            == 336_776
            == sum(counts[name] for name in ("cancelled", "diverted or unknown", "arrived"))
        )
        weeks = (flights["time"].cast(pa.int64()).to_numpy() - 1_356_998_400) // (7 * 24 * 3600)
        for number in (1, 2):
            tested = parquet.read_table(run.artifact(f"train/fold-{number}/predictions"))
            assert tested["late"].to_pylist() == flights.filter(weeks % 2 + 1 == number)["late"].to_pylist()
        bins = parquet.read_table(run.artifact("calibration"))
        assert pc.sum(bins["flights"]).as_py() == flights.num_rows == FEW["flights"]
        held = np.dot(bins["flights"], bins["observed"]) / flights.num_rows
        assert held == pytest.approx(run.metrics["late_share"])

    def test_the_model_is_read_without_running_code_of_its_own(self, runs: dict[str, Run], env: AgiEnv) -> None:
        run = runs["local"].check()
        python = worker_environment(env.project, env.wenv)
        files = run.artifact("model"), run.artifact("flights")
        assert python is not None
        done = subprocess.run(
            [python / "bin" / "python", "-I", "-c", READ, *files], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        said = np.array(json.loads(done.stdout))
        late = parquet.read_table(files[1])["late"].to_numpy()
        assert said[late].mean() > said[~late].mean()
        assert b"pickle" not in files[0].read_bytes()
