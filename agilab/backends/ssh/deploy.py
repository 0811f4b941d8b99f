"""What a host needs before it can run a worker: code, runtime and environment by digest, each only if missing.

On the host, laid out as on the manager::

    ~/wenv/<app>_worker/<code digest>/     the code, unpacked, compiled for its Python, read only
    ~/wenv/.runtime/<digest>/              the runtime
    ~/wenv/.env/<digest>/                  the environment, built there by uv
    ~/wenv/.agilab/<digest>/               AGILAB itself, for the backplane
    ~/wenv/.data/<sha256>                  wheels and inputs
    ~/wenv/.tools/<sha256>/uv              our uv, where the host has none
"""

from __future__ import annotations

import asyncio
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agilab import digest, environment
from agilab.backends.ssh import transfer, wheelhouse
from agilab.backends.ssh.link import Link
from agilab.backends.ssh.transfer import Parcel
from agilab.environment import Requirements
from agilab.errors import InstallError, UnreachableIndexError
from agilab.package import Installed
from agilab.paths import WenvPaths, make_folder, write_file
from agilab.uv import OLDEST_PYTHON, Interpreter, Report, current_interpreter, find_uv

BACKPLANE_ROOTS = ("distributed", "dask", "param", "packaging")
"""Distributions that the backplane needs, with what they need, all at the manager's versions."""
RASTER_ROOTS = ("datashader", "numpy", "pandas", "pyarrow", "param", "packaging")
"""Distributions that pictures need where tables lie: 400 MB that go to a host only when somebody looks at it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a host has.

    Parameters
    ----------
    wenv
        Its AGILAB_WENV.
    uv
        Path of its uv; empty when it has none.
    libc
        Such as ``glibc 2.36``.
    pythons
        Those that are new enough.
    """

    wenv: str
    uv: str
    libc: str
    pythons: tuple[Interpreter, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as `from_json` reads it."""
        names = ("wenv", "uv", "libc")
        return {**{name: getattr(self, name) for name in names}, "pythons": [_to_json(item) for item in self.pythons]}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Offer:
        """Read what a host says of itself."""
        pythons = tuple(Interpreter(**{**item, "path": Path(item["path"])}) for item in said["pythons"])
        return cls(said["wenv"], said["uv"], said["libc"], pythons)


@dataclass(frozen=True, slots=True)
class Backplane:
    """What Dask's scheduler and workers run in on a host.

    Parameters
    ----------
    python
        Interpreter of its environment.
    code
        Folder that holds the package ``agilab``; to be put on ``PYTHONPATH``.
    """

    python: str
    code: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """One host that is being deployed to.

    Parameters
    ----------
    link
        The host.
    wenv
        AGILAB_WENV here.
    report
        Receives progress.
    """

    link: Link
    wenv: WenvPaths
    report: Report

    async def worker(self, installed: Installed, requires_python: str, *, offer: Offer | None = None) -> Installed:
        """Deploy the worker package, runtime and environment of an app.

        Parameters
        ----------
        installed
            What is installed here.
        requires_python
            Version specifiers of the worker; empty for any.
        offer
            What the host has, if it was asked.

        Returns
        -------
        Installed
            The same with the paths, interpreter and environment of the host.
        """
        offer = offer or await self.survey()
        python = self._choose(offer, requires_python, like=installed)
        lock = installed.lock.read_text(encoding="utf-8")
        (code, _), made = await _all(
            self._trees(self._worker_trees(installed), python), self._environment(lock, python, offer)
        )
        return self._there(installed, code, made, python=python, offer=offer)

    async def backplane(self, lock: str, *, offer: Offer | None = None) -> Backplane:
        """Deploy AGILAB and what Dask needs, or what pictures need.

        Parameters
        ----------
        lock
            As `backplane_lock` makes it.
        offer
            What the host has, if it was asked.
        """
        offer = offer or await self.survey()
        python = self._choose(offer, _this_minor())
        with self._agilab() as trees:
            (code,), made = await _all(self._trees(trees, python), self._environment(lock, python, offer))
        return Backplane(made["python"], code)

    async def have(self, installed: Installed, lock: str, *, offer: Offer) -> tuple[Installed, Backplane] | None:
        """Return what `worker` and `backplane` would, asked of the host in one go; None when it lacks something.

        Parameters
        ----------
        installed, lock
            As for them.
        offer
            What the host had when it was last asked.
        """
        try:
            python, own = self._choose(offer, "", like=installed), self._choose(offer, _this_minor())
        except InstallError:  # it may have another one by now
            return None
        locks = (installed.lock.read_text(encoding="utf-8"), lock)
        with self._agilab() as agilab:
            trees = {**self._worker_trees(installed), **agilab}
            request = {
                "trees": [
                    {"folder": name, "tree": digest.of_tree(source), "sha256": ""} for name, source in trees.items()
                ],
                "environments": [
                    {"lock": text, "python": _to_json(one)} for text, one in zip(locks, (python, own), strict=True)
                ],
            }
        said = await self.link.ask("have", request)
        (code, _, code_of_agilab), made = said["trees"], said["environments"]
        if not all(said["trees"]) or not all(one["folder"] for one in made):
            return None
        there = self._there(installed, code, made[0], python=python, offer=offer)
        return there, Backplane(made[1]["python"], code_of_agilab)

    def _worker_trees(self, installed: Installed) -> dict[str, Path]:
        """Return code and runtime of a worker: name relative to AGILAB_WENV -> folder here."""
        return {path.relative_to(self.wenv.root).as_posix(): path for path in (installed.code, installed.runtime)}

    @contextmanager
    def _agilab(self) -> Iterator[dict[str, Path]]:
        """Give AGILAB itself, without its apps: name relative to AGILAB_WENV -> folder here."""
        make_folder(self.wenv.tmp)
        with tempfile.TemporaryDirectory(prefix="agilab-", dir=self.wenv.tmp) as name:
            tree = Path(name)
            _copy_agilab(tree / "agilab")
            yield {f"{self.wenv.backplanes.name}/{digest.of_tree(tree)}": tree}

    def _there(
        self, installed: Installed, code: str, made: Mapping[str, Any], *, python: Interpreter, offer: Offer
    ) -> Installed:
        return replace(
            installed,
            code=Path(code),
            runtime=Path(offer.wenv, installed.runtime.relative_to(self.wenv.root)),
            environment=Path(made["folder"]),
            environment_digest=Path(made["folder"]).name,
            python=Path(made["python"]),
            python_version=python.version,
            lock=Path(made["folder"], environment.LOCK_NAME),
        )

    async def survey(self) -> Offer:
        """Ask the host what it has."""
        return Offer.from_json(await self.link.ask("survey", {}))

    def _choose(self, offer: Offer, requires_python: str, *, like: Installed | None = None) -> Interpreter:
        """Choose a Python there: the very version used here, else the same minor version, else the newest admitted."""
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version

        wanted = like.python_version if like is not None else current_interpreter().version
        admitted = SpecifierSet(",".join(filter(None, (requires_python, f">={OLDEST_PYTHON}"))), prereleases=True)
        tag = _built_for(like) if like is not None else ""
        fitting = [
            item
            for item in offer.pythons
            if admitted.contains(item.version) and (not tag or tag == f"{item.abi}-{item.platform}")
        ]
        if not fitting:
            found = ", ".join(f"{item.version} on {item.platform} ({item.path})" for item in offer.pythons) or "none"
            needs = f"Python {requires_python or f'>={OLDEST_PYTHON}'}" + (
                f" of {tag}, for which it was built" if tag else ""
            )
            what = f"the worker of {like.app}" if like is not None else "the backplane"
            raise InstallError(
                f"host {self.link.name}: {what} needs {needs}; found {found}; install one that fits there"
            )
        minor = wanted.split(".")[:2]
        return max(
            fitting,
            key=lambda item: (item.version == wanted, item.version.split(".")[:2] == minor, Version(item.version)),
        )

    async def _trees(self, trees: Mapping[str, Path], python: Interpreter) -> list[str]:
        """Give the host folders of files, by their names relative to its AGILAB_WENV; return their paths there."""
        make_folder(self.wenv.tmp)
        with tempfile.TemporaryDirectory(prefix="trees-", dir=self.wenv.tmp) as name:
            parcels = [
                await asyncio.to_thread(_packed, source, Path(name, str(number)), folder, python)
                for number, (folder, source) in enumerate(trees.items())
            ]
            return [path for path, _ in await transfer.put(self.link, parcels, report=self.report)]

    async def _environment(self, lock: str, python: Interpreter, offer: Offer) -> Mapping[str, Any]:
        """Have the environment of a lock on the host, from an index it reaches, else from wheels of ours."""
        request: dict[str, Any] = {
            "lock": lock,
            "python": _to_json(python),
            "uv": offer.uv,
            "wheels": [],
            "build": False,
        }
        made = await self.link.ask("environment", request, report=self.report)
        if made["folder"]:
            return made
        request |= {"build": True, "uv": offer.uv or await self._send_uv(python, offer)}
        try:
            return await self.link.ask("environment", request, report=self.report)
        except UnreachableIndexError:
            self.report(f"{self.link.name}: reaches no index: wheels are sent")
        wheels = await asyncio.to_thread(
            wheelhouse.gather, lock, python, offer.libc, wenv=self.wenv, report=self.report
        )
        await transfer.put(
            self.link, [Parcel(item.path, item.sha256, label=item.name) for item in wheels], report=self.report
        )
        request["wheels"] = [{"name": item.name, "sha256": item.sha256} for item in wheels]
        return await self.link.ask("environment", request, report=self.report)

    async def _send_uv(self, python: Interpreter, offer: Offer) -> str:
        if python.platform != current_interpreter().platform or not offer.libc.startswith("glibc"):
            raise InstallError(
                f"host {self.link.name} has no uv, and ours is for {current_interpreter().platform}; "
                "install uv there: pip install --user uv"
            )
        program = Path(find_uv())
        sha256 = await asyncio.to_thread(digest.of_file, program)
        parcel = Parcel(program, sha256, {"tool": "uv"})
        return (await transfer.put(self.link, [parcel], report=self.report))[0][0]


def backplane_lock(wenv: WenvPaths, report: Report, roots: Sequence[str] = BACKPLANE_ROOTS) -> str:
    """Return the lock of the backplane: some distributions and all they need, at the versions that run here.

    Raises
    ------
    InstallError
        The lock has to be made first and no index can be reached, or a version is not to be had there.
    """
    requirements = Requirements(_this_minor(), tuple(_closure(roots)))
    stored = make_folder(wenv.locks) / f"{requirements.digest}.lock"
    if stored.is_file():
        return stored.read_text(encoding="utf-8")
    log = stored.with_suffix(".log")
    text = environment.resolve(requirements, current_interpreter(), previous="", log=log, report=report)
    write_file(stored, text.encode())
    return text


def _this_minor() -> str:
    return f"=={'.'.join(current_interpreter().version.split('.')[:2])}.*"


def _closure(roots: Iterable[str]) -> list[str]:
    """Pin distributions and what they need at the versions that are installed here."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    todo = list(roots)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            here = distribution(name)
        except PackageNotFoundError as err:
            raise InstallError(f"{name} is missing from the installation of AGILAB; install AGILAB again") from err
        found[name] = f"{name}=={here.version}"
        for line in here.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(needed.name)
    return sorted(found.values())


def _built_for(installed: Installed) -> str:
    """Return the Python and platform that compiled worker code is for, such as ``cpython-311-linux-x86_64``."""
    _, _, tag = installed.code.name.partition("-")
    about = next(installed.code.glob("*.dist-info/WHEEL"), None)
    pure = about is not None and "\nTag: py3-none-any" in f"\n{about.read_text(encoding='utf-8')}"
    return "" if pure else tag


def _to_json(python: Interpreter) -> dict[str, str]:
    return {**asdict(python), "path": str(python.path)}


def _packed(source: Path, archive: Path, folder: str, python: Interpreter) -> Parcel:
    """Pack a folder of files for a place on a host."""
    _pack(source, archive)
    place = {"folder": folder, "tree": digest.of_tree(source), "python": _to_json(python)}
    return Parcel(archive, digest.of_file(archive), place, label=folder)


def _pack(source: Path, archive: Path) -> None:
    """Write the files of a tree that count into a tar archive: the same bytes for the same tree."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        info.mode = 0o700 if info.mode & 0o100 else 0o600
        return info

    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in digest.tree_files(source):
            tar.add(source / name, arcname=name, recursive=False, filter=plain)


def _copy_agilab(target: Path) -> None:
    import shutil

    here = Path(__file__).parents[2]
    for name in digest.tree_files(here, skip="_apps"):
        target.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here / name, target / name)


async def _all(*steps: Any) -> Sequence[Any]:
    """Take steps at the same time; the first failure ends the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step) for step in steps]
    except BaseExceptionGroup as group_error:
        error: BaseException = group_error
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    return [task.result() for task in tasks]
