"""What worker code is written against: `Worker` and `PartitionContext`; it starts no process and opens no pipe.

Frozen: these names, their parameters and what they promise do not change
within one major version. Standard library only, since this file runs in the
worker environment.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agilab.artifact import KINDS, Kind
from agilab.errors import ArtifactNotFoundError, NoSpaceError, WorkerError
from agilab.paths import NAME_PATTERN, disk_errors

if TYPE_CHECKING:
    import logging

Send = Callable[[dict[str, Any]], None]


class Worker:
    """Base of an app's worker: one method per stage, named like the stage.

    One instance lives per entry process and runs one partition at a time, so
    that what `setup` loads serves every partition the process is given.

    Attributes
    ----------
    settings
        The run's settings with their declared types, frozen:
        ``self.settings.sample_s``. Validated again before the worker is made.

    Examples
    --------
    >>> class Squares(Worker):
    ...     def square(self, part):
    ...         part.write("square", "json", part.params["i"] ** 2)
    """

    settings: Any

    def setup(self) -> None:
        """Prepare what every partition needs; called once, before the first one."""

    def teardown(self) -> None:
        """Release what `setup` took; called once, after the last partition, unless the process is killed."""


class Inputs(Mapping[str, Path]):
    """Local paths of a partition's inputs, by name; a near miss names what there is."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)

    def __getitem__(self, name: str) -> Path:
        try:
            return self._paths[name]
        except KeyError:
            known = ", ".join(list(self._paths)[:10]) or "none"
            raise ArtifactNotFoundError(f"no input {name!r}; this partition has {known}; plan it as an input") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def named(self, name: str) -> list[Path]:
        """Return every input artifact called `name`, in the order of stage and partition."""
        return [path for key, path in self._paths.items() if key == name or key.endswith(f"/{name}")]


class PartitionContext:
    """What a stage method knows about the partition it runs, and what it reports.

    Attributes
    ----------
    id, stage
        Name of the partition and of its stage.
    params
        What the plan said for this partition; JSON values.
    inputs
        Input name -> local path of a file with the planned digest; read only.
    folder
        Where this attempt may write large files itself before it hands them
        to `write`; whatever is not handed over is dropped.
    resources
        What the partition occupies, such as ``{"gpu": [1]}``: which devices of each.
    seed
        Integer made from the request's seed and the partition's id: the same
        in every run of the same request, on every backend.
    rng
        ``random.Random(seed)``.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        folder: Path,
        *,
        send: Send,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.id: str = task["id"]
        self.stage: str = task["stage"]
        self.params: Mapping[str, Any] = task["params"]
        self.inputs = Inputs({name: Path(path) for name, path in task["inputs"].items()})
        self.resources: Mapping[str, list[int]] = task["resources"]
        self.seed: int = partition_seed(task["seed"], self.id)
        self.folder = folder
        self.written: dict[str, dict[str, str]] = {}
        self._kinds: Mapping[str, Kind] = {**KINDS, **task.get("kinds", {})}
        self._send = send
        self._cancelled = cancelled
        self._rng: random.Random | None = None
        self._logger: logging.Logger | None = None

    @property
    def rng(self) -> random.Random:
        if self._rng is None:
            self._rng = random.Random(self.seed)
        return self._rng

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to stop; a long partition may look and return early."""
        return self._cancelled()

    @property
    def log(self) -> logging.Logger:
        """A `logging.Logger` whose records reach the run's log with stage and partition: ``part.log.info(text)``."""
        if self._logger is None:
            self._logger = _logger(self._send, self.id)
        return self._logger

    def write(self, name: str, kind: str, content: Any) -> None:
        """Leave an artifact.

        Parameters
        ----------
        name
            What it is called in this partition; letters, digits, ``_``, ``.``, ``-``.
        kind
            One of the shipped kinds (`agilab.artifact.KINDS`): ``table``,
            ``points``, ``tracks``, ``timeseries``, ``field``, ``json``,
            ``text``, ``image``, ``file``; or one that the app declares under
            ``[tool.agilab.kinds]``.
        content
            A `pathlib.Path` (inside `folder` it is moved, elsewhere copied; it
            keeps its ending) or bytes, for any kind. Or a value: text for
            ``text``; a JSON value for kinds that are compared as ``json``; a
            pyarrow Table or pandas DataFrame for those compared as ``table``.

        Raises
        ------
        WorkerError
            The name is not allowed or used twice, the kind is not known, or the content does not fit it.
        NoSpaceError
            The disk is full.
        """
        form = self._kind(name, kind)
        if isinstance(content, Path):
            target = self._claim(name, kind, form.suffix if content.name.endswith(form.suffix) else content.suffix)
            with disk_errors(target, "writing"):
                _take_file(content, target, self.folder)
            return
        _check_content(content, form, name)
        target = self._claim(name, kind, form.suffix)
        try:
            with disk_errors(target, "writing"):
                self._write(content, form, target)
        except NoSpaceError:
            target.unlink(missing_ok=True)  # others need the room to say what happened
            raise

    def _write(self, content: Any, form: Kind, target: Path) -> None:
        if isinstance(content, bytes | bytearray | memoryview):
            _save(bytes(content), target)
        elif form.comparison == "json":
            text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
            _save(f"{text}\n".encode(), target)
        elif isinstance(content, str):
            _save(content.encode(), target)
        else:
            _write_table(content, target, form)

    def write_points(
        self,
        name: str,
        table: Any,
        *,
        x: str,
        y: str,
        order: str | None = "morton",
        pyramid: bool = True,
    ) -> None:
        """Leave large point data in the form that zooms fast.

        Parameters
        ----------
        name
            What the artifact is called.
        table
            A pyarrow Table, or an iterable of record batches of one schema.
        x, y
            Names of the coordinate columns.
        order
            ``"morton"`` sorts the rows along a space-filling curve, so that a
            zoom reads few row groups; None keeps the order, for data that is
            already coherent in space.
        pyramid
            Whether to leave counts at several resolutions beside the points.

        Raises
        ------
        WorkerError
            A column is missing or not numeric.
        """
        from agilab import points

        target = self._claim(name, "points", ".parquet")
        above = self._claim(f"{name}.pyramid", "file", ".npz") if pyramid else None
        with disk_errors(target, "writing"):
            points.write(target, table, x=x, y=y, order=order, pyramid=above)

    def progress(self, done: float, total: float) -> None:
        """Say how much of this partition is done, in any unit; shown live, never needed."""
        self._send({"op": "progress", "id": self.id, "done": done, "total": total})

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a number, once or once per step; kept in the run's record when the partition commits."""
        self._send({"op": "metric", "id": self.id, "name": name, "value": float(value), "step": step})

    def _kind(self, name: str, kind: str) -> Kind:
        if found := self._kinds.get(kind):
            return found
        from difflib import get_close_matches

        near = get_close_matches(str(kind), self._kinds, 1, cutoff=0.7)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise WorkerError(
            f"artifact {name!r} is of kind {kind!r}, which is not known; {hint}known: {', '.join(self._kinds)}; "
            f"use 'file' for bytes of your own, or declare [tool.agilab.kinds.{kind}] in the project's pyproject.toml"
        )

    def _claim(self, name: str, kind: str, suffix: str) -> Path:
        if not NAME_PATTERN.fullmatch(name):
            raise WorkerError(f"artifact name {name!r} is not allowed; use up to 100 of letters, digits, '_', '.', '-'")
        if name in self.written:
            raise WorkerError(f"artifact {name!r} is written twice by partition {self.id!r}; give each its own name")
        file_name = name if name.endswith(suffix) else name + suffix
        if not NAME_PATTERN.fullmatch(file_name[:100]):
            raise WorkerError(f"artifact {name!r} comes from a file that ends in {suffix!r}; rename that file")
        if file_name == RECORD_NAME:
            raise WorkerError(f"artifact name {name!r} is taken by the partition's own record; choose another")
        self.written[name] = {"name": name, "kind": kind, "path": file_name}
        return self.folder / file_name


