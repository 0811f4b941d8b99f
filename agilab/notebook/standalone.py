"""A notebook that does the work of an app where AGILAB is not installed: settings, plan, worker, run, result.

Nothing of the library is pasted into it. What stands for it are the few lines
of `agilab.notebook.harness`; all other code is the worker's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from agilab.artifact import KINDS, Kind
from agilab.codec import Field
from agilab.environment import requirement_lines
from agilab.notebook import harness
from agilab.notebook.document import Cell, quoted
from agilab.notebook.source import WorkerText, take_apart
from agilab.notebook.subject import Subject, decoded
from agilab.plan import InputRef, Partition, Stage

ROWS_OF_PLAN = 8
"""Up to how many partitions the plan has a line for each; beyond, one for each stage."""

_RUN = """\
def run(worker):
$setup\
    for stage, partitions in PLAN.items():
        for partition in partitions:
            part = PartitionContext(stage, *partition)
            os.chdir(part.folder)  # what is written by a bare name lies with the artifacts
            getattr(worker, stage)(part)
$teardown\
    os.chdir(RESULTS.parent)


run($worker())
"""
_RESULT = """\
FOUND = {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in FILES.items()}
print(*(f"{sha256}  {key}" for key, sha256 in FOUND.items()), sep="\\n")
"""
_CHECK = """\
different = sorted(key for key in {*FOUND, *RECORDED} if FOUND.get(key) != RECORDED.get(key))
assert not different, f"not what run $run_id left: {', '.join(different)}"
print("all $count artifacts are what run $run_id left")
"""
_MAP = """\
try:
    from matplotlib import pyplot as plt
    for file, columns in POINTS.items():
        plt.hist2d(*parquet.read_table(file, columns=columns), bins=512, norm="log", cmin=1)
    plt.show()
except ImportError:
    print("a picture needs matplotlib")
"""
_BARS = """\
try:
    from matplotlib import pyplot as plt
    for number, (name, values) in enumerate(METRICS.items(), 1):
        plt.subplot(1, len(METRICS), number, title=name).bar([*values], [*values.values()])
    plt.show()
except ImportError:
    print("a picture needs matplotlib")
