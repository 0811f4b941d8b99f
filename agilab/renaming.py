"""How the text of an app project reads under another name: packages, classes, tables and prose; it touches no file.

An app's name may be an everyday word that is a stage or a variable too, so
Python is rewritten token by token: a module that is imported, a class that is
the project's own. Plain text follows where nothing else can be meant.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

ENDINGS = ("", "_worker", "_views")
"""What is added to an app's name for the names of its packages."""

_TAKES_A_NAME = frozenset(
    {"AgiEnv", "find", "locate", "select", "import_module", "__import__", "find_spec", "files", "importorskip"}
)
"""Functions whose argument, when it is the app's name, means the app or its package."""
_DATA_TABLES = ("tool.agilab.kinds", "tool.agilab.data")
_CLASS_ENDINGS = ("", "App", "Worker", "View", "Views")
_OPENING, _CLOSING = "([{", ")]}"


def title(name: str) -> str:
    """Return what the classes of an app are called after: ``flight_telemetry`` -> ``FlightTelemetry``."""
    return "".join(part.capitalize() for part in name.split("_"))


def dashed(name: str) -> str:
    """Return what the distribution of an app is called after: ``flight_telemetry`` -> ``flight-telemetry``."""
    return name.strip("_").replace("_", "-")


@dataclass(frozen=True)
class Renaming:
    """From one name of an app to another.

    Parameters
    ----------
    old, new
        The names.
    classes
        Names of the project's own app and worker class.
    members
        What can stand after the package's name and a dot: its modules, and what its ``__init__.py`` defines.
    """

    old: str
    new: str
    classes: tuple[str, ...] = ()
    members: frozenset[str] = frozenset()
    _classes: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        ours = {f"{title(self.old)}{ending}": f"{title(self.new)}{ending}" for ending in _CLASS_ENDINGS}
        known = {name: ours[name] for name in self.classes if name in ours}
        object.__setattr__(self, "_classes", known)

    def path(self, name: str) -> str:
        """Return where a file of the project goes, as a POSIX path relative to its root."""
        first, _, rest = name.partition("/")
        package, slash, inside = rest.partition("/")
        if first == "src" and slash and package in self._packages:
            return f"src/{self._packages[package]}/{inside}"
        if first in ("tests", "notebooks") and not slash:
            named = re.sub(rf"^(test_)?{self.old}(?=[_.])", rf"\g<1>{self.new}", rest)
            return f"{first}/{named}"
        return name

    def text(self, name: str, text: str) -> str:
        """Return the content of a text file of the project, by the ending of its name."""
        if name.endswith((".py", ".pyi")):
            return self.python(text)
        if name.endswith(".toml"):
            return self.toml(text)
        return self.prose(text) if name.endswith((".md", ".rst", ".ipynb", ".cfg", ".ini", ".yaml", ".yml")) else text

    def prose(self, text: str) -> str:
        """Return text for people, and the code in it, with the name where only the app can be meant."""
        old, new = self.old, self.new
        text = self._references(text)
        text = re.sub(rf"`{old}`", f"`{new}`", text)
        text = re.sub(rf"(?m)^(#+ +){old}(?=[ \t\r]*$)", rf"\g<1>{new}", text)
        text = re.sub(rf"(?m)^(#+ +)({_spaced(old)})(?=[ \t\r]*$)", lambda found: found[1] + _like(found[2], new), text)
        text = re.sub(rf"(?m)(^[ \t>]*|\")(from|import) {old}\b", rf"\g<1>\g<2> {new}", text)
        text = re.sub(rf"\b(agilab (?:\w+ )+|(?:app|package|project) ){old}\b(?![./]\w)", rf"\g<1>{new}", text)
        text = re.sub(rf"(\b(?:{'|'.join(sorted(_TAKES_A_NAME))})\(\\?[\"']){old}(?=\\?[\"'])", rf"\g<1>{new}", text)
        text = re.sub(rf"(\bimport |\bclass |{new}:){title(old)}\b", rf"\g<1>{title(new)}", text)
        if "_" in old:  # nobody writes such a word and means something else
            text = re.sub(rf"(?<!\w){old}(?!\w)", new, text)
            text = re.sub(rf"(?<![\w-]){dashed(old)}(?![\w-])", dashed(new), text)
            for one, other in self._classes.items():
                text = re.sub(rf"(?<!\w){one}(?!\w)", other, text)
        return text

    def toml(self, text: str) -> str:
        """Return the content of a TOML file; tables for tools may name the package, others only in full references."""
        lines, table = [], ""
        for line in text.splitlines(keepends=True):
            header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
            table = re.sub(r"[\s\"']", "", header[1]) if header else table
            lines.append(self._toml_line(line, table))
        return "".join(lines)

    def python(self, text: str) -> str:
        """Return the content of a Python file; what cannot be read as Python is taken as prose."""
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (tokenize.TokenError, SyntaxError):
            return self.prose(text)
        lines = text.split("\n")
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line) + 1)
        pieces, at = [], 0
        for token, renamed in _Source(self, tokens, text, starts).edits():
            begin = starts[token.start[0] - 1] + token.start[1]
            pieces += [text[at:begin], renamed]
            at = starts[token.end[0] - 1] + token.end[1]
        return "".join([*pieces, text[at:]])

    @property
    def _packages(self) -> dict[str, str]:
        return {f"{self.old}{ending}": f"{self.new}{ending}" for ending in ENDINGS}

    def _references(self, text: str) -> str:
        """Rename what can only be a package or folder of the app, in any text."""
        old, new = self.old, self.new
        text = re.sub(rf"(?<![A-Za-z0-9_]){old}(?=_(?:worker|views|project)(?![A-Za-z0-9]))", new, text)
        text = re.sub(rf"(?<!\w)src/{old}(?!\w)", f"src/{new}", text)
        return re.sub(rf"(?<![\w-]){dashed(old)}(?=-(?:worker|views|project)(?![\w-]))", dashed(new), text)

    def _module_reference(self, text: str) -> str:
        """Rename a whole text such as ``old.module:Class.method``; others stay."""
        found = re.fullmatch(rf"{self.old}(_worker|_views)?([.:])(\w+)(.*)", text)
        if not found or (found[2] == "." and not found[1] and found[3] not in self.members):
            return text
        rest = re.sub(r"\w+", lambda word: self._classes.get(word[0], word[0]), found[3] + found[4])
        return f"{self.new}{found[1] or ''}{found[2]}{rest}"

    def _toml_line(self, line: str, table: str) -> str:
        old, new = self.old, self.new
        if table.startswith(("project.entry-points", "tool.")) and not table.startswith(_DATA_TABLES):
            line = re.sub(r"([\"'])([\w.:]+)(?=\1)", lambda text: text[1] + self._module_reference(text[2]), line)
            line = re.sub(rf"(?<![\w\"'.-])([\"']?){old}\1(?=\s*=)", rf"\g<1>{new}\g<1>", line)
            line = re.sub(rf"([\"']){old}(?=(/[^\"']*)?\1)", rf"\g<1>{new}", line)
        if table == "project":
            names = rf"(?:{old}|{re.escape(dashed(old))})"
            line = re.sub(rf"^(\s*name\s*=\s*[\"']){names}(?=[\"'])", rf"\g<1>{dashed(new)}", line)
        return self.prose(line) if table == "project" or "_" in old else self._references(line)


