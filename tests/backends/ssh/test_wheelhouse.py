"""For each distribution the best wheel that a host's Python takes and the lock knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from agilab.backends.ssh.wheelhouse import choose
from agilab.errors import InstallError
from agilab.package_index import IndexFile
from agilab.uv import Interpreter

HOST = Interpreter(Path("/usr/bin/python3"), "cpython", "3.11.2", "cpython-311", "linux-x86_64")
GLIBC = "glibc 2.28"


def file(name: str, marker: str = "") -> IndexFile:
    """Return a file of an index; its digest is made of its name."""
    distribution, version = name.split("-")[:2]
    return IndexFile(distribution, version.removesuffix(".tar.gz"), marker, f"https://index/{name}", sha256(name), 1)


def sha256(name: str) -> str:
    """Return a digest for a name."""
    return name.encode().hex()[:64].ljust(64, "0")


def chosen(*files: IndexFile, libc: str = GLIBC, lock: str = "", host: Interpreter = HOST) -> list[str]:
    """Return the names that are chosen when the lock knows every file."""
    known = lock or "".join(f" --hash=sha256:{item.sha256}" for item in files)
    return [item.name for item in choose(files, known, host, libc)]


def test_the_most_specific_wheel_is_taken() -> None:
    best = "a-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    others = ["a-1.0-py3-none-any.whl", "a-1.0-cp39-abi3-manylinux2014_x86_64.whl", "a-1.0.tar.gz"]
    assert chosen(*map(file, (*others, best))) == [best]


@pytest.mark.parametrize(
    "name",
    [
        "a-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
        "a-1.0-cp311-cp311-manylinux_2_34_x86_64.whl",
        "a-1.0-cp311-cp311-manylinux_2_17_aarch64.whl",
        "a-1.0-cp311-cp311-musllinux_1_2_x86_64.whl",
        "a-1.0-cp311-cp311-win_amd64.whl",
        "a-1.0.tar.gz",
    ],
)
def test_what_does_not_run_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(InstallError, match=r"no wheel of a 1\.0 with a digest of the lock runs on Python 3\.11\.2"):
        chosen(file(name))


@pytest.mark.parametrize("tag", ["manylinux_2_17", "manylinux2014", "manylinux2010", "manylinux1", "linux"])
def test_older_platforms_run_there_too(tag: str) -> None:
    assert chosen(file(f"a-1.0-cp311-cp311-{tag}_x86_64.whl"))


def test_a_host_without_glibc_takes_pure_wheels_only() -> None:
    pure = "a-1.0-py3-none-any.whl"
    assert chosen(file("a-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"), file(pure), libc="") == [pure]


def test_a_wheel_that_the_lock_does_not_know_is_not_taken() -> None:
    with pytest.raises(InstallError, match="with a digest of the lock"):
        chosen(file("a-1.0-py3-none-any.whl"), lock="a==1.0 --hash=sha256:" + "0" * 64)


def test_what_another_platform_needs_is_left_out() -> None:
    files = (file("a-1.0-py3-none-any.whl"), file("b-2.0-cp311-cp311-win_amd64.whl", "sys_platform == 'win32'"))
    assert chosen(*files) == ["a-1.0-py3-none-any.whl"]
    older = file("c-1.0-py3-none-any.whl", "python_version < '3.12'")
    assert chosen(older) == ["c-1.0-py3-none-any.whl"]
