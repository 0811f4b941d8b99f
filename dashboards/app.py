"""The pages for ``panel serve dashboards/app.py``; `agilab serve --print-app` names the installed file instead."""

import agilab_dashboards.app  # noqa: F401 - importing it serves the document
