"""Sends what Dask logs in a pool's thread to the run's ``logs/scheduler.log``, and not to the caller's terminal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "scheduler.log"
"""Holds what scheduler, nannies and Dask workers print and log as well."""

_LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application")
"""Those that `distributed` gives a handler of its own when it is imported."""


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Redirect what this thread logs through Dask's loggers, as long as the context lasts."""
    me = threading.get_ident()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    others = {handler for logger in loggers for handler in logger.handlers}

    def not_mine(record: logging.LogRecord) -> bool:
        return record.thread != me

    own = logging.FileHandler(path, encoding="utf-8", delay=True)
    own.addFilter(lambda record: record.thread == me)
    own.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
    for handler in others:
        handler.addFilter(not_mine)
    for logger in loggers:
        logger.addHandler(own)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(own)
        for handler in others:
            handler.removeFilter(not_mine)
        own.close()
