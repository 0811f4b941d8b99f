"""`agilab cluster`: hosts after their runs; and how `agilab doctor` shows hosts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

from agilab.cli.screen import Column, count, document, json_option, note, out, size, table
from agilab.env import AgiEnv


@click.group("cluster", no_args_is_help=False)
def cluster_command() -> None:
    """Remove from hosts what runs have deployed to them."""


@cluster_command.command("clean")
@click.argument("host", metavar="HOST")
@click.option("--results", is_flag=True, help="Also remove results of runs that nobody has collected.")
@json_option
def clean_command(*, host: str, results: bool, as_json: bool) -> int:
    """Remove packages, environments and caches from a host.

    Refused while a run uses the host. Results that nobody has collected stay, unless `--results` is given.
    """
    from agilab.backends.ssh.hosts import Hosts

    with Hosts(AgiEnv().wenv) as hosts:
        done = hosts.clean(host, results=results)
    if as_json:
        document("cluster.clean", {"host": host, **done.to_json()})
        return 0
    out(f"{host}: {size(done.removed_bytes)} removed from {done.wenv}")
    if done.kept:
        out(f"results of {count(len(done.kept), 'run')} kept: {', '.join(done.kept)}")
        out(f"to remove them too: agilab cluster clean --results {shlex.quote(host)}")
    return 0


def show_hosts(names: Sequence[str], *, as_json: bool) -> int:
    """Print what preflight says of hosts; return the exit code."""
    from agilab.backends.ssh.hosts import Hosts

    with Hosts(AgiEnv().wenv) as hosts:
        checks = hosts.preflight(names)
    failed = [item for item in checks if not item.ok]
    if as_json:
        document("doctor", {"ok": not failed, "hosts": [item.to_json() for item in checks]})
        return 1 if failed else 0
    rows = [
        (
            item.host,
            item.address or "-",
            "ready" if item.ok else f"no: {item.step}",
            item.python or "-",
            item.uv or ("ours" if item.python else "-"),
            item.platform or "-",
            str(item.cores or "-"),
            size(item.memory_bytes) if item.python else "-",
            ", ".join(f"{count} {name}" for name, count in sorted(item.resources.items())) or "-",
            size(item.free_bytes) if item.python else "-",
            f"{item.skew_s:+.1f} s" if item.python else "-",
        )
        for item in checks
    ]
    columns = [Column("host", cut=True), Column("address", cut=True), Column("state"), Column("Python"), Column("uv")]
    columns += [Column("platform", optional=True), Column("cores", right=True, optional=True)]
    columns += [Column("memory", right=True, optional=True), Column("devices", optional=True, cut=True)]
    table([*columns, Column("free", right=True), Column("clock", right=True)], rows)
    for item in checks:
        if not item.ok:
            out("", f"FAIL  {item.host}: {item.step}: {item.problem}", f"      fix: {item.fix}")
        for warning in item.warnings:
            out("", f"warn  {item.host}: {warning}")
    if failed:
        note(f"agilab: error: {count(len(failed), 'host')} not ready: {', '.join(item.host for item in failed)}")
        return 1
    out("", f"{count(len(checks), 'host')} ready")
    return 0
