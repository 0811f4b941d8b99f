"""`agilab first-proof`, `verify` and `doctor`: commands whose answer is yes or no, with reasons."""

from __future__ import annotations

import os

import click

from agilab.cli.named import named_run
from agilab.cli.screen import count, document, json_option, note, out, size
from agilab.env import AgiEnv

MARKS = {"ok": "ok  ", "note": "note", "warn": "warn", "fail": "FAIL"}


@click.command(
    "verify",
    help="Hash a run folder again and name what has changed.\n\n"
    "RUN is a run id, the head of one, `last`, or a run folder, also one that came from elsewhere.",
)
@click.argument("run_id", metavar="RUN")
@json_option
def verify_command(*, run_id: str, as_json: bool) -> int:
    from agilab.verification import verify

    run = named_run(AgiEnv(), run_id)
    found = verify(run.paths)
    if as_json:
        document("verify", found.to_json())
        return 0 if found.ok else 1
    for problem in found.problems:
        out(f"{problem.problem}: {problem.path}: expected {problem.expected or '-'}, found {problem.found or '-'}")
    for path, host in found.elsewhere:
        out(f"elsewhere: {path}: on {host}, not looked at")
    checked = f"{count(found.checked, 'file')}, {size(found.size_bytes)}"
    if found.ok:
        out(f"ok: {found.run_id}: {checked} hashed, all as recorded")
        return 0
    problems = count(len(found.problems), "problem")
    note(f"agilab: error: {found.run_id} is not as it was recorded: {problems} in {checked}")
    return 1


@click.command("doctor", help="Check this machine and say how to fix what is wrong.")
@json_option
def doctor_command(*, as_json: bool) -> int:
    from agilab.doctor import examine, to_json

    env = AgiEnv()
    findings = examine(env.home, env.wenv, os.environ)
    failed = [item for item in findings if item.status == "fail"]
    if as_json:
        document("doctor", to_json(findings))
        return 1 if failed else 0
    width = max(len(item.name) for item in findings)
    for item in findings:
        out(f"{MARKS[item.status]}  {item.name.ljust(width)}  {item.detail}")
        if item.fix:
            out(f"      {' ' * width}  fix: {item.fix}")
    if failed:
        note(f"agilab: error: {count(len(failed), 'check')} failed: {', '.join(item.name for item in failed)}")
        return 1
    out("", "this machine can run apps; `agilab first-proof` shows it")
    return 0
