"""`agilab fetch`: artifacts that stayed on hosts come here; and the hint that other commands give where some did."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping

import click

from agilab.agi import AGI
from agilab.cli.named import named_run
from agilab.cli.screen import count, document, json_option, note, out, size
from agilab.env import AgiEnv


@click.command("fetch")
@click.argument("run_id", metavar="RUN")
@click.argument("pattern", default="all")
@json_option
def fetch_command(*, run_id: str, pattern: str, as_json: bool) -> int:
    """Bring artifacts here that stayed on hosts.

    RUN is a run id, the head of one, or `last`; it has ended. PATTERN is held against stage/partition/name, such as
    'train/*/model'; without it, everything comes. Every byte is hashed here, and the record of the run closed anew.
    Nothing is removed from the hosts.
    """
    env = AgiEnv()
    run = named_run(env, run_id)
    found = AGI.fetch(env, f"{run.app}/{run.run_id}", pattern, report=note)
    if as_json:
        document("fetch", found.to_json())
        return 0
    if found.artifacts:
        total = size(sum(item.size_bytes for item in found.artifacts))
        out(f"fetched {count(len(found.artifacts), 'artifact')}, {total}: {found.run.run_id}")
        out(f"  folder  {found.run.paths.root}")
    else:
        out(f"nothing to fetch: what was asked for is in {found.run.paths.root}")
    out(*left_on((item.location for item in found.elsewhere), run.run_id))
    return 0


def left_on(hosts: Iterable[str], run_id: str) -> Iterator[str]:
    """Yield a line for each host that artifacts lie on, with what brings them here.

    Parameters
    ----------
    hosts
        One for each of those artifacts.
    run_id
        Of the run.
    """
    counts: dict[str, int] = {}
    for host in hosts:
        counts[host] = counts.get(host, 0) + 1
    for host, number in counts.items():
        yield f"{count(number, 'artifact')} on host {host}; to bring here: agilab fetch {shlex.quote(run_id)}"


def elsewhere(artifacts: Mapping[str, object]) -> str:
    """Return what a manifest says of artifacts on other hosts, for a line of a summary; empty when all are here."""
    there = artifacts.get("elsewhere")
    if not isinstance(there, Mapping):
        return ""
    return "; " + ", ".join(f"{item['count']:,} of them on {host}" for host, item in there.items())
