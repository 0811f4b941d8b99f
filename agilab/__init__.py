"""AGILAB, an anti-lock-in reproducibility workbench: `AgiEnv -> AGI.run -> worker package -> artifacts`.

This module loads nothing by itself: every public name is imported from its
home the first time it is asked for (PEP 562), so that `import agilab` in a
worker or for ``agilab --help`` costs next to nothing.
"""

TYPE_CHECKING = False  # type checkers know better; importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

    from agilab.agi import AGI
    from agilab.app import App
    from agilab.artifact import Artifact
    from agilab.env import AgiEnv
    from agilab.errors import AgilabError
    from agilab.plan import ArtifactRef, InputRef, Partition, Stage, WorkPlan, partition_id
    from agilab.request import RunRequest
    from agilab.run import Run
    from agilab.settings import Settings
    from agilab.worker import PartitionContext, Worker

__version__ = "0.1.0"

_HOMES = {
    "AGI": "agi",
    "AgiEnv": "env",
    "AgilabError": "errors",
    "App": "app",
    "Artifact": "artifact",
    "ArtifactRef": "plan",
    "InputRef": "plan",
    "Partition": "plan",
    "PartitionContext": "worker",
    "Run": "run",
    "RunRequest": "request",
    "Settings": "settings",
    "Stage": "plan",
    "WorkPlan": "plan",
    "Worker": "worker",
    "partition_id": "plan",
}

__all__ = [
    "AGI",
    "AgiEnv",
    "AgilabError",
    "App",
    "Artifact",
    "ArtifactRef",
    "InputRef",
    "Partition",
    "PartitionContext",
    "Run",
    "RunRequest",
    "Settings",
    "Stage",
    "WorkPlan",
    "Worker",
    "partition_id",
]


def __getattr__(name: str) -> "Any":
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'agilab' has no attribute {name!r}") from None
    from importlib import import_module

    value = getattr(import_module(f"agilab.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
