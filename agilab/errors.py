"""Every error that AGILAB raises on purpose; it prints none of them.

The tree, with the exit code the shell returns for each branch::

    AgilabError                                1
    ├── SettingError            (ValueError)   2   a value outside its declaration
    ├── RequestError            (ValueError)   2   a request that cannot be made or sent
    ├── QueryError              (ValueError)   2   a question about the runs that makes no sense
    ├── SupersededError                        1   an answer that nobody waits for any more
    ├── PlanError               (ValueError)   2   a work plan that does not hold together
    ├── ProjectError                           2   an app project that breaks its contract
    │   └── ProjectNotFoundError (LookupError) 2
    ├── TrustError                             2   an imported app that may not run yet
    ├── HomeError               (OSError)      2   AGILAB_HOME cannot be used as it is
    ├── BackendRefusedError                    2   a backend was asked for what it cannot promise
    ├── HostError               (ConnectionError) 1   a host cannot be reached, trusted or used, or its link was lost
    ├── InstallError                           3   worker package, environment or data set
    │   ├── DataError                          3
    │   └── UnreachableIndexError              3
    ├── WorkerError                            1   what went wrong where worker code runs
    │   └── ProtocolError                      1
    ├── ServiceError                           1   a service that does not run, does not start or takes nothing
    ├── TrackingError                          1   a tracking server or store that cannot be used
    ├── RunNotFoundError        (LookupError)  2
    ├── RunStateError                          1   a run that is not in the state this needs
    ├── RunFailedError                         1   a run that ended without success
    │   └── RunCancelledError                  130
    ├── ViewError                              1   an app's own view that cannot be imported, or raised something
    ├── ArtifactNotFoundError   (FileNotFoundError) 1
    ├── EvidenceError                          1   a record that does not match what it records
    └── NoSpaceError            (OSError)      4   a disk that is full

A message is one line for a person: what was wrong, the value, what is
allowed, what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class AgilabError(Exception):
    """Base of every error that AGILAB raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        # KeyError and OSError print their arguments in their own way; ours is one sentence.
        return str(self.args[0]) if self.args else self.__class__.__name__


class SettingError(AgilabError, ValueError):
    """A setting is unknown, has a wrong type or lies outside its bounds."""

    exit_code = 2


class RequestError(AgilabError, ValueError):
    """A run request is incomplete or contradicts its app."""

    exit_code = 2


class QueryError(AgilabError, ValueError):
    """A query of the run history names what no run has, or cannot be read."""

    exit_code = 2


class SupersededError(AgilabError):
    """A picture was asked for, and then another one in its place."""


class PlanError(AgilabError, ValueError):
    """A work plan names an unknown stage, repeats a partition id or has a cycle."""

    exit_code = 2


class ProjectError(AgilabError):
    """An app project breaks its contract."""

    exit_code = 2


class ProjectNotFoundError(ProjectError, LookupError):
    """No app project of that name or path."""


class TrustError(AgilabError):
    """An imported app is not trusted, so nothing of it runs."""

    exit_code = 2


class HomeError(AgilabError, OSError):
    """AGILAB_HOME or AGILAB_WENV cannot be used as it is."""

    exit_code = 2


class BackendRefusedError(AgilabError):
    """A backend was asked for something it cannot promise."""

    exit_code = 2


class HostError(AgilabError, ConnectionError):
    """A host cannot be reached, trusted or used, or the link to it was lost.

    Parameters
    ----------
    host
        Its name, as it was asked for.
    step
        How far it came: one of `agilab.backends.ssh.STEPS`.
    problem
        What is wrong, in one line.
    fix
        What to do next; empty when there is nothing better than trying again.
    """

    def __init__(self, host: str, step: str, problem: str, fix: str = "") -> None:
        shown = host if host and host.isprintable() else f"{host!r:.120}"
        super().__init__(f"host {shown}: {step}: {problem}{f'; {fix}' if fix else ''}")
        self.host, self.step, self.problem, self.fix = host, step, problem, fix


class InstallError(AgilabError):
    """A worker package or worker environment could not be made."""

    exit_code = 3


class DataError(InstallError):
    """A data set is missing, incomplete or altered."""


class UnreachableIndexError(InstallError):
    """No index of distributions could be reached."""


class WorkerError(AgilabError):
    """Something went wrong where worker code runs.

    Parameters
    ----------
    message
        One line.
    traceback
        The remote traceback, as text; empty when there is none.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class ProtocolError(WorkerError):
    """Manager and worker do not speak the same version of the protocol."""


class ServiceError(AgilabError):
    """A service does not run, does not start, or does not take a request."""


class TrackingError(AgilabError):
    """A tracking server or store cannot be used."""


class RunNotFoundError(AgilabError, LookupError):
    """No run has that id."""

    exit_code = 2


class RunStateError(AgilabError):
    """A run is not in the state that an operation needs."""


class RunFailedError(AgilabError):
    """A run ended without success."""


class RunCancelledError(RunFailedError):
    """A run was cancelled."""

    exit_code = 130


class ViewError(AgilabError):
    """A view of an app's own cannot be imported, or failed."""


class ArtifactNotFoundError(AgilabError, FileNotFoundError):
    """A run has no artifact of that name."""


class EvidenceError(AgilabError):
    """A record does not match what it records."""


class NoSpaceError(AgilabError, OSError):
    """A disk is full."""

    exit_code = 4


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the first line of an error's text, whatever its ``__str__`` does.

    Parameters
    ----------
    error
        Any exception, also one whose ``__str__`` raises or returns megabytes.
    limit
        Longest text returned [characters].

    Returns
    -------
    str
        ``TypeName: text``.
    """
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as broken:  # a worker's class may raise anything, SystemExit included
        return f"{name}: (its text cannot be read: __str__ raised {type(broken).__name__})"
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    if len(line) > limit:
        line = f"{line[:limit]}... ({len(text)} characters)"
    return f"{name}: {line}" if line else name
