"""When a supervisor goes, however it goes, nothing that its run has started stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab.reaper import Watcher
from agilab.testing import is_alive

WaitFor = Callable[..., object]

SUPERVISOR = """
import json, os, subprocess, sys, time

from agilab.reaper import Watcher, start_time
watcher = Watcher.open("20260101-000000-0000")
name, _, value = watcher.marker.partition("=")
command = [sys.executable, "-c", WORKER]
child = subprocess.Popen(command, env={name: value}, stdout=subprocess.PIPE, start_new_session=True)
pids = json.loads(child.stdout.readline())
watcher.watch(child.pid, start_time(child.pid))
if sys.argv[1] == "fork":  # a child that goes on must not keep the pipe to the reaper open
    forked = os.fork()
    if not forked:
        time.sleep(60)
        os._exit(0)
    pids.append(forked)
print(json.dumps([watcher._process.pid, *pids]), flush=True)
if sys.argv[1] == "leave":
    with watcher: pass
    sys.exit()
sys.stdin.read()
"""
WORKER = """
import json, os, signal, subprocess, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
code = "import signal as s; s.signal(s.SIGTERM, s.SIG_IGN); print(flush=True); s.alarm(60); s.pause()"
pids = [os.getpid()]
for new_session in (False, True):
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=new_session)
    child.stdout.readline()
    pids.append(child.pid)
print(json.dumps(pids), flush=True)
signal.alarm(60)
signal.pause()
"""


def supervisor(how: str) -> subprocess.Popen[bytes]:
    script = SUPERVISOR.replace("WORKER]", f"{WORKER!r}]")
    return subprocess.Popen([sys.executable, "-c", script, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killed_supervisor_leaves_no_process_not_even_one_in_its_own_session(
    number: signal.Signals, wait_for: WaitFor
) -> None:
    with supervisor("wait") as process:
        assert process.stdout is not None
        reaper, *pids = json.loads(process.stdout.readline())
        assert len(pids) == 3
        assert all(map(is_alive, [reaper, *pids]))
        process.send_signal(number)
        process.wait()
        begun = time.monotonic()
        wait_for(lambda: not any(map(is_alive, [reaper, *pids])), 10.0)
        assert time.monotonic() - begun < 10


def test_a_child_of_the_supervisor_does_not_keep_its_end_from_being_noticed(wait_for: WaitFor) -> None:
    with supervisor("fork") as process:
        assert process.stdout is not None
        *pids, forked = json.loads(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            wait_for(lambda: not any(map(is_alive, pids)), 10.0)
            assert is_alive(forked)
        finally:
            os.kill(forked, signal.SIGKILL)


def test_at_the_end_of_a_run_the_rest_of_it_is_ended(wait_for: WaitFor) -> None:
    with supervisor("leave") as process:
        assert process.stdout is not None
        reaper, *pids = json.loads(process.stdout.readline())
        assert process.wait(20) == 0
        assert not any(map(is_alive, [reaper, *pids]))


def test_processes_of_others_are_left_alone(tmp_path: Path) -> None:
    other = {**os.environ, "AGILAB_RUN": "20260101-000000-0000-another"}
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=other, **pipes, start_new_session=True) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        with Watcher.open("20260101-000000-0000") as watcher:
            watcher.watch(process.pid, 1)  # a pid that was used again: its start time is another
        assert is_alive(process.pid)


def test_a_reaper_that_somebody_killed_does_not_stop_the_run() -> None:
    with Watcher.open("20260101-000000-0000") as watcher:
        os.kill(watcher._process.pid, signal.SIGKILL)
        watcher._process.wait()
        watcher.watch(1 << 22, 1)


def test_the_reaper_imports_nothing_that_is_installed() -> None:
    command = [sys.executable, "-I", "-S", "-X", "importtime", Watcher.open.__func__.__code__.co_filename, "NAME=none"]  # type: ignore[attr-defined]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0
    assert "agilab" not in done.stderr.replace("agilab/reaper", "")
    assert "subprocess" not in done.stderr
