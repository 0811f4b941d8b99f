"""`agilab service`: a kept-alive service of an app, its health for a watchdog, and requests to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import click

from agilab import service
from agilab.agi import AGI
from agilab.cli.commands import Commands
from agilab.cli.flags import CHOSEN, CLUSTER, Chosen, DeclaredCommand, options
from agilab.cli.launch import AppCommand, app_options, carry_out, on_its_way, read_request
from agilab.cli.progress import watch
from agilab.cli.screen import Column, clock, count, document, json_option, out, pairs, table
from agilab.env import AgiEnv
from agilab.errors import AgilabError
from agilab.interrupt import CancelSwitch
from agilab.paths import NAME_PATTERN, HomePaths
from agilab.request import ClusterOptions
from agilab.run import Run
from agilab.service import Status


@click.group("service", cls=Commands, no_args_is_help=False)
def service_command() -> None:
    """Keep an app warm: requests to its service start at once."""


class _Declared(DeclaredCommand):
    """A command on the service of an app, with cluster options as flags."""

    only: ClassVar[str] = ""

    def choose(self, app: str | None, before: Mapping[str, str]) -> Chosen | None:
        """Select the app, and make the flags."""
        fields = [field for field in ClusterOptions.fields() if self.only in ("", field.name)]
        env = None if app is None else AgiEnv(app)
        resolved = None if env is None else cache(env.cluster)
        return Chosen(env, "", options(fields, CLUSTER, taken=("--help", "--json"), resolved=resolved))


class _WrongUse(click.UsageError):
    exit_code = 1


class _HealthCommand(_Declared):
    """`agilab service health`: wrong use ends with 1 here, since 2 says that the service is unreachable."""

    only = "service_health"

    def make_context(self, *words: Any, **extra: Any) -> click.Context:
        """Read the command line."""
        try:
            ctx = super().make_context(*words, **extra)
            _chosen(ctx)
            return ctx
        except (click.UsageError, AgilabError) as err:
            said = err.format_message() if isinstance(err, click.UsageError) else str(err)
            raise _WrongUse(said, getattr(err, "ctx", None)) from err


def _named(home: HomePaths, app: str) -> str:
    """Return the app that is meant: one that has a service, whether or not its project is still there, or a project."""
    known = NAME_PATTERN.fullmatch(app) and home.service(app).root.is_dir()
    return app if known else AgiEnv(app).project.name


def _app(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("app", required=False, metavar="APP", expose_value=False)(function)


def _chosen(ctx: click.Context) -> AgiEnv:
    chosen: Chosen | None = ctx.meta.get(CHOSEN)
    if chosen is None or chosen.thing is None:
        raise click.UsageError("name the app", ctx)
    env: AgiEnv = chosen.thing
    return env


@service_command.command("start", cls=_Declared)
@_app
@json_option
@click.pass_context
def start_command(ctx: click.Context, *, as_json: bool) -> int:
    """Start the service of an app, and return once it takes requests.

    Its workers load the app's worker package, and stay. The app is installed first where that is needed.
    """
    env = _chosen(ctx)
    with watch() as view:
        found = AGI.service(env, "start", cluster=ctx.meta.get(CLUSTER, {}), report=view.say)
    if as_json:
        document("service.start", found.to_json())
        return 0
    out(f"the service of {found.app} runs with {count(len(found.workers), 'worker')}")
    out("next", *(f"  agilab service {verb} {found.app}" for verb in ("submit", "status", "stop")))
    return 0


@service_command.command("status")
@click.argument("app", required=False, metavar="[APP]")
@json_option
def status_command(*, app: str | None, as_json: bool) -> int:
    """Say how a service is: its workers, what it runs and what waits; of every service when no app is named."""
    home = AgiEnv().home
    found = service.services(home) if app is None else [service.status(home, _named(home, app))]
    if as_json:
        document("service.status", {"services": [one.to_json() for one in found]})
    elif app is not None:
        _print_status(found[0])
    elif found:
        rows = [(one.app, one.state, len(one.workers) or "-", len(one.going), _since(one)) for one in found]
        columns = (Column("app", cut=True), Column("state"), Column("workers", right=True))
        table((*columns, Column("requests", right=True), Column("started")), rows)
    else:
        out("no services; start one with: agilab service start APP")
    return 0


@service_command.command("health", cls=_HealthCommand)
@_app
@click.option("--prometheus", is_flag=True, help="Print metrics in the Prometheus text format.")
@json_option
@click.pass_context
def health_command(ctx: click.Context, *, prometheus: bool, as_json: bool) -> int:
    """Compare how a service is with what is allowed, for a watchdog.

    Exit codes: 0 ok, 1 wrong use, 2 unreachable, 3 unhealthy, 4 restarting too often, 5 idle where that is not allowed.
    What is allowed stands in `[cluster.service_health]` of the settings; flags win.
    """
    found = AGI.service(_chosen(ctx), "health", cluster=ctx.meta.get(CLUSTER, {}))
    if as_json:
        document("service.health", {**found.to_json(), "exit_code": found.exit_code})
    elif prometheus:
        out(*service.prometheus(found))
    else:
        out(f"{found.verdict}: {found.status.app}: {found.reason}")
    return found.exit_code


class _SubmitCommand(AppCommand):
    """`agilab service submit`: the app's settings as flags; the cluster options are the service's."""

    def choose(self, app: str | None, before: Mapping[str, str]) -> Chosen | None:
        """Select the app, and make the flags of its settings."""
        chosen = super().choose(app, before)
        if chosen is None:
            return None
        return Chosen(chosen.thing, chosen.title, tuple(flag for flag in chosen.flags if flag.place != CLUSTER))


@service_command.command("submit", cls=_SubmitCommand)
@app_options
@click.option("--detach", is_flag=True, help="Return at once; the run goes on by itself.")
@click.pass_context
def submit_command(
    ctx: click.Context, *, seed: int | None, sets: tuple[str, ...], file: Path | None, as_json: bool, detach: bool
) -> int:
    """Hand a request to the service of an app, and show how it goes.

    It becomes a run like any other: `agilab runs`, `show`, `logs` and `cancel` know it.
    """
    env = _chosen(ctx)
    ctx.meta[CLUSTER] = service.options(env.home, env.project.name)
    env, request = read_request(ctx, seed=seed, sets=sets, file=file)
    if detach:
        return on_its_way(AGI.service(env, "submit", request), as_json=as_json)
    return carry_out(lambda on_event: _follow(AGI.service(env, "submit", request), on_event), env, as_json=as_json)


def _follow(run: Run, on_event: Callable[[Mapping[str, Any]], None]) -> Run:
    """Tell what happens in a run until it has ended; the first interruption asks for that, the second goes away."""
    with CancelSwitch(run.paths.cancel_request):
        for event in run.events(follow=True):
            on_event(event)
    return run


def _print_status(found: Status) -> None:
    """Write how one service is."""
    record = found.record
    going = found.going
    pairs(
        (
            ("service", found.app),
            ("state", found.state),
            ("process", f"{record['pid']} on {record['host']}" if found.alive and record else ""),
            ("since", _since(found) if found.alive and record else ""),
            ("backend", record["cluster"]["backend"] if record else ""),
            ("running", going[0] if going else ""),
            ("waiting", count(len(going) - 1, "request") if len(going) > 1 else ""),
            ("ended", ", ".join(f"{number:,} {name}" for name, number in _ended(found))),
            ("last run", record["runs"]["last"] if record else ""),
            ("restarts", f"{record['restarts_per_hour']} in the last hour" if found.workers else ""),
        )
    )
    if found.workers:
        out("")
        columns = (Column("worker"), Column("process", right=True), Column("state"), Column("problem", wraps=True))
        table(columns, [(one["worker"], one["pid"] or "-", one["state"], one["problem"]) for one in found.workers])
    if found.state == "lost":
        out("", "its process has gone; what it ran is lost, see `agilab runs`, and can go on with `agilab resume`")
    if not found.alive:
        out("next", f"  agilab service start {found.app}")


def _ended(found: Status) -> list[tuple[str, int]]:
    return sorted(found.record["runs"]["ended"].items()) if found.record else []


def _since(found: Status) -> str:
    return clock(found.record["started"]) if found.alive and found.record else "-"


@service_command.command("stop")
@click.argument("app", metavar="APP")
@json_option
def stop_command(*, app: str, as_json: bool) -> int:
    """Stop a service, and wait until nothing of it is left; what it runs or has waiting is cancelled."""
    home = AgiEnv().home
    found = service.stop(home, _named(home, app))
    if as_json:
        document("service.stop", found.to_json())
    else:
        out(f"stopped: the service of {found.app}")
    return 0
