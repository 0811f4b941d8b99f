"""What reaches the terminal: safe text, tables that fit it, JSON that is whole."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from agilab.cli import screen
from agilab.cli.screen import Column

LONG = "a" * 200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 東京", "plain äöü 東京"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("two\nlines\tone", "two\\nlines\\tone"),
        ("back\u202eward", "back\\u202eward"),
        ("bell\x07 and\rreturn", "bell\\x07 and\\x0dreturn"),
    ],
)
def test_no_character_can_command_the_terminal(text: str, shown: str) -> None:
    assert screen.safe(text) == shown


def test_a_file_name_that_is_no_text_can_be_printed(capfd: pytest.CaptureFixture[str]) -> None:
    code = "from agilab.cli import root, screen; import os; root.call([]); screen.out(os.fsdecode(b'a\\xffb'))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert capfd.readouterr().out.splitlines()[-1] == "a\\udcffb"


def test_a_piped_table_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    screen.table((Column("name"), Column("size", right=True)), [(LONG, 1), ("b\x1b", 1000)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "size"]
    assert lines[1] == f"{LONG}     1"
    assert lines[2] == f"{'b' + chr(92) + 'x1b':<200}  1000"


def on_terminal(code: str, **environment: str) -> str:
    """Run code with its stdout on a terminal of 80 columns; return what it wrote."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", **environment},
    )
    os.close(follower)
    written = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(leader)
    assert process.wait() == 0
    return written.decode()


TABLE = f"""
from agilab.cli.screen import Column, table
columns = Column("run"), Column("doc", wraps=True), Column("[bold]x"), Column("where", optional=True)
table(columns, [("20250101-000000-abcd", "word " * 40, "[red]not a colour", "{LONG}")])
"""


def test_a_table_on_a_terminal_fits_it_and_keeps_what_is_copied() -> None:
    text = re.sub(r"\x1b\[\d*m|\r", "", on_terminal(TABLE, NO_COLOR="1"))
    assert max(len(line) for line in text.split("\n")) <= 80
    assert "20250101-000000-abcd" in text
    assert text.count("word") == 40
    assert "[bold]x" in text
    assert "[red]not a colour" in text
    assert "where" not in text


RUNS = (
    Column("run"),
    Column("app", cut=True),
    Column("state"),
    Column("request", optional=True),
    Column("t", optional=True),
)


@pytest.mark.parametrize(
    ("room", "widths"),
    [
        (120, {0: 21, 1: 50, 2: 9, 3: 8, 4: 19}),
        (100, {0: 21, 1: 35, 2: 9, 3: 8, 4: 19}),
        (80, {0: 21, 1: 15, 2: 9, 3: 8, 4: 19}),
        (70, {0: 21, 1: 26, 2: 9, 3: 8}),
        (50, {0: 21, 1: 16, 2: 9}),
        (20, {0: 21, 1: 12, 2: 9}),
    ],
)
def test_a_narrow_table_cuts_what_may_be_cut_and_leaves_out_what_may_be_left_out(
    room: int, widths: dict[int, int]
) -> None:
    assert screen.fitted(RUNS, [21, 50, 9, 8, 19], room) == widths


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), ("x y", "x y"), ("", '""'), ("none", '"none"'), (0.0, "0.0"), (True, "true"), (["a"], '["a"]')],
)
def test_setting_values_are_written_as_flags_take_them(value: object, text: str) -> None:
    assert screen.plain_value(value) == text


def test_no_color_means_none() -> None:
    assert "\x1b[3" not in on_terminal(TABLE, NO_COLOR="1")


def test_a_document_is_one_json_value_with_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    screen.document("show", {"name": "\x1b\u202e\udcff" + LONG})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"schema": "agilab.cli.show/1", "name": "\x1b\u202e\udcff" + LONG}


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**20, "5.0 MiB"), (2**50, "1024.0 TiB")],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert screen.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.123, "0.12 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (61, "1 min 01 s"),
        (7265, "2 h 01 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert screen.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (332833500.0, "332,833,500"), (0.123456789, "0.1234568"), ("NaN", "NaN"), (1e300, "1e+300")],
)
def test_numbers(value: object, text: str) -> None:
    assert screen.number(value) == text


def test_pairs_leave_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    screen.pairs([("name", "x\x1b"), ("nothing", None), ("empty", ""), ("zero", 0)])
    assert capsys.readouterr().out == "name  x\\x1b\nzero  0\n"
