"""The program that runs on hosts: which modules it is made of, its digest, and the command line that starts it."""

from __future__ import annotations

import base64
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from agilab import digest
from agilab.errors import InstallError

MODULES = (
    *("__init__", "errors", "digest", "paths", "home", "uv", "environment", "frozen", "reaper"),
    *("backends/__init__", "backends/ssh/__init__", "backends/ssh/onhost"),
)
"""Modules of AGILAB that the program consists of; standard library only."""

# Chosen by a shell, since the name of a new enough Python differs from host to host. One line, quoted once by us:
# the login shell that reads it may be any.
_FIND_PYTHON = (
    "for p in python3.13 python3.12 python3.11 python3 "
    '"$HOME"/.pyenv/versions/3.1[1-9]*/bin/python3 "$HOME"/.local/share/uv/python/cpython-3.1[1-9]*/bin/python3; do '
    '"$p" -I -S -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && '
    'exec "$p" -I -c "import base64, sys; exec(base64.b64decode(sys.argv[1]))" "$@"; done; '
    "python3 -V 2>&1; exit 97"
)
NO_PYTHON = 97
"""Exit code of a host without a Python that is new enough."""


@dataclass(frozen=True, slots=True)
class Program:
    """The program as it is sent.

    Parameters
    ----------
    digest
        Names it.
    data
        JSON: file name -> text.
    """

    digest: str
    data: bytes


def program() -> Program:
    """Read the program from the running installation.

    Raises
    ------
    InstallError
        The installation of AGILAB is incomplete.
    """
    here = Path(__file__).parents[2]
    try:
        files = {f"agilab/{name}.py": here.joinpath(f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    except OSError as err:
        raise InstallError(f"{err.filename} is missing from the installation of AGILAB; install AGILAB again") from err
    named = json.dumps({name: digest.of_bytes(text.encode()) for name, text in files.items()}, sort_keys=True)
    return Program(digest.of_bytes(named.encode()), json.dumps(files).encode())


def command(script: str, *arguments: str) -> str:
    """Return a command line that runs a script of this package with the newest fitting Python of a host.

    Parameters
    ----------
    script
        ``"boot"`` or ``"probe"``.
    arguments
        What it gets.
    """
    text = Path(__file__).with_name(f"{script}.py").read_bytes()
    return shlex.join(["exec", "sh", "-c", _FIND_PYTHON, "agilab", base64.b64encode(text).decode(), *arguments])
