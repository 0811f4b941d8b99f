"""The click group behind `agilab`: loads the file of the command that was asked for, and turns errors into exit codes.

What `agilab`, `agilab --help` and `agilab --version` answer stands in
`agilab.cli`, which does without click.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from agilab.cli import COMMANDS_GROUP, SECTIONS, added_commands, help_text
from agilab.cli.commands import Commands
from agilab.cli.screen import block, document, note
from agilab.errors import AgilabError, WorkerError, first_line

FILES = {name: file for _, commands in SECTIONS for name, file, _ in commands}
"""Command -> the file of this package that holds it, as ``<name>_command``."""

CANCELLED = 130
BUG = 70
NO_SPACE = 4


class LazyGroup(Commands):
    """A group whose commands are imported when one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*FILES, *added_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in FILES:
            module = import_module(f"agilab.cli.{FILES[cmd_name]}")
            command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
            return command
        return _added(cmd_name)

    def get_help(self, ctx: click.Context) -> str:
        return help_text().rstrip("\n")


GROUP = LazyGroup(
    "agilab",
    help="An anti-lock-in reproducibility workbench for AI/ML engineering teams.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def call(words: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error becomes one line on stderr."""
    if sys.platform == "win32":
        note("agilab: error: Windows is not supported; use Linux or macOS, for instance under WSL 2")
        return 2
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        answer = GROUP.main(args=list(words), prog_name="agilab", standalone_mode=False)
        sys.stdout.flush()
        return answer if isinstance(answer, int) else 0
    except BrokenPipeError:  # whoever read our output has gone
        return 1
    except (KeyboardInterrupt, click.Abort):
        note("agilab: cancelled")
        return CANCELLED
    except click.ClickException as err:
        return refuse(_usage(err, words), err.exit_code, as_json="--json" in words)
    except Exception as err:  # noqa: BLE001 - the last one who can say it in a line
        return complain(err, as_json="--json" in words)
    finally:
        _give_up_unwritten()


def _give_up_unwritten() -> None:
    """Drop output that nobody takes: Python would try once more at its end, and complain with a code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refuse(message: str, code: int, *, as_json: bool = False) -> int:
    """Say in one line on stderr what went wrong, with ``--json`` as a document on stdout too; return the exit code."""
    if as_json:
        with suppress(OSError):  # the line on stderr still says it
            document("error", {"error": message, "exit_code": code})
    note(f"agilab: error: {message}")
    return code


def complain(error: Exception, *, as_json: bool = False) -> int:
    """Say in one line on stderr what went wrong and return the exit code that goes with it.

    With ``AGILAB_TRACEBACK=1`` in the environment the traceback comes first.
    """
    traced = os.environ.get("AGILAB_TRACEBACK") == "1"
    if traced:
        block("".join(traceback.format_exception(error)))
    if isinstance(error, WorkerError) and error.traceback:
        block(error.traceback)
    if isinstance(error, AgilabError):
        return refuse(" ".join(str(error).split()), error.exit_code, as_json=as_json)
    if isinstance(error, OSError):
        import errno

        return refuse(_os_error(error), NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1, as_json=as_json)
    hint = "" if traced else "; set AGILAB_TRACEBACK=1 to see where, and please report it"
    return refuse(f"a fault in AGILAB itself: {first_line(error)}{hint}", BUG, as_json=as_json)


def _os_error(error: OSError) -> str:
    name = f": {error.filename}" if error.filename is not None else ""
    return f"{error.strerror or first_line(error)}{name}"


def _usage(error: click.ClickException, words: Sequence[str]) -> str:
    """Write what is wrong with a command line, and which help explains it."""
    if isinstance(error, click.NoSuchOption):  # click words it in another way in every version
        near = f"; did you mean {error.possibilities[0]!r}?" if error.possibilities else ""
        message = f"no option {error.option_name!r}{near}"
    else:
        message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    first = words[0] if words else ""
    known = [first] if first in FILES else []
    if context is not None and context.parent:
        known = context.command_path.split()[1:]
    if FILES.get(first) == "launch" and len(words) > 1 and not words[1].startswith("-"):
        known = list(words[:2])  # the help of the app lists its settings
    end = " see" if message.endswith("?") else "; see"
    return f"{message[:1].lower()}{message[1:]}{end} {shlex.join(('agilab', *known, '--help'))}"


def _added(name: str) -> click.Command | None:
    """Load a command that an installed extension adds, or return None when there is none of that name."""
    from importlib.metadata import entry_points

    for point in entry_points(group=COMMANDS_GROUP, name=name):
        try:
            command: Any = point.load()
        except ImportError as err:
            raise AgilabError(f"command {name!r} needs {err.name or 'a package'} that is missing; install it") from err
        if not isinstance(command, click.Command):
            kind = type(command).__name__
            raise AgilabError(f"entry point {point.value!r} of command {name!r} is a {kind}, not a click command")
        return command
    return None
