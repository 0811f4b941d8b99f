"""Settings declared with param: `Settings`, `Secret`, `Input`, and their JSON Schema.

One declaration gives form, flags, TOML, validation, schema and record. What
needs no param stands below: types in `values`, checks in `codec`, sources in
`layers`; their names are here too, for whoever has an app at hand.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import param
from param.parameterized import ParameterizedMetaclass, Undefined

from agilab import codec
from agilab.codec import Field
from agilab.errors import SettingError, first_line
from agilab.layers import Layer, Resolved, environment_layer, resolve, resolve_secrets, settings_layer, write_toml
from agilab.matching import matches
from agilab.schema import json_schema
from agilab.toml import read_toml
from agilab.values import CODECS, NotAllowedError, scalar, show

__all__ = [
    "Input",
    "Layer",
    "Resolved",
    "Secret",
    "Settings",
    "Workers",
    "environment_layer",
    "json_schema",
    "read_toml",
    "resolve",
    "resolve_secrets",
    "settings_layer",
    "write_toml",
]


if TYPE_CHECKING:
    _String = param.String[str | None]
    _Parameter = param.Parameter[Any]
else:
    _String, _Parameter = param.String, param.Parameter  # which cannot be subscripted in param 2.2


class Secret(_String):
    """A secret as a reference: ``env:NAME`` or ``file:PATH``, never the secret itself.

    The reference is what files, requests and manifests hold; it is resolved
    when a run starts and handed to workers over a pipe.
    """

    _slot_defaults = {**param.String._slot_defaults, "default": None}  # noqa: RUF012, as param declares it

    def _validate(self, val: Any) -> None:
        _validate_text(self, "secret", {}, val)


class Input(_String):
    """A file, a folder or a pattern inside the data root, which the run reads.

    Parameters
    ----------
    default
        Such as ``"tracks/*.csv"``; ``**`` stands for any folders.
    kind
        ``"file"``, ``"folder"`` (every file in it) or ``"glob"``, the default.
    allow_empty
        Whether a pattern or folder may match no file; without, that is an error before anything runs.
    """

    __slots__ = ["allow_empty", "kind"]
    _slot_defaults = {  # noqa: RUF012, as above
        **param.String._slot_defaults,
        "default": None,
        "kind": "glob",
        "allow_empty": False,
    }
    kind: str
    allow_empty: bool

    def __init__(
        self, default: Any = Undefined, *, kind: Any = Undefined, allow_empty: Any = Undefined, **params: Any
    ) -> None:
        if kind is not Undefined and kind not in ("file", "folder", "glob"):
            raise SettingError(f"an Input has kind {show(kind)}; allowed: 'file', 'folder', 'glob'")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "allow_empty", allow_empty)
        super().__init__(default, **params)

    def _validate(self, val: Any) -> None:
        _validate_text(self, "input", {"kind": self.kind}, val)


class Workers(_Parameter):
    """How many workers run at the same time: a number, or a table of hosts and their slots."""

    _slot_defaults = {**param.Parameter._slot_defaults, "allow_None": True}  # noqa: RUF012, as above

    def _validate(self, val: Any) -> None:
        _validate_text(self, "workers", {}, val)


def _validate_text(parameter: Any, kind: str, constraints: Mapping[str, Any], value: Any) -> None:
    if value is None and parameter.allow_None:
        return
    name = parameter.name or f"({type(parameter).__name__} without a name yet)"
    codec.check_one(Field(name, kind, constraints=constraints), value)


class _SettingsClass(ParameterizedMetaclass):
    """Checks a settings class when it is made, so that a run never meets a setting without a codec."""

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> None:  # noqa: N805
        super().__init__(name, bases, body)
        if any(isinstance(base, _SettingsClass) for base in bases):
            _check_class(cls, body)


_KEPT = "_agilab_fields"
_RESERVED = ("param", "fields", "to_json", "from_json", "input_matches")


class Settings(param.Parameterized, metaclass=_SettingsClass):
    """Base of an app's settings: every param attribute is one.

    Constants, read-only and private parameters are not settings. A doc that
    ends in ``[unit]`` gives the unit.

    Examples
    --------
    >>> class Settings(Settings):
    ...     sample_s = param.Number(60.0, bounds=(1, None), doc="Time between two points [s]")

    Raises
    ------
    SettingError
        When the class is made: a parameter's type has no codec, or its default is not allowed.
    """

    @classmethod
    def fields(cls) -> tuple[Field, ...]:
        """Return the declarations as data, in the order they are written.

        They are read once per class: what is changed in the class afterwards
        is no declaration.
        """
        found: tuple[Field, ...] | None = cls.__dict__.get(_KEPT)
        if found is None:
            found = _declared(cls)
            type.__setattr__(cls, _KEPT, found)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return every value in canonical JSON.

        Raises
        ------
        SettingError
            A value is not allowed, such as a list that was changed in place.
        """
        parameters = _parameters(type(self))
        return {field.name: codec.encode(field, _raw(parameters[field.name], self)) for field in self.fields()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: codec.Where = "") -> Self:
        """Return settings with these values and defaults for the rest.

        Raises
        ------
        SettingError
            A name is unknown or a value is not allowed.
        """
        made: Self = _build(cls, codec.validate(cls.fields(), values, where=where))
        return made

    def input_matches(self, data_root: Path) -> dict[str, list[str]]:
        """Find the files that the `Input` settings mean.

        Returns
        -------
        dict
            Dotted setting name -> sorted POSIX paths relative to the data
            root, regular files only. One that is None is left out.

        Raises
        ------
        SettingError
            A named file or folder does not exist or lies outside the root; or
            nothing is matched, and the setting does not say ``allow_empty``.
        """
        values = self.to_json()
        found: dict[str, list[str]] = {}
        for name, field in codec.leaves(self.fields()):
            text = codec.get_path(values, name) if field.type == "input" else None
            if text is not None:
                kind = str(field.constraints["kind"])
                found[name] = matches(name, text, kind=kind, root=Path(data_root))
                if not found[name] and not field.constraints.get("allow_empty"):
                    raise SettingError(
                        f"setting {name!r} is {show(text)}, which matches no file below {data_root}; correct it or "
                        "put files there (an app that can do without declares Input(..., allow_empty=True))"
                    )
        return found


