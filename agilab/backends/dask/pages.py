"""Dask's own pages of a scheduler, brought up by the first who asks for one: most runs are over before anybody does."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.scheduler import Scheduler
from tornado import web


async def offer(scheduler: Scheduler) -> None:
    """Put up a door behind which the pages come up; its scheduler was made with ``dashboard=False``."""
    scheduler.http_application.add_application(web.Application([(r"/.*", _Door, {"scheduler": scheduler})]))


class _Door(web.RequestHandler):
    """Answers every request with the same address, when what it asks for is there."""

    def initialize(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def get(self) -> None:
        application = self._scheduler.http_application
        if self.application in application.applications:
            pages = await asyncio.to_thread(_pages)
            if self.application in application.applications:  # nobody was faster
                application.applications.remove(self.application)
                pages.connect(application, self._scheduler.http_server, self._scheduler, prefix="/")
        self.redirect(str(self.request.uri))


def _pages() -> Any:
    """Import the pages, which takes half a second of the processor, while the scheduler goes on."""
    from distributed.dashboard import scheduler

    return scheduler
