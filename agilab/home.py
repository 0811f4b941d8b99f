"""Whose folder AGILAB_HOME or AGILAB_WENV is, here and on a host; it touches no other program's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agilab.errors import HomeError, NoSpaceError
from agilab.paths import make_folder, write_json

HOME_SCHEMA = "agilab.home/1"
LITTLE_SPACE_BYTES = 2 * 2**30
"""Free space below which one is warned [bytes]."""
NO_SPACE_BYTES = 200 * 2**20
"""Free space below which nothing is begun [bytes]."""


def check_owner(folder: Path, marker: Path, name: str) -> None:
    """Look whether AGILAB_HOME or AGILAB_WENV is ours, empty or not there yet; nothing is written.

    Raises
    ------
    HomeError
        It is no folder, or holds files of another program.
    """
    if marker.is_file():
        if _schema(marker) != HOME_SCHEMA:
            raise HomeError(
                f"{marker} says schema {_schema(marker)!r}; this AGILAB reads {HOME_SCHEMA!r}; "
                f"choose another folder with {name}=PATH"
            )
        return
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as err:
        raise HomeError(f"{folder} cannot be used: {err.strerror}; choose another folder with {name}=PATH") from err
    # Another process of ours may be claiming it just now: its marker is here, or still aside.
    strangers = [name for name in names if name != marker.name and not name.startswith(f".{marker.name}.")]
    if strangers and not marker.is_file():
        shown = ", ".join(strangers[:3])
        raise HomeError(
            f"{folder} holds files that are not AGILAB's ({shown}); they are left alone: "
            f"choose another folder with {name}=PATH, for example {name}={folder}-holoviz"
        )


def is_ours(marker: Path) -> bool:
    """Whether a folder bears our mark."""
    return marker.is_file() and _schema(marker) == HOME_SCHEMA


def claim(folder: Path, marker: Path, name: str) -> None:
    """Make AGILAB_HOME or AGILAB_WENV ours before the first write into it; nothing is done when it is.

    Raises
    ------
    HomeError
        It holds files of another program, or cannot be written.
    """
    if marker.is_file():
        check_owner(folder, marker, name)
        return
    try:
        make_folder(folder)
    except NoSpaceError:
        raise
    except OSError as err:
        raise HomeError(f"{folder} cannot be used: {err.strerror}; choose another folder with {name}=PATH") from err
    check_owner(folder, marker, name)
    try:
        write_json(marker, {"schema": HOME_SCHEMA, "of": name})
    except NoSpaceError:
        raise
    except OSError as err:
        raise HomeError(f"{folder} cannot be written: {err.strerror}; choose another folder with {name}=PATH") from err


def _schema(path: Path) -> Any:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value.get("schema") if isinstance(value, dict) else None
