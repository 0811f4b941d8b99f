"""`agilab plan`, `run` and `resume`: from settings on the command line to a run and its end.

The first two learn their flags from the app's declared settings. Interrupting a run
cancels it: the first Ctrl-C waits for the workers to end, the second does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import click

from agilab.agi import AGI
from agilab.cli.flags import CHOSEN, CLUSTER, SETTINGS, Chosen, DeclaredCommand, assignments, options
from agilab.cli.named import named_run
from agilab.cli.outcome import (
    MOST_WORKERS,
    edited,
    exit_code,
    print_error,
    print_failures,
    print_run,
    print_tracked,
    run_json,
)
from agilab.cli.progress import watch
from agilab.cli.screen import Column, count, document, json_option, out, pairs, size, table
from agilab.cli.signals import Signals
from agilab.cli.stdout import app_output_aside
from agilab.distribution import Distribution
from agilab.env import PLAN_SCHEMA, AgiEnv
from agilab.errors import RequestError
from agilab.paths import read_json
from agilab.plan import Partition, Stage
from agilab.request import SCHEMA, ClusterOptions, RunRequest
from agilab.rows import NONSENSE
from agilab.run import Run

PLAN = "agilab.plan"
"""Key of `click.Context.meta`: the file that --plan names."""
TRACK = "agilab.track"
"""The same: what --track says."""
LISTED = 30
"""How many partitions `plan` lists of each stage, and how many inputs, unless all are asked for."""
TAKEN = ("--help", "--json", "--request", "--plan", "--set", "--seed", "--detach", "--all", "--track")
"""Flags of these commands; a setting of such a name is reached with --set."""


def introduction(command: str) -> str:
    """Say how an app is named and where its settings come from."""
    return (
        "APP is a name from `agilab apps` or the path of an app project. Its settings follow it as flags: "
        f"`agilab {command} APP --help` lists them with what is allowed, units and defaults. What is not given "
        "comes from the environment, the workspace file, the app's own file or the declaration: "
        "`agilab settings APP` shows which."
    )


def choose(app: str | None, before: Mapping[str, str], *, taken: Sequence[str]) -> Chosen | None:
    """Select the app that a command line names, or the one its request file is for, and make its flags.

    Parameters
    ----------
    app
        As it is named; None when it is not.
    before
        The options before it, by flag.
    taken
        Flags that the command has itself.
    """
    if app is None and before.get("--request"):
        app = _app_of(Path(before["--request"]))
    if app is None and before.get("--plan"):
        app = str(_plan_document(Path(before["--plan"]))["request"]["app"]["name"])
    if app is None:
        return Chosen(None, "", options(ClusterOptions.fields(), CLUSTER, taken=taken))
    env = AgiEnv(app)
    cluster = options(ClusterOptions.fields(), CLUSTER, taken=taken, resolved=cache(env.cluster))
    others = {*taken, *(flag for option in cluster for flag in option.opts)}
    settings = options(env.fields(), SETTINGS, taken=others, resolved=cache(env.settings))
    return Chosen(env, f"Settings of {env.project.name}", (*settings, *cluster))


def _app_of(file: Path) -> str:
    """Return the name of the app that a request file is for."""
    if not file.is_file():
        raise RequestError(f"no file {file}; --request takes a request.json, such as that of a run folder")
    try:
        return str(read_json(file, SCHEMA)["app"]["name"])
    except (KeyError, TypeError):
        raise RequestError(f"{file} names no app; write `agilab run APP --request {file}`") from None


def _plan_document(file: Path) -> dict[str, Any]:
    """Return what `agilab plan --json` wrote to a file; RequestError when it is anything else."""
    if not file.is_file():
        raise RequestError(f"no file {file}; --plan takes what `agilab plan APP --json` printed")
    value = read_json(file, PLAN_SCHEMA)
    request, distribution = value.get("request"), value.get("distribution")
    named = isinstance(request, dict) and isinstance(request.get("app"), dict) and "name" in request["app"]
    if not named or not isinstance(distribution, dict):
        raise RequestError(f"{file} lacks request or distribution; make it again with: agilab plan APP --json")
    return value


class AppCommand(DeclaredCommand):
    """A command on an app, with the app's settings as flags."""

    taken: ClassVar[tuple[str, ...]] = TAKEN

    def choose(self, app: str | None, before: Mapping[str, str]) -> Chosen | None:
        """Select the app, and make its flags but those the command has itself."""
        return choose(app, before, taken=self.taken)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, and how settings become flags."""
        super().format_help_text(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(introduction(ctx.command_path.removeprefix("agilab ")))


def app_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what `plan` and `run` have in common."""
    for decorate in (
        json_option,
        click.option(
            "--request", "file", metavar="FILE", type=click.Path(path_type=Path), help="Take all from a request.json."
        ),
        click.option("--set", "sets", metavar="NAME=VALUE", multiple=True, help="Set any setting by its name."),
        click.option("--seed", type=int, help="What the seeds of all partitions are made from; default: 0"),
        click.argument("app", required=False, metavar="APP", expose_value=False),
    ):
        function = decorate(function)
    return function


