"""A command on a host ends with its run: by its own end, ours, a lost link, or the death of whoever watches it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agilab.backends.ssh.hosts import Hosts, Process
from agilab.backends.ssh.link import Command
from agilab.backends.ssh.onhost import ELSEWHERE
from agilab.errors import HomeError, HostError, InstallError
from agilab.paths import make_folder
from tests.checkout import ROOT
from tests.hosts import SshServer, descendants

WaitFor = Callable[[Callable[[], object], float], object]

# A shell that ignores every polite word, with a child that has left its session and one that has closed its output.
STUBBORN = (
    "trap '' TERM HUP INT; setsid sleep 600 & (exec >/dev/null 2>&1; trap '' TERM; sleep 600) & echo up; "
    "while true; do sleep 1; done"
)


def command(*argv: str, **more: str) -> Command:
    """Return a command of run ``run``."""
    return Command(argv, "run", input=more.pop("input", ""), environment=more, grace_s=0.2)


def sleepers(server: SshServer) -> list[int]:
    """List the processes of a host that ``STUBBORN`` has started, by the home in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={server.home}\0".encode() in (path / "environ").read_bytes():
                line = (path / "cmdline").read_bytes()
                if b"sleep" in line or b"echo up" in line:
                    found.append(int(path.name))
        except OSError:
            continue
    return found


def stubborn(hosts: Hosts, server: SshServer, wait_for: WaitFor) -> Process:
    """Start a command that does not want to end."""
    lines: list[str] = []
    process = hosts.start(server.name, command("sh", "-c", STUBBORN), lambda stream, line: lines.append(line))
    wait_for(lambda: lines == ["up"] and len(sleepers(server)) >= 3, 10)
    return process


def test_output_and_exit_code_come_back(hosts: Hosts, loop_host: SshServer) -> None:
    done = hosts.run("loop", command("sh", "-c", "cat; echo $NOTE; echo bad >&2; exit 3", input="a\nb\n", NOTE="x y"))
    assert (done.code, done.stdout, done.stderr) == (3, "a\nb\nx y\n", "bad\n")


def test_arguments_reach_the_command_as_they_are(hosts: Hosts, loop_host: SshServer) -> None:
    odd = ["a b", "$(id)", "`id`", "'", '"', "\\", "*", "ä;", "", "\n"]
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    done = hosts.run("loop", command("/usr/bin/env", "python3", "-c", code, *odd))
    assert __import__("json").loads(done.stdout) == odd


def test_a_signal_that_ends_it_is_told_as_a_shell_does(hosts: Hosts, loop_host: SshServer) -> None:
    assert hosts.run("loop", command("sh", "-c", "kill -SEGV $$")).code == 128 + signal.SIGSEGV


def test_a_command_that_is_not_there_says_so(hosts: Hosts, loop_host: SshServer) -> None:
    done = hosts.run("loop", command("/no/such/program"))
    assert (done.code, done.stderr) == (127, "/no/such/program does not start: No such file or directory\n")


def test_a_secret_is_in_no_command_line(hosts: Hosts, loop_host: SshServer) -> None:
    code = (
        "import glob; print(sum(b'hush' + b'hush' in open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/cmdline')))"
    )
    done = hosts.run("loop", command("python3", "-c", code, input="hushhush", TOKEN="hushhush"))
    assert done.stdout == "0\n"


def test_a_signal_reaches_it(hosts: Hosts, loop_host: SshServer, wait_for: WaitFor) -> None:
    lines: list[str] = []
    script = "trap 'echo told; exit 7' INT; echo up; while true; do sleep 0.05; done"
    process = hosts.start("loop", command("sh", "-c", script), lambda stream, line: lines.append(line))
    wait_for(lambda: lines, 10)
    process.tell("SIGINT")
    assert process.wait(10) == 7
    assert lines == ["up", "told"]


def test_the_end_takes_everything_along(hosts: Hosts, loop_host: SshServer, wait_for: WaitFor) -> None:
    process = stubborn(hosts, loop_host, wait_for)
    assert process.end() == 128 + signal.SIGKILL
    assert sleepers(loop_host) == []


def test_a_command_that_takes_too_long_is_ended(hosts: Hosts, loop_host: SshServer) -> None:
    with pytest.raises(TimeoutError):
        hosts.run("loop", command("sh", "-c", STUBBORN), timeout_s=0.5)
    assert sleepers(loop_host) == []


def test_what_a_command_leaves_behind_ends_with_it(hosts: Hosts, loop_host: SshServer) -> None:
    done = hosts.run("loop", command("sh", "-c", "setsid sleep 600 & sleep 600 & exit 0"))
    assert done.code == 0
    assert sleepers(loop_host) == []


def test_closing_the_hosts_ends_it(hosts: Hosts, loop_host: SshServer, wait_for: WaitFor) -> None:
    stubborn(hosts, loop_host, wait_for)
    hosts.close()
    wait_for(lambda: not sleepers(loop_host), 10)


