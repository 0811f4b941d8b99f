"""Small drawings of a run as SVG, for a page without a server: who did what when, metrics step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from agilab.cli.screen import duration, number
from agilab_dashboards.markup import PALETTE, Markup, element, join, text

WIDTH = 1040
ROW = 22
LABEL = 130
MOST_WORKERS = 64
MOST_BARS = 1500
"""From how many bars on those that touch become one."""
MOST_CURVES = 8
"""How many curves a drawing has a colour for."""

_Bar = tuple[float, float, str, str, float]
"""Left end and width [px], stage, partition, duration [s]."""


def timeline(done: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw which worker did which partition when; empty without one."""
    times = [(row, _seconds(row["started"]), row["wall_s"] or 0.0) for row in done]
    known = [(row, at, wall) for row, at, wall in times if at is not None]
    if not known:
        return Markup("")
    begin = min(at for _, at, _ in known)
    length = max(at + wall for _, at, wall in known) - begin or 1.0
    workers = sorted({str(row["worker"]) for row, _, _ in known}, key=_natural)
    stages = list(dict.fromkeys(str(row["stage"]) for row, _, _ in known))
    shown = workers[:MOST_WORKERS]
    scale = (WIDTH - LABEL - 10) / length
    bars = []
    for place, worker in enumerate(shown):
        spans = [
            ((at - begin) * scale, wall * scale, str(row["stage"]), str(row["partition"]), wall)
            for row, at, wall in known
            if row["worker"] == worker
        ]
        bars += list(_bars(spans, stages, place, merged=len(known) > MOST_BARS))
    names = [_text(0, place * ROW + 16, _clipped(worker)) for place, worker in enumerate(shown)]
    bottom = len(shown) * ROW
    ticks = [
        _line(LABEL + at * scale, 0, LABEL + at * scale, bottom + 4) + _text(LABEL + at * scale, bottom + 17, said)
        for at, said in _ticks(length)
    ]
    more = f"and {len(workers) - len(shown):,} workers more" if len(workers) > len(shown) else ""
    drawn = _svg(bottom + 22, join([*ticks, *names, *bars]), "which worker did which partition when")
    return drawn + keys(stages) + (element("p", more, {"class": "soft"}) if more else "")


def curves(name: str, parts: Mapping[str, Sequence[tuple[int, float]]]) -> Markup:
    """Draw a metric step by step, a curve for each partition."""
    some = {
        partition: [(step, value) for step, value in points if math.isfinite(value)]
        for partition, points in list(parts.items())[:MOST_CURVES]
    }
    every = [point for points in some.values() for point in points]
    if not every:
        return Markup("")
    height = 180
    steps, values = ([point[axis] for point in every] for axis in (0, 1))
    low, high = min(values), max(values)
    left, right = min(steps), max(steps)
    tall, wide = (high - low) or 1.0, (right - left) or 1

    def place(step: float, value: float) -> tuple[float, float]:
        return LABEL + (step - left) / wide * (WIDTH - LABEL - 10), 8 + (high - value) / tall * (height - 16)

    lines = [
        Markup(
            f'<polyline fill="none" stroke-width="2" stroke="{PALETTE[at % len(PALETTE)]}" points="'
            + " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in sorted(points))
            + '"/>'
        )
        for at, points in enumerate(some.values())
    ]
    axes = [
        _line(LABEL, place(left, value)[1], WIDTH, place(left, value)[1])
        + _text(0, place(left, value)[1] + 4, number(value))
        for value in (low, high)
    ]
    ends = _text(LABEL, height + 14, f"step {left}") + _text(WIDTH - 10, height + 14, str(right))
    more = f" (the first {MOST_CURVES} of {len(parts):,})" if len(parts) > MOST_CURVES else ""
    drawn = _svg(height + 20, join([*axes, *lines, ends]), f"{name} step by step")
    return element("h3", f"{name}{more}") + drawn + keys(list(some))


def keys(names: Sequence[str]) -> Markup:
    """Return which colour is whose."""
    found = []
    for at, name in enumerate(names):
        colour = PALETTE[at % len(PALETTE)]
        patch = Markup(f'<svg viewBox="0 0 12 12"><rect width="12" height="12" rx="3" fill="{colour}"/></svg>')
        found.append(element("span", patch + name))
    return element("div", join(found), {"class": "keys"})


def _bars(spans: Sequence[_Bar], stages: Sequence[str], place: int, *, merged: bool) -> Iterator[Markup]:
    """Yield the bars of one worker; where there are many, one for those that touch."""
    if merged:
        spans = list(_touching(spans))
    for start, width, stage, partition, wall in sorted(spans):
        colour = PALETTE[stages.index(stage) % len(PALETTE)]
        said = f"{stage}/{partition}, {duration(wall)}" if partition else stage
        yield Markup(
            f'<rect x="{LABEL + start:.1f}" y="{place * ROW + 3}" width="{max(width, 1):.1f}" height="{ROW - 6}" '
            f'rx="2" fill="{colour}"><title>{text(said)}</title></rect>'
        )


def _touching(spans: Sequence[_Bar]) -> Iterator[_Bar]:
    held: tuple[float, float, str] | None = None
    for start, width, stage, _, _ in sorted(spans):
        if held is not None and held[2] == stage and start <= held[1] + 0.5:
            held = held[0], max(held[1], start + width), stage
            continue
        if held is not None:
            yield held[0], held[1] - held[0], held[2], "", 0.0
        held = start, start + width, stage
    if held is not None:
        yield held[0], held[1] - held[0], held[2], "", 0.0


def _ticks(length: float) -> Iterator[tuple[float, str]]:
    raw = length / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= raw)
    for count in range(int(length / step) + 1):
        yield count * step, f"{count * step:g} s"


def _svg(height: float, content: Markup, label: str) -> Markup:
    return element("svg", content, {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": label})


def _line(x: float, y: float, to_x: float, to_y: float) -> Markup:
    return Markup(f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>')


def _text(x: float, y: float, said: str) -> Markup:
    end = ' text-anchor="end"' if x > WIDTH - 40 else ""
    return Markup(f'<text x="{x:.1f}" y="{y:.1f}"{end}>{text(said)}</text>')


def _clipped(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def _natural(name: str) -> tuple[int, str]:
    return len(name), name


def _seconds(iso: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(iso)).timestamp()
    except ValueError:
        return None
