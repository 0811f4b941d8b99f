"""Dask's own pages of a scheduler, brought up by the first who asks for one: most runs are over before anybody does."""

from __future__ import annotations

from typing import Any

from distributed.scheduler import Scheduler
from tornado import web
from tornado.httputil import HTTPServerRequest


async def offer(scheduler: Scheduler) -> None:
    """Put up a door behind which the pages come up; the scheduler was made with ``dashboard=False``."""
    scheduler.http_application.add_application(_Door(scheduler))


class _Door(web.Application):
    """Is asked for what nobody else has; makes the pages, and lets them answer.

    They cost half a second of the processor. The scheduler waits for that once: leases go on without it.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        from distributed.dashboard.scheduler import connect

        scheduler, application = self._scheduler, self._scheduler.http_application
        application.applications.remove(self)
        connect(application, scheduler.http_server, scheduler, prefix="/")
        return application.find_handler(request, **kwargs)
