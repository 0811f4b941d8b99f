"""Worker environments: lock, build, check, and what this process runs in; it holds no code of apps.

An environment is named by what determines it: the pins of its lock, the
exact Python and the platform. So two apps with the same lock share one, and
nothing in it ever changes: another lock is another environment. On disk::

    AGILAB_WENV/.env/<digest>/                          the environment, made by uv without system packages
    AGILAB_WENV/.env/<digest>/requirements.lock         the pins it was made from
    AGILAB_WENV/.env/<digest>/agilab-environment.json   the stamp, written last: without it, half built
    AGILAB_WENV/.env/<digest>/agilab-folders.json       times of its folders, for the check of a few milliseconds
    AGILAB_WENV/.env/<digest>.lock                      held (flock) by the one process that builds it
    AGILAB_WENV/.env/<digest>.log                       what uv said
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agilab import digest
from agilab.errors import AgilabError, InstallError
from agilab.paths import WenvPaths, make_folder, read_json, write_file, write_json
from agilab.uv import OLDEST_PYTHON, Interpreter, current_interpreter, probe, run_uv
from agilab.uv import Report as Report  # the other modules know progress under this name

SCHEMA = "agilab.environment/1"
STAMP_NAME = "agilab-environment.json"
LOCK_NAME = "requirements.lock"
_FOLDERS_NAME = "agilab-folders.json"
_FOLDERS_SCHEMA = "agilab.environment-folders/1"
_LOCK_LINE = r"# agilab-lock/1 ([0-9a-f]{64})\n"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a worker's ``pyproject.toml`` asks for.

    Parameters
    ----------
    requires_python
        Version specifiers; empty for any.
    dependencies
        Requirement strings.
    has_build_system
        Whether it says how the worker is built; if not, there is nothing to build.
    """

    requires_python: str
    dependencies: tuple[str, ...]
    has_build_system: bool = False

    @property
    def digest(self) -> str:
        """Names the requirements, in whatever order they are written."""
        return digest.of_json({"requires-python": self.requires_python, "dependencies": sorted(self.dependencies)})


def read_requirements(pyproject: Path) -> Requirements:
    """Read what a worker's ``pyproject.toml`` asks for.

    Raises
    ------
    InstallError
        The file is missing or is not what it should be.
    """
    import tomllib

    try:
        whole = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InstallError(
            f"{pyproject} is missing; a worker names its dependencies there, if only an empty list"
        ) from None
    except ValueError as err:
        raise InstallError(f"{pyproject} is not readable TOML: {err}; correct it and install again") from err
    project = whole.get("project", {})
    python, dependencies = project.get("requires-python", ""), project.get("dependencies", [])
    if not isinstance(python, str) or not isinstance(dependencies, list):
        raise InstallError(
            f"{pyproject}: [project] wants requires-python as text and dependencies as a list of texts; "
            f"found {python!r:.100} and {dependencies!r:.100}"
        )
    for item in dependencies:
        if not isinstance(item, str) or not re.fullmatch(r"\s*[A-Za-z0-9].*", item):  # one line, and no option of uv
            raise InstallError(f"{pyproject}: {item!r:.100} is not a requirement; write it like 'numpy>=2'")
    return Requirements(python, tuple(dependencies), "build-system" in whole)


@contextmanager
def holding(lock: Path, *, waiting: str, report: Report) -> Iterator[int]:
    """Hold a lock file that one process at a time can hold; it is free again when the process ends in whatever way.

    Parameters
    ----------
    lock
        The file; it stays.
    waiting
        What to report when another process has it.
    report
        Receives that line.

    Yields
    ------
    int
        Its descriptor, for a child process that must keep it.
    """
    import fcntl

    make_folder(lock.parent)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(waiting)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def is_stale(lock: str, requirements: Requirements) -> bool:
    """Whether a lock says that it was made from other requirements; one that says nothing is taken as it is."""
    line = re.match(_LOCK_LINE, lock)
    return line is not None and line[1] != requirements.digest


