"""What code imports against what is declared: only what resembles nothing, and is nowhere, is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from agilab import syntax
from agilab.dependencies import undeclared


def missing(
    folder: Path, source: str, *declared: str, name: str = "some_worker", environment: Path | None = None
) -> list[str]:
    path = folder / "source.py"
    path.write_text(source)
    module = syntax.parse(path, name)
    found = undeclared([module], declared, own=("some_worker", "agilab"), environment=environment)
    return [item.distribution for item in found]


@pytest.mark.parametrize(
    ("source", "declared"),
    [
        ("import numpy.linalg", "numpy>=2"),
        ("import sklearn", "scikit-learn"),
        ("import PIL.Image", "Pillow-SIMD"),
        ("import yaml", "PyYAML"),
        ("import cv2", "opencv-contrib-python-headless"),
        ("import dateutil", "python-dateutil"),
        ("import attr", "attrs"),
        ("import google.protobuf", "protobuf"),
        ("from google.cloud import storage", "google-cloud-storage"),
        ("import ruamel.yaml", "ruamel.yaml"),
        ("import tensorflow", "tensorflow-cpu"),
        ("import psycopg2", "psycopg2-binary"),
        ("import mylib", "mylib @ file:///srv/mylib"),
        ("import iniconfig", "pytest"),
    ],
)
def test_what_a_dependency_provides_is_fine(tmp_path: Path, source: str, declared: str) -> None:
    assert missing(tmp_path, source, declared) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import polars", ["polars"]),
        ("import sklearn.svm", ["scikit-learn"]),
        ("def stage():\n    import torch", ["torch"]),
        ("from importlib import import_module\nimport_module('torch')", ["torch"]),
        ("try:\n    import torch\nexcept ValueError:\n    pass", ["torch"]),
        ("try:\n    x = 1\nfinally:\n    import torch", ["torch"]),
        ("with open('x'):\n    import torch", ["torch"]),
        ("import yaml", ["pyyaml"]),
    ],
)
def test_what_nothing_provides_is_reported(tmp_path: Path, source: str, expected: list[str]) -> None:
    assert missing(tmp_path, source, "numpy") == expected


@pytest.mark.parametrize(
    "source",
    [
        "import os, json, xml.etree, tomllib",
        "import agilab\nfrom some_worker.deep import x\nfrom . import y",
        "try:\n    import torch\nexcept ImportError:\n    import numpy",
        "try:\n    import torch\nexcept (ValueError, ModuleNotFoundError):\n    torch = None",
        "from contextlib import suppress\nwith suppress(ImportError):\n    import torch",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "import typing as t\nif t.TYPE_CHECKING:\n    import torch",
    ],
)
def test_what_is_there_or_may_be_missing_needs_no_dependency(tmp_path: Path, source: str) -> None:
    assert missing(tmp_path, source) == []


@pytest.mark.parametrize("name", ["some_worker.tests.deep", "some_worker.test_it", "some_worker.conftest"])
def test_tests_do_not_count(tmp_path: Path, name: str) -> None:
    assert missing(tmp_path, "import torch", name=name) == []


def test_what_the_worker_environment_holds_is_provided(tmp_path: Path) -> None:
    site = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    (site / "odd").mkdir(parents=True)
    (site / "single.py").touch()
    (site / "_fast.cpython-311-x86_64-linux-gnu.so").touch()
    source = "import odd.inside, single, _fast, absent"
    assert missing(tmp_path, source, "thing", environment=tmp_path / "env") == ["absent"]
    assert missing(tmp_path, source, "thing") == ["odd", "single", "_fast", "absent"]
