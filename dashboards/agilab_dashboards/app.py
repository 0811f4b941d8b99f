"""The pages as a file that ``panel serve`` runs once per session, without the guard of `agilab serve`."""

from agilab_dashboards.document import document


def main() -> None:
    """Put the page that the URL names into the current document."""
    document(guarded=False)().servable()


if __name__.startswith("bokeh_app_"):
    main()
