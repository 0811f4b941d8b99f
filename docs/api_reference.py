"""Writes the reference of what apps are written against, from the docstrings; `conf.py` puts it in its page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import agilab
from agilab.app import PartitionResult
from agilab.settings import Input, Secret
from agilab.worker import Inputs

MANAGER = (
    agilab.App,
    agilab.WorkPlan,
    agilab.Stage,
    agilab.Partition,
    agilab.InputRef,
    agilab.ArtifactRef,
    agilab.Artifact,
    PartitionResult,
    agilab.partition_id,
    agilab.Settings,
    Input,
    Secret,
)
WORKER = (agilab.Worker, agilab.PartitionContext, Inputs)

Section = list[tuple[str, str]]


def markdown() -> str:
    """Return every class and function with its parameters, attributes and members."""
    parts: list[str] = []
    for title, things in (("The manager side", MANAGER), ("The worker side", WORKER)):
        parts.append(f"## {title}")
        for thing in things:
            parts += _described(thing)
    return "\n\n".join(parts) + "\n"


def _described(thing: Any) -> Iterator[str]:
    yield f"### `{_call(thing, thing.__name__)}`"
    text, sections = parse(inspect.getdoc(thing) or "")
    yield text
    for name in ("Parameters", "Attributes", "Returns"):
        if name in sections:
            yield _table(name.lower().removesuffix("s"), sections[name])
    members = [(_call(member, name), _sentence(member)) for name, member in _members(thing)]
    if members:
        yield _table("member", members)


def _members(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield the methods and properties that a class documents itself."""
    for name, member in vars(thing).items() if inspect.isclass(thing) else ():
        plain = member.__func__ if isinstance(member, classmethod) else member
        if not name.startswith("_") and isinstance(plain, property | type(_call)) and plain.__doc__:
            yield name, plain


def _call(member: Any, name: str) -> str:
    if not inspect.isfunction(member):
        return name
    given: list[str] = []
    for parameter in inspect.signature(member).parameters.values():
        if parameter.name not in ("self", "cls"):
            if parameter.kind is parameter.KEYWORD_ONLY and "*" not in given:
                given.append("*")
            default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
            given.append(parameter.name + default)
    return f"{name}({', '.join(given)})"


def _sentence(member: Any) -> str:
    """Return a member's text, and what is said of its parameters, in one cell."""
    text, sections = parse(inspect.getdoc(member) or "")
    said = [text]
    for title in ("Parameters", "Returns", "Raises"):
        for name, about in sections.get(title, ()):
            lead = f"`{name}`" if title == "Parameters" else f"{title} `{name}`"
            said.append(f"<br>{lead}: {about}" if about else f"<br>{lead}.")
    return " ".join(said)


def parse(doc: str) -> tuple[str, dict[str, Section]]:
    """Part a numpy docstring into its text and its sections: what is named, and what is said of it."""
    head, *rest = re.split(r"^(\w+)\n-{3,}\n", doc, flags=re.MULTILINE)
    sections: dict[str, Section] = {}
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        items = re.split(r"^(\S.*)\n?", body, flags=re.MULTILINE)[1:]
        sections[title] = [(name, _flow(said)) for name, said in zip(items[::2], items[1::2], strict=True)]
    return _flow(head), sections


def _flow(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _table(head: str, rows: Section) -> str:
    lines = [f"| {head} | is |", "| --- | --- |"]
    for name, said in rows:
        shown = f"`{name}`" if "(" in name else ", ".join(f"`{one}`" for one in name.split(", "))
        lines.append(f"| {shown} | {said} |".replace("\\", "\\\\"))
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
