"""Keeps stdout for the answer of a command: what app code prints goes to stderr, line by line."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

from agilab.cli.screen import note


class _Lines(io.TextIOBase):
    """Hands every complete line that is written to a function."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def finish(self) -> None:
        if self._rest:
            self._say(self._rest)


@contextmanager
def app_output_aside(say: Callable[[str], None] = note) -> Iterator[None]:
    """Send what app code prints while it plans, or runs in this process, to stderr.

    Parameters
    ----------
    say
        Takes a line; by default it is written at once.
    """
    lines = _Lines(say)
    try:
        with redirect_stdout(lines):
            yield
    finally:
        lines.finish()
