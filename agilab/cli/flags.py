"""Declared settings as command-line flags: ``sample_s`` becomes ``--sample-s``, ``model.depth`` ``--model.depth``.

The codec reads the text and words the errors; this file knows no setting by
name. A command that takes an app learns its flags from the app when it is
called, so that ``agilab run APP --help`` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from agilab import codec
from agilab.cli.screen import safe
from agilab.codec import Field
from agilab.errors import AgilabError, SettingError
from agilab.layers import Resolved

Values = dict[str, Any]
Resolve = Callable[[], Resolved]

SETTINGS = "agilab.settings"
"""Key of `click.Context.meta`: the app's settings that were given."""
CLUSTER = "agilab.cluster"
"""Key of `click.Context.meta`: the cluster options that were given."""
CHOSEN = "agilab.chosen"
"""Key of `click.Context.meta`: what the command line names, and the flags that follow from it."""


METAVARS: Mapping[str, str] = {
    "string": "text",
    "color": "colour",
    "selector": "choice",
    "list_selector": "choice,...",
    "date_range": "date,date",
    "datetime_range": "datetime,datetime",
    "range": "number,number",
    "numeric_tuple": "number,...",
    "tuple": "item,...",
    "list": "item,...",
    "dict": "json",
    "secret": "reference",
    "input": "path",
    "workers": "number or host=number,...",
}
"""What help shows after a flag, where the name of the type would say less."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A value read from text; None inside is a value too."""

    value: Any


if TYPE_CHECKING:
    _ParamType = click.ParamType[_Read]
else:  # generic from click 8.3 on only
    _ParamType = click.ParamType


class FieldType(_ParamType):
    """Reads the text of one setting with its codec; a wrong value is the codec's sentence."""

    def __init__(self, setting: Field, dotted: str) -> None:
        self.setting, self.dotted = setting, dotted
        self.name = METAVARS.get(setting.type, setting.type)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _Read:
        if isinstance(value, _Read):
            return value
        where = "" if param is None else param.opts[0]
        return _Read(codec.parse_text(self.setting, str(value), where=where, name=self.dotted))


