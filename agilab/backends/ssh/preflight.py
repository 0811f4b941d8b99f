"""Whether hosts are ready, asked of all at once in ten seconds: how far each came, what stops it, what mends it.

It writes nothing on a host.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agilab import slots
from agilab.backends.ssh.link import Link, no_python
from agilab.backends.ssh.program import NO_PYTHON, command
from agilab.errors import HostError, RequestError
from agilab.home import LITTLE_SPACE_BYTES, NO_SPACE_BYTES

LIMIT_S = 9.5
"""How long one host may take [s]."""
SKEW_S = 2.0
"""From when on a clock that is off is worth a warning [s]."""


@dataclass(frozen=True, slots=True)
class HostCheck:
    """What preflight found out about one host.

    Parameters
    ----------
    host
        Its name, as it was asked for.
    address
        User, host and port that ssh_config makes of it.
    step
        Where it failed, one of `agilab.backends.ssh.STEPS`; empty when it is ready.
    problem, fix
        What is wrong, and what to do about it.
    warnings
        What works, but not well, each with its fix.
    python, platform, uv
        Versions; an empty `uv` means that ours is sent.
    free_bytes
        Space for what is deployed [bytes].
    cores
        Processors that a login may use.
    memory_bytes
        Its memory [bytes].
    resources
        Its other countable resources, such as ``{"gpu": 2}``, as that machine itself would count them.
    skew_s
        How far its clock is ahead of ours at least, negative when behind [s].
    """

    host: str
    address: str = ""
    step: str = ""
    problem: str = ""
    fix: str = ""
    warnings: tuple[str, ...] = ()
    python: str = ""
    platform: str = ""
    uv: str = ""
    free_bytes: int = 0
    cores: int = 0
    memory_bytes: int = 0
    resources: Mapping[str, int] = field(default_factory=dict)
    skew_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether a run may use it."""
        return not self.step

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": list(self.warnings), "ok": self.ok}


async def check_all(links: Sequence[Link]) -> tuple[HostCheck, ...]:
    """Check hosts, all at the same time.

    Parameters
    ----------
    links
        The hosts; nothing is raised for one that cannot be used.
    """
    return tuple(await asyncio.gather(*(_check(link) for link in links)))


async def _check(link: Link) -> HostCheck:
    try:
        async with asyncio.timeout(LIMIT_S):
            said, sent, came = await _ask(link)
    except TimeoutError:
        step = "link" if _address(link) and link.connected else "connection"
        problem = f"no answer within {LIMIT_S:g} s"
        return HostCheck(link.name, _address(link), step, problem, "is it up, and does a firewall let you through?")
    except HostError as err:
        problem = err.problem if err.host == link.name else f"{err.host}: {err.problem}"  # of a jump host
        return HostCheck(link.name, _address(link), err.step, problem, err.fix)
    skew = max(0.0, said["time"] - came) + min(0.0, said["time"] - sent)
    free, place = said["free_bytes"], said["place"]
    problem = fix = ""
    if not said["writable"]:
        problem, fix = f"{place} cannot be written", "make it writable, or let AGILAB_WENV there name another folder"
    elif free < NO_SPACE_BYTES:
        problem, fix = (
            f"{free / 2**30:.1f} GiB free in {place}",
            f"free some space, or: agilab cluster clean {link.name}",
        )
    resources, wrong = _resources(said)
    return HostCheck(
        host=link.name,
        address=_address(link),
        step="disk" if problem else "",
        problem=problem,
        fix=fix,
        warnings=(*_warnings(free, skew), *wrong),
        python=said["python"],
        platform=said["platform"],
        uv=said["uv_version"],
        free_bytes=free,
        cores=said["cores"],
        memory_bytes=said["memory_bytes"],
        resources=resources,
        skew_s=round(skew, 3),
    )


async def _ask(link: Link) -> tuple[dict[str, Any], float, float]:
    """Return what the probe says, and our time before it began and when it had answered."""
    await link.connection()
    sent = time.time()
    stdout, stderr, status = await link.answer(command("probe"))
    came = time.time()
    if status == NO_PYTHON:
        raise no_python(link.name, stdout)
    try:
        said: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    except (ValueError, IndexError) as err:
        words = (stderr.strip() or stdout.strip() or "it said nothing").splitlines()[-1]
        fix = f"see what `ssh {link.name} python3 -V` prints; start-up files there must not"
        raise HostError(link.name, "Python", f"does not run as it should: {words:.200}", fix) from err
    return said, sent, came


def _resources(said: Mapping[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Return the countable resources of a host, and what is wrong with what it says of them."""
    try:
        return slots.resources(said["resources"], said["gpus"]), []
    except RequestError as err:
        return {}, [f"none of its resources counts: {err}"]


def _warnings(free: int, skew: float) -> tuple[str, ...]:
    found = []
    if NO_SPACE_BYTES <= free < LITTLE_SPACE_BYTES:
        found.append(f"only {free / 2**30:.1f} GiB free; a worker environment takes about 0.3 GiB: free some space")
    if abs(skew) > SKEW_S:
        side = "ahead" if skew > 0 else "behind"
        found.append(f"its clock is {abs(skew):.0f} s {side}: let it be set there, such as by timedatectl set-ntp true")
    return tuple(found)


def _address(link: Link) -> str:
    return link.target.address if link.target.host else ""
