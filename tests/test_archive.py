"""A project goes out as a zip file and comes back the same; a zip file that is hostile or odd is refused whole."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agilab import AgiEnv, archive, copies, digest, trust
from agilab.errors import NoSpaceError, ProjectError, TrustError
from agilab.paths import HomePaths
from agilab.project import find_all, read
from agilab.template import create
from tests import canary

SONG = Path("/nonexistent/song")
GOOD = canary.files(SONG)
TOP = f"{canary.NAME}_project/"


@pytest.fixture
def folders(home: Path) -> HomePaths:
    """Return the folders of the test's home."""
    env = AgiEnv()
    env.prepare()
    return env.home


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return everything in a folder with mode and bytes."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def refused(data: bytes, tmp_path: Path, folders: HomePaths, *, name: str = "") -> str:
    """Import a zip file that must be refused; return why, once nothing of it is left."""
    file, there = tmp_path / "x.zip", tmp_path / "there"
    file.write_bytes(data)
    there.mkdir()
    (there / "mine.txt").write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ProjectError) as caught:
        archive.import_zip(file, there, home=folders, name=name)
    assert listing(tmp_path) == before
    assert trust.imports(folders) == ()
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 700
    assert caught.value.exit_code == 2
    return said


def written(*entries: tuple[str, str | bytes, int], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return the good zip file with entries of any name, content and mode added."""
    out = BytesIO(canary.zipped(GOOD))
    with zipfile.ZipFile(out, "a", compression) as file:
        for name, data, mode in entries:
            canary.add(file, name, data, mode=mode)
    return out.getvalue()


FILE = stat.S_IFREG | 0o644

# --- out -------------------------------------------------------------------------


def test_the_same_project_gives_the_same_bytes_whatever_its_times_and_caches(tmp_path: Path) -> None:
    made = create("small", tmp_path)
    first = archive.export_zip(made, tmp_path / "one.zip")
    (made.manager / "__pycache__").mkdir()
    (made.manager / "__pycache__" / "x.pyc").write_bytes(b"x")
    (made.root / ".git").mkdir()
    (made.root / ".git" / "config").write_text("[core]\n")
    os.utime(made.root / "README.md", (0, 0))
    (made.root / "README.md").chmod(0o600)
    second = archive.export_zip(made, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert (first.sha256, first.digest) == (second.sha256, second.digest)
    assert first.sha256 == digest.of_file(tmp_path / "one.zip")
    assert first.digest == digest.of_tree(made.root)
    assert first.files == tuple(digest.tree_files(made.root))
    with zipfile.ZipFile(tmp_path / "one.zip") as file:
        assert [item.filename for item in file.infolist()] == [f"small_project/{name}" for name in first.files]
        assert {item.date_time for item in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_nothing_of_the_workspace_and_no_secret_goes_out(tmp_path: Path, folders: HomePaths) -> None:
    made = create("small", tmp_path)
    AgiEnv(made.root).save_settings({"count": 777_777})
    for name in (".env", "src/small/.netrc"):
        (made.root / name).write_text("token=1")
    found = archive.export_zip(made, tmp_path / "x.zip")
    assert found.left_out == (".env", "src/small/.netrc")
    with zipfile.ZipFile(tmp_path / "x.zip") as file:
        assert not any(b"777" in file.read(item) or b"token" in file.read(item) for item in file.infolist())


def test_an_executable_file_stays_one(tmp_path: Path, folders: HomePaths) -> None:
    made = create("small", tmp_path)
    (made.root / "tool.sh").write_text("true\n")
    (made.root / "tool.sh").chmod(0o755)
    exported = archive.export_zip(made, tmp_path / "x.zip")
    copies.delete(made, home=folders)
    found = archive.import_zip(tmp_path / "x.zip", tmp_path, home=folders)
    assert found.origin.digest == exported.digest == trust.digest_of(found.project.root)
    assert (found.project.uuid, found.origin.origin_sha256) == (made.uuid, exported.sha256)
    modes = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in found.project.root.rglob("*")}
    assert {mode for path, mode in modes.items() if (tmp_path / path).is_dir()} == {0o700}
    assert [path.name for path, mode in modes.items() if (tmp_path / path).is_file() and mode != 0o600] == ["tool.sh"]


def test_the_shipped_app_goes_out_and_comes_back(tmp_path: Path, folders: HomePaths) -> None:
    project = AgiEnv("flight_telemetry").project
    archive.export_zip(project, tmp_path / "x.zip")
    made = archive.import_zip(tmp_path / "x.zip", tmp_path, home=folders, name="trips").project
    assert (made.name, made.app_class) == ("trips", "trips:Trips")
    assert made.uuid != project.uuid
    assert {path.stat().st_mode & 0o77 for path in made.root.rglob("*")} == {0}


@pytest.mark.parametrize("what", ["link", "colon", "inside", "there", "no folder"])
def test_what_could_not_come_back_does_not_go_out(tmp_path: Path, what: str) -> None:
    made, file = create("small", tmp_path), tmp_path / "x.zip"
    if what == "link":
        (made.root / "more.md").symlink_to("README.md")
    elif what == "colon":
        (made.root / "a:b").touch()
    elif what == "inside":
        file = made.root / "x.zip"
    elif what == "there":
        file.write_text("mine")
    else:
        file = tmp_path / "none" / "x.zip"
    before = listing(tmp_path)
    with pytest.raises(ProjectError):
        archive.export_zip(made, file)
    assert listing(tmp_path) == before


def test_a_full_disk_leaves_no_half_of_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create("small", tmp_path)
    before = listing(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.shutil, "copyfileobj", full)
    with pytest.raises(NoSpaceError):
        archive.export_zip(made, tmp_path / "x.zip")
    assert listing(tmp_path) == before


# --- in: hostile names and kinds ------------------------------------------------------

NAMES = {
    "up": "../evil",
    "up inside": TOP + "src/../../../evil",
    "absolute": "/tmp/evil",
    "drive": "C:/evil",
    "drive inside": TOP + "c:evil",
    "backslash": TOP + "..\\evil",
    "dot": TOP + "./evil",
    "two slashes": TOP + "a//b",
    "line end": TOP + "a\nb",
    "escape": TOP + "a\x1b[31m",
    "right to left": TOP + "a\u202egpj.py",
    "long": TOP + "a" * 256,
    "long in bytes": TOP + "é" * 128,
    "long path": TOP + "a/" * 600 + "b",
    "marker": TOP + trust.MARKER,
    "marker in capitals": TOP + trust.MARKER.upper(),
    "marker deeper": TOP + f"src/canary/{trust.MARKER}",
    "marker in wide letters": TOP + "".join(chr(ord(char) + 0xFEE0) for char in trust.MARKER),
    "only a slash": "/",
}


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize("end", ["", "/"])
def test_a_name_with_tricks_is_refused(tmp_path: Path, folders: HomePaths, what: str, end: str) -> None:
    mode = stat.S_IFDIR | 0o755 if end else FILE
    said = refused(written((NAMES[what] + end, b"" if end else b"x", mode)), tmp_path, folders)
    assert "is refused, and nothing of it was kept" in said


def test_a_name_that_ends_early_in_c_is_refused(tmp_path: Path, folders: HomePaths) -> None:
    data = written((TOP + "evil@.txt", b"x", FILE)).replace(b"evil@.txt", b"evil\0.txt")
    assert "control character" in refused(data, tmp_path, folders)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_links_and_special_files_are_refused(tmp_path: Path, folders: HomePaths, kind: int) -> None:
    said = refused(written((TOP + "evil", b"/etc/passwd", kind | 0o777)), tmp_path, folders)
    assert "is a link or a special file" in said


def test_a_folder_that_holds_data_is_refused(tmp_path: Path, folders: HomePaths) -> None:
    refused(written((TOP + "evil/", b"data", stat.S_IFDIR | 0o755)), tmp_path, folders)


TWICE = {
    "case": (TOP + "readme.MD", b"x"),
    "composed": (TOP + unicodedata.normalize("NFC", "caf\u00e9.txt"), b"x"),
    "a file where a folder is": (TOP + "src", b"x"),
    "a folder where a file is": (TOP + "README.md/x", b"x"),
    "a folder in other letters": (TOP + "SRC/x.py", b"x"),
    "sharp s": (TOP + "STRASSE.txt", b"x"),
}


@pytest.mark.parametrize("what", TWICE)
def test_what_is_there_twice_is_refused(tmp_path: Path, folders: HomePaths, what: str) -> None:
    known = [(TOP + unicodedata.normalize("NFD", "caf\u00e9.txt"), b"y", FILE), (TOP + "straße.txt", b"y", FILE)]
    name, data = TWICE[what]
    assert "there twice" in refused(written(*known, (name, data, FILE)), tmp_path, folders)


def test_one_name_twice_is_refused(tmp_path: Path, folders: HomePaths) -> None:
    data = written((TOP + "READNE.md", b"other", FILE)).replace(b"READNE.md", b"README.md")
    assert "there twice" in refused(data, tmp_path, folders)


# --- in: what a zip file says about itself ---------------------------------------------


def changed(data: bytes, name: str, *, local: int | None, central: int | None, value: bytes) -> bytes:
    """Return a zip file with bytes put into an entry's own header, and into its record in the directory."""
    out = bytearray(data)
    coded = name.encode()
    for mark, offset, head in ((b"PK\3\4", local, 30), (b"PK\1\2", central, 46)):
        if offset is None:
            continue
        at = data.find(coded)
        while data[at - head : at - head + 4] != mark:
            at = data.find(coded, at + 1)
        out[at - head + offset : at - head + offset + len(value)] = value
    return bytes(out)


README = TOP + "README.md"
ODD: dict[str, Callable[[bytes], bytes]] = {
    "encrypted": lambda data: changed(data, README, local=6, central=8, value=b"\1\0"),
    "strongly encrypted": lambda data: changed(data, README, local=6, central=8, value=b"\x41\0"),
    "flags differ": lambda data: changed(data, README, local=6, central=None, value=b"\1\0"),
    "method differs": lambda data: changed(data, README, local=8, central=None, value=b"\0\0"),
    "method is stored": lambda data: changed(data, README, local=8, central=10, value=b"\0\0"),
    "method unknown": lambda data: changed(data, README, local=8, central=10, value=b"\x63\0"),
    "size differs": lambda data: changed(data, README, local=22, central=None, value=b"\1\0\0\0"),
    "size is a lie": lambda data: changed(data, README, local=22, central=24, value=b"\1\0\0\0"),
    "size is huge": lambda data: changed(data, README, local=22, central=24, value=b"\xf0\xff\xff\xff"),
    "packed size is a lie": lambda data: changed(data, README, local=18, central=20, value=b"\1\0\0\0"),
    "checksum is a lie": lambda data: changed(data, README, local=14, central=16, value=b"\1\2\3\4"),
    "name differs": lambda data: data.replace(b"README.md", b"OTHER..md", 1),
    "entries overlap": lambda data: changed(data, README, local=None, central=42, value=b"\0\0\0\0"),
    "offset outside": lambda data: changed(data, README, local=None, central=42, value=b"\xf0\xff\xff\x7f"),
    "a program before": lambda data: b"#!/bin/sh\n" + data,
    "something behind": lambda data: data + b"more",
    "a second one behind": lambda data: data + canary.zipped({"a": "b"}),
    "a second one before": lambda data: canary.zipped({"a": "b"}) + data,
    "a gap": lambda data: with_gap(data),
    "an entry the directory hides": lambda data: with_gap(data, canary.zipped({"hidden": "x"})[:60]),
    "on two disks": lambda data: data[:-18] + b"\1\0" + data[-16:],
    "too few entries": lambda data: data[:-14] + b"\1\0\1\0" + data[-10:],
    "the large form": lambda data: data[:-22] + b"PK\6\7" + bytes(16) + data[-22:],
    "no zip": lambda data: b"no zip file",
    "empty": lambda data: b"",
    "an empty zip": lambda data: b"PK\5\6" + bytes(18),
    "an executable": lambda data: Path("/bin/true").read_bytes(),
}


def with_gap(data: bytes, filling: bytes = b"gap!") -> bytes:
    """Return a zip file with bytes between the last entry and the directory, which knows where it is."""
    length, start = struct.unpack("<2L", data[-10:-2])
    assert start + length == len(data) - 22
    end = data[-22:-10] + struct.pack("<2LH", length, start + len(filling), 0)
    return data[:start] + filling + data[start:-22] + end


@pytest.mark.parametrize("what", ODD)
def test_a_zip_file_that_is_not_what_it_says_is_refused(tmp_path: Path, folders: HomePaths, what: str) -> None:
    data = canary.zipped(GOOD)
    assert ODD[what](data) != data
    assert "is refused" in refused(ODD[what](data), tmp_path, folders)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path: Path, folders: HomePaths, method: int) -> None:
    assert "unusual" in refused(written((TOP + "x", b"x" * 99, FILE), compression=method), tmp_path, folders)


