"""The manual is true: it builds without a warning, and every block, proof and example in it runs.

A page is read like a user reads it: from top to bottom, in a HOME of its own,
with `.venv` in the current folder. What a block does is said by its first word:

``bash``        run with ``set -eu``; folder and exported variables carry on in the next block
``python``      run; all blocks of a page share one process and one namespace
``console``     ``$ command`` lines are run; the lines below must appear in its output, ``...`` stands for anything;
                how many spaces does not matter; ``console fails`` for commands that must not succeed
``bash ci``     the README's two commands: `.ci/run` and `test_pythons` run them
``text`` etc.   shown, not run
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
EXECUTED = ("bash", "python", "console")
SHOWN = ("text", "toml", "json", "yaml", "mermaid")
BLOCK_LIMIT_S = 120.0

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^ *(?P=fence) *$", re.M | re.S)
PROOF_ROW = re.compile(r"^\| (?P<layer>[^|]+) \| [^|]+ \| `(?P<command>[^`|]+)` \| `(?P<path>~/[^`|]+)` \|$", re.M)

PYTHON_SIDE = """
import os, sys, traceback
asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
space = {"__name__": "__main__"}
for line in asked:
    path = line.rstrip()
    exec(compile(open(path).read(), path, "exec"), space)
    sys.stdout.flush()
    print("done", file=answers, flush=True)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its first line, the words of its info string, its text."""

    line: int
    info: tuple[str, ...]
    text: str

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = page.read_text()
    return [
        Block(
            line=text.count("\n", 0, match.start()) + 2,
            info=tuple(match["info"].split()),
            text=textwrap.dedent(match["text"]),
        )
        for match in FENCE.finditer(text)
    ]


class Reader:
    """Somebody who pastes the blocks of one page into a shell and a Python prompt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.desk = folder / "desk"
        for path in (self.home, self.desk):
            path.mkdir(mode=0o700)
        (self.desk / ".venv").symlink_to(sys.prefix)
        self.output = folder / "output.txt"
        self.variables = {name: value for name, value in os.environ.items() if not name.startswith("AGILAB_")}
        self.variables["HOME"] = str(self.home)
        self.variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._python: subprocess.Popen[str] | None = None
        (folder / "exports.sh").write_text(f"cd '{self.desk}'\n")

    def shell(self, text: str, *, fails: bool = False) -> str:
        """Run a block of shell; return what it printed."""
        script = self.folder / "block.sh"
        exports = self.folder / "exports.sh"
        keep = f'{{ export -p; printf "cd %q\\n" "$PWD"; }} > \'{exports}\'\n'
        script.write_text(f"source '{exports}'\nset -eu\n{text}\n{keep}")
        # A file, since a run that was sent to the background would keep a pipe open.
        with open(self.output, "w") as output:
            done = subprocess.run(
                ["bash", script],
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=BLOCK_LIMIT_S,
            )
        printed = self.output.read_text()
        assert (done.returncode != 0) is fails, f"exit code {done.returncode}:\n{text}\n{printed}"
        return printed

    def python(self, text: str, line: int) -> None:
        """Run a block of Python in the page's own process."""
        if self._python is None:
            with open(self.output, "w") as output:
                self._python = subprocess.Popen(
                    [sys.executable, "-c", PYTHON_SIDE],
                    cwd=self.desk,
                    env=self.variables,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    text=True,
                )
        asked, answers = self._python.stdin, self._python.stdout
        assert asked
        assert answers
        script = self.folder / f"line_{line}.py"
        script.write_text("\n" * (line - 1) + text)
        print(script, file=asked, flush=True)
        assert answers.readline() == "done\n", f"{text}\n{self.output.read_text()}"

    def console(self, text: str, *, fails: bool) -> None:
        """Run the ``$`` lines of a block and look for the lines below each in what it printed."""
        for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
            command, _, expected = part.partition("\n")
            printed = self.shell(command, fails=fails)
            rest = (" ".join(line.split()) for line in printed.splitlines())
            for wanted in filter(None, (" ".join(line.split()) for line in expected.splitlines())):
                pattern = ".*".join(map(re.escape, wanted.split("...")))
                found = any(re.fullmatch(pattern, line) for line in rest)
                assert found, f"$ {command}\nshould print, in this order: {wanted}\nbut printed:\n{printed}"

    def close(self) -> None:
        """End the Python process."""
        if self._python is not None:
            self._python.communicate(timeout=BLOCK_LIMIT_S)


