"""The process that holds a cluster for a run: scheduler and nannies live here, so that none of it is in the manager's.

Started as ``python -m agilab.backends.dask.host own FOLDER``, with a folder for
its sockets, as ``alone FOLDER`` for a scheduler whose workers are elsewhere, or
without arguments for a class of somebody else. One JSON line on
standard input says which cluster, one on standard output where its scheduler
is; the end of the input ends all of it. What it and the Dask workers print and
log goes to the run's ``logs/``.

Dask is imported once for a cluster of our own: in the process that scheduler
and workers are forked from. Its pages cost as much again, and come up when
somebody asks for them (`agilab.backends.dask.pages`).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any
from urllib.parse import urlsplit

LOCAL = "distributed.LocalCluster"
OWN = "own"
ALONE = "alone"
"""First argument of the process when the cluster is the run's own, of class `LOCAL`: with workers, or without."""

PRELOADED = ["distributed", "agilab.backends.dask.lease"]
"""What scheduler and Dask workers need: imported once, in the process that all of them are forked from."""

CONFIG = {
    "distributed.worker.multiprocessing-method": "forkserver",
    "distributed.scheduler.allowed-failures": 0,  # a lost lease is ours to lease again: no attempt goes unrecorded
    "distributed.scheduler.work-stealing": False,  # a lease belongs to the slot that it was made for
    "distributed.worker.profile.enabled": False,  # it would only see lease runners wait
    # Pages of any origin could read its dashboards through a browser; without names, only its own may.
    "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin": [],
}


def main() -> int:
    """Hold one cluster until the manager closes the pipe."""
    pipe, out = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)
    if sys.argv[1:2] == [OWN]:
        tempfile.tempdir = sys.argv[2]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=hold, args=(pipe, out, sys.argv[2]))
        process.start()
        out.close()
        process.join()
    else:
        hold(pipe, out, *sys.argv[2:], guards=sys.argv[1:2] == [ALONE])
    os.killpg(0, signal.SIGKILL)
    return 0


def hold(pipe: Connection, out: Connection, folder: str = "", *, guards: bool = False) -> None:
    """Hold one cluster in this process.

    Parameters
    ----------
    pipe, out
        To hear the manager and to answer it.
    folder
        For the sockets of a cluster of our own; empty for a class of somebody else.
    guards
        Whether the Dask workers may be hostile: they are on other hosts.
    """
    import dask  # while the manager finds out what it wants
    from distributed import Security

    with open(pipe.fileno(), "rb", closefd=False) as lines:
        order = json.loads(lines.readline() or "null")
    if order is None:
        return
    own = bool(folder)
    if own:
        tempfile.tempdir = folder
        dask.config.set(CONFIG)
        _share_fork_server()
    options = dict(order["options"])
    if order["security"] is not None:
        options["security"] = Security(**order["security"])
    try:
        cluster = find_class(order["class"])(**options)
        if order["workers"] is not None and not own:
            cluster.scale(order["workers"])
    except (ImportError, AttributeError, TypeError, ValueError, OSError, RuntimeError) as err:
        _say(out, {"error": f"{type(err).__name__}: {err}"})
        raise
    if guards:  # before anybody hears of its address
        from agilab.backends.dask.guard import guard_scheduler

        guard_scheduler(cluster.scheduler)
    if own and find_spec("bokeh") is not None:
        from agilab.backends.dask import pages

        cluster.sync(pages.offer, cluster.scheduler)
    address = cluster.scheduler_address
    _say(out, {"scheduler": address, "dashboard": dashboard_of(address, cluster.scheduler_info)})
    manager: list[Any] = [pipe]
    if (parent := multiprocessing.parent_process()) is not None:
        manager.append(parent.sentinel)
    wait(manager)
    if not own:  # it may have jobs elsewhere; what our own has is in this process group
        cluster.close()


def _share_fork_server() -> None:
    """Let Dask workers be forked from the process that this one was forked from, with what that has imported.

    CPython's documentation promises it, but `ensure_running` starts another server in a child; and Dask would first
    import pandas here to preload it there. Both cost more than the rest of the start; neither has a public switch.
    """
    if multiprocessing.parent_process() is not None:
        from distributed import utils

        forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
        utils._forkserver_preload_set = True


def find_class(path: str) -> Any:
    """Return the class at an import path such as ``dask_jobqueue.SLURMCluster``."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def dashboard_of(scheduler: str, info: Mapping[str, Any]) -> str | None:
    """Return where a scheduler shows its dashboards; None without Bokeh, where it has none.

    Parameters
    ----------
    scheduler
        Its address.
    info
        What it says of itself.
    """
    port = (info.get("services") or {}).get("dashboard")
    if not port or find_spec("bokeh") is None:
        return None
    host = urlsplit(scheduler).hostname or ""
    # Bokeh takes websockets of this name, unless told otherwise.
    return f"http://{'localhost' if host == '127.0.0.1' else host}:{port}/status"


def _say(out: Connection, message: dict[str, Any]) -> None:
    with open(out.fileno(), "w", closefd=False) as file:
        file.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    sys.exit(main())
