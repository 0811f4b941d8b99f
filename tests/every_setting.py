"""A settings class with every type of setting, and reading the one line of an error."""

from __future__ import annotations

import datetime as dt
from typing import Any

import param
import pytest

from agilab.errors import SettingError
from agilab.settings import Input, Secret, Settings, Workers

UTC = dt.UTC


class Model(Settings):
    depth = param.Integer(3, bounds=(1, 9), doc="Layers")
    rate = param.Number(0.1, bounds=(0, None), inclusive_bounds=(False, True), doc="Learning rate [1/step]")
    token = Secret(None, doc="Where the token is")


class Everything(Settings):
    """One setting of every type, some of them twice."""

    integer = param.Integer(3)
    bounded = param.Integer(3, bounds=(0, 10), softbounds=(1, 5), step=1, doc="Count [1]")
    number = param.Number(1.5, doc="A number [s]")
    maybe = param.Number(None, allow_None=True)
    part = param.Magnitude(0.5)
    text = param.String("a")
    word = param.String("abc", regex="[a-z]+$")
    note = param.String(None, allow_None=True)
    switch = param.Boolean(True)
    unsure = param.Boolean(None, allow_None=True)
    choice = param.Selector(default="a", objects=["a", "b", 1, 2.5, True, None])
    named = param.Selector(objects={"small": 1, "large": 100})
    open_choice = param.Selector(default="x", objects=["x"], check_on_set=False)
    choices = param.ListSelector(default=["a"], objects=["a", "b", 1, "1", "a,b"])
    day = param.CalendarDate(dt.date(2013, 1, 1))
    moment = param.Date(dt.datetime(2013, 1, 1, tzinfo=UTC))
    days = param.CalendarDateRange((dt.date(2013, 1, 1), dt.date(2013, 1, 31)))
    moments = param.DateRange((dt.datetime(2013, 1, 1), dt.datetime(2013, 1, 31)))
    span = param.Range((0.0, 1.0))
    pair = param.Tuple(("a", 1))
    point = param.NumericTuple((1.0, 2.0))
    corner = param.XYCoordinates((0.0, 0.0))
    anything = param.List([1, "a", None])
    words = param.List(["a"], item_type=str)
    counts = param.List([1], item_type=int)
    steps = param.List([0.5], item_type=float)
    holidays = param.List([], item_type=dt.date)
    mixed = param.List([1, "a"], item_type=(int, float, str))
    options = param.Dict({"a": [1, {"b": None}]})
    optional_options = param.Dict(None, allow_None=True)
    path = param.Path(None, allow_None=True)
    file = param.Filename("there/is/none.csv", check_exists=False)
    folder = param.Foldername(None, allow_None=True)
    color = param.Color("#1f77b4")
    secret = Secret("env:TOKEN")
    tracks = Input("tracks/*.csv", doc="Tracks")
    workers = Workers(2, doc="Where to")
    model = param.ClassSelector(class_=Model, default=Model(depth=5), doc="The model")
    other_model = param.ClassSelector(class_=Model, default=None, allow_None=True)


FIELDS = {field.name: field for field in Everything.fields()}


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SettingError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text
