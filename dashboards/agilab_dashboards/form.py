"""The one form for everything that is declared: settings of an app, cluster options, server options.

It knows what a value came from, what differs from the default and what is
wrong, field by field; it knows no setting by name and saves nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param
from panel.viewable import Viewable, Viewer

from agilab import codec
from agilab.codec import Field
from agilab.errors import SettingError
from agilab.layers import Resolved
from agilab.values import same
from agilab_dashboards import markup
from agilab_dashboards.chooser import Chooser
from agilab_dashboards.fields import Control, control
from agilab_dashboards.markup import Markup, element

HERE = "set here"
"""The source of a value that was changed in the form."""


class SettingsForm(Viewer):
    """A form for declared settings; its fields are made when it is looked at first.

    Parameters
    ----------
    fields
        The declarations.
    resolved
        What holds without the form, and where from.
    given
        Values on top of that, such as a URL keeps; those that are not allowed are left out.
    data_root
        Folder in which inputs are chosen; None where there is none yet.

    Attributes
    ----------
    given : dict
        What differs from `resolved`: what a caller gives, as JSON.
    errors : dict
        Dotted name -> sentence, of what is wrong just now.
    """

    given = param.Dict(default={}, doc="Values that differ from what holds without the form.")
    errors = param.Dict(default={}, doc="Dotted name -> what is wrong with it.")

    def __init__(
        self,
        fields: Sequence[Field],
        resolved: Resolved,
        given: Mapping[str, Any] | None = None,
        *,
        data_root: Path | None = None,
    ) -> None:
        super().__init__()
        self.data_root = data_root
        self.fields = tuple(fields)
        self._built: dict[str, _Row] = {}
        self._base = resolved
        self._values: dict[str, Any] = {}
        self._load(given or {})
        self._body = pn.Column(sizing_mode="stretch_width")
        self._settle()

    def __panel__(self) -> Viewable:
        if not self._built:
            self._build()
        return self._body

    @property
    def _rows(self) -> dict[str, _Row]:
        self.__panel__()
        return self._built

    @property
    def values(self) -> dict[str, Any]:
        """Every value, as JSON; a wrong one counts as what it was before."""
        return codec.fill(self.fields, _nested(self._values))

    def rebase(self, resolved: Resolved) -> None:
        """Let the form stand on new values, with nothing set here."""
        self._base = resolved
        self._load({})
        self._build()
        self._settle()

    def reset(self, dotted: str = "") -> None:
        """Take back what was set here: one setting, or all of them."""
        for name in [dotted] if dotted else list(self._values):
            self._values[name] = value = codec.get_path(self._base.values, name)
            if name in self._built:
                self._built[name].control.show(value)
        self.errors = {name: text for name, text in self.errors.items() if dotted and name != dotted}
        self._settle()

    def _load(self, given: Mapping[str, Any]) -> None:
        merged = codec.fill(self.fields, self._base.values)
        try:
            checked = codec.validate_some(self.fields, given)
        except SettingError:
            checked = {}
        _put(self.fields, merged, checked)
        self._values = dict(_flat(self.fields, merged))

    def _build(self) -> None:
        self._built = {}
        self._body.objects = self._section(self.fields, "")

    def _section(self, fields: Sequence[Field], prefix: str) -> list[Viewable]:
        """Return the rows of some settings: first what is plain, then each nested one under its heading."""
        shown: list[Viewable] = []
        nested = [field for field in fields if field.type == "settings"]
        for field in fields:
            if field not in nested:
                name = prefix + field.name
                self._built[name] = row = _Row(name, field, self)
                shown.append(row.view)
        for field in nested:
            shown.append(self._group(field, prefix + field.name))
        return shown

    def _group(self, field: Field, name: str) -> Viewable:
        title = element("h3", field.label or field.name) + element("p", field.doc, {"class": "soft"})
        inner = pn.Column(sizing_mode="stretch_width", styles=_INDENT)
        head: list[Any] = [html(Markup(title))]
        if field.optional:
            unset = name in self._values
            switch = pmui.Switch(label=f"set {field.label or field.name}", value=not unset)
            switch.param.watch(lambda event: self._toggle(field, name, bool(event.new)), "value")
            head.append(switch)
            if unset:
                return pn.Column(*head, sizing_mode="stretch_width")
        inner.objects = self._section(field.fields, f"{name}.")
        return pn.Column(*head, inner, sizing_mode="stretch_width")

    def _toggle(self, field: Field, name: str, on: bool) -> None:
        self._values = {k: v for k, v in self._values.items() if k != name and not k.startswith(f"{name}.")}
        if on:
            self._values |= dict(_flat(field.fields, codec.fill(field.fields, {}), f"{name}."))
        else:
            self._values[name] = None
        self.errors = {k: v for k, v in self.errors.items() if not k.startswith(f"{name}.")}
        self._build()
        self._settle()

    def changed(self, dotted: str, value: Any, sentence: str) -> None:
        """Take what a control says: a value, or what is wrong with it."""
        others = {name: text for name, text in self.errors.items() if name != dotted}
        if sentence:
            self.errors = {**others, dotted: sentence}
        else:
            self._values[dotted] = value
            self.errors = others
        self._settle()

    def value(self, dotted: str) -> Any:
        """Return a setting's value, as JSON."""
        return self._values.get(dotted)

    def source(self, dotted: str) -> tuple[str, str]:
        """Return where a value comes from, and where exactly."""
        if dotted in self.errors or not same(self._values.get(dotted), codec.get_path(self._base.values, dotted)):
            return HERE, ""
        found = self._base.provenance.get(dotted, {})
        return found.get("source", "default"), found.get("where", "")

    def _settle(self) -> None:
        """Bring what is given and what each row says up to date."""
        base = dict(_flat(self.fields, self._base.values))
        given: dict[str, Any] = {}
        for name, value in self._values.items():
            if name not in base or not same(value, base[name]):
                codec.set_path(given, name, value)
        for row in self._built.values():
            row.tell()
        self.given = given


