"""`agilab report`: runs as one HTML file that needs no server and loads nothing; it runs nothing of an app.

Every text goes through `markup`, whoever chose it. The page's policy lets only
its own script and style run, by their digests, and lets nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agilab import __version__
from agilab.cli.compare import difference_text, tells, title_of, value_text
from agilab.cli.outcome import record_of
from agilab.cli.screen import duration, number, size
from agilab.compare import INFORMATION, Comparison, compare
from agilab.env import AgiEnv
from agilab.errors import AgilabError
from agilab.facts import read_facts
from agilab.paths import write_file
from agilab.run import Run
from agilab.sidecar import read_tags
from agilab_dashboards import rows, svg
from agilab_dashboards.markup import SIGNS, Markup, element, facts, join, table, text, when

if TYPE_CHECKING:
    from agilab_dashboards.tiles import Counted

MOST_ROWS = 1000
"""How many rows of a table there are; the rest is counted."""
MOST_VIEWS = 12
"""How many views of a run there are."""
TABLE_ROWS = 10
"""How many rows of a table of data there are."""
MOST_LINES = 400
"""How many lines of a difference in code there are."""
PICTURE_PX = 1000
VIEWER_PX = (480, 220)
"""Of how many cells a viewer shows everything at least; of twice as many at most."""
TILES_BYTES = 4 << 20
"""How large all counts for viewers may be, over all runs [bytes]."""

_PLANAR = ("points", "tracks")
_TONES = {"succeeded": "good", "failed": "bad", "lost": "bad", "unreadable": "bad", "cancelled": "warn"}


@dataclass(frozen=True, slots=True)
class Report:
    """A file that was written.

    Parameters
    ----------
    file
        Where it is.
    size_bytes
        How large it is.
    notes
        What could not be shown, and why.
    """

    file: Path
    size_bytes: int
    notes: tuple[str, ...]


def write_report(env: AgiEnv, runs: Sequence[Run], file: Path) -> Report:
    """Write runs into one file, what differs between them first.

    Parameters
    ----------
    env
        Where packages of code and apps lie, for the comparison.
    runs
        One or more.
    file
        What is there is replaced.

    Raises
    ------
    EvidenceError
        The record of a run cannot be read.
    AgilabError
        The file cannot be written.
    """
    for run in runs:
        read_facts(run)  # refuses what cannot be read, before anything is made
    notes: list[str] = []
    parts = [_differences(compare(env, runs))] if len(runs) > 1 else []
    for number_of, run in enumerate(runs):
        parts.append(
            _run(
                env,
                run,
                notes,
                letter=_letter(number_of) if len(runs) > 1 else "",
                limit_bytes=TILES_BYTES // len(runs),
            )
        )
    data = _page(runs, parts).encode()
    try:
        write_file(file.absolute(), data)
    except OSError as err:
        raise AgilabError(f"{file} cannot be written: {err.strerror}; choose another place with -o") from err
    return Report(file, len(data), tuple(notes))


def _page(runs: Sequence[Run], parts: Sequence[Markup]) -> str:
    here = Path(__file__)
    style, script = (here.with_suffix(ending).read_text(encoding="utf-8") for ending in (".css", ".js"))
    allowed = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _digest(style),
        "script-src": _digest(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy = "; ".join(f"{name} {value}" for name, value in allowed.items())
    title = " and ".join(f"{run.app} {run.run_id}" for run in runs)
    head = join(
        (
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup('<meta name="referrer" content="no-referrer">'),
            element("title", title),
            Markup(f"<style>{style}</style>"),
        )
    )
    said = f"Made by AGILAB {__version__} from the records of the run{'s' if len(runs) > 1 else ''}; opens without it."
    top = element("header", element("h1", title) + element("p", said, {"class": "soft small"}))
    body = top + element("main", join(parts)) + Markup(f"<script>{script}</script>")
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def _section(title: str, *parts: str) -> Markup:
    content = join(part for part in parts if part)
    return element("section", element("h2", title) + content) if content else Markup("")


def _short(heads: Sequence[str], cells: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> Markup:
    """Return a table of no more rows than `MOST_ROWS`; empty without a row."""
    every = list(cells)
    if not every:
        return Markup("")
    more = f"and {len(every) - MOST_ROWS:,} more" if len(every) > MOST_ROWS else ""
    return table(heads, every[:MOST_ROWS], right=right) + (element("p", more, {"class": "soft"}) if more else "")


# --- what differs -------------------------------------------------------------------


def _differences(found: Comparison) -> Markup:
    letters = [_letter(place) for place in range(len(found.runs))]
    listed = [
        (letter, element("a", told.run.run_id, {"href": f"#{letter}"}), told.run.app, _state(told.run.state))
        for letter, told in zip(letters, found.runs, strict=True)
    ]
    differing = [row for row in found.rows if row.section not in INFORMATION and tells(row, found)]
    count = len(found.differences)
    lead = f"{count:,} things differ." if count != 1 else "One thing differs."
    parts = [table(("", "run", "app", "state"), listed), element("p", lead if count else "No difference.")]
    parts += [element("p", note, {"class": "soft"}) for note in found.notes]
    for title, group in groupby(differing, key=title_of):
        cells = [
            (row.name or row.section, *(value_text(row, cell) for cell in row.cells), difference_text(row, found))
            for row in group
        ]
        parts.append(element("h3", title) + _short(("", *letters, "difference"), cells))
    lines = [line for change in found.sources for line in change.text or (f"{change.path}: {change.note}",)]
    if lines:
        more = [f"... and {len(lines) - MOST_LINES:,} lines more"] if len(lines) > MOST_LINES else []
        code = element("pre", "\n".join([*lines[:MOST_LINES], *more]), {"tabindex": "0"})
        parts.append(element("h3", "code") + code)
    return _section("What differs", *parts)


# --- one run ------------------------------------------------------------------------


def _run(env: AgiEnv, run: Run, notes: list[str], *, letter: str, limit_bytes: int) -> Markup:
    """Return the sections of one run."""
    done = rows.partitions(run)
    parts = [
        element("div", f"{letter}: {run.app} {run.run_id}", {"class": "run", "id": letter}) if letter else Markup(""),
        _summary(run),
        _section("Metrics", _metrics(run)),
        _section("Views", *_views(env, run, notes, limit_bytes=limit_bytes)),
        _section("Settings", _settings(run)),
        _section("Timeline", svg.timeline(done)),
        _section("Resource use", _resources(done)),
        _section("Environment", facts(rows.environment(run)), _lock(run)),
        _section("Artifacts", _artifacts(run)),
    ]
    return join(parts)


def _state(state: str) -> Markup:
    return element("span", f"{SIGNS.get(state, '●')} {state}", {"class": f"state {_TONES.get(state, '')}".strip()})


def _summary(run: Run) -> Markup:
    record = record_of(run)
    app, done, left = (record.get(name) or {} for name in ("app", "partitions", "artifacts"))
    with suppress(AgilabError):
        said = read_tags(run.paths)
        return _facts_of(run, record, app, done=done, left=left, told=(", ".join(said.tags), said.note))
    return _facts_of(run, record, app, done=done, left=left, told=("", ""))


def _facts_of(
    run: Run,
    record: Mapping[str, Any],
    app: Mapping[str, Any],
    *,
    done: Mapping[str, Any],
    left: Mapping[str, Any],
    told: tuple[str, str],
) -> Markup:
    seal = hashlib.sha256(run.paths.sums.read_bytes()).hexdigest() if run.paths.sums.is_file() else ""
    artifacts = f"{left['count']:,}, {size(left['size_bytes'])}" if left else ""
    known = (
        ("state", _state(run.state)),
        ("why", run.error),
        ("app", " ".join(str(app[key]) for key in ("name", "version") if app.get(key)) or run.app),
        ("what it does", app.get("description")),
        ("started", when(record.get("started") or record.get("created"))),
        ("took", duration(record.get("duration_s"))),
        ("partitions", f"{done['committed']:,} of {done['count']:,} committed" if done else ""),
        ("artifacts", artifacts),
        ("tags", told[0]),
        ("note", told[1]),
        ("seal", element("code", seal) if seal else ""),
        ("repeat it with", element("code", record["reproduce"]) if record.get("reproduce") else ""),
    )
    return _section("Summary", facts(known))


def _settings(run: Run) -> Markup:
    parts: list[str] = []
    for name, title in (("settings", ""), ("cluster", "Cluster options")):
        cells = [
            (row["name"], element("code", row["value"]), row["source"], row["where"])
            for row in rows.settings(run, name)
        ]
        if cells:
            parts += [element("h3", title) if title else "", _short(("name", "value", "from", "where"), cells)]
    return join(parts)


def _metrics(run: Run) -> Markup:
    plain = _short(("metric", "value"), [(row["name"], number(row["value"])) for row in rows.metrics(run)], right=(1,))
    curves = (svg.curves(name, parts) for name, parts in rows.series(run).items())
    return join((plain, *curves))


def _resources(done: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a row per worker, and one for all of them."""
    if not done:
        return Markup("")
    workers: dict[str, list[Mapping[str, Any]]] = {}
    for row in done:
        workers.setdefault(str(row["worker"]), []).append(row)
    groups = [*sorted(workers.items()), *([("all", list(done))] if len(workers) > 1 else [])]
    cells = [
        (
            name,
            f"{len(some):,}",
            duration(sum(row["wall_s"] or 0 for row in some)),
            duration(sum(row["cpu_s"] or 0 for row in some)),
            size(max(row["peak_rss_bytes"] or 0 for row in some)),
            f"{sum((row['attempt'] or 1) - 1 for row in some):,}",
        )
        for name, some in groups
    ]
    heads = ("worker", "partitions", "busy", "processor", "largest memory", "retries")
    return _short(heads, cells, right=(1, 2, 3, 4, 5))


