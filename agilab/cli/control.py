"""`agilab cancel`, `seal` and `debug`: end a run, close a lost one, repeat one of its partitions under a debugger."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import click

from agilab.agi import AGI
from agilab.cli.named import named_run
from agilab.cli.outcome import own_paths, run_json
from agilab.cli.screen import block, document, json_option, note, out, size
from agilab.debug import prepare, repeat, repeat_in_worker_environment
from agilab.entry import failure
from agilab.env import AgiEnv
from agilab.errors import BackendRefusedError, first_line


@click.command("cancel")
@click.argument("run_id", metavar="RUN")
@json_option
def cancel_command(*, run_id: str, as_json: bool) -> int:
    """Cancel a run, and wait until it has ended.

    A lost run, which nobody runs any more, is sealed as cancelled. RUN is a run id, the head of one, or `last`.
    """
    env = AgiEnv()
    run = named_run(env, run_id)
    run = AGI.cancel(env, f"{run.app}/{run.run_id}")
    if as_json:
        document("cancel", run_json(run))
    elif run.state == "cancelled":
        out(f"cancelled: {run.run_id}")
    if run.state == "cancelled":
        return 0
    note(f"agilab: error: run {run.run_id} is {run.state}, so there was nothing to cancel")
    return 1


@click.command("seal")
@click.argument("run_id", metavar="RUN")
@json_option
def seal_command(*, run_id: str, as_json: bool) -> int:
    """Close the record of a lost run, as failed.

    `agilab resume` goes on with it instead, before or after. RUN is a run id, the head of one, or `last`.
    """
    env = AgiEnv()
    run = named_run(env, run_id)
    run = AGI.seal(env, f"{run.app}/{run.run_id}")
    if as_json:
        document("seal", run_json(run))
    else:
        out(
            f"sealed as {run.state}: {run.run_id}",
            "next",
            f"  agilab resume {run.run_id}",
            f"  agilab show {run.run_id}",
        )
    return 0


@click.command("debug")
@click.argument("run_id", metavar="RUN")
@click.argument("partition", metavar="PARTITION")
@click.option("--no-pdb", is_flag=True, help="Only print the traceback.")
def debug_command(*, run_id: str, partition: str, no_pdb: bool) -> int:
    """Repeat one partition under a debugger.

    It runs in this process, or with the worker's Python where this one lacks what the worker needs. RUN is a run id,
    the head of one, or `last`; PARTITION is one that it planned. Nothing of the run's record changes.
    """
    env = AgiEnv()
    run = named_run(env, run_id)
    repetition = prepare(env, run, partition, environ=os.environ)
    try:
        message = repeat(repetition, _tell)
    except BackendRefusedError:
        note(f"this Python lacks what the worker needs; going on with {repetition.worker.python}")
        return repeat_in_worker_environment(repetition, interactive=not no_pdb)
    except (Exception, SystemExit) as err:  # whatever worker code raises is what the user wants to see
        step = _from_worker(err)
        if step is None:
            raise
        block(own_paths(failure(partition, err.with_traceback(step))["traceback"], run, env))
        if not no_pdb and sys.stdin.isatty():
            import pdb

            pdb.post_mortem(err.__traceback__)
        note(f"agilab: error: partition {partition} raised {first_line(err)}")
        return 1
    out(f"partition {partition} ended without an error", f"  folder  {repetition.folder}")
    out(*(f"  {item['name']}  {size(item['size_bytes'])}" for item in message["artifacts"]))
    return 0


def _from_worker(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error from where the worker was called on; None when it came from before."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_globals.get("__name__") != "agilab.entry":
        step = step.tb_next
    return step


def _tell(message: Mapping[str, Any]) -> None:
    """Write to stderr what a partition reports while it runs here."""
    match message["op"]:
        case "log":
            note(f"{message['level']}: {message['text']}")
        case "metric":
            step = "" if message["step"] is None else f" at step {message['step']}"
            note(f"metric {message['name']} = {message['value']:g}{step}")