class FieldOption(click.Option):
    """The flag of one setting; what it reads lands in the context under `place`, by dotted name."""

    def __init__(self, dotted: str, setting: Field, place: str, resolved: Resolve | None = None) -> None:
        self.dotted, self.setting, self.place, self._resolved = dotted, setting, place, resolved
        flag = flag_of(dotted)
        boolean = setting.type == "boolean"
        super().__init__(
            [f"{flag}/--no-{flag[2:]}" if boolean else flag, f"{place}_{dotted}".replace(".", "__")],
            type=None if boolean else FieldType(setting, dotted),
            is_flag=boolean,
            default=None,
            expose_value=False,
            callback=self._keep,
            help=describe(setting),
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Say what holds without the flag, which is looked up only now."""
        if self._resolved is not None:
            with suppress(AgilabError):  # a wrong value in a file must not keep anybody from reading the help
                self.help = describe(self.setting, self.dotted, self._resolved())
        return super().get_help_record(ctx)

    def _keep(self, ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            given = value.value if isinstance(value, _Read) else value
            codec.set_path(ctx.meta.setdefault(self.place, {}), self.dotted, given)


def flag_of(dotted: str) -> str:
    """Return the flag of a setting: ``sample_s`` -> ``--sample-s``."""
    return f"--{dotted.replace('_', '-')}"


def describe(setting: Field, dotted: str = "", resolved: Resolved | None = None) -> str:
    """Write what a flag's help says: doc, what is allowed, and what holds without it."""
    doc = " ".join(setting.doc.split()).rstrip(".")
    value = setting.default if resolved is None else setting_value(resolved.values, dotted)
    source = "default" if resolved is None else resolved.provenance.get(dotted, {}).get("source", "default")
    default = f"default: {codec.format_text(setting, value) or 'empty'}"
    parts = [doc] if doc else []
    # Help is printed by click as it is, and these words are the app's.
    return safe("; ".join([*parts, codec.allowed(setting), default + (f" ({source})" if source != "default" else "")]))


def options(
    fields: Iterable[Field], place: str, *, taken: Iterable[str] = (), resolved: Resolve | None = None
) -> tuple[FieldOption, ...]:
    """Make the flags of declared settings.

    Parameters
    ----------
    fields
        The declarations.
    place
        `SETTINGS` or `CLUSTER`.
    taken
        Flags that the command has already; a setting of such a name is
        reached with ``--set`` only.
    resolved
        Looks up what holds without the flags; None where only the declaration is known.
    """
    names = set(taken)
    return tuple(
        FieldOption(dotted, setting, place, resolved)
        for dotted, setting in codec.leaves(tuple(fields))
        if flag_of(dotted) not in names
    )


def assignments(fields: Sequence[Field], pairs: Iterable[str], *, where: str = "--set") -> Values:
    """Read ``name=value`` texts.

    Raises
    ------
    SettingError
        There is no ``=``, no such setting, or the value is not allowed.
    """
    known = {**{setting.name: setting for setting in fields}, **dict(codec.leaves(fields))}
    values: Values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise SettingError(f"{pair!r} sets nothing; write name=value, such as {next(iter(known), 'name')}=...")
        if name not in known:
            raise codec.unknown(name, known, where=where)
        codec.set_path(values, name, codec.parse_text(known[name], text, where=where, name=name))
    return values


def gathered(name: str, kind: type[Any], *decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command several options and hand their values over as one.

    Parameters
    ----------
    name
        The parameter that the command gets.
    kind
        A dataclass with a field per option.
    decorators
        What `click.option` made.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*context: Any, **given: Any) -> Any:
            value = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            return function(*context, **{name: value}, **given)

        for option in reversed(decorators):
            option(call)
        return call

    return decorate


def setting_value(values: Mapping[str, Any], dotted: str) -> Any:
    """Return a value by dotted name; None when a table around it is none."""
    found: Any = values
    for part in dotted.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a command line names: the thing itself, how help titles its flags, and the flags."""

    thing: Any
    title: str
    flags: tuple[FieldOption, ...] = ()


class DeclaredCommand(click.Command):
    """A command whose first argument decides which further flags there are."""

    def choose(self, app: str | None, before: Mapping[str, str]) -> Chosen | None:
        """Return what was named and its flags, or None when nothing was named.

        Parameters
        ----------
        app
            The first argument; None when there is none.
        before
            The values of the options before it, by flag.
        """
        raise NotImplementedError

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the first argument, learn its flags, then parse everything with them."""
        chosen = self.choose(*self._first(args))
        if chosen is not None:
            ctx.meta[CHOSEN] = chosen
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and those of what was named."""
        chosen: Chosen | None = ctx.meta.get(CHOSEN)
        known = super().get_params(ctx)
        return known if chosen is None else [*chosen.flags, *known]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags by where they come from: the app, the cluster options, the command itself."""
        chosen: Chosen | None = ctx.meta.get(CHOSEN)
        titles = {SETTINGS: chosen.title if chosen else "Settings", CLUSTER: "Cluster options"}
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                place = param.place if isinstance(param, FieldOption) else ""
                groups.setdefault(titles.get(place, "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def _first(self, args: Sequence[str]) -> tuple[str | None, dict[str, str]]:
        """Return the first argument and the known options before it; an unknown option ends the search."""
        valued = {
            flag: not option.is_flag
            for option in self.params
            if isinstance(option, click.Option)
            for flag in (*option.opts, *option.secondary_opts)
        }
        before: dict[str, str] = {}
        words = iter(args)
        for word in words:
            if not word.startswith("-") or word == "-":
                return word, before
            flag, equals, text = word.partition("=")
            if flag not in valued and flag not in ("-h", "--help", "--"):
                break
            before[flag] = text if equals else next(words, "") if valued.get(flag) else ""
        return None, before
