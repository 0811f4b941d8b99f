"""A notebook that runs an app through AGILAB itself, in a folder with the app project and our wheel; it runs nothing.

What its cells use of AGILAB is listed in docs/reference/core.md and stays.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from string import Template

from agilab import __version__, copies
from agilab.errors import ProjectError
from agilab.installation import code_digest
from agilab.notebook import wheel
from agilab.notebook.document import Cell, write_text
from agilab.notebook.source import take_apart
from agilab.notebook.standalone import comment, json_literal, title
from agilab.notebook.subject import Subject

_CHECK = """\
from importlib.metadata import PackageNotFoundError, version

try:
    found = version("$distribution")
except PackageNotFoundError:
    found = "not installed"
if found != "$version":
    raise ImportError(f"this notebook is of AGILAB $version, which is {found} here; run: pip install ./$wheel")
"""
_PLAN = """\
from agilab import AGI, AgiEnv

env = AgiEnv("./$project")
request = env.request(settings, cluster=cluster, seed=$seed)
AGI.install(env, report=print)
for stage, workers in AGI.get_distrib(env, request).assignment.items():
    print(stage, {worker: list(partitions) for worker, partitions in workers.items()})
"""
_RUN = """\
run = AGI.run(env, request).check()
run
"""
_RESULT = """\
found = {artifact.key: artifact.sha256 for artifact in run.artifacts()}
print(*(f"{sha256}  {key}" for key, sha256 in found.items()), sep="\\n")
print(dict(run.metrics))
"""
_SAME = """\
recorded = $recorded
different = sorted(key for key in {*found, *recorded} if found.get(key) != recorded.get(key))
assert not different, f"not what run $run_id left: {', '.join(different)}"
"""
_PICTURE = """\
try:
    from matplotlib import pyplot as plt
    plt.bar([*run.metrics], [*run.metrics.values()])
    plt.show()
except ImportError:
    print("a picture needs matplotlib")
"""


def write(subject: Subject, folder: Path) -> int:
    """Write the notebook with all it needs into a folder that is not there yet; return how many cells it has.

    Raises
    ------
    ProjectError
        The folder is there already, cannot be written, or the run was made with other code than the project has now.
    """
    project = subject.project
    if subject.run is not None and subject.run.request["code_digest"] != code_digest(project):
        raise ProjectError(
            f"{project.name} has changed since run {subject.run.run_id}; take that run away with --standalone"
        )
    if os.path.lexists(folder):
        raise ProjectError(f"{folder} already exists; choose another name, or remove it first")
    if not folder.parent.is_dir():
        raise ProjectError(f"{folder.parent} is not a folder; make it first, or choose another")
    made = list(cells(subject))
    with copies.aside(folder.parent) as place:
        target = place / folder.name
        target.mkdir(mode=0o700)
        for path, name in copies.sources(project):
            file = target / f"{project.name}_project" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, file)
        wheel.write(target / wheel.name())
        (target / f"{project.name}.ipynb").write_text(write_text(made, script=False), encoding="utf-8")
        target.rename(folder)
    return len(made)


def cells(subject: Subject) -> Iterator[Cell]:
    """Yield the cells of the notebook."""
    project, names = subject.project, [stage.name for stage in subject.plan.stages]
    check = Template(_CHECK).substitute(distribution=wheel.DISTRIBUTION, version=__version__, wheel=wheel.name())
    plan = Template(_PLAN).substitute(project=f"{project.name}_project", seed=subject.seed)
    yield Cell("markdown", title(subject, needs=f"It runs through AGILAB {__version__}, whose wheel lies beside it."))
    yield Cell("code", check.strip())
    yield Cell("markdown", "## Settings\n\nWith `cluster` the same work goes elsewhere; nothing else changes.")
    yield Cell("code", _settings(subject), ("parameters",))
    yield Cell("markdown", "## Plan\n\nWhich partitions there are, and which worker is going to run them.")
    yield Cell("code", plan.strip())
    text = take_apart(subject.worker, project.worker_class, names)
    yield Cell("markdown", f"## Stages\n\nWhat they do, from `{project.name}_project/src/{project.name}_worker`.")
    for name, piece in text.stages.items():
        body = textwrap.dedent(piece.code.partition("\n")[2])
        yield Cell("markdown", f"### `{name}`\n\n{piece.doc}\n\n```python\n{body}\n```".replace("\n\n\n", "\n"))
    yield Cell("markdown", "## Run")
    yield Cell("code", _RUN.strip())
    yield Cell("markdown", "## Result\n\nThe sha256 of every artifact, and the metrics.")
    yield Cell("code", _result(subject).strip())
    yield Cell("markdown", "## Picture")
    yield Cell("code", _PICTURE.strip())


def _settings(subject: Subject) -> str:
    lines = ["settings = {"]
    for field in subject.fields:
        value = json_literal(subject.values[field.name])
        lines.append(f'    "{field.name}": {value},{comment(field)}')
    where = 'cluster = {"backend": "local"}  # or "dask", with "scheduler": "tcp://HOST:PORT" for one that runs'
    return "\n".join([*lines, "}", where])


def _result(subject: Subject) -> str:
    if subject.run is None:
        return _RESULT
    recorded = json_literal(dict(subject.recorded))
    return _RESULT + Template(_SAME).substitute(recorded=recorded, run_id=subject.run.run_id)