@pytest.fixture
def reader(tmp_path: Path, environment: None) -> Iterator[Reader]:
    """Give the page a reader with a HOME of their own."""
    with closing(Reader(tmp_path)) as somebody:
        yield somebody


def run_page(page: Path, reader: Reader) -> None:
    """Do what a page tells its reader to do, in order: its blocks, and the proofs of its tables."""
    text = page.read_text()
    proofs = [(text.count("\n", 0, match.start()) + 1, match) for match in PROOF_ROW.finditer(text)]
    for _, step in sorted([*((block.line, block) for block in blocks(page)), *proofs], key=lambda step: step[0]):
        if isinstance(step, re.Match):
            reader.shell(step["command"])
            left = list(reader.home.glob(step["path"].removeprefix("~/")))
            assert left, f"after `{step['command']}` there is no {step['path']}"
        elif step.info == ("bash",):
            reader.shell(step.text)
        elif step.info == ("python",):
            reader.python(step.text, step.line)
        elif step.language == "console":
            reader.console(step.text, fails="fails" in step.info)


def name(page: Path) -> str:
    """Return a page's path from the checkout."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language in EXECUTED for b in blocks(page))], ids=name
)
def test_every_block_of_a_page_runs(page: Path, reader: Reader) -> None:
    run_page(page, reader)


def test_the_architecture_page_proves_every_stop_of_the_control_path() -> None:
    proofs = {match["layer"].strip(" `*") for match in PROOF_ROW.finditer((DOCS / "architecture.md").read_text())}
    assert {"AgiEnv", "AGI.run", "worker package", "artifacts"} <= proofs


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page: Path) -> None:
    unknown = [
        f"line {block.line}: {' '.join(block.info) or 'no language'}"
        for block in blocks(page)
        if block.language not in (*EXECUTED, *SHOWN) and not block.language.startswith("{")
    ]
    assert unknown == []
    hidden = [block.line for block in blocks(page) if block.language in SHOWN and re.search(r"^\$ ", block.text, re.M)]
    assert hidden == [], "a command that is shown and not run: tag the block `console`"


def test_the_two_commands_of_the_readme_are_what_is_tested() -> None:
    found = {page: [block.text.strip() for block in blocks(page) if block.info == ("bash", "ci")] for page in PAGES}
    first, second = found.pop(ROOT / "README.md")
    assert not any(found.values()), "only the README's two commands are left to .ci/run"
    assert f"\n{second}\n" in (ROOT / ".ci" / "run").read_text()
    assert first.endswith("agilab first-proof")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_manual_builds_without_a_warning(tmp_path: Path, environment: None) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "doctrees", DOCS]
    done = subprocess.run([*command, tmp_path / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "html" / "index.html").exists()
    assert "agilab" in (tmp_path / "html" / "reference" / "cli.html").read_text()


EXAMPLES = sorted((DOCS / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_as_it_is(example: Path, reader: Reader, shared_wenv: Path) -> None:
    reader.variables["AGILAB_WENV"] = str(shared_wenv)
    reader.shell(f"'{sys.executable}' '{example}'")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_fits_on_one_screen(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 30


def test_a_reader_sees_what_is_wrong(reader: Reader) -> None:
    reader.shell("export WHAT=kept; mkdir sub; cd sub")
    assert reader.shell('pwd; echo "$WHAT"').split() == [str(reader.desk / "sub"), "kept"]
    with pytest.raises(AssertionError, match="exit code 1"):
        reader.shell("false\ntrue")
    reader.console("$ echo one two\none ...\n$ echo three\n", fails=False)
    with pytest.raises(AssertionError, match="should print"):
        reader.console("$ echo one\ntwo\n", fails=False)
    reader.python("import json\nx = 1", 1)
    reader.python("assert json and x == 1", 3)
    with pytest.raises(AssertionError, match=r"line_7.py\", line 7"):
        reader.python("raise SystemError(x)", 7)