@dataclass
class _Source:
    """The tokens of one Python file, and which of them change."""

    renaming: Renaming
    tokens: list[tokenize.TokenInfo]
    text: str
    starts: list[int]

    def edits(self) -> Iterator[tuple[tokenize.TokenInfo, str]]:
        """Yield the tokens that change, in order, with what they become."""
        heads = set(self._heads())
        bound = any(self.tokens[i].string == self.renaming.old and self._binds(i) for i in heads)
        foreign = self._foreign_names()
        for place, (token, opens, first) in enumerate(self._walk()):
            source = self._slice(token)
            renamed = source
            if token.type == tokenize.NAME:
                renamed = self._name(place, opens, heads=heads, bound=bound, foreign=foreign)
            elif token.type == tokenize.COMMENT:
                renamed = self.renaming.prose(source)
            elif token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
                is_doc = first is token and self.tokens[place - 1].string != ":"
                renamed = self.renaming.prose(source) if is_doc else self._string(place, opens, first, source)
                if bound and re.match("[rR]?[fF]", source):
                    renamed = self._expressions(renamed)
            if renamed != source:
                yield token, renamed

    def _walk(self) -> Iterator[tuple[tokenize.TokenInfo, str, tokenize.TokenInfo]]:
        """Yield every token with the brackets that are open and the first token of its statement."""
        opens, first, fresh = "", self.tokens[0], True
        for token in self.tokens:
            if token.type in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT):
                yield token, opens, first
                continue
            if fresh:
                first, fresh = token, False
            if token.type == tokenize.OP:
                opens = opens + token.string if token.string in _OPENING else opens
                opens = opens[:-1] if token.string in _CLOSING else opens
            yield token, opens, first
            fresh = token.type in (tokenize.NEWLINE, tokenize.ENCODING) or (
                token.type == tokenize.OP and (token.string == ";" or (token.string == ":" and not opens))
            )

    def _heads(self) -> Iterator[int]:
        """Yield the places of tokens that begin the dotted name of an imported module."""
        for place, (token, _, first) in enumerate(self._walk()):
            if token.type == tokenize.NAME and first.string in ("from", "import") and first is not token:
                before = self.tokens[place - 1]
                follows = before is first or (first.string == "import" and before.string == ",")
                if follows:
                    yield place

    def _binds(self, place: int) -> bool:
        """Whether ``import old`` or ``import old.x`` makes the name itself known in the file."""
        if self.tokens[place - 1].string == "from":
            return False
        while self.tokens[place + 1].string == ".":
            place += 2
        return self.tokens[place + 1].string != "as"

    def _foreign_names(self) -> set[str]:
        """Return names that the file imports from elsewhere and that are no classes of ours here."""
        found: set[str] = set()
        module = ""
        for place, (token, _, first) in enumerate(self._walk()):
            if first.string == "from" and token is first:
                module = self.tokens[place + 1].string
            elif first.string == "from" and token.string in self.renaming._classes:
                found |= {token.string} if module not in {*self.renaming._packages, "."} else set()
        return found

    def _name(self, place: int, opens: str, *, heads: set[int], bound: bool, foreign: set[str]) -> str:
        renaming, name, before = self.renaming, self.tokens[place].string, self.tokens[place - 1].string
        if name == renaming.old:
            is_keyword = opens.endswith("(") and self.tokens[place + 1].string == "="
            means_module = place in heads or (bound and before != "." and not is_keyword)
            return renaming.new if means_module else name
        if name in renaming._packages:
            return renaming._packages[name] if before != "." else name
        if name in renaming._classes and name not in foreign:
            of_ours = before != "." or self.tokens[place - 2].string in renaming._packages
            return renaming._classes[name] if of_ours else name
        return name

    def _string(self, place: int, opens: str, first: tokenize.TokenInfo, source: str) -> str:
        renaming = self.renaming
        found = re.fullmatch(r"([A-Za-z]*)('{3}|\"{3}|'|\")(.*)\2", source, re.DOTALL)
        if found is None:
            return renaming._references(source)
        before, inner = self.tokens[place - 1].string, found[3]
        called = self.tokens[place - 2].string if place > 1 and before == "(" else ""
        renamed = renaming._references(renaming._module_reference(inner))
        if inner == renaming.old and called in _TAKES_A_NAME:
            renamed = renaming.new
        is_annotation = before == "->" or (before == ":" and not opens.endswith("{"))
        if inner in renaming._classes and (is_annotation or first.string == "__all__"):
            renamed = renaming._classes[inner]
        return f"{found[1]}{found[2]}{renamed}{found[2]}"

    def _expressions(self, source: str) -> str:
        """Rename the module in the expressions of an f-string, which is one token before Python 3.12."""
        name = rf"(?<![\w.\"']){self.renaming.old}(?!\w)"
        return re.sub(r"\{[^{}]*\}", lambda found: re.sub(name, self.renaming.new, found[0]), source)

    def _slice(self, token: tokenize.TokenInfo) -> str:
        return self.text[
            self.starts[token.start[0] - 1] + token.start[1] : self.starts[token.end[0] - 1] + token.end[1]
        ]


def _spaced(name: str) -> str:
    words = [part for part in name.split("_") if part]
    return "[ -]".join(f"[{word[0].upper()}{word[0]}]{word[1:]}" for word in words)


def _like(sample: str, name: str) -> str:
    """Write a name in words, with capitals as in a sample."""
    words = " ".join(part for part in name.split("_") if part)
    if all(part[:1].isupper() for part in re.split("[ -]", sample)) and " " in sample:
        return words.title()
    return words.capitalize() if sample[:1].isupper() else words
