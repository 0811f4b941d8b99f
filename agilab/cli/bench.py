"""`agilab bench`: one request on several backends, what it costs on each, and whether the artifacts are the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from agilab.backends.base import BACKENDS
from agilab.bench import Bench, bench, default_backends
from agilab.cli.flags import gathered
from agilab.cli.launch import TAKEN, AppCommand, app_options, read_request
from agilab.cli.outcome import exit_code
from agilab.cli.progress import watch
from agilab.cli.screen import Column, count, document, duration, note, out, size, table
from agilab.cli.signals import Signals
from agilab.cli.stdout import app_output_aside

MOST_NAMED = 20
"""How many artifacts that differ are printed; --json has all."""


class BenchCommand(AppCommand):
    """A command that chooses the backend itself."""

    taken: ClassVar[tuple[str, ...]] = (*TAKEN, "--backend", "--backends", "--repeat")


@dataclass(frozen=True, slots=True)
class Rounds:
    """Where the request runs and how often."""

    backends: str | None
    repeat: int


@click.command("bench", cls=BenchCommand)
@app_options
@gathered(
    "rounds",
    Rounds,
    click.option("--backends", metavar="NAME,...", help="Where to run; default: all that need only this machine."),
    click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="How often on each."),
)
@click.pass_context
def bench_command(
    ctx: click.Context,
    /,
    *,
    seed: int | None,
    sets: tuple[str, ...],
    file: Path | None,
    as_json: bool,
    rounds: Rounds,
) -> int:
    """Run one request on several backends and compare.

    Printed are time, CPU and memory of each run, and every artifact that is not the same in all of them. The runs are
    ordinary ones: `agilab runs` lists them. The exit code is 1 when a run does not succeed or artifacts differ.
    """
    names = _named(ctx, rounds.backends)
    found = {name: read_request(ctx, seed=seed, sets=sets, file=file, backend=name) for name in names}
    env = next(iter(found.values()))[0]
    requests = {name: request for name, (_, request) in found.items()}
    with watch() as view, app_output_aside(view.say), Signals(view.say) as signals:
        result = bench(env, requests, repeat=rounds.repeat, on_event=view)
    if as_json:
        document("bench", result.to_json())
    else:
        _print(result)
    cancelled = next((trial.run for trial in result.trials if trial.state == "cancelled"), None)
    if cancelled is not None:
        return exit_code(cancelled, signals.number)
    return 0 if result.ok else 1


def _named(ctx: click.Context, backends: str | None) -> tuple[str, ...]:
    """Return the backends that are meant, each once."""
    if backends is None:
        return default_backends()
    names = tuple(dict.fromkeys(name.strip() for name in backends.split(",") if name.strip()))
    unknown = [name for name in names if name not in BACKENDS]
    if unknown or not names:
        known = ", ".join(sorted(BACKENDS))
        raise click.UsageError(f"no backend {(unknown or [backends])[0]!r}; choose of {known}, separated by ','", ctx)
    return names


def _print(result: Bench) -> None:
    rows = [
        (
            trial.backend,
            trial.run.run_id,
            trial.state,
            duration(trial.duration_s),
            duration(trial.cpu_s),
            size(trial.peak_rss_bytes),
            len(trial.hashes),
        )
        for trial in result.trials
    ]
    numbers = ("time", "cpu", "peak memory", "artifacts")
    columns = (Column("backend"), Column("run"), Column("state"), *(Column(name, right=True) for name in numbers))
    table(columns, rows)
    for name, median_s in result.medians().items():
        if sum(trial.backend == name for trial in result.trials) > 1:
            out(f"median on {name}: {duration(median_s)}")
    good = [trial for trial in result.trials if trial.state == "succeeded"]
    for name, hashes in list(result.differing.items())[:MOST_NAMED]:
        found = (f"{trial.backend} {sha256[:8] or 'none'}" for trial, sha256 in zip(good, hashes, strict=True))
        out(f"differs: {name}: {', '.join(found)}")
    if len(result.differing) > MOST_NAMED:
        out(f"... and {count(len(result.differing) - MOST_NAMED, 'more artifact')}; --json has all")
    for trial in result.trials:
        if trial.state != "succeeded":
            note(f"agilab: error: run {trial.run.run_id} on {trial.backend} {trial.state}: {trial.error}")
    if result.differing:
        note(f"agilab: error: runs of one request left {count(len(result.differing), 'artifact')} with other bytes")
    elif len(good) > 1:
        out(f"{count(len(good[0].hashes), 'artifact')}, the same in {count(len(good), 'run')}")
