"""A host gets what a worker needs, each part once, checked there before use; with an index or without."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import platform
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agilab import digest, package
from agilab.backends.ssh.connection import Connections
from agilab.backends.ssh.deploy import Deployment, Offer
from agilab.backends.ssh.hosts import Hosts
from agilab.backends.ssh.link import Command, Link
from agilab.environment import STAMP_NAME
from agilab.errors import InstallError
from agilab.package import Installed, WorkerSource
from agilab.paths import WenvPaths
from agilab.uv import Interpreter, find_uv
from tests.hosts import SshServer, introduce, loopback_host

WORKER = '''"""A worker that needs a distribution."""

import tinydep

ANSWER = tinydep.ANSWER
'''


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Return a folder with the one wheel that the worker needs."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    files = {
        "tinydep.py": b"ANSWER = 42\n",
        "tinydep-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinydep\nVersion: 1.0\n",
        "tinydep-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, data in files.items():
        coded = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={coded},{len(data)}\n")
    files["tinydep-1.0.dist-info/RECORD"] = "".join([*rows, "tinydep-1.0.dist-info/RECORD,,\n"]).encode()
    with zipfile.ZipFile(folder / "tinydep-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return folder


@pytest.fixture
def index(wheels: Path) -> Path:
    """Return a configuration of uv that knows the folder of wheels and no index."""
    path = wheels / "uv.toml"
    path.write_text(f'no-index = true\nfind-links = ["{wheels}"]\n')
    return path


@pytest.fixture
def installed(home: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Return a worker package that is installed here, from the folder of wheels alone."""
    monkeypatch.setenv("UV_CONFIG_FILE", str(index))
    folder = home.parent / "demo_worker"
    folder.mkdir()
    folder.joinpath("__init__.py").write_text(WORKER)
    folder.joinpath("tool.sh").write_text("#!/bin/sh\n")
    folder.joinpath("tool.sh").chmod(0o755)
    folder.joinpath("link.txt").symlink_to("tool.sh")
    folder.joinpath("pyproject.toml").write_text(
        '[project]\nname = "demo-worker"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["tinydep==1.0"]\n'
    )
    source = WorkerSource("demo", folder, writable=True)
    return package.install(source, wenv=WenvPaths(home.parent / "wenv"), report=lambda line: None)


