"""The pages as a file that ``panel serve`` runs, without the guard of `agilab serve`."""

from agilab_dashboards.document import document

if __name__.startswith("bokeh_app_"):
    document(guarded=False)().servable()
