"""How uv and the Pythons of this machine are found, run and read; it decides nothing about environments.

uv runs quietly: no terminal codes, no interpreter downloads, and of the
caller's variables only those that say how to reach an index, a cache or a
compiler. What it says goes to a log, line by line as it comes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agilab.errors import AgilabError, InstallError, NoSpaceError, UnreachableIndexError

if TYPE_CHECKING:
    import subprocess

Report = Callable[[str], None]
"""Receives one line of progress for a person at a time."""

OLDEST_PYTHON = "3.11"
"""What the runtime needs; a worker may ask for a newer Python, not for an older one."""

UV_VARIABLES = (
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY", "UV_FIND_LINKS"),
    *("UV_OFFLINE", "UV_EXCLUDE_NEWER", "UV_KEYRING_PROVIDER", "UV_INSECURE_HOST", "UV_NATIVE_TLS"),
    *("UV_SYSTEM_CERTS", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_CONCURRENT_DOWNLOADS", "UV_CONCURRENT_BUILDS"),
    *("UV_CONCURRENT_INSTALLS", "UV_CACHE_DIR", "UV_CONFIG_FILE", "UV_LINK_MODE", "NETRC"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS"),
    *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"),
)
"""The variables that uv gets to see, besides ``UV_INDEX_<NAME>_USERNAME`` and ``_PASSWORD``; no other is passed."""

# Compiled when first used: importing this module is part of every start of a run.
_PROGRESS = r"\s*(Downloading|Downloaded|Building|Built|Resolved|Prepared|Installed|Bytecode compiled) "
_CONTROL = r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]"
_OFFLINE = r"(?i)dns error|client error \(Connect\)|network was disabled|connection refused|timed out"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python found on this machine.

    Parameters
    ----------
    path
        Its executable.
    implementation, version
        Such as ``cpython`` and ``3.13.0``.
    abi
        Tag of its byte code and build flags, such as ``cpython-313``.
    platform
        System and machine, such as ``linux-x86_64``.
    """

    path: Path
    implementation: str
    version: str
    abi: str
    platform: str


def current_interpreter() -> Interpreter:
    """Describe the Python that runs this."""
    return Interpreter(
        path=Path(sys.executable),
        implementation=sys.implementation.name,
        version=sys.version.split()[0].rstrip("+"),
        abi=f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}",
        platform=f"{sys.platform}-{os.uname().machine}",
    )


# The same words as in current_interpreter, asked of another Python.
_PROBE = (
    "import os, sys; i = sys.implementation; print(getattr(sys, '_base_executable', '') or sys.executable, i.name,"
    " sys.version.split()[0].rstrip('+'), i.cache_tag + getattr(sys, 'abiflags', ''),"
    " sys.platform + '-' + os.uname().machine, sep='\\n')"
)


def find_interpreter(requires_python: str, *, asked_by: Path, environ: Mapping[str, str] | None = None) -> Interpreter:
    """Choose the Python for a worker: this one if it is admitted, else the newest one found that is.

    Parameters
    ----------
    requires_python
        Version specifiers; empty for any.
    asked_by
        The file that asks, for the message.
    environ
        Where ``PATH``, ``PYENV_ROOT`` and ``UV_PYTHON_INSTALL_DIR`` are read; by default this process's.

    Raises
    ------
    InstallError
        No Python on this machine is admitted; the message names those that were found.
    """
    here = current_interpreter()
    if not requires_python:
        return here
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import Version

    try:
        admitted = SpecifierSet(f"{requires_python},>={OLDEST_PYTHON}", prereleases=True)
    except InvalidSpecifier as err:
        raise InstallError(
            f"{asked_by}: requires-python {requires_python!r} is not valid; write it like '>=3.11'"
        ) from err
    if admitted.contains(here.version):
        return here
    found = find_interpreters(environ)
    fitting = [python for python in found if admitted.contains(python.version)]
    if fitting:
        return max(fitting, key=lambda python: (not (v := Version(python.version)).is_prerelease, v))
    listed = ", ".join(f"{python.version} ({python.path})" for python in [here, *found])
    raise InstallError(
        f"{asked_by} needs Python {requires_python} (and at least {OLDEST_PYTHON}); found {listed}; "
        "install one that fits and put it on PATH"
    )


def find_interpreters(environ: Mapping[str, str] | None = None) -> list[Interpreter]:
    """List the Pythons of this machine that are new enough, those on PATH first.

    Parameters
    ----------
    environ
        As in `find_interpreter`.
    """
    return [python for path in _candidates(environ) if (python := probe(path)) is not None]


def _candidates(environ: Mapping[str, str] | None) -> list[Path]:
    """List executables that may be a Python 3.11 or newer, each file once, those on PATH first."""
    env = os.environ if environ is None else environ
    home = env.get("HOME") or str(Path.home())
    pyenv = Path(env.get("PYENV_ROOT") or f"{home}/.pyenv")
    uv_data = Path(env.get("XDG_DATA_HOME") or f"{home}/.local/share", "uv", "python")
    shims = str(pyenv / "shims")  # slow, and what they lead to is looked at anyway
    folders = [Path(name) for name in env.get("PATH", "").split(os.pathsep) if name and name != shims]
    new_enough = r"3\.(1[1-9]|[2-9]\d)(?!\d)"
    named = re.compile(rf"python(3|{new_enough}t?)")
    found = [path for folder in folders for path in folder.glob("python3*") if named.fullmatch(path.name)]
    for root in (pyenv / "versions", Path(env.get("UV_PYTHON_INSTALL_DIR") or uv_data)):
        found += [path for path in root.glob("*/bin/python3") if re.search(new_enough, path.parts[-3])]
    distinct: dict[str, Path] = {}
    for path in found:
        distinct.setdefault(os.path.realpath(path), path)
    return list(distinct.values())


