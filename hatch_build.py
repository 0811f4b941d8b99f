"""The build hook that puts the shipped apps into the wheel as data; it builds nothing else.

An editable install needs no copy: it reads ``apps/`` beside the package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShippedApps(BuildHookInterface):
    """Map every file of ``apps/<name>_project/`` to ``agilab/_apps/<name>_project/``."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files that count in an app's digest, unless this is an editable install."""
        if version == "editable":
            return
        # The package being built, so that what is shipped and what is hashed follow one rule.
        sys.path.insert(0, self.root)
        try:
            from agilab.digest import tree_files
        finally:
            sys.path.remove(self.root)
        for project in sorted(Path(self.root, "apps").glob("*_project")):
            for name in tree_files(project):
                build_data["force_include"][str(project / name)] = f"agilab/_apps/{project.name}/{name}"
