"""What must not stand in the repository, and how its pages and change fragments are kept."""

from __future__ import annotations

import re

import pytest

from tests.checkout import ROOT, files

FORBIDDEN = {
    "a registry's host": r"pypi\.org|pythonhosted\.org|anaconda\.(org|com)|npmjs\.(org|com)",
    "a path of one machine": r"(?<![\w.~/-])/(work|root|home/\w+)/|/tmp/[v]env",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an access token": r"\b(gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})\b",
    "who wrote it, and when": r"\b(as\san\sAI|language\smodel|(this|last|next|my)\ssession|AI\sassistant)\b",
}
"""What -> the pattern that finds it. The patterns do not match themselves."""

BINARY = (".png", ".parquet", ".npz", ".whl", ".gz", ".zip")


def found_in(text: str, pattern: str) -> list[str]:
    """List the lines of a text that hold a pattern."""
    lines = enumerate(text.splitlines(), 1)
    return [f"{number}: {line.strip()[:100]}" for number, line in lines if re.search(pattern, line, re.IGNORECASE)]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_in_the_repository_names(what: str) -> None:
    texts = [name for name in files() if not name.endswith(BINARY)]
    found = [f"{name}:{line}" for name in texts for line in found_in((ROOT / name).read_text(), FORBIDDEN[what])]
    assert found == []


def test_the_patterns_find_what_they_are_for() -> None:
    # Written in two halves, so that this file passes its own test.
    bad = {
        "a registry's host": "https://py" + "pi.org/simple",
        "a path of one machine": "cd /ro" + "ot/x",
        "a private key": "-----BEGIN OPENSSH PRIVATE" + " KEY-----",
        "an access token": "ghp_" + "a" * 36,
        "who wrote it, and when": "as noted in my ses" + "sion",
    }
    assert {what for what, text in bad.items() if found_in(text, FORBIDDEN[what])} == set(FORBIDDEN)


def test_every_page_of_the_manual_is_reached_from_its_index() -> None:
    docs = ROOT / "docs"
    reached, waiting = set(), [docs / "index.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            entries = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            linked = [(page.parent / entry).with_suffix(".md") for entry in entries]
            waiting += [path for path in linked if path not in reached]
    pages = {path for path in docs.rglob("*.md") if not {"_build", "changes"} & set(path.parts)}
    assert {str(path.relative_to(docs)) for path in pages ^ reached} == set()


def test_every_change_fragment_has_a_name_with_issue_and_type() -> None:
    folder = ROOT / "docs" / "changes"
    types = re.findall(r"^- `(\w+)`:", (folder / "README.md").read_text(), re.MULTILINE)
    assert types
    pattern = re.compile(rf"\d+\.({'|'.join(types)})(\.\d+)?\.md")
    names = [path.name for path in folder.iterdir() if path.name != "README.md"]
    assert [name for name in names if not pattern.fullmatch(name)] == []


def test_no_file_of_the_repository_is_large() -> None:
    assert [name for name in files() if (ROOT / name).stat().st_size > 1_000_000] == []