@pytest.fixture
def path_with_uv(tmp_path: Path) -> str:
    """Return a PATH on which uv is found, so that it need not be sent."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "uv").symlink_to(find_uv())
    return f"/usr/local/bin:/usr/bin:/bin:{folder}"


@pytest.fixture
def offline(home: Path, path_with_uv: str) -> Iterator[SshServer]:
    """Return a host that has uv, and reaches no index."""
    with loopback_host("offline", UV_OFFLINE="1", PATH=path_with_uv) as server:
        introduce(server)
        yield server


def answer(hosts: Hosts, host: str, there: Installed) -> str:
    """Return what a worker on a host says when it is imported."""
    paths = [str(there.code), str(there.runtime)]
    code = f"import sys; sys.path[:0] = {paths!r}; import agilab.worker, demo_worker; print(demo_worker.ANSWER)"
    done = hosts.run(host, Command((str(there.python), "-I", "-c", code), "run"))
    return done.stdout.strip() or done.stderr


def sent(told: list[str]) -> list[str]:
    """Return what was sent, by its name, and forget it."""
    found = sorted(line.split()[2].split("/")[0] for line in told if " sending " in line)
    told.clear()
    return found


def test_a_host_without_an_index_gets_wheels(
    hosts: Hosts, offline: SshServer, installed: Installed, told: list[str]
) -> None:
    there = hosts.deploy_worker(["offline"], installed, ">=3.11")["offline"]
    assert sent(told) == [".runtime", "demo_worker", "tinydep-1.0-py3-none-any.whl"]
    assert answer(hosts, "offline", there) == "42"
    assert there.code.is_relative_to(offline.home)
    assert there.code.name == installed.code.name
    assert there.runtime.name == installed.runtime.name
    assert package.verify_code(there.code) == ()
    assert package.runtime_digest_at(there.runtime) == installed.runtime_digest
    assert hosts.deploy_worker(["offline"], installed, ">=3.11")["offline"] == there
    assert told == []


@pytest.fixture
def remembering(wheels: Path, tmp_path: Path, home: Path, path_with_uv: str) -> Iterator[SshServer]:
    """Return a host that reaches no index any more: uv remembers its page, which names a wheel that suits better."""
    cache, simple = tmp_path / "cache", tmp_path / "simple" / "tinydep"
    (wheel,) = wheels.iterdir()
    simple.mkdir(parents=True)
    name = wheel.name.replace("-py3-", f"-py3{sys.version_info.minor}-")
    with zipfile.ZipFile(wheel) as archive:
        (simple / f"{name}.metadata").write_bytes(archive.read("tinydep-1.0.dist-info/METADATA"))
    href = f"{name}#sha256={digest.of_file(wheel)}"
    (simple / "index.html").write_text(f'<a href="{href}" data-dist-info-metadata="true">{name}</a>')
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/simple"
        index = ("--no-config", "--cache-dir", str(cache), "--default-index", url)
        asked = subprocess.run([find_uv(), "pip", "compile", *index, "-"], input=b"tinydep==1.0", capture_output=True)
        assert asked.returncode == 0, asked.stderr
        server.shutdown()
        thread.join()
    variables = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(cache), "UV_DEFAULT_INDEX": url, "PATH": path_with_uv}
    with loopback_host("remembering", **variables) as server:
        introduce(server)
        yield server


def test_wheels_that_were_sent_are_all_that_uv_takes_whatever_pages_it_remembers(
    hosts: Hosts, remembering: SshServer, installed: Installed, told: list[str]
) -> None:
    there = hosts.deploy_worker([remembering.name], installed)[remembering.name]
    assert "tinydep-1.0-py3-none-any.whl" in sent(told)
    assert answer(hosts, remembering.name, there) == "42"


def test_an_environment_that_is_half_installed_on_the_host_is_made_again(
    hosts: Hosts, offline: SshServer, installed: Installed
) -> None:
    """F25: the host was switched off while uv worked there."""
    there = hosts.deploy_worker(["offline"], installed)["offline"]
    (there.environment / STAMP_NAME).unlink()
    next(there.environment.glob("lib/*/site-packages/tinydep.py")).unlink()
    assert answer(hosts, "offline", there) != "42"
    assert hosts.deploy_worker(["offline"], installed)["offline"] == there
    assert answer(hosts, "offline", there) == "42"


class Silent(SimpleHTTPRequestHandler):
    """An index of distributions that says nothing of who asks."""

    def log_message(self, *_: object) -> None:
        pass


def test_what_was_changed_on_the_host_is_replaced_before_use(
    hosts: Hosts, offline: SshServer, installed: Installed, told: list[str]
) -> None:
    there = hosts.deploy_worker(["offline"], installed)["offline"]
    sent(told)
    swapped = there.code / "demo_worker" / "__init__.py"
    swapped.chmod(0o600)
    swapped.write_text("ANSWER = 'forged'\n")
    (there.runtime / "agilab" / "more.py").write_text("")
    shutil.rmtree(next(there.environment.glob("lib/*/site-packages/tinydep*.dist-info")))
    cache = next(path for path in (offline.home / "wenv/.data").iterdir() if len(path.name) == 64)
    cache.chmod(0o600)
    cache.write_bytes(b"swapped wheel")
    assert hosts.deploy_worker(["offline"], installed)["offline"] == there
    assert sent(told) == [".runtime", "demo_worker", "tinydep-1.0-py3-none-any.whl"]
    assert answer(hosts, "offline", there) == "42"


def test_two_managers_that_deploy_at_once_send_each_part_once(
    hosts: Hosts, offline: SshServer, installed: Installed, told: list[str], home: Path
) -> None:
    found: list[Installed] = []
    with Hosts(WenvPaths(home.parent / "wenv"), told.append) as other:
        both = [
            threading.Thread(target=lambda one=one: found.append(one.deploy_worker(["offline"], installed)["offline"]))
            for one in (hosts, other)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert found[0] == found[1]
    assert sent(told) == [".runtime", "demo_worker", "tinydep-1.0-py3-none-any.whl"]


def test_a_host_with_an_index_builds_by_itself(
    hosts: Hosts, home: Path, installed: Installed, index: Path, told: list[str]
) -> None:
    with loopback_host("online", UV_CONFIG_FILE=str(index)) as server:  # without uv: ours is sent
        introduce(server)
        there = hosts.deploy_worker(["online"], installed)["online"]
        assert sent(told) == [".runtime", "demo_worker", "uv"]
        assert answer(hosts, "online", there) == "42"
        assert "tinydep" not in " ".join(path.name for path in (server.home / "wenv/.data").iterdir())


def test_several_hosts_are_served_at_once_and_each_failure_has_a_name(
    hosts: Hosts, offline: SshServer, installed: Installed
) -> None:
    with pytest.raises(InstallError, match=r"host offline: the worker of demo needs Python >=3\.99; found 3\."):
        hosts.deploy_worker(["offline"], installed, ">=3.99")


def test_code_built_for_another_platform_is_refused(hosts: Hosts, offline: SshServer, installed: Installed) -> None:
    built = installed.code.with_name(f"{installed.code.name}-cpython-399-linux-riscv")
    shutil.copytree(installed.code, built, symlinks=True)
    about = next(built.glob("*.dist-info/WHEEL"))
    about.chmod(0o600)
    about.write_text("Wheel-Version: 1.0\nTag: cp399-cp399-linux_riscv\n")
    with pytest.raises(InstallError, match="of cpython-399-linux-riscv, for which it was built; found 3"):
        hosts.deploy_worker(["offline"], replace(installed, code=built))


def test_a_host_without_our_python_is_refused_and_both_versions_are_named(home: Path) -> None:
    """F26: everything else that runs there is of our version, since we send it."""
    other = Interpreter(Path("/usr/bin/python3"), "cpython", "3.99.1", "cpython-399", "linux-x86_64")
    host = Deployment(Link("there", Connections()), WenvPaths(home.parent / "wenv"), print)
    ours = ".".join(platform.python_version_tuple()[:2])
    with pytest.raises(InstallError, match=rf"host there: the backplane needs Python =={ours}\.\*; found 3\.99\.1 on"):
        asyncio.run(host.backplane("", offer=Offer("/wenv", "", "glibc 2.36", (other,))))


def test_the_backplane_has_this_agilab_and_this_dask(hosts: Hosts, home: Path, path_with_uv: str) -> None:
    import os
    from importlib.metadata import version

    cache = os.environ["UV_CACHE_DIR"]  # ours, so that nothing is downloaded twice
    certificates = {name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ}
    with loopback_host("plane", UV_CACHE_DIR=cache, PATH=path_with_uv, **certificates) as server:
        introduce(server)
        there = hosts.deploy_backplane(["plane"])["plane"]
        code = "import agilab, distributed; print(agilab.__file__, distributed.__version__)"
        done = hosts.run("plane", Command((there.python, "-c", code), "run", environment={"PYTHONPATH": there.code}))
    assert done.stdout.split() == [f"{there.code}/agilab/__init__.py", version("distributed")]
    assert there.code.startswith(str(server.home))
