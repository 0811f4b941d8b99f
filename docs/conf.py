"""How Sphinx builds the manual; the command line reference is written while it builds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import cli_reference

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


def write_reference(app, page, source):
    """Fill the page of the command line from the commands themselves."""
    if page == "reference/cli":
        source[0] += cli_reference.markdown()


def setup(app):
    """Join the build."""
    app.connect("source-read", write_reference)
