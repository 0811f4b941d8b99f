"""The wheel of the AGILAB that is running, made from its own files, so that a notebook can carry it; nothing is built.

An editable installation has no wheel, and pip keeps none. The same
installation gives the same bytes (PEP 427; the record is that of PEP 376).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from agilab import __version__, digest
from agilab.errors import InstallError
from agilab.project import shipped_apps

DISTRIBUTION = "agilab-holoviz"
PACKAGES = ("agilab", "agilab_dashboards")
_APPS = "agilab/_apps"
_KEPT = ("METADATA", "entry_points.txt")
_WHEEL = b"Wheel-Version: 1.0\nGenerator: agilab\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def name() -> str:
    """Return what the wheel is called."""
    return f"{DISTRIBUTION.replace('-', '_')}-{__version__}-py3-none-any.whl"


def write(file: Path) -> None:
    """Write the wheel.

    Raises
    ------
    InstallError
        AGILAB runs from a folder and is not installed, so that nothing says what it needs.
    """
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError as err:
        raise InstallError("AGILAB is not installed, it runs from a folder; install it: pip install -e FOLDER") from err
    info = f"{DISTRIBUTION.replace('-', '_')}-{__version__}.dist-info"
    records = []
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for path, data in (*_packages(), *((f"{info}/{name}", data) for name, data in _about(installed))):
            _add(archive, path, data)
            sha256 = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{path},sha256={sha256},{len(data)}\n")
        _add(archive, f"{info}/RECORD", "".join([*records, f"{info}/RECORD,,\n"]).encode())


def _packages() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        found = find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            for path in digest.tree_files(Path(folder), skip="_apps"):
                yield f"{package}/{path}", (Path(folder) / path).read_bytes()
    apps = shipped_apps()
    for project in sorted(apps.glob("*_project")):
        for path in digest.tree_files(project):
            yield f"{_APPS}/{project.name}/{path}", (project / path).read_bytes()


def _about(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    for kept in _KEPT:
        yield kept, (installed.read_text(kept) or "").encode()
    yield "WHEEL", _WHEEL
    for path in installed.files or ():
        if ".dist-info/licenses/" in path.as_posix():
            yield path.as_posix().partition(".dist-info/")[2], path.read_binary()


def _add(archive: ZipFile, path: str, data: bytes) -> None:
    entry = ZipInfo(path)
    entry.create_system, entry.external_attr, entry.compress_type = 3, 0o100644 << 16, ZIP_DEFLATED
    archive.writestr(entry, data)