"""


def cells(subject: Subject) -> list[Cell]:
    """Return the notebook of an app or a run.

    Raises
    ------
    ProjectError
        Its worker cannot be one namespace, or its plan has a stage that no method of it does.
    """
    text = take_apart(subject.worker, subject.project.worker_class, [stage.name for stage in subject.plan.stages])
    kinds = _kinds(subject, text)
    parts = {
        "settings": _settings(subject),
        "plan": _plan(subject, text, kinds),
        "context": harness.context(text, app=subject.project.name, kinds=kinds),
        "run": _run(subject, text),
        "result": _result(subject),
        "picture": _picture(text),
    }
    parts = {name: harness.renamed(code, text.names) for name, code in parts.items()}
    needed = harness.imports(text, "\n".join(parts.values()))
    first = ("from __future__ import annotations\n\n" if text.postponed else "") + needed
    return [
        Cell("markdown", title(subject, needs="It needs what the first cell names, and not AGILAB.")),
        Cell("code", f"{header(subject)}\n{first}"),
        Cell("markdown", "## Settings"),
        Cell("code", parts["settings"], ("parameters",)),
        Cell("markdown", _about_plan(subject)),
        Cell("code", parts["plan"]),
        Cell("markdown", "## What a stage is given\n\nThis stands for AGILAB; what follows is the worker as it is."),
        Cell("code", parts["context"]),
        *_worker(text),
        Cell("markdown", "## Run"),
        Cell("code", parts["run"].strip()),
        Cell("markdown", "## Result\n\nThe sha256 of every artifact."),
        Cell("code", parts["result"].strip()),
        *([Cell("markdown", "## Picture"), Cell("code", parts["picture"].strip())] if parts["picture"] else []),
    ]


def header(subject: Subject) -> str:
    """Return the inline metadata of a script (PEP 723): Python and the locked dependencies."""
    lines = ["# /// script", f'# requires-python = "{subject.requires_python or ">=3.11"}"', "# dependencies = ["]
    return "\n".join([*lines, *(f'#     "{pin}",' for pin in dependencies(subject)), "# ]", "# ///"])


def dependencies(subject: Subject) -> tuple[str, ...]:
    """Return what the worker needs, each at its locked version."""
    return tuple(line.strip().replace('"', "'") for line in requirement_lines(subject.lock))


def title(subject: Subject, *, needs: str) -> str:
    """Return the first cell: what it is, where it comes from, and what it needs."""
    project = subject.project
    rows = [f"# {project.name}", "", project.description, ""]
    origin = f"app project {project.name} {project.version} ({project.uuid})"
    if subject.run is not None:
        manifest = subject.run.manifest
        rows += [f"Run {subject.run.run_id} of {origin}, made on {str(manifest['environment']['python'])[:40]}:"]
        rows += [f"code {manifest['code']['worker_digest'][:12]}, request {subject.run.request['digest'][:12]}."]
    else:
        rows += [f"From {origin}."]
    rows += [f"License: {project.license or 'not said'}. {needs}"]
    return "\n".join(rows)


def _settings(subject: Subject) -> str:
    values = decoded(subject)
    lines = []
    for field in subject.fields:
        lines.append(f"    {field.name} = {_setting(field, values[field.name])}{comment(field)}")
    lines = ["class Settings:", *(lines or ["    pass"])]
    if any(isinstance(ref, InputRef) for part in subject.plan.partitions for ref in part.references):
        data = subject.project.data or {}
        where = f"  # {data['distribution']} {data['version']}: {data.get('root', '.')}" if data else ""
        lines += ["", "", f"DATA = Path({literal(_short(subject.data_root))}).expanduser(){where}"]
    return "\n".join(lines)


def comment(field: Field) -> str:
    """Return what a setting's doc says and which values it may have, as the end of its line."""
    said = " ".join(f"{field.doc.rstrip()} [{field.unit}] {allowed(field)}".replace(" [] ", " ").split())
    return f"  # {said}" if said else ""


def allowed(field: Field) -> str:
    """Return which values a setting may have as Python says it, such as ``(1 <= folds <= 26)``; empty for any."""
    known = field.constraints
    if known.get("options") and not known.get("open"):
        options = json_literal(known["options"])
        several = field.type == "list_selector"
        return f"({{*{field.name}}} <= {{{options[1:-1]}}})" if several else f"({field.name} in {options})"
    if field.type == "list" or not {"min", "max"} & known.keys():
        return ""
    low, high = (f"<{'=' * (not known.get(f'{side}_exclusive'))}" for side in ("min", "max"))
    least = f"{literal(known['min'])} {low} " if "min" in known else ""
    most = f" {high} {literal(known['max'])}" if "max" in known else ""
    return f"({least}{field.name}{most})"


def _short(path: Path) -> str:
    """Return a path without the name of its user, where it lies in their home."""
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def _setting(field: Field, value: Any) -> str:
    if field.type == "secret" and value is not None:
        kind, _, target = str(value).partition(":")
        return f"os.environ[{target!r}]" if kind == "env" else f"Path({target!r}).expanduser().read_text().rstrip()"
    if field.type == "settings" and value is not None:
        inner = ", ".join(f"{one.name}={_setting(one, getattr(value, one.name))}" for one in field.fields)
        return f"type({field.name!r}, (), dict({inner}))"
    return literal(value)


def literal(value: Any) -> str:
    """Return the Python expression of a setting's value."""
    if isinstance(value, float):
        return repr(value) if abs(value) < float("inf") else f'float("{value}")'
    if isinstance(value, tuple | list):
        inner = ", ".join(map(literal, value))
        return f"({inner},)" if isinstance(value, tuple) and len(value) == 1 else f"({inner})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return quoted(value)
    return repr(value)  # of a date it begins with the name of its module


def _about_plan(subject: Subject) -> str:
    count = len(subject.plan.partitions)
    said = f"{count} partitions" if count != 1 else "one partition"
    fixed = "It was made from the settings above; one that changes the plan changes nothing here."
    return f"## Plan\n\n{said.capitalize()}: name, parameters, files that it reads, artifacts that it reads. {fixed}"


