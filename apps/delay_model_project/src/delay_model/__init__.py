"""How likely a flight from New York arrives late: settings and plan; it reads no flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import param

import agilab
from agilab import App, ArtifactRef, InputRef, Partition, Stage, WorkPlan
from agilab.app import PartitionResult

SOURCE = (
    InputRef(name="flights", path="flights.csv.zip"),
    InputRef(name="weather", path="weather.csv"),
    InputRef(name="planes", path="planes.csv"),
)
FLIGHTS = ArtifactRef("prepare", "prepare", "flights")


class DelayModel(App):
    """Plans one table of flights, a partition per fold that learns and is tested, what they come to, and the model."""

    class Settings(agilab.Settings):
        """From what is learned, how long, and how it is tested."""

        flights = param.Integer(
            20_000, bounds=(1_000, 327_346), doc="From how many flights, evenly spread over the year."
        )
        late_min = param.Integer(15, bounds=(1, 180), doc="From which delay at arrival on a flight is late. [min]")
        folds = param.Integer(5, bounds=(2, 26), doc="Into how many parts the weeks of the year are divided.")
        epochs = param.Integer(20, bounds=(1, 500), doc="How often all flights are gone through.")
        penalty = param.Number(1e-4, bounds=(0.0, 1.0), doc="How much large weights cost.")
        repeats = param.Integer(3, bounds=(1, 50), doc="How often each column is shuffled for its importance.")
        bins = param.Integer(10, bounds=(2, 100), doc="Into how many bins probabilities are divided for calibration.")

    settings: Settings

    def inputs(self) -> Sequence[InputRef]:
        """List the three tables that are read."""
        return list(SOURCE)

    def plan(self) -> WorkPlan:
        """Give every fold a partition; they have nearly as many flights each."""
        folds = [f"fold-{number}" for number in range(1, self.settings.folds + 1)]
        train = [Partition(name, params={"fold": number}, inputs=(FLIGHTS,)) for number, name in enumerate(folds, 1)]
        tested = [ArtifactRef("train", name, left) for name in folds for left in ("predictions", "importance")]
        curves = [ArtifactRef("train", name, "curve") for name in folds]
        return WorkPlan(
            (
                Stage("prepare", (Partition("prepare", inputs=SOURCE),)),
                Stage("train", tuple(train), after=("prepare",)),
                Stage("summary", (Partition("summary", inputs=tuple(tested)),), after=("train",)),
                Stage("final", (Partition("final", inputs=(FLIGHTS, *curves)),), after=("prepare", "train")),
            )
        )

    def summarize(self, results: Sequence[PartitionResult]) -> Mapping[str, float]:
        """Take the numbers of the whole; those of folds stay with their partitions, step by step."""
        whole = ("prepare", "summary", "final")
        return {name: value for one in results if one.stage in whole for name, value in one.metrics.items()}
