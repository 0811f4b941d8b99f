"""An app with views of its own, written by the test that needs it, and a run of it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from agilab.project import Project, read
from agilab.run import Run
from agilab.template import create
from tests.run_folder import UUID, RunFolder

KIND = """
[tool.agilab.kinds."weather.gauge"]
doc = "Height of water by hour"
comparison = "table"
columns = { hour = "h", level = "m" }
"""
GAUGE = '''"""Views of weather."""

import holoviews as hv
import param

from agilab_dashboards.views.base import View

from .shapes import curve


class Gauge(View):
    """Height of water by hour."""

    factor = param.Number(1.0, bounds=(0, 10), doc="What levels are multiplied with.")

    kinds = ("weather.gauge",)

    def draw(self, source, frame):
        rows = source.slice(0, 1000, ["hour", "level"]).to_pandas()
        rows["level"] *= self.factor
        return curve(hv, rows)


class Leaky(View):
    """Fails."""

    kinds = ("weather.gauge",)

    def draw(self, source, frame):
        return 1 / 0


class Odd(View):
    """Fails when Bokeh draws it."""

    kinds = ("weather.gauge",)

    def draw(self, source, frame):
        return hv.Curve([1, 2]).opts(yticks=range(3), backend="bokeh")
'''
SHAPES = '''"""What views share."""


def curve(hv, rows):
    """Return a line."""
    return hv.Curve(rows, "hour", "level")
'''


def weather(folder: Path, *, views: str = GAUGE) -> Project:
    """Return the project of an app that has views."""
    folder.mkdir(exist_ok=True)
    root = create("weather", folder).root
    pyproject = root / "pyproject.toml"
    pyproject.write_text(re.sub(r'uuid = ".*"', f'uuid = "{UUID}"', pyproject.read_text()) + KIND)
    package = root / "src" / "weather_views"
    package.mkdir()
    (package / "__init__.py").write_text(views)
    (package / "shapes.py").write_text(SHAPES)
    return read(root)


def weather_run(home: Path, app: str = "weather", *, uuid: str = UUID) -> Run:
    """Return a run of it, with a table of its kind and a plain one."""
    out = io.BytesIO()
    parquet.write_table(pa.table({"hour": [0.0, 1.0, 2.0], "level": [1.0, 3.0, 2.0]}), out)
    made = RunFolder(home, app=app, partitions=1, uuid=uuid)
    files = {"gauge": out.getvalue(), "plain": out.getvalue()}
    made.commit("tracks", "p0", files=files, kinds={"gauge": "weather.gauge", "plain": "table"})
    made.plan()
    made.prepare()
    made.commit("summary", "summary", files={"note": b"said\n"})
    return Run(made.seal())
