"""The widget of one declared setting, for every type that settings know; it knows no setting by name.

The text of a setting is the authority, read by the same codec as a flag of
the shell, so that every value can be written and every error is the shell's
sentence. Types with few values have a choice instead; bounded numbers,
ranges and colours a second widget that writes the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import panel_material_ui as pmui
import param

from agilab import codec
from agilab.codec import Field
from agilab.errors import SettingError
from agilab.values import MAX_TEXT, same

Change = Callable[[str, Any, str], None]
"""Told the dotted name, the value in canonical JSON and, where the value is wrong, the sentence."""

MOST_STEPS = 10_000
"""How many whole numbers a slider is good for."""
AREA = ("dict", "list")
_NONE = "none"


class Control:
    """One setting in a form.

    Parameters
    ----------
    dotted
        Its name.
    field
        Its declaration.
    value
        Canonical JSON.
    change
        Told what the user does.
    """

    def __init__(self, dotted: str, field: Field, value: Any, change: Change) -> None:
        self.dotted, self.field = dotted, field
        self._change = change
        self._quiet = False
        self.widgets: list[Any] = self._make(value)
        for widget in self.widgets:
            widget.param.watch(self._hear, "value")

    @property
    def label(self) -> str:
        """What the field is called, with its unit."""
        return label(self.field)

    def show(self, value: Any) -> None:
        """Put a value into the widgets without telling anybody."""
        self._quiet = True
        try:
            self._put(value)
            self.mark("")
        finally:
            self._quiet = False

    def mark(self, sentence: str) -> None:
        """Show an error at the field, or take it away."""
        widget = self.widgets[0]
        if "error_state" in widget.param:
            widget.param.update(error_state=bool(sentence), helper_text=sentence)

    def _hear(self, event: param.parameterized.Event) -> None:
        if self._quiet:
            return
        try:
            value = codec.check_one(self.field, self._read(event.obj), name=self.dotted)
        except SettingError as err:
            self.mark(str(err))
            self._change(self.dotted, None, str(err))
            return
        self._quiet = True
        try:
            self._follow(value, event.obj)
        finally:
            self._quiet = False
        self.mark("")
        self._change(self.dotted, value, "")

    # What every kind of control does in its own way.

    def _make(self, value: Any) -> list[Any]:
        raise NotImplementedError

    def _read(self, widget: Any) -> Any:
        """Return the value that a widget holds, as JSON."""
        raise NotImplementedError

    def _put(self, value: Any) -> None:
        raise NotImplementedError

    def _follow(self, value: Any, by: Any) -> None:
        """Let the other widgets of the control show what one of them was given."""


class _Text(Control):
    """Any value as the text of a shell, with a second widget where one helps."""

    def _make(self, value: Any) -> list[Any]:
        field = self.field
        long = field.type in AREA or (isinstance(value, str) and "\n" in value)
        kind: Any = pmui.TextAreaInput if long else pmui.TextInput
        more = {"auto_grow": True, "max_rows": 12, "rows": 2} if long else {}
        text = kind(
            label=self.label,
            value=self._text(value),
            placeholder=_hint(field),
            max_length=MAX_TEXT,
            sizing_mode="stretch_width",
            **more,
        )
        second = None
        if field.type in ("integer", "number", "range"):
            second = _slider(field, value)
        elif field.type == "color" and not field.optional and _HEX.fullmatch(str(value)):
            second = pmui.ColorPicker(label="", value=value, width=70, description=f"choose {self.label}")
        elif field.type in ("date", "date_range") and not field.optional:
            second = _calendar(field, value)
        self.companion = second
        self._put_companion(value)
        return [text] if second is None else [text, second]

    def _read(self, widget: Any) -> Any:
        if widget is self.widgets[0]:
            return codec.parse_text(self.field, str(widget.value), name=self.dotted)
        value = widget.value
        if isinstance(value, tuple):
            return [_plain(item) for item in value]
        return _plain(value)

    def _put(self, value: Any) -> None:
        self.widgets[0].value = self._text(value)
        self._put_companion(value)

    def _put_companion(self, value: Any) -> None:
        """Show a value in the second widget, where that can: NaN and what lies beyond its ends it cannot."""
        widget = self.companion
        if widget is None or value is None:
            return
        if self.field.type == "color":
            if _HEX.fullmatch(value):
                widget.value = value
            return
        shown = codec.decode_value(self.field, value)
        items = shown if isinstance(shown, tuple) else (shown,)
        if all(
            (widget.start is None or widget.start <= item) and (widget.end is None or item <= widget.end)
            for item in items
        ):
            widget.value = shown

    def _follow(self, value: Any, by: Any) -> None:
        if by is self.widgets[0]:
            self._put_companion(value)
        else:
            self.widgets[0].value = self._text(value)

    def _text(self, value: Any) -> str:
        return codec.format_text(self.field, value)


class _Switch(Control):
    """True or false."""

    def _make(self, value: Any) -> list[Any]:
        return [pmui.Switch(label=self.label, value=bool(value))]

    def _read(self, widget: Any) -> Any:
        return bool(widget.value)

    def _put(self, value: Any) -> None:
        self.widgets[0].value = bool(value)


class _Choice(Control):
    """One of a few values; the widget holds their places, since 1, true and "1" are three values."""

    def _make(self, value: Any) -> list[Any]:
        self.values = _options(self.field)
        options = _labelled(self.field, self.values)
        place = self._place(value)
        return [pmui.Select(label=self.label, options=options, value=place, sizing_mode="stretch_width")]

    def _read(self, widget: Any) -> Any:
        return self.values[int(widget.value)]

    def _put(self, value: Any) -> None:
        self.widgets[0].value = self._place(value)

    def _place(self, value: Any) -> str:
        return str(next(i for i, one in enumerate(self.values) if same(one, value)))


class _Choices(Control):
    """Several of a few values."""

    def _make(self, value: Any) -> list[Any]:
        self.values = _options(self.field)
        options = _labelled(self.field, self.values)
        return [
            pmui.MultiChoice(
                label=self.label,
                options=options,
                value=self._places(value),
                sizing_mode="stretch_width",
                placeholder="none selected",
            )
        ]

    def _read(self, widget: Any) -> Any:
        return [self.values[int(place)] for place in widget.value]

    def _put(self, value: Any) -> None:
        self.widgets[0].value = self._places(value)

    def _places(self, value: Any) -> list[str]:
        return [str(i) for item in value or () for i, one in enumerate(self.values) if same(one, item)][:1000]


def label(field: Field) -> str:
    """Return what a setting is called, with its unit said once."""
    name = field.label or field.name.replace("_", " ")
    if not field.unit:
        return name
    if name.lower().endswith(f" {field.unit}".lower()):
        name = name[: -len(field.unit) - 1]
    return f"{name} [{field.unit}]"


_HEX = re.compile(r"#([0-9a-fA-F]{6})")


def control(dotted: str, field: Field, value: Any, change: Change) -> Control:
    """Return the control that fits a declaration; not for nested settings.

    Parameters
    ----------
    dotted, field, value, change
        As of `Control`.
    """
    closed = field.type == "selector" and not field.constraints.get("open")
    if field.type == "boolean":
        return (_Choice if field.optional else _Switch)(dotted, field, value, change)
    if closed and _options(field):
        return _Choice(dotted, field, value, change)
    if field.type == "list_selector" and not field.constraints.get("open") and not field.optional:
        items = value or []
        if all(not same(a, b) for i, a in enumerate(items) for b in items[:i]):
            return _Choices(dotted, field, value, change)
    return _Text(dotted, field, value, change)


def _options(field: Field) -> list[Any]:
    found = [True, False] if field.type == "boolean" else list(field.constraints.get("options", ()))
    return [*found, *([None] if field.optional else [])]


def _labelled(field: Field, values: Sequence[Any]) -> dict[str, str]:
    """Return label -> place; labels are made different where two values look alike."""
    labels = [*field.constraints.get("labels", ())]
    found: dict[str, str] = {}
    for place, value in enumerate(values):
        words = labels[place] if place < len(labels) else _NONE if value is None else _word(value)
        while words in found:
            words = f"{words} ({type(value).__name__})" if words == _word(value) else f"{words} "
        found[words] = str(place)
    return found


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) if value != "" else "(empty)"


def _slider(field: Field, value: Any) -> Any:
    """Return a slider for a number or range with two finite bounds; None where it would be no help."""
    c = field.constraints
    start, end = (c.get(f"soft_{side}", c.get(side)) for side in ("min", "max"))
    if not all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in (start, end)):
        return None
    if field.optional or start >= end or c.get("min_exclusive") or c.get("max_exclusive"):
        return None
    whole = field.type == "integer"
    step = c.get("step") or (1 if whole else (end - start) / 100)
    if (whole and end - start > MOST_STEPS) or step <= 0:
        return None
    kind: Any = pmui.IntSlider if whole else pmui.RangeSlider if field.type == "range" else pmui.FloatSlider
    initial = (start, end) if field.type == "range" else start
    return kind(
        label="",
        start=start,
        end=end,
        step=step,
        value=initial,
        show_value=False,
        tooltips=False,
        sizing_mode="stretch_width",
    )


def _calendar(field: Field, value: Any) -> Any:
    bounds = [codec.decode_value(_DAY, field.constraints.get(side)) for side in ("min", "max")]
    kind: Any = pmui.DateRangePicker if field.type == "date_range" else pmui.DatePicker
    return kind(label="", value=codec.decode_value(field, value), start=bounds[0], end=bounds[1], width=64)


_DAY = Field("day", "date")


def _plain(value: Any) -> Any:
    return value.isoformat()[:10] if isinstance(value, date) else value


def _hint(field: Field) -> str:
    hints: Mapping[str, str] = {"secret": "env:NAME or file:PATH", "input": "path inside the data root"}
    return hints.get(field.type, "")
