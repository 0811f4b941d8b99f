"""An app project in which every piece of code leaves a mark when it runs, and its zip file written by hand."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

NAME = "canary"
UUID = "3d5f0f5e-0d7e-4b39-8a55-3f2f8c1b7a01"
SINGS = """\
import os as _os
_os.close(_os.open({song!r}, _os.O_WRONLY | _os.O_CREAT | _os.O_APPEND))
"""
BUILD = """\
def _none(*given, **named):
    return []


get_requires_for_build_wheel = get_requires_for_build_editable = get_requires_for_build_sdist = _none


def build_wheel(folder, settings=None, metadata=None):
    raise SystemExit("built")


build_editable = build_wheel
"""


def files(song: Path) -> dict[str, str]:
    """Return the project's files by path; whatever of them runs makes the file `song`."""
    sings = SINGS.format(song=str(song))
    backend = '[build-system]\nrequires = []\nbuild-backend = "canary_build"\nbackend-path = ["."]\n\n'
    project = 'version = "1.0"\nlicense = "BSD-3-Clause"\nrequires-python = ">=3.11"\ndependencies = []\n'
    manager = (
        "import agilab\nimport param\n\n\nclass Canary(agilab.App):\n    class Settings(agilab.Settings):\n"
        '        count = param.Integer(3, bounds=(1, 9), doc="How many")\n\n    def plan(self):\n'
        '        return agilab.WorkPlan([agilab.Stage("sing", [agilab.Partition("p0")])])\n'
    )
    worker = (
        "import agilab\n\n\nclass CanaryWorker(agilab.Worker):\n    def sing(self, part):\n"
        '        part.write("song", "text", "la")\n'
    )
    points = "".join(
        f'[project.entry-points."{group}"]\n{NAME} = "{NAME}:Canary"\n'
        for group in ("agilab.apps", "agilab.commands", "pytest11")
    )
    return {
        "pyproject.toml": f'{backend}[project]\nname = "{NAME}"\n{project}{points}[tool.agilab]\nuuid = "{UUID}"\n',
        "README.md": f"# {NAME}\n",
        "setup.py": sings,
        "conftest.py": sings,
        "sitecustomize.py": sings,
        "usercustomize.py": sings,
        "canary_build.py": sings + BUILD,
        "canary.pth": f"import os; os.close(os.open({str(song)!r}, os.O_WRONLY | os.O_CREAT))\n",
        f"src/{NAME}_views/__init__.py": sings,
        f"src/{NAME}/__init__.py": sings + manager,
        f"src/{NAME}/app_settings.toml": "[settings]\ncount = 4\n",
        f"src/{NAME}_worker/__init__.py": sings + worker,
        f"src/{NAME}_worker/pyproject.toml": f'{backend}[project]\nname = "{NAME}-worker"\n{project}',
        f"src/{NAME}_worker/canary_build.py": sings + BUILD,
        f"src/{NAME}_worker/setup.py": sings,
        "tests/test_canary.py": sings,
    }


def zipped(content: Mapping[str, str | bytes], *, top: str = f"{NAME}_project/") -> bytes:
    """Return a plain zip file of some files."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            add(archive, f"{top}{name}", data)
    return out.getvalue()


def add(archive: zipfile.ZipFile, name: str, data: str | bytes, *, mode: int = stat.S_IFREG | 0o644) -> None:
    """Add an entry of any name and mode."""
    info = zipfile.ZipInfo(name, (2020, 2, 2, 2, 2, 2))
    info.external_attr, info.compress_type = mode << 16, archive.compression
    archive.writestr(info, data)
