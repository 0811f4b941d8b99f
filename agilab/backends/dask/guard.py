"""What Dask may unpickle and be asked where hosts can reach it: what AGILAB itself uses, and nothing else.

Dask unpickles what anybody with the certificate of a run sends, and a pickle
may name any function to be called. Before it gets what it names, Python asks
the audit hooks of the process [1]_; the one of this module refuses everything
but a closed set of names, none of which runs code of whoever sends it. That
holds for Dask's own pickles too, such as functions to be run by the scheduler.

References
----------
.. [1] https://docs.python.org/3/library/pickle.html#restricting-globals,
   https://docs.python.org/3/library/audit_events.html
"""

from __future__ import annotations

import sys
from contextvars import Context, ContextVar, copy_context
from functools import cache
from types import ModuleType
from typing import Any

import dask
from distributed import Scheduler, Status
from distributed.protocol.serialize import _cached_allowed_modules

from agilab.errors import EvidenceError

NAMES = frozenset(
    {
        *(("builtins", name) for name in ("bytes", "int", "str")),
        *(("collections", name) for name in ("defaultdict", "deque")),
        *(("dask._expr", name) for name in ("Expr._reconstruct", "LLGExpr")),  # a lease, on its way
        ("dask._task_spec", "Task"),
        ("agilab.backends.dask.lease", "lease"),
        ("distributed.client", "SourceCode"),
        ("distributed.core", "Status"),  # in the error of a lease that was lost
        ("distributed.scheduler", "WorkerState"),
        *(("tblib", name) for name in ("Code", "Frame", "Traceback")),
        ("tblib.pickling_support", "unpickle_exception"),
        ("tblib.pickling_support", "unpickle_exception_with_attrs"),
        ("tblib.pickling_support", "unpickle_traceback"),
    }
)
"""Module and name of what may be unpickled, besides the exceptions of `ROOTS`."""

ROOTS = frozenset({"agilab", "asyncio", "builtins", "concurrent", "distributed", "ssl", "tornado"})
"""Packages whose exceptions may be unpickled: an error somewhere else is told as what it is."""

OPERATIONS = frozenset(
    {
        *("identity", "register-client", "broadcast", "ncores", "gather", "who_has"),
        *("register-worker", "heartbeat_worker", "unregister", "subscribe_worker_status"),
    }
)
"""What Dask workers and our clients ask of a scheduler; others run functions in it, or write files."""

_guarded = ContextVar("_guarded", default=False)


def guard_scheduler(scheduler: Scheduler) -> None:
    """Refuse foreign pickles and names in this whole process, which holds a scheduler and nothing else, for good.

    Parameters
    ----------
    scheduler
        Is not to do what only others than us would ask of it.
    """
    sys.addaudithook(_refuse)
    # A message may also name, without a pickle, whatever a module of Dask's has imported, and annotations of a task are
    # called when they can be. Of all that, only the states of workers are needed.
    states = ModuleType(Status.__module__)
    states.Status = Status  # type: ignore[attr-defined]
    _cached_allowed_modules.clear()
    _cached_allowed_modules[Status.__module__] = states
    dask.config.set({"distributed.scheduler.allowed-imports": []})
    scheduler.blocked_handlers = [name for name in scheduler.handlers if name not in OPERATIONS]


def guarded() -> Context:
    """Return a context in which foreign pickles are refused, and in whatever an event loop begins from there.

    What else happens in the process is not concerned.
    """
    _hook()
    context = copy_context()
    context.run(_guarded.set, True)
    return context


@cache
def _hook() -> None:
    """Add the hook once: Python never lets go of one."""
    sys.addaudithook(lambda event, args: _refuse(event, args) if _guarded.get() else None)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and args not in NAMES and not _is_error(*args):
        raise EvidenceError(
            f"a pickle names {args[0]}.{args[1]:.80}, which nothing of AGILAB's sends; it was not loaded. Somebody on "
            "the cluster may have been trying to run code here"
        )


def _is_error(module: str, name: str) -> bool:
    """Whether this is the name of an exception that has been imported already."""
    found = vars(sys.modules.get(module, _refuse)).get(name) if module.partition(".")[0] in ROOTS else None
    return isinstance(found, type) and issubclass(found, Exception)