def test_a_lost_link_is_a_failed_attempt_and_ends_it(hosts: Hosts, loop_host: SshServer, wait_for: WaitFor) -> None:
    process = stubborn(hosts, loop_host, wait_for)
    loop_host.drop_sessions()
    with pytest.raises(HostError, match="the attempt has failed") as caught:
        process.wait(20)
    assert caught.value.step == "link"
    wait_for(lambda: not sleepers(loop_host), 10)


def test_the_death_of_what_watches_it_there_ends_it(hosts: Hosts, loop_host: SshServer, wait_for: WaitFor) -> None:
    process = stubborn(hosts, loop_host, wait_for)
    (watch,) = {int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in leaders(loop_host)}
    os.kill(watch, signal.SIGKILL)
    with pytest.raises(HostError):
        process.wait(20)
    wait_for(lambda: not sleepers(loop_host), 10)


def leaders(server: SshServer) -> list[int]:
    """List the stubborn shells themselves."""
    shells = [pid for pid in sleepers(server) if b"echo up" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [pid for pid in shells if os.getsid(pid) == pid]


def test_the_death_of_the_manager_ends_it(loop_host: SshServer, home: Path, wait_for: WaitFor) -> None:
    code = (
        "import sys; from pathlib import Path; from agilab.paths import WenvPaths\n"
        "from agilab.backends.ssh.hosts import Hosts; from agilab.backends.ssh.link import Command\n"
        "hosts = Hosts(WenvPaths(Path(sys.argv[1])))\n"
        "hosts.start('loop', Command(('sh', '-c', sys.argv[2]), 'run', grace_s=0.2), lambda *line: None).wait()\n"
    )
    manager = subprocess.Popen([sys.executable, "-c", code, home.parent / "wenv", STUBBORN], cwd=ROOT)
    wait_for(lambda: len(sleepers(loop_host)) >= 3, 20)
    manager.kill()
    manager.wait()
    wait_for(lambda: not sleepers(loop_host), 10)
    assert descendants(manager.pid) == []


def test_what_start_up_files_print_disturbs_nothing(hosts: Hosts, loop_host: SshServer) -> None:
    (loop_host.home / ".bashrc").write_text("echo welcome\n")
    assert hosts.run("loop", command("echo", "x")).stdout == "x\n"


def test_a_program_that_was_changed_on_the_host_is_replaced(hosts: Hosts, loop_host: SshServer) -> None:
    hosts.run("loop", command("true"))
    (there,) = loop_host.home.glob(".cache/agilab/host/*/agilab/backends/ssh/onhost.py")
    text = there.read_text()
    there.write_text("raise SystemExit('swapped')")
    assert hosts.run("loop", command("echo", "x")).stdout == "x\n"
    assert there.read_text() == text


def test_a_folder_of_another_program_is_left_alone(hosts: Hosts, loop_host: SshServer) -> None:
    (loop_host.home / "wenv").mkdir()
    (loop_host.home / "wenv" / "mine").touch()
    with pytest.raises(HomeError, match=r"host loop: .* holds files that are not AGILAB's"):
        hosts.run("loop", command("true"))
    assert hosts.clean("loop").removed_bytes > 0  # our program, and nothing else
    assert [path.name for path in (loop_host.home / "wenv").iterdir()] == ["mine"]


def test_cleaning_is_refused_while_a_command_runs(hosts: Hosts, loop_host: SshServer, wait_for: WaitFor) -> None:
    process = stubborn(hosts, loop_host, wait_for)
    with pytest.raises(InstallError, match=r"host loop: .* is in use: a run uses it"):
        hosts.clean("loop")
    process.end()
    hosts.clean("loop")
    assert [path for path in loop_host.home.rglob("*") if path.is_file()] == []


def test_results_stay_unless_told(hosts: Hosts, loop_host: SshServer) -> None:
    hosts.run("loop", command("true"))
    result = loop_host.home / "wenv" / ".runs" / "20261126-191454-4f2d" / "out.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    assert hosts.clean("loop").kept == ("20261126-191454-4f2d",)
    assert result.exists()
    done = hosts.clean("loop", results=True)
    assert (done.results, done.kept) == (("20261126-191454-4f2d",), ())
    assert not (loop_host.home / "wenv").exists()


def test_cleaning_knows_the_folders_in_which_runs_have_worked_on_a_share(
    hosts: Hosts, loop_host: SshServer, tmp_path: Path
) -> None:
    hosts.run("loop", command("true"))
    share, foreign = tmp_path / ".agilab-run-1-loop", tmp_path / "foreign"
    for name, folder in (("run-1", share), ("run-2", tmp_path / ".agilab-run-2-loop"), ("run-3", foreign)):
        run = make_folder(loop_host.home / "wenv" / ".runs" / name)
        (run / ELSEWHERE).write_text(str(folder))
    for folder in (share, foreign):
        make_folder(folder / "artifacts").joinpath("value").write_text("1")
    assert hosts.clean("loop").kept == ("run-1", "run-3"), "what was on the share of run 2 has gone already"
    assert share.is_dir()
    assert hosts.clean("loop", results=True).results == ("run-1", "run-3")
    assert (share.exists(), foreign.exists()) == (False, True)
