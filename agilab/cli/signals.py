"""Hears the signals that come during a run, says so and remembers the first; cancelling is the supervisor's."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

FIRST = "cancelling; interrupt again to stop at once"
SECOND = "stopping at once"


class Signals:
    """Hears SIGINT and SIGTERM beside whoever handles them, while a block runs in the main thread.

    Python writes the number of every signal that it handles to a wakeup
    descriptor, whichever handler is installed then; so this takes nothing
    from the supervisor, which installs its own.

    Parameters
    ----------
    say
        Told a line when a signal comes.

    Attributes
    ----------
    number
        The first signal that came; 0 for none.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.number = 0
        self._say = say
        self._former = -1
        self._write = -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, args=(read,), name="agilab-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            signal.set_wakeup_fd(self._former)
            os.close(self._write)
            self._thread.join()

    def _listen(self, read: int) -> None:
        with open(read, "rb", buffering=0) as pipe:
            while byte := pipe.read(1):
                if byte[0] not in (signal.SIGINT, signal.SIGTERM):
                    continue
                self._say(SECOND if self.number else FIRST)
                self.number = self.number or byte[0]
