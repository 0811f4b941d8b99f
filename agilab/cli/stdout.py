"""Keeps stdout for the answer of a command: what app code prints goes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def app_output_aside() -> Iterator[None]:
    """Send what app code prints while it plans or runs here to stderr."""
    with redirect_stdout(sys.stderr):
        yield
