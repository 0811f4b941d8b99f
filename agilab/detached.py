"""A supervisor in a process of its own, which outlives the one that starts it; what it does, `agilab.supervisor` knows.

`start` is called by whoever asks for the run; `main` is what the new process
runs. The owner's lock goes from one to the other by inheritance, so that the
run is never without an owner in between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from agilab.errors import AgilabError, RunStateError
from agilab.owner import hold_owner
from agilab.paths import HomePaths, RunPaths, WenvPaths, make_folder
from agilab.project import find
from agilab.supervisor import Execution, recorded_request, supervise, taking_up

_LOG = "supervisor.log"
_BEGUN = "begun"


def start(home: HomePaths, wenv: WenvPaths, paths: RunPaths, *, project: Path | None, takes_up: bool = False) -> None:
    """Start a supervisor for a run, and return once it has begun.

    Parameters
    ----------
    home, wenv
        The user's folders.
    paths
        The run folder.
    project
        The app project; None when the run has recorded what it needs of it.
    takes_up
        Whether the run goes on where an earlier supervisor left it.

    Raises
    ------
    RunStateError
        It did not begin; the message says where its log is.
    """
    # A run that is taken up may still be sealed: nothing may be added to its own logs before that.
    log = make_folder(home.logs) / f"{paths.run_id}.log" if takes_up else make_folder(paths.logs) / _LOG
    with open(log, "ab") as file, hold_owner(paths) as owner:
        order = {
            "home": str(home.root),
            "wenv": str(wenv.root),
            "project": project and str(project),
            "takes_up": takes_up,
            "run": str(paths.root),
            "owner_fd": owner.fileno(),
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "agilab.detached"],  # -P: no module of the current folder is meant
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
            pass_fds=[owner.fileno()],
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout:
            with suppress(BrokenPipeError), process.stdin:  # it has ended already: its log says why
                process.stdin.write(json.dumps(order).encode())
            said = process.stdout.readline().decode(errors="replace").strip()
    process.wait()  # the supervisor is a child of this process, which has gone: nobody has to wait for it
    if said != _BEGUN:
        why = f": {said}" if said else ""
        raise RunStateError(f"run {paths.run_id} did not start{why}; see {log}")


def main() -> int:
    """Supervise one run: one JSON object on standard input says what, one line on standard output that it has begun."""
    if os.fork():
        os._exit(0)
    order = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    home, wenv = HomePaths(Path(order["home"])), WenvPaths(Path(order["wenv"]))
    paths = RunPaths(Path(order["run"]))

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] in ("created", "resumed"):
            _print_to(os.open(make_folder(paths.logs) / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            _say(out, _BEGUN)

    try:
        if order["takes_up"]:
            run = taking_up(home, wenv, paths, find_project=lambda: find(Path(order["project"])))
        else:
            run = Execution(home, wenv, find(Path(order["project"])), recorded_request(paths), paths)
        run.on_event, run.owner_fd = hear, order["owner_fd"]
        # What is printed after the seal would break it.
        run.before_seal = lambda: _print_to(os.open(os.devnull, os.O_WRONLY))
        supervise(run)
    except AgilabError as err:
        _say(out, " ".join(str(err).split()))
        raise
    signalled = run.switch.signal
    return 128 + signalled if signalled else {"succeeded": 0, "cancelled": 130}.get(run.outcome, 1)


def _say(out: TextIO, line: str) -> None:
    """Answer whoever started this process, once."""
    if not out.closed:
        with suppress(OSError):  # it may have gone already; the run goes on
            out.write(f"{line}\n")
            out.close()


def _print_to(fd: int) -> None:
    """Send standard output and standard error to a file, and close its descriptor."""
    for number in (1, 2):
        os.dup2(fd, number)
    os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
