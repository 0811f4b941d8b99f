"""`RunRequest`, the complete description of a run before it runs, and `ClusterOptions`, where it is to run."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import param

from agilab import digest, edits
from agilab.edits import Edits
from agilab.errors import RequestError
from agilab.settings import Settings, Workers

SCHEMA = "agilab.request/1"

_FIRST_OPTIONS = ("backend", "workers", "timeout_s")
_TABLES = ("settings", "cluster", "provenance", "cluster_provenance")


class ServiceHealth(Settings):
    """From when on a service counts as ill; read by `agilab service health`, and no part of any request."""

    allow_idle = param.Boolean(default=True, doc="Whether a service that has nothing to do is well")
    max_unhealthy = param.Integer(
        default=0, bounds=(0, 4096), doc="How many workers may be unable to work before the service is ill"
    )
    max_restart_rate = param.Number(
        default=6.0,
        bounds=(0, None),
        doc="How often workers that died may have been started again in the last hour [1/h]",
    )


class ClusterOptions(Settings):
    """Where and how widely a request runs; the same declaration serves shell, form and file."""

    backend: Any = param.Selector(
        default="local",
        objects=["local", "inline", "dask", "ssh"],
        doc="Where partitions run: worker processes on this machine, inside this process for a debugger, Dask, or "
        "hosts over SSH.",
    )
    workers: Any = Workers(
        default=None,
        doc="Workers that run partitions at the same time; none means one per slot of the machine. "
        "With ssh: the hosts and how many run on each, such as alpha=2,beta=4",
    )
    timeout_s = param.Number(
        default=None,
        bounds=(0, None),
        inclusive_bounds=(False, True),
        allow_None=True,
        doc="Longest time of one attempt at a partition that has no timeout of its own [s]",
    )
    memory_mib = param.Integer(
        default=None,
        bounds=(1, None),
        allow_None=True,
        doc="Memory that a worker may use before it is ended; none for no limit but the machine's [MiB]",
    )
    collect = param.String(
        default="all",
        regex=r"^\S(.*\S)?$",
        doc="With hosts: which artifacts come here when a partition ends: all, none, or a pattern for "
        "stage/partition/name, such as train/*/model; the rest stays on its host (agilab fetch)",
    )
    share = param.Foldername(
        default=None,
        allow_None=True,
        check_exists=False,
        doc="With hosts: folder that all of them see under the same path; what lies in it is not copied",
    )
    lease_s = param.Number(
        default=0.1,
        bounds=(0.001, 60),
        doc="With Dask: how much measured work travels to a worker at a time [s]",
    )
    scheduler = param.String(
        default=None,
        allow_None=True,
        regex=r"^((tcp|tls)://[\w.:-]+|[\w.-]+)$",
        doc="With Dask: address of a scheduler that runs already. With ssh: name of the host that it is to run on. "
        "None starts one on this machine",
    )
    cluster_class = param.String(
        default=None,
        allow_None=True,
        regex=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$",
        doc="With Dask: import path of the class that makes the cluster, such as dask_jobqueue.SLURMCluster",
    )
    cluster_options = param.Dict({}, doc="With Dask: what that class is called with")
    certificates = param.Foldername(
        default=None,
        allow_None=True,
        check_exists=False,
        doc="With Dask: folder with ca.pem, cert.pem and key.pem for a scheduler that wants them",
    )
    allow_partial_hosts = param.Boolean(False, doc="With ssh: go on with the hosts that are ready, when others are not")
    service_health = param.ClassSelector(
        class_=ServiceHealth, default=ServiceHealth.from_json({}), doc="From when on a service counts as ill"
    )

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out what decides nothing about a run.

        Those are `service_health`, and the options that are younger than the
        schema and have their default: digests of requests stay.
        """
        default = cls.complete({})
        return {
            name: value
            for name, value in values.items()
            if name in _FIRST_OPTIONS or (value != default[name] and name != "service_health")
        }

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return every option: those of a request, and the defaults that it does not record."""
        return {**{field.name: deepcopy(field.default) for field in cls.fields()}, **values}


def code_digest(manager_digest: str, worker_digest: str) -> str:
    """Return the digest that a request has for manager package and worker package together."""
    return digest.of_json({"manager": manager_digest, "worker": worker_digest})


def checked_seed(seed: Any) -> int:
    """Return a seed; RequestError says what is allowed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise RequestError(f"seed is {seed!r:.80}; allowed: a whole number from 0 to 2**63 - 1")
    return seed


