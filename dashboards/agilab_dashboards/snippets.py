"""The same request as TOML, as a shell command and as Python: texts to copy, made from what differs; nothing is run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agilab import codec
from agilab.cli.flags import flag_of
from agilab.cli.launch import TAKEN
from agilab.codec import Field
from agilab.layers import table_lines
from agilab.toml import SCHEMA

Values = Mapping[str, Any]


def toml(tables: Mapping[str, tuple[Sequence[Field], Values]]) -> str:
    """Return what a settings file says to get these values.

    Parameters
    ----------
    tables
        Table -> its declarations, and the values that are given.
    """
    parts = [f'schema = "{SCHEMA}"']
    for name, (fields, given) in tables.items():
        if given:
            parts.append("\n".join(table_lines(_named(fields, given), given, name)))
    return "\n\n".join(parts) + "\n"


def shell(app: str, tables: Mapping[str, tuple[Sequence[Field], Values]]) -> str:
    """Return the command that runs an app with these values."""
    taken = set(TAKEN)
    words = ["agilab", "run", app]
    for fields, given in reversed(list(tables.values())):  # cluster options have their flags before settings
        words += [word for dotted, field in _leaves(fields, given) for word in _flag(dotted, field, given, taken)]
        taken |= {flag_of(dotted) for dotted, _ in codec.leaves(fields)}
    return shlex.join(words)


def python(app: str, settings: Values, cluster: Values) -> str:
    """Return the lines of Python that do the same."""
    given = ", ".join(
        [*([repr(dict(settings))] if settings else []), *([f"cluster={dict(cluster)!r}"] if cluster else [])]
    )
    return (
        f"from agilab import AGI, AgiEnv\n\nenv = AgiEnv({app!r})\nrun = AGI.run(env, env.request({given})).check()\n"
    )


def _named(fields: Sequence[Field], given: Values) -> list[Field]:
    """Return the declarations of what is given only, also inside nested settings."""
    found = []
    for field in fields:
        value = given.get(field.name)
        if field.type == "settings" and isinstance(value, Mapping):
            inner = [item.to_json() for item in _named(field.fields, value)]
            found.append(replace(field, constraints={**field.constraints, "fields": inner}))
        elif field.name in given:
            found.append(field)
    return found


def _leaves(fields: Sequence[Field], given: Values, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Yield what is given by dotted name; nested settings that are None as a whole."""
    for field in fields:
        if field.name not in given:
            continue
        value = given[field.name]
        if field.type == "settings" and isinstance(value, Mapping):
            yield from _leaves(field.fields, value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def _flag(dotted: str, field: Field, given: Values, taken: set[str]) -> list[str]:
    value = codec.get_path(given, dotted)
    flag, text = flag_of(dotted), codec.format_text(field, value)
    if flag in taken or field.type == "settings" or (field.type == "boolean" and value is None):
        return ["--set", f"{dotted}={text}"]
    if field.type == "boolean":
        return [flag if value else f"--no-{flag[2:]}"]
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def options_command(fields: Sequence[Field], given: Values) -> str:
    """Return the command that starts the server with these options."""
    words = [word for dotted, field in _leaves(fields, given) for word in _flag(dotted, field, given, set())]
    return shlex.join(["agilab", "serve", *words])
