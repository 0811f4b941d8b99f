"""On a host: answers what pictures ask of the tables that lie there, as long as somebody asks; knows nothing of SSH.

`onhost` becomes this program once the environment is there. Requests come as
lines on standard input, answers go as `agilab.raster.wire` says to standard
output. A line ``{"cancel": id}`` ends the work at a request. Input that ends or
stays silent means that whoever asks has gone; then it ends, whatever it does,
and it ends when nobody has asked for long. It starts no process.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from io import FileIO
from typing import Any, BinaryIO

from agilab.backends.ssh.onhost import Inbox, ManagerGoneError
from agilab.errors import AgilabError, first_line
from agilab.paths import WenvPaths
from agilab.raster import Cache, warm_up
from agilab.raster.answers import Answers
from agilab.raster.shelf import Shelf
from agilab.raster.wire import Answer

AT_ONCE = 4
"""How many requests are worked at at the same time."""
DECODED_BYTES = 512 << 20
"""Columns that are kept decoded [bytes]."""
IDLE_S = 900.0
"""How long nobody has to ask anything before it ends [s]; the next one who asks starts it again."""
SIGN_S = 1.0
"""How often it says that it is alive [s]; `rasterlink.SILENT_S` is several times that."""


class Helper:
    """Answers requests.

    Parameters
    ----------
    out
        Where answers go.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._turn = out, threading.Lock()
        self._answers = Answers(Cache(DECODED_BYTES, shelf=Shelf(WenvPaths.chosen().shelf)))
        self._pool = ThreadPoolExecutor(AT_ONCE, "agilab-answer")
        self._stopped: dict[int, threading.Event] = {}

    def serve(self, inbox: Inbox) -> None:
        """Take requests until whoever asks has gone, or nobody asks for long."""
        asked = time.monotonic()
        self._say({"ready": True})
        while self._stopped or time.monotonic() - asked < IDLE_S:
            line = inbox.line(SIGN_S)
            if line is None:
                self._say({"alive": True})
                continue
            asked = time.monotonic()
            request = json.loads(line)
            if "cancel" in request:
                if request["cancel"] in self._stopped:
                    self._stopped[request["cancel"]].set()
            else:
                self._begin(request)

    def _begin(self, request: Mapping[str, Any]) -> None:
        number = request["id"]
        stopped = self._stopped[number] = threading.Event()
        future = self._pool.submit(self._answers.answer, request, stopped.is_set)
        future.add_done_callback(partial(self._done, number))

    def _done(self, number: int, future: Future[Answer]) -> None:
        del self._stopped[number]
        error = future.exception()
        if error is not None:
            kind = type(error).__name__ if isinstance(error, AgilabError) else "EvidenceError"
            text = str(error) if isinstance(error, AgilabError) else f"{type(error).__name__}: {first_line(error)}"
            self._say({"id": number, "failed": {"kind": kind, "message": text}})
            return
        answer = future.result()
        arrays = [
            {"name": name, "kind": one.kind, "shape": one.shape, "size_bytes": len(one.data)}
            for name, one in answer.arrays.items()
        ]
        self._say({"id": number, "done": answer.said, "arrays": arrays}, *(one.data for one in answer.arrays.values()))

    def _say(self, message: Mapping[str, Any], *blocks: bytes) -> None:
        with self._turn:
            for block in (json.dumps(message).encode() + b"\n", *blocks):
                self._out.write(block)
            self._out.flush()


def main() -> None:
    """Answer until whoever asks has gone."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print belongs not between answers
    threading.Thread(target=warm_up, daemon=True).start()
    with suppress(ManagerGoneError, BrokenPipeError):
        Helper(out).serve(Inbox(FileIO(0, closefd=False)))
    os._exit(0)  # threads may be in the middle of a picture that nobody waits for


if __name__ == "__main__":
    main()
