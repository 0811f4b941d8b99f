"""`StageGraph`, stages as boxes and arrows in the browser: state by colour, sign and word; a click chooses one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import param
from panel.custom import JSComponent

from agilab_dashboards.markup import COLOURS, SIGNS
from agilab_dashboards.stages import StageNode, placed


class StageGraph(JSComponent):
    """The graph; what changes is redrawn, so that the focus of a keyboard stays where it is.

    Parameters
    ----------
    stages
        From `boxes`.
    selected
        Name of the stage that was clicked.
    """

    stages = param.List(default=[], item_type=dict)
    selected = param.String("")

    _esm = Path(__file__).with_name("stagegraph.js")
    _stylesheets = (str(Path(__file__).with_name("stagegraph.css").read_text(encoding="utf-8")),)


def boxes(nodes: Sequence[StageNode], states: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a graph shows: place, state and words of each stage."""
    places = placed(nodes)
    return [
        {
            "name": node.name,
            "after": list(node.after),
            "column": places[node.name][0],
            "row": places[node.name][1],
            "state": states[node.name]["state"],
            "sign": SIGNS.get(states[node.name]["state"], "●"),
            "colour": COLOURS.get(states[node.name]["state"], "#6e7781"),
            "done": states[node.name]["done"],
            "words": states[node.name]["words"],
        }
        for node in nodes
    ]
