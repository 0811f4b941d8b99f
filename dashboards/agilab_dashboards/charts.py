"""Charts of plans and runs, in Bokeh: who does what when; they are fed with numbers and read nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agilab.agi import Distribution
from agilab_dashboards import markup
from agilab_dashboards.live import Span
from agilab_dashboards.markup import COLOURS, PALETTE, Markup, element
from agilab_dashboards.resources import KEPT, Sample

ROW_PX = 26
MOST_PLAIN = 1000
"""From how many bars on a chart is drawn by the graphics card."""
MOST_WORKERS = 64
"""How many workers a chart has rows for; the rest share the last one."""


def plan_chart(found: Distribution) -> Any:
    """Return each worker's planned partitions side by side, as long as their weights, coloured by stage."""
    workers = list(dict.fromkeys(worker for loads in found.assignment.values() for worker in loads))
    parts = sum(len(stage.partitions or ()) for stage in found.plan.stages)
    figure = _figure(workers, "planned weight, stage after stage", many=parts > MOST_PLAIN)
    for number, stage in enumerate(found.plan.stages):
        weights = {part.id: (part.weight, part.id) for part in stage.partitions or ()}
        data: dict[str, list[Any]] = {name: [] for name in ("worker", "left", "right", "partition", "weight")}
        ends = _ends(found, stage.name)
        for worker, idents in found.assignment.get(stage.name, {}).items():
            left = ends
            for ident in idents:
                weight = weights[ident][0]
                for name, value in zip(data, (worker, left, left + weight, ident, weight), strict=True):
                    data[name].append(value)
                left += weight
        if data["worker"]:
            _bars(figure, data, PALETTE[number % len(PALETTE)])
    _finish(figure, [("partition", "@partition"), ("weight", "@weight"), ("worker", "@worker")])
    return figure


def _ends(found: Distribution, stage: str) -> float:
    """Return where a stage begins: behind the longest load of each stage before it."""
    total = 0.0
    for other in found.plan.stages:
        if other.name == stage:
            break
        weights = {part.id: part.weight for part in other.partitions or ()}
        loads = [sum(weights[ident] for ident in ids) for ids in found.assignment.get(other.name, {}).values()]
        total += max(loads, default=0.0)
    return total


class Timeline:
    """Every worker's partitions over time; what is new is sent, not what was there before.

    Parameters
    ----------
    stages
        Names, for the colours, in plan order.
    workers
        Names of those known so far; more may come.
    partitions
        How many there will be, as far as is known.
    """

    _COLUMNS = ("worker", "left", "right", "partition", "stage", "outcome", "took", "colour")

    def __init__(self, stages: Sequence[str], workers: Sequence[str], *, partitions: int) -> None:
        from bokeh.models import ColumnDataSource

        self.stages = list(stages)
        self.figure = _figure(workers, "seconds since the run was created", many=partitions > MOST_PLAIN)
        self._ended = ColumnDataSource({name: [] for name in self._COLUMNS})
        self._running = ColumnDataSource({name: [] for name in self._COLUMNS})
        for source, alpha in ((self._ended, 0.95), (self._running, 0.45)):
            self.figure.hbar(
                y="worker", left="left", right="right", height=0.72, source=source, fill_color="colour",
                fill_alpha=alpha, line_color="colour", line_alpha=0.3, line_width=0.5,
            )  # fmt: skip
        told = [("partition", "@partition"), ("stage", "@stage"), ("worker", "@worker")]
        _finish(self.figure, [*told, ("took", "@took{0.000} s"), ("outcome", "@outcome")])
        self.sent = 0

    def add(self, spans: Sequence[Span]) -> None:
        """Send attempts that have ended since the last time."""
        if spans:
            self._rows({span.worker for span in spans})
            self._ended.stream(self._data([(s, s.outcome) for s in spans]))
            self.sent += len(spans)

    def show_running(self, running: Mapping[str, tuple[str, str, float]], now_s: float) -> None:
        """Show what runs now, up to this moment."""
        self._rows({worker for _, worker, _ in running.values()})
        now = [
            (Span(ident, stage, worker, start, max(start, now_s), ""), "running")
            for ident, (stage, worker, start) in list(running.items())
        ]
        self._running.data = self._data(now)

    def _rows(self, workers: set[str]) -> None:
        known = list(self.figure.y_range.factors)
        new = sorted(workers.difference(known))
        if new:
            self.figure.y_range.factors = [*reversed(new), *known]
            self.figure.height = _height(len(known) + len(new))

    def _data(self, spans: Sequence[tuple[Span, str]]) -> dict[str, list[Any]]:
        return {
            "worker": [span.worker for span, _ in spans],
            "left": [span.start_s for span, _ in spans],
            "right": [span.end_s for span, _ in spans],
            "partition": [span.partition for span, _ in spans],
            "stage": [span.stage for span, _ in spans],
            "outcome": [outcome for _, outcome in spans],
            "took": [span.end_s - span.start_s for span, _ in spans],
            "colour": [self._colour(span.stage, outcome) for span, outcome in spans],
        }

    def _colour(self, stage: str, outcome: str) -> str:
        if outcome in ("failed", "retried"):
            return COLOURS[outcome]
        if stage not in self.stages:
            self.stages.append(stage)
        return PALETTE[self.stages.index(stage) % len(PALETTE)]