def _check_class(cls: Any, body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if isinstance(value, param.Parameter) and name in ("name", *_RESERVED):
            raise SettingError(f"{cls.__name__}.{name} cannot be a setting: Settings has its own; choose another name")
    declared: dict[str, list[Any]] = {}
    for name, parameter in _parameters(cls).items():
        if isinstance(parameter, param.Path):
            parameter.check_exists = False  # it may exist on the workers only
        elif isinstance(parameter.default, list | dict | Settings):
            parameter.instantiate = True  # a default is never shared
        if isinstance(parameter, param.Selector) and parameter.owner is cls:
            declared[name] = list(parameter.objects)
    type.__setattr__(cls, "_declared_objects", declared)
    _declared(cls)


def _build(cls: Any, values: Mapping[str, Any]) -> Any:
    """Make an instance from complete canonical JSON."""
    parameters = _parameters(cls)
    made: dict[str, Any] = {}
    for field in cls.fields():
        value = values[field.name]
        if field.type == "settings" and value is not None:
            made[field.name] = _build(_nested_class(parameters[field.name]), value)
        else:
            made[field.name] = codec.decode_value(field, value)
    try:
        return cls(**made)
    except (ValueError, TypeError, OSError) as err:  # a check that only the app's own class makes
        raise SettingError(f"settings of {cls.__name__} are not allowed: {first_line(err)}") from err


def _raw(parameter: Any, settings: Any) -> Any:
    """Return what was set; a path's own access would look for the file."""
    return param.Parameter.__get__(parameter, settings, type(settings))


def _parameters(cls: Any) -> dict[str, Any]:
    """Return the parameters that are settings, by name."""
    return {
        name: parameter
        for name, parameter in cls.param.objects(instance=False).items()
        if not (name == "name" or name.startswith("_") or parameter.constant or parameter.readonly)
    }


# From param to fields


def _declared(cls: Any) -> tuple[Field, ...]:
    return tuple(_field(cls.__name__, name, parameter) for name, parameter in _parameters(cls).items())


def _field(owner: str, name: str, parameter: Any) -> Field:
    kind, constraints = _kind(owner, name, parameter)
    doc, unit = _doc(parameter.doc)
    factory = getattr(parameter, "default_factory", None)
    default = factory() if factory else parameter.default
    if parameter.allow_None or default is None:
        constraints = {**constraints, "optional": True}
    bare = Field(name, kind, None, doc, unit, constraints, parameter.label)
    try:
        return Field(name, kind, codec.encode(bare, default), doc, unit, constraints, parameter.label)
    except SettingError as err:
        raise SettingError(f"{owner}.{name} has a default that is not allowed: {err}") from err


def _doc(doc: str | None) -> tuple[str, str]:
    """Part a doc from the unit at its end: ``Sampling step [s]``."""
    text = " ".join((doc or "").split())
    match = re.fullmatch(r"(.*?)\s*\[([^\[\]]+)\]\.?", text)
    return (match[1], match[2]) if match else (text, "")


def _kind(owner: str, name: str, parameter: Any) -> tuple[str, dict[str, Any]]:
    for base in type(parameter).__mro__:
        if base in _WITHOUT_CODEC or (base in _NESTED and _nested_class(parameter) is None):
            break
        if base in _KINDS:
            try:
                return _KINDS[base](parameter)
            except NotAllowedError as err:
                raise SettingError(f"{owner}.{name} ({type(parameter).__name__}) has no codec: {err}") from err
    raise SettingError(
        f"{owner}.{name} is a {type(parameter).__name__}, which has no codec; "
        "use another type, or make it constant or private (_name) if it is not a setting"
    )


def _plain(kind: str) -> Callable[[Any], tuple[str, dict[str, Any]]]:
    return lambda parameter: (kind, {})


def _numeric(kind: str, item: str) -> Callable[[Any], tuple[str, dict[str, Any]]]:
    def declare(parameter: Any) -> tuple[str, dict[str, Any]]:
        constraints: dict[str, Any] = {}
        low, high = parameter.bounds or (None, None)
        inclusive = parameter.inclusive_bounds
        for side, bound, closed in (("min", low, inclusive[0]), ("max", high, inclusive[1])):
            if bound is not None and not (closed and bound in (math.inf, -math.inf)):
                constraints[side] = _constant(item, bound, "its bounds")
                if not closed:
                    constraints[f"{side}_exclusive"] = True
        for side, bound in zip(("soft_min", "soft_max"), parameter.softbounds or (), strict=False):
            if bound is not None:
                constraints[side] = _constant(item, bound, "its softbounds")
        step = parameter.step
        if isinstance(step, int | float) and not isinstance(step, bool):
            constraints["step"] = step
            if kind == "range" and step > 0:
                constraints["ordered"] = True
        return kind, constraints

    return declare


def _constant(item: str, value: Any, what: str) -> Any:
    if item == "integer" and isinstance(value, float) and value.is_integer():  # bounds=(1, 1e6)
        value = int(value)
    try:
        return CODECS[item].canonical({}, codec.native(value))
    except NotAllowedError:
        raise NotAllowedError(f"{what} hold {show(value)}; allowed: {CODECS[item].allowed({})}") from None


def _string(parameter: Any) -> tuple[str, dict[str, Any]]:
    if parameter.regex is None:
        return "string", {}
    pattern = re.compile(parameter.regex)
    flags = "".join(letter for letter in "imsxa" if pattern.flags & getattr(re, letter.upper()))
    prefix = f"(?{flags})" if flags and not re.match(r"\(\?[imsxau]+\)", pattern.pattern) else ""
    return "string", {"pattern": prefix + pattern.pattern}


def _color(parameter: Any) -> tuple[str, dict[str, Any]]:
    pattern, words = r"#?([0-9a-fA-F]{3}){1,2}$", "a color such as #1f77b4"
    if parameter.allow_named:
        pattern, words = rf"(?i:{pattern}|({'|'.join(parameter._named_colors)})$)", f"{words} or a name such as navy"
    return "color", {"pattern": pattern, "words": words}


def _option(value: Any) -> Any:
    try:
        return scalar(value)
    except NotAllowedError:
        raise NotAllowedError(f"its objects hold {show(value)}; allowed: text, finite numbers, true, false") from None


def _selector(kind: str) -> Callable[[Any], tuple[str, dict[str, Any]]]:
    def declare(parameter: Any) -> tuple[str, dict[str, Any]]:
        # An open selector's own list grows with every value it is given.
        options = getattr(parameter.owner, "_declared_objects", {}).get(parameter.name, list(parameter.objects))
        names = {id(option): label for label, option in parameter.names.items()} if parameter.names else {}
        constraints: dict[str, Any] = {"options": []}
        labels: list[str] = []
        for option in options:
            plain = codec.native(option)
            if plain is None and kind == "selector":
                constraints["optional"] = True
            else:
                constraints["options"].append(_option(plain))
                labels.append(str(names.get(id(option), plain)))
        if names:
            constraints["labels"] = labels
        if not parameter.check_on_set:
            constraints["open"] = True
        return kind, constraints

    return declare


def _tuple(kind: str) -> Callable[[Any], tuple[str, dict[str, Any]]]:
    return lambda parameter: (kind, {"length": parameter.length})


_ITEMS: Mapping[type, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    dt.date: "date",
    dt.datetime: "datetime",
    dict: "dict",
    list: "list",
}


def _list(parameter: Any) -> tuple[str, dict[str, Any]]:
    constraints: dict[str, Any] = {}
    low, high = parameter.bounds or (None, None)
    if low:
        constraints["min_length"] = low
    if high is not None:
        constraints["max_length"] = high
    kinds = parameter.item_type
    if kinds is None:
        return "list", constraints
    union = isinstance(kinds, tuple)
    names = [_ITEMS.get(kind, "") for kind in (kinds if union else (kinds,))]
    mixed = {"integer", "number", "string", "boolean"}
    if not getattr(parameter, "is_instance", True) or "" in names or (union and not mixed.issuperset(names)):
        raise NotAllowedError(f"its item_type is {kinds}; allowed: int, float, str, bool (or several), date, datetime")
    return "list", {**constraints, "items": names if union else names[0]}


def _nested(parameter: Any) -> tuple[str, dict[str, Any]]:
    cls = _nested_class(parameter)
    fields = codec.with_defaults(cls.fields(), parameter.default.to_json()) if parameter.default else cls.fields()
    return "settings", {"fields": [field.to_json() for field in fields]}


def _nested_class(parameter: Any) -> Any:
    cls = type(parameter.default) if parameter.default is not None else getattr(parameter, "class_", None)
    return cls if isinstance(cls, type) and issubclass(cls, Settings) else None


_NESTED = (param.ClassSelector, param.Parameter)


_KINDS: Mapping[type, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    Secret: _plain("secret"),
    Input: lambda parameter: (
        "input",
        {"kind": parameter.kind} | ({"allow_empty": True} if parameter.allow_empty else {}),
    ),
    Workers: _plain("workers"),
    param.Integer: _numeric("integer", "integer"),
    param.Date: _numeric("datetime", "datetime"),
    param.CalendarDate: _numeric("date", "date"),
    param.Number: _numeric("number", "number"),
    param.Boolean: _plain("boolean"),
    param.String: _string,
    param.Color: _color,
    param.ListSelector: _selector("list_selector"),
    param.Selector: _selector("selector"),
    param.DateRange: _numeric("datetime_range", "datetime"),
    param.CalendarDateRange: _numeric("date_range", "date"),
    param.Range: _numeric("range", "number"),
    param.NumericTuple: _tuple("numeric_tuple"),
    param.Tuple: _tuple("tuple"),
    param.List: _list,
    param.Dict: _plain("dict"),
    param.Filename: lambda parameter: ("path", {"kind": "file"}),
    param.Foldername: lambda parameter: ("path", {"kind": "folder"}),
    param.Path: lambda parameter: ("path", {"kind": "any"}),
    param.ClassSelector: _nested,
    param.Parameter: _nested,
}
_WITHOUT_CODEC = (param.Event, param.HookList, param.FileSelector, param.MultiFileSelector, param.Composite)
"""Types that derive from one with a codec and still have none."""
