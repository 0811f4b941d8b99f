"""What runs in the worker environment: one method per stage of delay_model; it plans nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from threadpoolctl import threadpool_limits

from agilab.worker import PartitionContext, Worker
from delay_model_worker import learning
from delay_model_worker.flights import arrived, features, fold_of, read_table
from delay_model_worker.model_file import model_bytes

FLIGHTS = (
    "dep_time", "arr_delay", "carrier", "tailnum", "origin", "dest", "distance", "month", "hour", "time_hour",
)  # fmt: skip


class DelayModelWorker(Worker):
    """Learns from some weeks how likely flights are late, and looks how true that is in others."""

    def setup(self) -> None:
        """Compute with one thread: workers share the machine, and sums do not depend on how many cores it has."""
        threadpool_limits(1)

    def prepare(self, part: PartitionContext) -> None:
        """Put flights, weather and planes together."""
        flights, counts = arrived(read_table(part.inputs["flights"], FLIGHTS), self.settings.flights)
        weather = read_table(
            part.inputs["weather"],
            ("origin", "time_hour", "temp", "humid", "wind_speed", "precip", "pressure", "visib"),
        )
        planes = read_table(part.inputs["planes"], ("tailnum", "year", "seats"))
        table = features(flights, weather, planes, late_min=self.settings.late_min)
        part.write("flights", "table", table)
        part.write("counts", "json", counts)
        part.metric("flights", counts["taken"])

    def train(self, part: PartitionContext) -> None:
        """Learn from all weeks but those of one fold, and test on these, epoch by epoch."""
        table = parquet.read_table(part.inputs["prepare/prepare/flights"])
        held = fold_of(table, self.settings.folds) == part.params["fold"]
        known, new = table.filter(pa.array(~held)), table.filter(pa.array(held))
        model = learning.pipeline(penalty=self.settings.penalty, seed=part.seed % 2**32)
        curve: dict[str, list[float]] = {"epoch": [], "train_log_loss": [], "test_log_loss": []}
        for epoch in learning.taught(model, known, epochs=self.settings.epochs):
            curve["epoch"].append(epoch)
            for name, some in (("train_log_loss", known), ("test_log_loss", new)):
                curve[name].append(learning.loss(some["late"].to_numpy(), learning.probabilities(model, some)))
                part.metric(name, curve[name][-1], step=epoch)
            part.progress(epoch, self.settings.epochs)
            if part.cancelled:
                return
        part.write("curve", "training", pa.table(curve))
        said = pa.table({"late": new["late"], "probability": learning.probabilities(model, new)})
        part.write("predictions", "table", said)
        rows = learning.importance(model, new, repeats=self.settings.repeats, seed=part.seed)
        part.write("importance", "table", pa.Table.from_pylist(rows))

    def summary(self, part: PartitionContext) -> None:
        """Say what the probabilities of all folds are worth, and which columns they need."""
        said = pa.concat_tables(parquet.read_table(path) for path in part.inputs.named("predictions"))
        late, probability = said["late"].to_numpy(), said["probability"].to_numpy()
        bins = learning.calibration(late, probability, self.settings.bins)
        part.write("calibration", "table", pa.Table.from_pylist(bins))
        folds = [parquet.read_table(path) for path in part.inputs.named("importance")]
        every = np.array([fold["importance"].to_numpy() for fold in folds])
        means = {"column": folds[0]["column"], "importance": every.mean(0), "spread": every.std(0)}
        part.write("importance", "table", pa.table(means).sort_by([("importance", "descending")]))
        found = learning.scores(late, probability, bins)
        part.write("scores", "json", found)
        for name, value in found.items():
            part.metric(name, value)

    def final(self, part: PartitionContext) -> None:
        """Learn from all flights, as long as the folds have gained from it."""
        curves = [parquet.read_table(path) for path in part.inputs.named("curve")]
        losses = np.mean([curve["test_log_loss"].to_numpy() for curve in curves], axis=0)
        epochs = int(np.argmin(losses)) + 1
        table = parquet.read_table(part.inputs["prepare/prepare/flights"])
        model = learning.pipeline(penalty=self.settings.penalty, seed=part.seed % 2**32)
        for epoch in learning.taught(model, table, epochs=epochs):
            part.progress(epoch, epochs)
        part.write("model", "model", model_bytes(model))
        part.metric("epochs", epochs)
