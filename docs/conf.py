"""How Sphinx builds the manual; reference pages are written from the code while it builds."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import api_reference
import cli_reference
import module_levels

import agilab

project = "AGILAB"
copyright = "2026, the AGILAB authors"  # noqa: A001 - the name that Sphinx reads
version = release = agilab.__version__

extensions = ["myst_parser"]
exclude_patterns = ["_build", "changes"]
nitpicky = True
myst_heading_anchors = 3
html_theme = "furo"
html_title = "AGILAB"
html_static_path = ["_static"]
html_css_files = ["tables.css"]


GENERATED = {
    "reference/api": api_reference.markdown,
    "reference/cli": cli_reference.markdown,
    "reference/modules": module_levels.markdown,
}
"""Page -> what writes the rest of it."""


def write_reference(app: Sphinx, page: str, source: list[str]) -> None:
    """Complete the pages that are written from the code itself."""
    if page in GENERATED:
        source[0] += GENERATED[page]()


def setup(app: Sphinx) -> None:
    """Join the build."""
    app.connect("source-read", write_reference)