RECORD_NAME = "partition.json"
"""The copy of its record that every partition folder holds."""


def partition_seed(seed: int, partition: str) -> int:
    """Return the 63-bit seed of one partition: the head of sha256 over the request's seed and the partition's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{partition}".encode()).digest()[:8], "big") >> 1


def _save(data: bytes, target: Path) -> None:
    """Write a file without the cost of a text layer and a buffer, which small artifacts would feel."""
    with open(target, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


def _take_file(source: Path, target: Path, folder: Path) -> None:
    import os
    import shutil

    if source.is_symlink() or not source.is_file():
        raise WorkerError(f"{source} is not a regular file, so it cannot become an artifact; write it first")
    if source.resolve() == target.resolve():
        return
    if source.resolve().is_relative_to(folder.resolve()):
        os.replace(source, target)
    else:
        shutil.copyfile(source, target)


def _check_content(content: Any, kind: Kind, name: str) -> None:
    """Refuse a value that the kind has no form for: text in a parquet file would be found out much later."""
    if isinstance(content, bytes | bytearray | memoryview) or kind.comparison == "json":
        return
    if kind.comparison == "table":
        fits = hasattr(content, "to_parquet") or type(content).__module__.partition(".")[0] == "pyarrow"
        allowed = "a pyarrow Table, a pandas DataFrame, bytes or a pathlib.Path"
    else:
        fits = isinstance(content, str) and kind.name != "image"
        allowed = "bytes or a pathlib.Path" if kind.name == "image" else "text, bytes or a pathlib.Path"
    if not fits:
        raise WorkerError(
            f"artifact {name!r} of kind {kind.name!r} holds a {type(content).__name__}; hand over {allowed}, "
            "or use another kind: 'json' for a JSON value, 'table' for a pyarrow Table or a pandas DataFrame"
        )
    if kind.comparison == "table" and kind.columns:
        names = list(content.columns if hasattr(content, "to_parquet") else content.schema.names)
        if missing := [column for column in kind.columns if column not in names]:
            raise WorkerError(
                f"artifact {name!r} of kind {kind.name!r} lacks the column {missing[0]!r}; it has {', '.join(names)}"
            )


def _write_table(table: Any, target: Path, kind: Kind) -> None:
    if hasattr(table, "to_parquet") and not kind.columns:
        table.to_parquet(target)
        return
    from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    parquet.write_table(_declared(table, kind) if kind.columns else table, target, compression="zstd")


def _declared(table: Any, kind: Kind) -> Any:
    """Return a table whose columns say their units in the file, as its kind declares them."""
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

    table = pa.Table.from_pandas(table, preserve_index=False) if hasattr(table, "to_parquet") else table
    fields = {field.name: field for field in table.schema}
    units = dict(kind.columns or {})
    told = [
        field.with_metadata({b"unit": units[name].encode(), **(field.metadata or {})}) if units.get(name) else field
        for name, field in fields.items()
    ]
    return table.cast(pa.schema(told, table.schema.metadata))


def _logger(send: Send, partition: str) -> logging.Logger:
    import logging

    class ToManager(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            send({"op": "log", "id": partition, "level": record.levelname, "text": self.format(record)})

    logger = logging.Logger(f"agilab.{partition}", logging.DEBUG)
    logger.addHandler(ToManager())
    return logger