def _lock(run: Run) -> Markup:
    lines = rows.lock(run)
    if not lines:
        return Markup("")
    said = element("summary", f"{len(lines):,} distributions")
    return element("details", said + element("pre", "\n".join(lines)))


def _artifacts(run: Run) -> Markup:
    cells = [
        (
            f"{row['stage']}/{row['partition']}/{row['name']}",
            row["kind"],
            size(row["size_bytes"]),
            element("code", row["sha256"]),
            "" if row["location"] == "run folder" else f"on {row['location']}",
        )
        for row in rows.artifacts(run)
    ]
    away = any(row[-1] for row in cells)
    heads = ("artifact", "kind", "size", "sha256", "where")
    return _short(heads if away else heads[:-1], [row if away else row[:-1] for row in cells], right=(2,))


# --- views --------------------------------------------------------------------------


def _views(env: AgiEnv, run: Run, notes: list[str], *, limit_bytes: int) -> Iterator[Markup]:
    """Yield a picture of what each dataset's first view shows, and a viewer over points."""
    from agilab_dashboards import views
    from agilab_dashboards.views.listed import Listed
    from agilab_dashboards.views.own import told

    known = views.catalogue(env, run)
    found = known.shown(run)
    notes += known.problems
    if len(found) > MOST_VIEWS:
        notes.append(f"run {run.run_id} has {len(found)} datasets with a view; the first {MOST_VIEWS} are shown")
    names = [known.fitting(source)[0] for source in found[:MOST_VIEWS]]
    planar = sum(name in _PLANAR for name in names)
    for name, source in zip(names, found, strict=False):
        try:
            with told(known.view_class(name), name):
                view = known.make(name, source)
                if isinstance(view, Listed):
                    yield element("h3", source.key) + _rows_of(view, source)
                    continue
                seen = _counted(view, source, limit_bytes // planar) if name in _PLANAR else None
                png = seen.picture() if seen and name == "points" else view.picture(run, PICTURE_PX)
        except AgilabError as err:
            notes.append(f"{source.key} of run {run.run_id} is not shown: {err}")
            continue
        address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        shown = element("figcaption", f"{source.key} ({name})")
        shown += Markup(f'<img class="picture" alt="{text(f"{source.key} as {name}")}" src="{address}">')
        shown += _viewer(seen, source.key) if seen else Markup("")
        yield element("figure", shown, {"class": "tiled"} if seen else {})


def _rows_of(view: Any, source: Any) -> Markup:
    """Return the first rows of a table, and how many there are."""
    shown = view.frame_of_rows(source).head(TABLE_ROWS)
    right = [place for place, kind in enumerate(shown.dtypes) if kind.kind in "iuf"]
    cells = [[number(one) if isinstance(one, float) else one for one in row] for row in shown.itertuples(index=False)]
    return table(list(shown.columns), cells, right=right)


def _counted(view: Any, source: Any, limit_bytes: int) -> Counted | None:
    """Count how many points lie where; None where that cannot be done fast."""
    from agilab_dashboards.outlines import outlines
    from agilab_dashboards.tiles import Counted, bounds, levels

    places = view.column_of(source, "x"), view.column_of(source, "y")
    box = bounds(source.sources, places)
    found = levels(source.sources, places, box=box, size=VIEWER_PX, limit_bytes=limit_bytes) if box else ()
    if not found or box is None:
        return None
    across, up = (source.column(place) for place in places)
    lines = outlines(across.crs if across.crs == up.crs else "", within=box)
    seen = Counted(box, (across.label, up.label), found, equal=across.unit == up.unit != "")
    return seen if lines is None else replace(seen, lines=lines)


def _viewer(seen: Counted, key: str) -> Markup:
    """Return the viewer of how many points lie where, and the counts that it shows."""
    said = json.dumps(seen.to_json()).replace("<", "\\u003c")
    data = [Markup(f'<script type="application/json" class="about">{said}</script>')]
    data += [Markup(f'<script type="text/plain" class="level">{level.data}</script>') for level in seen.levels]
    label = f"how many points of {key} lie where; arrow keys move, plus and minus zoom, 0 shows all"
    canvas = element("canvas", "", {"class": "map", "tabindex": "0", "role": "img", "aria-label": label})
    buttons = [
        element("button", sign, {"type": "button", "data-act": act, "aria-label": name, "title": name})
        for act, sign, name in (("in", "+", "zoom in"), ("out", "−", "zoom out"), ("whole", "All", "show all"))
    ]
    bar = element("canvas", "", {"class": "bar", "width": "160", "height": "10"})
    legend = element("span", Markup("1 ") + bar + Markup(' <span class="most"></span> points per cell'))
    sharp = element("span", f"sharp up to {seen.sharp} x", {"class": "soft"})
    told = element("output", "", {"aria-live": "polite"})
    tools = element("div", join([*buttons, legend, sharp, told]), {"class": "tools"})
    return element("div", canvas + tools, {"class": "viewer"}) + join(data)
