"""Data sets are fetched once without running anything of them, and are what they are named as."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agilab import data
from agilab.data import DataSpec
from agilab.errors import DataError
from agilab.paths import HomePaths

MEMBERS = {
    "PKG-INFO": "Metadata-Version: 1.0\nName: demo-data\nVersion: 1.0\n",
    "setup.py": "from pathlib import Path\nPath({mark!r}).write_text('ran')\n",
    "demo_data/__init__.py": "raise ImportError\n",
    "demo_data/tables/flights.csv": "id,carrier\n1,UA\n",
    "demo_data/tables/more/planes.csv": "id\n7\n",
    "other/file.txt": "other",
}

FETCHER = """
import sys
from pathlib import Path
from agilab.data import DataSpec, fetch
from agilab.paths import HomePaths

spec = DataSpec("demo-data", "1.0", sys.argv[2], "demo_data/tables")
print(fetch(spec, home=HomePaths(Path(sys.argv[1])), report=print))
"""


def silent(_: str) -> None:
    pass


@pytest.fixture
def paths(tmp_path: Path) -> HomePaths:
    return HomePaths(tmp_path / "agilab")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Exists when ``setup.py`` has run."""
    return tmp_path / "setup-has-run"


@pytest.fixture
def sdist(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source distribution in the only place that uv looks at."""
    (tmp_path / "links").mkdir()
    file = tmp_path / "links" / "demo_data-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for name, text in MEMBERS.items():
            content = text.format(mark=str(mark)).encode()
            add(tar, f"demo_data-1.0/{name}", content)
        add(tar, "demo_data-1.0/demo_data/tables/../../../../escaped.txt", b"out")
        link = tarfile.TarInfo("demo_data-1.0/demo_data/tables/passwd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(file.parent))
    return file


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def spec_of(file: Path, folder: str = "demo_data/tables") -> DataSpec:
    return DataSpec("demo-data", "1.0", sha256(file), folder)


@pytest.fixture
def fetched(sdist: Path, paths: HomePaths) -> Path:
    return data.fetch(spec_of(sdist), home=paths, report=silent)


def test_only_the_data_files_are_kept_and_nothing_is_run(
    sdist: Path, paths: HomePaths, mark: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    root = data.fetch(spec_of(sdist), home=paths, report=said.append)
    assert root == paths.data / sha256(sdist)
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == [
        "agilab-data.json",
        "flights.csv",
        "more/planes.csv",
    ]
    assert (root / "flights.csv").read_text() == "id,carrier\n1,UA\n"
    assert stat.S_IMODE((root / "flights.csv").stat().st_mode) == 0o444
    assert stat.S_IMODE(root.stat().st_mode) == stat.S_IMODE(paths.root.stat().st_mode) == 0o700
    assert not mark.exists()
    assert not list(tmp_path.rglob("escaped.txt"))
    assert said == ["Downloading demo-data 1.0"]
    assert data.verify(root) == ()


def test_a_data_set_that_is_there_is_returned_at_once(
    sdist: Path, fetched: Path, paths: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(sdist)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    monkeypatch.setattr(data.digest, "of_file", lambda _: pytest.fail("a file was hashed"))
    said: list[str] = []
    assert data.fetch(spec, home=paths, report=said.append) == fetched
    assert said == []


def test_a_file_that_was_only_touched_is_hashed_once(sdist: Path, fetched: Path, paths: HomePaths) -> None:
    os.utime(fetched / "flights.csv", (1, 1))
    stamp = (fetched / "agilab-data.json").read_bytes()
    data.fetch(spec_of(sdist), home=paths, report=silent)
    assert (fetched / "agilab-data.json").read_bytes() != stamp
    assert data.verify(fetched) == ()


def test_an_altered_row_is_found_by_both_checks(sdist: Path, fetched: Path, paths: HomePaths) -> None:
    file = fetched / "flights.csv"
    before = sha256(file)
    file.chmod(0o600)
    file.write_text("id,carrier\n1,AA\n")
    said = f"flights.csv was altered, sha256 {sha256(file)} instead of {before}"
    assert data.verify(fetched) == (said,)
    with pytest.raises(DataError) as caught:
        data.fetch(spec_of(sdist), home=paths, report=silent)
    assert str(caught.value) == (
        f"data set demo-data 1.0 in {fetched}: {said}; delete {fetched} and run agilab install again"
    )


def test_missing_and_foreign_files_are_named(sdist: Path, fetched: Path, paths: HomePaths) -> None:
    (fetched / "more" / "planes.csv").unlink()
    (fetched / "notes.txt").write_text("")
    assert data.verify(fetched) == ("more/planes.csv is missing", "notes.txt: not part of the data set")
    with pytest.raises(DataError, match=r"more/planes\.csv is missing; delete .* and run agilab install again"):
        data.fetch(spec_of(sdist), home=paths, report=silent)


def test_a_folder_without_stamp_is_fetched_again(sdist: Path, fetched: Path, paths: HomePaths) -> None:
    (fetched / "agilab-data.json").unlink()
    (fetched / "flights.csv").unlink()
    (problem,) = data.verify(fetched)
    assert "holds no whole data set" in problem
    data.fetch(spec_of(sdist), home=paths, report=silent)
    assert data.verify(fetched) == ()


def test_two_processes_fetch_once(sdist: Path, paths: HomePaths) -> None:
    command = [sys.executable, "-c", FETCHER, str(paths.root), sha256(sdist)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(said).count("Downloading") == 1
    assert data.verify(paths.data / sha256(sdist)) == ()


def test_a_digest_the_index_does_not_have_is_an_error_with_what_it_has(sdist: Path, paths: HomePaths) -> None:
    spec = DataSpec("demo-data", "1.0", "0" * 64)
    with pytest.raises(DataError, match=rf"no file of demo-data 1\.0 .*sha256 0{{64}}; it offers {sha256(sdist)}"):
        data.fetch(spec, home=paths, report=silent)
    assert not (paths.data / ("0" * 64)).exists()
    assert not list(paths.data.glob(".*"))


def test_an_unknown_distribution_is_named(sdist: Path, paths: HomePaths) -> None:
    with pytest.raises(DataError, match=r"cannot find the data set no-such-data 1\.0: .*the full log is"):
        data.fetch(DataSpec("no-such-data", "1.0", "0" * 64), home=paths, report=silent)


def test_a_folder_that_is_not_inside_is_named(sdist: Path, paths: HomePaths) -> None:
    with pytest.raises(DataError, match=r"demo-data 1\.0 has no files in the folder 'nowhere'"):
        data.fetch(spec_of(sdist, "nowhere"), home=paths, report=silent)


def test_one_data_set_has_one_root(sdist: Path, fetched: Path, paths: HomePaths) -> None:
    with pytest.raises(DataError, match=r"made from the folder 'demo_data/tables' .* and this app names 'other'"):
        data.fetch(spec_of(sdist, "other"), home=paths, report=silent)


def test_a_wheel_is_unpacked_too(sdist: Path, paths: HomePaths) -> None:
    wheel = sdist.parent / "demo_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("demo_data/tables/flights.csv", "from the wheel")
        archive.writestr("demo_data-1.0.dist-info/METADATA", MEMBERS["PKG-INFO"])
        archive.writestr(
            "demo_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("demo_data-1.0.dist-info/RECORD", "")
    root = data.fetch(spec_of(wheel), home=paths, report=silent)
    assert (root / "flights.csv").read_text() == "from the wheel"


@pytest.mark.parametrize(
    "wrong",
    [
        {"distribution": 'x"\nother = 1'},
        {"distribution": "--index-url=https://example.org"},
        {"version": "1 --find-links=/"},
        {"sha256": "../../somewhere"},
        {"root": "../outside"},
        {"root": "/etc"},
        {"root": "a/.."},
    ],
)
def test_words_that_could_lead_elsewhere_are_refused(wrong: dict[str, str]) -> None:
    said = {"distribution": "demo-data", "version": "1.0", "sha256": "0" * 64, "root": "."}
    assert DataSpec.from_json(said).folder == "."
    with pytest.raises(DataError, match=r"\[tool\.agilab\.data\] has"):
        DataSpec.from_json({**said, **wrong})


class Index(SimpleHTTPRequestHandler):
    """A package index, with a page per distribution; what is in `broken` ends in the middle."""

    broken = False

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source: io.BufferedIOBase, outputfile: io.BufferedIOBase) -> None:  # type: ignore[override]
        content = source.read()
        outputfile.write(content[: len(content) // 2] if self.broken and self.path.endswith(".gz") else content)


@pytest.fixture
def index(sdist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    page = tmp_path / "links" / "simple" / "demo-data" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="/{sdist.name}#sha256={sha256(sdist)}">{sdist.name}</a>')
    monkeypatch.setattr(Index, "broken", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(sdist.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        for name in ("UV_OFFLINE", "UV_FIND_LINKS"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.server_port}/simple")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("index")
def test_a_data_set_comes_from_the_index_that_uv_is_set_to(sdist: Path, paths: HomePaths, mark: Path) -> None:
    root = data.fetch(spec_of(sdist), home=paths, report=silent)
    assert data.verify(root) == ()
    assert not mark.exists()


@pytest.mark.usefixtures("index")
def test_a_download_that_breaks_off_leaves_nothing(
    sdist: Path, paths: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "broken", True)
    with pytest.raises(DataError, match=r"cannot download demo-data 1\.0 from http://127|has sha256 .* instead of"):
        data.fetch(spec_of(sdist), home=paths, report=silent)
    assert [path.name for path in paths.data.iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures("sdist")
def test_without_a_network_it_fails_in_one_line(paths: HomePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_OFFLINE", "UV_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(DataError, match=r"cannot find the data set demo-data 1\.0: .*check the network") as caught:
        data.fetch(DataSpec("demo-data", "1.0", "0" * 64), home=paths, report=silent)
    assert "\n" not in str(caught.value)
