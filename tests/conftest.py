"""What every test may use: a home of its own, waiting without sleeping, and a watch over what tests leave behind."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.checkout import ROOT

REAL_HOME = Path.home()
POLL_S = 0.02
WIND_DOWN_S = 10.0
"""How long processes of a run may take to end after the last test [s]."""

WaitFor = Callable[[Callable[[], object], float], object]


def pytest_xdist_auto_num_workers() -> int:
    """Run two tests more than there are cores at a time: tests wait for processes as long as they compute."""
    return (os.cpu_count() or 1) + 2


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the checkout."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Move HOME to a temporary folder, so that no test can touch the user's runs; drop the user's AGILAB variables.

    The caches and configuration of uv and pip stay where they are.
    """
    for name in [name for name in os.environ if name.startswith("AGILAB_")]:
        del os.environ[name]
    caches = Path(os.environ.setdefault("XDG_CACHE_HOME", str(REAL_HOME / ".cache")))
    os.environ.setdefault("XDG_CONFIG_HOME", str(REAL_HOME / ".config"))
    os.environ.setdefault("UV_CACHE_DIR", str(caches / "uv"))
    os.environ.setdefault("PIP_CACHE_DIR", str(caches / "pip"))
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):  # what tests start behaves as it does for a user
        os.environ.pop(name, None)
    os.environ["HOME"] = str(tmp_path_factory.mktemp("user"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a HOME, an AGILAB_HOME and an AGILAB_WENV of its own; return AGILAB_HOME."""
    user = tmp_path / "home"
    user.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.setenv("AGILAB_HOME", str(user / ".agilab"))
    monkeypatch.setenv("AGILAB_WENV", str(user / "wenv"))
    return user / ".agilab"


@pytest.fixture(scope="session")
def wait_for() -> WaitFor:
    """Return ``wait_for(condition, deadline_s)``: the first true value of a condition, or a failed test."""

    def wait(condition: Callable[[], object], deadline_s: float = 10.0) -> object:
        end = time.monotonic() + deadline_s
        while not (value := condition()):
            if time.monotonic() > end:
                pytest.fail(f"{condition} was still {value!r} after {deadline_s} s")
            time.sleep(POLL_S)
        return value

    return wait


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for this whole test run, the same in every xdist worker."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def shared_wenv(shared_folder: Path) -> Path:
    """Return an AGILAB_WENV that holds the worker environment of flight_telemetry, built once per test run.

    Use it with a home of your own where the 60 MB of that environment matter
    and the test is not about how it is made.
    """
    from agilab import AGI, AgiEnv

    wenv = shared_folder / "shared_wenv"
    with open(shared_folder / "shared_wenv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        AGI.install(AgiEnv("flight_telemetry", home=shared_folder / "shared_home", wenv=wenv))
    return wenv


@pytest.fixture(scope="session", autouse=True)
def nothing_left(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail when the tests of this process leave a process behind."""
    yield
    base = tmp_path_factory.getbasetemp()
    end = time.monotonic() + WIND_DOWN_S
    while (left := processes_of(base)) and time.monotonic() < end:
        time.sleep(POLL_S)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"tests left processes behind: {left}"


def processes_of(base: Path) -> dict[int, str]:
    """Return the processes, pid to command line, that tests started: their HOME or command lies under `base`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            variables = (process / "environ").read_bytes()
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if os.fsencode(base) + b"/" in command + variables:
            found[int(process.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which Python versions were tested, and whether hosts were namespaces: tests record it."""
    said: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            said.setdefault(name, []).append(str(value))
    for name, title in (("python", "Python versions tested"), ("namespaces", "hosts as network namespaces")):
        if name in said:
            terminalreporter.write_line(f"{title}: {', '.join(sorted(said[name]))}")
