"""`Board`, where pictures on a page are drawn: a bar while one is made, what is wrong with it, only the newest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

from agilab.errors import AgilabError, SupersededError
from agilab.raster.scan import Cancelled
from agilab_dashboards.drawing import Drawing, soon
from agilab_dashboards.form import html
from agilab_dashboards.markup import alert

T = TypeVar("T")


class Board(Viewer):
    """Where something is drawn.

    Parameters
    ----------
    min_height_px
        How high it is before there is anything [px].
    """

    def __init__(self, min_height_px: int = 0) -> None:
        super().__init__()
        self._drawing = Drawing()
        self._bar = pmui.LinearProgress(active=True, visible=False, sizing_mode="stretch_width")
        self._place = pn.Column(sizing_mode="stretch_width", min_height=min_height_px)
        self._view = pn.Column(self._bar, self._place, sizing_mode="stretch_width")

    def __panel__(self) -> Viewable:
        return self._view

    @property
    def busy(self) -> bool:
        """Whether something is being made."""
        return self._drawing.busy

    def put(self, *content: Any) -> None:
        """Show something in the place of what is shown; may be called while the document may change."""
        self._place.objects = list(content)

    def clear(self) -> None:
        """Forget what is shown, and what is being made."""
        self._drawing.stop()
        self._bar.visible = False
        self.put()

    async def draw(self, work: Callable[[Cancelled], T], show: Callable[[T], None]) -> None:
        """Make something in a thread, and show it unless something else has been asked for meanwhile.

        Parameters
        ----------
        work
            Takes what says, from any thread, whether the answer is not wanted any more. What is wrong is shown.
        show
            Takes what was made, when the document may change.
        """
        self._bar.visible = True
        try:
            made = await self._drawing.make(work)
        except SupersededError:
            return  # whatever came instead takes the bar away
        except AgilabError as err:
            said = str(err)
            soon(lambda: self._rest(lambda: self._refuse(said)))
        except BaseException:
            soon(lambda: self._rest(lambda: None))
            raise
        else:
            soon(lambda: self._rest(lambda: show(made)))

    def _rest(self, last: Callable[[], None]) -> None:
        """Take the bar away, and do what comes then; what is wrong only when it is shown is shown too."""
        self._bar.visible = False
        try:
            last()
        except AgilabError as err:
            self._refuse(str(err))

    def _refuse(self, said: str) -> None:
        self.put(html(alert(said)))
