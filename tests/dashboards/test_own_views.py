"""Views that an app ships: found by kind, kept apart from the rest when they fail, not run before it is trusted."""

from __future__ import annotations

import io
from pathlib import Path

import holoviews as hv
import pyarrow as pa
import pytest
from agilab_dashboards import notebook, views
from pyarrow import parquet

from agilab import AgiEnv, archive, trust
from agilab.errors import ViewError
from agilab.run import Run
from tests import canary
from tests.dashboards.own_views import GAUGE, weather, weather_run
from tests.run_folder import RunFolder


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run of an app outside of the repository, which is found here."""
    weather(tmp_path / "apps")
    monkeypatch.setenv("AGILAB_APPS", str(tmp_path / "apps"))
    AgiEnv().prepare()
    return weather_run(home)


def test_an_own_view_comes_first_for_its_kind_and_for_no_other(run: Run) -> None:
    known = views.catalogue(AgiEnv(), run)
    assert known.problems == []
    assert known.names[:2] == ("weather.gauge", "weather.leaky")
    sources = {source.key: source for source in known.shown(run)}
    assert known.fitting(sources["tracks/gauge"])[0] == "weather.gauge"
    assert "weather.gauge" not in known.fitting(sources["tracks/plain"])
    shown = notebook.view(run, controls={"factor": 2})
    assert (shown.kind, shown.view.artifact) == ("weather.gauge", "tracks/gauge")
    assert shown.png.startswith(b"\x89PNG")
    assert list(shown.plot.dimension_values("level")) == [2.0, 6.0, 4.0]
    assert hv.render(shown.plot + shown.plot) is not None


def test_settings_files_give_views_their_controls_and_what_is_wrong_there_is_said(run: Run, home: Path) -> None:
    env = AgiEnv("weather")
    app, mine = env.project.settings_file, env.home.app_settings("weather")
    app.write_text('[views."weather.gauge"]\nfactor = 2\n\n[views.timeseries]\nvalue = "no_such_column"\n')
    mine.parent.mkdir(parents=True)
    mine.write_text('[views."weather.gauge"]\nfactor = 3\n')
    known = views.catalogue(AgiEnv(), run)
    assert known.problems == []
    source = next(source for source in known.shown(run) if source.key == "tracks/gauge")
    _, resolved = known.controls("weather.gauge", source)
    assert (resolved.values["factor"], resolved.provenance["factor"]["source"]) == (3, "workspace file")
    assert notebook.view(run).view.factor == 3
    assert notebook.view(run, controls={"factor": 4}).view.factor == 4

    mine.write_text('[views."weather.gauge"]\nfactor = "much"\n\n[views.ponts]\ncolour = "x"\n')
    known = views.catalogue(AgiEnv(), run)
    assert known.problems == [
        f"setting 'factor' is 'much'; allowed: a number >= 0 and <= 10 ({mine}:2)",
        f"unknown view 'ponts'; did you mean 'points'? ({mine}:4)",
    ]
    assert known.controls("weather.gauge", source)[1].values["factor"] == 2


def test_a_view_that_raises_says_where_and_one_that_cannot_be_imported_leaves_the_others(
    run: Run, tmp_path: Path
) -> None:
    leaky = notebook.view(run, "weather.leaky")
    for way in ("png", "plot"):
        with pytest.raises(
            ViewError, match=r"weather.leaky raised ZeroDivisionError: division by zero \(__init__.py, line 30\)"
        ):
            getattr(leaky, way)
    package = tmp_path / "apps" / "weather_project" / "src" / "weather_views" / "__init__.py"
    package.write_text("import no_such_drawing\n" + GAUGE)
    known = views.catalogue(AgiEnv(), run)
    assert "ModuleNotFoundError: No module named 'no_such_drawing' (__init__.py, line 1); install" in known.problems[0]
    assert [known.fitting(source)[0] for source in known.shown(run)] == ["table", "table"]
    fails = "    @classmethod\n    def fits(cls, source):\n        return 1 / 0\n\n    def draw"
    package.write_text(GAUGE.replace("    def draw", fails, 1))
    known = views.catalogue(AgiEnv(), run)
    assert known.fitting(known.shown(run)[0]) == ("weather.leaky", "weather.odd", "table")
    assert "view weather.gauge raised ZeroDivisionError" in known.problems[0]


def test_an_app_of_that_name_that_is_another_one_has_no_say(run: Run, tmp_path: Path) -> None:
    pyproject = tmp_path / "apps" / "weather_project" / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('uuid = "0d', 'uuid = "1d'))
    assert views.catalogue(AgiEnv(), run).own == {}


def test_views_of_an_imported_app_do_not_run_before_it_is_trusted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, apps, song = tmp_path / "canary.zip", tmp_path / "apps", tmp_path / "song"
    file.write_bytes(canary.zipped(canary.files(song)))
    apps.mkdir()
    monkeypatch.setenv("AGILAB_APPS", str(apps))
    AgiEnv().prepare()
    project = archive.import_zip(file, apps, home=AgiEnv().home).project
    run = weather_run(home, "canary", uuid=canary.UUID)
    known = views.catalogue(AgiEnv(), run)
    assert "canary was imported and is not trusted" in known.problems[0]
    assert known.shown(run)
    assert not song.exists()
    trust.trust(project.root, AgiEnv().home, seen=trust.digest_of(project.root))
    assert views.catalogue(AgiEnv(), run).problems == []
    assert song.exists()


def test_the_shipped_app_shows_how_many_aircraft_are_in_the_air(home: Path) -> None:
    AgiEnv().prepare()
    moments = [f"2013-01-0{day}T{hour:02}:00" for day, hour in ((1, 0), (1, 23), (1, 23), (2, 1))]
    hours = pa.array(moments).cast(pa.timestamp("ms"))
    table = pa.table({"hour": hours, "samples": pa.array([60, 30, 30, 120], pa.int32())})
    out = io.BytesIO()
    parquet.write_table(table, out)
    uuid = AgiEnv("flight_telemetry").project.uuid
    made = RunFolder(home, app="flight_telemetry", partitions=1, uuid=uuid)
    made.commit("tracks", "p0", files={"traffic": out.getvalue()}, kinds={"traffic": "flight_telemetry.traffic"})
    shown = notebook.view(Run(made.paths))
    assert (shown.kind, views.catalogue(AgiEnv(), shown.run).problems) == ("flight_telemetry.clock", [])
    aloft = shown.plot.dimension_values("aloft", flat=False)
    assert aloft.shape == (24, 2)
    assert [aloft[0, 0], aloft[23, 0], aloft[1, 1], aloft.sum()] == [1.0, 1.0, 2.0, 4.0]
    assert hv.render(shown.plot) is not None
    assert shown.png.startswith(b"\x89PNG")
