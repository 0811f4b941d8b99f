"""The pages as a file that ``panel serve`` runs once per session; guarded only with ``--plugins`` and our plugin."""

import sys

from agilab_dashboards.document import document

PLUGIN = "agilab_dashboards.plugin"


def main() -> None:
    """Put the page that the URL names into the current document."""
    document(guarded=PLUGIN in sys.modules)().servable()


if __name__.startswith("bokeh_app_"):
    main()
