"""What the manager side of an app derives from: `App`, and what `summarize` is given; it runs no partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from agilab.artifact import Artifact
from agilab.errors import ArtifactNotFoundError, PlanError
from agilab.plan import InputRef, Partition, WorkPlan
from agilab.settings import Settings


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """What one committed partition left.

    Parameters
    ----------
    id, stage
        Name of the partition and of its stage.
    params
        What the plan said.
    metrics
        Last value of every metric it recorded.
    artifacts
        What it wrote.
    """

    id: str
    stage: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    artifacts: tuple[Artifact, ...]


class App:
    """Base of an app's manager side: declares settings, plans the work, sums up results.

    Attributes
    ----------
    Settings
        The app's settings, a subclass of `agilab.Settings`.
    settings
        Their values for this request.
    data_root
        The folder that inputs are relative to.
    run_folder
        The folder of the run, in `plan_stage` and `summarize`; None before there is one.
    """

    Settings: ClassVar[type[Settings]] = Settings
    run_folder: Path | None = None

    def __init__(self, settings: Any, *, data_root: Path) -> None:
        self.settings = settings
        self.data_root = data_root

    def inputs(self) -> Sequence[InputRef]:
        """List what the run reads; by default the matches of the app's `Input` settings.

        Paths are relative to `data_root`; sizes are filled in, so that
        ``weight=1 + ref.size_bytes`` puts the largest file first.
        """
        return [
            InputRef(name=path, path=path, size_bytes=(self.data_root / path).stat().st_size)
            for paths in self.settings.input_matches(self.data_root).values()
            for path in paths
        ]

    def plan(self) -> WorkPlan:
        """Say what there is to do, before anything runs.

        The answer depends on settings and inputs only: no clock, no
        randomness, no network, so that the same request has the same plan.
        """
        raise PlanError(f"{type(self).__name__} does not say what to do; define plan(self) returning a WorkPlan")

    def plan_stage(self, stage: str, artifacts: Sequence[Artifact]) -> Sequence[Partition]:
        """Plan a stage whose partitions depend on artifacts of earlier stages.

        Parameters
        ----------
        stage
            Name of the stage; its partitions were None in `plan`.
        artifacts
            What the stages named in its ``after`` left, in plan order.

        Returns
        -------
        sequence of Partition
            By default one partition that reads all of them: a reduction.
        """
        return [Partition(stage, inputs=tuple(artifacts))]

    def path(self, artifact: Artifact) -> Path:
        """Return the file of an artifact of this run, to be read in `plan_stage` or `summarize`.

        Parameters
        ----------
        artifact
            One of those that the method was given.

        Raises
        ------
        PlanError
            There is no run yet: `plan` and `inputs` come before it.
        ArtifactNotFoundError
            The file lies on another host, or has gone.
        """
        if self.run_folder is None:
            raise PlanError(
                f"artifact {artifact.key!r} has no path before there is a run; read it in plan_stage or summarize"
            )
        file = self.run_folder / artifact.path
        if artifact.location or not file.is_file():
            where = f"lies on {artifact.location}" if artifact.location else f"is not in {self.run_folder}"
            fix = "read it in a worker, as a planned input"
            if artifact.location:
                fix += f", or have it collected: cluster option collect, such as '*/{artifact.name}'"
            raise ArtifactNotFoundError(f"artifact {artifact.key!r} {where}; {fix}")
        return file

    def summarize(self, results: Sequence[PartitionResult]) -> Mapping[str, float]:
        """Turn partition results into the run's metrics, once, after the last stage.

        By default the last value of every metric is summed over the
        partitions, by name. That is right for counts; for a loss, a score or
        a rate it is not: say here how they come together.
        """
        totals: dict[str, float] = {}
        for result in results:
            for name, value in result.metrics.items():
                totals[name] = totals.get(name, 0.0) + value
        return totals