def resolve(requirements: Requirements, interpreter: Interpreter, *, previous: str, log: Path, report: Report) -> str:
    """Return a lock: requirements text with hashes, for every platform and Python that the requirements admit.

    Parameters
    ----------
    requirements
        What to lock.
    interpreter
        The Python used for what has to be built to learn its requirements.
    previous
        An earlier lock; its versions are kept where they still fit.
    log
        File that gets uv's output.
    report
        Receives progress.

    Raises
    ------
    InstallError
        There is no solution, or the index cannot be reached.
    """
    import tempfile

    head = (
        f"# agilab-lock/1 {requirements.digest}\n# Written by AGILAB; delete this file to lock the newest versions.\n"
    )
    if not requirements.dependencies:
        return head
    number = len(requirements.dependencies)
    report(f"locking {number} requirement{'' if number == 1 else 's'}")
    with tempfile.TemporaryDirectory(prefix="lock-", dir=log.parent) as name:
        folder = Path(name)
        folder.joinpath("requirements.in").write_text("\n".join(requirements.dependencies) + "\n", encoding="utf-8")
        if previous:
            folder.joinpath(LOCK_NAME).write_text(previous, encoding="utf-8")
        options = ["--generate-hashes", "--universal", "--no-header", "--no-annotate", "--no-emit-index-url"]
        pythons = ["--python", str(interpreter.path), "--python-version", _oldest(requirements.requires_python)]
        run_uv(
            ["pip", "compile", "requirements.in", "--output-file", LOCK_NAME, *options, *pythons],
            task="lock the requirements",
            log=log,
            report=report,
            folder=folder,
        )
        text = folder.joinpath(LOCK_NAME).read_text(encoding="utf-8")
    return head + "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def _oldest(requires_python: str) -> str:
    """The oldest Python a lock has to serve, so that it does not depend on who wrote it."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    lower = [
        Version(spec.version.removesuffix(".*"))
        for spec in SpecifierSet(requires_python)
        if spec.operator in ("==", ">=", "~=", ">")
    ]
    return str(max([*lower, Version(OLDEST_PYTHON)]))


def pins(lock: str) -> str:
    """Return what counts of a lock: its lines without comments and blank ones."""
    return "".join(
        f"{line.rstrip()}\n" for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")
    )


def environment_digest(lock: str, interpreter: Interpreter) -> str:
    """Name the environment that a lock gives on a Python and platform."""
    python = {key: value for key, value in asdict(interpreter).items() if key != "path"}
    return digest.of_json({"schema": SCHEMA, "pins": digest.of_bytes(pins(lock).encode()), **python})


def python_of(folder: Path) -> Path:
    """Return the executable of an environment."""
    return folder / "bin" / "python"


def ensure(lock: str, interpreter: Interpreter, *, wenv: WenvPaths, report: Report) -> Path:
    """Return the folder of the environment of a lock, building it when it is missing, half built or damaged.

    Two processes that need the same one build it once: the second waits.

    Parameters
    ----------
    lock
        Requirements text with hashes; without any pin the environment is empty.
    interpreter
        The Python it is made with.
    wenv
        Where environments lie.
    report
        Receives progress, with download sizes.

    Raises
    ------
    InstallError
        uv failed; one line with its reason and the path of its log.
    NoSpaceError
        The disk is full.
    """
    name = environment_digest(lock, interpreter)
    folder = wenv.environments / name
    if looks_sound(folder):
        return folder
    guard = folder.with_name(f"{name}.lock")
    with holding(guard, waiting=f"waiting for another process that builds {folder}", report=report) as held:
        if looks_sound(folder):
            return folder
        damaged = False
        if folder.joinpath(STAMP_NAME).exists():
            problems = verify_environment(folder)
            if not problems:  # copied, touched, or the machine was started: all files are right
                _note_folders(folder)
                return folder
            damaged = True
            report(f"{folder} is damaged ({problems[0]}, {len(problems)} in all): building it again")
        _build(folder, lock, interpreter, report=report, held=held, refresh=damaged)
    return folder


def _build(folder: Path, lock: str, interpreter: Interpreter, *, report: Report, held: int, refresh: bool) -> None:
    import shutil

    if folder.is_symlink() or folder.exists():
        shutil.rmtree(folder)
    make_folder(folder.parent)
    log = folder.with_name(f"{folder.name}.log")
    wanted = pins(lock)

    def uv(*arguments: str | Path) -> None:
        task = f"build the worker environment {folder}"
        run_uv(arguments, task=task, log=log, report=report, folder=folder.parent, held=held)

    report(f"building a worker environment with Python {interpreter.version}")
    uv("venv", "--no-project", "--no-config", "--python", interpreter.path, folder)
    write_file(folder / LOCK_NAME, wanted.encode(), durable=False)
    as_shipped: tuple[Damage, ...] = ()
    if wanted:
        sync = (
            "pip",
            "sync",
            "--require-hashes",
            "--compile-bytecode",
            "--python",
            python_of(folder),
            folder / LOCK_NAME,
        )
        uv(*sync)
        as_shipped = damages(_site_packages(folder))
        if as_shipped:
            # Files are hard links into uv's cache, so what was damaged here is damaged there: fetch it again.
            names = sorted({damage.distribution for damage in as_shipped})
            report(f"uv's cache holds a damaged {', '.join(names)}: fetching again")
            uv(*sync, "--reinstall", *(word for name in names for word in ("--refresh-package", name)))
            as_shipped = damages(_site_packages(folder))
    stamp = {
        "schema": SCHEMA,
        "digest": folder.name,
        "python": interpreter.version,
        "implementation": interpreter.implementation,
        "abi": interpreter.abi,
        "platform": interpreter.platform,
        "interpreter": os.path.realpath(python_of(folder)),
        "lock_sha256": digest.of_bytes(wanted.encode()),
        "distributions": distributions_of(_site_packages(folder)),
        "mismatches_as_shipped": [str(damage) for damage in as_shipped],
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    _note_folders(folder)
    write_json(folder / STAMP_NAME, stamp)


def read_stamp(folder: Path) -> dict[str, Any]:
    """Read the stamp of an environment.

    Raises
    ------
    InstallError
        It has none, or one that cannot be read: the environment is half built or damaged.
    """
    try:
        return read_json(folder / STAMP_NAME, SCHEMA)
    except (OSError, AgilabError) as err:
        raise InstallError(f"{folder} is not a finished worker environment ({err}); run agilab install again") from err


def looks_sound(folder: Path) -> bool:
    """Check an environment in a few milliseconds: stamp, interpreter, and that no folder of it was touched.

    Sees a missing or replaced file; a file changed in place is seen by `verify_environment` only. The
    first time after this machine started it says no, since a power cut may have emptied any file.
    """
    try:
        if not folder.joinpath(STAMP_NAME).is_file():
            return False
        noted = read_json(folder / _FOLDERS_NAME, _FOLDERS_SCHEMA)
        if noted["interpreter"] != _interpreter_state(folder) or _restarted(noted["boot"]):
            return False
        site = f"{folder}/{noted['site_packages']}/"
        return all(os.lstat(site + name).st_mtime_ns == mtime for name, mtime in noted["folders"].items())
    except (OSError, AgilabError, KeyError):
        return False


def verify_environment(folder: Path) -> tuple[str, ...]:
    """Compare every file of an environment with what its distributions recorded; return what is wrong.

    Returns
    -------
    tuple of str
        One line per problem; empty when all is well.
    """
    try:
        stamp = read_stamp(folder)
    except InstallError as err:
        return (str(err),)
    python = probe(python_of(folder))
    if python is None:
        return (f"{python_of(folder)}: the interpreter is gone or does not start",)
    problems = []
    if python.version != stamp["python"]:
        problems.append(f"{python_of(folder)}: Python is {python.version} instead of {stamp['python']}")
    found = distributions_of(_site_packages(folder))
    problems += [
        f"{name}: {found.get(name, 'missing')} instead of {stamp['distributions'].get(name, 'nothing')}"
        for name in sorted(found.keys() | stamp["distributions"].keys())
        if found.get(name) != stamp["distributions"].get(name)
    ]
    problems += [
        text
        for damage in damages(_site_packages(folder))
        if (text := str(damage)) not in stamp["mismatches_as_shipped"]
    ]
    return tuple(problems)


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what its distribution recorded."""

    distribution: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path} of {self.distribution}: {self.problem}"


