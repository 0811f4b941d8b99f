"""Notices that somebody wants a run to stop: Ctrl-C, SIGTERM, or the cancel file; it stops nothing itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any


class CancelSwitch:
    """True from the first signal or the cancel file on; a second signal raises KeyboardInterrupt at once.

    Used as a context manager. Signals are only caught in the main thread;
    their former handlers come back at the end.

    Parameters
    ----------
    path
        The cancel file.

    Attributes
    ----------
    signal
        Number of the signal that came, 0 for none.
    at_once
        Called by a second signal instead of raising KeyboardInterrupt, where set.
    announces
        Whether a signal makes the cancel file, so that worker code which looks at `part.cancelled` learns of it too.
    """

    def __init__(self, path: Path) -> None:
        self.signal = 0
        self.at_once: Callable[[], None] | None = None
        self.announces = True
        self._path = str(path)
        self._found = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> CancelSwitch:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Return whether the run is to stop."""
        self._found = self._found or bool(self.signal) or os.path.exists(self._path)
        return self._found

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal and self.at_once is None:
            raise KeyboardInterrupt
        if self.signal and self.at_once is not None:
            self.at_once()
        if not self.signal:
            self.signal = number
            if self.announces:
                self._announce()

    def _announce(self) -> None:
        with suppress(OSError):
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
