"""The pages for ``panel serve dashboards/app.py``; `agilab serve --print-app` names the installed file instead."""

from agilab_dashboards.app import main

main()