def recorded_files(site: Path) -> Iterator[tuple[str, str, str]]:
    """Yield ``(distribution, path, sha256)`` for every file that a RECORD in `site` gives a digest for.

    Notes
    -----
    "Recording installed projects", Python packaging specifications: CSV of path, ``sha256=`` url-safe base64, size.
    """
    import base64
    import csv

    for record in sorted(site.glob("*.dist-info/RECORD")):
        name = record.parent.name.split("-")[0]
        with open(record, encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                if len(row) > 1 and row[1].startswith("sha256="):
                    coded = row[1].removeprefix("sha256=")
                    yield name, row[0], base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).hex()


def damages(site: Path) -> tuple[Damage, ...]:
    """Hash every file recorded in a folder of distributions and list those that are missing or changed.

    Two distributions may both ship one path; then either may have won.
    """
    expected: dict[str, dict[str, str]] = {}
    for name, path, sha256 in recorded_files(site):
        expected.setdefault(path, {})[sha256] = name
    found: list[Damage] = []
    for path, allowed in expected.items():
        name = next(iter(allowed.values()))
        try:
            actual = digest.of_file(site / path)
        except OSError:
            found.append(Damage(name, path, "missing"))
            continue
        if actual not in allowed:
            found.append(Damage(name, path, f"changed, sha256 {actual} instead of {next(iter(allowed))}"))
    return tuple(found)