def probe(path: Path) -> Interpreter | None:
    """Ask an executable what Python it is; None when it does not start or is none."""
    import subprocess

    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=uv_environment(),
        )
        executable, *words = done.stdout.split("\n")[:5]
        return Interpreter(Path(executable), *words)
    except (OSError, ValueError, TypeError, subprocess.SubprocessError):
        return None  # a shim without a version behind it, a broken installation


def uv_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that uv and what it builds get to see.

    Parameters
    ----------
    environ
        Where they are taken from; by default this process's environment.
    """
    env = os.environ if environ is None else environ
    passed = {name: env[name] for name in UV_VARIABLES if name in env}
    passed |= {name: value for name, value in env.items() if name.startswith("UV_INDEX_")}
    return passed | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}


def find_uv() -> str:
    """Return the path of uv: that of the ``uv`` distribution, else one beside this Python, else one on PATH.

    Raises
    ------
    InstallError
        There is none.
    """
    import shutil

    with suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return find_uv_bin()
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise InstallError("uv is not installed, so no worker environment can be built; install it: pip install uv")
    return found


def run_uv(
    arguments: Sequence[str | Path], *, task: str, log: Path, report: Report, folder: Path, held: int | None = None
) -> None:
    """Run uv, append what it says to a log, and pass its progress on line by line.

    Parameters
    ----------
    arguments
        After ``uv``.
    task
        What it is run for, for the message: "lock the requirements of demo".
    log
        File that gets all of its output.
    report
        Receives lines such as ``Downloading numpy (15.9MiB)``.
    folder
        Where it runs.
    held
        Descriptor of a lock that uv keeps too, so that the lock outlives this process if uv does.

    Raises
    ------
    InstallError
        It failed; one line with its reason and the path of the log.
    NoSpaceError
        The disk is full.
    """
    command = [find_uv(), *map(str, arguments)]
    said: list[str] = []
    with open(log, "a", encoding="utf-8", opener=_private) as file:
        file.write(f"$ uv {' '.join(command[1:])}\n")
        file.flush()
        process = _start(command, folder, held)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                text = re.sub(_CONTROL, "", line.rstrip())
                said.append(text)
                file.write(text + "\n")
                if re.match(_PROGRESS, text):
                    report(text.strip())
            code = process.wait()
        finally:
            if process.poll() is None:  # an interrupt, or a report that raised: do not leave it running
                process.terminate()
                process.wait()
            process.stdout.close()  # type: ignore[union-attr]
        file.write(f"exit code {code}\n")
    if code:
        raise _failure(said, task, log)


def _start(command: Sequence[str], folder: Path, held: int | None) -> subprocess.Popen[str]:
    import subprocess

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=uv_environment(),
        cwd=folder,
        pass_fds=() if held is None else (held,),
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _failure(said: list[str], task: str, log: Path) -> AgilabError:
    """Make one sentence of what uv printed."""
    whole = "\n".join(said)
    if "(os error 28)" in whole or "No space left on device" in whole:
        stat = os.statvfs(log.parent)
        return NoSpaceError(
            f"no space on disk, cannot {task}: {stat.f_bavail * stat.f_frsize} bytes free in {log.parent}; "
            f"free some space and try again; the full log is {log}"
        )
    reason = " ".join(first_reason(said).split()).rstrip(".")
    if re.search(_OFFLINE, whole):
        hint = "check the network, or name an index with UV_DEFAULT_INDEX (uv does not read pip's settings)"
        return UnreachableIndexError(f"cannot {task}: {reason[:500]}; {hint}; the full log is {log}")
    return InstallError(f"cannot {task}: {reason[:500]}; the full log is {log}")


def first_reason(said: Sequence[str]) -> str:
    """Pick from uv's output what a person needs: its error, first and last cause, and a compiler's first complaint."""
    heads = [i for i, line in enumerate(said) if re.match(r"error: |\s*×", line)]
    if not heads:
        return next((line.strip() for line in reversed(said) if line.strip()), "uv said nothing")
    parts: list[str] = []
    for line in said[heads[-1] :]:
        if not line.strip() or line.startswith("hint:"):
            break
        words = re.sub(r"^\s*(error: |×|[├╰]─▶|cause:|Caused by:|│)\s*", "", line).strip()
        if parts and not re.match(r"\s*([├╰]─▶|cause:|Caused by:)", line):
            parts[-1] += f" {words}"
        else:
            parts.append(words)
    complaint = next(
        (line.strip() for line in said[: heads[-1]] if re.search(r":\d+: (fatal )?error: |^\w*Error: ", line)), ""
    )
    chosen = dict.fromkeys(part.rstrip(":") for part in [*parts[:2], parts[-1], complaint] if part)
    return ": ".join(chosen)