plan_option = click.option(
    "--plan",
    metavar="FILE",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=lambda ctx, _, value: ctx.meta.update({PLAN: value}),
    help="Take all from what `agilab plan --json` printed, with weights and pins as edited there.",
)


track_option = click.option(
    "--track",
    metavar="URI",
    expose_value=False,
    callback=lambda ctx, _, value: ctx.meta.update({TRACK: value}),
    help="Hand the run to this MLflow server or store while it goes on; '' for none. Default: AGILAB_TRACK.",
)


@click.command("plan", cls=AppCommand)
@app_options
@plan_option
@click.option("--all", "everything", is_flag=True, help="List every partition.")
@click.pass_context
def plan_command(
    ctx: click.Context,
    *,
    seed: int | None,
    sets: tuple[str, ...],
    file: Path | None,
    as_json: bool,
    everything: bool,
) -> int:
    """Show what a run would do, without running it."""
    env, request = read_request(ctx, seed=seed, sets=sets, file=file)
    with app_output_aside():
        distribution = AGI.get_distrib(env, request)
    if as_json:
        document("plan", {"request": request.to_json(), "distribution": distribution.to_json()})
        return 0
    _print_plan(distribution, limit=None if everything else LISTED)
    return 0


@click.command("run", cls=AppCommand)
@app_options
@plan_option
@track_option
@click.option("--detach", is_flag=True, help="Return at once; the run goes on by itself.")
@click.pass_context
def run_command(
    ctx: click.Context,
    *,
    seed: int | None,
    sets: tuple[str, ...],
    file: Path | None,
    as_json: bool,
    detach: bool,
) -> int:
    """Run an app and keep the evidence."""
    env, request = read_request(ctx, seed=seed, sets=sets, file=file)
    track: str | None = ctx.meta.get(TRACK)
    if detach:
        with app_output_aside():
            run = AGI.submit(env, request, track=track)
        return on_its_way(run, as_json=as_json)
    return carry_out(
        lambda on_event: AGI.run(env, request, on_event=on_event, track=track), env, as_json=as_json, track=track
    )


@click.command("resume")
@click.argument("run_id", metavar="RUN")
@track_option
@click.option("--detach", is_flag=True, help="Return at once; the run goes on by itself.")
@json_option
@click.pass_context
def resume_command(ctx: click.Context, *, run_id: str, detach: bool, as_json: bool) -> int:
    """Go on with a run that failed, was cancelled or was lost.

    It goes on in its folder, with the code and the plan it began with; only partitions that have not committed run.
    RUN is a run id, the head of one, or `last`.
    """
    env, track = AgiEnv(), ctx.meta.get(TRACK)
    run = named_run(env, run_id)
    name = f"{run.app}/{run.run_id}"
    if detach:
        return on_its_way(AGI.resume(env, name, detach=True, track=track), as_json=as_json)
    before = list(run.events())
    return carry_out(
        lambda on_event: AGI.resume(env, name, on_event=on_event, track=track),
        env,
        as_json=as_json,
        before=before,
        track=track,
    )


def on_its_way(run: Run, *, as_json: bool) -> int:
    """Say that a run goes on by itself, and how it is followed."""
    if as_json:
        document("run", run_json(run))
    else:
        out(f"{run.run_id} is on its way", f"  agilab logs {run.run_id} --follow", f"  agilab cancel {run.run_id}")
    return 0


def carry_out(
    start: Callable[[Callable[[Mapping[str, Any]], None]], Run],
    env: AgiEnv,
    *,
    as_json: bool,
    before: Sequence[Mapping[str, Any]] = (),
    track: str | None = None,
) -> int:
    """Show a run while it goes on, and say what it came to; `before` are the events of earlier attempts at it."""
    with watch() as view, app_output_aside(view.say), Signals(view.say) as signals:
        for event in before:
            with suppress(*NONSENSE):
                view.tally.apply(event)
        try:
            run = start(view)
        except KeyboardInterrupt:
            if view.tally.run_id:
                view.say(
                    f"run {view.tally.run_id} was stopped at once; `agilab show {view.tally.run_id}` says how it is"
                )
            raise
    if as_json:
        document("run", run_json(run))
    else:
        print_run(run)
    print_failures(run, view.tally.failures, env)
    print_error(run)
    print_tracked(run, track)
    return exit_code(run, signals.number)


