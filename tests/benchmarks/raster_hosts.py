"""Measures pictures of points that lie on two hosts, each a network namespace behind a relay that is 20 ms late.

Run by hand as root on an idle machine::

    python tests/benchmarks/raster_hosts.py [--rows 10000000] [--views 20] [--delay-ms 20]

Hosts get everything as they do in earnest: AGILAB, and an environment with
Datashader, from the index or as wheels. Nothing of the points is here. Pictures
are 1000 x 480 pixels, as on ANALYSIS. Prints wall clock [s] and what came over
the wire [bytes] per picture.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from agilab import points  # noqa: E402
from agilab.backends.ssh.hosts import Hosts  # noqa: E402
from agilab.paths import WenvPaths  # noqa: E402
from agilab.raster import Query, Source, aggregate, extent  # noqa: E402
from tests.benchmarks.raster import FILES, batches, views  # noqa: E402
from tests.hosts import introduce, namespace_hosts  # noqa: E402
from tests.relay import relayed  # noqa: E402


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    arguments = parser.parse_args()
    os.environ.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    os.environ.setdefault("XDG_CONFIG_HOME", str(Path.home() / ".config"))
    with tempfile.TemporaryDirectory(prefix="agilab-raster-hosts-") as text, ExitStack() as stack:
        folder = Path(text)
        os.environ["HOME"] = str(folder)
        variables = {"AGILAB_WENV": str(folder / "there"), "UV_CACHE_DIR": os.environ["UV_CACHE_DIR"]}
        servers = stack.enter_context(namespace_hosts("alpha", "beta", setenv=variables, own_users=False))
        for server in servers:
            near = copy.copy(server)
            near.port = stack.enter_context(relayed(server.address, server.port, arguments.delay_ms / 1000))
            near.address = "127.0.0.1"
            introduce(near)
        hosts = stack.enter_context(Hosts(WenvPaths(folder / "here")))
        look(hosts, write(folder, arguments.rows, hosts), arguments.views)


def write(folder: Path, rows: int, hosts: Hosts) -> list[Source]:
    """Write points as workers do, every other file on the other host."""
    found = []
    for number in range(FILES):
        path = folder / f"{number}.parquet"
        points.write(path, batches(rows // FILES, number), x="x", y="y", pyramid=path.with_suffix(".npz"))
        far = hosts.far(("alpha", "beta")[number % 2])
        found.append(Source(path, str(number), path.with_suffix(".npz"), sha256=str(number), far=far))
    return found


def look(hosts: Hosts, sources: list[Source], count: int) -> None:
    """Take pictures, and say what they took."""
    links: Any = [hosts.far(name)._channel for name in ("alpha", "beta")]
    start = time.perf_counter()
    box = extent(sources, "x", "y")
    assert box is not None
    print(f"deployed and asked for the first time   {time.perf_counter() - start:7.3f} s")
    base = Query("x", "y", 1000, 480)
    mean = replace(base, reduction="mean", value="altitude_m")
    for what, query in (("count", base), ("mean", mean)):
        for share in (1, 0.01, 0.001):
            times, sizes = [], []
            for limits in views(box, share, count + 1):
                before, start = sum(link.received_bytes for link in links), time.perf_counter()
                ways = aggregate(sources, replace(query, **limits)).way
                times.append(time.perf_counter() - start)
                sizes.append(sum(link.received_bytes for link in links) - before)
            later = np.array(times[1:])
            print(
                f"{what} of {share:6.1%}   first {times[0]:6.3f} s   median {np.median(later):6.3f} s   "
                f"p95 {np.quantile(later, 0.95):6.3f} s   most bytes {max(sizes):,}   ({ways})"
            )


if __name__ == "__main__":
    main()