def _site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/*/site-packages"), folder / "lib" / "site-packages")


def _interpreter_state(folder: Path) -> list[int]:
    """What changes when the Python behind an environment is replaced."""
    stat = python_of(folder).stat()
    return [stat.st_size, stat.st_mtime_ns]


def _boot() -> list[str]:
    """Name this machine and its last start."""
    try:
        return [os.uname().nodename, Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()]
    except OSError:
        return [os.uname().nodename, ""]


def _restarted(noted: list[str]) -> bool:
    host, boot = _boot()
    return noted[0] == host and noted[1] != boot


def _note_folders(folder: Path) -> None:
    """Note the times of all folders but those of byte code, which Python may write to."""
    site = _site_packages(folder)
    times: dict[str, int] = {}
    for path, folders, _ in os.walk(site):
        folders[:] = [name for name in folders if name != "__pycache__"]
        times[os.path.relpath(path, site)] = os.lstat(path).st_mtime_ns
    value = {
        "schema": _FOLDERS_SCHEMA,
        "boot": _boot(),
        "interpreter": _interpreter_state(folder),
        "site_packages": site.relative_to(folder).as_posix(),
        "folders": times,
    }
    write_file(folder / _FOLDERS_NAME, json.dumps(value).encode())


def distributions_of(site: Path | None = None) -> dict[str, str]:
    """Return name -> version of the distributions in a folder, or of those that this process can import."""
    from importlib.metadata import distributions

    found: dict[str, str] = {}
    for item in distributions() if site is None else distributions(path=[str(site)]):
        name = item.metadata["Name"] if item.metadata else None
        if name:  # a broken dist-info has none
            found.setdefault(_canonical(name), item.version)  # the first on the path is the one that is imported
    return dict(sorted(found.items()))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def capture() -> dict[str, Any]:
    """Describe what this process runs in: python, implementation, platform, cpu_features, distributions."""
    here = current_interpreter()
    return {
        "python": here.version,
        "implementation": here.implementation,
        "platform": here.platform,
        "cpu_features": cpu_features(),
        "distributions": distributions_of(),
    }


def cpu_features() -> list[str]:
    """Return the names of the processor's features, sorted; empty where the system does not tell."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip().lower() in ("flags", "features"):
                return sorted(set(value.split()))
    return []


def compare(lock: str, distributions: Mapping[str, str]) -> tuple[str, ...]:
    """List where installed distributions differ from a lock, such as ``numpy 2.1.0 instead of 2.3.4``.

    Parameters
    ----------
    lock
        Requirements text; lines whose markers do not hold in this process do not count.
    distributions
        Name -> version, as in `capture`.

    Returns
    -------
    tuple of str
        Empty when every pin is met exactly; what is installed besides does not count.
    """
    from packaging.requirements import Requirement

    differences: list[str] = []
    for requirement in map(Requirement, requirement_lines(lock)):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = distributions.get(_canonical(requirement.name))
        wanted = ", ".join(spec.version for spec in requirement.specifier) or requirement.url or "any version"
        if found is None:
            differences.append(f"{requirement.name} missing instead of {wanted}")
        elif not requirement.specifier.contains(found, prereleases=True):
            differences.append(f"{requirement.name} {found} instead of {wanted}")
    return tuple(differences)


def pinned(lock: str) -> dict[str, str]:
    """Return name -> version of every pin of a lock; where markers choose, every version with its marker."""
    found: dict[str, list[str]] = {}
    for line in requirement_lines(lock):
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:==|@)?\s*([^;]*?)\s*(?:;\s*(.*))?", line)
        if match:
            found.setdefault(_canonical(match[1]), []).append(f"{match[2]} ({match[3]})" if match[3] else match[2])
    return {name: ", ".join(versions) for name, versions in sorted(found.items())}


def requirement_lines(lock: str) -> Iterable[str]:
    """Yield the pins of a lock, with their markers and without their hashes."""
    for line in pins(lock).replace("\\\n", " ").splitlines():
        text = re.sub(r"\s--hash=\S+", "", line).strip()
        if not text.startswith("-"):
            yield text