def metric_chart(name: str, parts: Mapping[str, Sequence[tuple[int, float]]]) -> Any:
    """Return a metric by step, a line for each partition; of many partitions the first."""
    made = MetricChart(name, [])
    made.show(parts)
    return made.figure


class MetricChart:
    """A metric by step, a line for each partition, which grows while a run goes on; of many partitions the first.

    Parameters
    ----------
    name
        Of the metric.
    known
        Partitions in the order of their colours; charts that share it give a partition one colour.
    """

    def __init__(self, name: str, known: list[str]) -> None:
        from bokeh.models import HoverTool
        from bokeh.plotting import figure

        self.figure = figure(
            height=240, sizing_mode="stretch_width", x_axis_label="step", y_axis_label=name,
            tools="xpan,xwheel_zoom,box_zoom,reset", active_scroll=None,
        )  # fmt: skip
        self.figure.add_tools(HoverTool(tooltips=[("partition", "$name"), ("step", "@step"), (name, "@value")]))
        self.figure.toolbar.logo = None
        self.figure.toolbar.autohide = True
        self._known = known
        self._sources: dict[str, Any] = {}

    def show(self, parts: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Draw what is known by now; of a line that goes on only what is new is sent."""
        for partition, points in parts.items():
            if partition not in self._sources and not self._add(partition):
                continue
            source = self._sources[partition]
            sent = len(source.data["step"])
            again = len(points) < sent  # the partition was tried again
            new = points if again else points[sent:]
            columns = {"step": [step for step, _ in new], "value": [value for _, value in new]}
            if again:
                source.data = columns
            elif new:
                source.stream(columns)

    def _add(self, partition: str) -> bool:
        from bokeh.models import ColumnDataSource

        if partition not in self._known:
            if len(self._known) == len(PALETTE):
                return False
            self._known.append(partition)
        self._sources[partition] = source = ColumnDataSource({"step": [], "value": []})
        colour = PALETTE[self._known.index(partition)]
        self.figure.line(
            "step", "value", source=source, color=colour, line_width=2, name=partition, legend_label=partition
        )
        return True


class ResourceChart:
    """What a run's processes use of this machine over time: busy cores, and memory.

    Parameters
    ----------
    samples
        Those there are, each with its time since the run was created [s].
    """

    def __init__(self, samples: Sequence[tuple[float, Sample]]) -> None:
        from bokeh.models import ColumnDataSource
        from bokeh.plotting import figure

        self._source = ColumnDataSource(self._data(samples))
        self.figures = []
        for column, label in (("cores", "busy cores"), ("mib", "memory [MiB]")):
            made = figure(
                height=150, sizing_mode="stretch_width", tools="", toolbar_location=None, y_axis_label=label,
                x_axis_label="seconds since the run was created",
            )  # fmt: skip
            made.line("at", column, source=self._source, line_width=2, color=PALETTE[0])
            made.varea("at", 0, column, source=self._source, fill_alpha=0.15, color=PALETTE[0])
            made.y_range.start = 0
            self.figures.append(made)

    def add(self, samples: Sequence[tuple[float, Sample]]) -> None:
        """Send further samples."""
        self._source.stream(self._data(samples), rollover=KEPT)

    @staticmethod
    def _data(samples: Sequence[tuple[float, Sample]]) -> dict[str, list[float]]:
        return {
            "at": [at for at, _ in samples],
            "cores": [sample.cores for _, sample in samples],
            "mib": [sample.memory_bytes / 2**20 for _, sample in samples],
        }


def legend(stages: Sequence[str]) -> Markup:
    """Return each stage with its colour."""
    pieces = [
        element("b", "■ ", {"style": f"color:{PALETTE[number % len(PALETTE)]}"}) + f"{name}   "
        for number, name in enumerate(stages)
    ]
    return element("div", markup.join(pieces), {"class": "soft small", "style": "white-space:pre-wrap"})


def _height(workers: int) -> int:
    return 70 + ROW_PX * min(max(workers, 1), MOST_WORKERS)


def _figure(workers: Sequence[str], label: str, *, many: bool) -> Any:
    from bokeh.plotting import figure

    return figure(
        y_range=list(reversed(list(workers))),
        height=_height(len(workers)),
        sizing_mode="stretch_width",
        tools="xpan,xwheel_zoom,xbox_zoom,reset",
        active_scroll=None,
        toolbar_location="right",
        x_axis_label=label,
        output_backend="webgl" if many else "canvas",
    )


def _bars(figure: Any, data: Mapping[str, Sequence[Any]], colour: str) -> None:
    from bokeh.models import ColumnDataSource

    figure.hbar(
        y="worker", left="left", right="right", height=0.72, source=ColumnDataSource(dict(data)), fill_color=colour,
        fill_alpha=0.9, line_color="white", line_width=0.5,
    )  # fmt: skip


def _finish(figure: Any, told: list[tuple[str, str]]) -> None:
    from bokeh.models import HoverTool

    figure.add_tools(HoverTool(tooltips=told))
    figure.x_range.start = 0
    figure.ygrid.grid_line_color = None
    figure.toolbar.logo = None
    figure.toolbar.autohide = True
