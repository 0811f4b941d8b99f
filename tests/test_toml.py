"""Settings files: read with line numbers, replaced table by table, never damaged."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agilab.layers import resolve, settings_layer, write_toml
from agilab.toml import read_toml
from tests.every_setting import Everything, message


@pytest.mark.parametrize(
    "text",
    [
        'schema = "agilab.settings/1"\nsettings.text = "a"\n[cluster]\nworkers = 1\n',
        'settings = {text = "a"}\nschema = "agilab.settings/1"\n[cluster]\nworkers = 1\n',
        'schema = "agilab.settings/1"\r\n[settings]\r\ntext = "a" # x\r\n# y\r\n\r\n# z\r\n'
        "[cluster]\r\nworkers = 1\r\n",
        "schema = \"agilab.settings/1\"\n[cluster]\nworkers = 1\n[\"settings\"]\n\"te\\u0078t\" = ''''a''''\n",
        'schema = "agilab.settings/1"\n[settings]\noptions = {a = [1, # ]\n 2]}\n'
        "[ cluster ]\nworkers = 1\n[settings . model]\n",
        'schema = "agilab.settings/1"\n[cluster]\nworkers = 1',
    ],
)
def test_a_table_is_replaced_however_it_was_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(text.encode())
    write_toml(path, Everything.fields(), {"text": "new"})
    assert read_toml(path).tables == {"settings": {"text": "new"}, "cluster": {"workers": 1}}


def test_a_file_that_cannot_be_rewritten_safely_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    text = 'schema = "agilab.settings/1"\n[settings]\ntext = "a"\n'
    for bad, words in [
        ('[settings]\ntext = "a"\n', "may belong to another program"),
        (f"{text}\n[settings\n", "is not valid TOML"),
        (text.replace("settings/1", "settings/7"), "has schema 'agilab.settings/7'"),
    ]:
        path.write_text(bad)
        assert words in message(write_toml, path, Everything.fields(), {"text": "b"})
        assert path.read_text() == bad
    path.write_text(text)
    assert "setting 'integer'" in message(write_toml, path, Everything.fields(), {"integer": "b"})
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[settings]\na = \n", ":2:5 is not valid TOML: Invalid value"),
        (b"[settings]\na = [1,", ":2:8 is not valid TOML"),
        (b"[settings]\na = '\xff'\n", ":2:6 is not UTF-8 text"),
        (b"[settings]\na = 1\na = 2\n", ":3:6 is not valid TOML: Cannot overwrite a value"),
        (b"\n[setings]\na = 1\n", "unknown table or key 'setings'; did you mean [settings]? ("),
        (b"sample = 1\n", "unknown table or key 'sample'; tables are [settings], [cluster], [views] ("),
        (b"settings = 1\n", "'settings' is not a table; write it as [settings] ("),
        (b"#" * 1_000_001, "is larger than 1000000 bytes"),
        (b"[settings]\na = " + b"[" * 100_000, "is not valid TOML"),
        (b"[settings]\na = " + b"9" * 10_000, "is not valid TOML"),
    ],
)
def test_a_bad_file_gives_one_line_with_file_line_and_column(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    said = message(read_toml, path)
    assert words in said
    assert str(path) in said


def test_hostile_files_are_read_in_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    begin = time.process_time()
    for text in ["a = " + "[" * 40 + "]" * 40, ".".join(["a"] * 5000) + " = 1", "a" * 900_000 + " = 1", 'a = {"" = 1}']:
        path.write_text(f"[settings]\n{text}\n")
        message(resolve, Everything.fields(), [settings_layer("app file", path)])
    assert time.process_time() - begin < 2