@dataclass(frozen=True)
class RunRequest:
    """Everything that decides what a run does; made by `AgiEnv.request` only.

    Parameters
    ----------
    app, app_uuid
        Name and identity of the app project.
    code_digest
        sha256 over manager package and worker package.
    settings
        Every setting of the app, as JSON; secrets are references.
    cluster
        The cluster options, as JSON; see `ClusterOptions.recorded`.
    seed
        What the seeds of all partitions are made from.
    edits
        What of the app's plan is changed before it runs, see `agilab.edits`; recorded only when there is something.
    provenance, cluster_provenance
        Where each value came from; outside the digest.
    user
        Who asked for it, where a server knows that from a login; outside the digest.
    """

    app: str
    app_uuid: str
    code_digest: str
    settings: Mapping[str, Any]
    cluster: Mapping[str, Any]
    seed: int = 0
    edits: Edits = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    cluster_provenance: Mapping[str, Any] = field(default_factory=dict)
    user: str = ""

    def __post_init__(self) -> None:
        """Keep tables of its own, so that what the caller does with theirs later changes nothing."""
        for name in (*_TABLES, "edits"):
            object.__setattr__(self, name, MappingProxyType(deepcopy(dict(getattr(self, name)))))

    @property
    def digest(self) -> str:
        """sha256 over app uuid, code digest, setting values, cluster options, seed, and edits if there are any."""
        return digest.of_json(
            {
                "schema": SCHEMA,
                "app_uuid": self.app_uuid,
                "code_digest": self.code_digest,
                "settings": dict(self.settings),
                "cluster": dict(self.cluster),
                "seed": self.seed,
                **self._edits(),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the request as it lies in ``request.json``."""
        return {
            "schema": SCHEMA,
            "app": {"name": self.app, "uuid": self.app_uuid},
            "code_digest": self.code_digest,
            **{name: deepcopy(dict(getattr(self, name))) for name in _TABLES},
            "seed": self.seed,
            **self._edits(),
            **({"user": self.user} if self.user else {}),
            "digest": self.digest,
        }

    def _edits(self) -> dict[str, Any]:
        return {"edits": deepcopy(dict(self.edits))} if self.edits else {}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRequest:
        """Read a complete request.

        Raises
        ------
        RequestError
            It is incomplete, or its digest is not that of its content.
        """
        try:
            made = cls(
                app=str(value["app"]["name"]),
                app_uuid=str(value["app"]["uuid"]),
                code_digest=str(value["code_digest"]),
                seed=checked_seed(value["seed"]),
                edits=edits.checked(value.get("edits", {})),
                user=str(value.get("user", "")),
                **{name: _table(value, name) for name in _TABLES},
            )
            found = made.digest
        except (KeyError, TypeError) as err:
            raise RequestError(f"the request is incomplete: {err} is missing; make it with AgiEnv.request") from err
        except ValueError as err:  # NaN, or half a character
            raise RequestError(f"the request holds what is not JSON: {err}; make it with AgiEnv.request") from err
        if value.get("schema") != SCHEMA or value.get("digest") != found:
            raise RequestError(
                f"the request says digest {value.get('digest')!r} and schema {value.get('schema')!r}, but its content "
                f"has digest {found} and this AGILAB reads {SCHEMA!r}; make it again with AgiEnv.request"
            )
        return made


def _table(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(value[name], Mapping):
        raise RequestError(f"{name} of the request is {value[name]!r:.80}; allowed: a table of names and values")
    return dict(value[name])