def test_a_stream_that_names_sizes_behind_its_data_is_read(tmp_path: Path, folders: HomePaths) -> None:
    class Pipe(BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *arguments: int) -> int:
            raise OSError("a pipe")

        tell = seek  # type: ignore[assignment]

    out, file = Pipe(), tmp_path / "x.zip"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, text in GOOD.items():
            zipped.writestr(TOP + name, text)
    file.write_bytes(out.getvalue())
    assert archive.import_zip(file, tmp_path, home=folders).project.name == canary.NAME


# --- in: too much ------------------------------------------------------------------------


def test_a_bomb_is_refused_while_it_is_read(
    tmp_path: Path, folders: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SMALL_BYTES", 1 << 20)
    data = written((TOP + "zeros", bytes(4 << 20), FILE))
    assert len(data) < 16 << 10
    assert "too much for its size" in refused(data, tmp_path, folders)


def test_a_bomb_that_lies_about_its_size_is_refused(
    tmp_path: Path, folders: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SMALL_BYTES", 1 << 20)
    data = written((TOP + "zeros", bytes(4 << 20), FILE))
    data = changed(data, TOP + "zeros", local=22, central=24, value=struct.pack("<L", 100))
    refused(data, tmp_path, folders)


def test_many_small_bombs_count_together(tmp_path: Path, folders: HomePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SMALL_BYTES", 1 << 20)
    data = written(*((TOP + f"zeros{number}", bytes(600 << 10), FILE) for number in range(4)))
    assert "too much for its size" in refused(data, tmp_path, folders)


def test_too_many_entries_and_too_large_a_file_are_refused(
    tmp_path: Path, folders: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_FILES", 10)
    assert "more than 10 entries" in refused(canary.zipped(GOOD), tmp_path, folders)
    monkeypatch.setattr(archive, "LARGEST_BYTES", 1000)
    (tmp_path / "there" / "mine.txt").unlink()
    (tmp_path / "there").rmdir()
    assert "more than 1000" in refused(canary.zipped(GOOD), tmp_path, folders)


def test_what_goes_out_is_held_to_the_same_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create("small", tmp_path)
    (made.root / "zeros").write_bytes(bytes(4 << 20))
    monkeypatch.setattr(archive, "SMALL_BYTES", 1 << 20)
    with pytest.raises(ProjectError, match="too much for a zip file"):
        archive.export_zip(made, tmp_path / "x.zip")
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(ProjectError, match="7 files; a zip file takes 3"):
        archive.export_zip(made, tmp_path / "x.zip")
    assert [path.name for path in tmp_path.iterdir()] == [made.root.name]


# --- in: not one project -------------------------------------------------------------------

MISSING = object()


def without(name: str) -> dict[str, str]:
    """Return the good project without a file."""
    return {path: text for path, text in GOOD.items() if path != name}


WRONG: dict[str, tuple[bytes, str]] = {
    "no pyproject": (canary.zipped(without("pyproject.toml")), "does not hold one app project"),
    "no worker": (canary.zipped(without("src/canary_worker/__init__.py")), "packages src/*_worker in it: none"),
    "no manager": (canary.zipped(without("src/canary/__init__.py")), "no manager package canary"),
    "no TOML": (canary.zipped({**GOOD, "pyproject.toml": "["}), "pyproject.toml:1: not valid TOML"),
    "deep TOML": (canary.zipped({**GOOD, "pyproject.toml": "x = " + "[" * 100_000}), "not valid TOML"),
    "no uuid": (canary.zipped({**GOOD, "pyproject.toml": "[project]\n"}), "no uuid in [tool.agilab]"),
    "two workers": (canary.zipped({**GOOD, "src/x_worker/__init__.py": ""}), "canary, x"),
    "two projects": (
        canary.zipped({"a_project/pyproject.toml": "", "b_project/pyproject.toml": ""}, top=""),
        "does not hold one app project",
    ),
    "a name of Python": (
        canary.zipped({name.replace("canary", "json"): text for name, text in GOOD.items()}),
        "does not make an app's name",
    ),
    "no Python": (canary.zipped({**GOOD, "src/canary/__init__.py": "class ("}), "cannot read it"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_one_whole_project_is_refused(tmp_path: Path, folders: HomePaths, what: str) -> None:
    data, said = WRONG[what]
    assert said in refused(data, tmp_path, folders)


def test_the_folder_in_the_zip_file_may_have_any_name_or_be_missing(tmp_path: Path, folders: HomePaths) -> None:
    for number, top in enumerate(("", "canary-main/", "x/")):
        file, there = tmp_path / f"{number}.zip", tmp_path / str(number)
        file.write_bytes(canary.zipped(GOOD, top=top))
        there.mkdir()
        assert archive.import_zip(file, there, home=folders).project.root == there / "canary_project"


def test_what_does_not_count_is_left_out(tmp_path: Path, folders: HomePaths) -> None:
    names = (".git/config", "src/canary/__pycache__/canary.cpython-311.pyc", "src/canary/x.pyc", ".HG/hooks/x", "a~")
    file = tmp_path / "x.zip"
    file.write_bytes(written(*((TOP + name, b"x", FILE) for name in names)))
    found = archive.import_zip(file, tmp_path, home=folders)
    assert found.left_out == len(names)
    assert trust.files(found.project.root) == sorted(GOOD)


def test_a_name_or_uuid_that_is_there_is_refused_with_both(
    tmp_path: Path, folders: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(canary.zipped(GOOD))
    first = archive.import_zip(file, tmp_path, home=folders).project
    monkeypatch.setenv("AGILAB_APPS", str(tmp_path))
    (tmp_path / "there").mkdir()
    with pytest.raises(ProjectError, match="has the name of") as caught:
        archive.import_zip(file, tmp_path / "there", home=folders)
    assert all(word in str(caught.value) for word in (str(file), str(first.root), canary.UUID, "--name NAME"))
    copies.rename(first, "singer", home=folders)
    with pytest.raises(ProjectError, match="has the uuid of 'singer'"):
        archive.import_zip(file, tmp_path / "there", home=folders)
    other = archive.import_zip(file, tmp_path / "there", home=folders, name="third").project
    assert (other.name, other.app_class) == ("third", "third:Third")
    assert other.uuid != canary.UUID
    assert trust.untrusted(other.root, folders)
    with pytest.raises(ProjectError, match="already exists"):
        archive.import_zip(file, tmp_path / "there", home=folders, name="third")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["third_project"]


def test_a_damaged_record_keeps_anything_from_coming_in(tmp_path: Path, folders: HomePaths) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(canary.zipped(GOOD))
    folders.trust.write_text("{")
    with pytest.raises(TrustError, match="cannot be read"):
        archive.import_zip(file, tmp_path, home=folders)
    assert not (tmp_path / "canary_project").exists()


@pytest.mark.parametrize("what", ["missing", "folder", "no target", "name"])
def test_wrong_use_is_one_line(tmp_path: Path, folders: HomePaths, what: str) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(canary.zipped(GOOD))
    with pytest.raises(ProjectError):
        archive.import_zip(
            {"missing": tmp_path / "no.zip", "folder": tmp_path}.get(what, file),
            tmp_path / "none" if what == "no target" else tmp_path,
            home=folders,
            name="No Name" if what == "name" else "",
        )
    assert not (tmp_path / "canary_project").exists()


# --- in: anything --------------------------------------------------------------------------


def attempt(data: bytes, folders: HomePaths) -> None:
    """Import bytes: they are refused and leave nothing, or they are a project whose files are plain and inside."""
    with tempfile.TemporaryDirectory(dir=folders.root) as name:
        file, there = Path(name, "x.zip"), Path(name, "there")
        file.write_bytes(data)
        there.mkdir()
        try:
            project = archive.import_zip(file, there, home=folders).project
        except ProjectError as err:
            said = str(err)
        else:
            said = ""
        if said:
            assert said.isprintable()
            assert list(there.iterdir()) == []
            return
        assert [path.name for path in there.iterdir()] == [project.root.name]
        for path in project.root.rglob("*"):
            assert stat.S_ISREG(path.lstat().st_mode) or stat.S_ISDIR(path.lstat().st_mode)
        assert trust.untrusted(project.root, folders)
        assert {item.root for item in find_all(cwd=there, environ={})} >= {project.root}
        trust.forget(project.root, folders)


SMALL = {name: text for name, text in GOOD.items() if name == "pyproject.toml" or name.startswith("src")}
DATA = canary.zipped(SMALL)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_zip_file_with_any_bytes_changed_is_refused_or_read_whole(
    fuzz_home: HomePaths, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(DATA)
    for place, value in changes:
        data[place] = value
    attempt(bytes(data), fuzz_home)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 60), st.binary(max_size=60))
def test_a_zip_file_cut_or_filled_anywhere_is_refused_or_read_whole(
    fuzz_home: HomePaths, place: int, cut: int, filling: bytes
) -> None:
    attempt(DATA[:place], fuzz_home)
    attempt(DATA[:place] + filling + DATA[place + cut :], fuzz_home)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_headers_changed_alike_are_refused_or_read_whole(fuzz_home: HomePaths, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SMALL)))
    local = data.draw(st.sampled_from([4, 6, 8, 10, 14, 18, 22, 26, 28]))
    value = data.draw(st.binary(min_size=1, max_size=4))
    attempt(changed(DATA, TOP + name, local=local, central=local + 2, value=value), fuzz_home)


@pytest.fixture(scope="module")
def fuzz_home(tmp_path_factory: pytest.TempPathFactory) -> HomePaths:
    """Return one home for every example."""
    env = AgiEnv(home=tmp_path_factory.mktemp("fuzz"))
    env.prepare()
    return env.home


def test_what_was_imported_reads_as_it_was_written(tmp_path: Path, folders: HomePaths) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(canary.zipped(GOOD))
    root = archive.import_zip(file, tmp_path, home=folders).project.root
    assert {name: (root / name).read_text() for name in GOOD} == GOOD
    assert read(root).breaches == ()