class _Row:
    """One setting: its control, what it is for, where its value comes from, and the way back."""

    def __init__(self, dotted: str, field: Field, form: SettingsForm) -> None:
        self.dotted, self.field, self._form = dotted, field, form
        self.control: Control = control(dotted, field, form.value(dotted), form.changed)
        self._said = pn.pane.HTML("", stylesheets=[markup.style()], sizing_mode="stretch_width", margin=(10, 0, 0, 0))
        self._reset: Any = None
        chooser = _chooser(self.control, form.data_root)
        self.view = pn.Row(
            _together(self.control, *([] if chooser is None else [chooser])),
            *([] if chooser is None else [chooser.button]),
            self._said,
            sizing_mode="stretch_width",
            css_classes=["setting"],
        )
        self.tell()

    def tell(self) -> None:
        """Say what the setting is for, what it may hold and where its value comes from."""
        source, where = self._form.source(self.dotted)
        field, here = self.field, source == HERE
        lines = [element("div", field.doc)] if field.doc else []
        lines.append(element("div", f"Allowed: {codec.allowed(field)}", {"class": "soft small"}))
        state = {"class": "small", "data-source": source, "data-setting": self.dotted}
        shown = markup.chip("running" if here else "queued", source) if source != "default" else element("span", source)
        told: list[object] = [markup.code(self.dotted), " ", shown]
        if where:
            told.append(element("span", f" {where}", {"class": "soft wrap"}))
        if source != "default":
            told.append(element("span", f" · default: {_default(field)}", {"class": "soft"}))
        lines.append(element("div", markup.join(told), {**state, "class": "small soft"}))
        text = str(markup.join(lines))
        if self._said.object != text:
            self._said.object = text
        if here and self._reset is None:
            self._reset = pmui.IconButton(
                icon="undo", size="small", description=f"reset {field.name}", margin=(8, 0, 0, 0)
            )
            self._reset.on_click(lambda event: self._form.reset(self.dotted))
            self.view.append(self._reset)
        if self._reset is not None:
            self._reset.visible = here


def _chooser(made: Control, data_root: Path | None) -> Chooser | None:
    """Return what chooses a path on the server's machine: files where the server works, inputs in their data set."""
    field, text = made.field, made.widgets[0]
    folders_only = field.constraints.get("kind") == "folder"
    if field.type == "path":
        roots = list(dict.fromkeys([Path.cwd(), Path.home()]))
        return Chooser(roots, lambda path: setattr(text, "value", str(path)), folders_only=folders_only)
    if field.type == "input" and data_root is not None and data_root.is_dir():
        root = data_root

        def choose(path: Path) -> None:
            text.value = path.relative_to(root).as_posix()

        return Chooser([root], choose, folders_only=folders_only)
    return None


def _together(made: Control, *below: Viewer) -> Viewable:
    """Return the widgets of a control: a calendar or colour beside the text, a slider and what else there is below."""
    first, *more = made.widgets
    beside = [
        widget for widget in more if isinstance(widget, pmui.DatePicker | pmui.DateRangePicker | pmui.ColorPicker)
    ]
    sliders = [widget for widget in more if widget not in beside]
    top = pn.Row(first, *beside, sizing_mode="stretch_width") if beside else first
    return pn.Column(top, *sliders, *below, min_width=260, max_width=420, sizing_mode="stretch_width")


def html(content: Markup, style: str = "") -> pn.pane.HTML:
    """Return markup as a pane, drawn with the style of all pages and some of its own."""
    return pn.pane.HTML(str(content), stylesheets=[markup.style() + style], sizing_mode="stretch_width")


_INDENT = {"border-left": "2px solid var(--mui-palette-divider, #ddd)", "padding-left": "12px"}


def _default(field: Field) -> str:
    return codec.format_text(field, field.default) or "empty"


def _flat(fields: Sequence[Field], values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """List every value by dotted name; a nested setting that is None is one value."""
    found: list[tuple[str, Any]] = []
    for field in fields:
        value = values.get(field.name)
        if field.type == "settings" and value is not None:
            found += _flat(field.fields, value, f"{prefix}{field.name}.")
        else:
            found.append((prefix + field.name, value))
    return found


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in values.items():
        codec.set_path(made, name, value)
    return made


def _put(fields: Sequence[Field], values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Put values over others; of nested settings only what is named."""
    for field in fields:
        if field.name not in more:
            continue
        value = more[field.name]
        if field.type == "settings" and value is not None:
            inner = values.get(field.name)
            values[field.name] = inner if isinstance(inner, dict) else codec.fill(field.fields, {})
            _put(field.fields, values[field.name], value)
        else:
            values[field.name] = value
