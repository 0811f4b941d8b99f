"""Hosts as network namespaces are part of the tests wherever the kernel permits them; else it is said why not."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import hosts

HERE = Path(__file__).parent


def test_links_are_tested_unless_namespaces_are_not_permitted(record_property: Callable[[str, object], None]) -> None:
    reason = hosts.why_no_namespaces()
    record_property("namespaces", reason or "used")
    if not reason:
        assert os.getuid() == 0
        return
    # The only reasons there are; `.ci/run` installs iproute2 where it may.
    assert reason.startswith(("not root", "ip is missing", "the kernel refuses: "))


@pytest.mark.parametrize("folder", [HERE, HERE.parents[1] / "chaos"], ids=lambda folder: folder.name)
def test_files_that_need_namespaces_are_collected_where_they_are(folder: Path) -> None:
    conftest = runpy.run_path(str(folder / "conftest.py"))
    imports = re.compile(r"(?m)^from tests.hosts import .*\b(namespace_hosts|warm_hosts)\b")
    named = sorted(path.name for path in folder.glob("test_*.py") if imports.search(path.read_text()))
    assert conftest["collect_ignore"] == (named if hosts.why_no_namespaces() else [])
    assert named == conftest["NEED_NAMESPACES"]


def test_what_a_killed_test_run_left_is_removed() -> None:
    if hosts.why_no_namespaces():
        return  # nothing could have been made
    gone = subprocess.Popen(["true"])
    gone.wait()
    name = f"agilab-{gone.pid}-0"
    subprocess.run(["ip", "netns", "add", name], check=True)
    command = ["ip", "netns", "exec", name, "sh", "-c", "echo inside; exec sleep 600"]
    left = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert left.stdout is not None
    with left.stdout:
        assert left.stdout.readline() == b"inside\n"
    Path(f"/etc/netns/{name}").mkdir(parents=True)
    Path(f"/tmp/{name}").mkdir()
    hosts.sweep()
    assert left.wait(10) == -9
    assert not any(Path(folder, name).exists() for folder in ("/run/netns", "/etc/netns", "/tmp"))