def read_request(
    ctx: click.Context, *, seed: int | None, sets: tuple[str, ...], file: Path | None, backend: str = ""
) -> tuple[AgiEnv, RunRequest]:
    """Return the environment of the app that was chosen, and the request that the command line makes.

    Parameters
    ----------
    ctx
        Of an `AppCommand`.
    seed, sets, file
        What its options say; in the context, so does --plan.
    backend
        Instead of the cluster option of that name.
    """
    chosen: Chosen | None = ctx.meta.get(CHOSEN)
    env = chosen.thing if chosen is not None else None
    if env is None:
        raise click.UsageError("name the app first, then its settings", ctx)
    plan: Path | None = ctx.meta.get(PLAN)
    if plan is not None and file is not None:
        raise click.UsageError("give one of --request and --plan: a plan holds its request", ctx)
    given: dict[str, Any] = ctx.meta.get(SETTINGS, {})
    _merge(given, assignments(env.fields(), sets))
    with app_output_aside():
        cluster = {**ctx.meta.get(CLUSTER, {}), **({"backend": backend} if backend else {})}
        if plan is None:
            return env, env.request(given, cluster=cluster, seed=seed, file=file)
        edited_plan = _plan_document(plan)["distribution"]
        request = env.request(given, cluster=cluster, seed=seed, file=plan)
        return env, AGI.get_distrib(env, request).edit_as(edited_plan).request


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        inner = values.get(name)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            _merge(inner, value)
        else:
            values[name] = value


def _print_plan(distribution: Distribution, *, limit: int | None) -> None:
    """Write inputs, stages, partitions with weights and workers, and what is planned later."""
    inputs, request = distribution.inputs, distribution.request
    matched = [
        (f"setting {name}", f"{count(len(refs), 'file')}, {size(sum(ref.size_bytes for ref in refs))}")
        for name, refs in distribution.matches.items()
    ]
    total = sum(max(ref.size_bytes, 0) for ref in inputs)
    pairs(
        (
            ("app", request.app),
            ("request", f"sha256 {request.digest[:16]}, seed {request.seed}"),
            ("edited", edited(request.edits)),
            ("backend", request.cluster["backend"]),
            ("inputs", f"{count(len(inputs), 'file')}, {size(total)}"),
            *matched,
        )
    )
    shown_inputs = inputs if limit is None else inputs[:limit]
    if shown_inputs:
        table(
            (Column("  size", right=True), Column("path", wraps=True)),
            [(size(i.size_bytes), i.path) for i in shown_inputs],
        )
    if len(shown_inputs) < len(inputs):
        out(f"... and {len(inputs) - len(shown_inputs):,} more; --all lists them")
    for stage in distribution.plan.stages:
        _print_stage(stage, distribution, limit=limit)


def _print_stage(stage: Stage, distribution: Distribution, *, limit: int | None) -> None:
    """Write the partitions of a stage, and what each slot of each host is going to have of it."""
    parts = stage.partitions
    after = f", after {', '.join(stage.after)}" if stage.after else ""
    if parts is None:
        out("", f"stage {stage.name}: planned later, from what earlier stages leave{after}")
        return
    assignment = distribution.assignment[stage.name]
    worker_of = {ident: worker for worker, ids in assignment.items() for ident in ids}
    out("", f"stage {stage.name}: {count(len(parts), 'partition')} on {count(len(assignment), 'worker')}{after}")
    shown = parts if limit is None else parts[:limit]
    pinned = any(part.pin for part in shown)
    columns = [Column("partition"), Column("weight", right=True), Column("worker"), Column("reads", cut=True)]
    rows = [[part.id, f"{part.weight:g}", worker_of[part.id], _reads(part)] for part in shown]
    if pinned:
        columns.insert(3, Column("pin"))
        for row, part in zip(rows, shown, strict=True):
            row.insert(3, part.pin or "-")
    if rows:
        table(columns, rows)
    if len(shown) < len(parts):
        out(f"... and {len(parts) - len(shown):,} more; --all lists them")
    loads = dict.fromkeys(assignment, 0.0)
    for part in parts:
        loads[worker_of[part.id]] += part.weight
    slots = [
        (host or "-", worker, f"{speed:g}", len(assignment[worker]), f"{loads[worker]:g}", loads[worker])
        for host, workers in distribution.hosts.items()
        for worker, speed in workers.items()
    ]
    busiest = sorted(slots, key=lambda slot: -slot[-1])[: None if limit is None else MOST_WORKERS]
    numbers = (Column(name, right=True) for name in ("capacity", "partitions", "load"))
    out("")
    table((Column("host"), Column("slot"), *numbers), [slot[:-1] for slot in slots if slot in busiest])
    if len(busiest) < len(slots):
        out(f"... and {len(slots) - len(busiest):,} more, with less to do; --all lists them")


def _reads(part: Partition) -> str:
    names = [ref.name for ref in part.references]
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0] if names else "-"