def _kinds(subject: Subject, text: WorkerText) -> dict[str, Kind]:
    """Return the kinds that the worker may write, by name."""
    known = {**KINDS, **{name: Kind.from_json(name, kind) for name, kind in subject.project.kinds.items()}}
    return {name: kind for name, kind in known.items() if text.kinds is None or name in text.kinds}


def _plan(subject: Subject, text: WorkerText, kinds: Mapping[str, Kind]) -> str:
    rows = len(subject.plan.partitions) <= ROWS_OF_PLAN
    lines = ["PLAN = {"]
    for stage in subject.plan.stages:
        parts = [_partition(part) for part in stage.partitions or ()]
        if stage.planned_later:
            parts = [
                literal((stage.name, {}, {})).removesuffix(")") + f", {_names([f'{one}/*' for one in stage.after])})"
            ]
        lines += _stage(stage, parts, rows=rows)
    lines.append("}")
    lines.append(f"SUFFIXES = {literal({name: kind.suffix for name, kind in kinds.items()})}")
    units = harness.units(text, kinds)
    lines += [f"UNITS = {literal(units)}"] if units else []
    kept = "POINTS" if "write_points" in text.attributes else "METRICS"
    lines.append(f'RESULTS, FILES, {kept} = Path("{subject.project.name}_results").resolve(), {{}}, {{}}')
    lines += [f"SEED = {subject.seed}"] if {"seed", "rng"} & text.attributes else []
    return "\n".join(lines)


def _stage(stage: Stage, parts: Sequence[str], *, rows: bool) -> list[str]:
    if not rows or len(parts) == 1:
        return [f'    "{stage.name}": [{", ".join(parts)}],']
    return [f'    "{stage.name}": [', *(f"        {part}," for part in parts[:-1]), f"        {parts[-1]}],"]


def _partition(part: Partition) -> str:
    files = {ref.name: ref.path for ref in part.references if isinstance(ref, InputRef)}
    made = [ref.key for ref in part.references if not isinstance(ref, InputRef)]
    params = json_literal(part.params)
    return f"({literal(part.id)}, {params}, {literal(files)}, {_names(made)})"


def _names(names: Sequence[str]) -> str:
    return f"[{', '.join(map(literal, names))}]"


def json_literal(value: Any) -> str:
    """Return the Python expression of a JSON value, whose lists stay lists."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {json_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(json_literal, value))}]"
    return literal(value)


def _worker(text: WorkerText) -> Iterator[Cell]:
    for number, piece in enumerate(text.modules):
        about = f"\n\n{piece.doc}" if piece.doc else ""
        yield Cell("markdown", ("## Worker\n\n" if not number else "") + f"### `{piece.title}`{about}")
        given = "".join(f"class {name}(Exception): pass\n" for name in text.errors) if not number else ""
        yield Cell("code", f"{given}\n\n{piece.code}" if given else piece.code)
    for name, piece in text.stages.items():
        about = f"\n\n{piece.doc}" if piece.doc else ""
        yield Cell("markdown", f"### Stage `{name}`{about}")
        yield Cell("code", piece.code)


def _run(subject: Subject, text: WorkerText) -> str:
    hooks = {name: f"    worker.{name}()\n" if name in text.hooks else "" for name in ("setup", "teardown")}
    return Template(_RUN).substitute(worker=subject.project.worker_class.partition(":")[2], **hooks)


def _result(subject: Subject) -> str:
    if subject.run is None:
        return _RESULT
    recorded = {key: sha256 for key, sha256 in subject.recorded.items() if not _is_pyramid(key, subject.recorded)}
    check = Template(_CHECK).substitute(run_id=subject.run.run_id, count=len(recorded))
    return f"RECORDED = {json.dumps(recorded)}\n{_RESULT}{check}"


def _is_pyramid(key: str, recorded: Mapping[str, str]) -> bool:
    return key.endswith(".pyramid") and key.removesuffix(".pyramid") in recorded


def _picture(text: WorkerText) -> str:
    if "write_points" in text.attributes:
        return _MAP
    return _BARS if "metric" in text.attributes else ""
