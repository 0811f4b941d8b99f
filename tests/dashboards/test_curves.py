"""Metrics that are reported step by step: what a watch keeps of them, and charts that grow with it."""

from __future__ import annotations

from pathlib import Path

from agilab_dashboards import live
from agilab_dashboards.charts import MetricChart
from agilab_dashboards.live import Watch

from agilab.run import Run
from tests.run_folder import RunFolder


def test_steps_are_known_while_a_partition_runs_and_an_earlier_try_is_forgotten(home: Path) -> None:
    made = RunFolder(home)
    watch = Watch(Run(made.paths))

    def say(partition: str, *points: tuple[int | None, float]) -> None:
        made.log.append("dispatched", {"partition": partition, "stage": "tracks", "worker": "local-0", "attempt": 1})
        for step, value in points:
            made.log.append("metric", {"partition": partition, "name": "loss", "value": value, "step": step})
        made.log.sync()
        watch.forget_end()
        watch.look()

    say("p0", (1, 3.0), (2, 2.0), (None, 9.0))
    say("p1", (1, 4.0))
    assert watch.metrics == {"loss": {"p0": [(1, 3.0), (2, 2.0)], "p1": [(1, 4.0)]}}
    chart = MetricChart("loss", [])
    chart.show(watch.metrics["loss"])
    line = chart.figure.renderers[0].data_source
    say("p0", (1, 2.5))
    chart.show(watch.metrics["loss"])
    assert line.data == {"step": [1], "value": [2.5]}
    for number in range(2 * live.MOST_CURVES):
        say(f"q{number}", (1, 1.0))
    assert len(watch.metrics["loss"]) == live.MOST_CURVES
    chart.show(watch.metrics["loss"])
    assert len(chart.figure.renderers) == 8, "as many lines as there are colours"


def test_charts_that_know_each_other_give_a_partition_one_colour() -> None:
    known: list[str] = []
    charts = [MetricChart(name, known) for name in ("loss", "auc")]
    charts[0].show({"a": [(1, 1.0)], "b": [(1, 1.0)]})
    charts[1].show({"b": [(1, 1.0), (2, 2.0)], "a": [(1, 1.0)]})
    colours = [{line.name: line.glyph.line_color for line in chart.figure.renderers} for chart in charts]
    assert colours[0] == colours[1]
