"""`agilab first-proof`, `verify` and `doctor`: commands whose answer is yes or no, with reasons."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from agilab.cli.cluster import show_hosts
from agilab.cli.fetch import left_on
from agilab.cli.named import named_run
from agilab.cli.outcome import exit_code, print_error, print_failures, run_json
from agilab.cli.progress import watch
from agilab.cli.screen import count, document, json_option, note, out, size
from agilab.cli.signals import Signals
from agilab.cli.stdout import app_output_aside
from agilab.env import AgiEnv
from agilab.errors import RunFailedError

if TYPE_CHECKING:
    from agilab.proof import Proof

MARKS = {"ok": "ok  ", "note": "note", "warn": "warn", "fail": "FAIL"}


@click.command("first-proof")
@click.option("--run", "run_id", metavar="RUN", help="Check this run of flight_telemetry again instead of making one.")
@json_option
def first_proof_command(*, run_id: str | None, as_json: bool) -> int:
    """Install, run and verify a small job on real data.

    Installs flight_telemetry, runs it on a few days of real flights, hashes every file again and compares the
    counts with an independent count of the source.
    """
    from agilab.proof import prove

    env = AgiEnv()
    if run_id is None:
        found = _first_proof(env, as_json=as_json)
        if isinstance(found, int):
            return found
    else:
        found = prove(env, named_run(env, run_id))
    if as_json:
        document("first-proof", found.to_json())
        return 0 if found.ok else 1
    width = max(len(item.name) for item in found.findings)
    out(*(f"{'ok  ' if item.ok else 'FAIL'}  {item.name.ljust(width)}  {item.detail}" for item in found.findings))
    if not found.ok:
        failed = [item for item in found.findings if not item.ok]
        note(f"agilab: error: the proof failed: {failed[0].name}: {failed[0].detail}")
        return 1
    out(f"proved: {found.run.run_id}", f"  folder  {found.run.paths.root}")
    out("next", *(f"  {command}" for command in found.next_commands))
    return 0


def _first_proof(env: AgiEnv, *, as_json: bool) -> Proof | int:
    """Make the first proof, or return the exit code of a run that did not succeed, after saying why."""
    from agilab.proof import first_proof

    with watch() as view, app_output_aside(view.say), Signals(view.say) as signals:
        try:
            return first_proof(env, report=view.say, on_event=view)
        except RunFailedError:
            tally = view.tally
    run = env.runs.get(f"{tally.app}/{tally.run_id}")
    if as_json:
        document("run", run_json(run))
    print_failures(run, tally.failures, env)
    print_error(run)
    return exit_code(run, signals.number)


@click.command("verify")
@click.argument("run_id", metavar="RUN")
@json_option
def verify_command(*, run_id: str, as_json: bool) -> int:
    """Hash a run folder again and name what has changed.

    RUN is a run id, the head of one, `last`, or a run folder, also one that came from elsewhere.
    """
    from agilab.verification import verify

    run = named_run(AgiEnv(), run_id)
    found = verify(run.paths)
    if as_json:
        document("verify", found.to_json())
        return 0 if found.ok else 1
    for problem in found.problems:
        out(f"{problem.problem}: {problem.path}: expected {problem.expected or '-'}, found {problem.found or '-'}")
    for line in left_on((host for _, host in found.elsewhere), found.run_id):
        out(f"elsewhere: {line}")
    checked = f"{count(found.checked, 'file')}, {size(found.size_bytes)}"
    if found.ok:
        out(f"ok: {found.run_id}: {checked} hashed, all as recorded")
    if found.superseded:
        out(f"{count(len(found.superseded), 'earlier seal')} in seals/ held against it too")
    for path, sha256 in found.sidecar:
        out(f"added later, not sealed: {path}: sha256 {sha256}")
    if found.ok:
        return 0
    problems = count(len(found.problems), "problem")
    note(f"agilab: error: {found.run_id} is not as it was recorded: {problems} in {checked}")
    return 1


@click.command("doctor")
@click.argument("names", nargs=-1, metavar="[HOST...]")
@click.option("--hosts", is_flag=True, help="Check hosts reached over SSH instead: all that are named.")
@click.option("--all", "everything", is_flag=True, help="Also explain extras and what only AGILAB's own tests use.")
@json_option
def doctor_command(*, names: tuple[str, ...], hosts: bool, everything: bool, as_json: bool) -> int:
    """Check this machine and say how to fix what is wrong.

    With `--hosts alpha beta` hosts are checked instead, all at once and in ten seconds at most: reachable, host key,
    login, Python, uv, disk, clock. Names are those of ~/.ssh/config; nothing is written on a host.
    """
    from agilab.doctor import examine, to_json

    if hosts != bool(names):
        raise click.UsageError("hosts are named after --hosts, such as: agilab doctor --hosts alpha beta")
    if hosts:
        return show_hosts(tuple(dict.fromkeys(names)), as_json=as_json)
    env = AgiEnv()
    findings = examine(env.home, env.wenv, os.environ)
    failed = [item for item in findings if item.status == "fail"]
    if as_json:
        document("doctor", to_json(findings))
        return 1 if failed else 0
    shown = [item for item in findings if everything or not item.extra]
    width = max(len(item.name) for item in shown)
    for item in shown:
        out(f"{MARKS[item.status]}  {item.name.ljust(width)}  {item.detail}")
        if item.fix:
            out(f"      {' ' * width}  fix: {item.fix}")
    if not everything:
        absent = [item.name for item in findings if item.extra and item.status != "ok"]
        detail = f"not here: {', '.join(absent)}" if absent else "all here"
        out(f"note  {'optional'.ljust(width)}  {detail}; agilab doctor --all explains")
    if failed:
        note(f"agilab: error: {count(len(failed), 'check')} failed: {', '.join(item.name for item in failed)}")
        return 1
    out("", "this machine can run apps; `agilab first-proof` shows it")
    return 0
